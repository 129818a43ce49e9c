//! Command line of `kafka produce`, as clap reads it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use longshore_kafka::Acks;

use crate::{
    flags::{PaceArgs, ViewArgs},
    kafka::{fake::Kind, link::LinkArgs, topics::topic_name},
    units,
};
use longshore_run::input::Format;

/// `longshore kafka produce`
#[derive(Args, Clone, Debug)]
#[command(
    after_help = AFTER,
    // Records are no attempts that start.
    mut_arg("rate", |arg| arg.help("Records per time: 2000/s, 500/min")),
    mut_arg("burst", |arg| arg.help("Records at once after a pause; 1 spaces all of them evenly"))
)]
pub struct ProduceArgs {
    /// The topic
    #[arg(value_parser = topic_name)]
    pub topic: String,
    /// Send the records of this file; `-` is stdin [fake records with -n or --fake, else stdin]
    #[arg(value_name = "INPUT", value_hint = ValueHint::FilePath, conflicts_with_all = ["fake", "seed", "size"])]
    pub input: Option<PathBuf>,

    /// Send this many records, of fake ones or of the input, and no more
    #[arg(short = 'n', long, value_name = "N", help_heading = "Records")]
    pub count: Option<u64>,
    /// Make records up, JSON objects: orders, clicks, sensors or people; without -n until Ctrl-C
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "orders", value_parser = Kind::parse, help_heading = "Records")]
    pub fake: Option<Kind>,
    /// Which ones are made up: the same seed, the same records
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Records")]
    pub seed: u64,
    /// Make each fake record at least so large, with padding
    #[arg(long, value_name = "SIZE", value_parser = units::size, conflicts_with = "value", help_heading = "Records")]
    pub size: Option<u64>,
    /// Format of the input: auto, lines, jsonl, csv, tsv or nul
    #[arg(long, default_value = "auto", help_heading = "Records")]
    pub format: Format,
    /// The key of a line stands before this, the value behind it: '\t'
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["key", "fake"], help_heading = "Records")]
    pub key_separator: Option<String>,
    /// The key, a template: '{{ i % 500 }}', '{customer}' [of fake records their own, else none]
    #[arg(short = 'k', long, value_name = "TPL", help_heading = "Records")]
    pub key: Option<String>,
    /// The value, a template: '{"n":{{ i }}}' [the record]
    #[arg(long, value_name = "TPL", help_heading = "Records")]
    pub value: Option<String>,
    /// A header, its value a template: 'trace: {id}'
    #[arg(short = 'H', long = "header", value_name = "NAME: TPL", help_heading = "Records")]
    pub header: Vec<String>,
    /// Longest record of the input; a longer one is not sent, and told
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = units::size, help_heading = "Records")]
    pub max_record: u64,

    /// Pace of the starts.
    #[command(flatten, next_help_heading = "Sending")]
    pub pace: PaceArgs,
    /// Everything into this partition [by the key, as Java's clients do it; without a key any]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), help_heading = "Sending")]
    pub partition: Option<i32>,
    /// Who has to have a record: all (replicas in sync; each record once, in order), 1 (the leader)
    /// or 0 (nobody is asked)
    #[arg(long, value_name = "WHO", default_value = "all", value_parser = acks, help_heading = "Sending")]
    pub acks: Acks,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "NAME", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"], help_heading = "Sending")]
    pub compression: Option<String>,
    /// A record that is not delivered within this time has failed
    #[arg(long, value_name = "DUR", default_value = "2m", value_parser = units::duration, help_heading = "Sending")]
    pub delivery_timeout: Duration,
    /// Address of Kafka.
    #[command(flatten)]
    pub link: LinkArgs,

    /// Flags of the progress.
    #[command(flatten)]
    pub view: ViewArgs,
}

const AFTER: &str = "\
Templates are those of `longshore run`; in fake records {i} is the number, from 0.

Ctrl-C: once, send no more and wait for what was sent; twice, give that up.

Exit: 0 all delivered · 1 some not delivered or not to be read (each is told) · 2 usage · 3 input · 6 Kafka · 130/143 interrupted";

fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "all" | "-1" => Ok(Acks::All),
        "1" | "leader" => Ok(Acks::Leader),
        "0" | "none" => Ok(Acks::None),
        _ => Err(format!("`{text}` is not all, 1 or 0")),
    }
}
