//! Spec of a run, made of its command line and its configuration.

use std::{fs::File, os::fd::AsFd, sync::Arc};

use longshore_run::{
    Program, RunError, RunErrorKind, RunSpec,
    input::{Format, Source},
    spec::{Begin, Concurrency, Destination, Emit, InFlight, NamedLimit, Only, TaskSpec},
};

use super::args::RunArgs;
use crate::{config::Config, flags, foreign, units};

fn usage(message: impl Into<String>) -> RunError {
    RunError::new(RunErrorKind::Usage, message)
}

/// Returns what a run is to do.
///
/// # Errors
/// What the command line or the configuration says that cannot be.
pub fn spec(args: &RunArgs, config: &Config, words: Vec<String>) -> Result<RunSpec, RunError> {
    // What a run is of is looked at behind its input: of both, the input's mistake is told first.
    let mut spec = RunSpec::default();
    input(args, &mut spec)?;
    spec.program = program(args)?;
    lanes(args, &mut spec)?;
    spec.pace.rate = args.pace.rate;
    spec.pace.burst = args.pace.burst;
    spec.pace.by.clone_from(&args.rate_by);
    spec.pace.limit = args.limit.as_ref().map(|name| limit(name, args, config)).transpose()?;
    spec.pace.ramp = args.ramp;
    spec.pace.retry_after = !args.no_retry_after;
    spec.retry.retries = args.retries;
    spec.retry.backoff = args.retry.backoff.0.clone();
    spec.retry.on.clone_from(&args.retry.retry_on);
    spec.retry.give_up_after = args.give_up_after;
    spec.time.timeout = args.timeout;
    spec.time.kill_after = args.limits.kill_after;
    spec.time.grace = args.grace;
    spec.time.slow = args.slow;
    spec.time.job = args.job_timeout;
    spec.stop.max_fail = args.max_fail;
    spec.stop.until_ok = args.until_ok;
    spec.stop.checks.clone_from(&args.check);
    spec.stop.exit_count = args.exit_count;
    output(args, &mut spec)?;
    spec.journal.durability = args.durable.0;
    spec.journal.name.clone_from(&args.name);
    spec.journal.begin = begin(args);
    spec.journal.in_flight = if args.in_flight == "skip" { InFlight::Skip } else { InFlight::Rerun };
    spec.journal.state_dir.clone_from(&args.state_dir);
    spec.journal.reachable = true;
    spec.journal.words = words;
    Ok(spec)
}

fn begin(args: &RunArgs) -> Begin {
    let given = |job: &String| if job.is_empty() { None } else { Some(job.clone()) };
    match (&args.resume, &args.retry_failed, args.fresh) {
        (Some(job), _, _) => Begin::Resume(given(job)),
        (_, Some(job), _) => Begin::RetryFailed(given(job)),
        (_, _, true) => Begin::Fresh,
        _ => Begin::Auto,
    }
}

/// Returns what runs for each record: exactly one of the things that there are.
fn program(args: &RunArgs) -> Result<Program, RunError> {
    let given = [!args.what.command.is_empty(), args.what.http.is_some(), args.what.pipe.is_some(), args.task.is_some(), args.noop];
    match given.iter().filter(|given| **given).count() {
        0 if let Some(answer) = foreign::without_dashes(&args.inputs) => return Err(usage(answer)),
        0 => return Err(usage("nothing to run: write -- CMD ARG…, --http 'GET URL', --pipe 'COMMAND' or --task NAME")),
        1 => {}
        _ => return Err(usage("more than one thing to run: -- CMD, --http, --pipe and --task exclude each other")),
    }
    if let Some(name) = &args.task {
        let mut task = TaskSpec::default();
        task.name.clone_from(name);
        task.args.clone_from(&args.task_args);
        task.kwargs.clone_from(&args.task_kwargs);
        task.queue.clone_from(&args.queue);
        task.settings = args.place.clone().unwrap_or_default();
        return Ok(Program::Task(Box::new(task)));
    }
    if args.noop {
        return Ok(Program::Nothing);
    }
    let mut program = flags::program(&args.what, &args.child, &args.request, &args.limits);
    if let Program::Http(request) = &mut program {
        request.save_body.clone_from(&args.save_body);
    }
    if let Program::Pipe(pipe) = &mut program {
        pipe.window = args.pipe_window;
    }
    Ok(program)
}

fn input(args: &RunArgs, spec: &mut RunSpec) -> Result<(), RunError> {
    let input = &mut spec.input;
    input.sources = args.inputs.iter().chain(&args.input).map(Source::of_word).collect();
    if let Some(words) = &args.words {
        input.sources.push(Source::Words(words.clone()));
    }
    if input.sources.is_empty() {
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(usage("no input: name a file, pipe records in, or write them behind `:::`"));
        }
        input.sources.push(Source::Stdin);
    }
    input.format = match (args.null, args.format) {
        (false, format) => format,
        (true, Format::Auto | Format::Nul) => Format::Nul,
        (true, other) => return Err(usage(format!("-0 and --format {} exclude each other", other.name()))),
    };
    input.header = !args.no_header;
    input.skip = args.skip;
    input.take = args.take;
    input.filter.clone_from(&args.where_);
    input.key.clone_from(&args.key);
    input.dups = args.dups;
    input.max_record = args.max_record;
    input.split = args.split;
    input.batch = args.batch;
    Ok(())
}

fn lanes(args: &RunArgs, spec: &mut RunSpec) -> Result<(), RunError> {
    let lanes = &mut spec.lanes;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    lanes.concurrency = match (args.adaptive, args.concurrency) {
        (Some(bounds), _) => Concurrency::Adaptive(bounds),
        (None, Some(units::Count::Auto)) => Concurrency::Measured,
        (None, Some(count)) => Concurrency::Fixed(count.resolve(cores)),
        (None, None) => Concurrency::Default,
    };
    for per in &args.per {
        let (text, most) = per.rsplit_once('=').ok_or_else(|| usage(format!("--per {per}: write EXPR=N, as in host=4")))?;
        let most = most.parse().ok().filter(|most| *most > 0);
        let most = most.ok_or_else(|| {
            let most = per.rsplit_once('=').map_or("", |(_, most)| most);
            usage(format!("--per {per}: `{most}` is not a number above 0"))
        })?;
        lanes.per.push((text.to_owned(), most));
    }
    lanes.lane.clone_from(&args.lane);
    lanes.order_by.clone_from(&args.order_by);
    lanes.max_load = args.max_load;
    lanes.min_free_mem = args.min_free_mem;
    Ok(())
}

/// Returns a limit of the configuration.
fn limit(name: &str, args: &RunArgs, config: &Config) -> Result<NamedLimit, RunError> {
    let limit = config.limit(name).map_err(|error| usage(error.to_string()))?;
    let rate = limit.rate.as_ref().map(|text| units::rate(text).map_err(|error| usage(format!("limit {name}: {error}"))));
    let mut named = NamedLimit::default();
    name.clone_into(&mut named.name);
    named.concurrency = limit.concurrency.map(|most| usize::try_from(most).unwrap_or(usize::MAX).max(1));
    named.rate = rate.transpose()?;
    named.burst = u32::try_from(limit.burst).unwrap_or(u32::MAX);
    named.by = limit.by;
    named.broker = args.place.as_ref().map(|place| place.broker.clone());
    named.results = args.place.as_ref().and_then(|place| place.results.clone());
    Ok(named)
}

fn output(args: &RunArgs, spec: &mut RunSpec) -> Result<(), RunError> {
    let is_jsonl = args.output.as_ref().is_some_and(|path| path.extension().is_some_and(|ext| ext == "jsonl"));
    if args.line_buffer {
        line_buffer(args)?;
        spec.output.live = Some(stdout()?);
    }
    let output = &mut spec.output;
    output.emit = match args.emit.as_deref() {
        Some("jsonl") => Emit::Jsonl,
        Some("raw") => Emit::Raw,
        Some(_) => Emit::None,
        None if args.line_buffer && args.output.is_none() => Emit::None,
        None if matches!(spec.program, Program::Command(_)) && !is_jsonl && args.fields.is_empty() => Emit::Raw,
        None => Emit::Jsonl,
    };
    output.to = match &args.output {
        Some(path) => Destination::File(path.clone()),
        None if output.emit == Emit::None => Destination::Nowhere,
        None => Destination::Open(stdout()?),
    };
    output.only = args.only.as_deref().map(|only| if only == "ok" { Only::Ok } else { Only::Failed });
    output.fields.clone_from(&args.fields);
    output.tag = args.tag;
    output.ordered = args.ordered;
    output.order_window = args.order_window;
    output.max_output = args.max_output;
    output.save.clone_from(&args.save_output);
    output.failed.clone_from(&args.failed_out);
    output.story = args.report.is_some() || args.listen.is_some();
    Ok(())
}

/// Refuses what is said of results that lines of running commands cannot keep to.
fn line_buffer(args: &RunArgs) -> Result<(), RunError> {
    if args.output.is_some() {
        return Ok(());
    }
    let because = match args.emit.as_deref() {
        _ if args.ordered => "-k: lines are shown as they come",
        _ if args.only.is_some() => "--only: while a command runs nobody knows how it ends",
        _ if !args.fields.is_empty() => "--fields: a line that a command writes has none",
        None => return Ok(()),
        Some(_) => "--emit: lines are shown as they are written",
    };
    Err(usage(format!("--line-buffer excludes {because}; with -o FILE that is said of the results in that file")))
}

fn stdout() -> Result<Arc<File>, RunError> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned();
    let stdout = stdout.map_err(|error| RunError::new(RunErrorKind::Unwritable, format!("stdout: {error}")))?;
    Ok(Arc::new(File::from(stdout)))
}
