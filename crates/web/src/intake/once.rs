//! `Idempotency-Key`: a task is sent once, however often it is asked for within a day. The key is a
//! header, or the field `idempotency_key` of a body or of a line of a bulk.
//!
//! First the key is noted with the id, then the task is sent under that id, then the note says so.
//! A server that dies in between leaves a note that says no more than that somebody was to send it:
//! whoever asks next looks whether the task is there, and sends it under the same id if it is not.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use longshore_brokers::{NotedEnd, NotedSend, SendNote};
use longshore_worker::PreparedTask;
use ring::digest::{Context, SHA256};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{BROKER_WITHIN, Intake, KEY, lengths::NotNow, order, order::TaskOrder};
use crate::error::WebError;

/// Time for which a key is kept.
const KEEP: Duration = Duration::from_secs(86_400);
/// Time for which others leave the sending to whoever has begun: longer than a sending takes.
const HOLD: Duration = BROKER_WITHIN.saturating_add(Duration::from_secs(5));
/// Pause between two looks at what another is sending.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Age from which a note is renewed before the task is sent. With the time for a sending it is less
/// than [`HOLD`].
const RENEW_FROM: Duration = Duration::from_secs(1);

/// A key with what it stands for.
#[derive(Clone, Debug)]
pub(super) struct AskedOnce {
    key: String,
    digest: String,
}

impl AskedOnce {
    /// Reads the key of a request, if it has one: in its headers, or in the order that its body is.
    pub(super) fn of(caller: &str, order: &TaskOrder, headers: &HeaderMap, body: &[u8]) -> Result<Option<Self>, WebError> {
        let key = match (headers.get(KEY), order.key()) {
            (None, None) => return Ok(None),
            (None, Some(key)) => key.to_owned(),
            (Some(key), None) => {
                let key = key.to_str().map_err(|_| WebError::unprocessable("the Idempotency-Key is not plain text"))?;
                order::name("an Idempotency-Key", key.trim())?
            }
            (Some(_), Some(_)) => {
                let said = "idempotency_key stands in the body and in the header idempotency-key: leave one out";
                return Err(WebError::unprocessable(said));
            }
        };
        let mut digest = Context::new(&SHA256);
        let fields = order::HEADER_NAMES.map(|name| headers.get(name).map_or(&b""[..], |value| value.as_bytes()));
        for part in [order.task().as_bytes()].into_iter().chain(fields).chain([body]) {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        // Callers do not share keys.
        Ok(Some(Self { key: format!("{caller}:{key}"), digest: hex(digest.finish().as_ref()) }))
    }

    /// Returns the note that a task of this id is sent, by whoever has this word.
    pub(super) fn note(self, id: String, by: String) -> SendNote {
        SendNote { key: self.key, digest: self.digest, id, by, hold: HOLD, keep: KEEP }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a word that nobody else has.
fn own_word() -> Result<String, WebError> {
    let mut word = [0; 16];
    let made = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut word);
    made.map_err(|_| WebError::new(StatusCode::INTERNAL_SERVER_ERROR, "the system gives no random bytes"))?;
    Ok(hex(&word))
}

/// Says that another request sends the same.
fn underway() -> WebError {
    let said = "this Idempotency-Key is being sent by another request, which has not ended yet";
    WebError::new(StatusCode::SERVICE_UNAVAILABLE, said).retry_after(HOLD)
}

/// Says that a key stands for something else.
fn another() -> WebError {
    WebError::unprocessable("this Idempotency-Key stands for another task or other arguments: take a new key")
}

impl Intake {
    /// Does the same as [`send_once`](Self::send_once), to its end: whoever asks may go away
    /// meanwhile, and it is sent, and noted, all the same.
    pub(super) async fn send_surely_once(&self, asked: AskedOnce, order: TaskOrder) -> Result<String, WebError> {
        let intake = self.clone();
        let sending = tokio::spawn(async move { intake.send_once(asked, order).await });
        sending.await.map_err(|error| WebError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
    }

    /// Sends a task unless that was done under this key before. Returns its id.
    pub(super) async fn send_once(&self, asked: AskedOnce, mut order: TaskOrder) -> Result<String, WebError> {
        let mut task = self.prepare(order.clone())?;
        let note = asked.note(task.id().to_owned(), own_word()?);
        let (noted, noted_at) = self.noted(&note).await?;
        let (id, is_first) = match noted {
            NotedSend::First => (note.id.clone(), true),
            NotedSend::Unfinished { id } => (id, false),
            NotedSend::Sent { id } => return Ok(id),
            NotedSend::Underway { .. } => return Err(underway()),
            NotedSend::Other => return Err(another()),
        };
        if id != note.id {
            order.id = Some(id);
            task = self.prepare(order)?;
        }
        let sent = self.send_unless_sent(&note, noted_at, &task, is_first).await;
        let ending = match &sent {
            Ok(()) => NotedEnd::Sent,
            Err((_, true)) if is_first => NotedEnd::NotSent,
            Err(_) => NotedEnd::Unknown,
        };
        if let Err(error) = self.shared()?.end_send(&note, ending).await {
            // The note stays as it was: whoever asks next looks where the task is.
            tracing::warn!("task {}: that it was sent under its Idempotency-Key could not be noted: {error}", task.id());
        }
        sent.map(|()| task.id().to_owned()).map_err(|(error, _)| error)
    }

    fn shared(&self) -> Result<&dyn longshore_brokers::SharedState, WebError> {
        let connected = self.0.client.connected();
        match &connected.shared {
            Some(shared) => Ok(&**shared),
            None => {
                let said = format!(
                    "an Idempotency-Key needs a store that remembers it, and {} has none: add a result backend that has (Redis, SQLite)",
                    connected.broker.url()
                );
                Err(WebError::new(StatusCode::NOT_IMPLEMENTED, said))
            }
        }
    }

    /// Notes the key; waits while another request sends the same. Returns the answer, and since
    /// when the note holds at the least.
    async fn noted(&self, note: &SendNote) -> Result<(NotedSend, Instant), WebError> {
        let until = Instant::now() + HOLD;
        let shared = self.shared()?;
        loop {
            let asked_at = Instant::now();
            match super::within(async { Ok(shared.note_send(note).await?) }).await? {
                NotedSend::Underway { .. } if Instant::now() < until => sleep(LOOK_AGAIN).await,
                noted => return Ok((noted, asked_at)),
            }
        }
    }

    /// Sends a task, if it is not there already. An error tells whether it certainly was not sent.
    ///
    /// The note holds all the time, so that nobody else sends it meanwhile: what comes before the
    /// sending ends before the note does, and so does the sending.
    async fn send_unless_sent(
        &self,
        note: &SendNote,
        noted_at: Instant,
        task: &PreparedTask,
        is_first: bool,
    ) -> Result<(), (WebError, bool)> {
        let before = timeout_at(noted_at + BROKER_WITHIN, async {
            if !is_first && self.is_there(task.id()).await.map_err(|error| (error, false))? {
                return Ok(true);
            }
            self.admit(task).await.map_err(|not_now: NotNow| (not_now.into_error(), true))?;
            Ok(false)
        });
        if before.await.unwrap_or_else(|_| Err((super::no_answer(), true)))? {
            return Ok(());
        }
        let sending = timeout(BROKER_WITHIN, async {
            if noted_at.elapsed() >= RENEW_FROM && !self.is_still_ours(note).await? {
                return Ok(());
            }
            self.0.client.send_prepared_once(task).await.map_err(|error| super::of_client(&error))
        });
        sending.await.unwrap_or_else(|_| Err(super::no_answer())).map_err(|error| {
            let is_refused = error.status != StatusCode::SERVICE_UNAVAILABLE;
            (error, is_refused)
        })
    }

    /// Renews a note before its task is sent. Returns false where another has sent it meanwhile.
    async fn is_still_ours(&self, note: &SendNote) -> Result<bool, WebError> {
        match self.shared()?.note_send(note).await.map_err(|error| super::of_broker(&error))? {
            NotedSend::First | NotedSend::Unfinished { .. } => Ok(true),
            NotedSend::Sent { .. } => Ok(false),
            NotedSend::Underway { .. } => Err(underway()),
            NotedSend::Other => Err(another()),
        }
    }

    /// Returns whether a task of this id is in the broker, or has a result.
    async fn is_there(&self, id: &str) -> Result<bool, WebError> {
        let client = &self.0.client;
        if super::within(client.result(id).stored()).await?.is_some() {
            return Ok(true);
        }
        match &client.connected().inspect {
            Some(inspect) => super::within(async { Ok(!inspect.find(id).await?.is_empty()) }).await,
            None => Ok(false),
        }
    }
}
