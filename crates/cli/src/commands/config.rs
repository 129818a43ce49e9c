//! `longshore config init|check|show|trust|untrust`.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use longshore_sys::files;
use serde_json::json;

use crate::{
    config::{
        Config, ConfigErrors, Sources, Validate, Value,
        trust::{self, TrustStore},
    },
    exit::Exit,
    fault::Fault,
    global::Global,
    schedules, tasks,
};

/// `longshore config …`
#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Write a commented longshore.toml
    Init {
        /// Overwrite an existing one
        #[arg(long)]
        force: bool,
    },
    /// Check every file of the configuration
    Check,
    /// Show what is set
    Show {
        /// And where
        #[arg(long)]
        origin: bool,
    },
    /// Let in what the longshore.toml of a folder runs, reaches and reads from the environment, as
    /// long as it stays as it is
    Trust {
        /// The file, or its folder
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Let it in no more
    Untrust {
        /// The file, or its folder
        #[arg(default_value = ".")]
        path: PathBuf,
    },
}

/// Runs the command. `validate` judges a value as the flag of its name does.
///
/// # Errors
/// A mistake in the configuration, or a file or an output that cannot be written.
pub fn run(command: &ConfigCommand, global: &Global, validate: Validate<'_>) -> Result<Exit, Fault> {
    let mut out = io::stdout().lock();
    let sources = Sources::of_process(global.config.clone());
    match command {
        ConfigCommand::Init { force } => {
            let path = init(Path::new("."), *force)?;
            let _ = writeln!(out, "wrote {}", path.display());
        }
        ConfigCommand::Check if !check(&sources, validate, &mut out)? => return Ok(Exit::Usage),
        ConfigCommand::Check => {}
        ConfigCommand::Show { origin } => {
            let config = Config::load(&sources)?;
            if global.json { show_json(&config, &mut out) } else { show(&config, *origin, &mut out) }?;
        }
        ConfigCommand::Trust { path } => writeln!(out, "{}", trust(&sources, path)?)?,
        ConfigCommand::Untrust { path } => writeln!(out, "{}", untrust(&sources, path)?)?,
    }
    Ok(Exit::Done)
}

/// Keeps the user's word for a file. Returns what that lets in.
///
/// # Errors
/// The file cannot be read, has mistakes, or belongs to somebody else (2); the word cannot be kept
/// (74).
fn trust(sources: &Sources, path: &Path) -> Result<String, Fault> {
    let path = file_of(path);
    let text = trust::read(&path).map_err(|error| Fault::usage(format!("cannot read {}: {}", path.display(), files::cause(&error))))?;
    let mut config = Config::of_folder(&path, &text)?;
    store(sources)?.trust(&path, &text).map_err(|error| unkept(&path, &error))?;
    let lets_in = match &config.let_in()[..] {
        [] => "nothing in it has to wait".to_owned(),
        waited => waited.join(", "),
    };
    Ok(format!("{} is trusted as it is now: {lets_in}", path.display()))
}

/// Takes the word back. Returns what became of it.
///
/// # Errors
/// The word cannot be removed (74).
fn untrust(sources: &Sources, path: &Path) -> Result<String, Fault> {
    let path = file_of(path);
    let was = store(sources)?.untrust(&path).map_err(|error| unkept(&path, &error))?;
    Ok(format!("{} {}", path.display(), if was { "is trusted no more" } else { "was not trusted" }))
}

/// The file that a user means: `longshore.toml` of a folder, or the file itself.
fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("longshore.toml") } else { path.to_owned() }
}

fn store(sources: &Sources) -> Result<TrustStore, Fault> {
    TrustStore::of(&sources.vars).ok_or_else(|| Fault::new(Exit::Unwritable, "HOME is not set, so there is no place for your word"))
}

fn unkept(path: &Path, error: &io::Error) -> Fault {
    Fault::new(Exit::Unwritable, format!("cannot keep the word about {}: {}", path.display(), files::cause(error)))
}

/// The file that `config init` writes: it does nothing until its lines lose their `#`.
const TEMPLATE: &str = r#"# Settings of longshore; `longshore config check` finds mistakes, `longshore config show --origin` says what holds.
# Every flag of `longshore run` is a key here, by its long name. ${VAR} is replaced from the environment.

# [run]                         # for every run
# concurrency = 50
# progress = "plain"

# [job.prices]                  # longshore run @prices
# input  = "cars.csv"
# http   = "GET http://127.0.0.1:8080/price/{id}"
# header = ["Authorization: Bearer ${TOKEN}"]
# limit  = "api.example"
# retry  = "http"
# output = "prices.jsonl"
# check  = ["failed<1%", "p99<2s"]

# [job.thumbs]
# input   = "images.txt"
# command = ["convert", "{}", "-resize", "50%", "{.}_small.png"]

# [limits."api.example"]        # --limit api.example
# rate        = "500/min"
# burst       = 1               # a leaky bucket
# concurrency = 50
# by          = "{{ host }}"    # one bucket per value

# [retry.http]
# retries = 3
# backoff = "exp:200ms..30s"
# on      = ["connect", "timeout", "status:429", "status:5xx"]

# [connections]                 # of the task queue; --broker, LONGSHORE_BROKER and CELERY_BROKER_URL win
# broker  = "redis://127.0.0.1:6379/0"
# results = "redis://127.0.0.1:6379/1"

# [routes]                      # where tasks go that name no queue, also those that workers send on
# "mail.*"        = "mail"
# "reports.daily" = { queue = "slow", priority = 6 }
# "media.*"       = { exchange = "media", exchange_type = "topic", routing_key = "media.video" }   # RabbitMQ

# [queues.orders]               # how RabbitMQ makes a queue, as Celery's task_queues do
# exchange      = "shop"
# exchange_type = "topic"
# routing_key   = "order.#"
# max_priority  = 10
# arguments     = { x-message-ttl = 60000 }

# [worker]                      # flags of `longshore worker`
# queues = ["celery", "cpu"]
# grace  = "30s"
# lanes  = { async = 200, blocking = 32, cpu = "cores", process = 2 }

# [tasks."shop.resize"]         # a task served by a program
# exec    = ["convert", "{args.0}", "-resize", "{kwargs.size}", "{args.1}"]
# timeout = "60s"
# memory  = "512MiB"

# [tasks."shop.score"]
# pipe     = ["python3", "score.py"]
# children = 2

# [tasks."shop.fetch"]
# http  = "GET {args.0}"
# hosts = ["api.example"]
# rate  = "500/min"
# rate_shared = true            # over all workers together

# [schedules.nightly]           # sent when it is due, by `longshore beat` or `longshore worker -B`
# task = "shop.resize"
# args = '["a.png", "b.png"]'
# cron = "30 2 * * *"           # or every = "10m"
# zone = "Europe/Berlin"
"#;

/// Writes a commented `longshore.toml` into this directory. An existing file is kept unless `force`
/// is given.
///
/// # Errors
/// The file exists (2), or cannot be written (74).
fn init(dir: &Path, force: bool) -> Result<PathBuf, Fault> {
    let path = dir.join("longshore.toml");
    let open = match force {
        true => files::output(&path, files::Output::Replace),
        false => fs::File::create_new(&path),
    };
    let written = open.and_then(|mut file| file.write_all(TEMPLATE.as_bytes()));
    match written {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Fault::usage(format!("{} exists; --force replaces it", path.display())))
        }
        Err(error) => Err(Fault::new(Exit::Unwritable, format!("cannot write {}: {}", path.display(), files::cause(&error)))),
    }
}

/// Reads everything and writes what is wrong to `out`, one mistake a line, then one line of result.
/// `validate` judges a flag's value (see [`Config::problems`]). Returns whether all is well;
/// variables that mean nothing are mentioned but do no harm.
///
/// # Errors
/// Those of `out`.
fn check(sources: &Sources, validate: Validate<'_>, out: &mut dyn Write) -> io::Result<bool> {
    let mut waiting = Vec::new();
    let (problems, config) = match Config::load(sources) {
        Ok(mut config) => {
            waiting = config.let_in();
            let mut others = tasks::specs(&config).err().map_or_else(Vec::new, |errors| errors.0);
            others.extend(schedules::configured(&config).err().into_iter().flat_map(|errors| errors.0));
            (ConfigErrors(config.problems(validate, others)), Some(config))
        }
        Err(errors) => (errors, None),
    };
    let count = problems.0.len();
    if count > 0 {
        writeln!(out, "{problems}")?;
    }
    if let Some(config) = &config {
        for note in config.unknown_variables() {
            writeln!(out, "note: {note}")?;
        }
        if !waiting.is_empty() {
            writeln!(out, "note: until `longshore config trust`, these wait: {}", waiting.join(", "))?;
        }
        if count == 0 {
            match config.files.is_empty() {
                true => writeln!(out, "no config file; `longshore config init` writes one")?,
                false => config.files.iter().try_for_each(|path| writeln!(out, "{}: ok", path.display()))?,
            }
        }
    }
    match count {
        0 => {}
        1 => writeln!(out, "1 mistake")?,
        count => writeln!(out, "{count} mistakes")?,
    }
    Ok(count == 0)
}

/// Writes all settings as TOML, with `origin` each followed by where it came from. Secrets are
/// hidden and `${VAR}` stands as written.
///
/// # Errors
/// Those of `out`.
fn show(config: &Config, origin: bool, out: &mut dyn Write) -> io::Result<()> {
    let (mut last, mut first) = (None, true);
    for (section, name, value, from) in config.listing() {
        if section != last {
            if let Some(section) = &section {
                writeln!(out, "{}[{section}]", if first { "" } else { "\n" })?;
            }
            last = section;
        }
        first = false;
        let line = format!("{} = {}", name.replace('-', "_"), toml_value(&value));
        match origin {
            true if from.waits.is_some() => writeln!(out, "{line:<48} # {}, waits for: longshore config trust", from.origin)?,
            true => writeln!(out, "{line:<48} # {}", from.origin)?,
            false => writeln!(out, "{line}")?,
        }
    }
    if first {
        writeln!(out, "# no settings; `longshore config init` writes a longshore.toml")?;
    }
    Ok(())
}

/// Writes all settings as one JSON array of `{"section","key","value","origin"}`, on one line.
///
/// # Errors
/// Those of `out`.
fn show_json(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let settings: Vec<_> = config
        .listing()
        .into_iter()
        .map(|(section, name, value, from)| {
            let value = match value {
                Value::Bool(value) => json!(value),
                Value::Text(text) => json!(text),
                Value::List(list) => json!(list),
            };
            json!({ "section": section, "key": name, "value": value, "origin": from.origin.to_string() })
        })
        .collect();
    writeln!(out, "{}", serde_json::Value::from(settings))
}

fn toml_value(value: &Value) -> String {
    let text = |text: &String| toml::Value::from(text.as_str()).to_string();
    match value {
        Value::Bool(value) => value.to_string(),
        // Numbers were kept as text; they are shown as they were written.
        Value::Text(number) if number.parse::<u64>().is_ok() => number.clone(),
        Value::Text(one) => text(one),
        Value::List(list) => format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(dir: &Path) -> Sources {
        Sources { dir: dir.to_owned(), trusting: true, ..Sources::default() }
    }

    fn checked(text: &str, validate: Validate<'_>) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("longshore.toml"), text).unwrap();
        let mut out = Vec::new();
        let well = check(&sources(dir.path()), validate, &mut out).unwrap();
        (well, String::from_utf8(out).unwrap().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn what_init_writes_passes_the_check_as_it_is_and_without_its_comments() {
        let dir = tempfile::tempdir().unwrap();
        let init = |force| init(dir.path(), force).map_err(|fault| fault.message);
        let path = init(false).unwrap();
        assert!(init(false).unwrap_err().contains("--force"));
        init(true).unwrap();
        let template = fs::read_to_string(path).unwrap();
        assert!(checked(&template, &|_, _, _| Ok(())).0);
        let (prose, body) = template.split_once("\n\n").unwrap();
        assert!(prose.starts_with('#'));
        let active = body.replace("# [", "[").lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
        let (well, out) = checked(&active, &|_, _, _| Ok(()));
        assert!(!well && out.contains("TOKEN") && out.ends_with("1 mistake\n"), "only the variable is missing: {out}");
    }

    #[test]
    fn check_lists_all_mistakes_with_their_lines() {
        let (well, out) = checked("[job.a]\ninput = \"x\"\nrat = 1\n[limit.b]\nrate = 1\n", &|_, _, _| Ok(()));
        assert!(!well);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "longshore.toml:3: unknown key `rat` in [job.a]; did you mean `rate`?");
        assert!(lines[1].starts_with("longshore.toml:4: this version knows no section [limit]"), "{}", lines[1]);
        assert!(lines[1].ends_with("did you mean [limits]?"), "{}", lines[1]);
        assert_eq!(lines[2], "2 mistakes");
    }

    #[test]
    fn check_asks_about_values() {
        let validate = |_: &[&str], name: &str, value: &str| match (name, value) {
            ("rate", "fast") => Err("`fast` is not a rate".to_owned()),
            _ => Ok(()),
        };
        let (well, out) = checked("[run]\nrate = \"fast\"\nburst = 2\n", &validate);
        assert_eq!((well, out.as_str()), (false, "longshore.toml:2: `rate` in [run]: `fast` is not a rate\n1 mistake\n"));
        assert_eq!(checked("[run]\nrate = \"1/s\"\n", &validate), (true, "longshore.toml: ok\n".to_owned()));
    }

    #[test]
    fn show_writes_toml_that_can_be_read_back_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let text = "color = \"never\"\n[job.\"a b\"]\nproxy = \"http://me:pw@h\"\nconcurrency = 5\nstrict = true\ncheck = [\"ok>1\"]\nheader = \"X-Token: t\"\n";
        fs::write(dir.path().join("longshore.toml"), text).unwrap();
        let mut config = sources(dir.path());
        config.vars.insert("LONGSHORE_RATE".to_owned(), "9/s".to_owned());
        let config = Config::load(&config).unwrap();
        let mut out = Vec::new();
        show(&config, true, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap().replace(&format!("{}/", dir.path().display()), "");
        for line in [
            "color = \"never\"                                  # longshore.toml:1",
            "[job.\"a b\"]",
            "concurrency = 5                                  # longshore.toml:4",
            "proxy = \"http://me:***@h\"                        # longshore.toml:3",
            "header = [\"X-Token: ***\"]                        # longshore.toml:7",
            "rate = \"9/s\"                                     # env LONGSHORE_RATE",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
        }
        let again: toml::Table = toml::from_str(&shown).unwrap();
        assert_eq!(again["job"]["a b"]["strict"].as_bool(), Some(true));
        let mut out = Vec::new();
        show_json(&config, &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json[0]["key"], "color");
    }
}
