//! `longshore enqueue`: send a task for each record, no faster than the broker keeps up, and say of
//! every record that was not sent.

mod ids;

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::{Args, ValueHint};
use futures_util::{StreamExt, stream};
use longshore_core::{CancelToken, ErrorKind, Rate, gate::pace::Pace};
use longshore_sys::files;
use longshore_worker::{ClientError, Signature};
use serde_json::json;
use tokio::sync::mpsc;

use self::ids::{IdsFile, MissingIds};
use crate::{
    exit::Exit,
    fault::{Fault, exit_of},
    queue::{
        Place,
        send::{self, SendArgs},
    },
    units::{self, show_count},
};
use longshore_run::{
    filling::Filling,
    input::{Format, Input, Options, Source},
    record::Record,
    template::{Condition, Shape, Vars},
};

/// Most records that are read ahead of the broker.
const AHEAD: usize = 1024;

/// Most records that were not sent and are told one by one.
const TOLD: usize = 20;

/// `longshore enqueue`.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER)]
pub struct EnqueueArgs {
    /// The task's name
    #[arg(value_name = "TASK")]
    pub task: String,
    /// Input files; `-` is stdin
    #[arg(short = 'i', long = "input", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub input: Vec<OsString>,
    /// The task's arguments, a JSON array with placeholders of the record: '["{url}", {size}]'
    #[arg(long, value_name = "TPL")]
    pub args: Option<String>,
    /// Its keyword arguments, a JSON object with placeholders
    #[arg(long, value_name = "TPL")]
    pub kwargs: Option<String>,
    /// Sends per time: 100/s, 500/min, 10/h
    #[arg(short = 'r', long, value_name = "RATE", value_parser = units::rate)]
    pub rate: Option<units::Rate>,
    /// Write the id of each task that was sent to this file, in the order of the input; with
    /// --skip, behind what stands there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ids: Option<PathBuf>,
    /// Format of the input: auto, lines, jsonl, csv, tsv or nul
    #[arg(long, default_value = "auto", help_heading = "Input")]
    pub format: Format,
    /// The first row of a table is a record, not a header
    #[arg(long, help_heading = "Input")]
    pub no_header: bool,
    /// Skip the first N records
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Input")]
    pub skip: u64,
    /// Take no more than N records
    #[arg(long, value_name = "N", help_heading = "Input")]
    pub take: Option<u64>,
    /// Take only records for which this expression is true
    #[arg(long = "where", value_name = "EXPR", help_heading = "Input")]
    pub where_: Option<String>,
    /// Flags of sending.
    #[command(flatten)]
    pub send: SendArgs,
}

const AFTER: &str = "\
Without --args and --kwargs a line is the one argument, a JSON array is the arguments, and a JSON object or a table's row is the keyword arguments.

Exit: 0 all sent · 1 some records cannot be sent (they are named) · 2 usage · 3 input unreadable · 6 broker unreachable, 74 the file of ids takes no more:
what was not sent is named, and `--skip N` goes on there";

/// Task to be made of each record, with its templates compiled.
struct SendPlan {
    args: EnqueueArgs,
    filling: Filling,
    condition: Option<Condition>,
}

/// A record on its way: where it stood, and its task, or why it has none.
struct Item {
    seq: u64,
    place: String,
    signature: Result<Signature, String>,
}

impl SendPlan {
    fn compile(args: &EnqueueArgs, shape: &Shape) -> Result<Self, Fault> {
        let condition =
            args.where_.as_ref().map(|text| Condition::parse(text, shape).map_err(|error| Fault::usage(format!("--where: {error}"))));
        Ok(Self {
            filling: Filling::compile(args.args.as_deref(), args.kwargs.as_deref(), shape).map_err(Fault::usage)?,
            condition: condition.transpose()?,
            args: args.clone(),
        })
    }

    /// The task of a record; nothing for one that is left out.
    fn signature(&self, record: &Record) -> Option<Result<Signature, String>> {
        let read = || {
            record.check().map_err(|error| error.message().to_owned())?;
            if let Some(condition) = &self.condition
                && !condition.holds(record, &Vars::default()).map_err(|error| error.message().to_owned())?
            {
                return Ok(None);
            }
            let (args, kwargs) = self.filling.fill(record).map_err(|error| error.message().to_owned())?;
            Ok(Some(self.args.send.signature(&self.args.task, args, kwargs)))
        };
        read().transpose()
    }
}

/// Runs the command.
///
/// # Errors
/// Usage, the input, the files; and 1 or 6 with what was not sent.
pub async fn run(args: &EnqueueArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let mut sources: Vec<Source> = args.input.iter().map(Source::of_word).collect();
    if sources.is_empty() {
        if std::io::stdin().is_terminal() {
            return Err(Fault::usage("no input: name a file with -i, or pipe records in"));
        }
        sources.push(Source::Stdin);
    }
    let mut options = Options::default();
    options.sources = sources;
    options.format = args.format;
    options.header = !args.no_header;
    options.skip = args.skip;
    options.take = args.take;
    let input = Input::open(&options).map_err(|error| Fault::new(if error.is_usage() { Exit::Usage } else { Exit::Input }, error))?;
    let plan = SendPlan::compile(args, &Shape::of(&input))?;
    let mut ids = match &args.ids {
        None => None,
        Some(path) => {
            // Whoever goes on where it stopped keeps the ids of what was sent before.
            let failed = |error| Fault::new(Exit::Unwritable, format!("{}: {}", path.display(), files::cause(&error)));
            Some(IdsFile::open(path, args.skip > 0).map_err(failed)?)
        }
    };
    let (items, stop) = read_ahead(input, plan);
    let mut report = Report::default();
    send(args, place, items, &mut report, &mut ids).await?;
    drop(stop);
    report.missing = ids.and_then(IdsFile::finish);
    report.finish(args, place, out)
}

/// Reads records on a thread of its own, a little ahead of what is sent.
fn read_ahead(input: Input, plan: SendPlan) -> (mpsc::Receiver<Result<Item, String>>, std::thread::JoinHandle<()>) {
    let (give, items) = mpsc::channel(AHEAD);
    let thread = std::thread::spawn(move || {
        for record in input {
            let item = match record {
                Err(error) => Err(error.to_string()),
                Ok(record) => match plan.signature(&record) {
                    None => continue,
                    Some(signature) => Ok(Item { seq: record.seq(), place: record.place().to_string(), signature }),
                },
            };
            let last = item.is_err();
            if give.blocking_send(item).is_err() || last {
                return;
            }
        }
    });
    (items, thread)
}

/// Counts of the records that were sent and that were not, and what is told of the latter.
#[derive(Default)]
struct Report {
    sent: u64,
    /// Place and reason of what cannot be sent.
    bad: Vec<(String, String)>,
    bad_count: u64,
    left: Option<Left>,
    unreadable: Option<String>,
    /// Ids that the file of ids did not take.
    missing: Option<MissingIds>,
}

/// Records that were not sent, from the first one on.
struct Left {
    exit: Exit,
    why: String,
    /// The first record that was not sent, or of which that is unknown.
    seq: u64,
    place: String,
    unknown: bool,
}

impl Report {
    fn bad(&mut self, place: String, reason: String) {
        self.bad_count += 1;
        if self.bad.len() < TOLD {
            self.bad.push((place, reason));
        }
    }

    fn finish(self, args: &EnqueueArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
        if place.json {
            writeln!(out, "{}", json!({ "sent": self.sent, "bad": self.bad_count, "stopped": self.left.as_ref().map(|left| &left.why) }))?;
        } else if !place.quiet {
            eprintln!(" {} {} sent", show_count(self.sent), super::queues::tasks(self.sent));
        }
        for (place, reason) in &self.bad {
            match reason.starts_with(place.as_str()) {
                true => eprintln!("longshore: not sent: {reason}"),
                false => eprintln!("longshore: not sent: {place}: {reason}"),
            }
        }
        if self.bad_count > self.bad.len() as u64 {
            eprintln!("longshore: and {} more that cannot be sent", show_count(self.bad_count - self.bad.len() as u64));
        }
        if let Some(missing) = &self.missing {
            missing.ids.iter().for_each(|id| eprintln!("longshore: sent, and its id is not in the file: {id}"));
        }
        if let Some(Left { exit, why, seq, place, unknown }) = self.left {
            let perhaps = if unknown { " (it and up to 255 behind it may have been sent)" } else { "" };
            let why = self.missing.map_or(why, |missing| missing.why);
            let message = format!(
                "{why}\nnot sent: {place} and all behind it{perhaps}; to go on there: longshore enqueue {} --skip {} …",
                args.task,
                seq.saturating_sub(1)
            );
            return Err(Fault { exit, message });
        }
        if let Some(missing) = self.missing {
            return Err(Fault::new(Exit::Unwritable, format!("{}; all that was read is sent", missing.why)));
        }
        if let Some(why) = self.unreadable {
            return Err(Fault::new(Exit::Input, format!("{why}; what stood before it was sent")));
        }
        Ok(if self.bad_count > 0 { Exit::Failed } else { Exit::Done })
    }
}

/// Records that the stream of tasks has met with so far.
#[derive(Default)]
struct Met {
    /// Records that were handed on, in order: number and place.
    places: VecDeque<(u64, String)>,
    bad: Vec<(String, String)>,
    unreadable: Option<String>,
    /// The first record that is left because of Ctrl-C.
    stopped: Option<(u64, String)>,
}

/// Sends what is read, at the pace that is asked for.
async fn send(
    args: &EnqueueArgs,
    place: &Place,
    items: mpsc::Receiver<Result<Item, String>>,
    report: &mut Report,
    ids: &mut Option<IdsFile>,
) -> Result<(), Fault> {
    let stop = CancelToken::new();
    let (ctrl_c, halt) = (stop.clone(), stop.clone());
    // The stream ends then; what is on its way is waited for, else nobody would know whether it was
    // sent.
    let listener = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            ctrl_c.cancel();
        }
    });
    let met: Arc<Mutex<Met>> = Arc::default();
    let lock = |met: &Arc<Mutex<Met>>, change: &mut dyn FnMut(&mut Met)| change(&mut met.lock().unwrap_or_else(PoisonError::into_inner));
    let pace = args.rate.map(|rate| Pace::new(Rate::per_second(rate.per_second())));
    let signatures = stream::unfold((items, pace, stop, met.clone()), move |(mut items, mut pace, stop, met)| async move {
        loop {
            let item = tokio::select! {
                item = items.recv() => item?,
                // A record that is read already names the place where the next call goes on.
                () = stop.cancelled() => items.try_recv().ok()?,
            };
            match item {
                Err(error) => {
                    lock(&met, &mut |met| met.unreadable = Some(error.clone()));
                    return None;
                }
                Ok(Item { seq, place, .. }) if stop.is_cancelled() => {
                    lock(&met, &mut |met| met.stopped = Some((seq, place.clone())));
                    return None;
                }
                Ok(Item { place, signature: Err(reason), .. }) => lock(&met, &mut |met| met.bad.push((place.clone(), reason.clone()))),
                Ok(Item { seq, place, signature: Ok(signature) }) => {
                    let slot = wait_for_slot(pace.as_mut());
                    tokio::select! {
                        () = slot => {}
                        () = stop.cancelled() => {
                            lock(&met, &mut |met| met.stopped = Some((seq, place.clone())));
                            return None;
                        }
                    }
                    // Answers come in the order of sending and name no record: this list says whose
                    // they are.
                    lock(&met, &mut |met| met.places.push_back((seq, place.clone())));
                    return Some((signature, (items, pace, stop, met)));
                }
            }
        }
    });
    let mut all = place.client.in_trace(send::trace()).send_all(Box::pin(signatures.fuse()));
    let (mut last, mut takes_ids) = (args.skip, true);
    while let Some((_, sent)) = all.next().await {
        let (seq, at) = met.lock().unwrap_or_else(PoisonError::into_inner).places.pop_front().unwrap_or_default();
        match sent {
            Ok(answer) => {
                report.sent += 1;
                last = seq;
                takes_ids = ids.as_mut().is_none_or(|ids| ids.add(answer.id(), args.rate.is_some()));
                if !takes_ids {
                    // What is on its way is waited for, so that it is known what was sent.
                    halt.cancel();
                }
            }
            Err(refused) => match refused.error {
                ClientError::Broker(error) => {
                    // The broker may have it nevertheless, so that sending it again may double it.
                    let unknown = error.kind == ErrorKind::Transient;
                    report.left = Some(Left { exit: exit_of(&error), why: error.message, seq, place: at, unknown });
                    break;
                }
                error => report.bad(at, error.to_string()),
            },
        }
    }
    listener.abort();
    let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut met.bad).into_iter().for_each(|(place, reason)| report.bad(place, reason));
    report.unreadable = met.unreadable.take();
    if report.left.is_none() && halt.is_cancelled() {
        // Where the next record was not read yet, it is the one behind the last that was sent.
        let next = || (last + 1, format!("record {}", last + 1));
        let (seq, place) = met.stopped.take().unwrap_or_else(next);
        let (exit, why) = if takes_ids { (Exit::Interrupted, "interrupted".to_owned()) } else { (Exit::Unwritable, String::new()) };
        report.left = Some(Left { exit, why, seq, place, unknown: false });
    }
    Ok(())
}

async fn wait_for_slot(pace: Option<&mut Pace>) {
    let Some(pace) = pace else { return };
    let now = Instant::now();
    let slot = pace.slot(now).max(now);
    pace.wait();
    pace.take(slot);
    let left = slot.saturating_duration_since(now);
    if left > Duration::ZERO {
        tokio::time::sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_celery::Value;

    use longshore_run::record::testing::{json, line, row};

    fn plan(args: Option<&str>, kwargs: Option<&str>, shape: &Shape) -> SendPlan {
        #[derive(clap::Parser)]
        struct Parse {
            #[command(flatten)]
            args: EnqueueArgs,
        }
        let mut words = vec!["x".to_owned(), "t".to_owned()];
        words.extend(args.map(|args| format!("--args={args}")));
        words.extend(kwargs.map(|kwargs| format!("--kwargs={kwargs}")));
        let parsed = <Parse as clap::Parser>::parse_from(words);
        SendPlan::compile(&parsed.args, shape).unwrap()
    }

    #[test]
    fn records_become_arguments() {
        let shown = |plan: SendPlan, record: Record| {
            let (args, kwargs) = plan.filling.fill(&record).unwrap();
            format!(
                "{} {}",
                String::from_utf8(Value::List(args).to_json()).unwrap(),
                String::from_utf8(Value::Map(kwargs).to_json()).unwrap()
            )
        };
        let columns = Shape::table(Some(Arc::new(longshore_run::record::Columns::named(["id", "url"]))));
        for (got, want) in [
            (shown(plan(None, None, &Shape::lines()), line("a \"b")), r#"["a \"b"] {}"#),
            (shown(plan(None, None, &Shape::json()), json(r#"{"x": 1}"#)), r#"[] {"x": 1}"#),
            (shown(plan(None, None, &Shape::json()), json("[1, 2]")), "[1, 2] {}"),
            (shown(plan(None, None, &Shape::json()), json("7")), "[7] {}"),
            (shown(plan(Some(r#"["{url}", {n}]"#), None, &Shape::json()), json(r#"{"url": "a\"b", "n": 2.50}"#)), r#"["a\"b", 2.5] {}"#),
            (shown(plan(Some("[{}]"), Some(r#"{"k": "{}"}"#), &Shape::lines()), line("x")), r#"["x"] {"k": "x"}"#),
            (shown(plan(None, None, &columns), row(&["id", "url"], &[b"1", b"u"])), r#"[] {"id": "1", "url": "u"}"#),
        ] {
            assert_eq!(got, want);
        }
        let wrong = plan(Some("{}"), None, &Shape::json()).filling.fill(&json("3")).unwrap_err().message().to_owned();
        assert_eq!(wrong, "in.txt line 7: --args is an integer, not an array");
    }
}
