//! `longshore demo`: the scenarios that people learn concurrency from, each run several ways and measured.
//!
//! A scenario is a function in a table (`SCENARIOS`): `demo/waits.rs` has those that wait, `demo/computing.rs` those that compute, `demo/queues.rs`
//! those with a queue between, `demo/images.rs` the images. Every way does the same work and must come to the same results; nothing here is staged.

mod computing;
mod images;
mod queues;
mod server;
mod waits;

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

/// What a demo is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Workers, instead of the scenario's own number.
    pub workers: Option<usize>,
    /// Items, instead of the scenario's own number.
    pub items: Option<usize>,
    /// The seed of what is random.
    pub seed: u64,
    /// What every duration is multiplied with.
    pub scale: f64,
}

impl Settings {
    fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale)
    }

    fn workers(&self, default: usize) -> usize {
        self.workers.unwrap_or(default).max(1)
    }

    fn items(&self, default: usize) -> usize {
        self.items.unwrap_or(default).max(1)
    }

    /// An amount of computing, which goes with the scale too.
    fn amount(&self, default: u64) -> u64 {
        ((default as f64 * self.scale) as u64).max(1)
    }
}

/// One way of doing a scenario's work, measured.
#[derive(Debug, Serialize)]
pub struct Way {
    /// What it is.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How many times faster than the first way of its group.
    pub speed_up: f64,
    /// Which comparison it belongs to, from 0: a scenario may have several, each with a first way of its own.
    pub group: usize,
    /// By how many seconds, at most, a timer beside it was late, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer_late: Option<f64>,
    /// Of how many items the time was measured, where it was done for a part of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_items: Option<usize>,
}

/// What came of a scenario.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What it does.
    pub title: String,
    /// The ways; the first one of a group is what the others are compared with.
    pub ways: Vec<Way>,
    /// What the measurements advise, by number of items.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<usize, &'static str>,
    /// What else was measured.
    pub facts: Vec<String>,
    /// One line of why.
    pub why: String,
}

/// Collects the ways of a scenario.
struct Stage {
    shown: Shown,
    group: usize,
}

impl Stage {
    fn new(title: impl Into<String>) -> Self {
        let shown =
            Shown { scenario: "", title: title.into(), ways: Vec::new(), verdicts: BTreeMap::new(), facts: Vec::new(), why: String::new() };
        Self { shown, group: 0 }
    }

    /// What comes now is compared with the way that comes next.
    fn another_comparison(&mut self) {
        self.group += 1;
    }

    /// Runs and measures one way.
    fn way<O>(&mut self, name: impl Into<String>, work: impl FnOnce() -> Result<O>) -> Result<O> {
        let began = Instant::now();
        let output = work()?;
        self.took(name, began.elapsed());
        Ok(output)
    }

    /// Notes a way whose time is known.
    fn took(&mut self, name: impl Into<String>, took: Duration) {
        let seconds = took.as_secs_f64();
        let first = self.shown.ways.iter().find(|way| way.group == self.group).map_or(seconds, |way| way.seconds);
        let speed_up = if seconds > 0.0 { first / seconds } else { 1.0 };
        self.shown.ways.push(Way { name: name.into(), seconds, speed_up, group: self.group, timer_late: None, measured_items: None });
    }

    /// Notes a way whose time is known, and how late a timer beside it was.
    fn took_beside(&mut self, name: impl Into<String>, took: Duration, late: Duration) {
        self.took(name, took);
        if let Some(way) = self.shown.ways.last_mut() {
            way.timer_late = Some(late.as_secs_f64());
        }
    }

    /// Notes the time that a way would have taken, known from `part` of its items.
    fn would_take(&mut self, name: impl Into<String>, took: Duration, part: usize) {
        self.took(name, took);
        if let Some(way) = self.shown.ways.last_mut() {
            way.measured_items = Some(part);
        }
    }

    fn verdict(&mut self, items: usize, verdict: &'static str) {
        self.shown.verdicts.insert(items, verdict);
    }

    fn fact(&mut self, fact: impl Into<String>) {
        self.shown.facts.push(fact.into());
    }

    fn why(mut self, why: impl Into<String>) -> Shown {
        self.shown.why = why.into();
        self.shown
    }

    /// How many times faster than the first way of its group the last one was.
    fn last_speed_up(&self) -> f64 {
        self.shown.ways.last().map_or(1.0, |way| way.speed_up)
    }
}

/// The functions that demos run in child processes.
pub fn functions() -> longshore_core::Functions {
    longshore_core::Functions::new().with(images::resize_in_child)
}

type Run = fn(&Settings) -> Result<Shown>;

/// All scenarios, in the order of the lesson, and how much of their time `demo all` takes.
pub const SCENARIOS: [(&str, Run, f64); 14] = [
    ("options", waits::options, 0.3),
    ("io-vs-cpu", computing::io_vs_cpu, 0.5),
    ("urls", waits::urls, 0.2),
    ("files", waits::files, 0.3),
    ("services", waits::services, 0.5),
    ("heavy", computing::heavy, 0.5),
    ("chunks", computing::chunks, 1.0),
    ("tiny", computing::tiny, 0.3),
    ("producer-consumer", queues::producer_consumer, 0.3),
    ("workers", queues::workers, 0.3),
    ("pipeline", queues::pipeline, 0.3),
    ("mixed", queues::mixed, 0.5),
    ("leaky-bucket", queues::leaky_bucket, 0.5),
    ("images", images::images, 0.1),
];

/// Runs the scenario of this name, or all of them scaled down.
///
/// # Errors
/// An unknown name (with those that there are), a way whose results are not right, output that cannot be written.
pub fn run(name: &str, settings: &Settings, json: bool, out: &mut dyn Write) -> Result<()> {
    let chosen: Vec<_> = SCENARIOS.iter().filter(|(known, ..)| name == "all" || *known == name).collect();
    let names = || SCENARIOS.map(|(known, ..)| known).join(", ");
    ensure!(!chosen.is_empty(), "there is no demo `{name}`; there are: all, {}", names());
    let began = Instant::now();
    for (known, run, share) in &chosen {
        let mut own = settings.clone();
        if name == "all" {
            own.scale *= share;
        }
        let mut shown = run(&own)?;
        shown.scenario = known;
        if json {
            writeln!(out, "{}", serde_json::to_string(&shown)?)?;
        } else {
            print(&shown, out)?;
        }
        out.flush()?;
    }
    if name == "all" && !json {
        writeln!(
            out,
            "{} scenarios in {:.1} s, scaled down; one of them at its full size: longshore demo NAME",
            chosen.len(),
            began.elapsed().as_secs_f64()
        )?;
    }
    Ok(())
}

fn print(shown: &Shown, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}: {}", shown.scenario, shown.title)?;
    let wide = shown.ways.iter().map(|way| way.name.chars().count()).max().unwrap_or(0);
    let mut group = None;
    for way in &shown.ways {
        let first = group.replace(way.group) != Some(way.group);
        let speed = match way.speed_up {
            _ if first => String::new(),
            slow if slow < 0.95 => format!("  ×{slow:.2}"),
            speed => format!("  ×{speed:.1}"),
        };
        let late = way.timer_late.map(|late| format!("   a timer beside it was late by {} at most", seconds(late))).unwrap_or_default();
        let part = way.measured_items.map(|part| format!(" (from {part} of them)")).unwrap_or_default();
        writeln!(out, "  {:<wide$}  {:>9}{speed}{part}{late}", way.name, seconds(way.seconds))?;
    }
    for (items, verdict) in &shown.verdicts {
        writeln!(out, "  verdict for {items}: {verdict}")?;
    }
    for fact in &shown.facts {
        writeln!(out, "  {fact}")?;
    }
    writeln!(out, "  why: {}\n", shown.why)
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
