//! From what is planned to what a broker takes.

use longshore_brokers::Outgoing;
use longshore_celery::{Compression, Encoding, Message, REPR_LENGTH, args_repr, canvas::Routing, kwargs_repr};

use crate::{
    route,
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
    // Celery turns a direct exchange and its key into the queue of that name, too.
    let named = routing.queue.as_ref().or(routing.routing_key.as_ref());
    let queue = named.or_else(|| route?.queue.as_ref()).unwrap_or(&settings.default_queue);
    message.priority = message.priority.or_else(|| route?.priority);
    message.exchange.clear();
    queue.clone_into(&mut message.routing_key);
    spans.begin(maker, &mut message, queue);
    message.argsrepr.get_or_insert_with(|| args_repr(&message.args, REPR_LENGTH));
    message.kwargsrepr.get_or_insert_with(|| kwargs_repr(&message.kwargs, REPR_LENGTH));
    // JSON is what every worker accepts; MessagePack is written for those who ask for it.
    let encoding = if routing.serializer.as_deref() == Some("msgpack") { Encoding::MsgPack } else { Encoding::Json };
    let compression = routing.compression.as_deref().and_then(Compression::named).or(settings.compression);
    Outgoing {
        queue: queue.as_str().into(),
        priority: message.priority.unwrap_or(0),
        due: message.eta,
        raw: message.encode_as(encoding, compression),
    }
}

/// This machine's name, as people know it.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Route;
    use longshore_celery::Limits;

    #[test]
    fn a_message_has_the_priority_that_its_call_names_or_its_route() {
        let route = Route { queue: None, priority: Some(3) };
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
        let route = Route::queue("mail").priority(3);
        let settings = Settings { routes: vec![("mail.*".to_owned(), route)], ..Settings::default() };
        let routing = |queue: Option<&str>, key: Option<&str>| Routing {
            queue: queue.map(str::to_owned),
            routing_key: key.map(str::to_owned),
            exchange: Some("celery".to_owned()),
            ..Routing::default()
        };
        for (task, routing, queue) in [
            ("mail.send", routing(None, None), "mail"),
            ("mail.send", routing(Some("q"), Some("k")), "q"),
            ("add", routing(None, Some("k")), "k"),
            ("add", routing(None, None), "celery"),
        ] {
            let message =
                Message { task: task.to_owned(), id: "i".to_owned(), args: vec![1.into()], priority: Some(12), ..Message::default() };
            let outgoing = of(&settings, message, &routing, (None, &mut SendSpans::default()));
            assert_eq!((&*outgoing.queue, outgoing.priority), (queue, 12));
            let read = Message::decode(&outgoing.raw, &Limits::default()).unwrap();
            assert_eq!((read.exchange.as_str(), read.routing_key.as_str()), ("", queue));
            assert_eq!((read.argsrepr.as_deref(), read.kwargsrepr.as_deref()), (Some("(1,)"), Some("{}")));
        }
    }
}
