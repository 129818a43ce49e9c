//! One message, from a task's name, its arguments and its options.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    CanvasError,
    freeze::Planner,
    plan::{PlannedSend, Routing},
    tree::{listed, merged, text},
};
use crate::{
    message::{Message, is_known_header, is_known_property, times},
    signature::WireSignature,
    trace::TraceContext,
    value::{Map, Value},
};

/// Returns when a task may start and when it expires. A time that cannot be read refuses the whole:
/// ignored, the task would run at the wrong time.
pub(super) fn times_of(task: &str, options: &Map, now: SystemTime) -> Result<(Option<SystemTime>, Option<SystemTime>), CanvasError> {
    let eta = match options.get("countdown").and_then(Value::as_f64).filter(|seconds| *seconds != 0.0) {
        Some(seconds) => Some(after(now, seconds).ok_or_else(|| wrong(task, "countdown"))?),
        None => options.get("eta").map(|eta| instant(eta).ok_or_else(|| wrong(task, "eta"))).transpose()?,
    };
    let expires = options.get("expires").map(|expires| {
        let at = expires.as_f64().map_or_else(|| instant(expires), |seconds| after(now, seconds));
        at.ok_or_else(|| wrong(task, "expires"))
    });
    Ok((eta, expires.transpose()?))
}

impl Planner<'_> {
    /// Plans one message. Returns its place.
    pub(super) fn send(
        &mut self,
        task: &str,
        args: Vec<Value>,
        kwargs: Map,
        call: &Map,
        chord: Option<Arc<WireSignature>>,
        trail: bool,
    ) -> Result<usize, CanvasError> {
        // An option that is null is as good as none, and must not hide the task's own.
        let given = Map(call.0.iter().filter(|(_, value)| *value != Value::Null).cloned().collect());
        let options = match (self.context.defaults)(task) {
            Some(defaults) => merged(&defaults, &given),
            None => given,
        };
        let id = text(&options, "task_id").map_or_else(|| (self.ids)(), str::to_owned);
        let parent = self.context.parent;
        // Whoever has no root yet begins a tree.
        let own = |name: &str| text(&options, name).map(str::to_owned);
        let root_id = own("root_id").or_else(|| parent.map(|parent| parent.root_id.to_owned())).unwrap_or_else(|| id.clone());
        let routing = Routing {
            queue: own("queue"),
            exchange: own("exchange"),
            exchange_type: own("exchange_type"),
            routing_key: own("routing_key"),
            serializer: own("serializer"),
            compression: own("compression"),
        };
        let (eta, expires) = times_of(task, &options, self.context.now)?;
        let limit = |name: &str| options.get(name).and_then(Value::as_f64).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        // Stamps stand among the options, and travel apart from the sender's own headers. Of these
        // none may pass for one of Celery's.
        let stamped_headers: Vec<String> =
            listed(&options, "stamped_headers").into_iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let stamps = Map(stamped_headers.iter().filter_map(|name| Some((name.clone(), options.get(name)?.clone()))).collect());
        let mut headers = match options.get("headers") {
            Some(Value::Map(headers)) => Map(headers.0.iter().filter(|(name, _)| !is_known_header(name)).cloned().collect()),
            _ => Map::default(),
        };
        let inherited = || parent.and_then(|parent| TraceContext::of(parent.headers));
        self.context.trace.cloned().or_else(inherited).iter().for_each(|trace| trace.fill(&mut headers));
        let properties = properties_of(&options, &stamped_headers);
        let signatures = |name: &str| listed(&options, name).into_iter().map(WireSignature::from_value).collect::<Result<Vec<_>, _>>();
        let message = Message {
            task: task.to_owned(),
            root_id: Some(root_id),
            parent_id: own("parent_id").or_else(|| parent.map(|parent| parent.id.to_owned())),
            group: own("group_id"),
            group_index: options.get("group_index").and_then(Value::as_i64),
            retries: options.get("retries").and_then(Value::as_i64).and_then(|retries| u32::try_from(retries).ok()).unwrap_or(0),
            eta,
            expires,
            soft_time_limit: limit("soft_time_limit"),
            time_limit: limit("time_limit"),
            ignore_result: options.get("ignore_result").and_then(Value::as_bool),
            shadow: own("shadow"),
            argsrepr: own("argsrepr"),
            kwargsrepr: own("kwargsrepr"),
            origin: own("origin").or_else(|| Some(self.context.origin.to_owned())),
            replaced_task_nesting: options.get("replaced_task_nesting").and_then(Value::as_i64).unwrap_or(0),
            stamped_headers,
            stamps,
            headers,
            properties,
            reply_to: Some(own("reply_to").unwrap_or_else(|| self.context.oid.to_owned())),
            correlation_id: None,
            // A child is as urgent as its parent, unless it says otherwise.
            priority: match options.get("priority").and_then(Value::as_i64) {
                Some(priority) => u8::try_from(priority.clamp(0, 255)).ok(),
                None => parent.and_then(|parent| parent.priority),
            },
            exchange: routing.exchange.clone().unwrap_or_default(),
            routing_key: routing.routing_key.as_ref().or(routing.queue.as_ref()).cloned().unwrap_or_default(),
            redelivered: false,
            child_crashes: 0,
            args,
            kwargs,
            callbacks: signatures("link")?,
            errbacks: signatures("link_error")?,
            chain: match options.get("chain") {
                Some(Value::List(_)) => Some(signatures("chain")?),
                _ => None,
            },
            chord,
            id,
        };
        // Chords that wait to be started go with this message, which may be their last.
        let place = self.place(&message.id, None);
        let before = std::mem::take(&mut self.starts);
        self.sends.push(PlannedSend { message, routing, before });
        if trail && self.context.parent.is_some() {
            self.trail.push(place);
        }
        Ok(place)
    }
}

/// Options that say something to Celery or to Kombu. It puts all others into the properties of the
/// message.
const OPTIONS: [&str; 54] = [
    "add_to_parent",
    "argsrepr",
    "chain",
    "chord",
    "compression",
    "confirm_timeout",
    "connection",
    "content_encoding",
    "content_type",
    "countdown",
    "create_sent_event",
    "declare",
    "delivery_mode",
    "eta",
    "event_dispatcher",
    "exchange",
    "exchange_type",
    "expiration",
    "expires",
    "group_id",
    "group_index",
    "headers",
    "ignore_result",
    "immediate",
    "kwargsrepr",
    "link",
    "link_error",
    "mandatory",
    "now",
    "origin",
    "parent_id",
    "priority",
    "producer",
    "publisher",
    "queue",
    "replaced_task_nesting",
    "reply_to",
    "result_cls",
    "retries",
    "retry",
    "retry_policy",
    "root_id",
    "route_name",
    "router",
    "routing_key",
    "serializer",
    "shadow",
    "soft_time_limit",
    "stamped_headers",
    "task_id",
    "task_type",
    "time_limit",
    "timeout",
    "timezone",
];

/// Returns the properties that the options of a signature give to its message: those that mean
/// nothing else.
fn properties_of(options: &Map, stamps: &[String]) -> Map {
    let known = |name: &String| OPTIONS.binary_search(&name.as_str()).is_ok() || stamps.contains(name) || is_known_property(name);
    Map(options.0.iter().filter(|(name, _)| !known(name)).cloned().collect())
}

fn wrong(task: &str, option: &str) -> CanvasError {
    CanvasError::malformed(format!("{option} of the signature of {task} is no time"))
}

fn after(now: SystemTime, seconds: f64) -> Option<SystemTime> {
    let span = Duration::try_from_secs_f64(seconds.abs()).ok()?;
    if seconds < 0.0 { now.checked_sub(span) } else { now.checked_add(span) }
}

/// A point in time: a text, or a tagged one. Without an offset it is UTC.
pub(super) fn instant(value: &Value) -> Option<SystemTime> {
    let text = match value.tagged() {
        Some(("datetime", text)) => text,
        _ => value,
    };
    times::parse(text.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mean_nothing_else_are_properties_of_the_message() {
        assert!(OPTIONS.is_sorted(), "they are searched by halves");
        let options = Map::from_iter([
            ("app_id", Value::from("a")),
            ("queue", "q".into()),
            ("correlation_id", "c".into()),
            ("batch", 7.into()),
            ("timezone", "UTC".into()),
            ("user_id", 5.into()),
        ]);
        let expected = Map::from_iter([("app_id", Value::from("a")), ("user_id", 5.into())]);
        assert_eq!(properties_of(&options, &["batch".to_owned()]), expected);
    }

    #[test]
    fn times_are_read_in_every_way_in_which_celery_writes_them() {
        let at = |text: &str| instant(&text.into());
        let expected = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_219_333_500);
        assert_eq!(at("2026-11-21T00:02:13.500000+00:00"), Some(expected));
        assert_eq!(at("2026-11-21T00:02:13.500Z"), Some(expected));
        assert_eq!(at("2026-11-21T00:02:13.5"), Some(expected));
        let mut tagged = Map::default();
        tagged.set("__type__", "datetime");
        tagged.set("__value__", "2026-11-21T01:02:13.5+01:00");
        assert_eq!(instant(&tagged.into()), Some(expected));
        assert_eq!(at("tomorrow"), None);
        assert_eq!(instant(&Value::Null), None);
    }
}
