//! From a spec to a plan: everything compiled and checked before anything runs.
//!
//! Layout: `width.rs`: how many run at once

mod width;

use std::time::Duration;

use longshore_brokers::{mask_text, mask_words};
use longshore_core::{LaneKind, Limit, Rate, RetryPolicy, gate::adaptive::Bounds};

use self::width::{Width, check_window};
use crate::{
    auto::Auto,
    batch::{BatchSize, Batching, LONG},
    error::{RunError, RunErrorKind},
    input::{Input, Options as InputOptions, Source},
    intake::{LaneRule, Rules},
    journal::{Begin, JobSpec, StateDir},
    output::OutputSpec,
    ramp::Ramp,
    shared_limit::SharedLimit,
    spec::{Concurrency, Destination, InFlight, InputSpec, JournalSpec, NamedLimit, Program, ResultSpec, RunSpec, Timeout, retry_on},
    template::{Condition, Expr, Shape, hash_sources},
    text::harmless,
    units,
    what::What,
};

/// The limit of an HTTP attempt unless told otherwise.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// Further attempts of an HTTP request unless told otherwise.
const HTTP_RETRIES: u32 = 3;

/// Returns a command, as it is shown, without the secrets in it.
fn mask_line(line: &str) -> String {
    let words = shell_words::split(line).unwrap_or_default();
    let shown = mask_words(&words);
    if shown == words { mask_text(line) } else { shell_words::join(shown) }
}

/// A run that is compiled and checked, ready to be started: what [`Run::plan`](crate::Run::plan)
/// makes.
pub struct Plan {
    /// The program that runs.
    pub(crate) what: What,
    /// Which records run, and how.
    pub(crate) rules: Rules,
    /// The sources of records, and how they are read.
    pub(crate) input: InputOptions,
    /// The lane of a task whose record names none.
    pub(crate) lane: LaneKind,
    /// Most running at once.
    pub(crate) concurrency: usize,
    /// Lets it find itself up to that.
    pub(crate) adaptive: Option<Bounds>,
    /// Finds it by measuring, once, up to that.
    pub(crate) auto: Option<Auto>,
    /// The slots of each lane.
    pub(crate) lanes: [usize; 4],
    /// The pace of all starts.
    pub(crate) rate: Option<Rate>,
    /// Limits by value.
    pub(crate) limits: Vec<Limit>,
    /// The limit of the configuration that is shared with other processes.
    pub(crate) shared: Option<SharedLimit>,
    /// The rule by which failed tasks are tried again.
    pub(crate) retry: RetryPolicy,
    /// The limit of one attempt.
    pub(crate) timeout: Option<Timeout>,
    /// The destination of results, and what is written there.
    pub(crate) output: OutputSpec,
    /// With `--batch`: how many records share a call.
    pub(crate) batching: Option<Batching>,
    /// The job, for the journal.
    pub(crate) job: JobSpec,
    /// The spec that all this was made from.
    pub(crate) spec: RunSpec,
    /// The input, until somebody reads it.
    opened: Option<Input>,
}

fn usage(message: impl Into<String>) -> RunError {
    RunError::new(RunErrorKind::Usage, message)
}

fn expr(flag: &str, text: &str, shape: &Shape) -> Result<Expr, RunError> {
    Expr::parse(text, shape).map_err(|error| usage(format!("{flag}: {error}")))
}

/// Compiles an expression that is to tell records apart.
fn varying(flag: &str, text: Option<&str>, shape: &Shape) -> Result<Option<Expr>, RunError> {
    match text.map(|text| expr(flag, text, shape)).transpose()? {
        Some(expr) if expr.is_constant() => Err(usage(format!("{flag} {}: it is the same for every record", text.unwrap_or_default()))),
        expr => Ok(expr),
    }
}

/// The limits of a run, compiled.
#[derive(Default)]
struct Limiting {
    rate: Option<Rate>,
    limits: Vec<Limit>,
    /// The values of those, in their order.
    exprs: Vec<Expr>,
    /// Most at once, by a limit that has a name.
    concurrency: Option<usize>,
    shared: Option<SharedLimit>,
}

impl Limiting {
    fn of(spec: &RunSpec, shape: &Shape) -> Result<Self, RunError> {
        let mut this = Self::default();
        for (text, most) in &spec.lanes.per {
            this.exprs.push(expr("--per", text, shape)?);
            this.limits.push(Limit::named(text.as_str()).concurrency(*most));
        }
        this.rate = spec.pace.rate.map(|rate| rate.with_burst(spec.pace.burst));
        if let Some(text) = &spec.pace.by {
            this.exprs.push(expr("--rate-by", text, shape)?);
            let mut limit = Limit::named(text.as_str());
            limit.rate = this.rate.take();
            this.limits.push(limit);
        }
        if let Some(named) = &spec.pace.limit {
            this.add_named(named, spec, shape)?;
        }
        Ok(this)
    }

    fn add_named(&mut self, named: &NamedLimit, spec: &RunSpec, shape: &Shape) -> Result<(), RunError> {
        let name = &named.name;
        let limit_rate = named.rate.map(|rate| rate.with_burst(named.burst));
        if self.rate.is_some() && limit_rate.is_some() && named.by.is_none() {
            return Err(usage(format!("--rate and --limit {name} both set a pace; leave one out")));
        }
        let flag = format!("limit {name}, by");
        let by = named.by.as_ref().map(|by| expr(&flag, by, shape)).transpose()?;
        // Where a broker is named its bucket is shared; how many run at once is counted here alone.
        let limit_rate = match (&named.broker, limit_rate) {
            (Some(broker), Some(rate)) => {
                let host = matches!(spec.program, Program::Http(_));
                self.shared =
                    Some(SharedLimit { name: name.clone(), rate, by, broker: broker.clone(), results: named.results.clone(), host });
                None
            }
            (_, rate) => rate,
        };
        match &named.by {
            Some(_) if self.shared.is_some() && named.concurrency.is_none() => {}
            Some(by) => {
                self.exprs.push(expr(&flag, by, shape)?);
                let mut limit = Limit::named(name.as_str());
                (limit.concurrency, limit.rate) = (named.concurrency, limit_rate);
                self.limits.push(limit);
            }
            None => {
                self.rate = self.rate.or(limit_rate);
                self.concurrency = named.concurrency;
            }
        }
        Ok(())
    }

    /// Returns the flag by which the records of one call could differ, if there is one.
    fn by_value(&self, spec: &RunSpec, ordered: bool, lane: &LaneRule) -> Option<&'static str> {
        let by_value = [
            ("--order-by", ordered),
            ("--per", !spec.lanes.per.is_empty()),
            ("--rate-by", spec.pace.by.is_some()),
            ("--limit with `by`", !self.exprs.is_empty() || self.shared.as_ref().is_some_and(|shared| shared.by.is_some())),
            ("--lane with an expression", matches!(lane, LaneRule::Of(_))),
        ];
        by_value.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

fn lane_rule(spec: &RunSpec, what: &What, shape: &Shape) -> Result<(LaneKind, LaneRule), RunError> {
    let (default_lane, there_are) = what.lanes();
    let Some(word) = spec.lanes.lane.as_deref() else { return Ok((default_lane, LaneRule::Fixed)) };
    match LaneKind::parse(word) {
        Some(lane) if there_are.contains(&lane) => Ok((lane, LaneRule::Fixed)),
        Some(lane) => {
            let names: Vec<_> = there_are.iter().map(|lane| lane.as_str()).collect();
            Err(usage(format!("--lane {lane}: {} runs on the {} lane", what.text(), names.join(", "))))
        }
        None => Ok((default_lane, LaneRule::Of(expr("--lane", word, shape)?))),
    }
}

impl Plan {
    /// Opens the input and compiles everything.
    ///
    /// # Errors
    /// Kind and sentence: usage and templates, or the input.
    pub fn new(spec: RunSpec) -> Result<Self, RunError> {
        // Opened first, because the columns and the format decide which fields a template may name.
        let input_options = input_options(&spec)?;
        let input = Input::open(&input_options).map_err(|error| {
            let kind = if error.is_usage() { RunErrorKind::Usage } else { RunErrorKind::Input };
            RunError::new(kind, error.to_string())
        })?;
        // Expressions of the run may ask for a request's host, its templates may not.
        let of_record = Shape::of(&input);
        let http = matches!(spec.program, Program::Http(_));
        let shape = if http { of_record.clone().with_extra(&["host"]) } else { of_record.clone() };
        let what = What::compile_known(&spec.program, &spec.limits(), &of_record).map_err(usage)?;
        if let Some(why) = what.injection().filter(|_| !goes_on(&spec.journal)) {
            return Err(usage(why));
        }
        let mut limiting = Limiting::of(&spec, &shape)?;
        if spec.pace.ramp.is_some() && matches!(spec.lanes.concurrency, Concurrency::Adaptive(_) | Concurrency::Measured) {
            return Err(usage("--ramp excludes --adaptive and -j auto, which find the number at once themselves: name one with -j"));
        }
        check_window(&spec, &what)?;
        let (lane, lane_rule) = lane_rule(&spec, &what, &shape)?;
        let width = Width::of(&spec, &what, lane, &lane_rule, limiting.concurrency);
        let retries = spec.retry.retries.unwrap_or(if http { HTTP_RETRIES } else { 0 });
        let mut retry = RetryPolicy::times(retries).backoff(spec.retry.backoff.clone()).on(retry_on(&spec.retry.on, http));
        retry.give_up_after = spec.retry.give_up_after;
        let timeout = spec.time.timeout.or(http.then_some(Timeout::Fixed(HTTP_TIMEOUT)));
        // What is the same for every record would make all of them one task, or one line.
        let key = varying("--key", spec.input.key.as_deref(), &shape)?;
        let order_by = varying("--order-by", spec.lanes.order_by.as_deref(), &shape)?;
        let condition = (spec.input.filter.as_deref())
            .map(|text| Condition::parse(text, &shape).map_err(|error| usage(format!("--where: {error}"))))
            .transpose()?;
        // Runs whose templates have one hash can be one job, so only what decides what a task does
        // is in it.
        let job = JobSpec {
            name: spec.journal.name.clone(),
            what: mask_line(&what.text()),
            template: format!("{:032x}", hash_sources(what.sources())),
            key_rule: key_rule(&spec),
            inputs: input_options.sources.iter().map(source_name).collect(),
            args: spec.journal.words.clone(),
            cwd: std::env::current_dir().map_or_else(|_| String::new(), |dir| dir.display().to_string()),
        };
        let output = output(&spec)?;
        // Records of a call run at once and on one lane, so nothing may set them apart.
        let by_value = limiting.by_value(&spec, order_by.is_some(), &lane_rule);
        let batching = batching(&spec, &what, by_value).map_err(usage)?;
        let rules = Rules {
            condition,
            key,
            dups: spec.input.dups,
            order_by,
            limits: std::mem::take(&mut limiting.exprs),
            lane: lane_rule,
            host: http,
            skip_in_flight: spec.journal.in_flight == InFlight::Skip,
        };
        let Limiting { rate, limits, shared, .. } = limiting;
        let Width { concurrency, adaptive, auto, lanes } = width;
        Ok(Self {
            opened: Some(input),
            what,
            rules,
            input: input_options,
            lane,
            concurrency,
            adaptive,
            auto,
            lanes,
            rate,
            limits,
            shared,
            retry,
            timeout,
            output,
            batching,
            job,
            spec,
        })
    }

    /// Reads the whole input and checks every record, before anything runs.
    ///
    /// # Errors
    /// Of kind input, with every bad record on a line of its own (the first thousand); of kind
    /// usage where the input cannot be read twice.
    pub fn check_all(&mut self) -> Result<u64, RunError> {
        if self.input.sources.contains(&Source::Stdin) {
            return Err(usage("--strict reads the input twice, which stdin does not allow; name a file"));
        }
        let input = self.take_input()?;
        let count = check_records(self, input)?;
        self.opened = Some(self.open_input()?);
        Ok(count)
    }

    /// Returns the records, to be looked at and not run.
    ///
    /// # Errors
    /// The input cannot be opened again.
    pub fn take_input(&mut self) -> Result<Input, RunError> {
        match self.opened.take() {
            Some(input) => Ok(input),
            None => self.open_input(),
        }
    }

    fn open_input(&self) -> Result<Input, RunError> {
        Input::open(&self.input).map_err(|error| RunError::new(RunErrorKind::Input, error.to_string()))
    }

    /// Returns whether results, or lines of what runs, are shown on something that is open, such as
    /// a terminal.
    pub fn shows_results(&self) -> bool {
        self.output.open.is_some() || self.output.live.is_some()
    }

    /// Capacity of the work queue: twice the workers.
    pub fn queue(&self) -> usize {
        2 * self.concurrency
    }

    /// Capacity of the result queue: twice the workers. None for commands and pipes, where a slot
    /// is free only when the result of its last task is in the journal: if the run is killed, no
    /// more tasks than run at once can have ended without the journal knowing it.
    pub fn result_queue(&self) -> usize {
        if self.what.has_children() { 0 } else { 2 * self.concurrency }
    }

    /// Returns the settings of the job, for `--dry-run`.
    pub fn describe(&self) -> String {
        let mut text = match self.adaptive {
            Some(bounds) => format!("concurrency {}..{} adaptive", bounds.floor, bounds.ceiling),
            None if self.auto.is_some() => format!("concurrency auto, {} at most", self.concurrency),
            None => format!("concurrency {}", self.concurrency),
        };
        for lane in LaneKind::ALL.into_iter().filter(|lane| self.lanes[*lane as usize] > 0) {
            text += &format!("   lane {lane} {}", self.lanes[lane as usize]);
        }
        if let window @ 2.. = self.what.window() {
            text += &format!("   {} children with {window} lines each", self.concurrency.div_ceil(window));
        }
        if let Some(batching) = &self.batching {
            text += &format!("   {batching}");
        }
        text += &format!("   work queue {}   result queue {}", self.queue(), self.result_queue());
        if let Some(rate) = self.rate {
            text += &format!("   {}", longshore_core::Reason::Pace { rate });
        }
        for limit in &self.limits {
            text += &format!("   limit {} {}", limit.name, shown_limit(limit));
        }
        text
    }

    /// Returns how it grows at its start.
    pub(crate) fn ramp(&self) -> Option<Ramp> {
        self.spec.pace.ramp.map(|over| Ramp::new(over, self.concurrency, self.rate))
    }

    /// The limits of one task, for `--dry-run`.
    pub fn describe_task(&self, backoff: &str) -> String {
        let timeout = match self.timeout {
            None => "none".to_owned(),
            Some(Timeout::Fixed(limit)) => units::show_duration(limit),
            Some(Timeout::OfMedian(share)) => format!("{}% of the median", share * 100.0),
        };
        let retries = match self.retry.retries {
            0 => "0".to_owned(),
            retries => format!("{retries} ({})", backoff.replacen(':', " ", 1)),
        };
        format!("timeout {timeout}   retries {retries}")
    }
}

/// Returns whether a run goes on with a job that has begun, and is refused if that did anything
/// else.
fn goes_on(spec: &JournalSpec) -> bool {
    match (&spec.begin, &spec.name) {
        (Begin::Resume(_) | Begin::RetryFailed(_), _) => true,
        (Begin::Auto, Some(name)) => StateDir::open(spec.state_dir.as_deref()).and_then(|state| state.find(name)).is_ok(),
        (Begin::Auto | Begin::Fresh, _) => false,
    }
}

fn source_name(source: &Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        Source::Stdin => "-".to_owned(),
        Source::Words(words) => format!("::: ({} {})", words.len(), if words.len() == 1 { "word" } else { "words" }),
    }
}

fn input_options(spec: &RunSpec) -> Result<InputOptions, RunError> {
    let InputSpec { sources, format, header, skip, take, max_record, split, .. } = &spec.input;
    if sources.is_empty() {
        return Err(usage("no input: name a file, pipe records in, or write them behind `:::`"));
    }
    Ok(InputOptions {
        sources: sources.clone(),
        format: *format,
        header: *header,
        skip: *skip,
        take: *take,
        max_record: usize::try_from(*max_record).unwrap_or(usize::MAX),
        split: *split,
    })
}

/// The fields of a result line.
const FIELDS: [&str; 15] =
    ["job", "seq", "key", "n", "task", "outcome", "attempts", "wait_ms", "run_ms", "started", "slot", "batch", "call", "value", "error"];

fn output(spec: &RunSpec) -> Result<OutputSpec, RunError> {
    let ResultSpec { to, emit, only, fields, tag, live, ordered, failed, .. } = &spec.output;
    if live.is_some() && !matches!(spec.program, Program::Command(_)) {
        return Err(usage("--line-buffer: only commands write lines while they run; leave it out with --http, --pipe and --task"));
    }
    for field in fields {
        let first = field.split('.').next().unwrap_or_default();
        if !FIELDS.contains(&first) {
            return Err(usage(format!("--fields: a result line has no `{first}`; it has {}", FIELDS.join(", "))));
        }
    }
    Ok(OutputSpec {
        file: to.file().cloned(),
        open: if let Destination::Open(file) = to { Some(file.clone()) } else { None },
        emit: *emit,
        only: *only,
        fields: fields.clone(),
        tag: *tag,
        ordered_from: ordered.then_some(spec.input.skip + 1),
        failed_out: failed.clone(),
        live: live.clone(),
    })
}

fn check_records(plan: &Plan, input: Input) -> Result<u64, RunError> {
    const SHOWN: usize = 1000;
    let mut bad = Vec::new();
    let (mut count, mut more) = (0u64, 0u64);
    for record in input {
        let record = record.map_err(|error| RunError::new(RunErrorKind::Input, error.to_string()))?;
        count += 1;
        let left_out =
            plan.rules.condition.as_ref().is_some_and(|condition| matches!(condition.holds(&record, &Default::default()), Ok(false)));
        if left_out {
            continue;
        }
        if let Err(error) = plan.what.show(&[&record], 0) {
            if bad.len() < SHOWN {
                bad.push(format!(" #{} {}", record.seq(), harmless(error.message(), usize::MAX)));
            } else {
                more += 1;
            }
        }
    }
    if bad.is_empty() {
        return Ok(count);
    }
    let mut message = format!("{} of {count} records are bad, nothing was run (--strict)\n{}", bad.len() as u64 + more, bad.join("\n"));
    if more > 0 {
        message += &format!("\n … and {more} more");
    }
    Err(RunError::new(RunErrorKind::Input, message))
}

/// Returns the rule by which records are known again. Ranges of another size are other tasks.
fn key_rule(spec: &RunSpec) -> String {
    let key = spec.input.key.as_deref().unwrap_or("content");
    match spec.input.split {
        None => key.to_owned(),
        Some(size) => format!("{key} of ranges of {}", units::show_size(size)),
    }
}

/// Returns the text that says how much each value of a limit may have.
fn shown_limit(limit: &Limit) -> String {
    let most = limit.concurrency.map(|most| format!("{most} at once"));
    let rate = limit.rate.map(|rate| longshore_core::Reason::Pace { rate }.to_string());
    format!("({} for each value)", most.into_iter().chain(rate).collect::<Vec<_>>().join(", "))
}

/// Returns how records share calls; `None` if every record has a call of its own.
///
/// # Errors
/// Why several records cannot share a call here, and what to do.
fn batching(spec: &RunSpec, what: &What, by_value: Option<&str>) -> Result<Option<Batching>, String> {
    let input = &spec.input;
    if !input.batch.is_several() {
        return Ok(None);
    }
    let plan = match what {
        What::Command(plan) => plan,
        What::Http(_) => return Err("--batch: a request has one record; leave --batch out".to_owned()),
        What::Pipe(_) => {
            return Err("--batch: the children of --pipe stay alive and answer record by record; leave --batch out".to_owned());
        }
        What::Task(_) => return Err("--batch: a task of a queue has one record; leave --batch out".to_owned()),
        What::Noop => return Err("--batch: there is no call that records could share".to_owned()),
    };
    if let Some(because) = plan.takes_one_because() {
        return Err(because);
    }
    if let Some(flag) = by_value {
        return Err(format!("{flag} and --batch exclude each other: the records of a call may differ in that value"));
    }
    if input.split.is_some() {
        return Err("--split and --batch exclude each other: make the ranges larger".to_owned());
    }
    if spec.output.tag {
        return Err("--tag and --batch exclude each other: what a call writes is of all its records".to_owned());
    }
    let size = match input.batch {
        BatchSize::Fixed(size) => return Ok(Some(Batching::new(size, None, plan.base(), input.max_record))),
        BatchSize::Auto => 1,
    };
    let long = match spec.time.timeout {
        Some(Timeout::OfMedian(_)) => {
            return Err("--timeout with a share of the median and --batch auto exclude each other: calls grow; name a time".to_owned());
        }
        // Groups that grow towards the timeout would fail for their size.
        Some(Timeout::Fixed(timeout)) => LONG.min(timeout / 2),
        None => LONG,
    };
    Ok(Some(Batching::new(size, Some(long), plan.base(), input.max_record)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_an_older_version_goes_on_though_its_records_are_run_as_programs() {
        let dir = tempfile::tempdir().unwrap();
        for (name, words, place) in [
            ("shell", &["sh", "-c", "echo {}"][..], "in the script of sh -c"),
            ("python", &["python3", "-c", "print({})"], "in the program of python3 -c"),
            ("awk", &["awk", "/{}/", "log"], "in the program of awk"),
            ("ssh", &["ssh", "host", "ls", "{}"], "in the line of ssh"),
        ] {
            let spec = |begin: Begin, name: Option<&str>| {
                let mut spec = RunSpec::new(Program::command(words)).records(["a"]).journaled();
                spec.journal.state_dir = Some(dir.path().to_owned());
                (spec.journal.begin, spec.journal.name) = (begin, name.map(str::to_owned));
                spec
            };
            let refused = |begin: Begin, name| Plan::new(spec(begin, name)).err().map(|error| error.message);
            let why = refused(Begin::Auto, Some(name));
            assert!(why.as_ref().is_some_and(|why| why.contains(place)), "{why:?}");
            // As such a version began it.
            let first = spec(Begin::Auto, Some(name));
            let what = What::compile_known(&first.program, &first.limits(), &Shape::lines()).unwrap();
            let job = JobSpec {
                name: Some(name.to_owned()),
                template: format!("{:032x}", hash_sources(what.sources())),
                key_rule: key_rule(&first),
                ..JobSpec::default()
            };
            drop(StateDir::open(Some(dir.path())).unwrap().begin(&job, &Begin::Auto).unwrap());
            for begin in [Begin::Auto, Begin::Resume(None), Begin::RetryFailed(Some(name.to_owned()))] {
                assert_eq!(refused(begin.clone(), Some(name)), None, "{begin:?}");
            }
            for (begin, name) in [(Begin::Fresh, Some(name)), (Begin::Auto, Some("new")), (Begin::Auto, None)] {
                assert!(refused(begin.clone(), name).is_some(), "{begin:?} {name:?}");
            }
        }
    }
}
