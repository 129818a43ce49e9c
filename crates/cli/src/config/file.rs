//! One TOML file, read into sections. Every value remembers its line; every mistake is found in one
//! pass.

use std::{collections::BTreeMap, ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Origin, Section, SectionId, Setting, Value,
    schema::{self, Key, Kind, nearest},
};

/// The sections of a file.
pub(super) type Sections = BTreeMap<SectionId, Section>;

/// Reads a file's text.
///
/// # Errors
/// Every mistake in it, each with its line.
pub(super) fn parse(path: &Path, text: &str) -> Result<Sections, Vec<ConfigError>> {
    let mut reader = Reader { path, text, sections: Sections::new(), errors: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reader.top(table.get_ref()),
        Err(error) => reader.error(error.span().unwrap_or_default(), error.message().to_owned()),
    }
    if reader.errors.is_empty() {
        return Ok(reader.sections);
    }
    reader.errors.sort_by_key(|error| error.line);
    Err(reader.errors)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    sections: Sections,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    fn error(&mut self, span: Range<usize>, message: String) {
        self.errors.push(ConfigError { path: Some(self.path.to_owned()), line: Some(self.line(span.start)), message });
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let word: &str = name.get_ref();
            match (word, value.get_ref().as_table()) {
                ("run", Some(table)) => self.section(SectionId::Run, name.span(), table),
                ("job", Some(table)) => self.named(word, table, SectionId::Job),
                ("limits", Some(table)) => self.named(word, table, SectionId::Limit),
                ("retry", Some(table)) => self.named(word, table, SectionId::Retry),
                ("connections", Some(table)) => self.section(SectionId::Connections, name.span(), table),
                ("routes", Some(table)) => self.routes(table),
                ("queues", Some(table)) => self.named(word, table, SectionId::Queue),
                ("worker", Some(table)) => self.section(SectionId::Worker, name.span(), table),
                ("dashboard", Some(table)) => self.section(SectionId::Dashboard, name.span(), table),
                ("tasks", Some(table)) => self.named(word, table, SectionId::Task),
                ("schedules", Some(table)) => self.named(word, table, SectionId::Schedule),
                ("kafka", Some(table)) => self.named(word, table, SectionId::Kafka),
                (word, Some(_)) => {
                    let hint = meant(word, schema::SECTIONS.iter().copied(), |section| format!("[{section}]"));
                    self.error(
                        name.span(),
                        format!(
                            "this version knows no section [{word}]; there are [run], [job.NAME], [limits.NAME], [retry.NAME], [connections], [routes], [queues.NAME], [worker], [dashboard], [tasks.NAME], [schedules.NAME], [kafka.TOPIC]{hint}"
                        ),
                    );
                }
                (
                    "run" | "job" | "limits" | "retry" | "connections" | "routes" | "queues" | "worker" | "dashboard" | "tasks"
                    | "schedules" | "kafka",
                    None,
                ) => self.error(name.span(), format!("`{word}` is a section; write [{word}…]")),
                (_, None) => self.entry(&SectionId::Top, name, value),
            }
        }
    }

    /// `[job.prices]` and its like: one table a name.
    fn named(&mut self, section: &str, table: &DeTable<'_>, id: fn(String) -> SectionId) {
        for (name, value) in table {
            match value.get_ref().as_table() {
                Some(table) => self.section(id(name.get_ref().to_string()), name.span(), table),
                None => {
                    let name_text = name.get_ref().to_string();
                    self.error(name.span(), format!("[{section}] holds named sections only; put `{name_text}` into [{section}.NAME]"));
                }
            }
        }
    }

    /// `[routes]`: a queue for each pattern, or a table with a queue, an exchange, a priority.
    fn routes(&mut self, table: &DeTable<'_>) {
        for (pattern, to) in table {
            let id = SectionId::Route(pattern.get_ref().to_string());
            match (to.get_ref(), to.get_ref().as_table()) {
                (_, Some(table)) => self.section(id, pattern.span(), table),
                (DeValue::String(queue), None) => {
                    let origin = Origin::File { path: self.path.to_owned(), line: self.line(pattern.span().start) };
                    let setting = Setting::new(Value::Text(queue.to_string()), origin);
                    self.sections.entry(id).or_default().insert("queue", setting);
                }
                (other, None) => {
                    let message = format!("a route is a queue, or {{ queue = \"…\", priority = 0 to 9 }}, not {}", a_type(other));
                    self.error(to.span(), message);
                }
            }
        }
    }

    fn section(&mut self, id: SectionId, span: Range<usize>, table: &DeTable<'_>) {
        self.sections.entry(id.clone()).or_default();
        for (name, value) in table {
            self.entry(&id, name, value);
        }
        // What one section needs beyond well-formed keys.
        let section = &self.sections[&id];
        match &id {
            SectionId::Job(job) => {
                let whats: Vec<&str> = ["http", "pipe", "command", "task"].into_iter().filter(|what| section.contains_key(*what)).collect();
                if whats.len() > 1 {
                    let message = format!("[job.{job}] says {} at once; one thing runs", whats.join(" and "));
                    self.error(span, message);
                }
            }
            SectionId::Task(task) => {
                let whats: Vec<&str> = ["exec", "pipe", "http"].into_iter().filter(|what| section.contains_key(*what)).collect();
                let problem = match whats.len() {
                    // A mistake in that very line has been told.
                    0 if table.iter().any(|(name, _)| matches!(&**name.get_ref(), "exec" | "pipe" | "http")) => None,
                    0 => Some("says nothing to run; give it one of exec, pipe, http".to_owned()),
                    1 => None,
                    _ => Some(format!("says {} at once; one thing runs", whats.join(" and "))),
                };
                if let Some(problem) = problem {
                    let message = format!("[{}] {problem}", SectionId::Task(task.clone()).header().unwrap_or_default());
                    self.error(span, message);
                }
            }
            SectionId::Route(_) if table.is_empty() => {
                let message = format!("[{}] leads nowhere; give it a queue, an exchange or a priority", id.header().unwrap_or_default());
                self.error(span, message);
            }
            SectionId::Route(_)
                if !section.contains_key("exchange") && (section.contains_key("exchange-type") || section.contains_key("routing-key")) =>
            {
                let message =
                    format!("[{}] has a routing key or a type, and no exchange that they are for", id.header().unwrap_or_default());
                self.error(span, message);
            }
            SectionId::Limit(limit) if section.is_empty() => {
                let message = format!("[limits.{limit}] limits nothing; give it a rate or a concurrency");
                self.error(span, message);
            }
            _ => {}
        }
    }

    fn entry(&mut self, id: &SectionId, name: &Spanned<toml::de::DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let written: &str = name.get_ref();
        if let (SectionId::Task(task), Some(_)) = (id, value.get_ref().as_table())
            && written != "env"
            && written != "form"
        {
            return self.error(name.span(), format!("the name of a task that has a dot stands in quotes: [tasks.\"{task}.{written}\"]"));
        }
        // TOML files like underscores, flags have dashes; both are read.
        let dashed = written.replace('_', "-");
        let keys = || schema::all(id.keys());
        let Some(key) = keys().find(|key| key.name == dashed) else {
            let hint = meant(&dashed, keys().map(|key| key.name), |key| format!("`{}`", like(written, key)));
            return self.error(name.span(), format!("unknown key `{written}`{}{hint}", id.place()));
        };
        if key.one_job && *id == SectionId::Run {
            return self.error(name.span(), format!("`{written}` belongs to one job; write it into a [job.NAME]"));
        }
        match read(key, value.get_ref()) {
            Err(wanted) => self.error(value.span(), format!("`{written}`{} is {wanted}, not {}", id.place(), a_type(value.get_ref()))),
            Ok(read) => {
                let origin = Origin::File { path: self.path.to_owned(), line: self.line(name.span().start) };
                let section = self.sections.entry(id.clone()).or_default();
                if section.insert(key.name, Setting::new(read, origin)).is_some() {
                    self.error(name.span(), format!("`{written}`{} stands there twice, with - and with _", id.place()));
                }
            }
        }
    }
}

/// The key in the style of the word: with underscores, unless that had dashes.
fn like(written: &str, key: &str) -> String {
    if written.contains('-') { key.to_owned() } else { key.replace('-', "_") }
}

fn meant<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, show: impl Fn(&str) -> String) -> String {
    nearest(word, candidates).map(|found| format!("; did you mean {}?", show(found))).unwrap_or_default()
}

/// Names the type of a value, with an article.
fn a_type(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// A string or a number as text.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

/// The value in the key's form, or what that form is.
fn read(key: &Key, value: &DeValue<'_>) -> Result<Value, &'static str> {
    let list = |value: &DeValue<'_>| -> Option<Vec<String>> { value.as_array()?.iter().map(|item| scalar(item.get_ref())).collect() };
    match key.kind {
        Kind::Bool => value.as_bool().map(Value::Bool).ok_or("true or false"),
        Kind::Whole => match scalar(value).filter(|text| text.parse::<u64>().is_ok()) {
            Some(text) => Ok(Value::Text(text)),
            None => Err("a whole number"),
        },
        Kind::Text => scalar(value).map(Value::Text).ok_or("a string"),
        Kind::List => scalar(value).map(|text| vec![text]).or_else(|| list(value)).map(Value::List).ok_or("a string or a list of strings"),
        Kind::Commas => scalar(value).or_else(|| Some(list(value)?.join(","))).map(Value::Text).ok_or("a string or a list of strings"),
        Kind::Pairs => {
            let switch = |value: &DeValue<'_>| value.as_bool().map(|on| on.to_string()).filter(|_| key.name == "arguments");
            let text = |value: &DeValue<'_>| scalar(value).or_else(|| switch(value));
            let table = |table: &DeTable<'_>| -> Option<Vec<String>> {
                table.iter().map(|(name, value)| Some(format!("{}={}", name.get_ref(), text(value.get_ref())?))).collect()
            };
            let pairs = match value {
                DeValue::Table(pairs) => table(pairs),
                value => scalar(value).map(|text| vec![text]).or_else(|| list(value)),
            };
            pairs.filter(|pairs| pairs.iter().all(|pair| pair.contains('='))).map(Value::List).ok_or("a table, or a list of \"K=V\"")
        }
        Kind::Words => {
            let words = match value {
                DeValue::String(text) => shell_words::split(text).ok(),
                value => list(value),
            };
            words.filter(|words| !words.is_empty()).map(Value::List).ok_or("a program and its arguments, such as [\"convert\", \"{}\"]")
        }
    }
}
