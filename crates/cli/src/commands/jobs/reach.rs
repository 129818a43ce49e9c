//! `longshore jobs watch|set|pause|resume|cancel`: a run of another process, seen and steered.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use clap::Args;
use longshore_run::{RunView, Steering, jobs::StateDir, socket::Reached};

use crate::{
    commands::run::notes,
    exit::Exit,
    fault::Fault,
    flags::ViewArgs,
    global::Global,
    progress::{Mode, Progress, plain},
    runtime::block_on,
    units,
};

/// Changes of a run that goes on.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct SetArgs {
    /// Most tasks running at once
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Starts per time: 100/s, 500/min, 10/h, or none
    #[arg(short = 'r', long, value_name = "RATE", value_parser = rate)]
    rate: Option<NewRate>,
}

/// A rate, or none at all.
#[derive(Clone, Copy, Debug, PartialEq)]
struct NewRate(Option<units::Rate>);

fn rate(text: &str) -> Result<NewRate, String> {
    if text == "none" { Ok(NewRate(None)) } else { units::rate(text).map(|rate| NewRate(Some(rate))) }
}

impl SetArgs {
    /// Returns what the run is told.
    pub fn steering(&self) -> Vec<Steering> {
        let most = self.concurrency.map(|most| Steering::Concurrency { most: usize::try_from(most).unwrap_or(usize::MAX) });
        let rate = self.rate.map(|NewRate(rate)| Steering::Rate {
            count: rate.map(|rate| rate.count),
            per: rate.map_or(1.0, |rate| rate.per.as_secs_f64()),
        });
        most.into_iter().chain(rate).collect()
    }
}

/// Tells a run something, and says what it looks like then.
///
/// # Errors
/// It does not run, or cannot be reached.
pub fn tell(state: &StateDir, job: &str, what: &[Steering], global: &Global) -> Result<Exit, Fault> {
    block_on(async {
        let mut run = Reached::find(state, Some(job)).await?;
        for steering in what {
            run.steer(steering.clone()).await?;
        }
        let view = run.view().await?;
        let mut out = std::io::stdout();
        if let Some(view) = view {
            show(&view, global, &mut out)?;
        }
        out.flush()?;
        Ok(Exit::Done)
    })
}

/// Shows a run until it is over.
///
/// # Errors
/// It does not run, or it was killed.
pub fn watch(state: &StateDir, job: Option<&str>, once: bool, args: &ViewArgs, global: &Global) -> Result<Exit, Fault> {
    block_on(async {
        let mut run = Reached::find(state, job).await?;
        let mut out = std::io::stdout();
        if once {
            if let Some(view) = run.view().await? {
                show(&view, global, &mut out)?;
            }
            out.flush()?;
            return Ok(Exit::Done);
        }
        run.watch().await?;
        let mut screen = Screen::new(args, global);
        while let Some(view) = run.next().await? {
            screen.show(view, &mut out)?;
        }
        screen.finish(&mut out)?;
        Ok(Exit::Done)
    })
}

/// Shows one moment: a line of JSON, or a line of words with what runs below.
fn show(view: &RunView, global: &Global, out: &mut impl Write) -> Result<(), Fault> {
    if global.json {
        return Ok(writeln!(out, "{}", serde_json::to_string(view).unwrap_or_default())?);
    }
    writeln!(out, "{}", words(view))?;
    if !view.running.is_empty() {
        notes::running(view).iter().skip(1).try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
}

/// Returns a line about one moment, with what can be set.
fn words(view: &RunView) -> String {
    let pace = view.pace.as_ref().map_or(String::new(), |pace| format!(" pace={pace}"));
    format!("{} concurrency={}{pace}", plain::line(view), view.concurrency)
}

/// Place where a run that is watched is shown.
enum Screen {
    /// On the terminal, in place.
    Bar(Box<Progress>, RunView),
    /// On stdout, a line now and then.
    Lines { json: bool, every: std::time::Duration, next: Option<Instant>, last: Option<RunView> },
}

impl Screen {
    fn new(args: &ViewArgs, global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        match args.progress {
            Mode::Auto if !terminal || global.json => {}
            Mode::Auto | Mode::Bar => {
                let progress = Progress::new(Mode::Bar, global.color, args.every, global.voice());
                return Self::Bar(Box::new(progress), RunView::default());
            }
            _ => {}
        }
        Self::Lines { json: global.json || args.progress == Mode::Json, every: args.every, next: None, last: None }
    }

    fn show(&mut self, view: RunView, out: &mut impl Write) -> Result<(), Fault> {
        match self {
            Self::Bar(progress, last) => {
                progress.update(&view, Instant::now());
                *last = view;
            }
            Self::Lines { json, every, next, last } => {
                let now = Instant::now();
                if next.is_none_or(|next| now >= next) {
                    *next = Some(now + *every);
                    line(&view, *json, out)?;
                    *last = None;
                } else {
                    *last = Some(view);
                }
            }
        }
        Ok(())
    }

    /// Ends with the last moment that was seen.
    fn finish(self, out: &mut impl Write) -> Result<(), Fault> {
        match self {
            Self::Bar(progress, last) => {
                progress.finish(&last);
                writeln!(out, "{}", plain::line(&last))?;
            }
            Self::Lines { json, last: Some(last), .. } => line(&last, json, out)?,
            Self::Lines { .. } => {}
        }
        Ok(())
    }
}

fn line(view: &RunView, json: bool, out: &mut impl Write) -> Result<(), Fault> {
    let line = if json { serde_json::to_string(view).unwrap_or_default() } else { words(view) };
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
