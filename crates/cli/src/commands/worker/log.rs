//! What a worker says of tasks: lines in Celery's style where a level is asked for, else short lines of what went wrong.
//!
//! Lines are written by a thread of their own: whoever does not read our stderr holds up no task. What does not fit into its queue is counted.

use std::{
    fmt,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use longshore_worker::{Notice, What};
use serde_json::json;

use super::args::Level;
use crate::{
    progress::Voice,
    queue::show::{clock, cut, plain},
};

/// Batches of lines that may wait.
const WAITING: usize = 4096;

/// So much of a result or an exception is shown on a line.
const LONGEST: usize = 1024;

enum Message {
    Line(String),
    Notices(Vec<Notice>),
    End,
}

/// The log of a worker, and its counts.
pub(super) struct Log {
    send: mpsc::SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    style: Style,
}

#[derive(Default)]
struct Shared {
    running: AtomicU64,
    ended: AtomicU64,
    dropped: AtomicU64,
    /// Tasks that ran and went back to their queues.
    back: AtomicU64,
}

/// In which form lines are written.
#[derive(Clone, Copy)]
struct Style {
    level: Option<Level>,
    json: bool,
    quiet: bool,
}

impl Log {
    pub(super) fn start(level: Option<Level>, voice: Voice) -> Self {
        let level = level.or((voice.level >= 2).then_some(Level::Info));
        let style = Style { level, json: voice.json, quiet: voice.level < 0 };
        let (send, receive) = mpsc::sync_channel(WAITING);
        let shared: Arc<Shared> = Arc::default();
        let counts = shared.clone();
        let thread = std::thread::Builder::new().name("longshore-log".to_owned()).spawn(move || write(&receive, style, &counts));
        Self { send, shared, thread: thread.ok(), style }
    }

    /// What the worker tells.
    pub(super) fn listener(&self) -> Arc<dyn Fn(&[Notice]) + Send + Sync> {
        let (send, shared, style) = (self.send.clone(), self.shared.clone(), self.style);
        Arc::new(move |notices| {
            shared.count(notices);
            let said: Vec<Notice> = notices.iter().filter(|notice| style.says(&notice.what)).cloned().collect();
            let count = said.len() as u64;
            if count > 0 && send.try_send(Message::Notices(said)).is_err() {
                shared.dropped.fetch_add(count, Ordering::Relaxed);
            }
        })
    }

    /// What happens to its connections.
    pub(super) fn teller(&self) -> longshore_brokers::Notice {
        let (send, quiet) = (self.send.clone(), self.style.quiet);
        Arc::new(move |news| {
            if !quiet {
                let _ = send.try_send(Message::Line(format!("{} {}", clock(SystemTime::now()), plain(&news.to_string()))));
            }
        })
    }

    /// A line of the worker's own.
    pub(super) fn say(&self, line: fmt::Arguments<'_>) {
        if !self.style.quiet {
            // The worker is no task: its own few lines may wait.
            let _ = self.send.send(Message::Line(line.to_string()));
        }
    }

    pub(super) fn running(&self) -> u64 {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Attempts that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Attempts that ended with their task back in its queue.
    pub(super) fn back(&self) -> u64 {
        self.shared.back.load(Ordering::Acquire)
    }

    /// Writes what is left.
    pub(super) fn end(mut self) {
        let _ = self.send.send(Message::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn count(&self, notices: &[Notice]) {
        for notice in notices {
            match &notice.what {
                What::Received => {}
                What::Started => {
                    self.running.fetch_add(1, Ordering::AcqRel);
                }
                What::Rejected { requeue: true } => {
                    self.back.fetch_add(1, Ordering::AcqRel);
                    self.end_one(notice);
                }
                // Whatever else happens ends an attempt, or a task that never ran.
                _ => self.end_one(notice),
            }
        }
    }

    fn end_one(&self, notice: &Notice) {
        if notice.seat.is_some() {
            let _ = self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, |running| running.checked_sub(1));
        }
        self.ended.fetch_add(1, Ordering::AcqRel);
    }
}

fn write(receive: &mpsc::Receiver<Message>, style: Style, shared: &Shared) {
    let mut text = String::new();
    loop {
        let Ok(first) = receive.recv() else { return };
        let mut next = Some(first);
        let mut end = false;
        while let Some(message) = next {
            match message {
                Message::End => end = true,
                Message::Line(line) if style.json => text.push_str(&format!("{}\n", json!({ "message": line }))),
                Message::Line(line) => text.push_str(&format!(" {line}\n")),
                Message::Notices(notices) => {
                    for notice in &notices {
                        if let Some(line) = style.line(notice) {
                            text.push_str(&line);
                            text.push('\n');
                        }
                    }
                }
            }
            next = if text.len() < 64 << 10 && !end { receive.try_recv().ok() } else { None };
        }
        let dropped = shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            text.push_str(&format!(" {dropped} lines of the log were dropped: nobody reads it fast enough\n"));
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        text.clear();
        if end {
            return;
        }
    }
}

impl Style {
    /// Whether anything is said of it.
    fn says(self, what: &What) -> bool {
        match self.level {
            Some(least) => level(what) >= least,
            None => !self.quiet && is_news(what),
        }
    }

    fn line(self, notice: &Notice) -> Option<String> {
        if !self.says(&notice.what) {
            return None;
        }
        let level = level(&notice.what);
        if self.json {
            return Some(document(notice, level));
        }
        Some(match self.level {
            Some(_) => {
                let seat = notice.seat.map_or_else(|| "MainProcess".to_owned(), |(lane, slot)| format!("{lane}-{}", slot + 1));
                format!(
                    "[{}: {}/{seat}] {}",
                    stamp(notice.at),
                    level.name(),
                    celery(&notice.what, &notice.message.task, &notice.message.id)
                )
            }
            None => format!(" {} {}", clock(notice.at), short(notice)),
        })
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        }
    }
}

/// What is said unless more is asked for.
fn is_news(what: &What) -> bool {
    !matches!(what, What::Received | What::Started | What::Succeeded { .. } | What::Ignored | What::Replaced | What::Revoked { .. })
}

/// Celery's level of it.
fn level(what: &What) -> Level {
    match what {
        What::Started => Level::Debug,
        What::Failed { .. } | What::Dead { .. } => Level::Error,
        What::Crashed { .. } | What::Late => Level::Warning,
        _ => Level::Info,
    }
}

/// Celery's words for it.
fn celery(what: &What, task: &str, id: &str) -> String {
    let name = format!("{}[{}]", plain(task), plain(id));
    let text = |text: &str| cut(&plain(text), LONGEST);
    match what {
        What::Received => format!("Task {name} received"),
        What::Started => format!("Task accepted: {name}"),
        What::Succeeded { runtime, result } => format!("Task {name} succeeded in {}: {}", seconds(*runtime), text(result)),
        What::Failed { exception, traceback, .. } => {
            let trace = traceback.as_deref().filter(|trace| trace.trim_end() != exception);
            let trace = trace.map(|trace| format!("\n{}", lines(trace))).unwrap_or_default();
            format!("Task {name} raised unexpected: {}{trace}", text(exception))
        }
        What::Retried { exception, after } => format!("Task {name} retry: Retry in {}: {}", seconds(*after), text(exception)),
        What::Revoked { terminated: true, signal, .. } => {
            let signal = signal.map_or_else(String::new, |signal| format!(" (signal {signal})"));
            format!("Task revoked: {name} terminated{signal}")
        }
        What::Revoked { expired: true, .. } => format!("Discarding expired task: {name}"),
        What::Revoked { .. } => format!("Discarding revoked task: {name}"),
        What::Rejected { requeue } => format!("Task {name} rejected{}", if *requeue { ", back to its queue" } else { "" }),
        What::Ignored => format!("Task {name} ignored"),
        What::Replaced => format!("Task {name} replaced"),
        What::Crashed { reason, crashes } => format!("Task {name} died ({}), crash {crashes} of 3: it is tried again", text(reason)),
        What::Dead { reason } => format!("Task {name} is a dead letter: {}", text(reason)),
        What::Late => format!("Task {name} ended after it had been given to another worker: its result is refused"),
    }
}

/// A short line for people.
fn short(notice: &Notice) -> String {
    let message = &notice.message;
    let name = format!("{}[{}]", plain(&message.task), plain(&cut(&message.id, 8)).trim_end_matches('…'));
    let text = |text: &str| cut(&plain(text), 300);
    match &notice.what {
        What::Failed { exception, runtime, .. } => {
            let after = runtime.map(|runtime| format!(" after {}", seconds(runtime))).unwrap_or_default();
            format!("{name} failed{after}: {}", text(exception))
        }
        What::Retried { exception, after } => format!("{name} retry {} in {}: {}", message.retries + 1, seconds(*after), text(exception)),
        What::Rejected { requeue: true } => format!("{name} handed back by its task"),
        What::Rejected { requeue: false } => format!("{name} rejected"),
        What::Crashed { reason, crashes } => format!("{name} died ({}), crash {crashes} of 3: tried again", text(reason)),
        What::Dead { reason } => format!("{name} dead letter: {} (longshore dead)", text(reason)),
        What::Late => format!("{name} ended too late: another worker has it, its result is refused"),
        what => format!("{name} {what:?}"),
    }
}

fn document(notice: &Notice, level: Level) -> String {
    let message = &notice.message;
    let (what, more) = match &notice.what {
        What::Received => ("received", json!({})),
        What::Started => ("started", json!({})),
        What::Succeeded { runtime, result } => ("succeeded", json!({ "runtime": runtime.as_secs_f64(), "result": cut(result, LONGEST) })),
        What::Failed { runtime, exception, traceback } => (
            "failed",
            json!({ "runtime": runtime.map(|runtime| runtime.as_secs_f64()), "exception": cut(exception, LONGEST), "traceback": traceback }),
        ),
        What::Retried { exception, after } => ("retried", json!({ "exception": cut(exception, LONGEST), "after": after.as_secs_f64() })),
        What::Revoked { terminated, signal, expired } => {
            ("revoked", json!({ "terminated": terminated, "signal": signal, "expired": expired }))
        }
        What::Rejected { requeue } => ("rejected", json!({ "requeue": requeue })),
        What::Ignored => ("ignored", json!({})),
        What::Replaced => ("replaced", json!({})),
        What::Crashed { reason, crashes } => ("crashed", json!({ "reason": reason, "crashes": crashes })),
        What::Dead { reason } => ("dead", json!({ "reason": reason })),
        What::Late => ("late", json!({})),
    };
    let mut document = json!({
        "at": crate::queue::show::time(notice.at),
        "level": level.name().to_ascii_lowercase(),
        "event": what,
        "task": message.task,
        "id": message.id,
        "queue": &*notice.queue,
        "lane": notice.seat.map(|(lane, _)| lane.as_str()),
        "slot": notice.seat.map(|(_, slot)| slot + 1),
    });
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    document.to_string()
}

/// `3.002s`, to the microsecond.
fn seconds(time: Duration) -> String {
    let text = format!("{:.6}", time.as_secs_f64());
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}s")
}

/// A traceback's lines, harmless to a terminal.
fn lines(text: &str) -> String {
    text.trim_end().lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// `2026-11-21 12:01:07,412`, as Python's logging has it.
fn stamp(at: SystemTime) -> String {
    let Ok(at) = jiff::Timestamp::try_from(at) else { return String::new() };
    let zoned = at.to_zoned(jiff::tz::TimeZone::system());
    format!("{},{:03}", zoned.strftime("%Y-%m-%d %H:%M:%S"), zoned.millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::LaneKind;

    fn notice(what: What, seat: Option<(LaneKind, u32)>) -> Notice {
        let message = longshore_celery::Message { task: "tasks.add".into(), id: "9f0c1234-aaaa".into(), retries: 0, ..Default::default() };
        Notice {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_262_467_412),
            message: Arc::new(message),
            queue: "celery".into(),
            seat,
            what,
        }
    }

    #[test]
    fn lines_are_as_celery_has_them_with_lane_and_slot_for_the_process() {
        let style = Style { level: Some(Level::Info), json: false, quiet: false };
        let line = |what, seat| style.line(&notice(what, seat)).map(|line| line.split_once(": ").unwrap().1.to_owned());
        let seat = Some((LaneKind::Blocking, 2));
        assert_eq!(line(What::Received, None).unwrap(), "INFO/MainProcess] Task tasks.add[9f0c1234-aaaa] received");
        assert_eq!(
            line(What::Succeeded { runtime: Duration::from_micros(3_002_000), result: "6".into() }, seat).unwrap(),
            "INFO/blocking-3] Task tasks.add[9f0c1234-aaaa] succeeded in 3.002s: 6"
        );
        assert_eq!(
            line(What::Retried { exception: "ValueError('x')".into(), after: Duration::from_secs(180) }, seat).unwrap(),
            "INFO/blocking-3] Task tasks.add[9f0c1234-aaaa] retry: Retry in 180s: ValueError('x')"
        );
        assert_eq!(line(What::Started, seat), None);
        let whole = style.line(&notice(What::Received, None)).unwrap();
        assert!(whole.starts_with("[2026-11-2") && whole.contains(",412: INFO/"), "{whole}");
    }

    #[test]
    fn unless_asked_only_what_went_wrong_is_said() {
        let style = Style { level: None, json: false, quiet: false };
        assert_eq!(style.line(&notice(What::Received, None)), None);
        let line = style.line(&notice(What::Retried { exception: "status 503".into(), after: Duration::from_millis(400) }, None)).unwrap();
        assert!(line.ends_with(" tasks.add[9f0c1234] retry 1 in 0.4s: status 503"), "{line}");
        let quiet = Style { quiet: true, ..style };
        assert_eq!(quiet.line(&notice(What::Late, None)), None);
        let hostile = style.line(&notice(What::Dead { reason: "\u{1b}[2J".into() }, None)).unwrap();
        assert!(!hostile.contains('\u{1b}'));
    }

    #[test]
    fn what_runs_is_counted_from_what_is_told() {
        let shared = Shared::default();
        let seat = Some((LaneKind::Async, 0));
        let done = What::Succeeded { runtime: Duration::ZERO, result: String::new() };
        shared.count(&[notice(What::Received, None), notice(What::Started, seat), notice(What::Started, seat), notice(done, seat)]);
        shared.count(&[notice(What::Revoked { terminated: false, signal: None, expired: true }, None)]);
        assert_eq!((shared.running.into_inner(), shared.ended.into_inner()), (1, 2));
    }
}
