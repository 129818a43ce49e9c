//! `[schedules.NAME]`.

use super::{Config, ConfigError, Section, SectionId};

impl Config {
    /// The names of the schedules.
    pub fn schedules(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().filter_map(|id| if let SectionId::Schedule(name) = id { Some(name.as_str()) } else { None })
    }

    /// `[schedules.NAME]`, empty where there is none.
    ///
    /// # Errors
    /// A `${VAR}` that is not set.
    pub fn schedule(&self, name: &str) -> Result<Section, ConfigError> {
        self.section(&SectionId::Schedule(name.to_owned()))
    }
}
