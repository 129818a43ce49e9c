//! A run on a terminal: progress drawn, keys and signals heard, and its report said.

use std::{
    convert::Infallible,
    io::IsTerminal,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use longshore_run::{Listener, Plan, Report, Run, RunError, RunErrorKind, RunHandle, RunView, Surroundings, page::page as page_of};
use longshore_sys::files;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{args::RunArgs, finish, notes, page::RunPage};
use crate::{
    exit::Exit,
    fault::Fault,
    global::Global,
    keys::KeyPresses,
    progress::{self, Progress, Summary, Voice},
    signals::{Signals, hear},
    units,
};

/// Longest time by which a signal may come later to us than to what it has ended.
const SIGNAL_WAIT: Duration = Duration::from_millis(50);

/// Longest time for which the end of a run waits for answers of its page to be read.
const PAGE_WAIT: Duration = Duration::from_millis(200);

/// Progress, which is drawn by one and moved out of the way by others.
pub(super) type Shown = Arc<Mutex<Option<Progress>>>;

/// Runs a plan to its end on the current runtime. Returns the exit code.
///
/// # Errors
/// Exit code and sentence, when it cannot even start.
pub(super) async fn drive(plan: Plan, args: &RunArgs, global: &Global) -> Result<Exit, Fault> {
    if let Some(path) = &args.report {
        // Who waits for hours for a page must not hear at the end that it cannot be written.
        files::can_replace_output(path).map_err(|error| unwritable("--report", path, &error))?;
    }
    let (color, voice) = (global.color, global.voice());
    // Before there is a job: an address that is taken is a mistake in what was asked.
    let shown: Shown = Arc::default();
    let page = RunPage::open(args, voice, &shown).await?;
    let mode = voice.progress(args.view.progress).resolve(std::io::stderr().is_terminal());
    let bar = mode == progress::Mode::Bar;
    *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Progress::new(args.view.progress, color, args.view.every, voice));
    // Before anything starts, so that no signal finds a run that does not hear it.
    let mut signals = Signals::listen();
    let shows_results = plan.shows_results();
    let running = match Run::start_in(plan, around(&shown, voice, bar && shows_results)).await {
        Ok(running) => running,
        // A signal to everything ends the guardian before it is one: that is no mistake of
        // anybody's.
        Err(error) => match tokio::time::timeout(SIGNAL_WAIT, signals.next()).await {
            Ok(signal) => return Ok(Exit::of_signal(signal)),
            Err(_) => return Err(error.into()),
        },
    };
    let page = page.map(|page| page.serve(running.handle(), &running.view().name, voice, &shown));
    let usr1 = signals.usr1.take();
    // On its own: a signal that is passed on late would explain no end of a command.
    let passing = tokio::spawn(pass_on(running.handle(), signals));
    let watcher = Watcher { handle: running.handle(), shown: shown.clone(), paused: false };
    let keys = bar && !global.no_input;
    let report = tokio::select! {
        biased;
        report = running.join() => report,
        never = watcher.watch(usr1, keys) => match never {},
    };
    passing.abort();
    if let Some(page) = page {
        // Whoever reads slowly holds up nobody's run.
        let _ = tokio::time::timeout(PAGE_WAIT, page.stop()).await;
    }
    let said = say(&report, args, global, &shown);
    finish::tell(&report, args, voice).await;
    said?;
    Ok(Exit::of(report.exit_code))
}

/// Returns who hears of the run, and how it shares the terminal with the progress.
fn around(shown: &Shown, voice: Voice, shares: bool) -> Surroundings {
    let mut around = Surroundings::default();
    let progress = shown.clone();
    around.listener = Some(Listener {
        tasks: voice.tasks(),
        hear: Box::new(move |event| notes::tell(event, voice, progress.lock().unwrap_or_else(PoisonError::into_inner).as_ref())),
    });
    let progress = shown.clone();
    around.stderr = Some(Arc::new(move |bytes| {
        if let Some(progress) = &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
            progress.suspend(|| {
                let _ = std::io::copy(bytes, &mut std::io::stderr());
            });
        }
    }));
    // Results and a bar on one terminal would overwrite each other.
    if shares && std::io::stdout().is_terminal() {
        let progress = shown.clone();
        around.around = Some(Box::new(move |write| match &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(progress) => progress.suspend(write),
            None => write(),
        }));
    }
    around
}

/// Passes on the signals that ask for an end, as soon as they come.
async fn pass_on(handle: RunHandle, mut signals: Signals) -> Infallible {
    loop {
        tokio::select! {
            Some(()) = hear(&mut signals.int) => handle.interrupt(),
            Some(()) = hear(&mut signals.term) => handle.terminate(15),
            Some(()) = hear(&mut signals.hup) => handle.terminate(1),
            else => std::future::pending().await,
        }
    }
}

/// Draws progress, and passes keys on.
struct Watcher {
    handle: RunHandle,
    shown: Shown,
    paused: bool,
}

impl Watcher {
    async fn watch(mut self, mut usr1: Option<Signal>, keys: bool) -> Infallible {
        let (press, mut pressed) = mpsc::unbounded_channel();
        let mut reading: Option<KeyPresses> = None;
        let mut stop = signal(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw())).ok();
        let mut views = self.handle.clone();
        loop {
            tokio::select! {
                biased;
                Some(()) = hear(&mut usr1) => self.list_running().await,
                Some(()) = hear(&mut stop) => {
                    // The shell finds its terminal as it was.
                    let had_keys = reading.take().map(KeyPresses::close).is_some();
                    self.stand_still().await;
                    reading = if had_keys { KeyPresses::start(press.clone()) } else { None };
                }
                Some(key) = pressed.recv() => self.key(key).await,
                changed = views.changed() => match changed {
                    true => {
                        self.draw(&views.view());
                        // What was typed before that is meant for nobody here.
                        if keys && reading.is_none() {
                            reading = KeyPresses::start(press.clone());
                        }
                    }
                    false => std::future::pending().await,
                },
            }
        }
    }

    /// Ctrl-Z: what runs is in groups of its own, which the terminal does not reach.
    async fn stand_still(&self) {
        self.handle.stand_still(longshore_sys::child::stop_self).await;
    }

    fn draw(&self, view: &RunView) {
        if let Some(progress) = &mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner) {
            progress.update(view, Instant::now());
        }
    }

    async fn key(&mut self, key: char) {
        match key {
            's' => self.list_running().await,
            'p' => {
                self.paused = !self.paused;
                if self.paused { self.handle.pause() } else { self.handle.resume() }
            }
            '+' | '-' => {
                // Asked now, so that two keys one behind the other make two steps.
                let Some(view) = self.handle.look().await else { return };
                let step = (view.concurrency / 10).max(1);
                self.handle.set_concurrency(match key {
                    '+' => view.concurrency + step,
                    _ => view.concurrency.saturating_sub(step).max(1),
                });
            }
            'q' => self.handle.interrupt(),
            _ => {}
        }
    }

    async fn list_running(&self) {
        let Some(view) = self.handle.look().await else { return };
        if let Some(progress) = &*self.shown.lock().unwrap_or_else(PoisonError::into_inner) {
            notes::running(&view).iter().for_each(|line| progress.note(line));
        }
    }
}

/// Says what the run came to.
fn say(report: &Report, args: &RunArgs, global: &Global, shown: &Shown) -> Result<(), RunError> {
    let (color, voice) = (global.color, global.voice());
    if let Some(progress) = shown.lock().unwrap_or_else(PoisonError::into_inner).take() {
        progress.finish(&report.last_view());
    }
    for word in &report.words {
        eprintln!("{}", voice.error(word));
    }
    if report.nothing_left {
        let line = format!(" {}: nothing left to do, all {} tasks are finished", report.name, units::show_count(report.finished()));
        voice.note(&line).into_iter().for_each(|line| eprintln!("{line}"));
    }
    if Exit::of(report.exit_code) != Exit::ReaderGone {
        match args.summary.as_str() {
            "text" => eprint!("{}", with_newline(Summary(report).text(color.on_stderr()))),
            "json" => eprintln!("{}", report.json()),
            _ => {}
        }
    }
    if let Some(path) = &args.summary_file {
        files::write_output(path, format!("{}\n", report.json()).as_bytes()).map_err(|error| unwritable("--summary-file", path, &error))?;
    }
    if let Some(path) = &args.report {
        files::replace_output(path, page_of(report).as_bytes()).map_err(|error| unwritable("--report", path, &error))?;
    }
    Ok(())
}

fn unwritable(flag: &str, path: &Path, error: &std::io::Error) -> RunError {
    RunError::new(RunErrorKind::Unwritable, format!("{flag} {}: {}", path.display(), files::cause(error)))
}

fn with_newline(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
