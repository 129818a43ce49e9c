//! A setting: its value, and where it came from.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::error::ConfigError;

/// A value as it was written; numbers are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A switch.
    Bool(bool),
    /// One value.
    Text(String),
    /// A flag that was given more than once, or the words of a command.
    List(Vec<String>),
}

impl Value {
    /// One value.
    pub fn into_text(self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::List(_) => None,
        }
    }
}

/// Place that a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This variable.
    Env(String),
    /// This line of this file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Place that it came from.
    pub origin: Origin,
    /// Its name, where it waits for the user's word (see [`super::trust`]).
    pub waits: Option<String>,
}

impl Setting {
    /// Makes a setting that waits for nobody.
    pub fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin, waits: None }
    }

    /// Makes the error of a wrong value: the key `name` in this place (` in [run]`), and why.
    pub fn wrong(&self, name: &str, place: &str, why: &str) -> ConfigError {
        ConfigError::at(&self.origin, format!("`{}`{place}: {why}", name.replace('-', "_")))
    }

    /// Its values: none of a switch, several of a list.
    pub fn values(&self) -> &[String] {
        match &self.value {
            Value::Bool(_) => &[],
            Value::Text(text) => std::slice::from_ref(text),
            Value::List(list) => list,
        }
    }

    /// Writes it as uses of this flag. A switch that is `false` is none.
    pub fn flags(&self, name: &str) -> Vec<String> {
        match &self.value {
            Value::Bool(true) => vec![format!("--{name}")],
            _ => self.values().iter().map(|value| format!("--{name}={value}")).collect(),
        }
    }
}

/// Settings by their names, which are the flags' long names.
pub type Section = BTreeMap<&'static str, Setting>;
