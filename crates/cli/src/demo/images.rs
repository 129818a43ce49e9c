//! The lesson's last question: a thousand images to be resized. All of its answers, and ours, in one table.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use image::{ImageReader, RgbImage, imageops};
use longshore_core::{Executor, Isolation, LaneKind};

use super::{Settings, Shown, Stage};

const WIDE: u32 = 640;
const HIGH: u32 = 480;

/// Makes images, and resizes them: one after another, on threads, on the cpu lane, in processes, in a pipeline.
pub(super) fn images(settings: &Settings) -> Result<Shown> {
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
    let resize = pool.isolated(resize_in_child, Isolation::default());
    stage.way("C  process lane, a child a core", || Ok(resize.map(pairs).results()?.len()))?;
    check(&to, count)?;
    Ok(stage.why("resizing computes, so cores decide; threads share memory and no lock, which spares what processes pay for starting and for sending"))
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
pub(super) fn resize(path: &Path, to: &Path) -> Result<(), String> {
    halve(path, to).map_err(|error| format!("{}: {error:#}", path.display()))
}

/// The same in a child process.
pub(super) fn resize_in_child((path, to): (PathBuf, PathBuf)) -> Result<(), String> {
    resize(&path, &to)
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
