//! Results: what is stored, and what is waited for.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use longshore_celery::TaskResult;
use serde_json::json;
use tokio::time::timeout;

use super::{Intake, of_client, order};
use crate::{error::WebError, guard::decode};

/// Longest time for which a result is waited.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Answers a task's state and result, at once or when it has ended.
pub(super) async fn result(State((intake, hides)): State<(Intake, bool)>, Path(id): Path<String>, RawQuery(query): RawQuery) -> Response {
    match look(&intake, &id, query.as_deref().unwrap_or_default(), hides).await {
        Ok(response) => response,
        Err(error) => error.json(),
    }
}

async fn look(intake: &Intake, id: &str, query: &str, hides: bool) -> Result<Response, WebError> {
    let id = order::name("an id", id)?;
    let wait = wait(query)?;
    let answer = intake.0.client.result(&id);
    if !wait.is_zero() {
        // One connection listens for all who wait; a time that is over is no error.
        if let Ok(Err(error)) = timeout(wait, answer.ended()).await {
            return Err(of_client(&error));
        }
    }
    let stored = super::within(answer.stored()).await?;
    Ok(Json(shown(&id, stored.as_ref(), hides)).into_response())
}

fn shown(id: &str, stored: Option<&TaskResult>, hidden: bool) -> serde_json::Value {
    match stored {
        Some(stored) => {
            let result = serde_json::from_slice(&stored.result.to_json()).unwrap_or_default();
            let (result, traceback) = if hidden { (serde_json::Value::Null, None) } else { (result, stored.traceback.clone()) };
            json!({"id": id, "status": stored.state.as_str(), "result": result, "traceback": traceback})
        }
        None => json!({"id": id, "status": "PENDING", "result": null, "traceback": null}),
    }
}

/// Reads how long is to be waited.
fn wait(query: &str) -> Result<Duration, WebError> {
    let mut wait = Duration::ZERO;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "wait" {
            return Err(WebError::unprocessable(format!(
                "there is no {:?} to ask by; there is wait",
                crate::guard::decode(name.as_bytes())
            )));
        }
        let text = decode(value.as_bytes());
        let time = time(text.trim());
        wait = time.ok_or_else(|| WebError::unprocessable(format!("wait is a time such as 10s, 500ms or 1m, not {text:?}")))?;
    }
    Ok(wait.min(LONGEST_WAIT))
}

fn time(text: &str) -> Option<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1.0));
    Duration::try_from_secs_f64(number.trim().parse::<f64>().ok()? * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_and_bounded() {
        let millis = Duration::from_millis;
        let rows = [("", 0), ("wait=10s", 10_000), ("wait=500ms", 500), ("wait=1m", 60_000), ("wait=2.5", 2_500), ("wait=9000", 60_000)];
        for (query, expected) in rows {
            assert_eq!(wait(query).unwrap(), millis(expected), "{query}");
        }
        for query in ["wait", "wait=", "wait=soon", "wait=-1s", "wait=NaN", "wait=inf", "until=1"] {
            assert_eq!(wait(query).unwrap_err().status, 422, "{query}");
        }
    }
}
