//! Kafka whose groups a dashboard shows: its flags.

use clap::Args;
use longshore_web::WebOptions;

use crate::{config::Config, fault::Fault};

/// Flags of Kafka.
#[derive(Args, Clone, Debug)]
pub struct KafkaArgs {
    /// Show the groups of this Kafka: HOST:PORT[,…], kafka://USER:PASSWORD@HOST:PORT, or the name
    /// of a section [kafka.NAME] of the configuration
    #[arg(long, value_name = "ADDRESS|NAME", help_heading = "Kafka", hide = cfg!(not(feature = "kafka")))]
    pub kafka: Option<String>,
    /// Show this group; repeat it for several [all groups]
    #[arg(long, value_name = "NAME", requires = "kafka", help_heading = "Kafka", hide = cfg!(not(feature = "kafka")))]
    pub group: Vec<String>,
}

impl KafkaArgs {
    /// Adds what the flags say.
    ///
    /// # Errors
    /// An address or a setting that cannot be.
    #[cfg(feature = "kafka")]
    pub(super) fn add_to(&self, options: &mut WebOptions, config: &Config) -> Result<(), Fault> {
        use crate::kafka::link::LinkArgs;

        let Some(named) = &self.kafka else { return Ok(()) };
        let is_section = !config.kafka(named)?.is_empty();
        let link = LinkArgs { bootstrap: (!is_section).then(|| named.clone()), setting: Vec::new() };
        let settings = link.settings(config, is_section.then_some(named))?;
        let mut kafka = longshore_web::KafkaOptions::new(settings);
        kafka.groups.clone_from(&self.group);
        options.kafka = Some(kafka);
        Ok(())
    }

    /// Refuses what this build cannot do.
    ///
    /// # Errors
    /// A Kafka is named.
    #[cfg(not(feature = "kafka"))]
    pub(super) fn add_to(&self, _: &mut WebOptions, _: &Config) -> Result<(), Fault> {
        match self.kafka {
            Some(_) => Err(Fault::usage(
                "--kafka: this longshore is built without Kafka; build it in, it needs cc and make: cargo build --release --features kafka",
            )),
            None => Ok(()),
        }
    }
}
