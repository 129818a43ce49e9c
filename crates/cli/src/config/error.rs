//! Mistakes in the configuration, each with its place.

use std::{fmt, path::PathBuf};

use super::setting::Origin;

/// A mistake in a config file or in a variable. Shown as `longshore.toml:7: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if it is in one.
    pub path: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// A sentence: what is wrong and what to do.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn at(origin: &Origin, message: impl Into<String>) -> Self {
        match origin {
            Origin::Env(name) => Self { path: None, line: None, message: format!("{name}: {}", message.into()) },
            Origin::File { path, line } => Self { path: Some(path.clone()), line: Some(*line), message: message.into() },
        }
    }

    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self { path: None, line: None, message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}:", path.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// All mistakes that were found, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}
