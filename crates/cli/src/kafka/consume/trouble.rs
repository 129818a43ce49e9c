//! Sentences about what is wrong with a consumer, from the typed state.

use longshore_kafka::{Affected, Trouble, words};
use serde_json::{Value as Json, json};

use crate::{
    kafka::topics::many,
    progress::text::{count, short},
};

/// Says what is wrong, and what that means. `complaint`: what the client said last of a connection.
pub(super) fn sentence(trouble: &Trouble, complaint: Option<&str>) -> String {
    let why = words(trouble.code);
    match &trouble.affected {
        Affected::Broker => {
            let why = complaint.unwrap_or("no connection answers");
            format!("no broker answers: {why}; nothing new comes and nothing can be committed until one does")
        }
        Affected::Group => format!("the group does not have us as a member: {why}"),
        Affected::Topics => format!("a topic cannot be read: {why}"),
        Affected::Partition { topic, partition } => format!("{topic}[{partition}] cannot be read: {why}; it is asked for again and again"),
        Affected::Commits => format!("commits are not accepted: {why}; they are sent again, and until then a restart repeats what is done"),
        Affected::DeadLetters { topic } => {
            format!("dead-letter topic `{topic}` takes no letters: {why}; they are sent again each second, and their records wait")
        }
        Affected::Client => format!("Kafka's client: {why}"),
        Affected::Metadata { topic, partition } => {
            format!(
                "{topic}[{partition}]: the metadata of the committed offset is not ours; records done beyond it, if any, are done again"
            )
        }
        Affected::Header { topic, partition } => {
            format!("{topic}[{partition}]: the name of a record's header is not UTF-8; it and those behind it were left out")
        }
        Affected::Log { topic, partition, from, to } => {
            format!("{topic}[{partition}] goes back to {to}, from {from}: the log was cut or the topic made again; it is read from there")
        }
    }
}

/// Says that it is over. What passes is not missed when it does.
pub(super) fn end(trouble: &Trouble) -> Option<String> {
    let what = match &trouble.affected {
        Affected::Broker => "a broker answers again".to_owned(),
        Affected::Group => "the group has us as a member again".to_owned(),
        Affected::Topics => "all topics can be read again".to_owned(),
        Affected::Partition { topic, partition } => format!("{topic}[{partition}] can be read again"),
        Affected::Commits => "commits are accepted again".to_owned(),
        Affected::DeadLetters { topic } => format!("dead-letter topic `{topic}` takes letters again"),
        _ => return None,
    };
    let times = many(usize::try_from(trouble.times).unwrap_or(usize::MAX), "time", "times");
    Some(format!("{what}, after {} (met {times})", short(trouble.lasts())))
}

/// Writes it as an object, with the sentence.
pub(super) fn json(trouble: &Trouble, complaint: Option<&str>) -> Json {
    let mut json = json!(trouble);
    json["message"] = if trouble.until.is_some() { end(trouble) } else { Some(sentence(trouble, complaint)) }.into();
    json
}

/// Names it in a word, for plain lines.
pub(super) fn word(trouble: &Trouble) -> String {
    match &trouble.affected {
        Affected::Broker => "broker".to_owned(),
        Affected::Group => "group".to_owned(),
        Affected::Topics => "topics".to_owned(),
        Affected::Partition { topic, partition } => format!("read[{topic}/{partition}]"),
        Affected::Commits => "commits".to_owned(),
        Affected::DeadLetters { topic } => format!("dead_letters[{topic}]"),
        Affected::Client => "client".to_owned(),
        Affected::Metadata { topic, partition } => format!("metadata[{topic}/{partition}]"),
        Affected::Header { topic, partition } => format!("header[{topic}/{partition}]"),
        Affected::Log { topic, partition, .. } => format!("log[{topic}/{partition}]"),
    }
}

/// Sums it up, for the end: `commits not accepted 35× (12s)`.
pub(super) fn sum(trouble: &Trouble) -> String {
    let still = if trouble.until.is_none() { ", to the end" } else { "" };
    let lasts = if trouble.affected.is_passing() { String::new() } else { format!(" ({}{still})", short(trouble.lasts())) };
    format!("{} {}×{lasts}", word(trouble), count(trouble.times))
}

#[cfg(test)]
mod tests {
    use longshore_kafka::{Affected, Trouble};

    use super::{end, json, sentence, sum};

    fn trouble(affected: Affected, code: i32, until: Option<u64>) -> Trouble {
        Trouble { affected, code, since: 1_000, times: 35, until }
    }

    #[test]
    fn a_trouble_is_said_with_its_reason_and_what_it_means_and_its_end_with_how_long_and_how_often() {
        let letters = Affected::DeadLetters { topic: "orders-dlt".to_owned() };
        let said = sentence(&trouble(letters.clone(), 29, None), None);
        assert!(said.starts_with("dead-letter topic `orders-dlt` takes no letters: no permission for this topic"), "{said}");
        let said = sentence(&trouble(Affected::Broker, -187, None), Some("Connection refused"));
        assert!(said.starts_with("no broker answers: Connection refused; "), "{said}");
        let over = trouble(letters, 29, Some(41_000));
        assert_eq!(end(&over).as_deref(), Some("dead-letter topic `orders-dlt` takes letters again, after 40s (met 35 times)"));
        assert_eq!(sum(&over), "dead_letters[orders-dlt] 35× (40s)");
        let over = json(&over, None);
        assert_eq!((over["what"].as_str(), over["code"].as_i64(), over["until"].as_u64()), (Some("dead_letters"), Some(29), Some(41_000)));
        let passing = trouble(Affected::Header { topic: "orders".to_owned(), partition: 2 }, 0, Some(41_000));
        assert_eq!((end(&passing), sum(&passing)), (None, "header[orders/2] 35×".to_owned()));
    }
}
