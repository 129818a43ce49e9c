//! `longshore kafka lag`: how far groups are behind.

use std::io::Write;

use clap::Args;
use longshore_kafka::admin::Lag;
use serde_json::json;

use super::{
    link::LinkArgs,
    table,
    topics::{number, topic_name},
};
use crate::{config::Config, exit::Exit, fault::Fault, global::Global, progress::text::count, queue::show::plain};

/// `longshore kafka lag`
#[derive(Args, Clone, Debug)]
pub struct LagArgs {
    /// Only these topics
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topics: Vec<String>,
    /// The group, partition by partition [all groups, a line each]
    #[arg(short = 'g', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// End with 4 if a group is more records behind
    #[arg(long, value_name = "N")]
    pub most: Option<u64>,
    /// Address of Kafka.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// Shows one group by partition, or all groups.
///
/// # Errors
/// Kafka's, and those of `out`.
pub fn run(args: &LagArgs, config: &Config, global: &Global, out: &mut dyn Write) -> Result<Exit, Fault> {
    let admin = args.link.admin(config, args.topics.first().map(String::as_str))?;
    let total = |rows: &[Lag]| rows.iter().map(Lag::records).sum::<u64>();
    let most = match &args.group {
        Some(group) => {
            let rows = admin.lag(group, &args.topics)?;
            if global.json {
                rows.iter().try_for_each(|row| writeln!(out, "{}", of_partition(group, row)))?;
            } else {
                of_group(group, &rows, out)?;
            }
            total(&rows)
        }
        None => {
            let (mut rows, mut most) = (Vec::new(), 0);
            for group in admin.groups()? {
                let lags = admin.lag(&group.name, &args.topics)?;
                let lag = total(&lags);
                most = most.max(lag);
                if global.json {
                    let line = json!({ "group": group.name, "state": group.state, "members": group.members, "lag": lag, "partitions": lags.len() });
                    writeln!(out, "{line}")?;
                }
                rows.push(vec![plain(&group.name), group.state, group.members.to_string(), lags.len().to_string(), count(lag)]);
            }
            if !global.json && rows.is_empty() {
                writeln!(out, "no groups; one begins with: longshore kafka consume TOPIC --group NAME")?;
            } else if !global.json {
                table(&["GROUP", "STATE", "MEMBERS", "PARTITIONS", "LAG"], 2, &rows, out)?;
            }
            most
        }
    };
    Ok(if args.most.is_some_and(|limit| most > limit) { Exit::Check } else { Exit::Done })
}

fn of_group(group: &str, rows: &[Lag], out: &mut dyn Write) -> std::io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "group {} has committed nothing and has no members", plain(group));
    }
    let cells = |row: &Lag| {
        vec![
            row.topic.clone(),
            row.member.as_ref().map_or_else(|| "–".to_owned(), |member| plain(&format!("{} at {}", member.client, member.host))),
            row.partition.to_string(),
            row.committed.map_or_else(|| "–".to_owned(), number),
            number(row.extent.end),
            count(row.records()),
        ]
    };
    table(&["TOPIC", "MEMBER", "PARTITION", "COMMITTED", "END", "LAG"], 2, &rows.iter().map(cells).collect::<Vec<_>>(), out)?;
    writeln!(out, "{} behind in all", count(rows.iter().map(Lag::records).sum()))
}

fn of_partition(group: &str, row: &Lag) -> serde_json::Value {
    let mut line = json!({
        "group": group, "topic": row.topic, "partition": row.partition, "committed": row.committed, "begin": row.extent.begin, "end": row.extent.end,
        "lag": row.records(), "member": row.member.as_ref().map(|member| &member.client),
    });
    if let Some(member) = &row.member {
        line["member_id"] = json!(member.id);
        line["host"] = json!(member.host);
    }
    line
}
