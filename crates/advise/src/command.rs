//! The same for a command: it is run as a child process, alone and then several at once.
//!
//! The command really runs, as often as [`CommandMeasurement`] says.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use longshore_core::{
    LaneKind,
    lane::child::{self, Children, Command, Limits, Output},
};
use longshore_sys::clock::process_cpu_time;

use crate::{
    MeasureError, Measurement,
    decide::{Item, Kind, Measured, Memory, decide},
    measure::{
        cores,
        ladder::{Ladder, Ran},
        memory,
    },
};

/// Starts of a program that does nothing, to know what starting takes.
const SPAWNS: usize = 10;
/// Time for which somebody else has the CPU when it was taken away.
const TURN: Duration = Duration::from_millis(4);
/// Most characters that are told of what a failed command said.
const TAIL: usize = 300;

/// Commands to be measured, and how.
#[derive(Clone, Debug)]
pub struct CommandSample {
    /// The command; run again and again as it is.
    pub command: Command,
    /// Number of runs alone.
    pub samples: usize,
    /// Time that everything may take; what has begun is not cut off.
    pub budget: Duration,
    /// The most at once that may be tried.
    pub most: usize,
    /// Number of commands that the job will have; `None` for many.
    pub count: Option<u64>,
}

/// Resources that a command was seen to use, and the advice.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandMeasurement {
    /// The measurement, and the advice.
    pub measurement: Measurement,
    /// Number of runs alone; these are what the item's numbers are means of, but for the first.
    pub alone: u64,
    /// The most memory that one held, in bytes. Linux counts in what the starting process held, so
    /// that less than `least_rss` cannot be told.
    pub max_rss: u64,
    /// The same of a program that does nothing; 0 where there is no `true`.
    pub least_rss: u64,
    /// CPU time that this process took to start, watch and reap one.
    pub ours: Duration,
    /// CPU time of starting a program that does nothing, its own and ours; `None` where there is no
    /// `true`.
    pub spawn: Option<Duration>,
}

struct Seen {
    wall: Duration,
    cpu: Duration,
    ours: Duration,
    rss: u64,
    switches: (u64, u64),
}

impl CommandSample {
    /// Runs the command alone, then 1, 2, 4, … at once until that brings nothing, the time is up or
    /// `most` run.
    ///
    /// # Errors
    /// The command cannot be started, or fails.
    /// ```
    /// use std::time::Duration;
    /// use longshore_advise::command::CommandSample;
    /// use longshore_core::lane::child::{Children, Command};
    ///
    /// let command = Command { program: "sleep".into(), args: vec!["0.02".into()], ..Command::default() };
    /// let sample = CommandSample { command, samples: 3, budget: Duration::from_millis(500), most: 8, count: None };
    /// let measured = sample.measure(&Children::new().unwrap()).unwrap();
    /// assert!(measured.measurement.advice.workers > 1);
    /// ```
    pub fn measure(&self, children: &Children) -> Result<CommandMeasurement, MeasureError> {
        let began = Instant::now();
        let mut runs = 0;
        let mut seen = Vec::new();
        // The other half of the time is for commands at once.
        while seen.len() < self.samples.max(1) && (seen.is_empty() || began.elapsed() < self.budget / 2) {
            seen.push(self.alone(&self.command, seen.len(), children)?);
            runs += 1;
        }
        let alone = seen.len() as u64;
        // The first finds cold caches.
        if seen.len() > 1 {
            seen.remove(0);
        }
        // A program that does nothing tells what starting alone takes.
        let nothing = Command { program: "true".into(), ..Command::default() };
        let nothings: Vec<Seen> = (0..SPAWNS).map_while(|_| self.alone(&nothing, 0, children).ok()).collect();
        let spawns: Vec<Duration> = nothings.iter().map(|seen| seen.cpu + seen.ours).collect();
        let least_rss = nothings.iter().map(|seen| seen.rss).max().unwrap_or(0);
        let spawn = (!spawns.is_empty()).then(|| mean(&spawns));
        let means = |of: fn(&Seen) -> Duration| mean(&seen.iter().map(of).collect::<Vec<_>>());
        let count = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>() as f64 / seen.len() as f64;
        let (ours, max_rss) = (means(|seen| seen.ours), seen.iter().map(|seen| seen.rss).max().unwrap_or(0));
        let mut walls: Vec<f64> = seen.iter().map(|seen| seen.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        let at = |share: f64| walls[((walls.len() - 1) as f64 * share) as usize];
        // Starting and ending gives up the CPU a few times, whatever runs, and more often on a busy
        // machine: the least is what starting takes.
        let usual = nothings.iter().map(|seen| seen.switches.0).min().unwrap_or(0) as f64;
        let (wall, cpu) = (means(|seen| seen.wall), means(|seen| seen.cpu + seen.ours));
        let idle = wall.saturating_sub(cpu);
        let queued = kept_waiting(idle, count(|seen| seen.switches.0) - usual, count(|seen| seen.switches.1));
        let item = Item {
            wall,
            // What starting it takes of us is on the same cores.
            cpu,
            queued,
            spread: (at(0.75) - at(0.25)) / 2.0 / at(0.5).max(1e-9),
            voluntary: count(|seen| seen.switches.0),
            forced: count(|seen| seen.switches.1),
            timed: seen.len() as u64,
        };
        let mut measured = Measured {
            kind: Kind::Command,
            cores: cores(),
            count: self.count,
            most: self.most,
            payload: 0,
            item,
            memory: memory::free().map(|free| Memory { growth: if max_rss > least_rss { max_rss } else { 0 }, free }),
            overheads: Vec::new(),
            sequential: Vec::new(),
            runs: Vec::new(),
            // Its own children would count as others.
            others: 0.0,
        };
        let ladder = Ladder { now: &Instant::now, sample: self.most, until: began + self.budget };
        ladder.climb(&mut measured, &mut |_, workers, _, items| {
            runs += items as u64;
            self.together(workers, items, children)
        })?;
        let advice = decide(&measured);
        let measurement = Measurement { measured, advice, took: began.elapsed(), runs };
        Ok(CommandMeasurement { measurement, alone, max_rss, least_rss, ours, spawn })
    }

    fn alone(&self, command: &Command, nth: usize, children: &Children) -> Result<Seen, MeasureError> {
        let own = process_cpu_time();
        let output = run(command, 0, nth, children)?;
        Ok(Seen {
            wall: output.wall,
            cpu: output.usage.cpu(),
            ours: process_cpu_time().saturating_sub(own),
            rss: output.usage.max_rss_bytes,
            switches: (output.usage.voluntary_switches, output.usage.forced_switches),
        })
    }

    /// Runs a number of items, some of them at once.
    fn together(&self, workers: usize, items: usize, children: &Children) -> Result<Ran, MeasureError> {
        let (next, walls, failed) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items)), Mutex::new(None));
        let lock_failed = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        thread::scope(|scope| {
            for slot in 0..workers.min(items) {
                let (next, walls, lock_failed) = (&next, &walls, &lock_failed);
                let work = move || {
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        if nth >= items || lock_failed().is_some() {
                            return;
                        }
                        match run(&self.command, slot as u32, nth, children) {
                            Ok(output) => walls.lock().unwrap_or_else(PoisonError::into_inner).push(output.wall),
                            Err(error) => *lock_failed() = Some(error),
                        }
                    }
                };
                if let Err(error) = thread::Builder::new().name(format!("{}-{slot}", LaneKind::Process)).spawn_scoped(scope, work) {
                    *lock_failed() = Some(MeasureError::System(format!("no thread for {workers} at once: {error}")));
                }
            }
        });
        let wall = began.elapsed();
        if let Some(error) = lock_failed().take() {
            return Err(match error {
                MeasureError::Command(text) => MeasureError::Command(format!("{workers} at once: {text}")),
                other => other,
            });
        }
        let mut walls = walls.into_inner().unwrap_or_else(PoisonError::into_inner);
        walls.sort_unstable();
        let p99 = walls.get((walls.len().max(1) - 1) * 99 / 100).copied().unwrap_or_default();
        Ok(Ran { wall, p99 })
    }
}

fn run(command: &Command, slot: u32, nth: usize, children: &Children) -> Result<Output, MeasureError> {
    let program = command.program.to_string_lossy();
    let output = child::run(command, &Limits::default(), slot, children)
        .map_err(|error| MeasureError::Command(format!("cannot start `{program}`: {}", error.message())))?;
    if output.exit.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim_end();
    let from = said.char_indices().rev().nth(TAIL - 1).map_or(0, |(at, _)| at);
    let colon = if said.is_empty() { "" } else { ": " };
    Err(MeasureError::Command(format!(
        "`{program}` failed ({}) on run {}{colon}{}; a command that fails cannot be measured: make it succeed first",
        output.exit,
        nth + 1,
        &said[from..]
    )))
}

/// Returns how much of the time off the CPU a command was ready to run: all of it, if it never gave
/// up the CPU by itself; else a turn of somebody else's for each time that it was taken away.
fn kept_waiting(idle: Duration, gave_up: f64, taken: f64) -> Duration {
    match () {
        () if taken < 1.0 => Duration::ZERO,
        () if gave_up < 1.0 => idle,
        () => idle.min(TURN.mul_f64(taken)),
    }
}

fn mean(times: &[Duration]) -> Duration {
    times.iter().sum::<Duration>().checked_div(u32::try_from(times.len()).unwrap_or(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(script: &str) -> CommandSample {
        let command = Command { program: "sh".into(), args: vec!["-c".into(), script.into()], ..Command::default() };
        CommandSample { command, samples: 3, budget: Duration::from_secs(10), most: 8, count: None }
    }

    #[test]
    fn who_is_pushed_off_the_processor_does_not_wait() {
        let ms = Duration::from_millis;
        for (idle, gave_up, taken, want) in [
            // Sleeps.
            (100, 2.0, 0.0, 0),
            (100, 0.0, 0.0, 0),
            // Computes beside others.
            (100, 0.0, 20.0, 100),
            (100, 0.4, 1.0, 100),
            // Both.
            (100, 10.0, 5.0, 20),
            (100, 10.0, 50.0, 100),
        ] {
            assert_eq!(kept_waiting(ms(idle), gave_up, taken), ms(want), "{idle} {gave_up} {taken}");
        }
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_is_refused_with_what_it_said() {
        let children = Children::new().unwrap();
        let error = sample("echo no such file >&2; exit 3").measure(&children).unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("no such file") && error.contains("run 1"), "{error}");
        let command = Command { program: "/nowhere/at-all".into(), ..Command::default() };
        let error = CommandSample { command, ..sample("") }.measure(&children).unwrap_err().to_string();
        assert!(error.contains("cannot start `/nowhere/at-all`"), "{error}");
    }

    #[test]
    fn a_failure_among_several_at_once_says_how_many_there_were() {
        let dir = std::env::temp_dir().join(format!("longshore-advise-{}", std::process::id()));
        // `mkdir` is one at a time: the second of two that overlap fails.
        let script = format!("mkdir {0} || exit 9; sleep 0.02; rmdir {0}", dir.display());
        let error = sample(&script).measure(&Children::new().unwrap()).unwrap_err().to_string();
        // On a busy machine two may miss each other, and more meet.
        let at_once: Option<u32> = error.split_once(" at once").and_then(|(number, _)| number.parse().ok());
        assert!(at_once.is_some_and(|number| number >= 2) && error.contains("exit code 9"), "{error}");
    }
}
