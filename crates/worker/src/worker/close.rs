//! How tasks end: results, follow-ups and acknowledgements, in as few steps as the stores allow. Results before acknowledgements, always.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use longshore_brokers::{BrokerError, ChordPart, End, Ended, Finish, Key, Outgoing, PartState, Stored};
use longshore_celery::{
    Exception, GroupResult, Message, ResultTree, Signature, State, TaskResult, Value,
    canvas::{self, ChordOutcome, ChordParts, ChordStart},
};
use longshore_core::Receipt;

use super::{
    conclude::Conclusion,
    notice::{Notice, What},
    shared::Shared,
    work::Work,
};

/// How long the right to send a chord's body is held while it is made.
const BODY: Duration = Duration::from_secs(21);

/// A claimed task that is to end.
pub(crate) struct Closing {
    /// `None` where it was acknowledged as it started.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) queue: Arc<str>,
    pub(crate) message: Option<Arc<Message>>,
    pub(crate) work: Option<Arc<Work>>,
    pub(crate) conclusion: Conclusion,
}

/// Ends tasks.
pub(crate) struct Closer {
    shared: Arc<Shared>,
}

impl Closer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ends tasks; resolves when their results are stored and they are acknowledged.
    ///
    /// # Errors
    /// The stores are out of reach for good; what was not acknowledged stays claimed, and comes back to somebody.
    pub(crate) async fn close(&self, batch: Vec<Closing>) -> Result<(), BrokerError> {
        for start in batch.iter().flat_map(|closing| &closing.conclusion.starts) {
            self.start_chord(start).await?;
        }
        let (mut late, mut complete) = (Vec::new(), Vec::new());
        let (mut finishes, mut places) = (Vec::new(), Vec::new());
        let mut stored: Vec<Stored> = Vec::new();
        let mut sent: Vec<Outgoing> = Vec::new();
        let mut apart: Vec<(usize, ChordPart)> = Vec::new();
        let mut batch = batch;
        for (place, closing) in batch.iter_mut().enumerate() {
            let conclusion = &mut closing.conclusion;
            let mut parts = conclusion.parts.iter().map(|(part, _)| part.clone());
            let (publish, results) = (std::mem::take(&mut conclusion.publish), std::mem::take(&mut conclusion.results));
            match closing.receipt {
                Some(receipt) => {
                    let joined = self.shared.one_store;
                    // One part travels with the acknowledgement; others (of tasks that will never run) are counted before it.
                    let part = if joined { parts.next() } else { None };
                    apart.extend(parts.map(|part| (place, part)));
                    let results = if joined {
                        results
                    } else {
                        stored.extend(results);
                        Vec::new()
                    };
                    let counted_apart = apart.last().is_some_and(|(last, _)| *last == place);
                    let end = if counted_apart { End::Keep } else { conclusion.end.clone() };
                    finishes.push(Finish { receipt, publish, results, part, end });
                    places.push(place);
                }
                None => {
                    stored.extend(results);
                    sent.extend(publish);
                    apart.extend(parts.map(|part| (place, part)));
                }
            }
        }
        if !sent.is_empty() {
            self.shared.broker.publish(&sent).await?;
        }
        if !stored.is_empty() {
            self.shared.results.store(&stored).await?;
        }
        if !finishes.is_empty() {
            let ended = self.shared.consumer.finish(&finishes).await?;
            for (place, ended) in places.into_iter().zip(ended) {
                match ended {
                    Ended::Done => {}
                    Ended::Complete(state) => complete.push((place, 0, state)),
                    Ended::Refused => late.push(place),
                }
            }
        }
        let mut kept: Vec<usize> = Vec::new();
        for (place, part) in apart {
            if late.contains(&place) {
                continue;
            }
            let which = batch[place].conclusion.parts.iter().position(|(own, _)| own.token == part.token).unwrap_or(0);
            let state = self.shared.results.chord_part(&part).await?;
            kept.push(place);
            if matches!(state, PartState::Ours { .. }) {
                complete.push((place, which, state));
            }
        }
        for (place, which, state) in complete {
            if let PartState::Ours { token } = state {
                self.send_body(&batch[place], which, &token).await?;
            }
            kept.push(place);
        }
        kept.sort_unstable();
        kept.dedup();
        let rest: Vec<Finish> = kept
            .into_iter()
            .filter_map(|place| {
                let closing = &batch[place];
                let end = closing.conclusion.end.clone();
                Some(Finish { receipt: closing.receipt?, publish: Vec::new(), results: Vec::new(), part: None, end })
            })
            .collect();
        if !rest.is_empty() {
            self.shared.consumer.finish(&rest).await?;
        }
        self.tell(batch, &late);
        Ok(())
    }

    /// Says how many parts a chord has, and saves its header where results have to keep its nesting.
    async fn start_chord(&self, start: &ChordStart) -> Result<(), BrokerError> {
        let expires = self.shared.app.settings().result_expires.unwrap_or(Duration::from_secs(86_400));
        if let Some(saved) = &start.saved {
            let stored = Stored { key: Key::Group(start.group.clone()), doc: saved.encode(), expires: Some(expires), keep_success: false };
            self.shared.results.store(&[stored]).await?;
        }
        self.shared.results.chord_start(&start.group, start.size, expires).await
    }

    /// All parts of a chord are there, and the right to send its body is ours.
    async fn send_body(&self, closing: &Closing, which: usize, token: &str) -> Result<(), BrokerError> {
        let Some(((part, chord), message)) = closing.conclusion.parts.get(which).zip(closing.message.as_ref()) else { return Ok(()) };
        let results = &self.shared.results;
        if !results.chord_extend(&part.group, token, BODY).await? {
            return Ok(());
        }
        let mut body = self.body(&part.group, chord, message).await?;
        for start in &body.starts {
            self.start_chord(start).await?;
        }
        if !body.results.is_empty() {
            results.store(&body.results).await?;
        }
        for (part, _) in &body.parts {
            // A chord in a chord's failed follow-up: its own body is failed by the same exception already.
            results.chord_part(part).await?;
        }
        let publish = std::mem::take(&mut body.publish);
        if !publish.is_empty() {
            self.shared.broker.publish(&publish).await?;
        }
        results.chord_over(&part.group, token).await?;
        Ok(())
    }

    async fn body(&self, group: &str, chord: &Signature, message: &Message) -> Result<Conclusion, BrokerError> {
        let shared = &self.shared;
        let saved = shared.results.get(&[Key::Group(group.to_owned())]).await?.pop().flatten();
        let saved = saved.and_then(|doc| GroupResult::decode(&doc, shared.limits.body).ok());
        let counted: Vec<Value>;
        let parts = match saved {
            Some(saved) => ChordParts::Joined(self.joined(&saved.tree).await?),
            None => {
                let raw = shared.results.chord_parts(group).await?;
                counted = raw.iter().map(|raw| Value::parse(raw, shared.limits.depth).unwrap_or_default()).collect();
                ChordParts::Counted(&counted)
            }
        };
        let mut conclusion = Conclusion::new(End::Ack);
        let now = SystemTime::now();
        match shared.plan(|context, ids| {
            canvas::chord_complete(message, chord, &parts, context, ids, &|errback| shared.app.settings().told(errback))
        }) {
            Ok(ChordOutcome::Body(plan)) => conclusion.add(shared, plan),
            Ok(ChordOutcome::Error(failure)) => {
                for (failed, exception) in &failure.failed {
                    shared.fail(failed, exception, &mut conclusion, now);
                }
                conclusion.add(shared, failure.plan);
            }
            Err(error) => {
                // Nobody can send such a body; whoever waits for it is told.
                let exception = Exception::builtin("ValueError", format!("the chord's body cannot be sent: {error}"));
                if let Some(id) = chord.options.get("task_id").and_then(Value::as_str) {
                    let parent_id = Some(message.id.clone());
                    let failed = canvas::FailedTask { id: id.to_owned(), group_id: None, parent_id, part: None, children: Vec::new() };
                    shared.fail(&failed, &exception, &mut conclusion, now);
                }
            }
        }
        Ok(conclusion)
    }

    /// The results of a saved header, nested as it is.
    async fn joined(&self, header: &ResultTree) -> Result<Result<Value, Exception>, BrokerError> {
        let mut ids = Vec::new();
        leaves(header, &mut ids);
        let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
        let docs = self.shared.results.get(&keys).await?;
        let results: std::collections::HashMap<String, TaskResult> = ids
            .into_iter()
            .zip(docs)
            .filter_map(|(id, doc)| Some((id, TaskResult::decode(&doc?, self.shared.limits.body).ok()?)))
            .collect();
        Ok(canvas::joined(header, &|id| {
            let result = results.get(id)?;
            (result.state != State::Pending).then(|| (result.state.clone(), result.result.clone()))
        }))
    }

    /// Says what happened.
    fn tell(&self, batch: Vec<Closing>, late: &[usize]) {
        let shared = &self.shared;
        // What goes back unrun has nothing to say, whoever has it now.
        let unrun = |closing: &Closing| closing.conclusion.what.is_none() && closing.conclusion.end == End::Back { front: true };
        let count = |unrun_too: bool, late_too: bool| {
            let of = |(place, closing): &(usize, &Closing)| unrun(closing) == unrun_too && late.contains(place) == late_too;
            batch.iter().enumerate().filter(of).count() as u64
        };
        shared.counts.late.fetch_add(count(false, true), Ordering::Relaxed);
        shared.counts.handed_back.fetch_add(count(true, false), Ordering::Relaxed);
        let is_over = |end: &End| matches!(end, End::Ack | End::Dead { .. });
        let over = batch.iter().enumerate().filter(|(place, closing)| is_over(&closing.conclusion.end) && !late.contains(place));
        shared.counts.ended(over.map(|(_, closing)| &closing.queue));
        if !shared.board.wanted() {
            return;
        }
        let notices: Vec<Notice> = batch
            .into_iter()
            .enumerate()
            .filter_map(|(place, closing)| {
                let what = match closing.conclusion.what {
                    None if closing.conclusion.end == (End::Back { front: true }) => return None,
                    _ if late.contains(&place) => What::Late,
                    what => what?,
                };
                let message = closing.message.unwrap_or_default();
                let seat = closing.work.and_then(|work| work.started()).map(|start| (start.lane, start.slot));
                Some(Notice { at: SystemTime::now(), message, queue: closing.queue, seat, what })
            })
            .collect();
        shared.board.post(&notices);
    }
}

fn leaves(node: &ResultTree, into: &mut Vec<String>) {
    match &node.children {
        Some(members) => members.iter().for_each(|member| leaves(member, into)),
        None => into.push(node.id.clone()),
    }
}
