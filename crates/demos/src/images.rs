//! The lesson's last question: a thousand images to be resized. All of its answers, and ours, in
//! one table; `choice.rs` says which one the times speak for.

mod choice;

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use image::{ImageReader, RgbImage, imageops};
use longshore_advise::{Measure, measure::Moment};
use longshore_core::{ChildLimits, Executor, LaneKind, Pipeline, Stage as PipelineStage, lane::cpu::NICE};

use crate::stage::{Settings, Shown, Stage};
use choice::{Taken, choose, why};

const WIDE: u32 = 640;
const HIGH: u32 = 480;

/// Rounds in which the ways take turns, so that a busy moment of the machine hits all of them.
const ROUNDS: usize = 8;
/// Share of the machine's CPU time that others have, above which it counts as busy.
const BUSY: f64 = 0.1;
/// Time for which others are watched before anything runs.
const LOOK: Duration = Duration::from_millis(400);

/// Makes images, and resizes them: one after another, on threads, on the cpu lane, in processes, in
/// a pipeline.
pub(crate) fn images(settings: &Settings) -> Result<Shown> {
    let moment = Moment::now();
    thread::sleep(LOOK);
    let before = moment.others();
    // The cpu lane is nice to other programs. Beside them all ways have to be, or it loses for its
    // manners: what a thread of this nice value starts inherits it.
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            let alike = longshore_sys::priority::set_thread_nice(NICE).is_ok();
            compare(settings, before, alike)
        });
        work.join().map_err(|_| anyhow::anyhow!("the demo panicked"))?
    })
}

/// One way of resizing all images of a list into a directory.
struct Contender<'a> {
    name: String,
    to: PathBuf,
    work: Box<dyn FnMut(Vec<PathBuf>, PathBuf) -> Result<()> + 'a>,
    /// What its turns took.
    rounds: Vec<Duration>,
}

fn compare(settings: &Settings, before: f64, alike: bool) -> Result<Shown> {
    let count = settings.items((1000.0 * settings.scale).ceil() as usize);
    let dir = tempdir()?;
    let from = dir.0.join("from");
    fs::create_dir_all(&from)?;
    let workers = settings.workers(LaneKind::Cpu.default_workers());
    let pool = Executor::builder().workers(LaneKind::Cpu, workers).workers(LaneKind::Blocking, workers).workers(LaneKind::Process, workers);
    let pool = pool.build();
    let (target, seed) = (from.clone(), settings.seed);
    let made = pool.cpu().try_map(0..count, move |nth| make(&target, nth, seed)).results()?;

    let mut bottleneck = None;
    let mut ways = contenders(&pool, workers, &dir.0, &mut bottleneck)?;
    let others = before.max(take_turns(&mut ways, &made)?);
    let mut stage = Stage::new(format!("{count} images of {WIDE}×{HIGH}, JPEG and PNG in turn, to half their size"));
    for way in &ways {
        check(&way.to, count)?;
    }
    let taken: Vec<Taken> = ways.into_iter().map(|way| Taken { name: way.name, rounds: way.rounds }).collect();
    for way in &taken {
        stage.took(&way.name, way.whole());
    }
    if let Some(neck) = bottleneck {
        stage.fact(format!("D's bottleneck: {neck}"));
    }
    stage.fact(format!(
        "times are {} × the median round: the ways took turns{}; others had {:.0} % of the machine before, {:.0} % at most",
        taken[0].rounds.len(),
        if alike { ", all of them as nice as the cpu lane" } else { "" },
        before * 100.0,
        others * 100.0
    ));
    let to = dir.0.join("sample");
    fs::create_dir_all(&to)?;
    let sample: Vec<_> = made.iter().take(64).cloned().collect();
    let measure = Measure::of(sample).count(count as u64).budget(Duration::from_millis(1_500));
    let measured = measure.expect(|result: &Result<(), String>| result.is_ok()).run(move |path| resize(&path, &to))?;
    let advice = &measured.advice;
    let (place, workers) = (advice.place, advice.workers);
    let reckoned = if others > BUSY { ", reckoned for a machine without others" } else { "" };
    stage.fact(format!("advise, from {} measured resizes{reckoned}: {place}, {workers} at once, {}", measured.runs, advice.speed_up));
    for reason in advice.reasons.iter().take(2) {
        stage.fact(format!("because {reason}"));
    }
    let choice = choose(&taken);
    stage.fact(format!("to be taken here: {}", choice.told(&taken)));
    Ok(stage.why(why(&taken, &choice, measured.measured.item.share(), others)))
}

/// Returns the ways; the last one says where it was held up.
fn contenders<'a>(pool: &'a Executor, workers: usize, dir: &Path, bottleneck: &'a mut Option<String>) -> Result<Vec<Contender<'a>>> {
    let mut ways = Vec::new();
    let mut way = |name: &str, work: Box<dyn FnMut(Vec<PathBuf>, PathBuf) -> Result<()> + 'a>| -> Result<()> {
        let to = dir.join(format!("way-{}", ways.len()));
        fs::create_dir_all(&to)?;
        ways.push(Contender { name: name.to_owned(), to, work, rounds: Vec::new() });
        Ok(())
    };
    let alone = |from: Vec<PathBuf>, to: PathBuf| from.iter().try_for_each(|path| resize(path, &to)).map_err(anyhow::Error::msg);
    way("A  one after another", Box::new(alone))?;
    // As many at once everywhere: beside others who has more threads gets more turns, and that is
    // no virtue of a lane.
    let blocking =
        |from, to: PathBuf| pool.blocking().try_map(from, move |path: PathBuf| resize(&path, &to)).results().map(drop).map_err(Into::into);
    way(&format!("B  blocking lane, {workers} threads"), Box::new(blocking))?;
    let cpu = |from, to: PathBuf| pool.cpu().try_map(from, move |path: PathBuf| resize(&path, &to)).results().map(drop).map_err(Into::into);
    way(&format!("   cpu lane, {workers} threads"), Box::new(cpu))?;
    let in_child = pool.isolated(resize_in_child, ChildLimits::default());
    let processes = move |from: Vec<PathBuf>, to: PathBuf| {
        let pairs: Vec<_> = from.into_iter().map(|path| (path, to.clone())).collect();
        in_child.map(pairs).results().map(drop).map_err(Into::into)
    };
    way(&format!("C  process lane, {workers} children"), Box::new(processes))?;
    way("D  pipeline: read → decode, resize, encode → write", Box::new(move |from, to| pipeline(from, to, workers, bottleneck)))?;
    Ok(ways)
}

fn pipeline(from: Vec<PathBuf>, to: PathBuf, workers: usize, bottleneck: &mut Option<String>) -> Result<()> {
    let read = PipelineStage::blocking(|path: PathBuf| fs::read(&path).map(|bytes| (path, bytes))).name("read");
    let shrink = PipelineStage::cpu(|(path, bytes): (PathBuf, Vec<u8>)| Ok::<_, String>((encode(&path, &bytes)?, path)));
    let shrink = shrink.name("resize").workers(workers);
    let write =
        PipelineStage::blocking(move |(bytes, path): (Vec<u8>, PathBuf)| fs::write(to.join(path.file_name().unwrap_or_default()), bytes));
    let report = Pipeline::from_iter(from).stage(read).stage(shrink).stage(write.name("write")).run();
    ensure!(report.is_clean(), "the pipeline: {report}");
    *bottleneck = report.bottleneck.as_ref().map(|neck| neck.reason.to_string());
    Ok(())
}

/// Has all ways do a part of the images each round, another one first each time. Returns the share
/// of the machine that others had while the first way ran, which starts no child.
fn take_turns(ways: &mut [Contender<'_>], made: &[PathBuf]) -> Result<f64> {
    let (rounds, mut others) = (ROUNDS.min(made.len()), Vec::new());
    for round in 0..rounds {
        let part: Vec<PathBuf> = made.iter().skip(round).step_by(rounds).cloned().collect();
        for place in 0..ways.len() {
            let at = (place + round) % ways.len();
            let way = &mut ways[at];
            let (part, to, moment, began) = (part.clone(), way.to.clone(), Moment::now(), Instant::now());
            (way.work)(part, to)?;
            way.rounds.push(began.elapsed());
            if at == 0 {
                others.push(moment.others());
            }
        }
    }
    Ok(others.iter().sum::<f64>() / others.len().max(1) as f64)
}

/// A directory that goes with the demo.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> Result<TempDir> {
    let path = std::env::temp_dir().join(format!("longshore-images-{}-{:08x}", std::process::id(), fastrand::u32(..)));
    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(TempDir(path))
}

/// A picture with something in it: waves and grain, so that neither format has an easy time.
fn make(dir: &Path, nth: usize, seed: u64) -> Result<PathBuf, String> {
    let mut grain = fastrand::Rng::with_seed(seed.wrapping_add(nth as u64));
    let (phase, stretch) = (grain.f32() * 6.0, 20.0 + grain.f32() * 60.0);
    let image = RgbImage::from_fn(WIDE, HIGH, |x, y| {
        let wave = ((x as f32 / stretch + phase).sin() * (y as f32 / stretch).cos() * 100.0 + 128.0) as u8;
        image::Rgb([wave, (x ^ y) as u8, wave.wrapping_add(grain.u8(0..16))])
    });
    let path = dir.join(format!("{nth:05}.{}", if nth.is_multiple_of(2) { "jpg" } else { "png" }));
    image.save(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Reads, halves and writes one image; the error is for people.
pub(crate) fn resize(path: &Path, to: &Path) -> Result<(), String> {
    halve(path, to).map_err(|error| format!("{}: {error:#}", path.display()))
}

/// The same in a child process.
pub(crate) fn resize_in_child((path, to): (PathBuf, PathBuf)) -> Result<(), String> {
    resize(&path, &to)
}

/// Decodes, halves and encodes again, in memory.
fn encode(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let work = || -> Result<Vec<u8>> {
        let format = image::ImageFormat::from_path(path)?;
        let image = image::load_from_memory_with_format(bytes, format)?;
        let small = imageops::resize(&image.to_rgb8(), WIDE / 2, HIGH / 2, imageops::FilterType::Triangle);
        let mut out = Cursor::new(Vec::new());
        small.write_to(&mut out, format)?;
        Ok(out.into_inner())
    };
    work().map_err(|error| format!("{}: {error:#}", path.display()))
}

fn halve(path: &Path, to: &Path) -> Result<()> {
    let image = ImageReader::open(path)?.decode()?;
    let small = imageops::resize(&image.to_rgb8(), WIDE / 2, HIGH / 2, imageops::FilterType::Triangle);
    let name = path.file_name().context("an image without a name")?;
    small.save(to.join(name))?;
    Ok(())
}

/// All of them are there, and of the right size.
fn check(dir: &Path, count: usize) -> Result<()> {
    let mut seen = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        ensure!(image::image_dimensions(&path)? == (WIDE / 2, HIGH / 2), "{} has another size", path.display());
        seen += 1;
    }
    ensure!(seen == count, "{seen} of {count} images were resized");
    fs::remove_dir_all(dir)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_each_turn_once_and_all_images() {
        let order = std::cell::RefCell::new(String::new());
        let way = |name: &'static str| Contender {
            name: name.to_owned(),
            to: PathBuf::new(),
            work: Box::new({
                let order = &order;
                move |part, _| {
                    order.borrow_mut().push_str(&format!("{name}{} ", part.len()));
                    Ok(())
                }
            }),
            rounds: Vec::new(),
        };
        take_turns(&mut [way("a"), way("b")], &vec![PathBuf::new(); 2 * ROUNDS + 1]).unwrap();
        assert_eq!(order.borrow().trim_end(), ["a3 b3 b2 a2", &["a2 b2 b2 a2"; ROUNDS / 2 - 1].join(" ")].join(" "));
        order.borrow_mut().clear();
        take_turns(&mut [way("a"), way("b")], &[PathBuf::new()]).unwrap();
        assert_eq!(*order.borrow(), "a1 b1 ");
    }
}
