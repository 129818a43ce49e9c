//! Settings from files and the environment, each with where it came from.
//!
//! From weak to strong: the user's file (`$XDG_CONFIG_HOME/longshore/config.toml`, else
//! `~/.config/longshore/config.toml`), the project's `longshore.toml` in the working directory (or
//! the file that `--config` or `LONGSHORE_CONFIG` names, in its place), `LONGSHORE_…` variables,
//! flags. Files are merged key by key. Within one run a job's own keys are stronger than its
//! `[retry.NAME]`, and that is stronger than `[run]`.
//!
//! Layout: `setting` and `section` are the words, `error` the mistakes; `schema` lists the keys,
//! `file` reads one file, `trust` says which of its keys wait for the user's word, `expand`
//! replaces `${VAR}` and hides secrets; `run` makes flags of them; `listing` shows all of them and
//! what is wrong in them; here the layers are put together.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

mod ask;
mod error;
mod expand;
mod file;
mod listing;
mod queues;
mod run;
mod schedules;
mod schema;
mod section;
mod setting;
#[cfg(test)]
mod tests;
pub mod trust;

pub use error::{ConfigError, ConfigErrors};
pub use listing::Validate;
use longshore_worker::Route;
pub use run::RunSettings;
use schema::{Key, Kind, nearest};
pub use section::RUN_WORDS;
use section::SectionId;
pub use setting::{Origin, Section, Setting, Value};

use crate::progress::Voice;

/// Places where settings are looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; must exist.
    pub config: Option<PathBuf>,
    /// The directory whose `longshore.toml` counts; empty for the working directory.
    pub dir: PathBuf,
    /// The environment.
    pub vars: BTreeMap<String, String>,
    /// Obeys every file, whoever wrote it.
    pub trusting: bool,
}

/// A file in which settings are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFile {
    /// Its path.
    pub path: PathBuf,
    /// The one who says that it counts.
    pub by: NamedBy,
}

/// The one who says that a file of settings counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The user, with a flag or a variable; it must exist.
    User,
    /// The folder that it lies in.
    Folder,
    /// The user's home.
    Home,
}

impl Sources {
    /// This process's working directory and environment (variables that are not UTF-8 are passed
    /// over).
    pub fn of_process(config: Option<PathBuf>) -> Self {
        let vars = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { config, dir: PathBuf::new(), vars: vars.collect(), trusting: false }
    }

    /// The files in which settings are looked for, the strongest first.
    pub fn files(&self) -> Vec<SettingsFile> {
        let var = |name: &str| self.vars.get(name).filter(|value| !value.is_empty());
        let named = self.config.clone().or_else(|| var("LONGSHORE_CONFIG").map(PathBuf::from));
        let mut files = vec![match named {
            Some(path) => SettingsFile { path, by: NamedBy::User },
            None => SettingsFile { path: self.dir.join("longshore.toml"), by: NamedBy::Folder },
        }];
        // The XDG specification has relative paths ignored.
        let xdg = var("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = xdg.or_else(|| var("HOME").map(|home| Path::new(home).join(".config")));
        files.extend(home.map(|home| SettingsFile { path: home.join("longshore/config.toml"), by: NamedBy::Home }));
        files
    }
}

/// The keys of `[connections]` that variables set, and these, the strongest first.
const CONNECTIONS: [(&str, [&str; 2]); 2] =
    [("broker", ["LONGSHORE_BROKER", "CELERY_BROKER_URL"]), ("results", ["LONGSHORE_RESULTS", "CELERY_RESULT_BACKEND"])];

/// All settings outside the command line.
#[derive(Clone, Debug, Default)]
pub struct Config {
    sections: BTreeMap<SectionId, Section>,
    env: Section,
    /// Variables about sections that are no defaults of `run`: `[worker]`, `[connections]`.
    env_of: BTreeMap<SectionId, Section>,
    vars: BTreeMap<String, String>,
    /// The files that were read, the strongest first.
    pub files: Vec<PathBuf>,
    /// The file of the folder, if it sets anything; its whole path.
    of_folder: Option<PathBuf>,
    /// The keys of it that wait for the user's word.
    waiting: Vec<String>,
    /// Where keys wait: that file, and the text of it that was read.
    undecided: Option<(PathBuf, String)>,
}

/// `[limits.NAME]`: texts as written, `${VAR}` replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// The rate, as in `500/min`.
    pub rate: Option<String>,
    /// Most tasks that may start at once; 1 is a leaky bucket.
    pub burst: u64,
    /// Most tasks that may run at once.
    pub concurrency: Option<u64>,
    /// A template; each value has a bucket of its own.
    pub by: Option<String>,
}

impl Config {
    /// Reads the files and the environment. `${VAR}` is replaced only when a setting is asked for,
    /// so that an unset variable in one job does not hinder another.
    ///
    /// # Errors
    /// Every mistake in every file and variable; a file named by `--config` that does not exist.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut config = Config { vars: sources.vars.clone(), ..Config::default() };
        let mut errors = Vec::new();
        for SettingsFile { path, by } in sources.files() {
            let obeyed = sources.trusting || by != NamedBy::Folder;
            let read = if obeyed { fs::read_to_string(&path) } else { trust::read(&path) };
            let text = match read {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && by != NamedBy::User => continue,
                Err(error) => {
                    let named = match (by, &sources.config) {
                        (NamedBy::User, Some(_)) => " (--config names it)",
                        (NamedBy::User, None) => " (LONGSHORE_CONFIG names it)",
                        _ => "",
                    };
                    errors.push(ConfigError::nowhere(format!("cannot read the config file {}{named}: {error}", path.display())));
                    continue;
                }
            };
            match file::parse(&path, &text) {
                Ok(sections) if obeyed || config.is_trusted(&path, &text) => config.merge_under(sections),
                Ok(mut sections) => {
                    config.hold_back(&mut sections);
                    config.merge_under(sections);
                    config.undecided = Some((path.clone(), text)).filter(|_| !config.waiting.is_empty());
                }
                Err(found) => errors.extend(found),
            }
            if by == NamedBy::Folder && config.sections.values().any(|section| !section.is_empty()) {
                config.of_folder = Some(path.canonicalize().unwrap_or_else(|_| path.clone()));
            }
            config.files.push(path);
        }
        // An empty variable is how a shell script says "none".
        let var = |name: &str| sources.vars.get(name).filter(|text| !text.is_empty());
        // A name that `run` and `worker` share means both.
        let worker = schema::all(schema::WORKER).map(|key| (Some(SectionId::Worker), key));
        let dashboard = schema::all(schema::DASHBOARD).map(|key| (Some(SectionId::Dashboard), key));
        for (of, key) in schema::variables().map(|key| (None, key)).chain(worker).chain(dashboard) {
            let name = schema::variable(key.name);
            let Some(text) = var(&name) else { continue };
            let origin = Origin::Env(name);
            match read_variable(key, text) {
                Ok(value) => {
                    let section = of.map_or(&mut config.env, |id| config.env_of.entry(id).or_default());
                    section.insert(key.name, Setting::new(value, origin));
                }
                Err(wanted) => {
                    let error = ConfigError::at(&origin, format!("`{text}` is not {wanted}"));
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                }
            }
        }
        for (key, names) in CONNECTIONS {
            if let Some((name, url)) = names.into_iter().find_map(|name| Some((name, var(name)?))) {
                let setting = Setting::new(Value::Text(url.clone()), Origin::Env(name.to_owned()));
                config.env_of.entry(SectionId::Connections).or_default().insert(key, setting);
            }
        }
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// Reads the text of a folder's file alone, as one that is not trusted.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn of_folder(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let (mut config, mut sections) = (Self::default(), file::parse(path, text).map_err(ConfigErrors)?);
        config.hold_back(&mut sections);
        config.merge_under(sections);
        Ok(config)
    }

    fn is_trusted(&self, path: &Path, text: &str) -> bool {
        trust::TrustStore::of(&self.vars).is_some_and(|store| store.has(path, text))
    }

    /// Marks what waits for the user's word.
    fn hold_back(&mut self, sections: &mut file::Sections) {
        for (id, section) in sections {
            for (name, setting) in section.iter_mut().filter(|(name, setting)| trust::waits(id, name, &setting.value)) {
                let words = format!("`{}`{}", name.replace('-', "_"), id.place());
                self.waiting.push(words.clone());
                setting.waits = Some(words);
            }
        }
    }

    /// Lets in what waits, for whoever looks at the settings and follows none. Returns what it was.
    pub fn let_in(&mut self) -> Vec<String> {
        for setting in self.sections.values_mut().flat_map(BTreeMap::values_mut) {
            setting.waits = None;
        }
        std::mem::take(&mut self.waiting)
    }

    /// Says that the file of the folder is in force, and what of it waits for the user's word.
    pub fn say_in_force(&self, voice: Voice) {
        let Some(path) = &self.of_folder else { return };
        let but = match &self.waiting[..] {
            [] => String::new(),
            [one] => format!(", without {one} until you trust it: longshore config trust"),
            [first, rest @ ..] => format!(", without {first} and {} more until you trust it: longshore config trust", rest.len()),
        };
        let line = format!("the settings of {} are in force{but}", path.display());
        if let Some(line) = voice.note(&if voice.json { line } else { format!("longshore: {line}") }) {
            eprintln!("{line}");
        }
    }

    /// Adds the sections of a weaker file.
    fn merge_under(&mut self, weaker: file::Sections) {
        for (id, section) in weaker {
            let own = self.sections.entry(id).or_default();
            for (name, setting) in section {
                own.entry(name).or_insert(setting);
            }
        }
    }

    /// A setting of every command (`color`, `log-format`, `state-dir`, `json`, `no-input`).
    ///
    /// # Errors
    /// A `${VAR}` in it that is not set.
    pub fn get(&self, name: &str) -> Result<Option<Setting>, ConfigError> {
        let found = self.env.get(name).or_else(|| self.sections.get(&SectionId::Top)?.get(name));
        found.map(|setting| self.expanded(setting)).transpose()
    }

    /// The settings of every command that are flags.
    ///
    /// # Errors
    /// A `${VAR}` in one that is not set.
    pub fn top(&self) -> Result<Section, ConfigError> {
        let names = schema::all(schema::TOP).map(|key| key.name).filter(|name| *name != "state-dir");
        names.filter_map(|name| self.get(name).transpose().map(|setting| Ok((name, setting?)))).collect()
    }

    /// Returns the directory of the journals, if it is set.
    ///
    /// # Errors
    /// A `${VAR}` in it that is not set.
    pub fn state_dir(&self) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.get("state-dir")?.and_then(|setting| match setting.value {
            Value::Text(path) => Some(PathBuf::from(path)),
            Value::Bool(_) | Value::List(_) => None,
        }))
    }

    /// The names of the jobs.
    pub fn jobs(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().filter_map(|id| if let SectionId::Job(name) = id { Some(name.as_str()) } else { None })
    }

    /// The settings of `run`, or of `run @job`: variables, the job's section, the retry section
    /// that it names, `[run]`.
    ///
    /// # Errors
    /// An unknown job, retry section or limit; a `${VAR}` that is not set.
    pub fn run(&self, job: Option<&str>) -> Result<RunSettings, ConfigError> {
        let mut found: BTreeMap<&'static str, &Setting> = self.env.iter().filter(|(name, _)| is_run(name)).map(|(n, s)| (*n, s)).collect();
        if let Some(job) = job {
            let section = self.sections.get(&SectionId::Job(job.to_owned())).ok_or_else(|| {
                ConfigError::nowhere(format!("there is no [job.{job}] in {}{}", self.read_files(), hint(job, self.jobs())))
            })?;
            for (name, setting) in section {
                found.entry(name).or_insert(setting);
            }
            if let Some(setting) = section.get("retry")
                && let Value::Text(retry) = self.expanded(setting)?.value
            {
                for (name, setting) in self.retry(&retry, &setting.origin)? {
                    found.entry(if *name == "on" { "retry-on" } else { name }).or_insert(setting);
                }
            }
        }
        if let Some(section) = self.sections.get(&SectionId::Run) {
            for (name, setting) in section {
                found.entry(name).or_insert(setting);
            }
        }
        found.remove("retry");
        let settings = found.into_iter().map(|(name, setting)| Ok((name, self.expanded(setting)?)));
        let settings = RunSettings { settings: settings.collect::<Result<_, ConfigError>>()? };
        if let Some(Setting { value: Value::Text(name), origin, .. }) = settings.get("limit") {
            self.limit(name).map_err(|error| if error.path.is_some() { error } else { ConfigError::at(origin, error.message) })?;
        }
        Ok(settings)
    }

    /// `[kafka.TOPIC]`, empty where there is none.
    ///
    /// # Errors
    /// A `${VAR}` that is not set.
    pub fn kafka(&self, topic: &str) -> Result<Section, ConfigError> {
        self.section(&SectionId::Kafka(topic.to_owned()))
    }

    /// ` in [kafka.TOPIC]`, for messages.
    pub fn kafka_place(topic: &str) -> String {
        SectionId::Kafka(topic.to_owned()).place()
    }

    /// A section, `${VAR}` replaced, by the names of its flags.
    fn section(&self, id: &SectionId) -> Result<Section, ConfigError> {
        // What comes later wins.
        let settings = [self.sections.get(id), self.env_of.get(id)].into_iter().flatten().flatten();
        settings.map(|(name, setting)| Ok((id.flag(name), self.expanded(setting)?))).collect()
    }

    fn retry(&self, name: &str, origin: &Origin) -> Result<&Section, ConfigError> {
        self.sections.get(&SectionId::Retry(name.to_owned())).ok_or_else(|| {
            let names = self.sections.keys().filter_map(|id| if let SectionId::Retry(name) = id { Some(name.as_str()) } else { None });
            ConfigError::at(origin, format!("there is no [retry.{name}]{}", hint(name, names)))
        })
    }

    /// `[limits.NAME]`.
    ///
    /// # Errors
    /// An unknown name (without a place: the caller knows who asked); a `${VAR}` that is not set.
    pub fn limit(&self, name: &str) -> Result<Limit, ConfigError> {
        let section = self.sections.get(&SectionId::Limit(name.to_owned())).ok_or_else(|| {
            let names = self.sections.keys().filter_map(|id| if let SectionId::Limit(name) = id { Some(name.as_str()) } else { None });
            ConfigError::nowhere(format!("there is no [limits.{name:?}] in {}{}", self.read_files(), hint(name, names)))
        })?;
        let text = |key: &str| -> Result<Option<String>, ConfigError> {
            let setting = section.get(key).map(|setting| self.expanded(setting)).transpose()?;
            Ok(setting.and_then(|setting| if let Value::Text(text) = setting.value { Some(text) } else { None }))
        };
        // Whole numbers were checked when the file was read.
        let whole = |key: &str| text(key).map(|text| text.and_then(|text| text.parse().ok()));
        Ok(Limit {
            name: name.to_owned(),
            rate: text("rate")?,
            burst: whole("burst")?.unwrap_or(1),
            concurrency: whole("concurrency")?,
            by: text("by")?,
        })
    }

    /// The broker's URL, and the result backend's if it has one of its own: what stands here, else
    /// what the variables or `[connections]` say.
    ///
    /// # Errors
    /// A `${VAR}` that is not set.
    pub fn connections(&self, broker: Option<&str>, results: Option<&str>) -> Result<(Option<String>, Option<String>), ConfigError> {
        let find = |given: Option<&str>, key: &str| match given {
            Some(url) => Ok(Some(url.to_owned())),
            None => Ok(self.setting(&SectionId::Connections, key)?.and_then(|setting| setting.value.into_text())),
        };
        Ok((find(broker, "broker")?, find(results, "results")?))
    }

    /// Returns whether monitors are told when a task is sent.
    ///
    /// # Errors
    /// None: a switch names no variable.
    pub fn task_send_sent_event(&self) -> Result<bool, ConfigError> {
        let told = self.setting(&SectionId::Connections, "task-send-sent-event")?;
        Ok(told.is_some_and(|setting| setting.value == Value::Bool(true)))
    }

    /// Returns where tasks go that name no queue, in the order of the lines of `[routes]`, those of
    /// the stronger file first: pattern and route.
    ///
    /// # Errors
    /// A `${VAR}` that is not set; a priority beyond 255.
    pub fn routes(&self) -> Result<Vec<(String, Route)>, ConfigError> {
        let mut found = Vec::new();
        for (id, section) in &self.sections {
            let SectionId::Route(pattern) = id else { continue };
            let setting = |key: &str| section.get(key).map(|setting| self.expanded(setting)).transpose();
            let text = |key: &str| Ok::<_, ConfigError>(setting(key)?.and_then(|setting| setting.value.into_text()));
            let mut route = Route::default();
            (route.queue, route.exchange) = (text("queue")?, text("exchange")?);
            (route.exchange_type, route.routing_key) = (text("exchange-type")?, text("routing-key")?);
            route.priority = match setting("priority")? {
                None => None,
                Some(set) => match set.values().first().and_then(|text| text.parse::<u8>().ok()) {
                    None => return Err(set.wrong("priority", &id.place(), "a priority is a number from 0 to 9, on RabbitMQ to 255")),
                    priority => priority,
                },
            };
            for (key, text, what) in
                [("queue", &route.queue, "a queue has a name"), ("exchange", &route.exchange, "an exchange has a name")]
            {
                if let (Some(""), Some(set)) = (text.as_deref(), section.get(key)) {
                    return Err(set.wrong(key, &id.place(), what));
                }
            }
            let is_direct = route.exchange_type.as_deref().is_none_or(|kind| kind == "direct");
            if let (Some(set), None, true) = (section.get("exchange"), &route.routing_key, is_direct) {
                let what = "a direct exchange needs a `routing-key`; another type is said by `exchange-type`";
                return Err(set.wrong("exchange", &id.place(), what));
            }
            let place = |setting: &Setting| match &setting.origin {
                Origin::File { path, line } => (self.files.iter().position(|file| file == path), *line),
                Origin::Env(_) => (None, 0),
            };
            found.push((section.values().map(place).min(), (pattern.clone(), route)));
        }
        found.sort_by_key(|(place, _)| *place);
        Ok(found.into_iter().map(|(_, route)| route).collect())
    }

    fn setting(&self, id: &SectionId, name: &str) -> Result<Option<Setting>, ConfigError> {
        let places = [self.env_of.get(id), self.sections.get(id)];
        places.into_iter().flatten().find_map(|section| section.get(name)).map(|setting| self.expanded(setting)).transpose()
    }

    /// `[worker]`, by the names of its flags.
    ///
    /// # Errors
    /// A `${VAR}` that is not set.
    pub fn worker(&self) -> Result<Section, ConfigError> {
        self.section(&SectionId::Worker)
    }

    /// `[dashboard]`, by the names of its flags.
    ///
    /// # Errors
    /// A `${VAR}` that is not set.
    pub fn dashboard(&self) -> Result<Section, ConfigError> {
        self.section(&SectionId::Dashboard)
    }

    /// The names of the limits.
    pub fn limits(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().filter_map(|id| if let SectionId::Limit(name) = id { Some(name.as_str()) } else { None })
    }

    /// The names of the tasks that programs serve.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().filter_map(|id| if let SectionId::Task(name) = id { Some(name.as_str()) } else { None })
    }

    /// Returns true if something of `[tasks.NAME]`, or of the `[retry.NAME]` that it names, waits
    /// for the user's word: then nobody may run it.
    pub fn task_waits(&self, name: &str) -> bool {
        let Some(section) = self.sections.get(&SectionId::Task(name.to_owned())) else { return false };
        let retry = section.get("retry").and_then(|setting| setting.value.clone().into_text());
        let retry = retry.and_then(|name| self.sections.get(&SectionId::Retry(name)));
        [Some(section), retry].into_iter().flatten().flat_map(BTreeMap::values).any(|setting| setting.waits.is_some())
    }

    /// Returns the queue of `[tasks.NAME]`, if it says one. That does not wait with what the task
    /// runs.
    ///
    /// # Errors
    /// A `${VAR}` in it that is not set.
    pub fn task_queue(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let queue = self.setting(&SectionId::Task(name.to_owned()), "queue")?;
        Ok(queue.and_then(|setting| setting.value.into_text()))
    }

    /// `[tasks.NAME]`, `${VAR}` replaced; where it names a `[retry.NAME]`, with what that says and
    /// it does not.
    ///
    /// # Errors
    /// There is none of this name, or no such retry section; a `${VAR}` that is not set.
    pub fn task(&self, name: &str) -> Result<Section, ConfigError> {
        let section = self.sections.get(&SectionId::Task(name.to_owned())).ok_or_else(|| {
            ConfigError::nowhere(format!("there is no [tasks.{name:?}] in {}{}", self.read_files(), hint(name, self.tasks())))
        })?;
        let mut found: Section =
            section.iter().map(|(name, setting)| Ok((*name, self.expanded(setting)?))).collect::<Result<_, ConfigError>>()?;
        if let Some(Setting { value: Value::Text(retry), origin, .. }) = found.remove("retry") {
            for (name, setting) in self.retry(&retry, &origin)? {
                let name = if *name == "on" { "retry-on" } else { name };
                if !found.contains_key(name) {
                    found.insert(name, self.expanded(setting)?);
                }
            }
        }
        Ok(found)
    }

    fn expanded(&self, setting: &Setting) -> Result<Setting, ConfigError> {
        // What a variable says is taken as it is: the shell has had its turn.
        if matches!(setting.origin, Origin::Env(_)) {
            return Ok(setting.clone());
        }
        if let Some(name) = &setting.waits {
            return Err(ConfigError::at(
                &setting.origin,
                format!(
                    "{name} waits until you trust this file: read it, then `longshore config trust` (or go without it: --config /dev/null)"
                ),
            ));
        }
        let one = |text: &String| {
            expand::expand(text, &|name| self.vars.get(name).cloned()).map_err(|name| {
                ConfigError::at(
                    &setting.origin,
                    format!("the variable {name} is not set; set it, write ${{{name}:-default}}, or $${{{name}}} for the text itself"),
                )
            })
        };
        let value = match &setting.value {
            Value::Bool(value) => Value::Bool(*value),
            Value::Text(text) => Value::Text(one(text)?),
            Value::List(list) => Value::List(list.iter().map(one).collect::<Result<_, _>>()?),
        };
        Ok(Setting::new(value, setting.origin.clone()))
    }

    fn read_files(&self) -> String {
        match self.files.is_empty() {
            true => "any config file (none was found; `longshore config init` writes one)".to_owned(),
            false => self.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// Each key of `[worker]` and `[kafka.TOPIC]`: the words of its command, and its flag.
#[cfg(all(test, feature = "kafka"))]
pub(crate) fn flags_of_sections() -> Vec<(Vec<String>, &'static str)> {
    let mut flags = Vec::new();
    for id in [SectionId::Worker, SectionId::Dashboard, SectionId::Kafka("orders".to_owned())] {
        let words: Vec<String> = id.command().into_iter().flatten().map(str::to_owned).collect();
        flags.extend(schema::all(id.keys()).map(|key| (words.clone(), id.flag(key.name))));
    }
    flags
}

fn is_run(name: &str) -> bool {
    schema::all(schema::RUN).any(|key| key.name == name)
}

fn hint<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|found| format!("; did you mean `{found}`?")).unwrap_or_default()
}

fn read_variable(key: &Key, text: &str) -> Result<Value, &'static str> {
    match key.kind {
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Value::Bool(true)),
            "0" | "false" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err("true or false"),
        },
        Kind::Whole => text.parse::<u64>().map(|_| Value::Text(text.to_owned())).map_err(|_| "a whole number"),
        Kind::Text | Kind::Commas => Ok(Value::Text(text.to_owned())),
        // One variable is one use of the flag: any separator could be part of a value.
        Kind::List | Kind::Pairs | Kind::Words => Ok(Value::List(vec![text.to_owned()])),
    }
}
