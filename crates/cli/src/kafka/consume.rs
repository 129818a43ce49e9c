//! `longshore kafka consume`: a handler for each record, in order where that is asked for,
//! committed when done.
//!
//! Layout: `consume/args.rs`: the command line; `what.rs`: what runs; `incoming.rs`: a record as
//! that sees it; `knob.rs`: a sleep that is turned; `out.rs`: stdout; `watch.rs`: keys and signals
//! while it runs; `view.rs`, `screen.rs`, `machine.rs`: what is shown; `trouble.rs`: what is wrong,
//! beside sentences; `page.rs`: what is served; `fates.rs`: what failed; `ending.rs`: how it ends

pub mod args;
mod ending;
mod fates;
mod incoming;
mod knob;
mod machine;
mod out;
mod page;
mod screen;
mod trouble;
mod view;
mod watch;
mod what;

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use longshore_core::lane::child::Children;
use longshore_kafka::words;

use self::{
    args::ConsumeArgs,
    ending::Ended,
    fates::Fates,
    out::{Emit, Out},
    page::ConsumerPage,
    screen::Screen,
    watch::ConsumerWatch,
    what::Plan,
};
use crate::{config::Config, exit::Exit, fault::Fault, global::Global, runtime::block_on};

/// Longest time for which the end of a consumer waits for answers of its page to be read.
const PAGE_WAIT: Duration = Duration::from_millis(200);

/// Kafka's number for a topic that is not there.
const NO_TOPIC: i32 = 3;

/// Consumes until the end, or until it is told to stop.
///
/// # Errors
/// Exit code and sentence: a mistake in the command line, or Kafka.
pub fn run(args: &ConsumeArgs, config: &Config, global: &Global, out: &mut dyn Write) -> Result<Exit, Fault> {
    let plan = Plan::compile(args).map_err(Fault::usage)?;
    let first = args.topics.first().map(String::as_str);
    let settings = args.link.settings(config, first)?;
    if let Some(to) = &args.to
        && args.link.admin(config, first)?.topic(to)?.is_none()
    {
        return Err(Fault::new(Exit::Unreachable, format!("cannot write to topic `{to}`: {}", words(NO_TOPIC))));
    }
    block_on(async { consume(args, plan, args.consumer(settings), config, global, out).await })
}

async fn consume(
    args: &ConsumeArgs,
    plan: Plan,
    consumer: longshore_kafka::Consumer,
    config: &Config,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Fault> {
    let emit = match args.emit.as_deref() {
        Some("jsonl") => Emit::Jsonl,
        Some("raw") => Emit::Raw,
        Some(_) => Emit::None,
        None if !plan.prints() || args.to.is_some() => Emit::None,
        None if global.json => Emit::Jsonl,
        None => Emit::Raw,
    };
    // Where records and the view share a terminal, one has to make room for the other.
    let prints = emit != Emit::None && std::io::stdout().is_terminal();
    let quiet = prints && matches!(plan, Plan::Print);
    let screen = Screen::new(args.view.progress, global.color, args.view.every, global.voice(), quiet);
    // Before there is a member of a group: an address that is taken is a mistake in what was asked.
    let page = ConsumerPage::open(args, config, global.voice(), screen.bar()).await?;
    let stdout = Arc::new(Out::new(emit, Box::new(std::io::stdout()), screen.bar().filter(|_| prints), args.to.clone()));
    let children = if plan.has_children() { Children::guarded(&[]) } else { Children::new() };
    let children = children.map_err(|error| {
        let message = format!("no guardian for the children: {}", longshore_sys::files::cause(&error));
        Fault::new(Exit::of_system(&error, Exit::System), message)
    })?;
    // Its words and its knob, before the handler consumes the plan.
    let to = args.to.as_ref().map_or_else(String::new, |to| format!(" → {to}"));
    let (text, knob) = (plan.text() + &to, plan.knob());
    let (handler, program) = plan.handler(args.group(), &children, &stdout).map_err(Fault::usage)?;
    let fates = Arc::new(Fates::new(global.voice()));
    let told = fates.clone();
    let handler = handler.on_end(move |finished| told.ended(finished));
    let running = match args.transactional_id() {
        Some(id) => consumer.start_exactly_once(&id, handler).await?,
        None => consumer.start(handler).await?,
    };
    let handle = running.handle();
    let stopper = handle.clone();
    // Records whose output nobody takes must not count as done.
    stdout.on_broken(move || stopper.stop_now());
    screen.note(&format!(" {}  group {}   {text}", args.topics.join(" "), args.group()));
    let page = page.map(|page| page.serve(&handle, &args.topics.join(" "), global.voice()));
    let watch =
        ConsumerWatch { args, handle, children: &children, fates: &fates, screen, deaf: global.no_input, knob, seen: Default::default() };
    let watched = watch.until_end(running).await;
    if let Some(page) = page {
        // Whoever reads slowly holds up nobody's end.
        let _ = tokio::time::timeout(PAGE_WAIT, page.stop()).await;
    }
    if let Some(program) = program {
        // Waiting for children would hold up the runtime.
        let _ = tokio::task::spawn_blocking(move || program.end()).await;
    }
    let ended = Ended { args, watched, by_error: fates.by_error(), broken: stdout.broken() };
    ended.say(global, out)
}
