//! How tasks end: results, follow-ups and acknowledgements, in as few steps as the stores allow.
//! Results before acknowledgements, always.
//!
//! Layout: `close/apart.rs`: what is stored or sent before the step that acknowledges;
//! `close/told.rs`: spans of what has ended

mod apart;
mod told;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_brokers::{BrokerError, ChordPart, End, Ended, Finish, Key, Outgoing, PartState, Stored, lease::Term};
use longshore_celery::{
    Exception, GroupResult, Message, ResultTree, State, TaskResult, TraceContext, Value, WireSignature,
    canvas::{self, ChordOutcome, ChordParts, ChordStart},
};
use longshore_core::{ErrorKind, Receipt, watch::Detail};

use self::apart::{StoreRequests, together};
use super::{
    conclude::{self, Conclusion},
    notice::{TaskChange, TaskNotice, WorkerEvent},
    shared::Shared,
    work::ClaimedTask,
};

/// Time for which the right to send a chord's body is held while the body is made.
const BODY: Duration = Duration::from_secs(21);
/// Time after which the right is asked for again before the body is sent: while a broker was away,
/// somebody else may have sent it.
const SURE: Duration = Duration::from_secs(1);

/// A claimed task that is to end.
pub(crate) struct Closing {
    /// `None` where it was acknowledged as it started.
    pub(crate) receipt: Option<Receipt>,
    /// Term of our lease in which it was claimed, where somebody else may have it after that.
    pub(crate) term: Option<Term>,
    pub(crate) queue: Arc<str>,
    pub(crate) message: Option<Arc<Message>>,
    pub(crate) work: Option<Arc<ClaimedTask>>,
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

    /// Ends tasks; resolves when their results are stored and they are acknowledged. What a store
    /// refuses of one is that one's failure, and no concern of the others; a store that can take
    /// nothing is waited for.
    ///
    /// # Errors
    /// The stores are out of reach for good; what was not acknowledged stays claimed, and comes
    /// back to somebody.
    pub(crate) async fn close(&self, batch: Vec<Closing>) -> Result<(), BrokerError> {
        let mut batch = batch;
        let mut late = Vec::new();
        let refused = self.end(&mut batch, &mut late).await?;
        for (place, why) in refused {
            if !late.contains(&place) && !self.refuse(&mut batch[place], &why).await? {
                late.push(place);
            }
        }
        self.tell(batch, &late);
        Ok(())
    }

    /// Does all that their conclusions say, together. Returns who of them was refused, and why;
    /// whoever comes too late is added to `late`.
    async fn end(&self, batch: &mut [Closing], late: &mut Vec<usize>) -> Result<Refusals, BrokerError> {
        let mut refused = Refusals::new();
        // The size of a chord goes before its messages: a part must not be counted into nothing.
        for (place, closing) in batch.iter().enumerate() {
            for start in &closing.conclusion.starts {
                if let Err(why) = self.start_chord(start).await? {
                    refused.insert(place, why);
                    break;
                }
            }
        }
        let BatchSteps { finishes, stored, sent, apart } = self.steps(batch, &refused);
        // What was acknowledged as it started sends its follow-ups first, as in Celery.
        let results = &self.shared.results;
        together(&sent, &mut refused, |messages| Box::pin(self.send_once(messages))).await?;
        self.store_apart(batch, stored, &mut refused, late).await?;
        // Whoever was refused, or is another's now, is left out of the step that acknowledges.
        let mut complete = Vec::new();
        let (places, finishes): (Vec<usize>, Vec<Finish>) =
            finishes.into_iter().filter(|(place, _)| !refused.contains_key(place) && !late.contains(place)).unzip();
        if !finishes.is_empty() {
            let ended = self.shared.consumer.finish(&finishes).await?;
            for (place, ended) in places.into_iter().zip(ended) {
                match ended {
                    Ended::Done => {}
                    Ended::Complete(state) => complete.push((place, 0, state)),
                    Ended::Refused => late.push(place),
                    Ended::Impossible { reason } => drop(refused.insert(place, reason)),
                }
            }
        }
        // Parts that could not travel with an acknowledgement: their messages are still claimed.
        let mut kept: Vec<usize> = Vec::new();
        for (place, part) in apart {
            if late.contains(&place) || refused.contains_key(&place) {
                continue;
            }
            let which = batch[place].conclusion.parts.iter().position(|(own, _)| own.token == part.token).unwrap_or(0);
            match insist(|| results.chord_part(&part)).await? {
                Ok(state @ PartState::Ours { .. }) => complete.push((place, which, state)),
                Ok(_) => {}
                Err(why) => drop(refused.insert(place, why)),
            }
            kept.push(place);
        }
        // The part that completes a chord stays claimed until the body is sent: should this worker
        // die now, whoever gets the message sends it.
        for (place, which, state) in complete {
            if let PartState::Ours { token } = state {
                self.send_body(&batch[place], which, &token).await?;
            }
            kept.push(place);
        }
        // At last the messages that were kept.
        kept.sort_unstable();
        kept.dedup();
        let (places, rest): (Vec<usize>, Vec<Finish>) = kept
            .into_iter()
            .filter(|place| !refused.contains_key(place))
            .filter_map(|place| Some((place, finish(batch[place].receipt?, batch[place].conclusion.end.clone()))))
            .unzip();
        if !rest.is_empty() {
            for (place, ended) in places.into_iter().zip(self.shared.consumer.finish(&rest).await?) {
                if let Ended::Impossible { reason } = ended {
                    refused.insert(place, reason);
                }
            }
        }
        Ok(refused)
    }

    /// Sorts what the conclusions of a batch ask for by the step in which it is done; those that
    /// were refused ask for nothing.
    fn steps(&self, batch: &mut [Closing], refused: &Refusals) -> BatchSteps {
        // In one store all of a task goes into the step that acknowledges it; otherwise its result
        // is stored before that step, and what follows is sent in it.
        let mut finishes = Vec::new();
        let (mut stored, mut sent) = (StoreRequests::new(), StoreRequests::new());
        let mut apart: Vec<(usize, ChordPart)> = Vec::new();
        for (place, closing) in batch.iter_mut().enumerate().filter(|(place, _)| !refused.contains_key(place)) {
            let conclusion = &mut closing.conclusion;
            let mut parts = conclusion.parts.iter().map(|(part, _)| part.clone());
            let (publish, results) = (std::mem::take(&mut conclusion.publish), std::mem::take(&mut conclusion.results));
            match closing.receipt {
                Some(receipt) => {
                    let joined = self.shared.one_store;
                    // One part travels with the acknowledgement; others (of tasks that will never
                    // run) are counted before it.
                    let part = if joined { parts.next() } else { None };
                    apart.extend(parts.map(|part| (place, part)));
                    let results = if joined {
                        results
                    } else {
                        stored.add(place, results);
                        Vec::new()
                    };
                    let counted_apart = apart.last().is_some_and(|(last, _)| *last == place);
                    let end = if counted_apart { End::Keep } else { conclusion.end.clone() };
                    finishes.push((place, Finish { receipt, publish, results, part, end }));
                }
                // Acknowledged already: there is no step to take part in.
                None => {
                    stored.add(place, results);
                    sent.add(place, publish);
                    apart.extend(parts.map(|part| (place, part)));
                }
            }
        }
        BatchSteps { finishes, stored, sent, apart }
    }

    /// Ends a task of which something was refused: it has failed, with the reason. All that belongs
    /// to that is done piece by piece, and what is refused of it is left out, so that the task ends
    /// whatever is wrong. Returns whether it is still ours.
    async fn refuse(&self, closing: &mut Closing, why: &str) -> Result<bool, BrokerError> {
        closing.conclusion = conclude::refused(&self.shared, closing, why);
        let Conclusion { starts, publish, results, .. } = &mut closing.conclusion;
        let (starts, publish, results) = (std::mem::take(starts), std::mem::take(publish), std::mem::take(results));
        // In Celery's order, each piece by itself: what is refused of them is only noted.
        let mut left_out = Vec::new();
        for start in &starts {
            left_out.extend(self.start_chord(start).await?.err());
        }
        let in_one_step = closing.receipt.filter(|_| self.shared.one_store);
        for message in publish {
            let said = match closing.receipt {
                Some(receipt) => self.piece(Finish { publish: vec![message], ..finish(receipt, End::Keep) }).await?,
                None => self.send_once(std::slice::from_ref(&message)).await?.map(|()| true),
            };
            match said {
                Ok(false) => return Ok(false),
                Ok(true) => {}
                Err(why) => left_out.push(why),
            }
        }
        for document in results {
            let said = match in_one_step {
                Some(receipt) => self.piece(Finish { results: vec![document], ..finish(receipt, End::Keep) }).await?,
                None => self.store_one_apart(closing, document).await?,
            };
            match said {
                Ok(false) => return Ok(false),
                Ok(true) => {}
                Err(why) => left_out.push(why),
            }
        }
        // A chord must not wait for ever because one of its parts could not end as it wanted.
        for which in 0..closing.conclusion.parts.len() {
            match insist(|| self.shared.results.chord_part(&closing.conclusion.parts[which].0)).await? {
                Ok(PartState::Ours { token }) => self.send_body(closing, which, &token).await?,
                Ok(_) => {}
                Err(why) => left_out.push(why),
            }
        }
        // Whoever reads the dead letter learns all that is missing.
        left_out.retain(|left| !why.contains(left));
        left_out.dedup();
        if let End::Dead { reason } | End::Junk { reason } = &mut closing.conclusion.end {
            left_out.iter().for_each(|left| *reason = format!("{reason}; {left}"));
        }
        let Some(receipt) = closing.receipt else { return Ok(true) };
        match self.piece(finish(receipt, closing.conclusion.end.clone())).await? {
            Ok(is_ours) => Ok(is_ours),
            // Not even a dead letter can be kept: its result is what there is of it.
            Err(_) => Ok(self.piece(finish(receipt, End::Ack)).await?.unwrap_or(true)),
        }
    }

    /// Does one thing for a message. Returns whether it is still ours; the inner error is the
    /// reason for a refusal.
    async fn piece(&self, finish: Finish) -> Result<Result<bool, String>, BrokerError> {
        let ended = self.shared.consumer.finish(&[finish]).await?.pop();
        Ok(match ended {
            Some(Ended::Impossible { reason }) => Err(reason),
            Some(Ended::Refused) => Ok(false),
            _ => Ok(true),
        })
    }

    /// Says how many parts a chord has, and saves its header where results have to keep its
    /// nesting. The inner error is the reason for a refusal.
    async fn start_chord(&self, start: &ChordStart) -> Result<Result<(), String>, BrokerError> {
        let results = &self.shared.results;
        let expires = self.shared.app.settings().result_expires.unwrap_or(Duration::from_secs(86_400));
        if let Some(saved) = &start.saved {
            let stored = [Stored {
                key: Key::Group(start.group.clone()),
                doc: saved.encode(),
                expires: Some(expires),
                keep_success: false,
                reply_to: None,
            }];
            if let Err(why) = insist(|| results.store(&stored)).await? {
                return Ok(Err(why));
            }
        }
        insist(|| results.chord_start(&start.group, start.size, expires)).await
    }

    /// Sends the body of a chord: all of its parts are there, and the right to send it is ours. A
    /// body that is refused has failed; that is no failure of the part.
    async fn send_body(&self, closing: &Closing, which: usize, token: &str) -> Result<(), BrokerError> {
        let Some(((part, chord), message)) = closing.conclusion.parts.get(which).zip(closing.message.as_ref()) else { return Ok(()) };
        let results = &self.shared.results;
        if insist(|| results.chord_extend(&part.group, token, BODY)).await? != Ok(true) {
            return Ok(());
        }
        let right = BodyRight { group: &part.group, token, since: self.shared.environment.now() };
        let place = closing.work.as_ref().and_then(|work| work.own_place());
        let sent = match self.body(&part.group, chord, message, place).await? {
            Ok(body) => self.send(body, &right).await?,
            Err(why) => Err(why),
        };
        if let Err(why) = sent {
            // Whoever waits for it is told, as far as that is possible.
            let mut lost = Conclusion::new(End::Ack);
            self.lost_body(chord, message, &why, &mut lost);
            drop(self.send(lost, &right).await?);
        }
        drop(insist(|| results.chord_over(&part.group, token)).await?);
        Ok(())
    }

    /// Does what a body's conclusion says. The inner error is the reason for a refusal: then none
    /// of its messages was sent.
    async fn send(&self, body: Conclusion, right: &BodyRight<'_>) -> Result<Result<(), String>, BrokerError> {
        let results = &self.shared.results;
        for start in &body.starts {
            if let Err(why) = self.start_chord(start).await? {
                return Ok(Err(why));
            }
        }
        if !body.results.is_empty()
            && let Err(why) = insist(|| results.store(&body.results)).await?
        {
            return Ok(Err(why));
        }
        for (part, _) in &body.parts {
            // A chord in a chord's failed follow-up: its own body is failed by the same exception
            // already.
            drop(insist(|| results.chord_part(part)).await?);
        }
        let sent = if body.publish.is_empty() { Ok(()) } else { self.send_by_right(&body.publish, right).await? };
        if sent.is_ok() {
            body.spans.end(self.shared.client.maker(), Ok(()));
        }
        Ok(sent)
    }

    /// Sends a body once, while nobody else has the right to: somebody else may have sent it while
    /// the stores were away. The inner error is why it is refused.
    async fn send_by_right(&self, body: &[Outgoing], right: &BodyRight<'_>) -> Result<Result<(), String>, BrokerError> {
        let Shared { environment, results, broker, .. } = &*self.shared;
        let once = (environment.id)();
        insist(|| async {
            let unsure = environment.now().duration_since(right.since) > SURE;
            if unsure && !results.chord_extend(right.group, right.token, BODY).await? {
                return Ok(());
            }
            broker.publish_once(&once, body).await
        })
        .await
    }

    /// Sends messages, once, also where an answer is lost. The inner error is the reason for a
    /// refusal.
    async fn send_once(&self, messages: &[Outgoing]) -> Result<Result<(), String>, BrokerError> {
        let token = (self.shared.environment.id)();
        insist(|| self.shared.broker.publish_once(&token, messages)).await
    }

    /// Fails a chord's body that cannot be sent.
    fn lost_body(&self, chord: &WireSignature, message: &Message, why: &str, conclusion: &mut Conclusion) {
        let exception = Exception::builtin("ValueError", format!("the chord's body cannot be sent: {why}"));
        if let Some(id) = chord.options.get("task_id").and_then(Value::as_str) {
            let parent_id = Some(message.id.clone());
            let failed =
                canvas::FailedTask { id: id.to_owned(), group_id: None, parent_id, part: None, reply_to: None, children: Vec::new() };
            self.shared.fail(&failed, &exception, conclusion, self.shared.environment.wall());
        }
    }

    /// Concludes a chord whose parts are there; the inner error is the reason why they cannot be
    /// read.
    async fn body(
        &self,
        group: &str,
        chord: &WireSignature,
        message: &Message,
        place: Option<&TraceContext>,
    ) -> Result<Result<Conclusion, String>, BrokerError> {
        let shared = &self.shared;
        let key = [Key::Group(group.to_owned())];
        let saved = match insist(|| shared.results.get(&key)).await? {
            Ok(mut saved) => saved.pop().flatten(),
            Err(why) => return Ok(Err(why)),
        };
        let saved = saved.and_then(|doc| GroupResult::decode(&doc, shared.limits.body).ok());
        let counted: Vec<Value>;
        let parts = match saved {
            Some(saved) => match self.joined(&saved.tree).await? {
                Ok(joined) => ChordParts::Joined(joined),
                Err(why) => return Ok(Err(why)),
            },
            None => {
                let raw = match insist(|| shared.results.chord_parts(group)).await? {
                    Ok(raw) => raw,
                    Err(why) => return Ok(Err(why)),
                };
                counted = raw.iter().map(|raw| Value::parse(raw, shared.limits.depth).unwrap_or_default()).collect();
                ChordParts::Counted(&counted)
            }
        };
        let mut conclusion = Conclusion::new(End::Ack);
        let now = shared.environment.wall();
        match shared.plan(place, |context, ids| {
            canvas::chord_complete(message, chord, &parts, context, ids, &|errback| shared.app.registry().told(errback))
        }) {
            Ok(ChordOutcome::Body(plan)) => conclusion.add(shared, plan),
            Ok(ChordOutcome::Error(failure)) => {
                for (failed, exception) in &failure.failed {
                    shared.fail(failed, exception, &mut conclusion, now);
                }
                conclusion.add(shared, failure.plan);
            }
            // Nobody can send such a body.
            Err(error) => return Ok(Err(error.to_string())),
        }
        Ok(Ok(conclusion))
    }

    /// Returns the results of a saved header, nested as it is. The inner error is the reason why
    /// they cannot be read.
    async fn joined(&self, header: &ResultTree) -> Result<Result<Result<Value, Exception>, String>, BrokerError> {
        let mut ids = Vec::new();
        leaves(header, &mut ids);
        let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
        let docs = match insist(|| self.shared.results.get(&keys)).await? {
            Ok(docs) => docs,
            Err(why) => return Ok(Err(why)),
        };
        let results: std::collections::HashMap<String, TaskResult> = ids
            .into_iter()
            .zip(docs)
            .filter_map(|(id, doc)| Some((id, TaskResult::decode(&doc?, self.shared.limits.body).ok()?)))
            .collect();
        Ok(Ok(canvas::joined(header, &|id| {
            let result = results.get(id)?;
            (result.state != State::Pending).then(|| (result.state.clone(), result.result.clone()))
        })))
    }

    /// Counts how the tasks of a batch ended, and tells whoever listens.
    fn tell(&self, mut batch: Vec<Closing>, late: &[usize]) {
        let shared = &self.shared;
        told::put_spans(shared, &mut batch, late);
        // What goes back unrun has nothing to say, whoever has it now.
        let unrun = |closing: &Closing| closing.conclusion.what.is_none() && closing.conclusion.end == End::Back { front: true };
        let count = |unrun_too: bool, late_too: bool| {
            let of = |(place, closing): &(usize, &Closing)| unrun(closing) == unrun_too && late.contains(place) == late_too;
            batch.iter().enumerate().filter(of).count() as u64
        };
        let mut ends = shared.counts.ends();
        ends.counts.late += count(false, true);
        ends.counts.handed_back += count(true, false);
        // How a late one ended is somebody else's to count.
        let ours = batch.iter().enumerate().filter(|(place, _)| !late.contains(place));
        for (_, closing) in ours {
            let Conclusion { counted, times, what, .. } = &closing.conclusion;
            // Names of tasks that are not known here are anybody's: they are not counted by name.
            let task = closing.work.as_ref().map(|work| &*work.task.name);
            for number in *counted {
                ends.count(&closing.queue, task, |counts| *number(counts) += 1);
            }
            if let (Some((run, wait)), Some(task)) = (times, task) {
                ends.time(&closing.queue, task, *run, *wait);
            }
            ends.ended += u64::from(what.is_some() || !counted.is_empty());
        }
        drop(ends);
        // By queue only what came to its end: a message that went back comes again.
        let is_over = |end: &End| matches!(end, End::Ack | End::Dead { .. } | End::Junk { .. });
        let over = batch.iter().enumerate().filter(|(place, closing)| is_over(&closing.conclusion.end) && !late.contains(place));
        shared.counts.ended(over.map(|(_, closing)| &closing.queue));
        if !shared.hub.wants(Detail::Tasks) {
            return;
        }
        let notices: Vec<TaskNotice> = batch
            .into_iter()
            .enumerate()
            .filter_map(|(place, closing)| {
                let what = match closing.conclusion.what {
                    None if closing.conclusion.end == (End::Back { front: true }) => return None,
                    _ if late.contains(&place) => TaskChange::Late,
                    what => what?,
                };
                let message = closing.message.unwrap_or_default();
                let slot = closing.work.and_then(|work| work.started()).map(|start| (start.lane, start.slot));
                Some(TaskNotice { at: shared.environment.wall(), message, queue: closing.queue, slot, what })
            })
            .collect();
        shared.hub.post(notices.into_iter().map(WorkerEvent::Task));
    }
}

/// The right to send the body of a chord, as it was given at that time.
struct BodyRight<'a> {
    group: &'a str,
    token: &'a str,
    since: Instant,
}

/// Places in a batch of those that were refused, with the reasons.
type Refusals = BTreeMap<usize, String>;

/// First pause before a store is asked again that is away, or can take nothing now. Each further
/// one is twice as long.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest pause between two questions to such a store.
const RARELY: Duration = Duration::from_secs(1);

/// Asks until the store has answered. The inner error is its refusal, which is for good.
///
/// # Errors
/// Nothing more can come of it.
pub(super) async fn insist<T, F>(mut ask: impl FnMut() -> F) -> Result<Result<T, String>, BrokerError>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut pause = AGAIN;
    loop {
        match ask().await {
            Ok(answer) => return Ok(Ok(answer)),
            Err(error) if error.kind == ErrorKind::Refused => return Ok(Err(error.message)),
            Err(error) if error.kind == ErrorKind::Fatal => return Err(error),
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RARELY);
            }
        }
    }
}

/// All that a batch asks for, by the step in which it is done.
struct BatchSteps {
    /// With the acknowledgement of a message.
    finishes: Vec<(usize, Finish)>,
    /// Stored before that, in a store of its own.
    stored: StoreRequests<Stored>,
    /// Sent for messages that were acknowledged as they started.
    sent: StoreRequests<Outgoing>,
    /// Parts of chords that are counted by themselves.
    apart: Vec<(usize, ChordPart)>,
}

fn finish(receipt: Receipt, end: End) -> Finish {
    Finish { receipt, publish: Vec::new(), results: Vec::new(), part: None, end }
}

fn leaves(node: &ResultTree, into: &mut Vec<String>) {
    match &node.children {
        Some(members) => members.iter().for_each(|member| leaves(member, into)),
        None => into.push(node.id.clone()),
    }
}
