//! Messages to whoever listens now, and answers to remote control.

use std::sync::Arc;

use longshore_celery::control;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    fail::Fail,
    layout::{Layout, binding, bound},
    link::{Link, Wait},
    pubsub::{Listener, PubSub, Topic},
    resp::{Pack, Reply},
    wait::{self, Lists},
};
use crate::{
    REPLIES,
    halves::{LeftOut, Subscription},
};

/// Most messages that wait for a subscriber; what comes beyond is left out.
const ROOM: usize = 4096;

/// Translates a pattern of routing keys for Redis.
fn topics(layout: &Layout, exchange: &str, pattern: &str) -> Vec<Topic> {
    let below = |begin: &str| Topic::Pattern(format!("{}*", glob(&layout.channel(exchange, begin))));
    match pattern.strip_suffix('#') {
        None => vec![Topic::Channel(layout.channel(exchange, pattern))],
        Some("") => {
            vec![Topic::Channel(layout.channel(exchange, "")), Topic::Pattern(format!("{}/*", glob(&layout.channel(exchange, ""))))]
        }
        Some(begin) => match begin.strip_suffix('.') {
            Some(itself) => vec![Topic::Channel(layout.channel(exchange, itself)), below(begin)],
            None => vec![below(begin)],
        },
    }
}

/// Writes a text as a pattern that matches nothing else.
fn glob(text: &str) -> String {
    text.chars().flat_map(|character| "\\*?[]".contains(character).then_some('\\').into_iter().chain([character])).collect()
}

/// Listens to an exchange.
pub(super) async fn subscribe(pubsub: &PubSub, layout: &Layout, exchange: &str, pattern: &str) -> Result<Subscription, Fail> {
    let (sink, messages) = mpsc::channel(ROOM);
    let channel = layout.channel(exchange, "");
    let name = Box::new(move |full: &str| full.strip_prefix(channel.as_str()).unwrap_or(full).trim_start_matches('/').to_owned());
    let topics = topics(layout, exchange, pattern);
    let left_out = LeftOut::default();
    let listener = Listener { topics, keys: Vec::new(), sink, name, missed: Arc::default(), left_out: left_out.clone() };
    let guard = pubsub.listen(listener).await?.0;
    Ok(Subscription { messages, left_out, guard: Box::new(guard) })
}

/// Sends to those who listen. Returns how many there are.
pub(super) async fn broadcast(link: &Link, layout: &Layout, exchange: &str, routing_key: &str, raw: &[u8]) -> Result<Option<u64>, Fail> {
    let replies = link.call(Pack::of(&[b"PUBLISH", layout.channel(exchange, routing_key).as_bytes(), raw]), Wait::Patience).await?;
    Ok(replies.first().and_then(Reply::int).and_then(|count| u64::try_from(count).ok()))
}

/// Returns whether Celery's workers listen to remote control: each binds a queue for it, and ours
/// bind none.
pub(super) async fn has_strangers(link: &Link, layout: &Layout) -> Result<bool, Fail> {
    let bound = link.one(&[b"SMEMBERS", layout.binding(control::EXCHANGE).as_bytes()], Wait::Patience).await?;
    Ok(!bound.into_list().is_empty())
}

/// Puts an answer into the queues that are bound to this key. Whoever asked may be gone: that is no
/// error.
pub(super) async fn reply(link: &Link, layout: &Layout, exchange: &str, routing_key: &str, raw: &[u8]) -> Result<(), Fail> {
    let members = link.one(&[b"SMEMBERS", layout.binding(exchange).as_bytes()], Wait::Patience).await?.into_list();
    for member in members.iter().filter_map(Reply::text) {
        if let Some((key, _, queue)) = bound(&member)
            && key == routing_key
        {
            link.call(Pack::of(&[b"LPUSH", layout.list(queue, 0).as_bytes(), raw]), Wait::Patience).await?;
        }
    }
    Ok(())
}

/// Unbinds and empties the reply queue when it is dropped.
struct Replies {
    link: Arc<Link>,
    task: JoinHandle<()>,
    key: String,
    member: String,
    list: String,
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.task.abort();
        let mut pack = Pack::of(&[b"SREM", self.key.as_bytes(), self.member.as_bytes()]);
        pack.add(&[b"DEL", self.list.as_bytes()]);
        let link = self.link.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = link.ask(pack, Wait::Patience).await;
            });
        }
    }
}

/// Takes answers for a client as they come.
pub(super) async fn replies(link: &Arc<Link>, layout: &Layout, oid: &str) -> Result<Subscription, Fail> {
    let queue: Arc<str> = format!("{oid}.{REPLIES}").into();
    let (key, member, list) = (layout.binding(REPLIES), binding(oid, &queue), layout.list(&queue, 0));
    link.one(&[b"SADD", key.as_bytes(), member.as_bytes()], Wait::Patience).await?;
    let (sink, messages) = mpsc::channel(ROOM);
    let task = tokio::spawn(take(link.clone(), queue, list.clone(), oid.to_owned(), sink));
    Ok(Subscription { messages, left_out: LeftOut::default(), guard: Box::new(Replies { link: link.clone(), task, key, member, list }) })
}

async fn take(link: Arc<Link>, queue: Arc<str>, list: String, oid: String, sink: mpsc::Sender<(String, Vec<u8>)>) {
    let (mut lists, queues) = (Lists::new(Arc::new(Link::tracking(link.config().clone(), Arc::new(|_| {})))), [queue]);
    loop {
        let open = lists.open(&queues);
        if open.is_empty() {
            match lists.wait(&queues, wait::ASKING).await {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        // An answer that is lost on the way is not missed by anybody but a person, who asks again.
        let taken = match lists.call(Pack::of(&[b"RPOP", list.as_bytes(), b"100"]), &open).await {
            Ok(replies) => replies.into_iter().flat_map(Reply::into_list),
            Err(Fail::Lost(_)) => continue,
            Err(_) => return,
        };
        for raw in taken.filter_map(Reply::into_bytes) {
            if sink.send((oid.clone(), raw)).await.is_err() {
                return;
            }
        }
        if lists.settle().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::url::Config, *};

    #[test]
    fn patterns_of_routing_keys_become_channels_and_globs() {
        let layout = Layout::new(&Config::parse("redis://h/1").unwrap());
        let channel = |name: &str| Topic::Channel(name.to_owned());
        let pattern = |name: &str| Topic::Pattern(name.to_owned());
        for (exchange, asked, is) in [
            ("celery.pidbox", "", vec![channel("/1.celery.pidbox")]),
            ("celeryev", "worker.online", vec![channel("/1.celeryev/worker.online")]),
            ("celeryev", "#", vec![channel("/1.celeryev"), pattern("/1.celeryev/*")]),
            ("celeryev", "worker.#", vec![channel("/1.celeryev/worker"), pattern("/1.celeryev/worker.*")]),
            ("a*[b", "#", vec![channel("/1.a*[b"), pattern("/1.a\\*\\[b/*")]),
        ] {
            assert_eq!(topics(&layout, exchange, asked), is, "{exchange} {asked}");
        }
    }
}
