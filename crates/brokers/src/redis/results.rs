//! Results in Redis: documents under Celery's keys, told on channels of the same names; chords by
//! its six keys.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::{
    admin::beginning,
    fail::Fail,
    finish,
    layout::Layout,
    link::{Link, Wait},
    ping,
    pubsub::{Guard, Listener, PubSub, Topic},
    resp::{Pack, RedisCall, Reply},
    scripts,
};
use crate::{
    error::BrokerError,
    halves::LeftOut,
    results::{ChordPart, Key, Page, PartState, ResultBackend, Stored, Watch},
};

pub(super) struct RedisResults {
    link: Arc<Link>,
    pubsub: Arc<PubSub>,
    layout: Layout,
}

impl RedisResults {
    pub(super) fn new(link: Arc<Link>, pubsub: Arc<PubSub>) -> Self {
        let layout = Layout::new(link.config());
        Self { link, pubsub, layout }
    }

    async fn store_all(&self, batch: &[Stored]) -> Result<(), Fail> {
        for some in batch.chunks(500) {
            let mut call = RedisCall::new(&scripts::STORE, &[]);
            some.iter().for_each(|stored| finish::store(&self.layout, stored, &mut call));
            self.link.ask(call.pack(), Wait::Patience).await?;
        }
        Ok(())
    }

    async fn start(&self, group: &str, size: u64, expires: Duration) -> Result<(), Fail> {
        let base = self.layout.group(group);
        let (claim, of) = (format!("{base}.c"), format!("{base}.s"));
        let (size, seconds) = (size.to_string(), finish::seconds(expires).to_string());
        let pack = Pack::transaction(|pack| {
            pack.add(&[b"DEL", claim.as_bytes()]);
            match expires.is_zero() {
                true => pack.add(&[b"SET", of.as_bytes(), size.as_bytes()]),
                false => pack.add(&[b"SET", of.as_bytes(), size.as_bytes(), b"EX", seconds.as_bytes()]),
            }
        });
        self.link.ask(pack, Wait::Patience).await?;
        Ok(())
    }

    async fn part(&self, part: &ChordPart) -> Result<PartState, Fail> {
        let mut call = RedisCall::new(&scripts::PART, &[]);
        finish::part_args(&self.layout, part, &mut call);
        let state = self.link.ask(call.pack(), Wait::Patience).await?;
        Ok(match state[0].bytes() {
            Some(b"ours") => PartState::Ours { token: part.token.clone() },
            Some(b"over") => PartState::Over,
            _ => PartState::Waiting,
        })
    }

    async fn over(&self, group: &str, token: &str) -> Result<bool, Fail> {
        let base = self.layout.group(group);
        let keys = [".c", ".j", ".t", ".s", ".d"].map(|end| format!("{base}{end}"));
        let mut lost = false;
        loop {
            let mut call = RedisCall::new(&scripts::CHORD_OVER, &keys.each_ref().map(|key| key.as_bytes()));
            call.arg(token);
            match self.link.call(call.pack(), Wait::Patience).await {
                Ok(replies) if replies[0].int() == Some(1) => return Ok(true),
                // Asked once more because its answer was lost: it may have been done the first
                // time.
                Ok(_) => return Ok(lost && self.link.one(&[b"GET", keys[0].as_bytes()], Wait::Patience).await?.bytes() == Some(b"done")),
                Err(Fail::Lost(_)) => lost = true,
                Err(fail) => return Err(fail),
            }
        }
    }

    async fn extend(&self, group: &str, token: &str, by: Duration) -> Result<bool, Fail> {
        let base = self.layout.group(group);
        let mut call = RedisCall::new(&scripts::CHORD_EXTEND, &[format!("{base}.c").as_bytes(), format!("{base}.s").as_bytes()]);
        call.arg(token);
        call.number(u64::try_from(by.as_millis()).unwrap_or(u64::MAX).max(1));
        Ok(self.link.ask(call.pack(), Wait::Patience).await?[0].int() == Some(1))
    }

    /// Returns a part of what is stored of tasks, from this cursor on.
    async fn some(&self, cursor: &str) -> Result<Page, Fail> {
        let pattern = beginning(&self.layout.document(&Key::Task(String::new())));
        let scan: [&[u8]; 6] = [b"SCAN", cursor.as_bytes(), b"MATCH", pattern.as_bytes(), b"COUNT", b"500"];
        let mut scanned = self.link.one(&scan, Wait::Patience).await?.into_list().into_iter();
        let next = scanned.next().and_then(|next| next.text()).filter(|next| next != "0");
        let keys = scanned.next().map(Reply::into_list).unwrap_or_default();
        let ids = keys.iter().filter_map(|key| Some(self.layout.task_of_document(&key.text()?)?.to_owned()));
        let keys: Vec<Key> = ids.map(Key::Task).collect();
        let mut results = Vec::with_capacity(keys.len());
        for some in keys.chunks(100) {
            for (key, doc) in some.iter().zip(get(&self.link, &self.layout, some, Wait::Patience).await?) {
                if let (Key::Task(id), Some(doc)) = (key, doc) {
                    results.push((id.clone(), doc));
                }
            }
        }
        Ok(Page { results, next })
    }

    async fn watch_all(&self, ids: &[String]) -> Result<Watch, Fail> {
        let (sink, results) = mpsc::channel((ids.len() * 2).clamp(64, 4096));
        let missed = Arc::new(Notify::new());
        let keys: Vec<String> = ids.iter().map(|id| self.layout.document(&Key::Task(id.clone()))).collect();
        let layout = self.layout.clone();
        let listener = Listener {
            topics: keys.iter().cloned().map(Topic::Channel).collect(),
            keys,
            sink: sink.clone(),
            name: Box::new(move |channel| layout.task_of_document(channel).unwrap_or(channel).to_owned()),
            missed: missed.clone(),
            left_out: LeftOut::default(),
        };
        let (guard, stored) = self.pubsub.listen(listener).await?;
        let task = tokio::spawn(look_again(self.link.clone(), self.layout.clone(), ids.to_vec(), sink, missed));
        Ok(Watch { stored, results, guard: Box::new(Watching { _guard: guard, task }) })
    }
}

struct Watching {
    _guard: Guard,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks at what is stored whenever something may have been missed.
async fn look_again(link: Arc<Link>, layout: Layout, ids: Vec<String>, sink: mpsc::Sender<(String, Vec<u8>)>, missed: Arc<Notify>) {
    loop {
        missed.notified().await;
        let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
        let Ok(docs) = get(&link, &layout, &keys, Wait::Forever).await else { return };
        for (id, doc) in ids.iter().zip(docs) {
            if let Some(doc) = doc
                && sink.send((id.clone(), doc)).await.is_err()
            {
                return;
            }
        }
    }
}

async fn get(link: &Link, layout: &Layout, keys: &[Key], wait: Wait) -> Result<Vec<Option<Vec<u8>>>, Fail> {
    let mut docs = Vec::with_capacity(keys.len());
    for some in keys.chunks(500) {
        let names: Vec<String> = some.iter().map(|key| layout.document(key)).collect();
        let mut args: Vec<&[u8]> = vec![b"MGET"];
        args.extend(names.iter().map(String::as_bytes));
        docs.extend(link.one(&args, wait).await?.into_list().into_iter().map(Reply::into_bytes));
    }
    Ok(docs)
}

impl ResultBackend for RedisResults {
    fn url(&self) -> &str {
        &self.link.config().masked
    }

    fn ping(&self) -> BoxFuture<'_, Result<(String, Duration), BrokerError>> {
        Box::pin(async move { Ok(ping(&self.link).await?) })
    }

    fn store<'a>(&'a self, batch: &'a [Stored]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(self.store_all(batch).await?) })
    }

    fn get<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, BrokerError>> {
        Box::pin(async move { Ok(get(&self.link, &self.layout, keys, Wait::Patience).await?) })
    }

    fn forget<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64, BrokerError>> {
        Box::pin(async move {
            let mut count = 0;
            for some in keys.chunks(500) {
                let names: Vec<String> = some.iter().map(|key| self.layout.document(key)).collect();
                let mut args: Vec<&[u8]> = vec![b"DEL"];
                args.extend(names.iter().map(String::as_bytes));
                count += self.link.one(&args, Wait::Patience).await?.int().unwrap_or(0).unsigned_abs();
            }
            Ok(count)
        })
    }

    fn page<'a>(&'a self, from: Option<&'a str>) -> BoxFuture<'a, Result<Page, BrokerError>> {
        Box::pin(async move { Ok(self.some(from.unwrap_or("0")).await?) })
    }

    fn watch<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Watch, BrokerError>> {
        Box::pin(async move { Ok(self.watch_all(ids).await?) })
    }

    fn chord_start<'a>(&'a self, group: &'a str, size: u64, expires: Duration) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move { Ok(self.start(group, size, expires).await?) })
    }

    fn chord_part<'a>(&'a self, part: &'a ChordPart) -> BoxFuture<'a, Result<PartState, BrokerError>> {
        Box::pin(async move { Ok(self.part(part).await?) })
    }

    fn chord_parts<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        Box::pin(async move {
            let key = format!("{}.j", self.layout.group(group));
            let parts = self.link.one(&[b"ZRANGE", key.as_bytes(), b"0", b"-1"], Wait::Patience).await?.into_list();
            Ok(parts.into_iter().filter_map(Reply::into_bytes).collect())
        })
    }

    fn chord_extend<'a>(&'a self, group: &'a str, token: &'a str, by: Duration) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(self.extend(group, token, by).await?) })
    }

    fn chord_over<'a>(&'a self, group: &'a str, token: &'a str) -> BoxFuture<'a, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(self.over(group, token).await?) })
    }

    fn chord_grow<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let key = format!("{}.t", self.layout.group(group));
            self.link.call(Pack::of(&[b"INCR", key.as_bytes()]), Wait::Patience).await?;
            Ok(())
        })
    }
}
