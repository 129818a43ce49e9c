//! `longshore kafka produce`: records in, delivered or named.
//!
//! A thread reads or makes records, waits for their slot of the leaky bucket, and hands them to the
//! client; the client's thread tells what became of each; here it is watched. Layout:
//! `produce/args.rs`; `produce/feed.rs`: that thread; `produce/tally.rs`: what became of them

pub mod args;
mod feed;
mod tally;

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_core::ErrorKind;
use longshore_kafka::{Admin, Producer, Sending};
use serde_json::json;

use self::{
    args::ProduceArgs,
    feed::{Feed, Records},
    tally::Tally,
};
use super::{fake::Fake, link::PATIENCE, outgoing::RecordPlan, topics::many};
use crate::{
    config::Config,
    exit::Exit,
    fault::Fault,
    global::Global,
    progress::view::State,
    progress::{Progress, RateMeter, text},
    runtime::block_on,
    signals::Signals,
    units::show_size,
};
use longshore_run::{
    input::{Input, Options, Source},
    template::Shape,
};

/// Time between two looks at what is sent.
const TICK: Duration = Duration::from_millis(100);

/// Sends records.
///
/// # Errors
/// Exit code and sentence: nothing to send, an input that cannot be read, Kafka.
pub fn run(args: &ProduceArgs, config: &Config, global: &Global, out: &mut dyn Write) -> Result<Exit, Fault> {
    let (records, plan, total) = prepare(args)?;
    let settings = args.link.settings(config, Some(&args.topic))?;
    let mut sending =
        Sending { acks: args.acks, compression: args.compression.clone(), patience: args.delivery_timeout, ..Sending::default() };
    match Admin::open(&settings, PATIENCE)?.max_message_bytes(&args.topic) {
        Ok(most) => sending.max_batch = sending.max_batch.min(most),
        Err(error) if error.kind == ErrorKind::Transient => return Err(error.into()),
        // Who may not look at the topic's settings sends as to most topics.
        Err(_) => {}
    }
    let producer = Producer::open(&settings, &sending)?;
    let partitions = producer.partitions(&args.topic, PATIENCE)?;
    if let Some(partition) = args.partition.filter(|partition| *partition as usize >= partitions) {
        return Err(Fault::usage(format!("--partition {partition}: `{}` has {}", args.topic, many(partitions, "partition", "partitions"))));
    }
    let tally = Arc::new(Tally::new(global.verbose > 0));
    let feed = Feed::new(args, records, plan, producer.clone(), tally.clone());
    block_on(async { watch(args, global, feed, producer, &tally, total, out).await })
}

/// Prepares what is sent: its source, its plan, and its number as far as that is known.
fn prepare(args: &ProduceArgs) -> Result<(Records, RecordPlan, Option<u64>), Fault> {
    let compile = |separator: Option<&str>, shape: &Shape| {
        RecordPlan::compile(args.key.as_deref(), args.value.as_deref(), &args.header, separator, shape).map_err(Fault::usage)
    };
    let made_up = args.fake.is_some() || (args.input.is_none() && args.count.is_some());
    if made_up {
        if args.key_separator.is_some() {
            return Err(Fault::usage("--key-separator is for lines of an input; name it, or `-` for stdin"));
        }
        let fake = Fake::new(args.fake.unwrap_or_default(), args.seed);
        return Ok((Records::Fake(Box::new(fake)), compile(None, &Shape::json())?, args.count));
    }
    if args.input.is_none() && std::io::stdin().is_terminal() {
        return Err(Fault::usage(
            "nothing to send: -n 1000 makes records up, INPUT names a file, and stdin is this terminal (`-` reads it)",
        ));
    }
    let source = args.input.as_ref().map_or(Source::Stdin, |path| Source::of_word(path.clone()));
    let mut options = Options::default();
    options.sources = vec![source];
    options.format = args.format;
    options.take = args.count;
    options.max_record = usize::try_from(args.max_record).unwrap_or(usize::MAX);
    let input = Input::open(&options).map_err(|error| Fault::new(if error.is_usage() { Exit::Usage } else { Exit::Input }, error))?;
    let plan = compile(args.key_separator.as_deref(), &Shape::of(&input))?;
    Ok((Records::Input(Box::new(input)), plan, options.estimate()))
}

async fn watch(
    args: &ProduceArgs,
    global: &Global,
    feed: Feed,
    producer: Producer,
    tally: &Arc<Tally>,
    total: Option<u64>,
    out: &mut dyn Write,
) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let mut progress = Progress::new(args.view.progress, global.color, args.view.every, global.voice());
    let (begun, mut meter) = (Instant::now(), RateMeter::default());
    let topic = args.topic.clone();
    let mut snapshot = |state: State| tally.snapshot(&topic, total, state, &mut meter);
    let stop = feed.stop();
    let mut feeding = tokio::task::spawn_blocking(move || feed.run());
    let mut tick = tokio::time::interval(TICK);
    let mut signal = None;
    let mut unreadable = None;
    // While records come.
    loop {
        tokio::select! {
            ended = &mut feeding => {
                unreadable = ended.map_err(|error| Fault::new(Exit::System, format!("reading records: {error}")))?.err();
                break;
            }
            number = signals.next() => {
                signal = Some(number);
                // From here on nothing more is handed over, though the thread may go on waiting for
                // a line.
                stop.now();
                break;
            }
            _ = tick.tick() => {
                tally.told().iter().for_each(|line| progress.message(line));
                progress.update(&snapshot(State::Running), Instant::now());
            }
        }
    }
    // While the last ones are on their way.
    let last = producer.clone();
    // Somewhat longer than the client gives each of them.
    let patience = args.delivery_timeout + Duration::from_secs(5);
    let mut flushing = tokio::task::spawn_blocking(move || last.flush(patience));
    let all = loop {
        tokio::select! {
            ended = &mut flushing => break ended.unwrap_or(false),
            number = signals.next() => {
                if signal.replace(number).is_some() || number == 2 {
                    producer.give_up();
                }
            }
            _ = tick.tick() => {
                tally.told().iter().for_each(|line| progress.message(line));
                progress.update(&snapshot(if signal.is_some() { State::Stopping } else { State::Running }), Instant::now());
            }
        }
    };
    tally.told().iter().for_each(|line| progress.message(line));
    progress.finish(&snapshot(if signal.is_some() { State::Stopping } else { State::Running }));
    let ended = Ended { wall: begun.elapsed(), signal, unreadable, all, left: producer.waiting() as u64 };
    ended.say(args, global, tally, out)
}

/// Facts about the end, for the summary.
struct Ended {
    wall: Duration,
    signal: Option<u8>,
    unreadable: Option<String>,
    /// Each record's fate is known.
    all: bool,
    /// Number of records whose fate is not known.
    left: u64,
}

impl Ended {
    fn say(self, args: &ProduceArgs, global: &Global, tally: &Tally, out: &mut dyn Write) -> Result<Exit, Fault> {
        let (delivered, failed, bad, bytes) = tally.counts();
        let unknown = if self.all { 0 } else { self.left };
        let rate = delivered as f64 / self.wall.as_secs_f64().max(0.001);
        let exit = match (self.signal, &self.unreadable) {
            (Some(signal), _) => Exit::of_signal(signal),
            (None, Some(_)) => Exit::Input,
            (None, None) if failed + bad + unknown > 0 => Exit::Failed,
            (None, None) => Exit::Done,
        };
        if global.json {
            let line = json!({
                "topic": args.topic, "delivered": delivered, "failed": failed, "bad": bad, "unknown": unknown, "bytes": bytes,
                "wall_ms": self.wall.as_millis() as u64, "rate_per_s": (rate * 10.0).round() / 10.0, "exit_code": exit.code(),
            });
            writeln!(out, "{line}")?;
        } else if !global.quiet {
            let records = many(delivered as usize, "record", "records");
            let mut line = format!(
                " {}  {records} delivered in {}   {}   {}",
                args.topic,
                text::precise(self.wall),
                text::rate(rate),
                show_size(bytes)
            );
            for (count, what) in [(failed, "not delivered"), (bad, "not to be read"), (unknown, "of unknown fate")] {
                if count > 0 {
                    line += &format!("   {} {what}", text::count(count));
                }
            }
            eprintln!("{line}");
            if self.signal.is_some() {
                eprintln!(" stopped: nothing more was sent");
            }
        }
        if let Some(why) = self.unreadable {
            return Err(Fault::new(exit, format!("{why}; what stands before it was sent")));
        }
        Ok(exit)
    }
}
