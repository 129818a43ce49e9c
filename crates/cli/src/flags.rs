//! Flags that several commands have, as clap reads them: what runs for a record, how fast, how
//! often again, and how that is shown.
//!
//! Each command says under which heading they stand (`next_help_heading`), and words the few help
//! texts that differ.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use longshore_core::{Backoff, ErrorClass, Rate, RetryOn};

use crate::{progress, units};
pub use longshore_run::spec::retry_on;
use longshore_run::{
    Program,
    http::StatusRanges,
    spec::{CommandSpec, PipeSpec, RequestSpec},
};

/// The command, the request or the pipe that runs for each record.
#[derive(Args, Clone, Debug)]
pub struct WhatArgs {
    /// Run this command for each record: a program and its arguments, no shell. Without any
    /// placeholder the record becomes the last argument
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    /// Send this HTTP request for each record: 'POST https://h/x/{id}'
    #[arg(long, value_name = "[METHOD] URL", help_heading = "What")]
    pub http: Option<String>,
    /// Hand each record as a line to a child that stays alive, and read a line as its answer
    #[arg(long, value_name = "COMMAND", help_heading = "What")]
    pub pipe: Option<String>,
}

/// Flags of a command, some of which a pipe has too.
#[derive(Args, Clone, Debug)]
pub struct ChildArgs {
    /// Run the command through `sh -c`, every value quoted
    #[arg(long, help_heading = "Commands")]
    pub shell: bool,
    /// What the command reads from its stdin (default: nothing)
    #[arg(long, value_name = "EXPR", help_heading = "Commands")]
    pub stdin: Option<String>,
    /// Where the command runs
    #[arg(long, value_name = "DIR", help_heading = "Commands", value_hint = ValueHint::DirPath)]
    pub cwd: Option<PathBuf>,
    /// A variable of the command's environment
    #[arg(long, value_name = "K=EXPR", help_heading = "Commands")]
    pub env: Vec<String>,
}

/// Flags of an HTTP request, and of the answers that are good.
#[derive(Args, Clone, Debug)]
pub struct RequestArgs {
    /// A request header: 'Name: value'
    #[arg(short = 'H', long = "header", value_name = "HEADER", help_heading = "HTTP")]
    pub header: Vec<String>,
    /// The request's body, as JSON
    #[arg(long, value_name = "TPL", conflicts_with_all = ["body", "form"], help_heading = "HTTP")]
    pub body_json: Option<String>,
    /// The request's body
    #[arg(long, value_name = "TPL", conflicts_with = "form", help_heading = "HTTP")]
    pub body: Option<String>,
    /// A field of a form as the request's body
    #[arg(long, value_name = "K=TPL", help_heading = "HTTP")]
    pub form: Vec<String>,
    /// Statuses that count as ok
    #[arg(long, value_name = "RANGES", default_value = "200-299", value_parser = StatusRanges::parse, help_heading = "HTTP")]
    pub ok: StatusRanges,
    /// Most redirects to follow
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "HTTP")]
    pub redirects: u32,
    /// Always speak HTTP/2
    #[arg(long, help_heading = "HTTP")]
    pub http2: bool,
    /// Accept any certificate
    #[arg(long, help_heading = "HTTP")]
    pub insecure: bool,
    /// A proxy, or `none` [the proxy variables]
    #[arg(long, value_name = "URL", help_heading = "HTTP")]
    pub proxy: Option<String>,
}

/// Limits of parts of an attempt.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Limit for connecting
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = units::duration)]
    pub connect_timeout: Duration,
    /// From TERM to KILL
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = units::duration)]
    pub kill_after: Duration,
}

/// Pace of the starts.
#[derive(Args, Clone, Debug)]
pub struct PaceArgs {
    /// Starts per time: 100/s, 500/min, 10/h
    #[arg(short = 'r', long, value_name = "RATE", value_parser = units::rate)]
    pub rate: Option<units::Rate>,
    /// Starts at once after a pause; 1 spaces all starts evenly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub burst: u32,
}

impl PaceArgs {
    /// The leaky bucket that they say.
    pub fn bucket(&self) -> Option<Rate> {
        self.rate.map(|rate| rate.with_burst(self.burst))
    }
}

/// Flags of further attempts: after which errors, and when.
#[derive(Args, Clone, Debug)]
pub struct RetryArgs {
    /// Time between attempts: exp:200ms..30s, fixed:1s or list:1s,5s,60s
    #[arg(long, value_name = "BACKOFF", default_value = "exp:200ms..30s", value_parser = BackoffArg::parse)]
    pub backoff: BackoffArg,
    /// Errors worth another attempt: connect, timeout, status:5xx, exit:75, signal … [HTTP:
    /// connect,timeout,status:429,status:5xx; else any but invalid]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = ErrorClass::parse)]
    pub retry_on: Vec<ErrorClass>,
}

impl RetryArgs {
    /// Returns the errors that are retried, given what runs.
    pub fn on(&self, http: bool) -> RetryOn {
        retry_on(&self.retry_on, http)
    }
}

/// `--backoff`, and how it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct BackoffArg(pub Backoff, pub String);

impl BackoffArg {
    /// Reads `--backoff`.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a backoff; write exp:200ms..30s, fixed:1s or list:1s,5s,60s");
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let backoff = match kind {
            "exp" => {
                let (base, cap) = rest.split_once("..").ok_or_else(bad)?;
                let (base, cap) = (units::duration(base)?, units::duration(cap)?);
                if base > cap {
                    return Err(format!("the first wait of `{text}` is longer than its longest one"));
                }
                Backoff::Exponential { base, cap }
            }
            "fixed" => Backoff::Fixed(units::duration(rest)?),
            "list" => Backoff::List(rest.split(',').map(units::duration).collect::<Result<_, _>>()?),
            _ => return Err(bad()),
        };
        Ok(Self(backoff, text.to_owned()))
    }
}

/// Flags of the progress.
#[derive(Args, Clone, Debug)]
pub struct ViewArgs {
    /// Progress: auto, bar, plain, json or none
    #[arg(long, default_value = "auto", value_parser = progress::Mode::parse, help_heading = "View")]
    pub progress: progress::Mode,
    /// Time between plain lines
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = units::duration, help_heading = "View")]
    pub every: Duration,
}

/// Returns the program of flags that several commands have: the request, the pipe, else the
/// command.
pub fn program(what: &WhatArgs, child: &ChildArgs, request: &RequestArgs, limits: &LimitArgs) -> Program {
    if let Some(text) = &what.http {
        let mut spec = RequestSpec::default();
        spec.request.clone_from(text);
        spec.headers.clone_from(&request.header);
        spec.body_json.clone_from(&request.body_json);
        spec.body.clone_from(&request.body);
        spec.form.clone_from(&request.form);
        spec.ok = request.ok.clone();
        spec.redirects = request.redirects;
        spec.http2 = request.http2;
        spec.insecure = request.insecure;
        spec.proxy.clone_from(&request.proxy);
        spec.connect_timeout = limits.connect_timeout;
        return Program::Http(Box::new(spec));
    }
    if let Some(text) = &what.pipe {
        let mut spec = PipeSpec::default();
        spec.command.clone_from(text);
        spec.cwd.clone_from(&child.cwd);
        spec.env.clone_from(&child.env);
        return Program::Pipe(spec);
    }
    let mut spec = CommandSpec::default();
    spec.argv.clone_from(&what.command);
    spec.shell = child.shell;
    spec.stdin.clone_from(&child.stdin);
    spec.cwd.clone_from(&child.cwd);
    spec.env.clone_from(&child.env);
    Program::Command(spec)
}
