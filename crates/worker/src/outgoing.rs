//! From what is planned to what a broker takes.

use std::sync::Arc;

use longshore_brokers::{Exchange, Outgoing};
use longshore_celery::{Compression, Encoding, Message, REPR_LENGTH, args_repr, canvas::Routing, kwargs_repr};

use crate::{
    route::{self, Route},
    settings::Settings,
    spans::{SendSpans, SpanMaker},
};

/// A message on its way into its queue, with its span among these where spans are made.
pub(crate) fn of(
    settings: &Settings,
    mut message: Message,
    routing: &Routing,
    (maker, spans): (Option<&SpanMaker>, &mut SendSpans),
) -> Outgoing {
    let route = route::of(&settings.routes, &message.task);
    let (queue, exchange) = match way(routing, route, &settings.default_queue) {
        Way::Queue(queue) => (Arc::from(queue), None),
        // Its queues are not known. People read the key.
        Way::Exchange(through) => {
            (if through.key.is_empty() { through.name.clone() } else { through.key.clone() }, Some(Arc::new(through)))
        }
    };
    let (name, key) = exchange.as_ref().map_or(("", &*queue), |through| (&through.name, &through.key));
    name.clone_into(&mut message.exchange);
    key.clone_into(&mut message.routing_key);
    spans.begin(maker, &mut message, &queue);
    message.priority = message.priority.or_else(|| route?.priority);
    message.argsrepr.get_or_insert_with(|| args_repr(&message.args, REPR_LENGTH));
    message.kwargsrepr.get_or_insert_with(|| kwargs_repr(&message.kwargs, REPR_LENGTH));
    // JSON is what every worker accepts; MessagePack is written for those who ask for it.
    let encoding = if routing.serializer.as_deref() == Some("msgpack") { Encoding::MsgPack } else { Encoding::Json };
    let compression = routing.compression.as_deref().and_then(Compression::named).or(settings.compression);
    Outgoing { queue, exchange, priority: message.priority.unwrap_or(0), due: message.eta, raw: message.encode_as(encoding, compression) }
}

/// Destination of a message.
enum Way<'a> {
    Queue(&'a str),
    Exchange(Exchange),
}

/// Finds the way of a message as Celery does: an exchange with a routing key, or one whose type
/// needs none; else the queue. A call that names a queue stays clear of its route's exchange.
fn way<'a>(routing: &'a Routing, route: Option<&'a Route>, default_queue: &'a str) -> Way<'a> {
    let named = |text: Option<&'a String>| text.map(String::as_str).filter(|text| !text.is_empty());
    let of_route = |get: fn(&Route) -> Option<&String>| named(route.filter(|_| routing.queue.is_none()).and_then(get));
    let exchange = named(routing.exchange.as_ref()).or_else(|| of_route(|route| route.exchange.as_ref()));
    let key = named(routing.routing_key.as_ref()).or_else(|| of_route(|route| route.routing_key.as_ref()));
    let kind = named(routing.exchange_type.as_ref()).or_else(|| of_route(|route| route.exchange_type.as_ref()));
    let is_direct = kind.is_none_or(|kind| kind == "direct");
    match (exchange, key) {
        // The key of an exchange of its own name is that queue, as without an exchange.
        (Some(exchange), Some(key)) if is_direct && exchange == key => Way::Queue(key),
        (Some(exchange), Some(key)) => Way::Exchange(through(exchange, kind, key)),
        (Some(exchange), None) if !is_direct => Way::Exchange(through(exchange, kind, "")),
        _ => Way::Queue(named(routing.queue.as_ref()).or(key).or_else(|| of_route(|route| route.queue.as_ref())).unwrap_or(default_queue)),
    }
}

fn through(name: &str, kind: Option<&str>, key: &str) -> Exchange {
    Exchange { name: name.into(), kind: kind.map(Into::into), key: key.into() }
}

/// This machine's name, as people know it.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_celery::Limits;

    #[test]
    fn a_message_has_the_priority_that_its_call_names_or_its_route() {
        let route = Route::default().priority(3);
        let settings = Settings { routes: vec![("mail.*".to_owned(), route)], ..Settings::default() };
        for (task, named, priority) in [("mail.send", None, 3), ("mail.send", Some(0), 0), ("mail.send", Some(7), 7), ("add", None, 0)] {
            let message = Message { task: task.to_owned(), id: "i".to_owned(), priority: named, ..Message::default() };
            let routing = Routing { queue: Some("q".to_owned()), ..Routing::default() };
            let outgoing = of(&settings, message, &routing, (None, &mut SendSpans::default()));
            let written = Message::decode(&outgoing.raw, &Limits::default()).unwrap().priority;
            assert_eq!((outgoing.priority, written), (priority, Some(priority)), "{task} {named:?}");
        }
    }

    #[test]
    fn a_message_goes_to_the_queue_that_it_names_or_to_its_tasks() {
        let media = Route::exchange("media", "topic", "media.video");
        let routes = [("mail.*", Route::queue("mail").priority(3)), ("media.*", media), ("all.*", Route::exchange("all", "fanout", ""))];
        let routes = routes.map(|(pattern, route)| (pattern.to_owned(), route)).to_vec();
        let settings = Settings { routes, ..Settings::default() };
        // Task; queue, exchange, its type, key; exchange and key of the message, and its type.
        let rows: &[(&str, [Option<&str>; 4], (&str, &str, Option<&str>))] = &[
            ("mail.send", [None; 4], ("", "mail", None)),
            ("mail.send", [Some("q"), None, None, Some("k")], ("", "q", None)),
            ("mail.send", [None, Some(""), None, Some("k")], ("", "k", None)),
            ("mail.send", [None, Some("celery"), None, None], ("", "mail", None)),
            ("add", [None, None, None, Some("k")], ("", "k", None)),
            ("add", [None; 4], ("", "celery", None)),
            // Through an exchange only where it is not the queue's own.
            ("add", [None, Some("k"), None, Some("k")], ("", "k", None)),
            ("add", [None, Some("k"), Some("direct"), Some("k")], ("", "k", None)),
            ("add", [None, Some("k"), Some("topic"), Some("k")], ("k", "k", Some("topic"))),
            ("add", [None, Some("media"), None, Some("media.audio")], ("media", "media.audio", None)),
            ("add", [Some("q"), Some("media"), None, Some("media.audio")], ("media", "media.audio", None)),
            ("add", [None, Some("all"), Some("fanout"), None], ("all", "", Some("fanout"))),
            ("add", [None, Some("all"), None, None], ("", "celery", None)),
            // Of a route, too; a call that names a queue means that one.
            ("media.cut", [None; 4], ("media", "media.video", Some("topic"))),
            ("media.cut", [None, None, None, Some("media.audio")], ("media", "media.audio", Some("topic"))),
            ("media.cut", [Some("q"), None, None, None], ("", "q", None)),
            ("all.told", [None; 4], ("all", "", Some("fanout"))),
        ];
        for (task, [queue, exchange, kind, key], (through, name, of_kind)) in rows {
            let [queue, exchange, exchange_type, routing_key] = [queue, exchange, kind, key].map(|text| text.map(str::to_owned));
            let routing = Routing { queue, exchange, exchange_type, routing_key, ..Routing::default() };
            let task = (*task).to_owned();
            let message = Message { task, id: "i".to_owned(), args: vec![1.into()], priority: Some(12), ..Message::default() };
            let outgoing = of(&settings, message, &routing, (None, &mut SendSpans::default()));
            let read = Message::decode(&outgoing.raw, &Limits::default()).unwrap();
            assert_eq!((read.exchange.as_str(), read.routing_key.as_str()), (*through, *name), "{routing:?}");
            let exchange = outgoing.exchange.as_deref();
            assert_eq!(exchange.map(|exchange| (&*exchange.name, &*exchange.key)), (!through.is_empty()).then_some((*through, *name)));
            assert_eq!(exchange.and_then(|exchange| exchange.kind.as_deref()), *of_kind, "{routing:?}");
            assert_eq!((&*outgoing.queue, outgoing.priority), (if name.is_empty() { *through } else { *name }, 12));
            assert_eq!((read.argsrepr.as_deref(), read.kwargsrepr.as_deref()), (Some("(1,)"), Some("{}")));
        }
    }
}
