//! A consumer at one moment, as lines for a terminal, as a plain line, and as JSON. Rendering only.

use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use longshore_kafka::{GateState, Intake, PartitionView, View};
use serde_json::{Value as Json, json};

use super::{args::Sleep, machine::Cost, trouble};
use crate::{
    progress::{
        text::{self, columns, count, short},
        view::{State, paint},
    },
    units::show_size,
};

const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// The widest bar worth drawing, and the least.
const BAR: (usize, usize) = (30, 8);
/// The most lines of partitions.
const LINES: usize = 8;
/// Silence of the consumer from which on it is said.
const LATE: Duration = Duration::from_secs(1);
/// The most lines of what is wrong.
const TROUBLES: usize = 3;

/// A consumer at one moment.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Its topics.
    pub(super) name: String,
    pub(super) group: String,
    pub(super) view: View,
    /// Records done per second, smoothed.
    pub(super) rate: f64,
    /// Present value of `--sleep`.
    pub(super) sleep: Option<Sleep>,
    pub(super) cost: Cost,
    /// Time since the consumer has answered, where it does not: counts and troubles are of now, the
    /// rest is older.
    pub(super) late: Option<Duration>,
    pub(super) state: State,
}

impl Moment {
    /// Records that are not committed, in the partitions that we have; `None` while no broker has
    /// told.
    pub(super) fn lag(&self) -> Option<u64> {
        let lags: Vec<i64> = self.view.partitions.iter().filter_map(|partition| partition.lag).collect();
        (!lags.is_empty()).then(|| lags.iter().map(|lag| u64::try_from(*lag).unwrap_or(0)).sum())
    }

    fn failed(&self) -> u64 {
        self.view.counts.dead + self.view.counts.skipped
    }

    /// The lines of this moment, none wider than `width` columns: the threads and the gate, what
    /// was done, what it costs, the partitions.
    pub(super) fn lines(&self, width: usize, color: bool) -> Vec<String> {
        let room = width.saturating_sub(1);
        let view = &self.view;
        let active = format!("{}/{} active", count(view.engine.active as u64), count(view.max_threads as u64));
        let flight = format!("{}/{} in flight", count(view.in_flight as u64), count(view.max_in_flight as u64));
        let head = format!(" {}  ", paint(color, BOLD, &self.name));
        let rest = [paint(color, if view.engine.active >= view.max_threads { YELLOW } else { GREEN }, &active), flight, self.gate(color)];
        let used = columns(&head) + rest.iter().map(|piece| columns(piece) + 2).sum::<usize>();
        // The bar takes what the words leave, or goes where that is too little to read.
        let bar = match room.saturating_sub(used) {
            cells if cells < BAR.1 => String::new(),
            cells => bar(view.in_flight, view.max_in_flight, view.reopen_at, cells.min(BAR.0), color) + "  ",
        };
        // Lines below begin under the first word, but a long name must not push them out.
        let indent = " ".repeat(columns(&head).min(room / 3));
        let mut lines = vec![fit(vec![format!("{head}{bar}{}", rest.join("  "))], room)];
        let mut done = vec![
            format!("{indent}{}", paint(color, GREEN, &format!("done {}", count(view.counts.done - self.failed().min(view.counts.done))))),
            text::rate(self.rate),
        ];
        if let Some(lag) = self.lag() {
            done.push(format!("lag {}", count(lag)));
        }
        if let Some(Sleep(from, to)) = self.sleep {
            done.push(if from == to { format!("sleep {}", short(from)) } else { format!("sleep {}..{}", short(from), short(to)) });
        }
        let run = &view.engine.summary.run;
        if !run.max.is_zero() {
            done.push(format!("p50 {} p99 {}", short(run.p50), short(run.p99)));
        }
        if self.failed() > 0 {
            done.push(paint(color, RED, &format!("failed {}", count(self.failed()))));
        }
        if view.parked > 0 {
            done.push(paint(color, YELLOW, &format!("parked {}", count(view.parked as u64))));
        }
        if view.burying > 0 {
            done.push(paint(color, YELLOW, &format!("letters waiting {}", count(view.burying as u64))));
        }
        if let Some(late) = self.late.filter(|late| *late >= LATE) {
            done.push(paint(color, YELLOW, &format!("no answer for {}", short(late))));
        }
        match self.state {
            State::Running => {}
            State::Paused => done.push(paint(color, YELLOW, "paused (p goes on)")),
            State::Stopping => done.push(paint(color, YELLOW, "stopping")),
        }
        lines.push(fit(done, room));
        // A line of its own: it changes slowly, and what it lacks room for is not missed.
        let mut cost = vec![format!("{indent}cpu {:.0}%", self.cost.cpu * 100.0)];
        cost.push(format!("mem {}", show_size(self.cost.memory)));
        cost.push(format!("threads {}", count(self.cost.threads)));
        cost.push(format!("gate closed {}× for {}", count(view.closings), short(view.closed_for)));
        cost.push(view.committed_ago.map_or_else(|| "nothing committed yet".to_owned(), |ago| format!("committed {} ago", short(ago))));
        if view.counts.rebalances > 1 {
            cost.push(format!("rebalances {}", count(view.counts.rebalances)));
        }
        if view.counts.lost > 0 {
            cost.push(paint(color, RED, &format!("lost the group {}×", count(view.counts.lost))));
        }
        lines.push(fit(cost, room));
        // Troubles are sentences, each on a line, and must not push the partitions off the screen.
        for trouble in view.troubles.iter().take(TROUBLES) {
            let said = trouble.sentence(view.complaint.as_deref());
            lines.push(cut(&paint(color, RED, &format!("{indent}for {}: {said}", short(trouble.lasts()))), room));
        }
        if view.troubles.len() > TROUBLES {
            lines.push(cut(&paint(color, RED, &format!("{indent}… {} more are wrong", view.troubles.len() - TROUBLES)), room));
        }
        lines.extend(self.partitions(&indent, room, color));
        lines
    }

    fn gate(&self, color: bool) -> String {
        match self.view.gate {
            GateState::Open => paint(color, GREEN, "gate open"),
            GateState::Closed { since } => {
                paint(color, YELLOW, &format!("gate closed {} (reopens at {})", short(since), count(self.view.reopen_at as u64)))
            }
            GateState::Parked { since } => {
                paint(color, YELLOW, &format!("gate closed {}: too many wait for another attempt", short(since)))
            }
            GateState::Bytes { since } => {
                let bytes = show_size(self.view.bytes as u64);
                paint(color, YELLOW, &format!("gate closed {}: {bytes} in flight (--buffers)", short(since)))
            }
        }
    }

    /// `lag 0:4,812  1:4,790 (hot key)  …`, as many a line as fit.
    fn partitions(&self, indent: &str, room: usize, color: bool) -> Vec<String> {
        let partitions = &self.view.partitions;
        if partitions.is_empty() {
            return vec![format!("{indent}{}", paint(color, DIM, "no partitions yet"))];
        }
        let several = partitions.iter().any(|partition| partition.topic != partitions[0].topic);
        let mut sorted: Vec<&PartitionView> = partitions.iter().collect();
        sorted.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        let mut lines = Vec::new();
        let mut line = format!("{indent}{}", paint(color, DIM, "lag"));
        let mut left = sorted.len();
        for partition in sorted {
            let topic = if several { format!("{} ", partition.topic) } else { String::new() };
            let lag = partition.lag.map_or_else(|| "?".to_owned(), |lag| count(u64::try_from(lag).unwrap_or(0)));
            let mut cell = format!("  {topic}{}:{lag}", partition.partition);
            if !matches!(partition.state, Intake::Open | Intake::AtEnd) {
                cell += &paint(color, YELLOW, &format!(" ({})", partition.state.as_str()));
            }
            if columns(&line) + columns(&cell) > room {
                if lines.len() + 1 == LINES {
                    let more = format!("  … {left} more");
                    lines.push(cut(&(cut(&line, room.saturating_sub(columns(&more))) + &more), room));
                    return lines;
                }
                lines.push(cut(&std::mem::replace(&mut line, format!("{indent}   ")), room));
            }
            line += &cell;
            left -= 1;
        }
        lines.push(cut(&line, room));
        lines
    }

    /// One line for logs: `longshore kafka=orders group=demo active=75/75 …`.
    pub(super) fn plain(&self) -> String {
        let view = &self.view;
        let (gate, since) = self.gate_word();
        // Programs read these lines, so that no value has a blank or a separator in it.
        let mut line = format!(
            "longshore kafka={} group={} active={}/{} in_flight={}/{} gate={gate} closings={} done={} failed={} rate={}",
            self.name.replace(' ', ","),
            self.group.replace(char::is_whitespace, "_"),
            view.engine.active,
            view.max_threads,
            view.in_flight,
            view.max_in_flight,
            view.closings,
            view.counts.done,
            self.failed(),
            text::rate(self.rate).replace(',', ""),
        );
        if let Some(since) = since {
            line += &format!(" closed_for={}", short(since));
        }
        if let Some(lag) = self.lag() {
            line += &format!(" lag={lag}");
        }
        if let Some(Sleep(from, to)) = self.sleep {
            line += &if from == to { format!(" sleep={}", short(from)) } else { format!(" sleep={}..{}", short(from), short(to)) };
        }
        let run = &view.engine.summary.run;
        if !run.max.is_zero() {
            line += &format!(" p50={} p99={}", short(run.p50), short(run.p99));
        }
        if view.parked > 0 {
            line += &format!(" parked={}", view.parked);
        }
        if view.burying > 0 {
            line += &format!(" burying={}", view.burying);
        }
        if let Some(ago) = view.committed_ago {
            line += &format!(" committed={}", short(ago));
        }
        line += &format!(
            " partitions={} cpu={:.0}% mem={} threads={}",
            view.partitions.len(),
            self.cost.cpu * 100.0,
            show_size(self.cost.memory),
            self.cost.threads
        );
        // Only those that wait by themselves: of all others the gate speaks.
        for partition in view.partitions.iter().filter(|partition| matches!(partition.state, Intake::HotKey | Intake::TooFar)) {
            line += &format!(" waits[{}/{}]={}", partition.topic, partition.partition, partition.state.as_str().replace(' ', "_"));
        }
        if !view.troubles.is_empty() {
            let words: Vec<_> = view.troubles.iter().take(TROUBLES).map(trouble::word).collect();
            let more = if view.troubles.len() > TROUBLES { format!(",+{}", view.troubles.len() - TROUBLES) } else { String::new() };
            line += &format!(" trouble={}{more}", words.join(","));
        }
        if let Some(late) = self.late.filter(|late| *late >= LATE) {
            line += &format!(" late={}", short(late));
        }
        if self.state != State::Running {
            line += &format!(" state={}", self.state.as_str());
        }
        line
    }

    fn gate_word(&self) -> (&'static str, Option<Duration>) {
        match self.view.gate {
            GateState::Open => ("open", None),
            GateState::Closed { since } => ("closed", Some(since)),
            GateState::Parked { since } => ("parked", Some(since)),
            GateState::Bytes { since } => ("bytes", Some(since)),
        }
    }

    /// The same with each partition. Times are in milliseconds.
    pub(super) fn json(&self) -> Json {
        let view = &self.view;
        let (gate, since) = self.gate_word();
        let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let partition = |partition: &PartitionView| {
            json!({
                "topic": &*partition.topic, "partition": partition.partition, "position": partition.position, "committed": partition.committed,
                "lag": partition.lag, "incomplete": partition.incomplete, "oldest": partition.oldest, "metadata": partition.metadata,
                "state": partition.state.as_str(),
            })
        };
        let (run, counts) = (&view.engine.summary.run, &view.counts);
        json!({
            "topics": self.name, "group": self.group, "state": self.state.as_str(),
            "active": view.engine.active, "max_threads": view.max_threads, "in_flight": view.in_flight, "max_in_flight": view.max_in_flight,
            "in_flight_bytes": view.bytes, "max_in_flight_bytes": view.max_bytes,
            "gate": gate, "gate_closed_ms": since.map(millis), "closings": view.closings, "closed_ms": millis(view.closed_for),
            "done": counts.done, "read": counts.read, "known": counts.known, "dead": counts.dead, "skipped": counts.skipped, "parked": view.parked,
            "burying": view.burying, "troubles": view.troubles.iter().map(|trouble| trouble::json(trouble, view.complaint.as_deref())).collect::<Vec<_>>(),
            "withdrawn": counts.withdrawn, "abandoned": counts.abandoned, "commits": counts.commits, "commits_failed": counts.commits_failed,
            "rebalances": counts.rebalances, "lost": counts.lost, "pauses": counts.pauses,
            "rate_per_s": (self.rate * 1e3).round() / 1e3, "p50_ms": millis(run.p50), "p99_ms": millis(run.p99), "lag": self.lag(),
            "late_ms": self.late.map(millis), "sleep_ms": self.sleep.map(|Sleep(from, to)| [millis(from), millis(to)]),
            "committed_ago_ms": view.committed_ago.map(millis), "cpu": (self.cost.cpu * 1e3).round() / 1e3, "memory": self.cost.memory,
            "threads": self.cost.threads, "partitions": view.partitions.iter().map(partition).collect::<Vec<_>>(),
        })
    }
}

/// `━━━━━━┃━━━━━`: what is in flight, and the mark at which a closed gate opens again.
fn bar(in_flight: usize, most: usize, reopen: usize, cells: usize, color: bool) -> String {
    let cell = |number: usize| (number.min(most) * cells).checked_div(most).unwrap_or(0);
    let (filled, mark) = (cell(in_flight), cell(reopen).min(cells - 1));
    let full = if in_flight >= most { YELLOW } else { GREEN };
    let piece = |from: usize, to: usize| {
        let (from, to) = (from.min(to), to);
        let part = filled.clamp(from, to);
        let empty = "━".repeat(to - part);
        paint(color, full, &"━".repeat(part - from)) + &if color { paint(color, DIM, &empty) } else { empty.replace('━', "╌") }
    };
    format!("{}{}{}", piece(0, mark), paint(color, DIM, "┃"), piece(mark + 1, cells))
}

/// The pieces with two spaces between them, as many from the front as fit.
fn fit(pieces: Vec<String>, room: usize) -> String {
    let mut line = String::new();
    for piece in pieces {
        let gap = if line.is_empty() { "" } else { "  " };
        if columns(&line) + gap.len() + columns(&piece) > room {
            if line.is_empty() {
                return cut(&piece, room);
            }
            break;
        }
        line += gap;
        line += &piece;
    }
    line
}

/// A line that is not wider than that; without its colours if it was.
fn cut(line: &str, room: usize) -> String {
    if columns(line) <= room {
        return line.to_owned();
    }
    let mut plain = String::new();
    let mut escape = false;
    for letter in line.chars() {
        match letter {
            '\u{1b}' => escape = true,
            _ if escape => escape = !letter.is_ascii_alphabetic(),
            _ => plain.push(letter),
        }
    }
    plain.chars().take(room).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use longshore_core::{
        Phase,
        engine::{Quantiles, Snapshot, Summary},
        gate::{Reason, Refusal},
        watch::Timing,
    };
    use longshore_kafka::{Affected, GateState, Intake, PartitionView, RecordCounts, Trouble, View};

    use super::{Cost, Moment, Sleep, State, columns};

    const SECOND: Duration = Duration::from_secs(1);

    fn partition(topic: &str, partition: i32, lag: Option<i64>, state: Intake) -> PartitionView {
        let (position, committed, incomplete, oldest, metadata) = (10, Some(5), 5, Some(5), 3);
        PartitionView { topic: Arc::from(topic), partition, position, committed, lag, incomplete, oldest, metadata, state }
    }

    /// 75 of 75 run, 150 of 150 are in flight, the gate is closed.
    fn busy() -> Moment {
        let run = Quantiles { p50: 20 * SECOND / 1_000, p99: SECOND, max: 2 * SECOND, ..Quantiles::default() };
        let engine = Snapshot {
            phase: Phase::Running,
            active: 75,
            retrying: 0,
            waiting: Vec::new(),
            refusal: Refusal { reason: Reason::Empty, until: None },
            running: Vec::new(),
            rate: None,
            concurrency: Some(75),
            lanes: [75, 0, 0, 0],
            until_in: None,
            stall: None,
            run: Timing::default(),
            wait: Timing::default(),
            labels: Vec::new(),
            summary: Summary { run, ..Summary::default() },
        };
        let view = View {
            engine,
            max_threads: 75,
            in_flight: 150,
            max_in_flight: 150,
            bytes: 5 << 20,
            max_bytes: 16 << 20,
            reopen_at: 112,
            gate: GateState::Closed { since: 3 * SECOND / 2 },
            closings: 4,
            closed_for: 9 * SECOND,
            parked: 0,
            burying: 0,
            partitions: vec![partition("orders", 1, None, Intake::Open), partition("orders", 0, Some(4_812), Intake::HotKey)],
            counts: RecordCounts { done: 1_234, dead: 2, ..RecordCounts::default() },
            committed_ago: Some(SECOND),
            troubles: Vec::new(),
            complaint: None,
        };
        let cost = Cost { cpu: 0.25, memory: 64 << 20, threads: 12 };
        Moment {
            name: "orders".to_owned(),
            group: "demo".to_owned(),
            view,
            rate: 10.0,
            sleep: None,
            cost,
            late: None,
            state: State::Running,
        }
    }

    #[test]
    fn a_moment_says_what_runs_what_is_in_flight_whether_the_gate_is_open_and_the_lag_of_each_partition() {
        assert_eq!(
            busy().lines(120, false),
            [
                " orders  ━━━━━━━━━━━━━━━━━━━━━━┃━━━━━━━  75/75 active  150/150 in flight  gate closed 1.5s (reopens at 112)",
                "         done 1,232  10.0/s  lag 4,812  p50 20ms p99 1.0s  failed 2",
                "         cpu 25%  mem 64MiB  threads 12  gate closed 4× for 9.0s  committed 1.0s ago",
                "         lag  0:4,812 (hot key)  1:?",
            ]
        );
        let mut moment = busy();
        moment.view.engine.active = 3;
        moment.view.in_flight = 30;
        moment.view.gate = GateState::Open;
        moment.state = State::Stopping;
        moment.view.committed_ago = None;
        let lines = moment.lines(120, false);
        assert_eq!(lines[0], " orders  ━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌┃╌╌╌╌╌╌╌  3/75 active  30/150 in flight  gate open");
        assert!(lines[1].ends_with("failed 2  stopping") && lines[2].ends_with("nothing committed yet"), "{lines:?}");
        moment.view.gate = GateState::Parked { since: 61 * SECOND };
        assert!(moment.lines(120, false)[0].ends_with("gate closed 61s: too many wait for another attempt"));
        moment.view.gate = GateState::Bytes { since: SECOND };
        assert!(moment.lines(120, false)[0].ends_with("gate closed 1.0s: 5.0MiB in flight (--buffers)"));
        moment.view.partitions.clear();
        assert!(moment.lines(120, false)[3].ends_with("no partitions yet"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_colours_take_no_room() {
        let mut moment = busy();
        moment.view.troubles = vec![Trouble { affected: Affected::Broker, code: -187, since: 0, times: 1, until: Some(61_000) }];
        moment.view.complaint = Some("a broker cannot be reached, for reasons that take a long sentence to say".to_owned());
        moment.view.partitions =
            (0..200).map(|number| partition(["orders", "käufe"][number as usize % 2], number, Some(7), Intake::Open)).collect();
        for width in [1, 10, 40, 80, 200] {
            let (plain, coloured) = (moment.lines(width, false), moment.lines(width, true));
            for line in plain.iter().chain(&coloured) {
                assert!(columns(line) < width.max(2), "{width}: {line}");
            }
            assert_eq!(plain.len(), coloured.len(), "{width}");
        }
        let lines = moment.lines(80, false);
        assert!(lines[3].contains("for 61s: no broker answers: a broker cannot"), "{lines:?}");
        assert!(lines.len() == 12 && lines[11].contains(" more"), "eight lines of partitions, and how many are not shown: {lines:?}");
    }

    #[test]
    fn the_sleep_is_shown_as_it_is_turned() {
        let mut moment = busy();
        moment.sleep = Some(Sleep(SECOND, SECOND));
        let (lines, plain, json) = (moment.lines(200, false), moment.plain(), moment.json());
        assert!(lines[1].contains("lag 4,812  sleep 1.0s  p50"), "{lines:?}");
        assert!(plain.contains(" sleep=1.0s ") && json["sleep_ms"][1].as_f64() == Some(1_000.0), "{plain} {json}");
        moment.sleep = Some(Sleep(SECOND, 2 * SECOND));
        assert!(moment.plain().contains(" sleep=1.0s..2.0s "), "{}", moment.plain());
    }

    #[test]
    fn a_consumer_that_does_not_answer_is_shown_with_what_is_known_without_it() {
        let mut moment = busy();
        moment.late = Some(SECOND / 2);
        assert_eq!(moment.plain(), busy().plain(), "half a second is nothing to talk about");
        moment.late = Some(12 * SECOND);
        let (lines, plain, json) = (moment.lines(200, false), moment.plain(), moment.json());
        assert!(lines[1].ends_with("failed 2  no answer for 12s"), "{lines:?}");
        assert!(plain.ends_with(" late=12s") && json["late_ms"].as_f64() == Some(12_000.0), "{plain} {json}");
    }

    #[test]
    fn letters_that_wait_and_what_is_wrong_are_in_every_view() {
        let mut moment = busy();
        moment.view.burying = 3;
        let affected = Affected::DeadLetters { topic: "orders-dlt".to_owned() };
        moment.view.troubles = vec![Trouble { affected, code: 29, since: 0, times: 9, until: Some(9_000) }];
        let (lines, plain, json) = (moment.lines(200, false), moment.plain(), moment.json());
        assert!(lines[1].ends_with("failed 2  letters waiting 3"), "{lines:?}");
        assert!(lines[3].contains("for 9.0s: dead-letter topic `orders-dlt` takes no letters: no permission"), "{lines:?}");
        assert!(plain.contains(" burying=3 ") && plain.ends_with(" trouble=dead_letters[orders-dlt]"), "{plain}");
        assert_eq!((json["burying"].as_u64(), json["troubles"][0]["what"].as_str()), (Some(3), Some("dead_letters")));
    }

    #[test]
    fn a_plain_line_and_json_say_the_same() {
        let moment = busy();
        assert_eq!(
            moment.plain(),
            "longshore kafka=orders group=demo active=75/75 in_flight=150/150 gate=closed closings=4 done=1234 failed=2 rate=10.0/s closed_for=1.5s \
             lag=4812 p50=20ms p99=1.0s committed=1.0s partitions=2 cpu=25% mem=64MiB threads=12 waits[orders/0]=hot_key"
        );
        let json = moment.json();
        for (key, want) in
            [("active", 75), ("max_threads", 75), ("in_flight", 150), ("max_in_flight", 150), ("lag", 4_812), ("closings", 4)]
        {
            assert_eq!(json[key], want, "{key}");
        }
        assert_eq!((json["gate"].as_str(), json["gate_closed_ms"].as_f64()), (Some("closed"), Some(1_500.0)));
        assert_eq!((json["partitions"][1]["lag"].as_i64(), json["partitions"][1]["state"].as_str()), (Some(4_812), Some("hot key")));
    }
}
