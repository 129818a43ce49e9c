//! The table of commands, for the binary and for programs that bring tasks of their own.

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource};
use longshore_worker::App;

use crate::{
    commands::{
        advise, beat, bench, call, config as config_command, dashboard, dead, demo, enqueue, events, jobs, limits, queues, remote, result,
        run::{self, args::RunArgs},
        schedule, shell, tasks, top, why,
        worker::{self, args::WorkerArgs},
    },
    config::{Config, ConfigError, RUN_WORDS, Section, Setting, Sources, Value},
    exit::Exit,
    fault::{Fault, conclude, leave, speak_with},
    foreign,
    global::Global,
    help,
    progress::Voice,
    queue::{MissingFile, Place},
    runtime::block_on,
    spans::Spans,
};

/// One engine for concurrent work: run a batch of commands, requests or records, fast, and lose
/// nothing
#[derive(Parser)]
#[command(name = "longshore", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job: many tasks from files, stdin or arguments
    Run(Box<RunArgs>),
    /// Jobs that were run: list, show, retry, export, prune; that run: watch, set, pause, resume,
    /// cancel
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Serve queues: run the tasks that are sent, with Celery's wire format
    Worker(Box<WorkerArgs>),
    /// Send what is due: the tasks of schedules, each at its times
    Beat(beat::BeatArgs),
    /// Send one task, and wait for its result if you like
    Call(Box<call::CallArgs>),
    /// Send a task for each record of a file
    Enqueue(Box<enqueue::EnqueueArgs>),
    /// The results of tasks: look up, or wait
    Result(result::ResultArgs),
    /// Why is this task not running?
    Why {
        /// The task's id
        id: String,
    },
    /// Tasks: list, show, retry, cancel; names: those that are known here
    Tasks {
        #[command(subcommand)]
        command: Option<tasks::TasksCommand>,
    },
    /// Dead letters: list, show, retry, purge
    Dead {
        #[command(subcommand)]
        command: Option<dead::DeadCommand>,
    },
    /// Tasks that are sent at their times: list, show, add, pause, resume, run, remove, import
    Schedule {
        #[command(subcommand)]
        command: Option<schedule::ScheduleCommand>,
    },
    /// Queues: list, show, peek, pause, resume, purge, move
    Queues {
        #[command(subcommand)]
        command: Option<queues::QueuesCommand>,
    },
    /// Who is there: every worker that replies
    Status(remote::Whom),
    /// Workers that run: list, show
    Workers {
        #[command(subcommand)]
        command: Option<remote::WorkersCommand>,
    },
    /// Ask running workers, as `celery inspect` does: active, reserved, scheduled, registered,
    /// stats, …
    Inspect(remote::RemoteArgs),
    /// Tell running workers, as `celery control` does: rate_limit, revoke, add_consumer, shutdown,
    /// …
    ///
    /// A command of your own program takes its arguments by name: NAME KEY=VALUE…. A value that
    /// reads as JSON (3, true, [1, 2]) has that type, all else is a text; KEY:=JSON has to be JSON,
    /// so that KEY:='"3"' is a text.
    Control(remote::RemoteArgs),
    /// What workers tell, as it happens
    Events(events::EventsArgs),
    /// Workers and queues in a table that renews itself
    ///
    /// Keys: q ends, ↑ and ↓ choose a queue, p pauses it or lets it go on, s changes the order.
    /// Where stdout is no terminal, one table is printed; with --json, one document. It asks once a
    /// second at most: with three queues and two workers some 90 small commands, which take Redis
    /// 0.2 ms.
    Top(top::TopArgs),
    /// A page of all workers and queues, in your browser
    Dashboard(Box<dashboard::DashboardArgs>),
    /// Limits: list, set
    Limits {
        #[command(subcommand)]
        command: Option<limits::LimitsCommand>,
    },
    /// Kafka: consume and produce records, make topics, see how far groups are behind
    #[cfg(feature = "kafka")]
    #[command(subcommand)]
    Kafka(crate::commands::kafka::KafkaCommand),
    /// Which lane and how many workers: guessed from words, or measured
    Advise(advise::AdviseArgs),
    /// The configuration: init, check, show, trust, untrust
    #[command(subcommand)]
    Config(config_command::ConfigCommand),
    /// Measure the engine, its lanes, its pace, its children, or the task queue on a broker
    Bench(bench::BenchArgs),
    /// The scenarios that people learn concurrency from, each several ways, measured
    #[command(disable_help_flag = true)]
    Demo {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Write the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages to a directory
    Man {
        /// The directory
        dir: PathBuf,
    },
}

impl Command {
    /// Returns what becomes of a broker's file that is not there: who only looks at a queue does
    /// not make it, nor does who tells workers something, which would have made it; and who lists
    /// the configuration has nothing to say of it.
    fn missing_file(&self) -> MissingFile {
        use {
            dead::DeadCommand as Dead, limits::LimitsCommand as Limits, queues::QueuesCommand as Queues,
            schedule::ScheduleCommand as Scheduled, tasks::TasksCommand as Tasks,
        };
        let looks = match self {
            Self::Tasks { command: None | Some(Tasks::Names { .. }) } | Self::Limits { command: None | Some(Limits::List) } => {
                return MissingFile::Pass;
            }
            Self::Result(_) | Self::Why { .. } | Self::Status(_) | Self::Workers { .. } | Self::Inspect(_) => true,
            Self::Control(_) | Self::Events(_) | Self::Top(_) => true,
            Self::Tasks { command } => matches!(command, Some(Tasks::List { .. } | Tasks::Show { .. })),
            Self::Dead { command } => matches!(command, None | Some(Dead::List { .. } | Dead::Show { .. })),
            Self::Schedule { command } => !matches!(command, Some(Scheduled::Add(_) | Scheduled::Import(_))),
            Self::Queues { command } => matches!(command, None | Some(Queues::List { .. } | Queues::Show { .. } | Queues::Peek { .. })),
            _ => false,
        };
        if looks { MissingFile::Say } else { MissingFile::Make }
    }
}

/// Runs the command line `longshore`, with the tasks of this app beside those of the configuration.
/// Call it first thing in `main`, and return what it returns.
pub fn main(app: &App) -> ExitCode {
    // Also lets this program be started again as the guardian of its children, and as such a child.
    longshore_worker::init_app(app);
    longshore_sys::heap::give_back();
    longshore_sys::files::say_when_too_large();
    let mut argv: Vec<OsString> = std::env::args_os().collect();
    let is_run = verb_of(&argv).is_some_and(|word| word == "run");
    if is_run && let Err(fault) = run::refuse_marks(&argv) {
        return conclude(Err(fault)).into();
    }
    // Records behind `:::` may look like flags, so clap never sees them.
    let words = if is_run { run::take_words(&mut argv) } else { None };
    let parse = |argv: &[OsString]| Cli::command().try_get_matches_from(argv);
    // This first reading says which command it is and which flags are given; the second has the
    // configuration's flags too.
    let first = parse(&argv).unwrap_or_else(|error| refuse(&argv, &error));
    let (command, given) = first.subcommand().map_or(("", &first), |(name, matches)| (name, matches));
    let sources = Sources::of_process(first.get_one::<PathBuf>("config").cloned());
    // The other commands have to work with whatever a configuration says.
    let reads = matches!(command, "run" | "jobs" | "bench" | "kafka") || OF_QUEUE.contains(&command);
    let mut config = if reads { Config::load(&sources) } else { Ok(Config::default()) };
    if let Ok(config) = &mut config {
        ask(config, given);
    }
    let settings = config.map_err(|errors| errors.to_string()).and_then(|config| {
        let state_dir = config.state_dir().map_err(|error| error.to_string())?;
        let flags = section_flags(config.top(), RUN_WORDS, "", given)?;
        add_section(&mut argv, command, &config, given)?;
        #[cfg(feature = "kafka")]
        if let Some(("consume", given)) = given.subcommand().filter(|_| command == "kafka") {
            let own = consume_flags(&config, given)?;
            let at = argv.iter().skip(1).position(|word| word == "consume").map_or(argv.len(), |at| at + 2);
            argv.splice(at..at, own);
        }
        Ok((config, state_dir, flags))
    });
    let (config, state_dir) = match settings {
        Ok((config, state_dir, flags)) => {
            argv.splice(1..1, flags);
            (config, state_dir)
        }
        Err(errors) => return conclude(Err(Fault::usage(errors))).into(),
    };
    let matches = parse(&argv).unwrap_or_else(|error| leave(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| leave(&error));
    // From here on errors are said in the form that the flags ask for.
    speak_with(cli.global.voice());
    // The other commands say it when they have taken what they need.
    if matches!(command, "jobs" | "bench" | "kafka") {
        config.say_in_force(cli.global.voice());
    }
    let (spans, app) = Spans::begin(app, cli.global.voice());
    let app = &app;
    let queue = (app, &config, &cli.global, cli.command.missing_file());
    let ended = match cli.command {
        Command::Run(_) => {
            let matches = matches.subcommand_matches("run").unwrap_or(&matches);
            run::asked(&argv, words, matches, &sources, app, &parse).and_then(run::run)
        }
        Command::Jobs(command) => jobs::run(command, &cli.global, state_dir, |job, state_dir| again(job, state_dir, &cli.global, app)),
        Command::Worker(args) => worker::run(&args, app, &config, &cli.global),
        Command::Beat(args) => beat::run(&args, app, &config, &cli.global),
        Command::Call(args) => with_queue(queue, async |place, out| call::run(&args, place, out).await),
        Command::Enqueue(args) => with_queue(queue, async |place, out| enqueue::run(&args, place, out).await),
        Command::Result(args) => with_queue(queue, async |place, out| result::run(&args, place, out).await),
        Command::Why { id } => with_queue(queue, async |place, out| why::run(&id, place, out).await),
        Command::Tasks { command } => with_queue(queue, async |place, out| tasks::run(command, place, out).await),
        Command::Dead { command } => with_queue(queue, async |place, out| dead::run(command, place, out).await),
        Command::Schedule { command } => with_queue(queue, async |place, out| schedule::run(command, place, out).await),
        Command::Queues { command } => with_queue(queue, async |place, out| queues::run(command, place, out).await),
        Command::Status(whom) => with_queue(queue, async |place, out| remote::status(&whom, place, out).await),
        Command::Workers { command } => with_queue(queue, async |place, out| remote::workers(command, place, out).await),
        Command::Inspect(args) => with_queue(queue, async |place, out| remote::inspect(&args, place, out).await),
        Command::Control(args) => with_queue(queue, async |place, out| remote::control(&args, place, out).await),
        Command::Events(args) => with_queue(queue, async |place, out| events::run(&args, place, out).await),
        Command::Top(args) => {
            let (color, keys) = (cli.global.color, !cli.global.no_input);
            with_queue(queue, async |place, out| top::run(&args, place, color, keys, out).await)
        }
        Command::Dashboard(args) => dashboard::run(&args, app, &config, &cli.global),
        Command::Limits { command } => with_queue(queue, async |place, out| limits::run(command, &config, place, out).await),
        #[cfg(feature = "kafka")]
        Command::Kafka(command) => command.run(&config, &cli.global),
        Command::Advise(args) => advise::advise(&args, cli.global.json, cli.global.voice(), &mut std::io::stdout().lock()),
        Command::Config(command) => config_command::run(&command, &cli.global, &validate),
        Command::Bench(args) => bench::run(&args, &config, &cli.global, state_dir.as_deref(), &mut std::io::stdout().lock()),
        Command::Demo { words } => demo::run(words, cli.global.json),
        Command::Completions { shell } => {
            shell::completions(shell, Cli::command(), &mut std::io::stdout()).map(|()| Exit::Done).map_err(Fault::from)
        }
        Command::Man { dir } => shell::man(&dir, Cli::command()).map(|()| Exit::Done),
    };
    spans.end();
    conclude(ended).into()
}

/// Asks on a terminal about what waits in the folder's file for the user's word.
fn ask(config: &mut Config, given: &ArgMatches) {
    use std::io::IsTerminal;
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    let is_off = |setting: Result<Option<Setting>, ConfigError>| matches!(setting, Ok(Some(setting)) if setting.value == Value::Bool(true));
    let silent = Global::from_arg_matches(given).is_ok_and(|global| global.no_input || global.voice() != Voice::default());
    if silent || is_off(config.get("no-input")) || !stdin.is_terminal() || !stderr.is_terminal() {
        return;
    }
    // In the background there is nobody to ask, and touching the terminal would stop us. Without a
    // question, what was typed is for the shell, or for a command that reads it.
    let in_front = rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    if !in_front || !config.has_question() {
        return;
    }
    // What was typed before is no answer.
    let _ = rustix::termios::tcflush(&stdin, rustix::termios::QueueSelector::IFlush);
    if let Err(error) = config.ask(&mut stdin.lock(), &mut stderr.lock()) {
        eprintln!("longshore: your answer cannot be kept: {error}");
    }
}

/// Ends for a command line that cannot be read, or that asks for help: `-h` is one screen, and a
/// word of another program is answered with ours.
fn refuse(argv: &[OsString], error: &clap::Error) -> ! {
    let verb = verb_of(argv).map(|word| word.to_string_lossy()).unwrap_or_default();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
        && help::is_short(argv)
        && let Err(screen) = help::short(Cli::command(), verb.is_empty(), OF_QUEUE.contains(&&*verb)).try_get_matches_from(argv)
    {
        leave(&screen);
    }
    match foreign::answer(argv, &verb, error) {
        Some(answer) => std::process::exit(conclude(Err(Fault::usage(answer))).code().into()),
        None => leave(error),
    }
}

/// The command's name: the first word that is neither a flag nor the value of one.
fn verb_of(argv: &[OsString]) -> Option<&OsString> {
    const WITH_VALUE: [&str; 5] = ["--config", "--broker", "--results", "--log-format", "--color"];
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        if WITH_VALUE.iter().any(|flag| word == flag) {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(word);
        }
    }
    None
}

/// The commands of the task queue.
const OF_QUEUE: &[&str] = &[
    "worker",
    "call",
    "enqueue",
    "result",
    "why",
    "tasks",
    "dead",
    "queues",
    "status",
    "workers",
    "inspect",
    "control",
    "events",
    "top",
    "limits",
    "schedule",
    "beat",
    "dashboard",
];

/// Runs a command of the task queue, or one that only looks.
fn with_queue(
    (app, config, global, missing): (&App, &Config, &Global, MissingFile),
    command: impl AsyncFnOnce(&Place, &mut dyn Write) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    block_on(async {
        let place = Place::open(app, config, global, missing)?;
        let mut out = std::io::stdout();
        let exit = command(&place, &mut out).await?;
        out.flush()?;
        Ok(exit)
    })
}

/// Returns true where the command line itself has this flag, by its long name.
fn is_given(given: &ArgMatches, name: &str) -> bool {
    let id = name.replace('-', "_");
    given.try_get_raw(&id).is_ok() && given.value_source(&id) == Some(ValueSource::CommandLine)
}

/// Puts the settings of a command's own section behind its name, before the flags that are given,
/// which win.
fn add_section(argv: &mut Vec<OsString>, command: &str, config: &Config, given: &ArgMatches) -> Result<(), String> {
    let section = match command {
        "worker" => config.worker(),
        "dashboard" => config.dashboard(),
        _ => return Ok(()),
    };
    let own = section_flags(section, &[command], &format!(" in [{command}]"), given)?;
    let at = argv.iter().skip(1).position(|word| word == command).map_or(argv.len(), |at| at + 2);
    argv.splice(at..at, own);
    Ok(())
}

/// Settings of a command as its flags, but those that are given; each is checked, so that a mistake
/// is told with its place.
fn section_flags(section: Result<Section, ConfigError>, words: &[&str], place: &str, given: &ArgMatches) -> Result<Vec<OsString>, String> {
    let mut flags = Vec::new();
    for (name, setting) in section.map_err(|error| error.to_string())?.iter().filter(|(name, _)| !is_given(given, name)) {
        let mut wrong = setting.values().iter().filter_map(|value| validate(words, name, value).err());
        if let Some(why) = wrong.next() {
            return Err(setting.wrong(name, place, &why).to_string());
        }
        flags.extend(setting.flags(name).into_iter().map(OsString::from));
    }
    Ok(flags)
}

/// `[kafka.TOPIC]` of the first topic as flags.
#[cfg(feature = "kafka")]
fn consume_flags(config: &Config, given: &ArgMatches) -> Result<Vec<OsString>, String> {
    let Some(topic) = given.get_many::<String>("topics").and_then(|mut topics| topics.next()) else { return Ok(Vec::new()) };
    let runs = ["command", "http", "pipe", "sleep"].iter().any(|what| is_given(given, what));
    let section = config.kafka(topic).map(|mut section| {
        // Where Kafka is is looked up for every command.
        section.retain(|name, _| !(matches!(*name, "bootstrap" | "setting") || runs && matches!(*name, "http" | "pipe")));
        section
    });
    section_flags(section, &["kafka", "consume", topic], &Config::kafka_place(topic), given)
}

/// `jobs retry JOB` is `run --retry-failed JOB`.
fn again(job: &str, state_dir: Option<PathBuf>, global: &Global, app: &App) -> Result<Exit, Fault> {
    let mut argv: Vec<OsString> = ["longshore", "run", "--retry-failed", job].map(OsString::from).to_vec();
    argv.extend(global.words());
    if let Some(dir) = state_dir {
        argv.extend(["--state-dir".into(), dir.into_os_string()]);
    }
    let parse = |argv: &[OsString]| Cli::command().try_get_matches_from(argv);
    let matches = parse(&argv).unwrap_or_else(|error| leave(&error));
    let matches = matches.subcommand_matches("run").unwrap_or(&matches);
    run::asked(&argv, None, matches, &Sources::of_process(global.config.clone()), app, &parse).and_then(run::run)
}

/// Checks that the flag of that name takes a value of the configuration.
fn validate(words: &[&str], name: &str, value: &str) -> Result<(), String> {
    #[cfg(feature = "kafka")]
    if words.first() == Some(&"kafka") {
        crate::kafka::link::check(name, value)?;
    }
    let flag = format!("--{name}={value}");
    let argv = [&["longshore"], words, &[flag.as_str()]].concat();
    match Cli::command().try_get_matches_from(argv) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) => Err(run::sentence(&error)),
        // Switches, unknown names and combinations are somebody else's business.
        Err(_) => Ok(()),
    }
}

#[cfg(all(test, feature = "kafka"))]
mod tests {
    use super::{Cli, CommandFactory, ErrorKind, Exit, OsString, foreign, help, validate};
    use crate::config::flags_of_sections;

    /// Returns the numbers behind `Exit:` in a help text.
    fn exits_of(help: &str) -> Vec<u8> {
        let table = help.split_once("Exit: ").map_or("", |(_, table)| table);
        table.split([' ', '/']).filter_map(|word| word.parse().ok()).collect()
    }

    fn all_commands(command: clap::Command) -> Vec<clap::Command> {
        let inner = command.get_subcommands().cloned().flat_map(all_commands);
        inner.chain([command.clone()]).collect()
    }

    #[test]
    fn the_exit_codes_of_every_help_text_are_in_the_table() {
        let commands = all_commands(Cli::command());
        let tables = commands.iter().filter_map(|command| command.get_after_help()).map(|help| exits_of(&help.to_string()));
        let tables: Vec<_> = tables.filter(|table| !table.is_empty()).collect();
        assert_eq!(tables.len(), 5, "run, worker, enqueue, kafka consume, kafka produce: {tables:?}");
        for code in tables.into_iter().flatten() {
            assert!(Exit::ALL.iter().any(|exit| exit.code() == code), "{code} has no name in exit.rs");
        }
    }

    /// A command's lines of `-h`.
    fn screen(words: &[&str]) -> String {
        let argv = [&["longshore"], words, &["-h"]].concat();
        let verb = words.first().copied().unwrap_or_default();
        let short = help::short(Cli::command(), words.is_empty(), super::OF_QUEUE.contains(&verb));
        short.try_get_matches_from(argv).expect_err("help").to_string()
    }

    #[test]
    fn the_help_of_every_command_fits_a_screen_and_is_one_where_there_is_much_to_say() {
        for (mut command, path) in paths(Cli::command(), &[]) {
            let words: Vec<&str> = path.iter().map(String::as_str).collect();
            if words == ["demo"] {
                // A program of its own answers it.
                continue;
            }
            let text = screen(&words);
            let lines = text.lines().count();
            assert!(lines <= help::SCREEN, "{path:?}: {lines} lines\n{text}");
            let much = command.render_help().to_string().lines().count() > help::SCREEN + 30;
            assert!(!much || lines >= 24, "{path:?}: {lines} lines\n{text}");
            assert!(text.contains("--help"), "{path:?}: {text}");
        }
    }

    /// All commands, each with the words that it has.
    fn paths(command: clap::Command, path: &[String]) -> Vec<(clap::Command, Vec<String>)> {
        let inner = command.get_subcommands().cloned().flat_map(|inner| {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            paths(inner, &path)
        });
        inner.chain([(command.clone(), path.to_vec())]).collect()
    }

    /// Checks that words such as `longshore run --task NAME` or `--batch 50` are ours.
    fn assert_ours(at: foreign::At, words: &str) {
        let of = match at {
            foreign::At::FlagOf(command) => vec![command],
            _ => vec![],
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut commands = match words.strip_prefix(&["longshore"]) {
            Some(words) => words.iter().copied().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())).collect(),
            None => of,
        };
        let mut command = Cli::command();
        command.build();
        for name in commands.drain(..) {
            // `inspect` and `control` take words of Celery.
            if !command.has_subcommands() {
                break;
            }
            command = command.find_subcommand(name).unwrap_or_else(|| panic!("{words:?}: no {name}")).clone();
        }
        for flag in words.iter().filter(|word| word.starts_with('-') && **word != "--") {
            let known = command.get_arguments().any(|arg| {
                arg.get_long().is_some_and(|long| *flag == format!("--{long}"))
                    || arg.get_short().is_some_and(|short| *flag == format!("-{short}"))
            });
            assert!(known, "{words:?}: no {flag}");
        }
    }

    #[test]
    fn each_foreign_word_is_none_of_ours_and_is_answered_with_words_that_are() {
        let mut count = 0;
        for foreign in foreign::WORDS {
            for word in foreign.words {
                let argv: Vec<OsString> = match foreign.at {
                    foreign::At::Command => vec!["longshore", word],
                    foreign::At::FlagOf(command) => vec!["longshore", command, word],
                    foreign::At::AnyFlag => vec!["longshore", word],
                }
                .into_iter()
                .map(OsString::from)
                .collect();
                let refused = Cli::command().try_get_matches_from(&argv).expect_err(word);
                let verb = argv[1].to_string_lossy();
                let answer = foreign::answer(&argv, &verb, &refused).unwrap_or_else(|| panic!("{argv:?}: {refused}"));
                assert_eq!(answer, format!("{word} is a word of {}; here: {}", foreign.of, foreign.here));
                count += 1;
            }
            let ours = foreign.here.split('`').skip(1).step_by(2).filter(|ours| ours.starts_with('-') || ours.starts_with("longshore "));
            ours.for_each(|ours| assert_ours(foreign.at, ours));
        }
        assert!(count > 100, "{count}");
    }

    #[test]
    fn every_key_of_a_section_is_a_flag_of_its_command() {
        for (words, flag) in flags_of_sections() {
            let argv = [vec!["longshore".to_owned()], words, vec![format!("--{flag}=?")]].concat();
            let unknown = Cli::command().try_get_matches_from(&argv).is_err_and(|error| error.kind() == ErrorKind::UnknownArgument);
            assert!(!unknown, "{argv:?}");
        }
    }

    #[test]
    fn a_value_is_judged_by_the_command_that_takes_it_and_an_address_without_its_password() {
        let of_kafka = |name: &str, value: &str| validate(&["kafka", "consume", "orders"], name, value);
        assert!(of_kafka("order", "any").is_err_and(|why| why.contains("key, partition or none")));
        assert_eq!((of_kafka("order", "key"), of_kafka("rate", "100/s"), of_kafka("bootstrap", "h:1")), (Ok(()), Ok(()), Ok(())));
        assert!(of_kafka("setting", "group.id=x").is_err_and(|why| why.contains("an option of its own")));
        assert!(of_kafka("bootstrap", "http://me:secret@h").is_err_and(|why| why.contains("unknown scheme") && !why.contains("secret")));
        assert!(validate(&["worker"], "grace", "soon").is_err_and(|why| why.contains("is not a duration")));
    }
}

#[cfg(all(test, not(feature = "kafka")))]
mod without_kafka {
    use super::{Cli, CommandFactory, OsString, foreign};

    #[test]
    fn kafka_is_not_in_the_help_and_who_asks_for_it_learns_how_to_get_it() {
        assert!(!Cli::command().render_long_help().to_string().contains("afka"));
        let argv = ["longshore", "kafka", "consume", "orders", "--group", "g"].map(OsString::from);
        let refused = Cli::command().try_get_matches_from(&argv).expect_err("not built in");
        let answer = foreign::answer(&argv, "kafka", &refused).expect("an answer");
        assert!(answer.contains("--features kafka"), "{answer}");
    }
}
