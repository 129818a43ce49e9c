//! The lines of `longshore top`.

use std::time::{Duration, SystemTime};

use clap::builder::styling::{AnsiColor, Style};
use longshore_ops::{
    overview::{Overview, WorkerGlance},
    queues::{QueueAction, QueueInfo},
};
use tokio::time::Instant;

use super::{
    Order,
    columns::{Column, cut, table},
};
use crate::{
    progress::view::paint,
    queue::show::{clock, plain},
    units::{show_count, show_duration},
};

const DIM: Style = Style::new().dimmed();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CHOSEN: Style = Style::new().invert();

/// Sign for what nobody knows.
const UNKNOWN: &str = "–";
/// Time for which it is shown that something could not be done.
const NOTED: Duration = Duration::from_secs(8);

const WORKERS: &[Column] = &[
    Column { head: "WORKER", rank: 0, is_text: true },
    Column { head: "SLOTS", rank: 2, is_text: false },
    Column { head: "RUNNING", rank: 1, is_text: false },
    Column { head: "DONE/s", rank: 3, is_text: false },
    Column { head: "LOAD", rank: 5, is_text: false },
    Column { head: "QUEUES", rank: 4, is_text: true },
];

const QUEUES: &[Column] = &[
    Column { head: "QUEUE", rank: 0, is_text: true },
    Column { head: "WAITING", rank: 1, is_text: false },
    Column { head: "RUNNING", rank: 2, is_text: false },
    Column { head: "OLDEST", rank: 4, is_text: false },
    Column { head: "IN/s", rank: 6, is_text: false },
    Column { head: "OUT/s", rank: 5, is_text: false },
    Column { head: "STATE", rank: 3, is_text: true },
];

/// Reason why nothing new is seen.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) why: String,
    pub(super) since: Instant,
}

/// The board as it is shown.
#[derive(Debug)]
pub(super) struct Board {
    broker: String,
    order: Order,
    /// The last that was seen, and when.
    seen: Option<SystemTime>,
    workers: Vec<WorkerGlance>,
    queues: Vec<QueueInfo>,
    trouble: Option<Trouble>,
    /// Name of the queue that keys are meant for.
    chosen: Option<String>,
    noted: Option<(String, Instant)>,
}

impl Board {
    /// A board before anything was seen.
    pub(super) fn of_nothing(broker: String, order: Order) -> Self {
        Self { broker, order, seen: None, workers: Vec::new(), queues: Vec::new(), trouble: None, chosen: None, noted: None }
    }

    /// A board with this on it.
    pub(super) fn of(overview: Overview, order: Order) -> Self {
        let mut board = Self::of_nothing(String::new(), order);
        board.show(overview, SystemTime::now());
        board
    }

    /// Shows this from now on.
    pub(super) fn show(&mut self, overview: Overview, at: SystemTime) {
        (self.broker, self.workers, self.queues, self.seen) = (overview.broker, overview.workers, overview.queues, Some(at));
        self.put_in_order();
    }

    /// Says that nothing new is seen, and why; or that it is again.
    pub(super) fn trouble(&mut self, trouble: Option<Trouble>) {
        self.trouble = trouble;
    }

    /// Says something for some seconds.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.noted = Some((text.into(), Instant::now()));
    }

    /// Takes the next order.
    pub(super) fn sort(&mut self) {
        self.order = self.order.next();
        self.put_in_order();
    }

    /// Sorts; what is equal stays in the order of the names.
    fn put_in_order(&mut self) {
        let per_milli = |rate: Option<f64>| rate.map(|rate| (rate * 1000.0) as u64);
        self.workers.sort_by(|a, b| a.node.cmp(&b.node));
        self.queues.sort_by(|a, b| a.name.cmp(&b.name));
        match self.order {
            Order::Name => {}
            Order::Busy => {
                self.workers.sort_by_key(|worker| std::cmp::Reverse(worker.running));
                self.queues.sort_by_key(|queue| std::cmp::Reverse((queue.waiting, queue.running)));
            }
            Order::Rate => {
                self.workers.sort_by_key(|worker| std::cmp::Reverse(per_milli(worker.done_per_second)));
                self.queues.sort_by_key(|queue| std::cmp::Reverse(per_milli(queue.out_per_second)));
            }
        }
    }

    /// Chooses the queue so many rows below; the first one where none was chosen.
    pub(super) fn choose(&mut self, below: isize) {
        let last = self.queues.len().saturating_sub(1);
        let at = self.chosen().map_or(0, |at| at.saturating_add_signed(below).min(last));
        self.chosen = self.queues.get(at).map(|queue| queue.name.clone());
    }

    fn chosen(&self) -> Option<usize> {
        self.queues.iter().position(|queue| Some(&queue.name) == self.chosen.as_ref())
    }

    /// Returns what pauses the chosen queue, or lets it go on.
    ///
    /// # Errors
    /// No queue is chosen: what to do.
    pub(super) fn switch(&self, by: String) -> Result<QueueAction, &'static str> {
        let queue = self.chosen().map(|at| &self.queues[at]).ok_or("choose a queue with ↑ and ↓ first")?;
        Ok(match queue.paused_by {
            None => QueueAction::Pause { queue: queue.name.clone(), by },
            Some(_) => QueueAction::Resume { queue: queue.name.clone() },
        })
    }

    /// Returns all of it, uncut and without colours.
    pub(super) fn plain(&self) -> Vec<String> {
        let mut lines = self.worker_lines(usize::MAX);
        lines.push(String::new());
        lines.extend(self.queue_lines(usize::MAX));
        lines
    }

    /// Returns a page of so many columns and lines.
    pub(super) fn lines(&self, width: usize, height: usize, color: bool, keys: bool) -> Vec<String> {
        let mut lines = vec![cut(&self.title(), width)];
        if let Some(trouble) = &self.trouble {
            lines.push(paint(color, RED, &cut(&trouble_line(trouble), width)));
        }
        let footer = self.footer(keys);
        let (workers, queues) = (self.worker_lines(width), self.queue_lines(width));
        // An empty line above each table, and the footer.
        let room = height.saturating_sub(lines.len() + 2 + usize::from(!footer.is_empty()));
        let of_workers = workers.len().min((room / 2).max(room.saturating_sub(queues.len())));
        let of_queues = room - of_workers;
        let chosen = self.chosen();
        for (lines_of, room, chosen) in [(workers, of_workers, None), (queues, of_queues, chosen)] {
            lines.push(String::new());
            let style = |(at, line): (Option<usize>, String)| match at {
                None => paint(color, DIM, &line),
                Some(at) if chosen == Some(at) => paint(color, CHOSEN, &line),
                Some(_) if line.contains("paused by") || line.contains("silent ") => paint(color, YELLOW, &line),
                Some(_) => line,
            };
            lines.extend(part(lines_of, room, chosen).into_iter().map(style));
        }
        if !footer.is_empty() {
            lines.truncate(height.saturating_sub(1));
            lines.resize(height.saturating_sub(1), String::new());
            lines.push(paint(color, DIM, &cut(&footer, width)));
        }
        lines.truncate(height);
        lines
    }

    fn title(&self) -> String {
        let at = self.seen.map_or_else(|| "asking …".to_owned(), clock);
        format!("longshore top  {}  {at}", plain(&self.broker))
    }

    fn footer(&self, keys: bool) -> String {
        match &self.noted {
            Some((text, at)) if at.elapsed() < NOTED => plain(text),
            _ if !keys => String::new(),
            _ => {
                let is_paused = self.chosen().is_some_and(|at| self.queues[at].paused_by.is_some());
                format!("q end  ↑↓ queue  p {}  s order: {}", if is_paused { "resume" } else { "pause" }, self.order.word())
            }
        }
    }

    fn worker_lines(&self, width: usize) -> Vec<String> {
        if self.workers.is_empty() && self.seen.is_some() {
            return vec![cut("no worker replies (longshore worker, celery worker)", width)];
        }
        table(WORKERS, &self.workers.iter().map(worker_row).collect::<Vec<_>>(), width)
    }

    fn queue_lines(&self, width: usize) -> Vec<String> {
        if self.queues.is_empty() && self.seen.is_some() {
            return vec![cut("no queues yet: a task that is sent makes one", width)];
        }
        table(QUEUES, &self.queues.iter().map(queue_row).collect::<Vec<_>>(), width)
    }
}

/// Returns as many lines of a table as there is room for, around the chosen row: each with its
/// row's number, if it is one; what is left out is counted.
fn part(lines: Vec<String>, room: usize, chosen: Option<usize>) -> Vec<(Option<usize>, String)> {
    let rows = lines.len().saturating_sub(1);
    let mut numbered = lines.into_iter().enumerate().map(|(at, line)| (at.checked_sub(1), line));
    if rows < room {
        return numbered.collect();
    }
    // The headings, and what is left out, take a line each.
    let most = room.saturating_sub(2);
    let first = chosen.map_or(0, |chosen| (chosen + 1).saturating_sub(most));
    let mut part: Vec<_> = numbered.next().into_iter().chain(numbered.skip(first).take(most)).collect();
    part.push((None, format!("… {} more", rows - most)));
    part.truncate(room);
    part
}

fn trouble_line(trouble: &Trouble) -> String {
    let since = Duration::from_secs(trouble.since.elapsed().as_secs());
    format!("the broker is away for {}, asked again every second: {}", show_duration(since), plain(&trouble.why))
}

fn unknown<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), text)
}

fn rate(rate: f64) -> String {
    format!("{rate:.1}")
}

fn worker_row(worker: &WorkerGlance) -> Vec<String> {
    let silent = worker.silent.map(|time| format!("silent {}", show_duration(Duration::from_secs(time.as_secs()))));
    vec![
        plain(&worker.node),
        unknown(worker.slots, show_count),
        unknown(worker.running, show_count),
        unknown(worker.done_per_second, rate),
        unknown(worker.load, |load| format!("{load:.2}")),
        silent.unwrap_or_else(|| plain(&worker.queues.join(", "))),
    ]
}

fn queue_row(queue: &QueueInfo) -> Vec<String> {
    let least = if queue.oldest_at_least { "≥" } else { "" };
    let state = match &queue.paused_by {
        Some(by) => format!("paused by {}{}", plain(by), queue.paused_since.map(|since| format!(" {}", clock(since))).unwrap_or_default()),
        None if queue.workers == Some(0) => "no worker".to_owned(),
        None => "running".to_owned(),
    };
    vec![
        plain(&queue.name),
        show_count(queue.waiting),
        unknown(queue.running, show_count),
        unknown(queue.oldest, |age| format!("{least}{}", show_duration(age))),
        unknown(queue.in_per_second, rate),
        unknown(queue.out_per_second, rate),
        state,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview() -> Overview {
        let worker = |node: &str, running, done, silent: Option<u64>| {
            let mut worker = WorkerGlance::default();
            worker.node = node.to_owned();
            (worker.slots, worker.running, worker.done_per_second, worker.load) = (Some(8), Some(running), done, Some(0.5));
            (worker.queues, worker.silent) = (vec!["celery".to_owned(), "cpu".to_owned()], silent.map(Duration::from_secs));
            worker
        };
        let queue = |name: &str, waiting, out, paused: Option<&str>| {
            let mut queue = QueueInfo::default();
            queue.name = name.to_owned();
            (queue.waiting, queue.running, queue.oldest) = (waiting, Some(3), Some(Duration::from_secs(192)));
            (queue.in_per_second, queue.out_per_second) = (Some(51.24), out);
            (queue.workers, queue.paused_by) = (Some(1), paused.map(str::to_owned));
            queue
        };
        let mut overview = Overview::default();
        overview.broker = "redis://127.0.0.1/0".to_owned();
        overview.workers = vec![worker("w1@lab", 3, Some(48.9), None), worker("w2@lab", 7, None, Some(9))];
        overview.queues =
            vec![queue("celery", 1234, Some(48.9), None), queue("cpu", 0, Some(99.0), Some("ops@laptop")), queue("mail", 5, None, None)];
        overview
    }

    #[test]
    fn a_page_fits_terminals_of_every_size() {
        let mut board = Board::of(overview(), Order::Name);
        assert_eq!(
            board.plain(),
            [
                "WORKER  SLOTS  RUNNING  DONE/s  LOAD  QUEUES",
                "w1@lab      8        3    48.9  0.50  celery, cpu",
                "w2@lab      8        7       –  0.50  silent 9s",
                "",
                "QUEUE   WAITING  RUNNING  OLDEST  IN/s  OUT/s  STATE",
                "celery    1,234        3   3m12s  51.2   48.9  running",
                "cpu           0        3   3m12s  51.2   99.0  paused by ops@laptop",
                "mail          5        3   3m12s  51.2      –  running",
            ]
        );
        board.choose(1);
        board.trouble(Some(Trouble { why: "redis://127.0.0.1/0: refused".to_owned(), since: Instant::now() }));
        for (width, height) in [(80, 24), (40, 24), (40, 12), (20, 8), (200, 60), (1, 1), (80, 3)] {
            for color in [false, true] {
                let lines = board.lines(width, height, color, true);
                assert!(lines.len() <= height, "{width}x{height}: {lines:?}");
                assert!(lines.iter().all(|line| crate::progress::text::columns(line) <= width), "{width}x{height}: {lines:?}");
            }
        }
        let page = board.lines(40, 24, false, true);
        assert!(page[1].starts_with("the broker is away for 0s"), "{page:?}");
        assert_eq!(page[3], "WORKER  SLOTS  RUNNING  DONE/s  QUEUES");
        assert_eq!(page[7], "QUEUE   WAITING  RUNNING  STATE");
        assert_eq!(page[23], "q end  ↑↓ queue  p pause  s order: name");
    }

    #[test]
    fn rows_without_room_are_counted_and_the_chosen_one_is_among_those_that_are_shown() {
        let mut many = overview();
        let queue = many.queues[0].clone();
        let named = |at| {
            let mut queue = queue.clone();
            queue.name = format!("q{at:02}");
            queue
        };
        many.queues = (0..30).map(named).collect();
        let mut board = Board::of(many, Order::Name);
        let shown = |board: &Board| {
            board.lines(80, 16, false, true).into_iter().filter(|line| line.starts_with('q') && !line.starts_with("q ")).count()
        };
        assert_eq!(shown(&board), 7);
        for _ in 0..26 {
            board.choose(1);
        }
        let page = board.lines(80, 16, true, true);
        let marked = page.iter().find(|line| line.contains("\u{1b}[7m")).unwrap();
        assert!(marked.contains("q25"), "{page:?}");
        assert!(page.iter().any(|line| line.contains("… 23 more")), "{page:?}");
    }

    #[test]
    fn rows_are_in_the_order_that_is_asked_for() {
        let order = |order| {
            let board = Board::of(overview(), order);
            let workers: Vec<_> = board.workers.iter().map(|worker| worker.node.as_str().to_owned()).collect();
            (workers.join(" "), board.queues.iter().map(|queue| queue.name.clone()).collect::<Vec<_>>().join(" "))
        };
        for (by, workers, queues) in [
            (Order::Name, "w1@lab w2@lab", "celery cpu mail"),
            (Order::Busy, "w2@lab w1@lab", "celery mail cpu"),
            (Order::Rate, "w1@lab w2@lab", "cpu celery mail"),
        ] {
            assert_eq!(order(by), (workers.to_owned(), queues.to_owned()), "{by:?}");
        }
    }

    #[test]
    fn a_key_pauses_the_queue_that_is_chosen_and_no_other() {
        let mut board = Board::of(overview(), Order::Name);
        assert!(board.switch("me@here".to_owned()).is_err());
        board.choose(1);
        assert_eq!(board.switch("me@here".to_owned()), Ok(QueueAction::Pause { queue: "celery".to_owned(), by: "me@here".to_owned() }));
        board.choose(1);
        assert_eq!(board.switch("me@here".to_owned()), Ok(QueueAction::Resume { queue: "cpu".to_owned() }));
        // It stays chosen where rows move, and where it goes nothing is.
        board.sort();
        assert_eq!(board.switch("me@here".to_owned()), Ok(QueueAction::Resume { queue: "cpu".to_owned() }));
        let mut fewer = overview();
        fewer.queues.retain(|queue| queue.name != "cpu");
        board.show(fewer, SystemTime::now());
        assert!(board.switch("me@here".to_owned()).is_err());
    }
}
