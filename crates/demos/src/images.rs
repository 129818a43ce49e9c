//! The lesson's last question: a thousand images to be resized. All of its answers, and ours, in
//! one table.

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
use longshore_core::{ChildLimits, Executor, LaneKind, Pipeline, Stage as PipelineStage};

use crate::stage::{Settings, Shown, Stage};

const WIDE: u32 = 640;
const HIGH: u32 = 480;

/// Rounds in which the ways take turns, so that a busy moment of the machine hits all of them.
const ROUNDS: usize = 4;
/// Share of the machine's CPU time that others have, above which it counts as busy.
const BUSY: f64 = 0.1;
/// Time for which others are watched before anything runs.
const LOOK: Duration = Duration::from_millis(400);
/// The nice value of the cpu lane's threads.
const NICE: i32 = 10;
/// A way may be slower by this factor than the fastest, and be as good.
const SAME: f64 = 1.05;

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
    took: Duration,
}

fn compare(settings: &Settings, before: f64, alike: bool) -> Result<Shown> {
    let count = settings.items((1000.0 * settings.scale).ceil() as usize);
    let dir = tempdir()?;
    let from = dir.0.join("from");
    fs::create_dir_all(&from)?;
    let pool = Executor::builder().workers(LaneKind::Cpu, settings.workers(LaneKind::Cpu.default_workers())).build();
    let (target, seed) = (from.clone(), settings.seed);
    let made = pool.cpu().try_map(0..count, move |nth| make(&target, nth, seed)).results()?;

    let mut bottleneck = None;
    let mut ways = contenders(&pool, &dir.0, &mut bottleneck)?;
    let during = Moment::now();
    take_turns(&mut ways, &made)?;
    let others = before.max(during.others());
    let mut stage = Stage::new(format!("{count} images of {WIDE}×{HIGH}, JPEG and PNG in turn, to half their size"));
    for way in &ways {
        check(&way.to, count)?;
        stage.took(&way.name, way.took);
    }
    let took: Vec<(String, Duration)> = ways.iter().map(|way| (way.name.trim().to_owned(), way.took)).collect();
    drop(ways);
    if let Some(neck) = bottleneck {
        stage.fact(format!("D's bottleneck: {neck}"));
    }
    stage.fact(format!(
        "the ways took turns in {ROUNDS} rounds{}; others had {:.0} % of the machine before it, {:.0} % at most",
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
    stage.fact(format!("advise, from {} measured resizes: {place}, {workers} at once, {}", measured.runs, advice.speed_up));
    if let Some(reason) = advice.reasons.first() {
        stage.fact(format!("because {reason}"));
    }
    Ok(stage.why(why(&took, others)))
}

/// Returns the ways; the last one says where it was held up.
fn contenders<'a>(pool: &'a Executor, dir: &Path, bottleneck: &'a mut Option<String>) -> Result<Vec<Contender<'a>>> {
    let mut ways = Vec::new();
    let mut way = |name: &str, work: Box<dyn FnMut(Vec<PathBuf>, PathBuf) -> Result<()> + 'a>| -> Result<()> {
        let to = dir.join(format!("way-{}", ways.len()));
        fs::create_dir_all(&to)?;
        ways.push(Contender { name: name.to_owned(), to, work, took: Duration::ZERO });
        Ok(())
    };
    let alone = |from: Vec<PathBuf>, to: PathBuf| from.iter().try_for_each(|path| resize(path, &to)).map_err(anyhow::Error::msg);
    way("A  one after another", Box::new(alone))?;
    let threads = LaneKind::Blocking.default_workers();
    let blocking =
        |from, to: PathBuf| pool.blocking().try_map(from, move |path: PathBuf| resize(&path, &to)).results().map(drop).map_err(Into::into);
    way(&format!("B  blocking lane, {threads} threads"), Box::new(blocking))?;
    let cpu = |from, to: PathBuf| pool.cpu().try_map(from, move |path: PathBuf| resize(&path, &to)).results().map(drop).map_err(Into::into);
    way("   cpu lane, a thread a core", Box::new(cpu))?;
    let in_child = pool.isolated(resize_in_child, ChildLimits::default());
    let processes = move |from: Vec<PathBuf>, to: PathBuf| {
        let pairs: Vec<_> = from.into_iter().map(|path| (path, to.clone())).collect();
        in_child.map(pairs).results().map(drop).map_err(Into::into)
    };
    way("C  process lane, a child a core", Box::new(processes))?;
    way("D  pipeline: read → decode, resize, encode → write", Box::new(move |from, to| pipeline(from, to, bottleneck)))?;
    Ok(ways)
}

fn pipeline(from: Vec<PathBuf>, to: PathBuf, bottleneck: &mut Option<String>) -> Result<()> {
    let read = PipelineStage::blocking(|path: PathBuf| fs::read(&path).map(|bytes| (path, bytes))).name("read");
    let shrink = PipelineStage::cpu(|(path, bytes): (PathBuf, Vec<u8>)| Ok::<_, String>((encode(&path, &bytes)?, path)));
    let shrink = shrink.name("resize").workers(LaneKind::Cpu.default_workers());
    let write =
        PipelineStage::blocking(move |(bytes, path): (Vec<u8>, PathBuf)| fs::write(to.join(path.file_name().unwrap_or_default()), bytes));
    let report = Pipeline::from_iter(from).stage(read).stage(shrink).stage(write.name("write")).run();
    ensure!(report.is_clean(), "the pipeline: {report}");
    *bottleneck = report.bottleneck.as_ref().map(|neck| neck.reason.to_string());
    Ok(())
}

/// Has all ways do a part of the images each round, another one first each time.
fn take_turns(ways: &mut [Contender<'_>], made: &[PathBuf]) -> Result<()> {
    for round in 0..ROUNDS {
        let part: Vec<PathBuf> = made.iter().skip(round).step_by(ROUNDS).cloned().collect();
        for place in 0..ways.len() {
            let at = (place + round) % ways.len();
            let way = &mut ways[at];
            let (part, to, began) = (part.clone(), way.to.clone(), Instant::now());
            (way.work)(part, to)?;
            way.took += began.elapsed();
        }
    }
    Ok(())
}

/// Says what follows from the times; the first way is one after another.
fn why(took: &[(String, Duration)], others: f64) -> String {
    let Some((best, least)) = took.iter().min_by_key(|(_, took)| *took) else { return String::new() };
    let cpu = took.iter().find(|(name, _)| name.starts_with("cpu lane"));
    let good = cpu.is_some_and(|(_, cpu)| cpu.as_secs_f64() <= least.as_secs_f64() * SAME);
    let alone = took.first().is_some_and(|(_, alone)| alone.as_secs_f64() <= least.as_secs_f64() * SAME);
    let others = others * 100.0;
    if alone {
        return format!("one after another was as fast as any: here is one core for it (others had {others:.0} % of the machine)");
    }
    if good {
        return "resizing computes, so cores decide, and no way was faster than a thread for each. The lesson answers with processes, which Python needs \
                to use two cores; threads here share memory and no lock, so they need not start, nor send anything"
            .to_owned();
    }
    if others > BUSY * 100.0 {
        return format!(
            "resizing computes, so cores decide, but others had {others:.0} % of them: {best} was fastest, as who has more threads or more nerve gets \
             more turns. On a machine of its own a thread a core does the same with fewer"
        );
    }
    format!("resizing computes, so cores decide; {best} was fastest here, by more than luck")
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
    fn the_reason_follows_from_the_times() {
        let ms = Duration::from_millis;
        for (alone, blocking, cpu, others, want) in [
            (100, 52, 50, 0.0, "no way was faster than a thread for each"),
            (100, 50, 52, 0.0, "no way was faster than a thread for each"),
            (100, 50, 80, 0.6, "others had 60 % of them: B  blocking was fastest"),
            (100, 50, 80, 0.0, "B  blocking was fastest here"),
            (100, 101, 100, 0.5, "one after another was as fast as any"),
        ] {
            let took = [("A  alone", alone), ("B  blocking", blocking), ("cpu lane, a thread a core", cpu)];
            let said = why(&took.map(|(name, took)| (name.to_owned(), ms(took))), others);
            assert!(said.contains(want), "{alone} {blocking} {cpu} {others}: {said}");
        }
    }

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
            took: Duration::ZERO,
        };
        take_turns(&mut [way("a"), way("b")], &vec![PathBuf::new(); 10]).unwrap();
        assert_eq!(*order.borrow(), "a3 b3 b3 a3 a2 b2 b2 a2 ");
    }
}
