//! A scenario's settings, its ways as they are measured, and how they are shown.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

/// Settings of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Workers, instead of the scenario's own number.
    pub(crate) workers: Option<usize>,
    /// Items, instead of the scenario's own number.
    pub(crate) items: Option<usize>,
    /// The seed of what is random.
    pub(crate) seed: u64,
    /// Factor of every duration and amount.
    pub(crate) scale: f64,
}

impl Settings {
    pub(crate) fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale)
    }

    pub(crate) fn workers(&self, default: usize) -> usize {
        self.workers.unwrap_or(default).max(1)
    }

    pub(crate) fn items(&self, default: usize) -> usize {
        self.items.unwrap_or(default).max(1)
    }

    /// Returns an amount of computing, which goes with the scale, too.
    pub(crate) fn amount(&self, default: u64) -> u64 {
        ((default as f64 * self.scale) as u64).max(1)
    }
}

/// One way of doing a scenario's work, measured.
#[derive(Debug, Serialize)]
pub(crate) struct Way {
    /// Its name.
    pub(crate) name: String,
    /// Time that it took, in seconds.
    pub(crate) seconds: f64,
    /// Speed in multiples of the first way's of its group.
    pub(crate) speed_up: f64,
    /// Number of its comparison, from 0: a scenario may have several, each with a first way of
    /// its own.
    pub(crate) group: usize,
    /// Most seconds by which a timer beside it was late, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timer_late: Option<f64>,
    /// Number of items whose time was measured, where not all of them were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) measured_items: Option<usize>,
}

/// A scenario, measured.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// The scenario's name.
    pub(crate) scenario: &'static str,
    /// One line about its work.
    pub(crate) title: String,
    /// The ways; the first one of a group is what the others are compared with.
    pub(crate) ways: Vec<Way>,
    /// Advice that follows from the measurements, by number of items.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) verdicts: BTreeMap<usize, &'static str>,
    /// Lines about whatever else was measured.
    pub(crate) facts: Vec<String>,
    /// One line of why.
    pub(crate) why: String,
}

/// Collects the ways of a scenario.
pub(crate) struct Stage {
    shown: Shown,
    group: usize,
}

impl Stage {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        let shown =
            Shown { scenario: "", title: title.into(), ways: Vec::new(), verdicts: BTreeMap::new(), facts: Vec::new(), why: String::new() };
        Self { shown, group: 0 }
    }

    /// Begins a comparison: its first way is the next one.
    pub(crate) fn another_comparison(&mut self) {
        self.group += 1;
    }

    /// Runs and measures one way.
    pub(crate) fn way<O>(&mut self, name: impl Into<String>, work: impl FnOnce() -> Result<O>) -> Result<O> {
        let began = Instant::now();
        let output = work()?;
        self.took(name, began.elapsed());
        Ok(output)
    }

    /// Notes a way whose time is known.
    pub(crate) fn took(&mut self, name: impl Into<String>, took: Duration) {
        let seconds = took.as_secs_f64();
        let first = self.shown.ways.iter().find(|way| way.group == self.group).map_or(seconds, |way| way.seconds);
        let speed_up = if seconds > 0.0 { first / seconds } else { 1.0 };
        self.shown.ways.push(Way { name: name.into(), seconds, speed_up, group: self.group, timer_late: None, measured_items: None });
    }

    /// Notes a way whose time is known, and how late a timer beside it was.
    pub(crate) fn took_beside(&mut self, name: impl Into<String>, took: Duration, late: Duration) {
        self.took(name, took);
        if let Some(way) = self.shown.ways.last_mut() {
            way.timer_late = Some(late.as_secs_f64());
        }
    }

    /// Notes the time that a way would have taken, known from `part` of its items.
    pub(crate) fn would_take(&mut self, name: impl Into<String>, took: Duration, part: usize) {
        self.took(name, took);
        if let Some(way) = self.shown.ways.last_mut() {
            way.measured_items = Some(part);
        }
    }

    pub(crate) fn verdict(&mut self, items: usize, verdict: &'static str) {
        self.shown.verdicts.insert(items, verdict);
    }

    pub(crate) fn fact(&mut self, fact: impl Into<String>) {
        self.shown.facts.push(fact.into());
    }

    pub(crate) fn why(mut self, why: impl Into<String>) -> Shown {
        self.shown.why = why.into();
        self.shown
    }

    /// Returns the speed of the last way in multiples of the first way's of its group.
    pub(crate) fn last_speed_up(&self) -> f64 {
        self.shown.ways.last().map_or(1.0, |way| way.speed_up)
    }
}

/// Prints a scenario for people: its ways below each other, what was measured besides, and why.
pub(crate) fn print(shown: &Shown, out: &mut dyn Write) -> std::io::Result<()> {
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
