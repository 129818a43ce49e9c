//! How a run went, over time: kept small, however many tasks it has.
//!
//! Times stand in buckets that become twice as long when there would be too many of them, and in
//! bins whose edges grow by a factor; of failures a few samples of each kind are kept. So a story
//! of a million tasks takes as much memory as one of a thousand.
//!
//! - `story/heat.rs`: run times over time; `story/view.rs`: all of it as plain data

mod heat;
mod view;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use longshore_brokers::mask_text;
use longshore_core::{
    Finished, Word,
    watch::{Counts, Detail, Event, Heard, Hub},
};

use self::heat::Heat;
pub use self::{
    heat::{HeatRow, StoryHeat},
    view::{SlowEnd, StoryFailure, StorySample, StoryView},
};
use crate::{call::Call, journal::PastEnd, reply::Reply};

/// Most buckets of time.
const BUCKETS: usize = 512;
/// The shortest bucket, in microseconds.
const SHORTEST: u64 = 1_000;
/// Bins of run times in each doubling: their edges are 2.2 % apart.
const BINS: f64 = 32.0;
/// The bin of a microsecond, and of all that is shorter.
const FIRST_BIN: i32 = -20 * BINS as i32;
/// The bin of 2²⁴ s, half a year, and of all that is longer.
const LAST_BIN: i32 = 24 * BINS as i32;
/// Kinds of failures that are told apart; further ones are one kind.
const KINDS: usize = 40;
/// Samples that are kept of each kind.
const SAMPLES: usize = 3;
/// Most characters of a record and of a message in a sample.
const LETTERS: usize = 400;
/// Attempts that may wait to be noted.
const WAITING: usize = 1 << 16;

/// Course of a run: what ended when and how, how long it took, and why it failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// The program, for people; without secrets.
    pub(crate) what: String,
    /// Microseconds that a bucket is long.
    bucket: u64,
    buckets: Vec<Bucket>,
    bins: Bins,
    longest: Duration,
    heat: Heat,
    slowest: Vec<SlowEnd>,
    span: Duration,
    kinds: BTreeMap<String, FailureGroup>,
    /// Attempts that ended too fast to be noted.
    pub(crate) missed: u64,
    /// Attempts before a task's last one are in it.
    pub(crate) has_retried: bool,
}

/// Number of run times in each bin, from [`FIRST_BIN`] on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bins(Vec<u64>);

impl Bins {
    fn add(&mut self, bin: i32) {
        let place = (bin - FIRST_BIN) as usize;
        if place >= self.0.len() {
            self.0.resize(place + 1, 0);
        }
        self.0[place] += 1;
    }

    fn count(&self, bin: i32) -> u64 {
        usize::try_from(bin - FIRST_BIN).ok().and_then(|place| self.0.get(place)).copied().unwrap_or(0)
    }

    /// Returns the first and the last bin in which something is.
    fn ends(&self) -> Option<(i32, i32)> {
        let first = self.0.iter().position(|count| *count > 0)?;
        Some((FIRST_BIN + first as i32, FIRST_BIN + self.0.len() as i32 - 1))
    }
}

/// Ends in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bucket {
    /// Tasks that ended, by outcome.
    pub(crate) counts: Counts,
    /// Microseconds that attempts ran, all together.
    pub(crate) busy: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FailureGroup {
    pub(crate) count: u64,
    pub(crate) samples: Vec<StorySample>,
}

/// The end of one call. Times are counted from the start of the story.
pub(crate) struct TaskEnding<'a> {
    pub(crate) word: Word,
    /// Records that shared the call.
    pub(crate) records: u64,
    pub(crate) started: Duration,
    pub(crate) ended: Duration,
    /// Why it failed, if it did.
    pub(crate) failure: Option<Failing<'a>>,
}

/// A failure as it is told.
pub(crate) struct Failing<'a> {
    pub(crate) class: String,
    pub(crate) seq: u64,
    pub(crate) record: &'a str,
    pub(crate) message: String,
}

/// A part of a story's time, as long as its neighbours.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stretches {
    /// Seconds that each is long; the last one reaches to the end.
    pub(crate) seconds: f64,
    pub(crate) ok_per_s: Vec<f64>,
    pub(crate) failed_per_s: Vec<f64>,
    /// Attempts that ran at once, on average.
    pub(crate) running: Vec<f64>,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            what: String::new(),
            bucket: SHORTEST,
            buckets: Vec::new(),
            bins: Bins::default(),
            longest: Duration::ZERO,
            heat: Heat::default(),
            slowest: Vec::new(),
            span: Duration::ZERO,
            kinds: BTreeMap::new(),
            missed: 0,
            has_retried: false,
        }
    }
}

impl Story {
    /// Begins the story of this program, which is told to people.
    pub(crate) fn of(what: String) -> Self {
        Self { what, ..Self::default() }
    }

    /// Adds a call that has ended for good.
    pub(crate) fn add(&mut self, end: &TaskEnding<'_>) {
        if matches!(end.word, Word::Cancelled | Word::Skipped) {
            return;
        }
        self.ran(end.started, end.ended);
        let run = end.ended.saturating_sub(end.started);
        let bin = bin_of(run);
        self.bins.add(bin);
        self.longest = self.longest.max(run);
        self.heat.add(end.ended, bin);
        self.bucket_at(micros(end.ended)).counts.add(end.word, end.records);
        if let Some(failure) = &end.failure {
            self.fail(failure, end.records);
        }
    }

    /// Adds tasks that failed in one way.
    fn fail(&mut self, failure: &Failing<'_>, tasks: u64) {
        let known = self.kinds.len() < KINDS || self.kinds.contains_key(&failure.class);
        let kind = self.kinds.entry(if known { failure.class.clone() } else { "other kinds".to_owned() }).or_default();
        kind.count += tasks;
        if kind.samples.len() < SAMPLES {
            let (record, message) = (cut(failure.record), cut(&failure.message));
            kind.samples.push(StorySample { seq: failure.seq, record, message });
        }
    }

    /// Keeps an attempt among the slowest, if it is one of them. `record` is asked for only then.
    fn keep_slow<'a>(&mut self, seq: u64, outcome: Word, run: Duration, record: impl FnOnce() -> Option<Cow<'a, str>>) {
        let run = run.as_secs_f64();
        if !matches!(outcome, Word::Cancelled | Word::Skipped) && view::is_slow(&self.slowest, run) {
            let record = record().map_or_else(String::new, |record| cut(&record));
            view::keep_slow(&mut self.slowest, SlowEnd { seq, record, run, outcome });
        }
    }

    /// Adds the time of an attempt, whatever became of it.
    pub(crate) fn ran(&mut self, started: Duration, ended: Duration) {
        self.span = self.span.max(ended);
        let (mut from, to) = (micros(started), micros(ended));
        // Far enough for the whole of it, so that buckets do not change on the way.
        self.bucket_at(to);
        while from < to {
            let place = from / self.bucket;
            let until = to.min((place + 1) * self.bucket);
            self.buckets[place as usize].busy += until - from;
            from = until;
        }
    }

    /// Adds a task of which a journal tells.
    pub(crate) fn add_past(&mut self, past: &PastEnd<'_>) {
        // The first record of a call stands for all that shared it.
        let (word, records @ 1..) = (past.word, past.call_records) else { return };
        let failure = past.failure.as_ref().map(|error| Failing {
            class: error.class(),
            seq: past.seq,
            record: past.record,
            message: error.tail.as_ref().map_or_else(|| error.message.clone(), |tail| format!("{}\n{tail}", error.message)),
        });
        let Some(started) = past.in_sittings else {
            // It has no place in time: a record that is none, or that was in flight when its run
            // died.
            failure.iter().for_each(|failure| self.fail(failure, records));
            return;
        };
        self.keep_slow(past.seq, word, past.run, || Some(past.record.into()));
        self.add(&TaskEnding { word, records, started, ended: started + past.run, failure });
    }

    /// Forgets why tasks failed, since they are tried again. That they ran is still a part of it.
    pub(crate) fn forget_failures(&mut self) {
        self.kinds.clear();
    }

    fn bucket_at(&mut self, micros: u64) -> &mut Bucket {
        while micros / self.bucket >= BUCKETS as u64 {
            self.bucket *= 2;
            self.buckets = self.buckets.chunks(2).map(|pair| pair.iter().copied().fold(Bucket::default(), Bucket::and)).collect();
        }
        let place = (micros / self.bucket) as usize;
        if place >= self.buckets.len() {
            self.buckets.resize(place + 1, Bucket::default());
        }
        &mut self.buckets[place]
    }

    /// Returns its failures by kind, the most frequent first.
    pub(crate) fn kinds(&self) -> Vec<(&str, &FailureGroup)> {
        let mut kinds: Vec<_> = self.kinds.iter().map(|(name, kind)| (name.as_str(), kind)).collect();
        kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
        kinds
    }

    /// Returns how long it is.
    pub(crate) fn span(&self) -> Duration {
        self.span
    }

    /// Returns the longest run time.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }

    /// Returns the run times by bins: from, to, in seconds, and how many. The bins have no gaps.
    pub(crate) fn times(&self) -> Vec<(f64, f64, u64)> {
        let Some((first, last)) = self.bins.ends() else { return Vec::new() };
        // As many bars as can be told apart; the edges stay the same factor apart.
        let together = (f64::from(last - first + 1) / 48.0).ceil().max(4.0) as i32;
        let (first, last) = (first.div_euclid(together) - 1, last.div_euclid(together) + 1);
        let bar = |bar: i32| {
            let count = (bar * together..(bar + 1) * together).map(|bin| self.bins.count(bin)).sum();
            (edge(bar * together), edge((bar + 1) * together), count)
        };
        (first..=last).map(bar).collect()
    }

    /// Returns the time in which a share of the attempts were done, within 2 %.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let all: u64 = self.bins.0.iter().sum();
        let wanted = (share * all as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (place, count) in self.bins.0.iter().enumerate() {
            sum += count;
            if *count > 0 && sum >= wanted {
                let bin = FIRST_BIN + place as i32;
                let middle = (edge(bin) * edge(bin + 1)).sqrt();
                return Duration::try_from_secs_f64(middle).unwrap_or_default().min(self.longest);
            }
        }
        self.longest
    }

    /// Returns what happened over time, in stretches that have enough tasks to be looked at.
    pub(crate) fn stretches(&self) -> Stretches {
        let span = self.span.as_secs_f64();
        let all: u64 = self.buckets.iter().map(|bucket| bucket.counts.ran()).sum();
        let wanted = (all / 10).clamp(8, 100) as usize;
        let together = self.buckets.len().div_ceil(wanted).max(1);
        let length = (self.bucket * together as u64) as f64 / 1e6;
        // A last stretch that is a sliver would stand out.
        let mut sums: Vec<Bucket> =
            self.buckets.chunks(together).map(|many| many.iter().copied().fold(Bucket::default(), Bucket::and)).collect();
        if sums.len() > 1 && span - (sums.len() - 1) as f64 * length < length / 2.0 {
            let last = sums.pop().unwrap_or_default();
            if let Some(before) = sums.last_mut() {
                *before = before.and(last);
            }
        }
        let last = sums.len().saturating_sub(1);
        let lengths: Vec<f64> =
            (0..sums.len()).map(|place| if place == last { (span - place as f64 * length).max(1e-6) } else { length }).collect();
        let each = |value: fn(&Bucket) -> f64| sums.iter().zip(&lengths).map(|(sum, length)| value(sum) / length).collect();
        Stretches {
            seconds: length,
            ok_per_s: each(|sum| sum.counts.ok as f64),
            failed_per_s: each(|sum| sum.counts.failures() as f64),
            running: each(|sum| sum.busy as f64 / 1e6),
        }
    }
}

impl Bucket {
    fn and(self, other: Self) -> Self {
        Self { counts: [self.counts, other.counts].into_iter().sum(), busy: self.busy + other.busy }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

fn bin_of(run: Duration) -> i32 {
    ((run.as_secs_f64().max(1e-6).log2() * BINS).floor() as i32).clamp(FIRST_BIN, LAST_BIN)
}

fn edge(bin: i32) -> f64 {
    (f64::from(bin) / BINS).exp2()
}

fn cut(text: &str) -> String {
    let text = mask_text(text);
    let text = text.trim_end();
    match text.char_indices().nth(LETTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Writes the story of a run that goes on.
#[derive(Clone, Debug)]
pub(crate) struct Storyteller {
    story: Arc<Mutex<Story>>,
    /// The start of this sitting.
    began: Instant,
    /// The time that sittings before took.
    before: Duration,
}

impl Storyteller {
    pub(crate) fn new(what: String, before: Duration) -> Self {
        Self { story: Arc::new(Mutex::new(Story::of(what))), began: Instant::now(), before }
    }

    /// Listens for attempts that are followed by another one; the last one of a task comes by
    /// [`add`](Self::add). `retries` says whether there can be any.
    pub(crate) fn listen(&self, hub: &Hub<Event>, retries: bool) {
        self.story().has_retried = true;
        if !retries {
            return;
        }
        let this = self.clone();
        let mut events = hub.listen_to(Detail::Tasks, WAITING, |event| matches!(event, Event::Ended { again_after: Some(_), .. }));
        tokio::spawn(async move {
            while let Some(heard) = events.next().await {
                match heard {
                    Heard::Event(Event::Ended { started, ended, .. }) => this.story().ran(this.at(started), this.at(ended)),
                    Heard::Event(_) => {}
                    Heard::Missed(count) => this.story().missed += count,
                }
            }
        });
    }

    /// Adds tasks that have ended for good.
    pub(crate) fn add<'a>(&self, ended: impl Iterator<Item = &'a Finished<Call, Reply>>) {
        let mut story = self.story();
        ended.for_each(|finished| self.add_to(&mut story, finished));
    }

    fn add_to(&self, story: &mut Story, finished: &Finished<Call, Reply>) {
        let Some(call) = &finished.task.payload else { return };
        let (started, ended) = (self.of(finished.started.since(self.began.into())), self.of(finished.ended.since(self.began.into())));
        let failure = finished.outcome.class().filter(|_| finished.outcome.word().is_failure()).map(|(kind, code)| {
            let class = code.map_or_else(|| kind.to_owned(), |code| format!("{kind} {code}"));
            let error = finished.outcome.error();
            let message = error.as_ref().map_or_else(String::new, |error| {
                let tail = error.tail().map_or_else(String::new, |tail| format!("\n{tail}"));
                format!("{}{tail}", error.message())
            });
            (class, message)
        });
        let record = failure.as_ref().and_then(|_| call.first()).map(|item| item.record.to_json());
        let failure = failure.map(|(class, message)| Failing {
            class,
            seq: finished.task.id,
            record: record.as_ref().map_or("", |record| record.get()),
            message,
        });
        let end = TaskEnding { word: finished.outcome.word(), records: call.len() as u64, started, ended, failure };
        story.add(&end);
        let record = || call.first().map(|item| item.record.to_json().get().to_owned().into());
        story.keep_slow(finished.task.id, end.word, ended.saturating_sub(started), record);
    }

    /// Returns the story so far, as plain data.
    pub(crate) fn view(&self) -> StoryView {
        // Drawn from a copy: whoever adds to it does not wait.
        self.told().view()
    }

    /// Returns the story so far.
    pub(crate) fn told(&self) -> Story {
        self.story().clone()
    }

    fn at(&self, at: Instant) -> Duration {
        self.of(at.saturating_duration_since(self.began))
    }

    fn of(&self, time: Duration) -> Duration {
        self.before + time
    }

    fn story(&self) -> std::sync::MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn ending(word: Word, started: u64, ended: u64) -> TaskEnding<'static> {
        let failure =
            word.is_failure().then(|| Failing { class: "exit 1".to_owned(), seq: ended, record: "\"r\"", message: "bad".to_owned() });
        TaskEnding { word, records: 1, started: ms(started), ended: ms(ended), failure }
    }

    #[test]
    fn a_million_tasks_take_no_more_room_than_a_thousand_and_none_is_lost() {
        let mut story = Story::default();
        for task in 0..1_000_000_u64 {
            let word = if task % 1_000 == 0 { Word::Failed } else { Word::Ok };
            story.add(&ending(word, task * 10, task * 10 + 20));
        }
        assert!(story.buckets.len() <= BUCKETS && story.bins.0.len() < 2_000 && story.kinds["exit 1"].samples.len() == SAMPLES);
        let sum = story.buckets.iter().copied().fold(Bucket::default(), Bucket::and);
        assert_eq!((sum.counts.ok, sum.counts.failures(), sum.busy), (999_000, 1_000, 1_000_000 * 20_000));
        // Two at once, a hundred a second, from the first stretch to the last.
        let stretches = story.stretches();
        assert!(stretches.running.len() > 50, "{}", stretches.running.len());
        assert!(stretches.running.iter().all(|running| (1.9..2.1).contains(running)), "{stretches:?}");
        let rates = stretches.ok_per_s.iter().zip(&stretches.failed_per_s).map(|(ok, failed)| ok + failed);
        assert!(rates.into_iter().all(|rate| (98.0..102.0).contains(&rate)), "{stretches:?}");
    }

    #[test]
    fn quantiles_and_bars_follow_from_the_times() {
        let mut story = Story::default();
        for task in 1..=1_000 {
            story.add(&ending(Word::Ok, 0, task));
        }
        for (share, want) in [(0.5, 500), (0.9, 900), (0.99, 990)] {
            let got = story.quantile(share).as_secs_f64() * 1e3 / f64::from(want);
            assert!((0.975..1.025).contains(&got), "{share}: {got}");
        }
        assert_eq!(story.longest(), ms(1_000));
        let times = story.times();
        assert_eq!(times.iter().map(|(_, _, count)| count).sum::<u64>(), 1_000);
        assert!(times.windows(2).all(|pair| pair[0].1 == pair[1].0) && times.len() <= 52, "{}", times.len());
    }

    #[test]
    fn what_did_not_run_is_no_part_of_it() {
        let mut story = Story::default();
        story.add(&ending(Word::Cancelled, 0, 10));
        story.add(&ending(Word::Skipped, 0, 10));
        assert_eq!(story, Story::default());
        assert_eq!((story.times(), story.quantile(0.5)), (Vec::new(), Duration::ZERO));
        assert!(story.stretches().running.is_empty());
    }

    #[test]
    fn the_last_stretch_is_not_a_sliver() {
        let mut story = Story::default();
        for task in 0..1_003 {
            story.add(&ending(Word::Ok, task * 10, task * 10 + 10));
        }
        let stretches = story.stretches();
        let rest = story.span().as_secs_f64() - (stretches.ok_per_s.len() - 1) as f64 * stretches.seconds;
        assert!(rest >= stretches.seconds / 2.0 && rest < stretches.seconds * 1.51, "{rest} {}", stretches.seconds);
        assert!(stretches.ok_per_s.iter().all(|rate| (80.0..120.0).contains(rate)), "{stretches:?}");
    }
}
