//! Log of a worker's tasks: lines in Celery's style where a level is asked for, else short lines of
//! what went wrong.
//!
//! Lines are written by a thread of their own: whoever does not read our stderr holds up no task.
//! What does not fit into its queue is counted.

use std::{
    fmt,
    io::Write,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use longshore_core::watch::{Detail, Events, Heard, Hub};
use longshore_worker::{SchedulerEvent, TaskChange, TaskNotice, WorkerEvent};
use serde_json::json;

use super::{super::beat::LineStyle, args::Level};
use crate::{
    progress::Voice,
    queue::show::{clock, cut, plain},
    web::audit_line,
};

/// Most lines that may wait to be written.
const WAITING: usize = 65_536;

/// Most events that are handed on together.
const BATCH: usize = 1_000;

/// Words about lines for which there was no room, behind their number.
const DROPPED: &str = " lines of the log were dropped: nobody reads it fast enough";

/// Advice about a task that holds the async lane.
const STALLED: &str = "others on it cannot go on; what computes or blocks belongs on the lane cpu or blocking";

/// Longest part of a result or an exception that is shown on a line.
const LONGEST: usize = 1024;

enum Message {
    Line(String),
    Events(Vec<Heard<WorkerEvent>>),
    End,
}

/// The log of a worker: a reader of what it tells.
pub(super) struct Log {
    send: mpsc::SyncSender<Message>,
    /// The thread that hears the worker, and the one that writes.
    hears: Option<JoinHandle<()>>,
    writes: Option<JoinHandle<()>>,
    style: Style,
}

/// Form in which lines are written, and how many of them.
#[derive(Clone, Copy)]
struct Style {
    level: Option<Level>,
    json: bool,
    quiet: bool,
}

impl Log {
    /// Begins to write what is told through this hub.
    pub(super) fn start(level: Option<Level>, voice: Voice, hub: &Hub<WorkerEvent>) -> Self {
        let level = level.or((voice.level >= 2).then_some(Level::Info));
        let style = Style { level, json: voice.json, quiet: voice.level < 0 };
        let (send, receive) = mpsc::sync_channel(WAITING);
        // What is said of nothing takes no room, and wakes nobody.
        let events = hub.listen_to(Detail::Tasks, WAITING, move |event| style.hears(event));
        let lines = send.clone();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let hears = thread("longshore-heard").spawn(move || hear(events, &lines));
        let writes = thread("longshore-log").spawn(move || write(&receive, style));
        Self { send, hears: hears.ok(), writes: writes.ok(), style }
    }

    /// Returns a writer of the news of the worker's connections.
    pub(super) fn teller(&self) -> longshore_brokers::Notice {
        let (send, quiet) = (self.send.clone(), self.style.quiet);
        Arc::new(move |news| {
            if !quiet {
                let _ = send.try_send(Message::Line(format!("{} {}", clock(SystemTime::now()), plain(&news.to_string()))));
            }
        })
    }

    /// Returns what writes a line for each action that somebody takes over HTTP.
    pub(super) fn auditor(&self) -> longshore_web::Auditor {
        let send = self.send.clone();
        // Also of a quiet worker: who changed what is no chatter. A full queue may not hold up
        // whoever asks.
        longshore_web::Auditor::new(move |action| {
            let line = format!("{} {}", clock(action.at), plain(&audit_line(action)));
            let _ = send.try_send(Message::Line(line));
        })
    }

    /// A line of the worker's own.
    pub(super) fn say(&self, line: fmt::Arguments<'_>) {
        if !self.style.quiet {
            // The worker is no task: its own few lines may wait.
            let _ = self.send.send(Message::Line(line.to_string()));
        }
    }

    /// Waits until everything that a worker that has ended has told is on its way to be written.
    pub(super) fn catch_up(&mut self) {
        self.hears.take().map(JoinHandle::join);
    }

    /// Writes what is left of a worker that has ended.
    pub(super) fn end(mut self) {
        self.catch_up();
        let _ = self.send.send(Message::End);
        self.writes.take().map(JoinHandle::join);
    }
}

/// Hands on what the worker tells, in batches, until it has ended.
fn hear(mut events: Events<WorkerEvent>, lines: &mpsc::SyncSender<Message>) {
    while let Some(first) = events.blocking_next() {
        let rest = std::iter::from_fn(|| events.try_next());
        let batch = std::iter::once(first).chain(rest).take(BATCH).collect();
        if lines.send(Message::Events(batch)).is_err() {
            return;
        }
    }
}

fn write(receive: &mpsc::Receiver<Message>, style: Style) {
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
                Message::Events(events) => {
                    for line in events.iter().filter_map(|heard| style.heard(heard)) {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
            }
            next = if text.len() < 64 << 10 && !end { receive.try_recv().ok() } else { None };
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        text.clear();
        if end {
            return;
        }
    }
}

impl Style {
    /// Returns whether anything is said of it.
    fn hears(self, event: &WorkerEvent) -> bool {
        match event {
            WorkerEvent::Task(notice) => self.says(&notice.what),
            // Connections are told by their news, in more words.
            WorkerEvent::Schedule(event) => self.schedule(event).is_some(),
            WorkerEvent::Stalled { .. } => !self.quiet && self.level.is_none_or(|least| Level::Warning >= least),
            _ => false,
        }
    }

    fn heard(self, heard: &Heard<WorkerEvent>) -> Option<String> {
        match heard {
            Heard::Event(WorkerEvent::Task(notice)) => self.line(notice),
            Heard::Event(WorkerEvent::Stalled { message, held, .. }) => Some(self.stalled(&message.task, &message.id, *held)),
            Heard::Event(WorkerEvent::Schedule(event)) => self.schedule(event),
            Heard::Event(_) => None,
            Heard::Missed(count) if self.json => Some(json!({ "message": format!("{count}{DROPPED}"), "dropped": count }).to_string()),
            Heard::Missed(count) => Some(format!(" {count}{DROPPED}")),
        }
    }

    /// Returns what is said of a task that was sent; the rest of a scheduler's events comes as
    /// news.
    fn schedule(self, event: &SchedulerEvent) -> Option<String> {
        let style = LineStyle { level: self.level, json: self.json, quiet: self.quiet };
        if event.is_notable() { None } else { style.line(event) }
    }

    /// Returns what is said of a task that holds the async lane.
    fn stalled(self, task: &str, id: &str, held: Duration) -> String {
        let at = SystemTime::now();
        if self.json {
            return json!({
                "at": crate::queue::show::time(at), "level": "warning", "event": "stalled",
                "task": task, "id": id, "lane": "async", "held": held.as_secs_f64(),
            })
            .to_string();
        }
        let (shown, name) = (seconds(held), plain(task));
        match self.level {
            Some(_) => {
                let id = plain(id);
                format!("[{}: WARNING/MainProcess] Task {name}[{id}] holds the async lane for {shown}: {STALLED}", stamp(at))
            }
            None => {
                let id = plain(&cut(id, 8));
                format!(" {} {name}[{}] holds the async lane for {shown}: {STALLED}", clock(at), id.trim_end_matches('…'))
            }
        }
    }

    /// Returns true where a line tells of it.
    fn says(self, what: &TaskChange) -> bool {
        match self.level {
            Some(least) => level(what) >= least,
            None => !self.quiet && is_news(what),
        }
    }

    fn line(self, notice: &TaskNotice) -> Option<String> {
        if !self.says(&notice.what) {
            return None;
        }
        let level = level(&notice.what);
        if self.json {
            return Some(document(notice, level));
        }
        Some(match self.level {
            Some(_) => {
                let seat = notice.slot.map_or_else(|| "MainProcess".to_owned(), |(lane, slot)| format!("{lane}-{}", slot + 1));
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

/// Returns true for what is told where nobody asked for a level.
fn is_news(what: &TaskChange) -> bool {
    !matches!(
        what,
        TaskChange::Received
            | TaskChange::Started
            | TaskChange::Succeeded { .. }
            | TaskChange::Ignored
            | TaskChange::Replaced
            | TaskChange::Revoked { .. }
    )
}

/// Celery's level of it.
fn level(what: &TaskChange) -> Level {
    match what {
        TaskChange::Started => Level::Debug,
        TaskChange::Failed { .. } | TaskChange::Dead { .. } => Level::Error,
        TaskChange::Crashed { .. } | TaskChange::Late => Level::Warning,
        _ => Level::Info,
    }
}

/// Celery's words for it.
fn celery(what: &TaskChange, task: &str, id: &str) -> String {
    let name = format!("{}[{}]", plain(task), plain(id));
    let text = |text: &str| cut(&plain(text), LONGEST);
    match what {
        TaskChange::Received => format!("Task {name} received"),
        TaskChange::Started => format!("Task accepted: {name}"),
        TaskChange::Succeeded { runtime, result } => format!("Task {name} succeeded in {}: {}", seconds(*runtime), text(result)),
        TaskChange::Failed { exception, traceback, .. } => {
            let trace = traceback.as_deref().filter(|trace| trace.trim_end() != exception);
            let trace = trace.map(|trace| format!("\n{}", lines(trace))).unwrap_or_default();
            format!("Task {name} raised unexpected: {}{trace}", text(exception))
        }
        TaskChange::Retried { exception, after } => format!("Task {name} retry: Retry in {}: {}", seconds(*after), text(exception)),
        TaskChange::Revoked { terminated: true, signal, .. } => {
            let signal = signal.map_or_else(String::new, |signal| format!(" (signal {signal})"));
            format!("Task revoked: {name} terminated{signal}")
        }
        TaskChange::Revoked { expired: true, .. } => format!("Discarding expired task: {name}"),
        TaskChange::Revoked { .. } => format!("Discarding revoked task: {name}"),
        TaskChange::Rejected { requeue } => format!("Task {name} rejected{}", if *requeue { ", back to its queue" } else { "" }),
        TaskChange::Ignored => format!("Task {name} ignored"),
        TaskChange::Replaced => format!("Task {name} replaced"),
        TaskChange::Crashed { reason, crashes } => format!("Task {name} died ({}), crash {crashes} of 3: it is tried again", text(reason)),
        TaskChange::Dead { reason } => format!("Task {name} is a dead letter: {}", text(reason)),
        TaskChange::Late => format!("Task {name} ended after it had been given to another worker: its result is refused"),
    }
}

/// A short line for people.
fn short(notice: &TaskNotice) -> String {
    let message = &notice.message;
    let name = format!("{}[{}]", plain(&message.task), plain(&cut(&message.id, 8)).trim_end_matches('…'));
    let text = |text: &str| cut(&plain(text), 300);
    match &notice.what {
        TaskChange::Failed { exception, runtime, .. } => {
            let after = runtime.map(|runtime| format!(" after {}", seconds(runtime))).unwrap_or_default();
            format!("{name} failed{after}: {}", text(exception))
        }
        TaskChange::Retried { exception, after } => {
            format!("{name} retry {} in {}: {}", message.retries + 1, seconds(*after), text(exception))
        }
        TaskChange::Rejected { requeue: true } => format!("{name} handed back by its task"),
        TaskChange::Rejected { requeue: false } => format!("{name} rejected"),
        TaskChange::Crashed { reason, crashes } => format!("{name} died ({}), crash {crashes} of 3: tried again", text(reason)),
        TaskChange::Dead { reason } => format!("{name} dead letter: {} (longshore dead)", text(reason)),
        TaskChange::Late => format!("{name} ended too late: another worker has it, its result is refused"),
        what => format!("{name} {what:?}"),
    }
}

fn document(notice: &TaskNotice, level: Level) -> String {
    let message = &notice.message;
    let (what, more) = match &notice.what {
        TaskChange::Received => ("received", json!({})),
        TaskChange::Started => ("started", json!({})),
        TaskChange::Succeeded { runtime, result } => {
            ("succeeded", json!({ "runtime": runtime.as_secs_f64(), "result": cut(result, LONGEST) }))
        }
        TaskChange::Failed { runtime, exception, traceback } => (
            "failed",
            json!({ "runtime": runtime.map(|runtime| runtime.as_secs_f64()), "exception": cut(exception, LONGEST), "traceback": traceback }),
        ),
        TaskChange::Retried { exception, after } => {
            ("retried", json!({ "exception": cut(exception, LONGEST), "after": after.as_secs_f64() }))
        }
        TaskChange::Revoked { terminated, signal, expired } => {
            ("revoked", json!({ "terminated": terminated, "signal": signal, "expired": expired }))
        }
        TaskChange::Rejected { requeue } => ("rejected", json!({ "requeue": requeue })),
        TaskChange::Ignored => ("ignored", json!({})),
        TaskChange::Replaced => ("replaced", json!({})),
        TaskChange::Crashed { reason, crashes } => ("crashed", json!({ "reason": reason, "crashes": crashes })),
        TaskChange::Dead { reason } => ("dead", json!({ "reason": reason })),
        TaskChange::Late => ("late", json!({})),
    };
    let mut document = json!({
        "at": crate::queue::show::time(notice.at),
        "level": level.name().to_ascii_lowercase(),
        "event": what,
        "task": message.task,
        "id": message.id,
        "queue": &*notice.queue,
        "lane": notice.slot.map(|(lane, _)| lane.as_str()),
        "slot": notice.slot.map(|(_, slot)| slot + 1),
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
pub(in crate::commands) fn stamp(at: SystemTime) -> String {
    let Ok(at) = jiff::Timestamp::try_from(at) else { return String::new() };
    let zoned = at.to_zoned(jiff::tz::TimeZone::system());
    format!("{},{:03}", zoned.strftime("%Y-%m-%d %H:%M:%S"), zoned.millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::LaneKind;

    fn notice(what: TaskChange, slot: Option<(LaneKind, u32)>) -> TaskNotice {
        let message = longshore_celery::Message { task: "tasks.add".into(), id: "9f0c1234-aaaa".into(), retries: 0, ..Default::default() };
        TaskNotice {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_262_467_412),
            message: Arc::new(message),
            queue: "celery".into(),
            slot,
            what,
        }
    }

    #[test]
    fn lines_are_as_celery_has_them_with_lane_and_slot_for_the_process() {
        let style = Style { level: Some(Level::Info), json: false, quiet: false };
        let line = |what, slot| style.line(&notice(what, slot)).map(|line| line.split_once(": ").unwrap().1.to_owned());
        let slot = Some((LaneKind::Blocking, 2));
        assert_eq!(line(TaskChange::Received, None).unwrap(), "INFO/MainProcess] Task tasks.add[9f0c1234-aaaa] received");
        assert_eq!(
            line(TaskChange::Succeeded { runtime: Duration::from_micros(3_002_000), result: "6".into() }, slot).unwrap(),
            "INFO/blocking-3] Task tasks.add[9f0c1234-aaaa] succeeded in 3.002s: 6"
        );
        assert_eq!(
            line(TaskChange::Retried { exception: "ValueError('x')".into(), after: Duration::from_secs(180) }, slot).unwrap(),
            "INFO/blocking-3] Task tasks.add[9f0c1234-aaaa] retry: Retry in 180s: ValueError('x')"
        );
        assert_eq!(line(TaskChange::Started, slot), None);
        let whole = style.line(&notice(TaskChange::Received, None)).unwrap();
        assert!(whole.starts_with("[2026-11-2") && whole.contains(",412: INFO/"), "{whole}");
    }

    #[test]
    fn unless_asked_only_what_went_wrong_is_said() {
        let style = Style { level: None, json: false, quiet: false };
        assert_eq!(style.line(&notice(TaskChange::Received, None)), None);
        let line =
            style.line(&notice(TaskChange::Retried { exception: "status 503".into(), after: Duration::from_millis(400) }, None)).unwrap();
        assert!(line.ends_with(" tasks.add[9f0c1234] retry 1 in 0.4s: status 503"), "{line}");
        let quiet = Style { quiet: true, ..style };
        assert_eq!(quiet.line(&notice(TaskChange::Late, None)), None);
        let hostile = style.line(&notice(TaskChange::Dead { reason: "\u{1b}[2J".into() }, None)).unwrap();
        assert!(!hostile.contains('\u{1b}'));
    }

    #[test]
    fn a_task_that_holds_the_async_lane_is_told_and_so_are_lines_that_are_missing() {
        let message = Arc::new(longshore_celery::Message { task: "tasks.add".into(), id: "9f0c1234-aaaa".into(), ..Default::default() });
        let stalled = WorkerEvent::Stalled { message, queue: "celery".into(), held: Duration::from_millis(120) };
        let plain = Style { level: None, json: false, quiet: false };
        for (style, heard, has) in [
            (plain, true, " tasks.add[9f0c1234] holds the async lane for 0.12s: others on it cannot go on"),
            (
                Style { level: Some(Level::Warning), ..plain },
                true,
                "WARNING/MainProcess] Task tasks.add[9f0c1234-aaaa] holds the async lane for 0.12s",
            ),
            (Style { json: true, ..plain }, true, "\"event\":\"stalled\""),
            (Style { quiet: true, ..plain }, false, ""),
            (Style { level: Some(Level::Error), ..plain }, false, ""),
        ] {
            assert_eq!(style.hears(&stalled), heard, "{has}");
            let line = style.heard(&Heard::Event(stalled.clone())).unwrap();
            assert!(!heard || line.contains(has), "{line}");
        }
        let missing = plain.heard(&Heard::Missed(7)).unwrap();
        assert_eq!(missing, " 7 lines of the log were dropped: nobody reads it fast enough");
    }
}
