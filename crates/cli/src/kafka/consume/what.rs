//! What runs for each record: a command, a request, a line to a child that stays, a sleep, or
//! nothing but printing.

use std::sync::Arc;

use longshore_core::{
    Context, Outcome,
    lane::{
        AsyncHandler,
        child::{Children, Stdin},
        process::{ProcessHandler, exit_outcome},
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
    http::HttpClient,
    pipe::Pipe,
    reply::Reply,
    template::Shape,
    what::{self, What},
};

/// What runs, with its templates compiled.
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

    /// Whether it starts children.
    pub(super) fn has_children(&self) -> bool {
        matches!(self, Self::Run(what, _) if what.has_children())
    }

    /// Whether it prints unless told otherwise.
    pub(super) fn prints(&self) -> bool {
        match self {
            Self::Print => true,
            Self::Sleep(_) => false,
            Self::Run(what, _) => !what.is_http(),
        }
    }

    /// What people call it.
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
    pub(super) fn handler(self, group: String, children: &Children, out: &Arc<Out>) -> Result<(Handler<Made>, Option<Arc<Pipe>>), String> {
        let out = out.clone();
        let (what, value_on_stdin) = match self {
            Self::Print => {
                // A slow reader holds up the thread that writes, and none of the lane's.
                let handler = move |record: kafka::Record| {
                    let out = out.clone();
                    async move { out.record(&record).await }
                };
                return Ok((Handler::of_async(AsyncHandler::Plain(Arc::new(move |record| Box::pin(handler(record))))), None));
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
                let handler = AsyncHandler::Plain(Arc::new(move |record| Box::pin(handler(record))));
                return Ok((Handler::of_async(handler), None));
            }
            Self::Run(what, value_on_stdin) => (*what, value_on_stdin),
        };
        match what {
            What::Command(plan) => {
                let (kill_after, max_output) = (plan.kill_after, plan.max_output);
                let handler = ProcessHandler {
                    command: Arc::new(move |context: &Context, record: &kafka::Record| {
                        let incoming = Incoming::of(record);
                        let mut command = incoming.with(context, |record, vars| plan.command(&[record], vars))?;
                        command.env.extend(told(record, &group, context)?);
                        if value_on_stdin {
                            // Byte for byte.
                            command.stdin = Stdin::Bytes(record.value().unwrap_or_default().to_vec());
                        }
                        Ok(command)
                    }),
                    answer: Arc::new(move |context: &Context, record: kafka::Record, output| match exit_outcome(output, context.timeout) {
                        Outcome::Ok(output) => out.reply(&record, &Reply::Command(Arc::new(output))),
                        other => other.map(|_| Vec::new()),
                    }),
                    kill_after,
                    max_output,
                };
                Ok((Handler::of_process(handler, children.clone()), None))
            }
            What::Http(plan) => {
                let client = HttpClient::new(plan.options())?;
                let handler = AsyncHandler::WithContext(Arc::new(move |context: Context, record: kafka::Record| {
                    let (plan, client, out) = (plan.clone(), client.clone(), out.clone());
                    Box::pin(async move {
                        let request = match Incoming::of(&record).with(&context, |record, vars| plan.request(record, vars)) {
                            Ok(request) => request,
                            Err(error) => return Outcome::Failed(error),
                        };
                        // A request needs no time to end well: it is dropped when nobody wants it
                        // any more.
                        tokio::select! {
                            biased;
                            () = context.cancel.cancelled() => Outcome::Cancelled,
                            reply = client.send(request) => match reply {
                                Ok(reply) => out.reply_later(&record, &Reply::Http(Arc::new(reply))).await,
                                Err(error) => Outcome::Failed(error),
                            }
                        }
                    })
                }));
                Ok((Handler::of_async(handler), None))
            }
            What::Pipe(plan) => {
                let pipe = Arc::new(plan.open(group, children.clone())?);
                let asked = pipe.clone();
                let handler = move |context: &Context, record: kafka::Record| {
                    let line = match what::line(&Incoming::of(&record).record) {
                        Ok(line) => line,
                        Err(error) => return Outcome::Failed(error),
                    };
                    match asked.ask(context.slot, line, context.timeout) {
                        Ok(answer) => out.reply(&record, &Reply::Pipe(Arc::new(answer))),
                        Err(failure) => failure.into_outcome(),
                    }
                };
                Ok((Handler::of_blocking(Arc::new(handler)), Some(pipe)))
            }
            What::Task(_) | What::Noop => Err("this cannot run for records of Kafka".to_owned()),
        }
    }
}
