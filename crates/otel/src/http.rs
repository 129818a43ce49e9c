//! Requests to the collector, by the HTTP client and TLS that longshore has.

use std::{pin::Pin, time::Duration};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

/// Most bytes of an answer that are read: it says what was refused, in a few words.
const MOST_ANSWER: usize = 64 << 10;

/// The HTTP client.
#[derive(Debug)]
pub(crate) struct CollectorClient(reqwest::Client);

impl CollectorClient {
    /// Makes one whose requests end within this time.
    pub(crate) fn new(timeout: Duration) -> Result<Self, HttpError> {
        // One that was chosen before stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let agent = concat!("longshore/", env!("CARGO_PKG_VERSION"));
        let client = reqwest::Client::builder().user_agent(agent).timeout(timeout).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self(client))
    }
}

impl HttpClient for CollectorClient {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let mut answer = self.0.execute(reqwest::Request::try_from(request)?).await?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                let room = MOST_ANSWER - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == MOST_ANSWER {
                    break;
                }
            }
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            Ok(response.body(Bytes::from(body))?)
        })
    }
}
