//! The settings of one run, as flags.

use std::ffi::OsString;

use super::setting::{Section, Setting, Value};

/// The settings of one run, `${VAR}` replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSettings {
    pub(super) settings: Section,
}

impl RunSettings {
    /// A setting by its flag's long name.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// The program and arguments of a job's `command`.
    pub fn command(&self) -> Option<&[String]> {
        match &self.get("command")?.value {
            Value::List(words) => Some(words),
            _ => None,
        }
    }

    /// The settings as flags, to be put before those of the command line and parsed with them:
    /// `--rate=100/s`. `given` says whether the command line has a flag (by its long name), which
    /// then wins as a whole. A switch that is `false` and the job's command are left out.
    pub fn args(&self, given: impl Fn(&str) -> bool) -> Vec<OsString> {
        let own = self.settings.iter().filter(|(name, _)| **name != "command" && !given(name));
        own.flat_map(|(name, setting)| setting.flags(name)).map(OsString::from).collect()
    }
}
