//! One decision from words, in place of the lesson's two helpers and its tree, and how it settles
//! what they contradict each other about.
//!
//! - *"Resize 1000 images" is 0 : 0 for one helper and "threads first" for the other, while the
//!   lesson's own final question answers "processes".* Our list is wider and knows both words:
//!   CPU-bound. The place is the cpu lane and not processes: the lesson needs processes because
//!   Python's threads compute one at a time; ours do not, and a thread costs neither a copy of the
//!   data nor a start.
//! - *"Process 10GB CSV file" gets "threads first", so that no scenario reaches the branch for
//!   large data.* "Process" and "file" go with everything: they are weak words and count only where
//!   the clear ones leave it open. "CSV" has to be parsed: CPU-bound. The size is read from the
//!   text where nobody says it, and large data is cut into pieces rather than read whole; nothing
//!   is copied between threads.
//! - *The helpers have different words and methods: "Generate report" is processes for one and
//!   threads first for the other, "Scrape web sites" threads and threads first.* One list and one
//!   rule: the side with more clear words wins; where the other has at least half as many, the work
//!   is mixed.
//! - *Words are found inside of words: "profile" and "rapid" count as I/O.* Words are matched
//!   whole, by their stem.
//! - *0.1 s is one task's duration in the helper, the whole work in the tree, and 0.1 to 1 s the
//!   size of a good task in the rules.* Whether it is worth it, the whole work decides
//!   ([`WORTH_IT`]): a thousand lookups of 50 ms are 50 s. How large a task should be depends on
//!   what a task costs: 0.1 to 1 s where each starts a program, tens of microseconds on the cpu
//!   lane, where tiny items travel in chunks.
//! - *Two to five workers per core here, 50 elsewhere.* Threads that wait: 4 × cores. Requests on
//!   the async lane: 50, because a waiting future costs no thread. Both are where to begin; where
//!   throughput stops rising has to be measured.

use std::time::Duration;

use longshore_core::LaneKind;
use serde::{Serialize, Serializer};

use crate::{
    Advice, Bound, Place, SpeedUp,
    show::{size, time},
    words::{
        Hit, Weight, hits,
        list::speaks_http,
        pace::{Pace, pace_in},
    },
};

/// Time of all work together below which it stays sequential.
pub const WORTH_IT: Duration = Duration::from_millis(100);
/// Time of an item below which items travel in chunks on the cpu lane.
const TINY: Duration = Duration::from_micros(50);
/// Time of such a chunk's work.
const CHUNK: Duration = Duration::from_micros(100);
/// Bytes of a piece that one item's data is cut into, when it is large.
const PIECE: u64 = 64 << 20;

/// Amount of data of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSize {
    /// Less than 1 KiB.
    Tiny,
    /// Less than 64 KiB.
    Small,
    /// Less than 64 MiB.
    Medium,
    /// More: not to be held in memory whole.
    Large,
    /// This number of bytes.
    Bytes(u64),
}

impl DataSize {
    /// The class of a number of bytes, or the class itself.
    pub fn class(self) -> DataSize {
        match self {
            Self::Bytes(bytes) if bytes < 1 << 10 => Self::Tiny,
            Self::Bytes(bytes) if bytes < 64 << 10 => Self::Small,
            Self::Bytes(bytes) if bytes < PIECE => Self::Medium,
            Self::Bytes(_) => Self::Large,
            class => class,
        }
    }

    /// The class with this name: `tiny`, `small`, `medium` or `large`.
    pub fn parse(name: &str) -> Option<DataSize> {
        Some(match name {
            "tiny" => Self::Tiny,
            "small" => Self::Small,
            "medium" => Self::Medium,
            "large" => Self::Large,
            _ => return None,
        })
    }

    fn name(self) -> String {
        match self {
            Self::Tiny => "tiny".into(),
            Self::Small => "small".into(),
            Self::Medium => "medium".into(),
            Self::Large => "large".into(),
            Self::Bytes(bytes) => size(bytes),
        }
    }
}

impl Serialize for DataSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

/// A question for advice.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The work, in words.
    pub text: String,
    /// Time that one item takes.
    pub each: Option<Duration>,
    /// Number of items.
    pub count: Option<u64>,
    /// Amount of data of an item. Read from the text ("10GB") where it is not said.
    pub data: Option<DataSize>,
    /// Cores of the machine; those of this one when absent.
    pub cores: Option<usize>,
}

/// Guess of what a description is about, and what would follow from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The words that count, in their order.
    pub words: Vec<Hit>,
    /// Number of them that speak of computing.
    pub compute: usize,
    /// Number of them that speak of waiting.
    pub io: usize,
    /// True where the waiting is for a network, where requests need no thread each.
    pub network: bool,
    /// True where it is asked for over HTTP.
    pub http: bool,
    /// The pace that the text asks for: nothing makes it faster.
    pub pace: Option<Pace>,
    /// The data of an item, from the question or the text.
    pub data: Option<DataSize>,
    /// The advice; its speed-up is the best that can be expected, not what is.
    pub advice: Advice,
}

/// Guesses from words where work should run.
/// ```
/// use std::time::Duration;
/// use longshore_advise::{Bound, words::{Question, guess}};
///
/// let guess = guess(&Question {
///     text: "Resize 1000 images".into(),
///     each: Some(Duration::from_millis(500)),
///     count: Some(1000),
///     cores: Some(2),
///     ..Question::default()
/// });
/// assert_eq!((guess.advice.bound, guess.advice.place.as_str(), guess.advice.workers), (Bound::Cpu, "cpu", 2));
/// assert_eq!(guess.advice.predicted, Some(Duration::from_secs(250)));
/// ```
pub fn guess(question: &Question) -> Guess {
    let words = hits(&question.text);
    let data = question.data.or_else(|| bytes_in(&question.text).map(DataSize::Bytes));
    let (compute, io, bound) = score(&words);
    let network = io > 0 && words.iter().any(|hit| !hit.computes && hit.weight == Weight::Clear);
    let (http, pace) = (network && speaks_http(&words), pace_in(&question.text));
    let mut advice = advice(question, bound, network, data.is_some_and(|data| data.class() == DataSize::Large));
    if let Some(pace) = pace {
        paced(&mut advice, question, pace);
    }
    let (clear_compute, clear_io) = clear(&words);
    let words = words.into_iter().filter(|hit| hit.weight == Weight::Clear || clear_compute == clear_io).collect();
    Guess { words, compute, io, network, http, pace, data, advice }
}

fn clear(words: &[Hit]) -> (usize, usize) {
    let count = |computes| words.iter().filter(|hit| hit.computes == computes && hit.weight == Weight::Clear).count();
    (count(true), count(false))
}

/// The side with more clear words; on a tie the weak ones count too. Where the other side has at
/// least half as many, the work is mixed.
fn score(words: &[Hit]) -> (usize, usize, Bound) {
    let (mut compute, mut io) = clear(words);
    if compute == io {
        compute += words.iter().filter(|hit| hit.computes && hit.weight == Weight::Weak).count();
        io += words.iter().filter(|hit| !hit.computes && hit.weight == Weight::Weak).count();
    }
    let bound = match (compute, io) {
        (0, 0) => Bound::Unclear,
        (compute, io) if 2 * compute.min(io) >= compute.max(io) => Bound::Mixed,
        (compute, io) if compute > io => Bound::Cpu,
        _ => Bound::Io,
    };
    (compute, io, bound)
}

fn advice(question: &Question, bound: Bound, network: bool, large: bool) -> Advice {
    let cores = question.cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let total = question.each.map(|each| times(each, question.count.unwrap_or(1)));
    let mut reasons = Vec::new();
    let (place, mut workers) = match bound {
        Bound::Cpu => {
            reasons.push(format!("computing is done as fast as there are cores: {cores}, and more threads only get in each other's way"));
            (LaneKind::Cpu, cores)
        }
        Bound::Io if network => {
            reasons
                .push("a request that waits needs no thread: 50 at once is where to begin, the other side decides how far it goes".into());
            (LaneKind::Async, 50)
        }
        Bound::Io => {
            reasons.push("a call that blocks holds a thread but no core: 4 per core is where to begin".into());
            (LaneKind::Blocking, 4 * cores)
        }
        Bound::Mixed => {
            reasons.push("it computes and waits: threads do both, and a pipeline can give each part its own lane".into());
            (LaneKind::Blocking, 4 * cores)
        }
        Bound::Unclear => {
            reasons.push("none of the words says what it does: threads do no harm, and measuring tells".into());
            (LaneKind::Blocking, 4 * cores)
        }
    };
    let stay = match (total, question.count) {
        (Some(total), _) if total < WORTH_IT => Some(format!("{} of work, all together: not worth the trouble", time(total))),
        (_, Some(0 | 1)) if !large => Some("one item cannot be spread".to_owned()),
        _ => None,
    };
    // Advice to stay is nothing but its reason: numbers of workers would mislead.
    if let Some(why) = stay {
        return Advice {
            place: Place::Sequential,
            workers: 1,
            chunk: 1,
            queue_capacity: 1,
            bound,
            speed_up: SpeedUp::NONE,
            sequential: total,
            predicted: total,
            reasons: vec![why],
        };
    }
    // Handing tiny items over one by one would cost a good part of what they take.
    let mut chunk = 1;
    if let Some(each) = question.each.filter(|each| place == LaneKind::Cpu && *each < TINY) {
        chunk = CHUNK.as_nanos().div_ceil(each.as_nanos().max(1)) as usize;
        reasons.push(format!("items of {} travel in chunks of about {chunk}", time(each)));
    }
    if large {
        reasons.push(format!(
            "large data: cut into pieces of about {}, never whole in memory; nothing is copied between threads",
            size(PIECE)
        ));
    } else if let Some(count) = question.count {
        // More workers than items have nothing to do; of large data nobody knows the pieces.
        workers = workers.min(usize::try_from(count).unwrap_or(usize::MAX)).max(1);
    }
    // Of mixed work nobody knows the share that computes: at least that part cannot go faster than
    // the cores.
    let best = match bound {
        Bound::Cpu => workers.min(cores) as f64,
        _ => workers as f64,
    };
    let predicted = match (total, question.each, question.count) {
        // Wave after wave: three items on two workers take as long as four.
        (Some(_), Some(each), Some(count)) if !large => Some(times(each, count.div_ceil(best as u64))),
        (total, ..) => total.map(|total| total.div_f64(best)),
    };
    let speed_up = match (total, predicted) {
        (Some(total), Some(predicted)) if !predicted.is_zero() => total.as_secs_f64() / predicted.as_secs_f64(),
        _ => best,
    };
    Advice {
        place: Place::Lane(place),
        workers,
        chunk,
        queue_capacity: 2 * workers,
        bound,
        speed_up: SpeedUp { low: 1.0, likely: speed_up, high: speed_up },
        sequential: total,
        predicted,
        reasons,
    }
}

/// Fits advice to a pace: no faster than that, and no more at once than it keeps busy.
fn paced(advice: &mut Advice, question: &Question, pace: Pace) {
    if let Some(each) = question.each {
        let busy = (pace.per_second() * each.as_secs_f64()).ceil().max(1.0);
        advice.workers = advice.workers.min(busy as usize).max(1);
        advice.queue_capacity = 2 * advice.workers;
    }
    let Some(count) = question.count else {
        advice.reasons.push(format!("{pace} is the floor: more at once than that keeps busy brings nothing"));
        return;
    };
    let floor = pace.time_of(count);
    advice.reasons.push(format!("{pace} is the floor: {count} take {} at least, however many are at once", time(floor)));
    if let (Some(total), Some(predicted)) = (advice.sequential, advice.predicted) {
        let slower = predicted.max(floor + question.each.unwrap_or_default());
        advice.predicted = Some(slower);
        // One after another keeps the pace, too.
        let alone = total.max(slower);
        let speed_up = alone.as_secs_f64() / slower.as_secs_f64().max(1e-9);
        (advice.sequential, advice.speed_up) = (Some(alone), SpeedUp { low: 1.0, likely: speed_up, high: speed_up });
    }
}

fn times(each: Duration, count: u64) -> Duration {
    Duration::try_from_secs_f64(each.as_secs_f64() * count as f64).unwrap_or(Duration::MAX)
}

/// The first size in a text: `10GB`, `64 MiB`.
fn bytes_in(text: &str) -> Option<u64> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|each: char| !each.is_alphanumeric() && each != '.').filter(|word| !word.is_empty()).collect();
    words.iter().enumerate().find_map(|(at, word)| {
        let (number, unit) = word.split_at(word.find(|each: char| !each.is_ascii_digit() && each != '.').unwrap_or(word.len()));
        let unit = if unit.is_empty() { words.get(at + 1)? } else { unit };
        let factor: u64 = match unit {
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        // A float that is too large saturates in the cast.
        Some((number * factor as f64) as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Looks, choose_concurrency_approach, concurrency_decision_helper};

    fn ask(text: &str, each: Option<f64>, count: Option<u64>, data: Option<DataSize>) -> Guess {
        guess(&Question { text: text.into(), each: each.map(Duration::from_secs_f64), count, data, cores: Some(2) })
    }

    #[test]
    fn the_lessons_tasks_and_scenarios_get_one_answer_each() {
        let large = Some(DataSize::Large);
        for (text, each, count, data, bound, place, workers) in [
            // The six tasks.
            ("Download 100 web pages and save to files", None, None, None, Bound::Io, "async", 50),
            ("Resize 1000 images to create thumbnails", None, None, None, Bound::Cpu, "cpu", 2),
            ("Query database for user data and send emails", None, None, None, Bound::Io, "async", 50),
            ("Calculate prime numbers up to 1 million", None, None, None, Bound::Cpu, "cpu", 2),
            ("Fetch stock prices from 50 different APIs", None, None, None, Bound::Io, "async", 50),
            ("Apply machine learning model to analyze text data", None, None, None, Bound::Cpu, "cpu", 2),
            // The five scenarios.
            ("Download 50 web pages", Some(2.0), Some(50), Some(DataSize::Small), Bound::Io, "async", 50),
            ("Resize 1000 images", Some(30.0), None, Some(DataSize::Medium), Bound::Cpu, "cpu", 2),
            ("Process 10GB CSV file", Some(60.0), None, large, Bound::Cpu, "cpu", 2),
            ("Calculate prime numbers", Some(45.0), None, Some(DataSize::Small), Bound::Cpu, "cpu", 2),
            ("Quick database lookup", Some(0.05), None, Some(DataSize::Tiny), Bound::Io, "sequential", 1),
            // The final question, in its own words.
            ("You need to process 1000 images (resize each one)", Some(0.5), Some(1000), None, Bound::Cpu, "cpu", 2),
        ] {
            let guess = ask(text, each, count, data);
            assert_eq!(
                (guess.advice.bound, guess.advice.place.as_str(), guess.advice.workers),
                (bound, place, workers),
                "{text}: {guess:?}"
            );
        }
    }

    #[test]
    fn images_are_computing_though_the_lessons_helpers_know_neither_word() {
        let text = "Resize 1000 images";
        assert_eq!(concurrency_decision_helper(text).looks, Looks::Unclear);
        assert_eq!(choose_concurrency_approach(text, 30.0, DataSize::Medium).as_str(), "threads_first");
        let guess = ask(text, Some(0.5), Some(1000), None);
        assert_eq!((guess.compute, guess.io, guess.advice.place), (2, 0, Place::Lane(LaneKind::Cpu)));
        assert!(guess.words.iter().all(|hit| !hit.lesson));
        assert_eq!((guess.advice.sequential, guess.advice.predicted), (Some(Duration::from_secs(500)), Some(Duration::from_secs(250))));
        assert_eq!(guess.advice.speed_up.likely, 2.0);
    }

    #[test]
    fn large_data_reaches_its_branch_also_when_only_the_text_says_so() {
        for data in [None, Some(DataSize::Large), Some(DataSize::Bytes(10_000_000_000))] {
            let guess = ask("Process 10GB CSV file", Some(60.0), Some(1), data);
            assert_eq!((guess.advice.bound, guess.advice.place), (Bound::Cpu, Place::Lane(LaneKind::Cpu)), "{data:?}");
            assert!(guess.advice.reasons.iter().any(|reason| reason.contains("cut into pieces")), "{guess:?}");
            assert_eq!(guess.advice.predicted, Some(Duration::from_secs(30)));
        }
        assert_eq!(ask("Process a 2 MB CSV file", None, None, None).data, Some(DataSize::Bytes(2_000_000)));
        assert_eq!(ask("Process 3 CSV files", None, None, None).data, None);
    }

    #[test]
    fn one_list_and_one_rule_where_the_two_helpers_differ() {
        for (text, bound) in [
            ("Generate report", Bound::Cpu),
            ("Scrape web sites", Bound::Io),
            ("Generate thumbnails", Bound::Cpu),
            ("Process files", Bound::Mixed),
            ("Process requests", Bound::Io),
            ("Download and resize images", Bound::Mixed),
            ("Do the thing", Bound::Unclear),
            ("", Bound::Unclear),
        ] {
            assert_eq!(ask(text, None, None, None).advice.bound, bound, "{text}");
        }
    }

    #[test]
    fn words_inside_of_words_count_for_nothing() {
        for text in ["profile", "rapid", "cobweb", "filefish", "precomputeds"] {
            assert_eq!(ask(text, None, None, None).advice.bound, Bound::Unclear, "{text}");
        }
    }

    #[test]
    fn the_whole_work_decides_whether_it_is_worth_it() {
        for (each, count, place) in [
            (0.05, Some(1), "sequential"),
            (0.05, None, "sequential"),
            (0.05, Some(1_000), "async"),
            (0.2, Some(1), "sequential"),
            (0.000_001, Some(1_000), "sequential"),
        ] {
            assert_eq!(ask("Quick database lookup", Some(each), count, None).advice.place.as_str(), place, "{each} {count:?}");
        }
        let tiny = ask("Compute", Some(1e-6), Some(100_000_000), None).advice;
        assert_eq!((tiny.place.as_str(), tiny.chunk), ("cpu", 100));
    }

    #[test]
    fn a_pace_is_the_floor_and_bounds_the_workers() {
        let text = "Call a rate-limited API, at most 5 requests per second";
        let guess = ask(text, Some(0.4), Some(101), None);
        assert_eq!((guess.advice.workers, guess.advice.predicted), (2, Some(Duration::from_millis(20_400))), "{guess:?}");
        assert!((1.9..2.0).contains(&guess.advice.speed_up.likely), "{guess:?}");
        assert!(guess.advice.reasons.iter().any(|reason| reason.starts_with("5/s is the floor: 101 take 20")), "{guess:?}");
        assert_eq!(ask(text, None, None, None).advice.workers, 50);
        let guess = ask("Fetch pages, 1000/s", Some(2.0), Some(100), None);
        assert_eq!((guess.advice.workers, guess.advice.predicted), (50, Some(Duration::from_secs(4))), "{guess:?}");
    }

    #[test]
    fn a_neural_network_computes() {
        let guess = ask("Train a neural network", None, None, None);
        assert_eq!((guess.advice.bound, guess.network), (Bound::Cpu, false), "{guess:?}");
    }

    #[test]
    fn no_more_workers_than_items_and_no_less_time_than_one_item() {
        let guess = ask("Fetch pages", Some(2.0), Some(5), None);
        assert_eq!((guess.advice.workers, guess.advice.predicted), (5, Some(Duration::from_secs(2))));
        let guess = ask("Resize images", Some(2.0), Some(3), None);
        assert_eq!((guess.advice.workers, guess.advice.predicted), (2, Some(Duration::from_secs(4))));
    }
}
