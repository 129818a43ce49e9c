//! Command line of `run`, as clap reads it.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use longshore_core::gate::adaptive::Bounds;
use longshore_run::{
    input::Format,
    spec::{BatchSize, Check, Dups, Durability, MaxFail, Timeout, UntilOk},
};

use crate::{
    flags::{ChildArgs, LimitArgs, PaceArgs, RequestArgs, RetryArgs, ViewArgs, WhatArgs},
    units,
    web::WebArgs,
};

/// `longshore run`: run a job, many tasks from a file, stdin or arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER, args_override_self = true)]
pub struct RunArgs {
    /// Input files; `-` is stdin. `@name` is a job of the configuration
    #[arg(value_name = "INPUT", value_hint = ValueHint::FilePath)]
    pub inputs: Vec<OsString>,

    /// The command, the request or the pipe that runs.
    #[command(flatten)]
    pub what: WhatArgs,
    /// Send a task to a queue for each record, and take what its worker answers as the result
    #[arg(long, value_name = "NAME", help_heading = "What")]
    pub task: Option<String>,
    /// Answer null, for benchmarks
    #[arg(long, hide = true)]
    pub noop: bool,

    /// Lines that a child of --pipe may have at once. It works them off one after the other and
    /// answers in their order
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512), requires = "pipe", help_heading = "What")]
    pub pipe_window: u32,

    /// An input file; `-` is stdin
    #[arg(short = 'i', long = "input", value_name = "FILE", help_heading = "Input", value_hint = ValueHint::FilePath)]
    pub input: Vec<OsString>,
    /// Format of the input: auto, lines, jsonl, csv, tsv or nul
    #[arg(long, default_value = "auto", help_heading = "Input")]
    pub format: Format,
    /// Records end with NUL, as `find -print0` writes them
    #[arg(short = '0', long, help_heading = "Input")]
    pub null: bool,
    /// The first row of a table is a record, not a header
    #[arg(long, help_heading = "Input")]
    pub no_header: bool,
    /// Byte ranges of about this size, cut at records, of one large file or of stdin: each is a
    /// record with path, start, end, len and hash. A command that names none of them gets the
    /// range's bytes, behind the header of a table, on its stdin
    #[arg(long, value_name = "SIZE", value_parser = units::size, help_heading = "Input")]
    pub split: Option<u64>,
    /// Skip the first N records
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Input")]
    pub skip: u64,
    /// Take no more than N records
    #[arg(long, value_name = "N", help_heading = "Input")]
    pub take: Option<u64>,
    /// Take only records for which this expression is true: 'price > 10 and make == "VW"'
    #[arg(long = "where", value_name = "EXPR", help_heading = "Input")]
    pub where_: Option<String>,
    /// What identifies a record, for resuming (default: its content)
    #[arg(long, value_name = "EXPR", help_heading = "Input")]
    pub key: Option<String>,
    /// Records whose key came before: run, skip or error
    #[arg(long, default_value = "run", value_parser = Dups::parse, help_heading = "Input")]
    pub dups: Dups,
    /// Longest record; a longer one is a failed task
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = units::size, help_heading = "Input")]
    pub max_record: u64,
    /// Check every record before anything runs
    #[arg(long, help_heading = "Input")]
    pub strict: bool,
    /// The most records that share one call of the command, as with xargs -n (fewer where its words
    /// would pass 128 KiB). Each stays a task of its own; what the call wrote is the value of its
    /// first
    #[arg(long, value_name = "N|auto", default_value = "1", value_parser = BatchSize::parse, help_heading = "Input")]
    pub batch: BatchSize,

    /// Most tasks running at once: a number, a share of the cores, or auto: measured while it runs
    /// [commands and pipes: cores; HTTP: 50]
    #[arg(short = 'j', long, value_name = "N|N%|auto", help_heading = "Concurrency")]
    pub concurrency: Option<units::Count>,
    /// As many at once as the other side can use, between these two: it grows while that serves
    /// more, and falls when answers come late or are refused (429, 503, time-outs, failed
    /// connections)
    #[arg(long, value_name = "MIN..MAX", value_parser = units::bounds, conflicts_with = "concurrency", help_heading = "Concurrency")]
    pub adaptive: Option<Bounds>,
    /// Most tasks of one value running at once: 'host=4'
    #[arg(long, value_name = "EXPR=N", help_heading = "Concurrency")]
    pub per: Vec<String>,
    /// The lane: async, blocking, cpu or process, or an expression that names it
    #[arg(long, value_name = "LANE", help_heading = "Concurrency")]
    pub lane: Option<String>,
    /// Records of one value never run at once and keep their order
    #[arg(long, value_name = "EXPR", help_heading = "Concurrency")]
    pub order_by: Option<String>,
    /// Start nothing while the load is above this share of the cores
    #[arg(long, value_name = "PERCENT", value_parser = units::percent, help_heading = "Concurrency")]
    pub max_load: Option<f64>,
    /// Start nothing while less memory is available
    #[arg(long, value_name = "SIZE", value_parser = units::size, help_heading = "Concurrency")]
    pub min_free_mem: Option<u64>,
    /// Be nicer to other programs, children included
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Concurrency")]
    pub nice: Option<i32>,

    /// Pace of the starts.
    #[command(flatten, next_help_heading = "Pace")]
    pub pace: PaceArgs,
    /// One rate for each value of this expression
    #[arg(long, value_name = "EXPR", requires = "rate", help_heading = "Pace")]
    pub rate_by: Option<String>,
    /// Grow evenly over this time, from one at once and the slowest pace to what is set
    #[arg(long, value_name = "DUR", value_parser = units::duration, help_heading = "Pace")]
    pub ramp: Option<Duration>,
    /// A limit of the configuration
    #[arg(long, value_name = "NAME", help_heading = "Pace")]
    pub limit: Option<String>,
    /// Do not heed Retry-After
    #[arg(long, help_heading = "Pace")]
    pub no_retry_after: bool,

    /// Further attempts for a task that failed [HTTP: 3, else 0]
    #[arg(long, value_name = "N", help_heading = "Retries")]
    pub retries: Option<u32>,
    /// Errors after which another attempt follows, and its time.
    #[command(flatten, next_help_heading = "Retries")]
    pub retry: RetryArgs,
    /// Start no further attempt of a task that is older
    #[arg(long, value_name = "DUR", value_parser = units::duration, help_heading = "Retries")]
    pub give_up_after: Option<Duration>,

    /// Limit of one attempt: a time, or a share of the median: 300% [HTTP: 30s]
    #[arg(short = 't', long, value_name = "DUR|PERCENT", value_parser = Timeout::parse, help_heading = "Time")]
    pub timeout: Option<Timeout>,
    /// Limits of its parts.
    #[command(flatten, next_help_heading = "Time")]
    pub limits: LimitArgs,
    /// How long running tasks may go on after SIGTERM
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = units::duration, help_heading = "Time")]
    pub grace: Duration,
    /// Show tasks that run for longer
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = units::duration, help_heading = "Time")]
    pub slow: Duration,
    /// Stop the job after this time
    #[arg(long, value_name = "DUR", value_parser = units::duration, help_heading = "Time")]
    pub job_timeout: Option<Duration>,

    /// Stop after this many failures, or above this share, earlier sittings included; `:now` ends
    /// what runs, `never` lifts a limit set elsewhere
    #[arg(long, value_name = "N|N%[:now]", value_parser = MaxFail::parse, help_heading = "Stop")]
    pub max_fail: Option<MaxFail>,
    /// Stop when this many tasks have ended well
    #[arg(long, value_name = "N", value_parser = UntilOk::parse, help_heading = "Stop")]
    pub until_ok: Option<UntilOk>,
    /// Fail the run (4) unless this holds: 'failed<1%', 'p99<2s', 'rate>50/s'
    #[arg(long, value_name = "CHECK", value_parser = Check::parse, help_heading = "Stop")]
    pub check: Vec<Check>,

    /// Write results to this file (default: stdout)
    #[arg(short = 'o', long, value_name = "FILE", help_heading = "Output", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// What is written: jsonl, raw or none [commands to stdout: raw; else jsonl]
    #[arg(long, value_parser = ["jsonl", "raw", "none"], help_heading = "Output")]
    pub emit: Option<String>,
    /// Results in the order of the input
    #[arg(short = 'k', long, help_heading = "Output")]
    pub ordered: bool,
    /// Results as tasks finish (the default)
    #[arg(long, overrides_with = "ordered", help_heading = "Output")]
    pub as_completed: bool,
    /// With -k: how far the input may run ahead of the oldest unwritten result
    #[arg(long, value_name = "N", default_value_t = longshore_run::spec::ORDER_WINDOW, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Output")]
    pub order_window: u64,
    /// Write only these results: ok or failed
    #[arg(long, value_parser = ["ok", "failed"], help_heading = "Output")]
    pub only: Option<String>,
    /// Write only these fields of result lines: seq,value.status
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Output")]
    pub fields: Vec<String>,
    /// The most of each stream of a task that the journal and JSON keep; raw output is whole
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = units::size, help_heading = "Output")]
    pub max_output: u64,
    /// Also write each task's stdout and stderr to files in this directory
    #[arg(long, value_name = "DIR", help_heading = "Output", value_hint = ValueHint::DirPath)]
    pub save_output: Option<PathBuf>,
    /// Also write the result lines of failed tasks to this file
    #[arg(long, value_name = "FILE", help_heading = "Output", value_hint = ValueHint::FilePath)]
    pub failed_out: Option<PathBuf>,
    /// With raw output and --line-buffer: the record and a tab before each line
    #[arg(long, help_heading = "Output")]
    pub tag: bool,
    /// Show what commands write line by line while they run, and not when they have ended. Results
    /// go to -o alone
    #[arg(long, help_heading = "Output")]
    pub line_buffer: bool,

    /// Flags of a command.
    #[command(flatten)]
    pub child: ChildArgs,

    /// The task's arguments, a JSON array with placeholders: '["{url}"]' [a line is the one
    /// argument, an array the arguments, an object the keywords]
    #[arg(long = "args", value_name = "TPL", requires = "task", help_heading = "Task")]
    pub task_args: Option<String>,
    /// The task's keyword arguments, a JSON object with placeholders
    #[arg(long = "kwargs", value_name = "TPL", requires = "task", help_heading = "Task")]
    pub task_kwargs: Option<String>,
    /// The task's queue [its own, else celery]
    #[arg(long, value_name = "QUEUE", requires = "task", help_heading = "Task")]
    pub queue: Option<String>,

    /// Flags of an HTTP request.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Write each answer's body to a file in this directory
    #[arg(long, value_name = "DIR", help_heading = "HTTP", value_hint = ValueHint::DirPath)]
    pub save_body: Option<PathBuf>,

    /// A name: the job goes on where it stopped when it is run again
    #[arg(long, value_name = "NAME", help_heading = "Durable")]
    pub name: Option<String>,
    /// The journal: off, batch:50ms (on disk within that time) or each (on disk before a result
    /// counts)
    #[arg(long, value_name = "MODE", default_value = "batch:50ms", value_parser = durable, help_heading = "Durable")]
    pub durable: DurableArg,
    /// Go on with a job: JOB, or the latest unfinished one of this command line
    #[arg(long, value_name = "JOB", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["fresh", "retry_failed"], help_heading = "Durable")]
    pub resume: Option<String>,
    /// Run the failed tasks of a job again
    #[arg(long, value_name = "JOB", num_args = 0..=1, default_missing_value = "", conflicts_with = "fresh", help_heading = "Durable")]
    pub retry_failed: Option<String>,
    /// Start over
    #[arg(long, help_heading = "Durable")]
    pub fresh: bool,
    /// Tasks that were running when the job died: rerun, or skip them as lost
    #[arg(long, default_value = "rerun", value_parser = ["rerun", "skip"], help_heading = "Durable")]
    pub in_flight: String,

    /// Flags of the progress.
    #[command(flatten)]
    pub view: ViewArgs,
    /// The summary: text, json or none
    #[arg(long, default_value = "text", value_parser = ["text", "json", "none"], help_heading = "View")]
    pub summary: String,
    /// Also write the summary, as JSON, to this file
    #[arg(long, value_name = "FILE", help_heading = "View", value_hint = ValueHint::FilePath)]
    pub summary_file: Option<PathBuf>,
    /// Run this command (by sh -c) once at the end, whatever the end is: it reads the summary as
    /// JSON and gets LONGSHORE_JOB, _NAME, _EXIT_CODE, _OK, _FAILED and _REMAINING. Its failure is
    /// told and changes nothing
    #[arg(long, value_name = "CMD", help_heading = "View")]
    pub on_finish: Option<String>,
    /// Notify you at the end: on the desktop (notify-send), else by the terminal's bell
    #[arg(long, help_heading = "View")]
    pub notify: bool,
    /// Write a page of HTML to this file at the end: run times, failures with samples, slots in use
    /// and throughput over time, as charts. It needs nothing else and has no script
    #[arg(long, value_name = "FILE", help_heading = "View", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Show the first N tasks and what the job is set to, and run nothing
    #[arg(short = 'n', long, value_name = "N", num_args = 0..=1, default_missing_value = "3", help_heading = "View")]
    pub dry_run: Option<u64>,
    /// End with the number of failed tasks (101 for more than 100), as GNU parallel does
    #[arg(long, help_heading = "View")]
    pub exit_count: bool,

    /// Serve a page of this run while it goes, with /metrics, /healthz and /readyz, at this
    /// address, such as 127.0.0.1:7070: how it goes, and what can be changed
    #[arg(long, value_name = "HOST:PORT", help_heading = "Page")]
    pub listen: Option<String>,
    /// Who may see and change it.
    #[command(flatten)]
    pub web: WebArgs,

    /// Keep journals in this directory [$XDG_STATE_HOME/longshore, else ~/.local/state/longshore,
    /// else $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR", help_heading = "Durable", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,

    /// With `--task`: where the queue is.
    #[arg(skip)]
    pub place: Option<longshore_worker::Settings>,

    /// The words behind `:::`, which are records.
    #[arg(skip)]
    pub words: Option<Vec<OsString>>,
}

const AFTER: &str = "\
WHAT is exactly one of: -- CMD ARG…, --http, --pipe, --task. Records behind `:::` are arguments: longshore run -- gzip {} ::: a b c

Templates: {} record · {1} column · {field} {a.b} · {/} base name · {//} directory · {.} without extension · {/.} · {#} number · {%} slot · {{ expression }}

Keys on a terminal: s what runs · p pause · + - concurrency · q stop. Ctrl-C: once, start no more; twice, end what runs; three times, kill it.

Exit: 0 all ok · 1 some failed · 2 usage · 3 input · 4 a check failed · 5 stopped early · 7 resume refused · 74 journal or output · 75 runs already · 130/143 interrupted";

fn durable(text: &str) -> Result<DurableArg, String> {
    Ok(DurableArg(match text.split_once(':') {
        None if text == "off" => Durability::Off,
        None if text == "each" => Durability::Each,
        None if text == "batch" => Durability::default(),
        Some(("batch", time)) => Durability::Batch(units::duration(time)?),
        _ => return Err(format!("`{text}` is not a mode of the journal; write off, batch:50ms or each")),
    }))
}

/// `--durable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableArg(pub Durability);
