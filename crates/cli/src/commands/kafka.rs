//! `longshore kafka`: consume, create-topic, produce, topics, lag.

use std::io::Write;

use clap::Subcommand;

use crate::{config::Config, exit::Exit, fault::Fault, global::Global, kafka};

/// `longshore kafka …`
#[derive(Subcommand, Clone, Debug)]
pub enum KafkaCommand {
    /// Run something for each record of topics: a command, a request, a line to a child that stays;
    /// or print them
    Consume(Box<kafka::consume::args::ConsumeArgs>),
    /// Make a topic
    CreateTopic(kafka::topics::CreateArgs),
    /// Send records: fake ones, or lines and JSON from a file or stdin
    Produce(Box<kafka::produce::args::ProduceArgs>),
    /// Topics, or the partitions of the topics that are named
    Topics(kafka::topics::TopicsArgs),
    /// How far groups are behind
    Lag(kafka::lag::LagArgs),
}

impl KafkaCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// Exit code and sentence.
    pub fn run(&self, config: &Config, global: &Global) -> Result<Exit, Fault> {
        let mut out = std::io::stdout();
        let code = match self {
            Self::Consume(args) => kafka::consume::run(args, config, global, &mut out),
            Self::CreateTopic(args) => kafka::topics::create(args, config, global, &mut out),
            Self::Produce(args) => kafka::produce::run(args, config, global, &mut out),
            Self::Topics(args) => kafka::topics::list(args, config, global, &mut out),
            Self::Lag(args) => kafka::lag::run(args, config, global, &mut out),
        }?;
        out.flush()?;
        Ok(code)
    }
}
