//! `longshore kafka create-topic` and `topics`.

use std::io::Write;

use clap::Args;
use longshore_kafka::admin::{Topic, check_name};
use serde_json::json;

use super::{link::LinkArgs, table};
use crate::{config::Config, exit::Exit, fault::Fault, global::Global, progress::text::count};

/// `longshore kafka create-topic`
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Its name: 1 to 249 letters, digits, `.`, `_` and `-`
    #[arg(value_parser = topic_name)]
    pub topic: String,
    /// How many partitions: the most members of a group that can share it
    #[arg(short = 'p', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub partitions: u32,
    /// How many brokers keep each partition [the cluster's default.replication.factor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub replication: Option<u16>,
    /// A setting of the topic: retention.ms=3600000, cleanup.policy=compact
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// All is well if it is there already with so many partitions
    #[arg(long)]
    pub if_not_exists: bool,
    /// Address of Kafka.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// `longshore kafka topics`
#[derive(Args, Clone, Debug)]
pub struct TopicsArgs {
    /// Show the partitions of these
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topics: Vec<String>,
    /// Also Kafka's own topics
    #[arg(long)]
    pub all: bool,
    /// Address of Kafka.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// A topic's name.
///
/// # Errors
/// What a name is.
pub fn topic_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: write KEY=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Makes a topic.
///
/// # Errors
/// Kafka's, and those of `out`.
pub fn create(args: &CreateArgs, config: &Config, global: &Global, out: &mut dyn Write) -> Result<Exit, Fault> {
    let admin = args.link.admin(config, Some(&args.topic))?;
    let (name, partitions) = (args.topic.as_str(), args.partitions as usize);
    let found = if args.if_not_exists { admin.topic(name)? } else { None };
    match found {
        Some(found) if found.partitions == partitions => {}
        Some(found) => {
            let message = format!("topic `{name}` is there already, with {} partitions in place of {partitions}", found.partitions);
            return Err(Fault::new(Exit::Failed, message));
        }
        None => {
            let set: Vec<_> = args.set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            admin.create_topic(name, partitions, args.replication.map(usize::from), &set)?;
        }
    }
    let made = admin.topic(name)?;
    let replicas = made.map_or(0, |topic| topic.replicas);
    if global.json {
        writeln!(out, "{}", json!({ "topic": name, "partitions": partitions, "replicas": replicas }))?;
    } else {
        writeln!(out, "{name}: {}, {} of each", many(partitions, "partition", "partitions"), many(replicas, "replica", "replicas"))?;
    }
    Ok(Exit::Done)
}

/// Lists topics, or the partitions of some.
///
/// # Errors
/// Kafka's, and those of `out`.
pub fn list(args: &TopicsArgs, config: &Config, global: &Global, out: &mut dyn Write) -> Result<Exit, Fault> {
    let admin = args.link.admin(config, args.topics.first().map(String::as_str))?;
    if !args.topics.is_empty() {
        let mut rows = Vec::new();
        for topic in &args.topics {
            for (partition, extent) in admin.extents(topic)? {
                let records = extent.end - extent.begin;
                if global.json {
                    let line =
                        json!({ "topic": topic, "partition": partition, "begin": extent.begin, "end": extent.end, "records": records });
                    writeln!(out, "{line}")?;
                }
                rows.push(vec![topic.clone(), partition.to_string(), number(extent.begin), number(extent.end), number(records)]);
            }
        }
        if !global.json {
            table(&["TOPIC", "PARTITION", "BEGIN", "END", "RECORDS"], 1, &rows, out)?;
        }
        return Ok(Exit::Done);
    }
    let topics: Vec<Topic> = admin.topics()?.into_iter().filter(|topic| args.all || !topic.internal).collect();
    if global.json {
        for topic in &topics {
            let Topic { name, partitions, replicas, ailing, internal } = topic;
            let line = json!({ "topic": name, "partitions": partitions, "replicas": replicas, "ailing": ailing, "internal": internal });
            writeln!(out, "{line}")?;
        }
    } else if topics.is_empty() {
        writeln!(out, "no topics; make one: longshore kafka create-topic NAME --partitions 12")?;
    } else {
        let state = |topic: &Topic| if topic.ailing == 0 { "ok".to_owned() } else { format!("{} ailing", topic.ailing) };
        let row = |topic: &Topic| vec![topic.name.clone(), state(topic), topic.partitions.to_string(), topic.replicas.to_string()];
        table(&["TOPIC", "STATE", "PARTITIONS", "REPLICAS"], 2, &topics.iter().map(row).collect::<Vec<_>>(), out)?;
    }
    Ok(Exit::Done)
}

pub(super) fn number(number: i64) -> String {
    u64::try_from(number).map_or_else(|_| number.to_string(), count)
}

pub(super) fn many(number: usize, one: &str, more: &str) -> String {
    format!("{} {}", count(number as u64), if number == 1 { one } else { more })
}
