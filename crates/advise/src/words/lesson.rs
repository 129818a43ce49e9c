//! A lesson's two decision helpers and its decision tree, ported as they are: with their words,
//! found anywhere in the text (also inside of other words), and with what they contradict each
//! other about. They are kept to be compared with; [`guess`](super::guess) is ours.

use std::time::Duration;

use longshore_core::LaneKind;
use serde::Serialize;

use crate::{Bound, Place, words::DataSize};

const IO_KEYWORDS: [&str; 8] = ["download", "upload", "request", "database", "file", "network", "api", "web"];
const CPU_KEYWORDS: [&str; 6] = ["calculate", "compute", "process", "analyze", "transform", "generate"];
const IO_INDICATORS: [&str; 7] = ["download", "upload", "request", "database", "file", "api", "network"];
const CPU_INDICATORS: [&str; 5] = ["calculate", "compute", "process", "analyze", "transform"];

/// Verdict of the first helper on a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Looks {
    /// "This looks I/O-bound → use threads."
    Threads,
    /// "This looks CPU-bound → use processes."
    Processes,
    /// "Mixed or unclear → start with threads, profile, then decide."
    Unclear,
}

/// The first helper's answer, with what it counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Scored {
    /// Number of its I/O words in the text.
    pub io: usize,
    /// Number of its CPU words in the text.
    pub cpu: usize,
    /// Its verdict.
    pub looks: Looks,
}

/// The lesson's first helper: the side with more words wins.
/// ```
/// use longshore_advise::words::{Looks, concurrency_decision_helper};
///
/// assert_eq!(concurrency_decision_helper("Download 100 web pages and save to files").looks, Looks::Threads);
/// // It knows no word of this, and finds "api" inside of "rapid":
/// assert_eq!(concurrency_decision_helper("Resize 1000 images").looks, Looks::Unclear);
/// assert_eq!(concurrency_decision_helper("rapid").io, 1);
/// ```
pub fn concurrency_decision_helper(task: &str) -> Scored {
    let text = task.to_lowercase();
    let count = |words: &[&str]| words.iter().filter(|word| text.contains(**word)).count();
    let (io, cpu) = (count(&IO_KEYWORDS), count(&CPU_KEYWORDS));
    let looks = match io.cmp(&cpu) {
        std::cmp::Ordering::Greater => Looks::Threads,
        std::cmp::Ordering::Less => Looks::Processes,
        std::cmp::Ordering::Equal => Looks::Unclear,
    };
    Scored { io, cpu, looks }
}

/// Verdict of the second helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Approach {
    /// `sequential`
    Sequential,
    /// `threads`
    Threads,
    /// `processes`
    Processes {
        /// "With caution": large data is expensive to copy.
        caution: bool,
    },
    /// `threads_first`: "measure first, optimize second".
    ThreadsFirst,
}

impl Approach {
    /// The word that the lesson's function returns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Threads => "threads",
            Self::Processes { .. } => "processes",
            Self::ThreadsFirst => "threads_first",
        }
    }

    /// Returns where that is here: threads are the blocking lane; processes are the cpu lane,
    /// because there is no lock that keeps threads from computing side by side (the process lane is
    /// for isolation, limits and foreign programs).
    pub fn place(self) -> Place {
        match self {
            Self::Sequential => Place::Sequential,
            Self::Threads | Self::ThreadsFirst => Place::Lane(LaneKind::Blocking),
            Self::Processes { .. } => Place::Lane(LaneKind::Cpu),
        }
    }
}

/// The lesson's second helper: other words, and any of them decides.
/// ```
/// use longshore_advise::words::{Approach, DataSize, choose_concurrency_approach};
///
/// assert_eq!(choose_concurrency_approach("Download 50 web pages", 2.0, DataSize::Small), Approach::Threads);
/// assert_eq!(choose_concurrency_approach("Quick database lookup", 0.05, DataSize::Tiny), Approach::Sequential);
/// ```
pub fn choose_concurrency_approach(task: &str, expected_seconds: f64, data: DataSize) -> Approach {
    if expected_seconds < 0.1 {
        return Approach::Sequential;
    }
    let text = task.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match (any(&IO_INDICATORS), any(&CPU_INDICATORS)) {
        (true, false) => Approach::Threads,
        (false, true) => Approach::Processes { caution: data == DataSize::Large },
        _ => Approach::ThreadsFirst,
    }
}

/// Answers to the tree's questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// All the work.
    pub total: Duration,
    /// "I/O waiting or CPU thinking?"
    pub bottleneck: Bound,
    /// True where the data is large.
    pub large_data: bool,
    /// True where tasks have to be coordinated in complex ways.
    pub coordination: bool,
}

/// Place in the tree where a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The step, from 1 to 7.
    pub step: u8,
    /// Words that stand there.
    pub says: &'static str,
    /// True where step 6 adds queues.
    pub queues: bool,
}

/// The lesson's tree of seven steps.
/// ```
/// use std::time::Duration;
/// use longshore_advise::{Bound, words::{Task, decision_tree}};
///
/// let task = Task { total: Duration::from_secs(500), bottleneck: Bound::Cpu, large_data: false, coordination: false };
/// assert_eq!(decision_tree(task).says, "processes");
/// assert_eq!(decision_tree(Task { total: Duration::from_millis(100), ..task }).says, "stay sequential");
/// ```
pub fn decision_tree(task: Task) -> Branch {
    let branch = |step, says| Branch { step, says, queues: task.coordination };
    // "> 0.1 s total work": a tenth of a second is not.
    if task.total <= Duration::from_millis(100) {
        return Branch { step: 1, says: "stay sequential", queues: false };
    }
    match task.bottleneck {
        Bound::Io => branch(3, "threads"),
        Bound::Cpu if !task.large_data => branch(4, "processes"),
        Bound::Cpu => branch(5, "alternatives or chunking"),
        Bound::Mixed | Bound::Unclear => branch(7, "threads first, profile, adjust"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected values are what the lesson's Python functions print and return.

    #[test]
    fn the_first_helper_answers_the_lessons_six_tasks_as_the_lesson_does() {
        for (task, io, cpu, looks) in [
            ("Download 100 web pages and save to files", 3, 0, Looks::Threads),
            ("Resize 1000 images to create thumbnails", 0, 0, Looks::Unclear),
            ("Query database for user data and send emails", 1, 0, Looks::Threads),
            ("Calculate prime numbers up to 1 million", 0, 1, Looks::Processes),
            ("Fetch stock prices from 50 different APIs", 1, 0, Looks::Threads),
            ("Apply machine learning model to analyze text data", 0, 1, Looks::Processes),
            // Beyond the lesson's own: words inside of words, and the other scenarios.
            ("Profile a program", 1, 0, Looks::Threads),
            ("rapid", 1, 0, Looks::Threads),
            ("Generate report", 0, 1, Looks::Processes),
            ("Scrape web sites", 1, 0, Looks::Threads),
            ("Process 10GB CSV file", 1, 1, Looks::Unclear),
        ] {
            assert_eq!(concurrency_decision_helper(task), Scored { io, cpu, looks }, "{task}");
        }
    }

    #[test]
    fn the_second_helper_answers_the_lessons_five_scenarios_as_the_lesson_does() {
        for (task, seconds, data, returned) in [
            ("Download 50 web pages", 2.0, DataSize::Small, "threads"),
            ("Resize 1000 images", 30.0, DataSize::Medium, "threads_first"),
            ("Process 10GB CSV file", 60.0, DataSize::Large, "threads_first"),
            ("Calculate prime numbers", 45.0, DataSize::Small, "processes"),
            ("Quick database lookup", 0.05, DataSize::Tiny, "sequential"),
            ("Generate report", 1.0, DataSize::Small, "threads_first"),
            ("Scrape web sites", 1.0, DataSize::Small, "threads_first"),
            ("Profile a rapid car", 1.0, DataSize::Small, "threads"),
        ] {
            assert_eq!(choose_concurrency_approach(task, seconds, data).as_str(), returned, "{task}");
        }
        // The branch for large data that none of the scenarios reaches.
        assert_eq!(choose_concurrency_approach("Compute pi", 1.0, DataSize::Large), Approach::Processes { caution: true });
        // A tenth of a second is not too small here, and is in the tree.
        assert_eq!(choose_concurrency_approach("Compute pi", 0.1, DataSize::Small).as_str(), "processes");
    }

    #[test]
    fn the_tree_has_an_end_for_every_task() {
        let task = |millis, bottleneck, large_data, coordination| Task {
            total: Duration::from_millis(millis),
            bottleneck,
            large_data,
            coordination,
        };
        for (task, step, says, queues) in [
            (task(100, Bound::Cpu, false, true), 1, "stay sequential", false),
            (task(101, Bound::Io, false, false), 3, "threads", false),
            (task(101, Bound::Io, true, false), 3, "threads", false),
            (task(5_000, Bound::Cpu, false, false), 4, "processes", false),
            (task(5_000, Bound::Cpu, true, false), 5, "alternatives or chunking", false),
            (task(5_000, Bound::Cpu, false, true), 4, "processes", true),
            (task(5_000, Bound::Mixed, false, false), 7, "threads first, profile, adjust", false),
            (task(5_000, Bound::Unclear, true, true), 7, "threads first, profile, adjust", true),
        ] {
            assert_eq!(decision_tree(task), Branch { step, says, queues }, "{task:?}");
        }
    }
}
