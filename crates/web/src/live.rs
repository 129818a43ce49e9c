//! What has changed on a page, once a second, for whoever keeps it open.
//!
//! A page marks its blocks (`<!--live NAME-->` … `<!--/live NAME-->`, by the macro `live`). A
//! stream draws the page again and sends the blocks that differ: one way of drawing for all, with
//! script and without.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
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

/// Turns of pages that ask somebody. Holds when the last of them came.
#[derive(Clone, Debug, Default)]
struct Turns(Arc<tokio::sync::Mutex<Option<Instant>>>);

impl Turns {
    /// Waits for a turn, behind those who wait already. Whoever is dropped meanwhile takes none.
    async fn wait(self) {
        let mut last = self.0.lock().await;
        if let Some(last) = *last {
            sleep_until(last + TURN).await;
        }
        *last = Some(Instant::now());
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
    let next = if renewal == Renewal::InTurn { now + EVERY_ASKING } else { now };
    let own = OpenPage { live: live.clone(), renewal, draw, sent: SentBlocks::default(), next, turn: None, said: now, _open: open };
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
    /// Its wait for a turn, which goes on while something else is sent.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
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
            tokio::select! {
                biased;
                () = sleep_until(self.said + SAY_WITHIN) => {
                    self.said = Instant::now();
                    // A client that has gone is noticed when it is written to.
                    return ":\n\n".to_owned();
                }
                () = Self::due(self.next, self.renewal, &self.live.turns, &mut self.turn) => {}
            }
            let events = self.sent.news(&(self.draw)().await);
            let now = Instant::now();
            self.next = now
                + match self.renewal {
                    Renewal::EachSecond => EVERY,
                    Renewal::InTurn => EVERY_ASKING,
                };
            if !events.is_empty() {
                self.said = now;
                return events;
            }
        }
    }

    /// Waits until the page is to be drawn again.
    async fn due(next: Instant, renewal: Renewal, turns: &Turns, turn: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
        sleep_until(next).await;
        if renewal == Renewal::InTurn {
            turn.get_or_insert_with(|| Box::pin(turns.clone().wait())).await;
            *turn = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pages_that_ask_take_turns_and_those_that_were_closed_take_none() {
        let (turns, begun) = (Turns::default(), Instant::now());
        let mut waits: Vec<_> = (0..12).map(|_| tokio::spawn(turns.clone().wait())).collect();
        tokio::task::yield_now().await;
        // Somebody has looked at one after the other, and keeps the last of them open.
        for wait in waits.drain(1..10) {
            wait.abort();
        }
        let mut came = Vec::new();
        for wait in waits {
            wait.await.unwrap();
            came.push(begun.elapsed().as_secs());
        }
        assert_eq!(came, [0, 3, 6]);
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
