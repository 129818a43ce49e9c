//! The lesson's last question: a thousand images to be resized. All of its answers, and ours, in
//! one table.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use image::{ImageReader, RgbImage, imageops};
use longshore_advise::Measure;
use longshore_core::{ChildLimits, Executor, LaneKind, Pipeline, Stage as PipelineStage};

use crate::stage::{Settings, Shown, Stage};

const WIDE: u32 = 640;
const HIGH: u32 = 480;

/// Makes images, and resizes them: one after another, on threads, on the cpu lane, in processes, in
/// a pipeline.
pub(crate) fn images(settings: &Settings) -> Result<Shown> {
    let count = settings.items((1000.0 * settings.scale).ceil() as usize);
    let dir = tempdir()?;
    let from = dir.0.join("from");
    fs::create_dir_all(&from)?;
    let pool = Executor::builder().workers(LaneKind::Cpu, settings.workers(LaneKind::Cpu.default_workers())).build();
    let (target, seed) = (from.clone(), settings.seed);
    let made = pool.cpu().try_map(0..count, move |nth| make(&target, nth, seed)).results()?;

    let mut stage = Stage::new(format!("{count} images of {WIDE}×{HIGH}, JPEG and PNG in turn, to half their size"));
    let out = |name: &str| -> Result<PathBuf> {
        let to = dir.0.join(name);
        fs::create_dir_all(&to)?;
        Ok(to)
    };
    let to = out("sequential")?;
    stage.way("A  one after another", || made.iter().try_for_each(|path| resize(path, &to)).map_err(anyhow::Error::msg))?;
    check(&to, count)?;
    let to = out("blocking")?;
    let target = to.clone();
    let workers = LaneKind::Blocking.default_workers();
    stage.way(format!("B  blocking lane, {workers} threads"), || {
        Ok(pool.blocking().try_map(made.clone(), move |path| resize(&path, &target)).results()?)
    })?;
    check(&to, count)?;
    let to = out("cpu")?;
    let target = to.clone();
    stage.way("   cpu lane, a thread a core", || Ok(pool.cpu().try_map(made.clone(), move |path| resize(&path, &target)).results()?))?;
    check(&to, count)?;
    let to = out("processes")?;
    let pairs: Vec<_> = made.iter().map(|path| (path.clone(), to.clone())).collect();
    let in_child = pool.isolated(resize_in_child, ChildLimits::default());
    stage.way("C  process lane, a child a core", || Ok(in_child.map(pairs).results()?.len()))?;
    check(&to, count)?;
    let to = out("pipeline")?;
    let target = to.clone();
    let cores = LaneKind::Cpu.default_workers();
    let report = stage.way("D  pipeline: read → decode, resize, encode → write", || {
        let read = PipelineStage::blocking(|path: PathBuf| fs::read(&path).map(|bytes| (path, bytes))).name("read");
        let shrink = PipelineStage::cpu(|(path, bytes): (PathBuf, Vec<u8>)| Ok::<_, String>((encode(&path, &bytes)?, path)));
        let shrink = shrink.name("resize").workers(cores);
        let write = PipelineStage::blocking(move |(bytes, path): (Vec<u8>, PathBuf)| {
            fs::write(target.join(path.file_name().unwrap_or_default()), bytes)
        });
        Ok(Pipeline::from_iter(made.clone()).stage(read).stage(shrink).stage(write.name("write")).run())
    })?;
    ensure!(report.is_clean(), "the pipeline: {report}");
    check(&to, count)?;
    if let Some(neck) = &report.bottleneck {
        stage.fact(format!("D's bottleneck: {}", neck.reason));
    }
    let to = out("sample")?;
    let sample: Vec<_> = made.iter().take(64).cloned().collect();
    let measure = Measure::of(sample).count(count as u64).budget(Duration::from_millis(1_500));
    let measured = measure.expect(|result: &Result<(), String>| result.is_ok()).run(move |path| resize(&path, &to))?;
    let advice = &measured.advice;
    let (place, workers) = (advice.place, advice.workers);
    stage.fact(format!("advise, from {} measured resizes: {place}, {workers} at once, {}", measured.runs, advice.speed_up));
    if let Some(reason) = advice.reasons.first() {
        stage.fact(format!("because {reason}"));
    }
    Ok(stage.why(
        "resizing computes, so cores decide. The lesson answers with processes, which Python needs to use two cores; threads here share memory and no lock, \
         so they need not start, nor send anything",
    ))
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
