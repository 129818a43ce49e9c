//! From the command line and the configuration to a plan: everything compiled and checked before anything runs.

use std::{sync::Arc, time::Duration};

use longshore_brokers::{mask_text, mask_words};
use longshore_core::{LaneKind, Limit, Rate, RetryPolicy, gate::adaptive::Bounds};

use crate::{
    config::Config,
    run::{
        RunError,
        args::{Dups, RunArgs, Timeout},
        auto::Auto,
        batch::Batching,
        input::{Format, Input, Options as InputOptions, Source},
        intake::{LaneRule, Rules},
        journal::JobSpec,
        output::{Emit, Only, OutputSpec},
        shared_limit::SharedLimit,
        template::{Condition, Expr, Shape, hash_sources},
        what::What,
    },
    units,
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

/// What a run is going to do.
pub struct Plan {
    /// What runs.
    pub what: What,
    /// Which records run, and how.
    pub rules: Rules,
    /// Where records come from.
    pub input: InputOptions,
    /// The lane of a task whose record names none.
    pub lane: LaneKind,
    /// Most running at once.
    pub concurrency: usize,
    /// Lets it find itself up to that.
    pub adaptive: Option<Bounds>,
    /// Finds it by measuring, once, up to that.
    pub auto: Option<Auto>,
    /// The slots of each lane.
    pub lanes: [usize; 4],
    /// The pace of all starts.
    pub rate: Option<Rate>,
    /// Limits by value.
    pub limits: Vec<Limit>,
    /// The limit of the configuration that is shared with other processes.
    pub shared: Option<SharedLimit>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// The limit of one attempt.
    pub timeout: Option<Timeout>,
    /// Where results go.
    pub output: OutputSpec,
    /// With `--batch`: how many records share a call.
    pub batching: Option<Batching>,
    /// The job, for the journal.
    pub spec: JobSpec,
}

fn usage(message: impl Into<String>) -> RunError {
    RunError { code: 2, message: message.into() }
}

impl Plan {
    /// Opens the input and compiles everything.
    ///
    /// # Errors
    /// Exit code and sentence: 2 for usage and templates, 3 for the input.
    pub fn new(args: &RunArgs, config: &Config) -> Result<(Self, Input), RunError> {
        let input_options = input_options(args)?;
        let input = Input::open(&input_options)
            .map_err(|error| RunError { code: if error.is_usage() { 2 } else { 3 }, message: error.to_string() })?;
        let mut shape = Shape::of(&input);
        if args.what.http.is_some() {
            shape = shape.with_extra(&["host"]);
        }
        let what = What::compile(args, &Shape::of(&input)).map_err(usage)?;
        let expr = |flag: &str, text: &str| Expr::parse(text, &shape).map_err(|error| usage(format!("{flag}: {error}")));
        let some = |flag: &str, text: &Option<String>| text.as_deref().map(|text| expr(flag, text)).transpose();
        let varying = |flag: &str, text: &Option<String>| match some(flag, text)? {
            Some(expr) if expr.is_constant() => {
                Err(usage(format!("{flag} {}: it is the same for every record", text.as_deref().unwrap_or_default())))
            }
            expr => Ok(expr),
        };
        let mut limits = Vec::new();
        let mut limit_exprs = Vec::new();
        for per in &args.per {
            let (text, most) = per.rsplit_once('=').ok_or_else(|| usage(format!("--per {per}: write EXPR=N, as in host=4")))?;
            let most: usize = most
                .parse()
                .ok()
                .filter(|most| *most > 0)
                .ok_or_else(|| usage(format!("--per {per}: `{most}` is not a number above 0")))?;
            limit_exprs.push(expr("--per", text)?);
            limits.push(Limit { name: text.into(), concurrency: Some(most), rate: None });
        }
        let mut rate = args.pace.bucket();
        if let Some(text) = &args.rate_by {
            limit_exprs.push(expr("--rate-by", text)?);
            limits.push(Limit { name: text.as_str().into(), concurrency: None, rate: rate.take() });
        }
        let (mut concurrency_limit, mut shared) = (None, None);
        if let Some(name) = &args.limit {
            let limit = config.limit(name).map_err(|error| usage(error.to_string()))?;
            let limit_rate = match &limit.rate {
                None => None,
                Some(text) => {
                    let rate = units::rate(text).map_err(|error| usage(format!("limit {name}: {error}")))?;
                    Some(rate.with_burst(u32::try_from(limit.burst).unwrap_or(u32::MAX)))
                }
            };
            let most = limit.concurrency.map(|most| usize::try_from(most).unwrap_or(usize::MAX).max(1));
            if rate.is_some() && limit_rate.is_some() && limit.by.is_none() {
                return Err(usage(format!("--rate and --limit {name} both set a pace; leave one out")));
            }
            let by = limit.by.as_ref().map(|by| expr(&format!("limit {name}, by"), by)).transpose()?;
            // Where a broker is configured its bucket is shared; how many run at once is counted here alone.
            let limit_rate = match (&args.place, limit_rate) {
                (Some(place), Some(rate)) => {
                    shared =
                        Some(SharedLimit { name: name.clone(), rate, by, broker: place.broker.clone(), host: args.what.http.is_some() });
                    None
                }
                (_, rate) => rate,
            };
            match &limit.by {
                Some(_) if shared.is_some() && most.is_none() => {}
                Some(by) => {
                    limit_exprs.push(expr(&format!("limit {name}, by"), by)?);
                    limits.push(Limit { name: name.as_str().into(), concurrency: most, rate: limit_rate });
                }
                None => {
                    rate = rate.or(limit_rate);
                    concurrency_limit = most;
                }
            }
        }
        let (default_lane, there_are) = what.lanes();
        let (lane, lane_rule) = match args.lane.as_deref() {
            None => (default_lane, LaneRule::Fixed),
            Some(word) => match LaneKind::parse(word) {
                Some(lane) if there_are.contains(&lane) => (lane, LaneRule::Fixed),
                Some(lane) => {
                    let names: Vec<_> = there_are.iter().map(|lane| lane.as_str()).collect();
                    return Err(usage(format!("--lane {lane}: {} runs on the {} lane", what.text(), names.join(", "))));
                }
                None => (default_lane, LaneRule::Of(expr("--lane", word)?)),
            },
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let auto = args.concurrency == Some(units::Count::Auto);
        let ceiling = args.adaptive.map(|bounds| bounds.ceiling).or(auto.then(|| Auto::most(&what)));
        let asked = ceiling.or_else(|| args.concurrency.map(|count| count.resolve(cores).max(1)));
        let mut concurrency = asked.unwrap_or_else(|| what.default_concurrency());
        let mut lanes = [0; 4];
        for kind in there_are {
            lanes[*kind as usize] = match (*kind == lane, &lane_rule) {
                (true, LaneRule::Fixed) => concurrency,
                (false, LaneRule::Fixed) => 0,
                (_, LaneRule::Of(_)) => kind.default_workers().min(asked.unwrap_or(usize::MAX)),
            };
        }
        if matches!(lane_rule, LaneRule::Of(_)) && asked.is_none() {
            concurrency = lanes.iter().sum();
        }
        concurrency = concurrency.min(concurrency_limit.unwrap_or(usize::MAX));
        let adaptive = args.adaptive.map(|bounds| Bounds { floor: bounds.floor.min(concurrency), ceiling: concurrency });
        let auto = auto.then(|| Auto::new(cores, concurrency, lane));
        let http = what.is_http();
        let retry = RetryPolicy {
            retries: args.retries.unwrap_or(if http { HTTP_RETRIES } else { 0 }),
            backoff: args.retry.backoff.0.clone(),
            on: args.retry.on(http),
            give_up_after: args.give_up_after,
        };
        let timeout = args.timeout.or(http.then_some(Timeout::Fixed(HTTP_TIMEOUT)));
        let key = varying("--key", &args.key)?;
        let order_by = varying("--order-by", &args.order_by)?;
        let condition = args
            .where_
            .as_deref()
            .map(|text| Condition::parse(text, &shape).map_err(|error| usage(format!("--where: {error}"))))
            .transpose()?;
        let spec = JobSpec {
            name: args.name.clone(),
            what: mask_line(&what.text()),
            template: format!("{:032x}", hash_sources(what.sources())),
            key_rule: key_rule(args),
            inputs: input_options.sources.iter().map(source_name).collect(),
            args: Vec::new(),
            cwd: std::env::current_dir().map_or_else(|_| String::new(), |dir| dir.display().to_string()),
        };
        let output = output(args, &what)?;
        let by_value = [
            ("--order-by", order_by.is_some()),
            ("--per", !args.per.is_empty()),
            ("--rate-by", args.rate_by.is_some()),
            ("--limit with `by`", !limit_exprs.is_empty() || shared.as_ref().is_some_and(|shared| shared.by.is_some())),
            ("--lane with an expression", matches!(lane_rule, LaneRule::Of(_))),
        ];
        let by_value = by_value.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
        let batching = Batching::of(args, &what, by_value).map_err(usage)?;
        let rules = Rules {
            condition,
            key,
            dups: args.dups,
            order_by,
            limits: limit_exprs,
            lane: lane_rule,
            host: http,
            skip_in_flight: args.in_flight == "skip",
        };
        Ok((
            Self {
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
                spec,
            },
            input,
        ))
    }

    /// Capacity of the work queue: twice the workers.
    pub fn queue(&self) -> usize {
        2 * self.concurrency
    }

    /// Capacity of the result queue: twice the workers. None for commands and pipes, where a slot is free only when the result of its last task is in the
    /// journal: if the run is killed, no more tasks than run at once can have ended without the journal knowing it.
    pub fn result_queue(&self) -> usize {
        if self.what.has_children() { 0 } else { 2 * self.concurrency }
    }

    /// What the job is set to, for `--dry-run`.
    pub fn describe(&self) -> String {
        let mut text = match self.adaptive {
            Some(bounds) => format!("concurrency {}..{} adaptive", bounds.floor, bounds.ceiling),
            None if self.auto.is_some() => format!("concurrency auto, {} at most", self.concurrency),
            None => format!("concurrency {}", self.concurrency),
        };
        for lane in LaneKind::ALL.into_iter().filter(|lane| self.lanes[*lane as usize] > 0) {
            text += &format!("   lane {lane} {}", self.lanes[lane as usize]);
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

    /// Whether keys have to be counted although there is no journal.
    pub fn counts_keys(&self) -> bool {
        self.rules.dups != Dups::Run
    }
}

fn source_name(source: &Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        Source::Stdin => "-".to_owned(),
        Source::Words(words) => format!("::: ({} words)", words.len()),
    }
}

fn input_options(args: &RunArgs) -> Result<InputOptions, RunError> {
    let mut sources: Vec<Source> = args.inputs.iter().chain(&args.input).map(Source::of_word).collect();
    if let Some(words) = &args.words {
        sources.push(Source::Words(words.clone()));
    }
    if sources.is_empty() {
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(usage("no input: name a file, pipe records in, or write them behind `:::`"));
        }
        sources.push(Source::Stdin);
    }
    let format = match (args.null, args.format) {
        (false, format) => format,
        (true, Format::Auto | Format::Nul) => Format::Nul,
        (true, other) => return Err(usage(format!("-0 and --format {} exclude each other", other.name()))),
    };
    Ok(InputOptions {
        sources,
        format,
        header: !args.no_header,
        skip: args.skip,
        take: args.take,
        max_record: usize::try_from(args.max_record).unwrap_or(usize::MAX),
        split: args.split,
    })
}

/// The fields of a result line.
const FIELDS: [&str; 15] =
    ["job", "seq", "key", "n", "task", "outcome", "attempts", "wait_ms", "run_ms", "started", "slot", "batch", "call", "value", "error"];

fn output(args: &RunArgs, what: &What) -> Result<OutputSpec, RunError> {
    for field in &args.fields {
        let first = field.split('.').next().unwrap_or_default();
        if !FIELDS.contains(&first) {
            return Err(usage(format!("--fields: a result line has no `{first}`; it has {}", FIELDS.join(", "))));
        }
    }

    let jsonl_file = args.output.as_ref().is_some_and(|path| path.extension().is_some_and(|ext| ext == "jsonl"));
    let emit = match args.emit.as_deref() {
        Some("jsonl") => Emit::Jsonl,
        Some("raw") => Emit::Raw,
        Some(_) => Emit::None,
        None if matches!(what, What::Command(_)) && !jsonl_file && args.fields.is_empty() => Emit::Raw,
        None => Emit::Jsonl,
    };
    Ok(OutputSpec {
        file: args.output.clone(),
        emit,
        only: args.only.as_deref().map(|only| if only == "ok" { Only::Ok } else { Only::Failed }),
        fields: args.fields.clone(),
        tag: args.tag,
        ordered_from: args.ordered.then_some(args.skip + 1),
        failed_out: args.failed_out.clone(),
    })
}

/// Checks every record before anything runs.
///
/// # Errors
/// 3, with every bad record on a line of its own (the first thousand).
pub fn check_all(plan: &Plan, input: Input) -> Result<u64, RunError> {
    const SHOWN: usize = 1000;
    let mut bad = Vec::new();
    let (mut count, mut more) = (0u64, 0u64);
    for record in input {
        let record = record.map_err(|error| RunError { code: 3, message: error.to_string() })?;
        count += 1;
        let left_out =
            plan.rules.condition.as_ref().is_some_and(|condition| matches!(condition.holds(&record, &Default::default()), Ok(false)));
        if left_out {
            continue;
        }
        if let Err(error) = plan.what.show(&[&record], 0) {
            if bad.len() < SHOWN {
                bad.push(format!(" #{} {}", record.seq(), error.message()));
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
    Err(RunError { code: 3, message })
}

/// How records are known again. Ranges of another size are other tasks.
fn key_rule(args: &RunArgs) -> String {
    let key = args.key.as_deref().unwrap_or("content");
    match args.split {
        None => key.to_owned(),
        Some(size) => format!("{key} of ranges of {}", units::show_size(size)),
    }
}

/// What each value of a limit may have.
fn shown_limit(limit: &Limit) -> String {
    let most = limit.concurrency.map(|most| format!("{most} at once"));
    let rate = limit.rate.map(|rate| longshore_core::Reason::Pace { rate }.to_string());
    format!("({} for each value)", most.into_iter().chain(rate).collect::<Vec<_>>().join(", "))
}

/// Makes `What` shareable with the intake.
pub type SharedWhat = Arc<What>;
