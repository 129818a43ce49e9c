//! The keys that there are, where each may stand, and which form its value has. A new flag of `run`
//! is one line here.

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`; the flag takes no value.
    Bool,
    /// A whole number.
    Whole,
    /// A string or a number.
    Text,
    /// A string, or a list of strings and numbers; each is one use of the flag.
    List,
    /// A list of strings that becomes one value with commas.
    Commas,
    /// `K = V` in a table, or a list of `"K=V"`; each is one use of the flag.
    Pairs,
    /// A program and its arguments: a list, or a string that is split as a shell would.
    Words,
}

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Its name, with dashes: the flag's long name.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Belongs to one job and can be no default for all: neither in `[run]` nor in the environment.
    pub(super) one_job: bool,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, one_job: false }
}

const fn of_job(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, one_job: true }
}

use Kind::{Bool, Commas, List, Pairs, Text, Whole, Words};

/// The keys of a section: its own, and lists that others have too.
pub(super) type Keys = &'static [&'static [Key]];

/// All keys of a section.
pub(super) fn all(keys: Keys) -> impl Iterator<Item = &'static Key> {
    keys.iter().copied().flatten()
}

/// Settings of further attempts: after which errors, and when.
const RETRIES: &[Key] = &[key("retries", Whole), key("backoff", Text), key("retry-on", Commas)];

/// Settings of a child.
const CHILD: &[Key] = &[key("stdin", Text), key("cwd", Text), key("env", Pairs), key("kill-after", Text)];

/// Settings of an HTTP request: its parts, its connection, and which answers are good.
const REQUEST: &[Key] = &[
    key("header", List),
    key("body-json", Text),
    key("body", Text),
    key("form", Pairs),
    key("ok", Commas),
    key("connect-timeout", Text),
    key("redirects", Whole),
    key("http2", Bool),
    key("insecure", Bool),
    key("proxy", Text),
];

/// Keys outside any section: the flags of every command.
pub(super) const TOP: Keys =
    &[&[key("color", Text), key("log-format", Text), key("state-dir", Text), key("json", Bool), key("no-input", Bool)]];

/// Keys of `[run]` and `[job.NAME]`.
pub(super) const RUN: Keys = &[RUN_ALONE, RETRIES, CHILD, REQUEST];

const RUN_ALONE: &[Key] = &[
    // What runs, over which input.
    of_job("http", Text),
    of_job("pipe", Text),
    of_job("pipe-window", Whole),
    of_job("command", Words),
    of_job("task", Text),
    of_job("args", Text),
    of_job("kwargs", Text),
    of_job("queue", Text),
    of_job("input", List),
    of_job("retry", Text),
    of_job("name", Text),
    of_job("output", Text),
    // Input.
    key("format", Text),
    key("null", Bool),
    key("no-header", Bool),
    key("skip", Whole),
    key("take", Whole),
    key("where", Text),
    key("key", Text),
    key("dups", Text),
    key("max-record", Text),
    key("strict", Bool),
    key("batch", Text),
    of_job("split", Text),
    // Concurrency.
    key("concurrency", Text),
    key("adaptive", Text),
    key("per", Pairs),
    key("lane", Text),
    key("order-by", Text),
    key("max-load", Text),
    key("min-free-mem", Text),
    key("nice", Text),
    // Pace.
    key("rate", Text),
    key("burst", Whole),
    key("rate-by", Text),
    key("ramp", Text),
    key("limit", Text),
    key("no-retry-after", Bool),
    // Retries.
    key("give-up-after", Text),
    // Time.
    key("timeout", Text),
    key("grace", Text),
    key("slow", Text),
    key("job-timeout", Text),
    // Stop.
    key("max-fail", Text),
    key("until-ok", Whole),
    key("check", List),
    // Output.
    key("emit", Text),
    key("ordered", Bool),
    key("as-completed", Bool),
    key("order-window", Whole),
    key("only", Text),
    key("fields", Commas),
    key("max-output", Text),
    of_job("save-output", Text),
    of_job("failed-out", Text),
    key("tag", Bool),
    of_job("line-buffer", Bool),
    // Commands.
    key("shell", Bool),
    // HTTP.
    of_job("save-body", Text),
    // Durability.
    key("durable", Text),
    key("in-flight", Text),
    // View.
    key("progress", Text),
    key("every", Text),
    key("summary", Text),
    of_job("summary-file", Text),
    key("on-finish", Text),
    key("notify", Bool),
    of_job("report", Text),
    key("exit-count", Bool),
    // Page.
    of_job("listen", Text),
    key("web-token", Text),
    key("web-password", Text),
    key("web-proxy", Text),
    key("web-read-only", Bool),
    key("hide-args", Bool),
];

/// Keys of `[limits.NAME]`.
pub(super) const LIMIT: Keys = &[&[key("rate", Text), key("burst", Whole), key("concurrency", Whole), key("by", Text)]];

/// Keys of `[retry.NAME]`.
pub(super) const RETRY: Keys = &[&[key("retries", Whole), key("backoff", Text), key("on", Commas), key("give-up-after", Text)]];

/// Keys of `[connections]`.
pub(super) const CONNECTIONS: Keys = &[&[key("broker", Text), key("results", Text), key("task-send-sent-event", Bool)]];

/// Keys of `[routes."PATTERN"]`, which may also be its queue alone: `"mail.*" = "mail"`.
pub(super) const ROUTE: Keys =
    &[&[key("queue", Text), key("exchange", Text), key("exchange-type", Text), key("routing-key", Text), key("priority", Whole)]];

/// Keys of `[queues.NAME]`.
pub(super) const QUEUE: Keys = &[&[
    key("type", Text),
    key("max-priority", Whole),
    key("arguments", Pairs),
    key("exchange", Text),
    key("exchange-type", Text),
    key("routing-key", Text),
    key("durable", Bool),
    key("auto-delete", Bool),
    key("exclusive", Bool),
    key("dead-letters", Text),
]];

/// Keys of `[worker]`: the flags of `longshore worker`, and `lanes`, a table.
pub(super) const WORKER: Keys = &[&[
    key("hostname", Text),
    key("queues", Commas),
    key("exclude-queues", Commas),
    key("concurrency", Text),
    key("loglevel", Text),
    key("lanes", Pairs),
    key("prefetch", Whole),
    key("acks", Text),
    key("visibility-timeout", Text),
    key("lease", Text),
    key("time-limit", Text),
    key("soft-time-limit", Text),
    key("max-tasks-per-child", Whole),
    key("max-memory-per-child", Text),
    key("task-rate", Pairs),
    key("grace", Text),
    key("max-idle", Text),
    key("pidfile", Text),
    key("no-events", Bool),
    key("no-remote-control", Bool),
    key("pool", Text),
    key("autoscale", Text),
    key("accept", Commas),
    key("errback", Commas),
    key("max-tasks", Whole),
    key("task-events", Bool),
    key("result-extended", Bool),
    key("beat", Bool),
    key("listen", Text),
    key("web-token", Text),
    key("web-password", Text),
    key("web-proxy", Text),
    key("web-read-only", Bool),
    key("hide-args", Bool),
]];

/// Keys of `[dashboard]`: the flags of `longshore dashboard`.
pub(super) const DASHBOARD: Keys = &[&[
    key("listen", Text),
    key("intake-rate", Text),
    key("intake-burst", Whole),
    key("intake-most-waiting", Whole),
    key("history", Text),
    key("no-history", Bool),
    key("history-tasks", Whole),
    key("history-size", Text),
    key("no-enable-events", Bool),
    key("kafka", Text),
    key("group", List),
    key("web-token", Text),
    key("web-password", Text),
    key("web-proxy", Text),
    key("web-read-only", Bool),
    key("hide-args", Bool),
]];

/// Keys of `[tasks.NAME]`.
pub(super) const TASK: Keys = &[TASK_ALONE, RETRIES, CHILD, REQUEST];

const TASK_ALONE: &[Key] = &[
    // What runs.
    key("exec", Words),
    key("pipe", Words),
    key("http", Text),
    // Its policy.
    key("queue", Text),
    key("timeout", Text),
    key("soft-timeout", Text),
    key("retry", Text),
    key("rate", Text),
    key("rate-shared", Bool),
    key("limit", Text),
    key("acks", Text),
    key("ignore-result", Bool),
    key("track-started", Bool),
    key("max-output", Text),
    // Commands and pipes.
    key("memory", Text),
    key("children", Whole),
    key("max-tasks-per-child", Whole),
    // HTTP.
    key("hosts", Commas),
    key("private", Bool),
];

/// Keys of `[schedules.NAME]`.
pub(super) const SCHEDULE: Keys = &[&[
    key("task", Text),
    key("args", Text),
    key("kwargs", Text),
    key("queue", Text),
    key("priority", Whole),
    key("expires", Text),
    key("cron", Text),
    key("every", Text),
    key("zone", Text),
    key("both-days", Bool),
    key("jitter", Text),
    key("missed", Text),
    key("most", Whole),
]];

/// Keys of `[kafka.TOPIC]`: flags of `longshore kafka`.
pub(super) const KAFKA: Keys = &[KAFKA_ALONE, RETRIES, CHILD, REQUEST];

const KAFKA_ALONE: &[Key] = &[
    key("bootstrap", Text),
    key("setting", Pairs),
    // Of `consume` alone.
    key("http", Text),
    key("pipe", Text),
    key("group", Text),
    key("member", Text),
    key("from", Text),
    key("commit-every", Text),
    key("drain", Text),
    key("without-permission", Text),
    key("max-threads", Whole),
    key("max-in-flight", Whole),
    key("resume-at", Text),
    key("pause-interval", Text),
    key("max-parked", Whole),
    key("order", Text),
    key("buffers", Text),
    key("rate", Text),
    key("burst", Whole),
    key("timeout", Text),
    key("dead-letter", Text),
    key("grace", Text),
    key("emit", Text),
    key("to", Text),
    key("max-output", Text),
    key("shell", Bool),
    // Page.
    key("listen", Text),
    key("web-token", Text),
    key("web-password", Text),
    key("web-proxy", Text),
    key("web-read-only", Bool),
    key("hide-args", Bool),
];

/// The sections, for messages.
pub(super) const SECTIONS: &[&str] =
    &["run", "job", "limits", "retry", "connections", "routes", "queues", "worker", "dashboard", "tasks", "schedules", "kafka"];

/// `LONGSHORE_…` variables that are no settings: the path of a config file, the connections, and
/// what a child is told about its task.
pub(super) const OTHER_VARIABLES: &[&str] = &[
    "LONGSHORE_CONFIG",
    "LONGSHORE_BROKER",
    "LONGSHORE_RESULTS",
    "LONGSHORE_KAFKA",
    "LONGSHORE_JOB",
    "LONGSHORE_TASK",
    "LONGSHORE_TASK_ID",
    "LONGSHORE_ATTEMPT",
    "LONGSHORE_SLOT",
];

/// `max-fail` is `LONGSHORE_MAX_FAIL`.
pub(super) fn variable(name: &str) -> String {
    format!("LONGSHORE_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Keys that a `LONGSHORE_…` variable sets.
pub(super) fn variables() -> impl Iterator<Item = &'static Key> {
    all(TOP).chain(all(RUN)).filter(|key| !key.one_job)
}

/// The candidate that was probably meant: the nearest one, if it is near enough for its length.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(word.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Single-character edits and swaps of neighbours between two words (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not() {
        for (word, want) in [
            ("rat", Some("rate")),
            ("concurency", Some("concurrency")),
            ("tiemout", Some("timeout")),
            ("retires", Some("retries")),
            ("outptu", Some("output")),
            ("xyzzy", None),
        ] {
            assert_eq!(nearest(word, all(RUN).map(|key| key.name)), want, "{word}");
        }
    }

    #[test]
    fn no_key_stands_twice_and_no_variable_has_two_meanings() {
        for keys in [TOP, RUN, LIMIT, RETRY, CONNECTIONS, ROUTE, WORKER, TASK, SCHEDULE, KAFKA] {
            let mut names: Vec<_> = all(keys).map(|key| key.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{names:?}");
        }
        let names: Vec<String> = variables().map(|key| variable(key.name)).collect();
        for name in OTHER_VARIABLES {
            assert!(!names.iter().any(|other| other == name), "{name}");
        }
    }
}
