//! Waiting for a result, and saying why it takes long.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_brokers::Doing;
use longshore_celery::{State, TaskResult, Value, control::Request};
use longshore_worker::{
    Answer, ClientError,
    remote::{PATIENCE, ask, serves},
};

use super::{
    Place,
    show::{plain, whereabouts},
};

/// Time after which it is looked whether anybody will run the task at all.
const DOUBT: Duration = Duration::from_secs(2);

/// Waits for a result, for so long at most. After two seconds it says what the task waits for, if
/// that is known.
///
/// # Errors
/// As [`Answer::get`], or 8: not in time.
pub async fn result(place: &Place, answer: &Answer<Value>, limit: Option<Duration>) -> Result<Value, ClientError> {
    let id = answer.id().to_owned();
    let get = async {
        tokio::select! {
            result = answer.get() => result,
            never = doubt(place, &id) => match never {},
        }
    };
    match limit {
        None => get.await,
        Some(limit) => match tokio::time::timeout(limit, get).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { id, waited: limit }),
        },
    }
}

/// Says after a while what the task waits for, and whether anybody serves its queue.
async fn doubt(place: &Place, id: &str) -> std::convert::Infallible {
    tokio::time::sleep(DOUBT.saturating_sub(PATIENCE)).await;
    let workers = ask(place.connected(), Request::new("active_queues"), PATIENCE).await.unwrap_or_default();
    if let Some(inspect) = &place.connected().inspect
        && let Ok(found) = inspect.find(id).await
        && let Some(found) = found.iter().find(|found| matches!(found.doing, Doing::Waiting { .. }))
    {
        let state = place.broker().queues(&[Arc::from(found.queue.as_str())]).await.unwrap_or_default();
        let state = state.iter().find(|state| state.name == found.queue);
        let served = workers.iter().any(|(_, queues)| serves(queues, &found.queue));
        let paused = state.is_some_and(|state| state.paused.is_some());
        let hint = if served || paused { String::new() } else { unserved(&found.queue) };
        eprintln!("longshore: it {}{hint}; waiting on", whereabouts(found, state, SystemTime::now()));
    }
    std::future::pending().await
}

/// Says that nobody serves the queue of a task, and what to do.
pub fn unserved(queue: &str) -> String {
    format!("; no worker serves it (longshore worker -Q {})", plain(queue))
}

/// Writes a result: text as it is, anything else as JSON.
///
/// # Errors
/// Those of `out`.
pub fn print(value: &Value, json: bool, out: &mut dyn Write) -> io::Result<()> {
    match value {
        Value::Text(text) if !json => writeln!(out, "{text}"),
        value => {
            out.write_all(&value.to_json())?;
            writeln!(out)
        }
    }
}

/// Says how a task ended that gave no result, on one line and its traceback below.
pub fn failure(id: &str, stored: &TaskResult, with_trace: bool) -> String {
    let how = if stored.state == State::Revoked { "was revoked" } else { "failed" };
    let exception =
        stored.exception().map_or_else(|| String::from_utf8_lossy(&stored.result.to_json()).into_owned(), |error| error.to_string());
    let mut text = format!("task {id} {how}: {}", plain(&exception));
    if let Some(trace) = stored.traceback.as_deref().filter(|trace| with_trace && trace.trim_end() != exception) {
        for line in trace.trim_end().lines() {
            text.push_str("\n  ");
            text.push_str(&plain(line));
        }
    }
    text
}
