//! Program for each record: a command, a request, a line to a child that stays, a sleep, or nothing
//! but printing.

use std::sync::Arc;

use longshore_core::{
    Context, Outcome, TaskError,
    lane::{
        AsyncHandler,
        child::{Children, Command, Stdin},
        process::exit_outcome,
    },
};
use longshore_kafka::{self as kafka, Handler};

use super::{
    args::{ConsumeArgs, Sleep},
    incoming::{Incoming, NAMES, told},
    knob::Knob,
    out::{Made, Out},
};
use longshore_run::{
    program::{OpenProgram, ProgramEnd, ProgramHandler, ProgramUser},
    record::Record,
    reply::Reply,
    template::{Shape, Vars},
    what::What,
};

/// Plan of what runs, with its templates compiled.
pub(super) enum Plan {
    Print,
    Sleep(Arc<Knob>),
    Run(Box<What>, bool),
}

impl Plan {
    /// Compiles what the command line says.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn compile(args: &ConsumeArgs) -> Result<Self, String> {
        if args.whats() > 1 {
            return Err("more than one thing to run: -- CMD, --http, --pipe and --sleep exclude each other".to_owned());
        }
        args.check_to()?;
        match args.sleep {
            Some(sleep) => Ok(Self::Sleep(Arc::new(Knob::new(sleep)))),
            None if args.whats() == 0 => Ok(Self::Print),
            None => {
                let (program, limits) = args.program();
                let what = What::compile(&program, &limits, &Shape::json().with_extra(NAMES))?;
                Ok(Self::Run(Box::new(what), args.child.stdin.is_none()))
            }
        }
    }

    /// Returns true where it starts children.
    pub(super) fn has_children(&self) -> bool {
        matches!(self, Self::Run(what, _) if what.has_children())
    }

    /// Returns true where it prints unless told otherwise.
    pub(super) fn prints(&self) -> bool {
        match self {
            Self::Print => true,
            Self::Sleep(_) => false,
            Self::Run(what, _) => !what.is_http(),
        }
    }

    /// Returns its name for people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Print => "print".to_owned(),
            Self::Sleep(knob) => match knob.get() {
                Sleep(from, to) if from == to => format!("sleep {from:?}"),
                Sleep(from, to) => format!("sleep {from:?} to {to:?}"),
            },
            Self::Run(what, _) => what.text(),
        }
    }

    /// Returns what can be turned while it runs.
    pub(super) fn knob(&self) -> Option<Arc<Knob>> {
        if let Self::Sleep(knob) = self { Some(knob.clone()) } else { None }
    }

    /// The handler, and what ends the children that stay.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn handler(
        self,
        group: String,
        children: &Children,
        out: &Arc<Out>,
    ) -> Result<(Handler<Made>, Option<OpenProgram>), String> {
        let out = out.clone();
        let (what, value_on_stdin) = match self {
            Self::Print => {
                // A slow reader holds up the thread that writes, and none of the lane's.
                let handler = move |record: kafka::Record| {
                    let out = out.clone();
                    async move { out.record(&record).await }
                };
                return Ok((Handler::of_async(AsyncHandler::new(handler)), None));
            }
            Self::Sleep(knob) => {
                let handler = move |record: kafka::Record| {
                    let (out, time) = (out.clone(), knob.get().draw());
                    async move {
                        // The timer's shortest sleep is a millisecond.
                        if !time.is_zero() {
                            tokio::time::sleep(time).await;
                        }
                        out.reply_later(&record, &Reply::Null).await
                    }
                };
                return Ok((Handler::of_async(AsyncHandler::new(handler)), None));
            }
            Self::Run(what, value_on_stdin) => (*what, value_on_stdin),
        };
        let program = what.open(group.clone(), children)?;
        let handler = match program.handler(KafkaUser { out, group, value_on_stdin }) {
            ProgramHandler::Process(handler) => Handler::of_process(handler, children.clone()),
            ProgramHandler::Async(handler) => Handler::of_async(handler),
            ProgramHandler::Blocking(handler) => Handler::of_blocking(handler),
        };
        Ok((handler, Some(program)))
    }
}

/// The consumer's side of a program: hands it the records, and makes ends of its outcomes.
struct KafkaUser {
    out: Arc<Out>,
    group: String,
    value_on_stdin: bool,
}

impl ProgramUser for KafkaUser {
    type Task = kafka::Record;
    type Made = Made;

    fn fill<R>(&self, context: &Context, record: &kafka::Record, fill: impl FnOnce(&[&Record], &Vars<'_>) -> R) -> R {
        Incoming::of(record).with(context, |record, vars| fill(&[record], vars))
    }

    fn tell(&self, context: &Context, record: &kafka::Record, command: &mut Command) -> Result<(), TaskError> {
        command.env.extend(told(record, &self.group, context)?);
        if self.value_on_stdin {
            // Byte for byte.
            command.stdin = Stdin::Bytes(record.value().unwrap_or_default().to_vec());
        }
        Ok(())
    }

    fn ended(&self, context: &Context, record: kafka::Record, end: ProgramEnd) -> Outcome<Made> {
        match end {
            ProgramEnd::Reply(reply) => self.out.reply(&record, &reply),
            ProgramEnd::None(outcome) => outcome.map(|never| match never {}),
            ProgramEnd::Command(output) => match exit_outcome(*output, context.timeout) {
                Outcome::Ok(output) => self.out.reply(&record, &Reply::Command(Arc::new(output))),
                other => other.map(|_| Vec::new()),
            },
        }
    }

    async fn ended_later(&self, context: &Context, record: kafka::Record, end: ProgramEnd) -> Outcome<Made> {
        match end {
            ProgramEnd::Reply(reply) => self.out.reply_later(&record, &reply).await,
            end => self.ended(context, record, end),
        }
    }
}
