//! Lines of a body, as they come: no more of it is read than is asked for.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::StatusCode,
};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::error::WebError;

/// Time in which a further line has to come to its end, whatever comes of it meanwhile: a byte now
/// and then would hold a connection for ever.
const LINE_WITHIN: Duration = Duration::from_secs(60);

/// A line with its number (from 1), or why it is not taken.
pub(super) type NumberedLine = (u64, Result<Vec<u8>, WebError>);

/// Reads lines of bounded length.
pub(super) struct LineReader {
    chunks: BodyDataStream,
    longest: usize,
    read: Vec<u8>,
    /// Place in `read` before which everything was given out.
    given: usize,
    /// Place in `read` before which there is no end of a line.
    looked: usize,
    /// The line is too long: what comes of it is thrown away.
    skips: bool,
    number: u64,
    has_ended: bool,
}

impl LineReader {
    pub(super) fn new(body: Body, longest: usize) -> Self {
        let chunks = body.into_data_stream();
        Self { chunks, longest, read: Vec::new(), given: 0, looked: 0, skips: false, number: 0, has_ended: false }
    }

    /// Waits for a line, and takes those that have come with it, up to `most`. None: it has ended.
    ///
    /// # Errors
    /// The client has gone, or no line came to its end for too long.
    pub(super) async fn some(&mut self, most: usize) -> Result<Vec<NumberedLine>, WebError> {
        let mut lines = Vec::new();
        let until = Instant::now() + LINE_WITHIN;
        while lines.len() < most {
            if let Some(line) = self.next() {
                lines.push(line);
                continue;
            }
            if self.has_ended {
                break;
            }
            let chunk = if lines.is_empty() {
                let silent = |_| {
                    let said = format!("no line came to its end within {} s", LINE_WITHIN.as_secs());
                    WebError::new(StatusCode::REQUEST_TIMEOUT, said)
                };
                timeout_at(until, self.chunks.next()).await.map_err(silent)?
            } else {
                // What is here already, and no more.
                match self.chunks.next().now_or_never() {
                    Some(chunk) => chunk,
                    None => break,
                }
            };
            match chunk {
                Some(Ok(chunk)) => self.add(&chunk),
                Some(Err(error)) => {
                    return Err(WebError::new(StatusCode::BAD_REQUEST, format!("the body could not be read any further: {error}")));
                }
                None => self.has_ended = true,
            }
        }
        Ok(lines)
    }

    fn add(&mut self, chunk: &[u8]) {
        self.read.drain(..self.given);
        self.looked -= self.given;
        self.given = 0;
        self.read.extend_from_slice(chunk);
    }

    /// Takes a line of what was read; blank ones are counted and passed over.
    fn next(&mut self) -> Option<NumberedLine> {
        loop {
            let end = self.read[self.looked..].iter().position(|byte| *byte == b'\n').map(|at| self.looked + at);
            let Some(end) = end.or((self.has_ended && (self.given < self.read.len() || self.skips)).then_some(self.read.len())) else {
                self.looked = self.read.len();
                if self.read.len() - self.given > self.longest {
                    self.skips = true;
                    (self.given, self.looked) = (0, 0);
                    self.read.clear();
                }
                return None;
            };
            let line = &self.read[self.given..end];
            let is_long = std::mem::take(&mut self.skips) || line.len() > self.longest;
            let line = if is_long || line.iter().all(u8::is_ascii_whitespace) { Vec::new() } else { line.to_vec() };
            self.number += 1;
            self.given = (end + 1).min(self.read.len());
            self.looked = self.given;
            if is_long {
                let said = format!("a line has at most {} bytes", self.longest);
                return Some((self.number, Err(WebError::new(StatusCode::PAYLOAD_TOO_LARGE, said))));
            }
            if !line.is_empty() {
                return Some((self.number, Ok(line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Bytes;

    use super::*;

    /// Returns the lines of a body that comes in these chunks: number and text, none for what is
    /// too long.
    async fn lines(chunks: &[&str], longest: usize, most: usize) -> Vec<(u64, Option<String>)> {
        let chunks: Vec<Result<Bytes, Infallible>> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk.as_bytes()))).collect();
        let mut reader = LineReader::new(Body::from_stream(futures_util::stream::iter(chunks)), longest);
        let mut lines = Vec::new();
        loop {
            let some = reader.some(most).await.unwrap();
            if some.is_empty() {
                return lines;
            }
            assert!(some.len() <= most);
            lines.extend(some.into_iter().map(|(number, line)| (number, line.ok().map(|line| String::from_utf8(line).unwrap()))));
        }
    }

    #[tokio::test]
    async fn lines_are_the_same_however_they_come_in_pieces() {
        let text = "one\n\n  \nfour\r\nthis is too long\nsix\n\u{e9}t\u{e9} \n and the very last";
        let expected = [
            (1, Some("one".to_owned())),
            (4, Some("four\r".to_owned())),
            (5, None),
            (6, Some("six".to_owned())),
            (7, Some("\u{e9}t\u{e9} ".to_owned())),
            (8, None),
        ];
        for size in 1..text.len() {
            let mut chunks = Vec::new();
            let mut rest = text;
            while !rest.is_empty() {
                let cut = (size..=rest.len()).find(|cut| rest.is_char_boundary(*cut)).unwrap_or(rest.len());
                chunks.push(&rest[..cut]);
                rest = &rest[cut..];
            }
            for most in [1, 3, 100] {
                assert_eq!(lines(&chunks, 8, most).await, expected, "chunks of {size}, {most} at once");
            }
        }
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_gathered() {
        let chunks = vec![Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1_000])); 1_000];
        let mut reader = LineReader::new(Body::from_stream(futures_util::stream::iter(chunks)), 100);
        assert_eq!(reader.some(8).await.unwrap().pop().unwrap().1.unwrap_err().status, 413);
        assert!(reader.read.capacity() < 10_000, "{}", reader.read.capacity());
        assert_eq!(reader.some(8).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_more_is_told_so() {
        let mut reader = LineReader::new(Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>()), 100);
        assert_eq!(reader.some(8).await.unwrap_err().status, 408);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_no_line_and_a_line_now_and_then_is_one() {
        let each = |text: &'static str| {
            let chunks = futures_util::stream::unfold((), move |()| async move {
                tokio::time::sleep(Duration::from_secs(59)).await;
                Some((Ok::<_, Infallible>(Bytes::from(text)), ()))
            });
            LineReader::new(Body::from_stream(chunks), 100)
        };
        for drip in ["x", "\n"] {
            let begun = Instant::now();
            assert_eq!(each(drip).some(8).await.unwrap_err().status, 408);
            assert_eq!(begun.elapsed(), LINE_WITHIN);
        }
        let mut lines = each("{}\n");
        for number in 1..5 {
            assert_eq!(lines.some(8).await.unwrap(), [(number, Ok(b"{}".to_vec()))]);
        }
    }
}
