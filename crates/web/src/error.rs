//! What is refused, in words: for people a page, for programs JSON.

use std::{fmt, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use longshore_core::ErrorKind;
use longshore_ops::OpsError;
use longshore_worker::ClientError;
use serde_json::json;

/// Error of a server or of a request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct WebError {
    /// The status that a client is told.
    pub status: StatusCode,
    /// Sentence that says what is wrong, and what to do.
    pub message: String,
    /// Time after which it may be tried again, where that is known.
    pub retry_after: Option<Duration>,
}

impl WebError {
    /// Refuses with this status and sentence.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// Refuses what is not there.
    pub(crate) fn not_found(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    /// Refuses what somebody may not do.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// Refuses what cannot be understood.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// Says after what time it may be tried again.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Returns the answer for a program.
    pub(crate) fn json(&self) -> Response {
        let body = json!({"error": {"status": self.status.as_u16(), "message": self.message}});
        self.with_headers((self.status, Json(body)).into_response())
    }

    /// Adds what the headers of such an answer say.
    pub(crate) fn with_headers(&self, mut response: Response) -> Response {
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// Returns after how many seconds it may be tried again: rounded up, so that who comes then is
    /// not too early.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|after| (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }
}

impl From<OpsError> for WebError {
    fn from(error: OpsError) -> Self {
        let status = match &error {
            OpsError::Broker(broker) | OpsError::Client(ClientError::Broker(broker)) => match broker.kind {
                ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_GATEWAY,
            },
            OpsError::UnknownTask { .. }
            | OpsError::UnseenTask { .. }
            | OpsError::NoDeadLetter { .. }
            | OpsError::NoSchedule { .. }
            | OpsError::NoWorkers => StatusCode::NOT_FOUND,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

impl From<serde_json::Error> for WebError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<std::io::Error> for WebError {
    fn from(error: std::io::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
