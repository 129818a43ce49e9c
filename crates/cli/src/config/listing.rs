//! All settings at once: what is wrong in them, and what they are.

use std::collections::BTreeMap;

use super::{Config, ConfigError, RUN_WORDS, Setting, Value, expand, hint, is_run, schema, section::SectionId};

/// Judges the value of a flag of a command: the command's words, the flag's long name, the value.
pub type Validate<'a> = &'a dyn Fn(&[&str], &str, &str) -> Result<(), String>;

impl Config {
    /// Returns everything that is wrong although the files could be read: names that lead nowhere,
    /// variables that are not set, what `validate` says about a flag's value, and `others`: the
    /// mistakes in `[tasks]`, which whoever runs those knows.
    pub fn problems(&self, validate: Validate<'_>, others: Vec<ConfigError>) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        for (id, section) in &self.sections {
            for (name, setting) in section {
                match self.expanded(setting) {
                    Err(error) => problems.push(error),
                    Ok(setting) => {
                        let valid = |value: &str| id.command().map_or(Ok(()), |words| validate(&words, id.flag(name), value));
                        problems.extend(
                            setting.values().iter().filter_map(|value| Some(setting.wrong(name, &id.place(), &valid(value).err()?))),
                        );
                    }
                }
            }
            if let SectionId::Job(name) = id {
                problems.extend(self.run(Some(name)).err());
            }
            if let SectionId::Route(_) = id {
                problems.extend(self.routes().err());
            }
            if let SectionId::Queue(_) = id {
                problems.extend(self.queues().err());
            }
        }
        problems.extend(others);
        for (name, setting) in &self.env {
            let valid = |value: &str| validate(RUN_WORDS, name, value);
            problems.extend(setting.values().iter().filter_map(|value| Some(setting.wrong(name, "", &valid(value).err()?))));
        }
        for (id, section) in &self.env_of {
            for (name, setting) in section {
                let valid = |value: &str| id.command().map_or(Ok(()), |words| validate(&words, id.flag(name), value));
                problems.extend(setting.values().iter().filter_map(|value| Some(setting.wrong(name, "", &valid(value).err()?))));
            }
        }
        // A job's unset variable is found twice: in its section, and in its run.
        let mut seen = Vec::new();
        problems.retain(|problem| {
            let new = !seen.contains(problem);
            seen.push(problem.clone());
            new
        });
        problems
    }

    /// `LONGSHORE_…` variables that mean nothing here, each with a guess at what was meant.
    pub fn unknown_variables(&self) -> Vec<String> {
        let known: Vec<String> = schema::variables().chain(schema::all(schema::WORKER)).map(|key| schema::variable(key.name)).collect();
        let ours = self.vars.keys().filter(|name| name.starts_with("LONGSHORE_"));
        let unknown = ours.filter(|name| !known.contains(name) && !schema::OTHER_VARIABLES.contains(&name.as_str()));
        unknown.map(|name| format!("{name} is no setting{}", hint(name, known.iter().map(String::as_str)))).collect()
    }

    /// All settings in the order of the file's sections: section header (none for the keys of every
    /// command), name, value with its secrets hidden and `${VAR}` as written, origin. A variable
    /// stands in every section that it overrides, and among `run`.
    pub fn listing(&self) -> Vec<(Option<String>, &'static str, Value, &Setting)> {
        let mut merged: BTreeMap<&SectionId, BTreeMap<&'static str, &Setting>> = BTreeMap::new();
        for (id, section) in &self.sections {
            merged.insert(id, section.iter().map(|(name, setting)| (*name, setting)).collect());
        }
        for (name, setting) in &self.env {
            let home = if is_run(name) { &SectionId::Run } else { &SectionId::Top };
            merged.entry(home).or_default().insert(name, setting);
            for (_, section) in merged.iter_mut().filter(|(id, section)| matches!(id, SectionId::Job(_)) && section.contains_key(name)) {
                section.insert(name, setting);
            }
        }
        for (id, section) in &self.env_of {
            merged.entry(id).or_default().extend(section.iter().map(|(name, setting)| (*name, setting)));
        }
        let mut out = Vec::new();
        for (id, section) in merged {
            out.extend(section.into_iter().map(|(name, setting)| (id.header(), name, expand::masked(name, &setting.value), setting)));
        }
        out
    }
}
