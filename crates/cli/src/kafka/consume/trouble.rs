//! What is said of troubles beside their sentence: their end, a word, a sum.

use longshore_kafka::{Affected, Trouble};
use serde_json::{Value as Json, json};

use crate::{
    kafka::topics::many,
    progress::text::{count, short},
};

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
    json["message"] = if trouble.until.is_some() { end(trouble) } else { Some(trouble.sentence(complaint)) }.into();
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

    use super::{end, json, sum};

    fn trouble(affected: Affected, code: i32, until: Option<u64>) -> Trouble {
        Trouble { affected, code, since: 1_000, times: 35, until }
    }

    #[test]
    fn a_trouble_is_said_with_its_reason_and_what_it_means_and_its_end_with_how_long_and_how_often() {
        let letters = Affected::DeadLetters { topic: "orders-dlt".to_owned() };
        let said = trouble(letters.clone(), 29, None).sentence(None);
        assert!(said.starts_with("dead-letter topic `orders-dlt` takes no letters: no permission for this topic"), "{said}");
        let said = trouble(Affected::Broker, -187, None).sentence(Some("Connection refused"));
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
