//! Address of Kafka: `-b`, `LONGSHORE_KAFKA`, `[kafka.TOPIC]`, else this machine.

use std::time::Duration;

use clap::Args;
use longshore_kafka::{Admin, Settings};

use crate::{
    config::{Config, Setting},
    fault::Fault,
};

/// Longest time that a question to Kafka may take.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Address of Kafka where nobody says another.
const HERE: &str = "127.0.0.1:9092";

/// Checks an address or a setting of `[kafka.TOPIC]`, which is read here and not by clap: that
/// would show a password. Any other key passes.
///
/// # Errors
/// A sentence for people.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let wrong = match name {
        "bootstrap" => Settings::parse(value).err(),
        "setting" => Settings::parse(HERE).and_then(|settings| settings.with(value)).err(),
        _ => None,
    };
    wrong.map_or(Ok(()), |error| Err(error.message))
}

/// Flags of Kafka's address and of its client's settings.
#[derive(Args, Clone, Debug, Default)]
pub struct LinkArgs {
    /// Where Kafka is: HOST:PORT[,…], kafka://USER:PASSWORD@HOST:PORT, or kafkas:// for TLS, with
    /// ?ca=FILE and other options [LONGSHORE_KAFKA, the configuration, 127.0.0.1:9092]
    #[arg(short = 'b', long, value_name = "ADDRESS", help_heading = "Kafka")]
    pub bootstrap: Option<String>,
    /// Any setting of Kafka's client (librdkafka): fetch.wait.max.ms=50
    #[arg(short = 'X', long = "setting", value_name = "KEY=VALUE", help_heading = "Kafka")]
    pub setting: Vec<String>,
}

impl LinkArgs {
    /// The settings that follow from flags, variables and the configuration of this topic.
    ///
    /// # Errors
    /// An address or a setting that cannot be.
    pub fn settings(&self, config: &Config, topic: Option<&str>) -> Result<Settings, Fault> {
        let section = topic.map_or(Ok(Default::default()), |topic| config.kafka(topic))?;
        for (name, setting) in &section {
            for value in setting.values() {
                let place = || Config::kafka_place(topic.unwrap_or_default());
                check(name, value).map_err(|why| Fault::usage(setting.wrong(name, &place(), &why).to_string()))?;
            }
        }
        let configured = |name: &str| section.get(name).map_or(&[][..], Setting::values);
        let variable = std::env::var("LONGSHORE_KAFKA").ok().filter(|address| !address.is_empty());
        let address = self.bootstrap.clone().or(variable);
        let address = address.as_ref().or(configured("bootstrap").first()).map_or(HERE, String::as_str);
        let mut settings = Settings::parse(address).map_err(|error| Fault::usage(error.message))?;
        for setting in configured("setting").iter().chain(&self.setting) {
            settings = settings.with(setting).map_err(|error| Fault::usage(format!("-X {}", error.message)))?;
        }
        Ok(settings)
    }

    /// A client for questions.
    ///
    /// # Errors
    /// As [`settings`](Self::settings).
    pub fn admin(&self, config: &Config, topic: Option<&str>) -> Result<Admin, Fault> {
        Ok(Admin::open(&self.settings(config, topic)?, PATIENCE)?)
    }
}
