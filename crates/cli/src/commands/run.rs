//! `longshore run`: the command line and the configuration become one set of arguments, and those a
//! run.

pub mod args;
mod drive;
mod finish;
pub(crate) mod notes;
mod page;
pub mod spec;

use std::{ffi::OsString, io::Write, path::PathBuf};

use clap::{
    ArgMatches, FromArgMatches,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use longshore_worker::App;

use longshore_run::{CallPreview, Plan, jobs::StateDir, spec::Durability, text::harmless};

use self::args::RunArgs;
use crate::{
    config::{Config, RunSettings, Sources},
    exit::Exit,
    fault::{Fault, leave},
    global::Global,
};

/// Request of a run: its arguments, configuration and words.
pub struct Asked {
    /// The arguments, the configuration's included.
    pub args: RunArgs,
    /// The flags of every command.
    pub global: Global,
    /// The configuration.
    pub config: Config,
    /// The words of the command line, so that `--resume JOB` needs no WHAT.
    pub words: Vec<String>,
}

fn usage(message: impl std::fmt::Display) -> Fault {
    Fault::usage(message)
}

/// Takes the words behind `:::` out of a command line: up to a `--` that follows, else to its end.
pub fn take_words(argv: &mut Vec<OsString>) -> Option<Vec<OsString>> {
    let at = argv.iter().position(|word| word == ":::")?;
    let dashes = argv[..at].iter().any(|word| word == "--");
    let end = if dashes { None } else { argv[at..].iter().position(|word| word == "--").map(|end| at + end) };
    let mut words: Vec<_> = argv.drain(at..end.unwrap_or(argv.len())).collect();
    words.remove(0);
    Some(words)
}

/// Refuses the marks of other runners that would become records or words of the command.
///
/// # Errors
/// The words to write in their place.
pub fn refuse_marks(argv: &[OsString]) -> Result<(), Fault> {
    let table = "longshore run --format tsv --no-header -- CMD {1} {2}";
    let is = |mark: &str| argv.iter().any(|word| word == mark);
    Err(usage(match () {
        () if argv.iter().filter(|word| *word == ":::").count() > 1 => {
            format!("a second `:::`: lists are not combined here; make the pairs first, one a line, and pipe them into {table}")
        }
        () if is(":::+") => format!("`:::+`: lists are not joined here; join them first: paste a.txt b.txt | {table}"),
        () if is("::::") || is("::::+") => "`::::`: a file with records is an input: longshore run FILE -- CMD".to_owned(),
        () => return Ok(()),
    }))
}

/// Reads the arguments of `run`, with those of the configuration and of the job that is resumed.
///
/// `parse` reads a whole command line, `argv` is ours without the words behind `:::`.
///
/// # Errors
/// A mistake in the command line or the configuration, or a job that cannot be resumed.
pub fn asked(
    argv: &[OsString],
    words: Option<Vec<OsString>>,
    matches: &ArgMatches,
    sources: &Sources,
    app: &App,
    parse: &dyn Fn(&[OsString]) -> Result<ArgMatches, clap::Error>,
) -> Result<Asked, Fault> {
    let config = Config::load(sources).map_err(usage)?;
    let mut first = RunArgs::from_arg_matches(matches).map_err(usage)?;
    if first.state_dir.is_none() {
        first.state_dir = config.state_dir().map_err(usage)?;
    }
    let verb = argv.iter().position(|word| word == "run").unwrap_or(0);
    let mut own: Vec<OsString> = argv[verb + 1..].to_vec();
    let mut words = words;
    // Who resumes a job without saying what runs means what ran.
    if let Some(job) = first.resume.as_ref().or(first.retry_failed.as_ref()).filter(|job| !job.is_empty() && !has_what(&first)) {
        own = stored(job, &first, own, &mut words)?;
    }
    let (jobs, mut rest): (Vec<_>, Vec<_>) = split_jobs(own);
    if jobs.len() > 1 {
        return Err(usage("more than one @job"));
    }
    let job = jobs.first().map(|name| name.to_string_lossy()[1..].to_owned());
    let settings = config.run(job.as_deref()).map_err(usage)?;
    let given = |name: &str| is_given(matches, name);
    let mut full: Vec<OsString> = argv[..=verb].to_vec();
    // Settings become flags, so that clap reads and checks them like those that are typed.
    full.extend(settings.args(given));
    if let Some(command) = settings.command().filter(|_| !has_what(&first)) {
        // Last of all, because what stands behind `--` is the command's.
        rest.push("--".into());
        rest.extend(command.iter().map(OsString::from));
    }
    full.extend(rest.iter().cloned());
    let matches = match parse(&full) {
        Ok(matches) => matches,
        Err(error) => return Err(blame(error, &settings)),
    };
    let matches = matches.subcommand_matches("run").ok_or_else(|| usage("this is not a run"))?;
    let mut args = RunArgs::from_arg_matches(matches).map_err(usage)?;
    let mut stored_words: Vec<String> = full[verb + 1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(words) = &words {
        // In front of everything, closed by the `--` that comes anyway or that we add.
        stored_words.splice(0..0, std::iter::once(":::".to_owned()).chain(words.iter().map(|word| word.to_string_lossy().into_owned())));
        if !stored_words.iter().any(|word| word == "--") {
            stored_words.rotate_left(words.len() + 1);
        } else {
            // The words end where the next `--` stands, so flags have to stand before them.
            let flags_end = stored_words.iter().position(|word| word == "--").unwrap_or(stored_words.len());
            stored_words[..flags_end].rotate_left(words.len() + 1);
        }
    }
    args.words = words;
    if args.state_dir.is_none() {
        args.state_dir = first.state_dir;
    }
    let global = Global::from_arg_matches(matches).map_err(usage)?;
    // A limit is shared where a broker is named; the default one is for tasks.
    let shares = match &args.limit {
        Some(_) => config.connections(global.broker.as_deref(), None).map_err(usage)?.0.is_some(),
        None => false,
    };
    if args.task.is_some() || shares {
        let (app, _) = crate::queue::configured(app, &config, &global)?;
        args.place = Some(app.settings().clone());
    }
    if matches.value_source("summary") != Some(ValueSource::CommandLine) {
        if let Some(summary) = global.voice().summary() {
            args.summary = summary.to_owned();
        } else if global.json {
            args.summary = "json".to_owned();
        }
    }
    Ok(Asked { args, global, config, words: stored_words })
}

/// A flag that clap does not take: where the configuration set it that is what the message names;
/// else it is clap's own.
fn blame(error: clap::Error, settings: &RunSettings) -> Fault {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    match settings.get(&flag) {
        Some(setting) => usage(format!("{}: `{flag}`: {}", setting.origin, sentence(&error))),
        None => leave(&error),
    }
}

/// Returns what is wrong with a flag's value, in one line.
pub fn sentence(error: &clap::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

/// The stored command line of a job, with the flags of this one behind.
fn stored(job: &str, first: &RunArgs, own: Vec<OsString>, words: &mut Option<Vec<OsString>>) -> Result<Vec<OsString>, Fault> {
    let info = StateDir::open(first.state_dir.as_deref())?.find(job)?;
    // Relative paths mean what they meant.
    std::env::set_current_dir(&info.header.cwd).map_err(|error| usage(format!("{}: {error}", info.header.cwd)))?;
    let mut argv: Vec<OsString> = info.args()?.into_iter().map(OsString::from).collect();
    if words.is_none() {
        *words = take_words(&mut argv);
    }
    drop_flags(&mut argv, &["--resume", "--retry-failed", "--fresh"]);
    // An input given now takes the place of the stored one; flags given now stand behind the stored
    // ones and win where they may stand once.
    let at = argv.iter().position(|word| word == "--").unwrap_or(argv.len());
    argv.splice(at..at, own);
    Ok(argv)
}

/// Takes flags with an optional value out of a command line.
fn drop_flags(argv: &mut Vec<OsString>, flags: &[&str]) {
    let end = argv.iter().position(|word| word == "--").unwrap_or(argv.len());
    let mut kept = Vec::new();
    let mut skip_value = false;
    for (place, word) in argv.drain(..).enumerate() {
        let text = word.to_string_lossy();
        if place < end {
            if flags.contains(&&*text) {
                skip_value = true;
                continue;
            }
            if flags.iter().any(|flag| text.starts_with(&format!("{flag}="))) {
                continue;
            }
            if std::mem::take(&mut skip_value) && !text.starts_with('-') {
                continue;
            }
        }
        drop(text);
        kept.push(word);
    }
    *argv = kept;
}

fn has_what(args: &RunArgs) -> bool {
    !args.what.command.is_empty() || args.what.http.is_some() || args.what.pipe.is_some() || args.task.is_some() || args.noop
}

/// Takes `@name` words out, as far as they are inputs.
fn split_jobs(own: Vec<OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let end = own.iter().position(|word| word == "--").unwrap_or(own.len());
    let (mut jobs, mut rest) = (Vec::new(), Vec::new());
    for (place, word) in own.into_iter().enumerate() {
        let is_job = place < end && word.as_encoded_bytes().first() == Some(&b'@') && word.len() > 1;
        if is_job { jobs.push(word) } else { rest.push(word) }
    }
    (jobs, rest)
}

/// Returns true where the command line itself has a flag, by its long name.
fn is_given(matches: &ArgMatches, long: &str) -> bool {
    let id = match long {
        "where" => "where_".to_owned(),
        "null" | "as-completed" => long.replace('-', "_"),
        _ => long.replace('-', "_"),
    };
    matches.try_contains_id(&id).is_ok() && matches.value_source(&id) == Some(ValueSource::CommandLine)
}

/// Runs. Returns the exit code.
///
/// # Errors
/// Exit code and sentence.
pub fn run(asked: Asked) -> Result<Exit, Fault> {
    let Asked { args, global, config, words } = asked;
    config.say_in_force(global.voice());
    if let Some(nice) = args.nice {
        // Before any thread: they and their children inherit it.
        longshore_sys::priority::set_thread_nice(nice).map_err(|error| usage(format!("--nice {nice}: {error}")))?;
    }
    let mut spec = spec::spec(&args, &config, words)?;
    if is_homeless(&args) {
        // Said with -q, too: a run that is killed starts over.
        eprintln!("{}", global.voice().error(HOMELESS));
        spec.journal.durability = Durability::Off;
    }
    let mut plan = Plan::new(spec)?;
    if let Some(count) = args.dry_run {
        return dry_run(&args, plan, count);
    }
    if args.strict {
        plan.check_all()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("longshore")
        .build()
        .map_err(|error| Fault::new(Exit::System, format!("no threads: {error}")))?;
    let code = runtime.block_on(drive::drive(plan, &args, &global));
    // A thread that still reads a pipe must not keep us.
    runtime.shutdown_background();
    code
}

const HOMELESS: &str = "HOME is not set, so there is no place for a journal: this run cannot be resumed, and `jobs` will not know it; --state-dir DIR keeps one, --durable off says nothing";

/// Returns whether there is no place for a journal, and nobody asked for one by name.
fn is_homeless(args: &RunArgs) -> bool {
    let is_named = args.name.is_some() || args.resume.is_some() || args.retry_failed.is_some();
    let place = || StateDir::default_path(|name| std::env::var_os(name).map(PathBuf::from));
    !is_named && args.durable.0 != Durability::Off && args.state_dir.is_none() && place().is_none()
}

fn dry_run(args: &RunArgs, mut plan: Plan, count: u64) -> Result<Exit, Fault> {
    let mut out = std::io::stdout().lock();
    let mut written = true;
    let rest = plan.describe_task(&args.retry.backoff.1);
    let good = plan.preview(count, |call| {
        written = writeln!(out, "{}", call_line(call, &rest)).is_ok();
        written
    })?;
    if !written {
        return Ok(Exit::ReaderGone);
    }
    let _ = writeln!(out, " {}", plan.describe());
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// Says what a call would do, or why it cannot.
fn call_line(call: &CallPreview, rest: &str) -> String {
    let places = match &call.records[..] {
        [first, .., last] if call.records.len() > 3 => format!("#{first} … #{last} ({} records)", call.records.len()),
        records => records.iter().map(|seq| format!("#{seq}")).collect::<Vec<_>>().join(" "),
    };
    match &call.call {
        Ok((key, text)) => format!(" {places} {}   key {}…   lane {}   {rest}", harmless(text, usize::MAX), &key[..4], call.lane),
        Err(why) => format!(" {places} invalid: {}", harmless(why, usize::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn words_behind_the_colons_are_records() {
        for (line, rest, want) in [
            ("longshore run -- gzip {} ::: a b", "longshore run -- gzip {}", Some("a b")),
            ("longshore run ::: a b -- gzip {}", "longshore run -- gzip {}", Some("a b")),
            ("longshore run -j 2 ::: a -- gzip", "longshore run -j 2 -- gzip", Some("a")),
            ("longshore run --noop ::: a b", "longshore run --noop", Some("a b")),
            ("longshore run x -- gzip", "longshore run x -- gzip", None),
        ] {
            let mut argv = words(line);
            assert_eq!(take_words(&mut argv), want.map(words), "{line}");
            assert_eq!(argv, words(rest), "{line}");
        }
    }

    #[test]
    fn marks_of_other_runners_are_refused_with_what_to_write() {
        for (line, want) in [
            ("longshore run -- echo {} ::: a b", None),
            ("longshore run -- echo {1} {2} ::: a b ::: c d", Some("a second `:::`: lists are not combined")),
            ("longshore run -- echo ::: a b :::+ c d", Some("`:::+`: lists are not joined")),
            ("longshore run -- echo :::: names.txt", Some("longshore run FILE -- CMD")),
        ] {
            let refused = refuse_marks(&words(line)).err().map(|fault| fault.to_string());
            assert_eq!(refused.is_some(), want.is_some(), "{line}");
            assert!(want.is_none_or(|want| refused.unwrap_or_default().contains(want)), "{line}");
        }
    }

    #[test]
    fn resuming_takes_the_flags_of_the_earlier_resuming_away() {
        for (line, want) in [
            ("--resume prices in.csv --http x", "in.csv --http x"),
            ("--resume -j 3", "-j 3"),
            ("--retry-failed=a -j 3 -- cmd --resume x", "-j 3 -- cmd --resume x"),
        ] {
            let mut argv = words(line);
            drop_flags(&mut argv, &["--resume", "--retry-failed"]);
            assert_eq!(argv, words(want), "{line}");
        }
    }
}
