//! What has changed on a page, once a second, for whoever keeps it open.
//!
//! A page marks its blocks (`<!--live NAME-->` … `<!--/live NAME-->`, by the macro `live`). A
//! stream draws the page again and sends the blocks that differ: one way of drawing for all, with
//! script and without.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use longshore_core::CancelToken;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::WebError;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// The same for a page that asks somebody, at the least.
const EVERY_ASKING: Duration = Duration::from_secs(5);
/// Time between two such pages.
const TURN: Duration = Duration::from_secs(3);
/// Time after which a stream says that it is still there.
const SAY_WITHIN: Duration = Duration::from_secs(10);
/// Most streams at once.
const MOST: usize = 1_000;

/// Number of streams that are open.
#[derive(Clone, Debug, Default)]
struct Streams(Arc<AtomicUsize>);

/// One of them; it ends when this is dropped.
pub(crate) struct OpenStream(Streams);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    fn open(&self) -> Result<OpenStream, WebError> {
        let open = OpenStream(self.clone());
        if self.0.fetch_add(1, Ordering::Relaxed) < MOST {
            return Ok(open);
        }
        let message = format!("{MOST} pages are watched at once already: this one does not renew itself");
        Err(WebError::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(Duration::from_secs(10)))
    }
}

/// Returns the marked blocks of a page.
fn blocks(html: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = html;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once("<!--live ")?;
        let (name, after) = after.split_once("-->")?;
        let (block, after) = after.split_once(&format!("<!--/live {name}-->"))?;
        rest = after;
        Some((name, block))
    })
}

/// Remembers what a stream has sent.
#[derive(Default)]
struct SentBlocks {
    hashes: HashMap<String, u64>,
    trouble: Option<String>,
}

impl SentBlocks {
    /// Returns the events that say what is new.
    fn news(&mut self, drawn: &Result<String, WebError>) -> String {
        let mut events = String::new();
        match drawn {
            Ok(html) => {
                if self.trouble.take().is_some() {
                    events.push_str("event: well\ndata: {}\n\n");
                }
                for (name, block) in blocks(html) {
                    let hash = xxh3_64(block.as_bytes());
                    if self.hashes.insert(name.to_owned(), hash) != Some(hash) {
                        events.push_str(&format!("event: block\ndata: {}\n\n", json!({"name": name, "html": block})));
                    }
                }
            }
            Err(error) => {
                if self.trouble.as_ref() != Some(&error.message) {
                    events.push_str(&format!("event: trouble\ndata: {}\n\n", json!({"message": error.message})));
                    self.trouble = Some(error.message.clone());
                }
            }
        }
        events
    }
}

/// Rhythm in which a page renews itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Each second: it costs nobody anything.
    EachSecond,
    /// In its turn: it asks somebody.
    InTurn,
}

/// Times at which pages that ask somebody may do so again.
#[derive(Debug, Default)]
struct Turns(Mutex<Option<Instant>>);

impl Turns {
    /// Returns when the next of them may ask.
    fn take(&self, now: Instant) -> Instant {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = last.map_or(now, |last| last + TURN).max(now + EVERY_ASKING);
        *last = Some(turn);
        turn
    }
}

/// State that the pages that are kept open share.
#[derive(Debug, Default)]
pub(crate) struct LivePages {
    streams: Streams,
    turns: Turns,
    /// Ends them, and all else of their server.
    pub(crate) stop: CancelToken,
}

impl LivePages {
    /// Takes a place among the streams.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn open(&self) -> Result<OpenStream, WebError> {
        self.streams.open()
    }
}

/// Answers with a stream of what changes.
pub(crate) fn stream<D, F>(live: &Arc<LivePages>, renewal: Renewal, draw: D) -> Response
where
    D: Fn() -> F + Send + 'static,
    F: Future<Output = Result<String, WebError>> + Send + 'static,
{
    let open = match live.streams.open() {
        Ok(open) => open,
        Err(error) => return error.json(),
    };
    let now = Instant::now();
    let next = if renewal == Renewal::InTurn { live.turns.take(now) } else { now };
    let own = OpenPage { live: live.clone(), renewal, draw, sent: SentBlocks::default(), next, said: now, _open: open };
    let events = stream::unfold(own, |mut own| async move {
        let stop = own.live.stop.clone();
        let events = tokio::select! {
            events = own.events() => events,
            () = stop.cancelled() => return None,
        };
        Some((Ok::<_, Infallible>(Bytes::from(events)), own))
    });
    let mut response = Body::from_stream(events).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// A page that somebody keeps open.
struct OpenPage<D> {
    live: Arc<LivePages>,
    renewal: Renewal,
    draw: D,
    sent: SentBlocks,
    next: Instant,
    said: Instant,
    _open: OpenStream,
}

impl<D, F> OpenPage<D>
where
    D: Fn() -> F,
    F: Future<Output = Result<String, WebError>>,
{
    /// Waits until there is something to send.
    async fn events(&mut self) -> String {
        loop {
            let silent_until = self.said + SAY_WITHIN;
            if silent_until < self.next {
                sleep_until(silent_until).await;
                self.said = Instant::now();
                // A client that has gone is noticed when it is written to.
                return ":\n\n".to_owned();
            }
            sleep_until(self.next).await;
            let events = self.sent.news(&(self.draw)().await);
            let now = Instant::now();
            self.next = match self.renewal {
                Renewal::EachSecond => now + EVERY,
                Renewal::InTurn => self.live.turns.take(now),
            };
            if !events.is_empty() {
                self.said = now;
                return events;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_ask_take_turns_however_many_there_are() {
        let (turns, now) = (Turns::default(), Instant::now());
        let first: Vec<u64> = (0..4).map(|_| (turns.take(now) - now).as_secs()).collect();
        assert_eq!(first, [5, 8, 11, 14]);
        let later = now + Duration::from_secs(100);
        assert_eq!((turns.take(later) - later).as_secs(), 5);
    }

    #[test]
    fn only_blocks_that_changed_are_sent_and_trouble_is_told_once() {
        let page = |rows: &str| Ok(format!("<h1>x</h1><!--live a-->{rows}<!--/live a--><p><!--live b-->same<!--/live b-->"));
        let mut sent = SentBlocks::default();
        assert_eq!(sent.news(&page("1")).matches("event: block").count(), 2);
        assert_eq!(sent.news(&page("1")), "");
        assert_eq!(sent.news(&page("2\n<td>")), "event: block\ndata: {\"name\":\"a\",\"html\":\"2\\n<td>\"}\n\n");
        let away = Err(WebError::new(StatusCode::SERVICE_UNAVAILABLE, "away"));
        assert_eq!(sent.news(&away), "event: trouble\ndata: {\"message\":\"away\"}\n\n");
        assert_eq!(sent.news(&away), "");
        assert_eq!(sent.news(&page("2\n<td>")), "event: well\ndata: {}\n\n");
    }
}
