//! Names that no queue may have: one rule for every broker, so that what is refused here is refused
//! everywhere.

use longshore_core::ErrorKind;

use crate::{error::BrokerError, message::Outgoing};

/// Keys of kombu's own, whole.
const KEYS: &[&str] = &["unacked", "unacked_index", "unacked_mutex"];
/// Beginnings of the names of keys that are somebody's own, and whose they are: kombu's bindings,
/// Celery's results, ours. With a prefix before all keys (`global_keyprefix`) Celery may put a `_`
/// between the prefix and the names of its results.
const BEGINNINGS: &[(&str, &str)] = &[
    ("_kombu.binding", "bindings"),
    ("celery-task-meta-", "results"),
    ("celery-taskset-meta-", "groups"),
    ("_celery-task-meta-", "results"),
    ("_celery-taskset-meta-", "groups"),
    ("longshore:", "longshore's own data"),
];

/// Says why no queue may have this name; `None` where one may.
/// ```
/// use longshore_brokers::refused_queue;
///
/// assert_eq!(refused_queue("celery"), None);
/// assert!(refused_queue("unacked_index").is_some());
/// assert!(refused_queue("celery-task-meta-1").is_some());
/// ```
pub fn refused_queue(name: &str) -> Option<String> {
    let what = if name.is_empty() {
        return Some("a queue needs a name".to_owned());
    } else if KEYS.contains(&name) {
        "what workers hold"
    } else {
        BEGINNINGS.iter().find(|(begin, _)| name.starts_with(begin))?.1
    };
    Some(format!("no queue may be named {name}: such a name belongs to {what}; choose another name"))
}

/// The same, where a prefix stands before all names: neither the name nor the whole key may be
/// somebody's own.
pub(crate) fn refused_key(prefix: &str, name: &str) -> Option<String> {
    refused_queue(name).or_else(|| if prefix.is_empty() { None } else { refused_queue(&format!("{prefix}{name}")) })
}

/// Refuses names that no queue may have.
pub(crate) fn check<'a>(prefix: &str, names: impl IntoIterator<Item = &'a str>) -> Result<(), BrokerError> {
    let refused = names.into_iter().find_map(|name| refused_key(prefix, name));
    refused.map_or(Ok(()), |message| Err(BrokerError { kind: ErrorKind::Refused, message }))
}

/// Refuses messages for queues that may not be, and all that are to go through an exchange.
pub(crate) fn check_all(prefix: &str, batch: &[Outgoing]) -> Result<(), BrokerError> {
    refused_among(prefix, batch).map_or(Ok(()), |message| Err(BrokerError { kind: ErrorKind::Refused, message }))
}

/// Says why one of these messages can be sent nowhere; `None` if each can.
pub(crate) fn refused_among(prefix: &str, batch: &[Outgoing]) -> Option<String> {
    let mut last = None;
    batch.iter().find_map(|message| {
        if let Some(exchange) = &message.exchange {
            return Some(exchange.unknown_here());
        }
        // Most messages of a batch are for one queue.
        if last == Some(&message.queue) {
            return None;
        }
        last = Some(&message.queue);
        refused_key(prefix, &message.queue)
    })
}

#[cfg(test)]
mod tests {
    use super::{refused_among, refused_key, refused_queue};
    use crate::message::{Exchange, Outgoing};

    #[test]
    fn names_of_other_keys_are_no_queues_and_all_others_are() {
        for name in [
            "",
            "unacked",
            "unacked_index",
            "unacked_mutex",
            "_kombu.binding.celery",
            "_kombu.binding_permanent.celery",
            "celery-task-meta-x",
            "celery-taskset-meta-x",
            "_celery-task-meta-x",
            "longshore:dead:q",
        ] {
            assert!(refused_queue(name).is_some_and(|why| why.contains(name)), "{name}");
        }
        for name in ["celery", "unacked2", "my-celery-task-meta-x", "longshore", "celery-task", "kombu", "a:b", "größe"] {
            assert_eq!(refused_queue(name), None, "{name}");
        }
    }

    #[test]
    fn a_broker_without_exchanges_refuses_them_by_name() {
        let exchange = Exchange { name: "media".into(), kind: None, key: "media.video".into() };
        let out = |exchange| Outgoing { queue: "q".into(), exchange, priority: 0, due: None, raw: Vec::new() };
        let why = refused_among("", &[out(None), out(Some(exchange.into()))]).unwrap();
        assert!(why.contains("exchange media") && why.contains("`media.video`") && why.contains("name a queue"), "{why}");
        assert_eq!(refused_among("", &[out(None)]), None);
    }

    #[test]
    fn a_prefix_and_a_name_together_may_not_be_anothers_key_either() {
        for (prefix, name, refused) in [
            ("", "q", false),
            ("app1:", "q", false),
            ("app1:", "unacked", true),
            ("app1", "_celery-task-meta-x", true),
            ("un", "acked", true),
            ("long", "shore:dead:q", true),
        ] {
            assert_eq!(refused_key(prefix, name).is_some(), refused, "{prefix} {name}");
        }
    }
}
