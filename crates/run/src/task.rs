//! `--task`: a task of a queue for each record. Its worker's answer is the record's result.
//!
//! A task's id follows from the job and the record. So a job that is resumed finds what it sent
//! before it died: what is on its way is waited for, what has ended is taken, and only what is not
//! there is sent.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use longshore_brokers::Doing;
use longshore_celery::{State, Value, control::Request};
use longshore_core::{Again, ErrorKind, Outcome, TaskError};
use longshore_worker::{Answer as Coming, App, Client, ClientError, Settings, Signature, remote};
use serde_json::value::RawValue;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    call::Item,
    event::{RunEvent, Tell},
    filling::Filling,
    pipe::Answer,
    record::Record,
    spec::TaskSpec,
    template::Shape,
};

/// A broker that cannot be reached is asked again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// Time after which it is looked whether anybody will run a task at all.
const DOUBT: Duration = Duration::from_secs(2);

/// A task with the templates of its arguments.
pub struct TaskPlan {
    task: String,
    queue: Option<String>,
    filling: Filling,
    settings: Settings,
    /// Results of an earlier sitting are failures that are to be tried again.
    retries_failed: bool,
}

impl TaskPlan {
    pub(super) fn compile(spec: &TaskSpec, retries_failed: bool, shape: &Shape) -> Result<Self, String> {
        Ok(Self {
            task: spec.name.clone(),
            queue: spec.queue.clone(),
            filling: Filling::compile(spec.args.as_deref(), spec.kwargs.as_deref(), shape)?,
            settings: spec.settings.clone(),
            retries_failed,
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.task
    }

    /// Everything that decides what a task does, for the journal's hash. Where the queue is does
    /// not: a broker may move.
    pub(super) fn sources(&self) -> Vec<Vec<u8>> {
        let mut all = vec![b"task".to_vec(), self.task.clone().into_bytes(), self.queue.clone().unwrap_or_default().into_bytes()];
        all.extend(self.filling.sources().map(<[u8]>::to_vec));
        all
    }

    pub(super) fn show(&self, record: &Record) -> Result<String, TaskError> {
        let (args, kwargs) = self.filling.fill(record)?;
        let json = |value: Value| String::from_utf8_lossy(&value.to_json()).into_owned();
        Ok(format!("{} {} {}", self.task, json(Value::List(args)), json(Value::Map(kwargs))))
    }

    /// Connects.
    pub(super) fn sender(self: &Arc<Self>, job: String, tell: Tell) -> Result<Sender, String> {
        // The view says what becomes of it.
        let app = App::new().with_settings(self.settings.clone()).told(None);
        let client = Client::of(&app).map_err(|error| error.to_string())?;
        let (told, doubted) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Sender { plan: self.clone(), client, job, failed: Mutex::default(), told, doubted, tell })
    }
}

/// Sends tasks and waits for them.
pub(super) struct Sender {
    plan: Arc<TaskPlan>,
    client: Client,
    job: String,
    /// Tasks whose last attempt failed in this sitting.
    failed: Mutex<HashSet<u128>>,
    /// It was said that the broker is away.
    told: AtomicBool,
    /// It was looked whether anybody serves the queue.
    doubted: AtomicBool,
    tell: Tell,
}

/// Way in which a task is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Nobody has sent it yet.
    First,
    /// It was sent, and has failed.
    Anew,
    /// It may have been sent.
    IfMissing,
}

impl Sender {
    /// One attempt of a record's task: its answer, or how it failed. May be dropped; the task then
    /// runs on.
    pub(super) async fn run(&self, item: &Item, attempt: u32) -> Outcome<Answer> {
        let number = number(&self.job, item);
        let (id, signature) = match self.signature(number, &item.record) {
            Ok(signature) => signature,
            Err(error) => return Outcome::Failed(error),
        };
        let has_failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&number);
        let mut how = match attempt {
            _ if has_failed || self.plan.retries_failed => How::Anew,
            1 => How::First,
            _ => How::IfMissing,
        };
        loop {
            match self.once(id, &signature, &mut how).await {
                Err(ClientError::Broker(error)) if error.kind == ErrorKind::Transient => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        (self.tell)(&RunEvent::Waiting { message: format!("{}; waiting for it", error.message) });
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                Ok(value) => {
                    self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                    return Outcome::Ok(answer(&value));
                }
                Err(error) => {
                    self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
                    return Outcome::Failed(failure(&error));
                }
            }
        }
    }

    fn signature(&self, number: u128, record: &Record) -> Result<(Uuid, Signature), TaskError> {
        let (args, kwargs) = self.plan.filling.fill(record)?;
        let id = uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid();
        let mut signature: Signature = Signature::named(&self.plan.task).task_id(id.to_string());
        for arg in &args {
            signature = signature.arg(arg);
        }
        for (name, value) in kwargs.iter() {
            signature = signature.kwarg(name, value);
        }
        if let Some(queue) = &self.plan.queue {
            signature = signature.queue(queue);
        }
        Ok((id, signature))
    }

    /// Sends it as far as that is needed, and waits. When the broker goes away on the way, `how`
    /// says how to go on.
    async fn once(&self, id: Uuid, signature: &Signature, how: &mut How) -> Result<Value, ClientError> {
        let coming: Coming<Value> = self.client.result(id.to_string());
        let send = match *how {
            How::First => true,
            How::Anew => {
                // Else the old failure would be taken for the new result.
                coming.forget().await?;
                true
            }
            How::IfMissing => {
                let id = id.to_string();
                let connected = self.client.connected();
                // What was acknowledged before it began is known to its worker alone.
                coming.state().await? == State::Pending
                    && connected.inspect()?.find(&id).await?.is_empty()
                    && !remote::is_at_worker(connected, &id).await?
            }
        };
        // What ended between the looks has left its queue for its result.
        let send = send && (*how != How::IfMissing || coming.state().await? == State::Pending);
        // Whether it arrives may stay unknown, but its id is known: from here on it is looked for
        // before it is sent.
        *how = How::IfMissing;
        if send {
            self.client.send(signature.clone()).await?;
        }
        tokio::select! {
            value = coming.get() => value,
            never = self.doubt(id) => match never {},
        }
    }

    /// Says after two seconds, of the first task that is waited for, that nobody serves its queue.
    async fn doubt(&self, id: Uuid) -> Infallible {
        if !self.doubted.swap(true, Ordering::Relaxed) {
            tokio::time::sleep(DOUBT.saturating_sub(remote::PATIENCE)).await;
            let connected = self.client.connected();
            let workers = remote::ask(connected, Request::new("active_queues"), remote::PATIENCE).await.unwrap_or_default();
            if let Ok(inspect) = connected.inspect()
                && let Ok(found) = inspect.find(&id.to_string()).await
                && let Some(found) = found.iter().find(|found| matches!(found.doing, Doing::Waiting { .. }))
                && !workers.iter().any(|(_, queues)| remote::serves(queues, &found.queue))
            {
                let (task, queue) = (&self.plan.task, &found.queue);
                let message = format!("{task} waits in queue {queue}; no worker serves it (longshore worker -Q {queue}); waiting on");
                (self.tell)(&RunEvent::Waiting { message });
            }
        }
        std::future::pending().await
    }
}

/// Returns the first characters of a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Returns the number that names a record's task, in every sitting of its job.
fn number(job: &str, item: &Item) -> u128 {
    let mut bytes = job.as_bytes().to_vec();
    bytes.extend(item.key.to_le_bytes());
    bytes.extend(item.nth.to_le_bytes());
    xxh3_128(&bytes)
}

fn answer(value: &Value) -> Answer {
    let text = String::from_utf8_lossy(&value.to_json()).into_owned();
    match RawValue::from_string(text.clone()) {
        Ok(json) => Answer::Json(json),
        // What no JSON of ours can hold (NaN, half a surrogate pair) stands as its text.
        Err(_) => Answer::Text(text),
    }
}

/// A task that failed at its worker failed for good there: its worker has made its retries.
fn failure(error: &ClientError) -> TaskError {
    match error {
        ClientError::Remote(remote) => {
            let kind = if remote.state == State::Revoked { "revoked" } else { "task" };
            let failure = TaskError::new(kind, cut(&remote.exception.to_string(), 1000));
            match &remote.traceback {
                Some(trace) => failure.with_tail(cut(trace, 4000)),
                None => failure,
            }
        }
        ClientError::Signature(why) => TaskError::invalid(why.clone()),
        other => TaskError::new("broker", other.to_string()).with_again(Again::ByPolicy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::testing::line;

    #[test]
    fn a_records_task_has_one_id_in_every_sitting_and_no_two_share_one() {
        let item = |key, nth| Item { record: line("x"), key, nth };
        assert_eq!(number("7f3a", &item(1, 0)), number("7f3a", &item(1, 0)));
        let all = [number("7f3a", &item(1, 0)), number("7f3a", &item(1, 1)), number("7f3a", &item(2, 0)), number("7f3b", &item(1, 0))];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4);
    }
}
