//! Bytes between a parent and a child: batches of payloads one way, answers the other.
//!
//! Both ends are the same executable, so numbers are in the machine's own order and nothing carries
//! a version.
//!
//! ```text
//! parent → child   batch    [bytes that follow: u32] [items: u32]  ( [length: u32] payload )*
//! child → parent   message  [kind: u8] [length: u32] body          hello: the function's name · answer: one that is long · done: nothing
//! on the board     entry    [length: u32] answer
//!                  answer   [item: u32] outcome
//! ```

use std::{
    io::{self, Read},
    panic::AssertUnwindSafe,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{Again, TaskError},
    lane::panic_text,
    outcome::{Outcome, Skip},
};

/// The most bytes of one payload or one answer.
pub(super) const MOST_BYTES: usize = 1 << 30;

pub(super) const HELLO: u8 = b'H';
pub(super) const ANSWER: u8 = b'A';
pub(super) const DONE: u8 = b'D';

/// Appends to a vector, without a copy between.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends a value. After an error `into` is as before.
fn encode<V: Serialize>(value: &V, what: &str, into: &mut Vec<u8>) -> Result<(), TaskError> {
    let start = into.len();
    let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| postcard::serialize_with_flavor(value, Append(into))));
    let why = match encoded {
        Ok(Ok(())) if into.len() - start <= MOST_BYTES => return Ok(()),
        Ok(Ok(())) => format!("it has {} bytes, and {MOST_BYTES} are the most", into.len() - start),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_text(&*panic),
    };
    into.truncate(start);
    let name = std::any::type_name::<V>();
    Err(TaskError::invalid(format!("the {what} ({name}) cannot be sent between processes: {why}")))
}

fn decode<V: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<V, TaskError> {
    let decoded = std::panic::catch_unwind(|| postcard::from_bytes(bytes));
    let why = match decoded {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_text(&*panic),
    };
    let name = std::any::type_name::<V>();
    Err(TaskError::invalid(format!("the {what} ({name}) cannot be read back from what was sent between processes: {why}")))
}

/// The payloads that go to a child together.
pub(super) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    const HEAD: usize = 8;

    pub(super) fn new() -> Self {
        Self { bytes: vec![0; Self::HEAD], count: 0 }
    }

    /// Empties it; memory that one large payload took is given back.
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(Self::HEAD);
        self.bytes.shrink_to(1 << 20);
        self.count = 0;
    }

    /// Adds a payload, which gets the next number.
    pub(super) fn push<T: Serialize>(&mut self, payload: &T) -> Result<(), TaskError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        if let Err(error) = encode(payload, "payload", &mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        let length = (self.bytes.len() - start - 4) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.count += 1;
        Ok(())
    }

    /// Returns how many bytes it has by now.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn finish(&mut self) -> &[u8] {
        let rest = (self.bytes.len() - Self::HEAD) as u32 + 4;
        self.bytes[..4].copy_from_slice(&rest.to_ne_bytes());
        self.bytes[4..8].copy_from_slice(&self.count.to_ne_bytes());
        &self.bytes
    }
}

/// Child: where batches are read into.
pub(super) struct Reader {
    bytes: Vec<u8>,
    /// Number of bytes that have been read, and of those that are the last batch.
    have: usize,
    batch: usize,
}

impl Reader {
    const ROOM: usize = 16 * 1024;

    pub(super) fn new() -> Self {
        Self { bytes: vec![0; Self::ROOM], have: 0, batch: 0 }
    }

    /// Waits for the next batch: the number of its items, and the batch; `None` when nobody wants
    /// anything any more.
    pub(super) fn next(&mut self, mut requests: impl Read) -> io::Result<Option<(u32, &[u8])>> {
        // What was read of the next one already.
        self.bytes.copy_within(self.batch..self.have, 0);
        self.have -= std::mem::take(&mut self.batch);
        if self.bytes.len() > 1 << 20 && self.have <= Self::ROOM {
            // One large payload does not keep its memory.
            self.bytes.truncate(Self::ROOM);
            self.bytes.shrink_to_fit();
        }
        let bytes = &mut self.bytes;
        // Nearly always one read brings a whole batch of tiny items.
        while self.have < Batch::HEAD {
            match requests.read(&mut bytes[self.have..]) {
                Ok(0) => return Ok(None),
                Ok(count) => self.have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let (total, count) = (number(bytes) as usize + 4, number(&bytes[4..]));
        if bytes.len() < total {
            bytes.resize(total, 0);
        }
        if self.have < total {
            requests.read_exact(&mut bytes[self.have..total])?;
            self.have = total;
        }
        self.batch = total;
        Ok(Some((count, &bytes[..total])))
    }
}

/// Child: the payloads of a batch that was read.
pub(super) fn payloads(batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = batch.get(Batch::HEAD..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (item, behind) = entry(rest)?;
        rest = behind;
        Some(item)
    })
}

/// Returns the first `[length] bytes` of a slice, and what comes behind.
pub(super) fn entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = number(bytes.get(..4)?) as usize;
    let end = length.checked_add(4)?;
    Some((bytes.get(4..end)?, &bytes[end..]))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Child: the payload of an item.
pub(super) fn payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TaskError> {
    decode(bytes, "payload")
}

/// Child: appends the outcome of an item; if it cannot be sent, that is the outcome.
pub(super) fn push_outcome<R: Serialize>(outcome: Outcome<R>, into: &mut Vec<u8>) {
    if let Err(error) = encode(&Sent::from(outcome), "result", into) {
        let failed = encode(&Sent::<()>::Failed(error.into()), "error", into);
        debug_assert!(failed.is_ok(), "text can be sent");
    }
}

/// Parent: takes the item's number off an answer.
pub(super) fn item(answer: &[u8]) -> Option<(usize, &[u8])> {
    let (number, outcome) = answer.split_first_chunk()?;
    Some((u32::from_ne_bytes(*number) as usize, outcome))
}

/// Parent: the outcome in an answer; one that cannot be read is a failure.
pub(super) fn outcome<R: DeserializeOwned>(bytes: &[u8]) -> Outcome<R> {
    decode::<Sent<R>>(bytes, "result").map_or_else(Outcome::Failed, Into::into)
}

/// An outcome on its way.
#[derive(Serialize, Deserialize)]
enum Sent<R> {
    Ok(R),
    // Its place is the same whatever `R` is, so that it can be sent instead of an `R` that cannot.
    Failed(SentError),
    Retry(Option<Duration>, SentError),
    Panicked(String),
    TimedOut(Duration),
    Killed(i32),
    Lost(String),
    Cancelled,
    Skipped(u8),
}

/// An error on its way: all of it but the attached value, which may be of any type.
#[derive(Serialize, Deserialize)]
struct SentError {
    kind: String,
    message: String,
    code: Option<i64>,
    tail: Option<String>,
    again: Option<Option<Duration>>,
}

impl From<TaskError> for SentError {
    fn from(error: TaskError) -> Self {
        Self {
            kind: error.kind().to_owned(),
            message: error.message().to_owned(),
            code: error.code(),
            tail: error.tail().map(ToOwned::to_owned),
            again: match error.again() {
                Again::ByPolicy => None,
                Again::Never => Some(None),
                Again::After(time) => Some(Some(time)),
            },
        }
    }
}

impl From<SentError> for TaskError {
    fn from(sent: SentError) -> Self {
        let mut error = TaskError::new(sent.kind, sent.message).with_again(match sent.again {
            None => Again::ByPolicy,
            Some(None) => Again::Never,
            Some(Some(time)) => Again::After(time),
        });
        if let Some(code) = sent.code {
            error = error.with_code(code);
        }
        match sent.tail {
            Some(tail) => error.with_tail(tail),
            None => error,
        }
    }
}

impl<R> From<Outcome<R>> for Sent<R> {
    fn from(outcome: Outcome<R>) -> Self {
        match outcome {
            Outcome::Ok(result) => Sent::Ok(result),
            Outcome::Failed(error) => Sent::Failed(error.into()),
            Outcome::Retry { after, why } => Sent::Retry(after, why.into()),
            Outcome::Panicked(text) => Sent::Panicked(text),
            Outcome::TimedOut { limit } => Sent::TimedOut(limit),
            Outcome::Killed { signal } => Sent::Killed(signal),
            Outcome::Lost(why) => Sent::Lost(why),
            Outcome::Cancelled => Sent::Cancelled,
            Outcome::Skipped(skip) => Sent::Skipped(match skip {
                Skip::Expired => 0,
                Skip::Revoked => 1,
                Skip::Duplicate => 2,
                Skip::Elsewhere => 3,
            }),
        }
    }
}

impl<R> From<Sent<R>> for Outcome<R> {
    fn from(sent: Sent<R>) -> Self {
        match sent {
            Sent::Ok(result) => Outcome::Ok(result),
            Sent::Failed(error) => Outcome::Failed(error.into()),
            Sent::Retry(after, why) => Outcome::Retry { after, why: why.into() },
            Sent::Panicked(text) => Outcome::Panicked(text),
            Sent::TimedOut(limit) => Outcome::TimedOut { limit },
            Sent::Killed(signal) => Outcome::Killed { signal },
            Sent::Lost(why) => Outcome::Lost(why),
            Sent::Cancelled => Outcome::Cancelled,
            Sent::Skipped(0) => Outcome::Skipped(Skip::Expired),
            Sent::Skipped(1) => Outcome::Skipped(Skip::Revoked),
            Sent::Skipped(2) => Outcome::Skipped(Skip::Duplicate),
            Sent::Skipped(_) => Outcome::Skipped(Skip::Elsewhere),
        }
    }
}

/// Parent: what has arrived of a child's messages.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
    piece: Box<[u8]>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), taken: 0, piece: vec![0; 16 * 1024].into() }
    }

    /// Reads what is there, without waiting; whether nobody can say any more.
    pub(super) fn fill(&mut self, mut answers: impl Read) -> io::Result<bool> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        loop {
            match answers.read(&mut self.piece) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    self.bytes.extend_from_slice(&self.piece[..count]);
                    if count < self.piece.len() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns true if there is a message that is complete.
    pub(super) fn has_next(&self) -> bool {
        self.bytes[self.taken..].get(1..).is_some_and(|behind| entry(behind).is_some())
    }

    /// Returns the next message that is complete: its kind and its body. `Err` for what no child of
    /// ours sends.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &[u8])>, &'static str> {
        let rest = &self.bytes[self.taken..];
        let Some((&kind, behind)) = rest.split_first() else {
            if self.bytes.capacity() > 1 << 20 {
                // One large answer does not keep its memory.
                *self = Self::new();
            }
            return Ok(None);
        };
        if !matches!(kind, HELLO | ANSWER | DONE) || number(behind) as usize > MOST_BYTES + 4 {
            return Err("it sent what is no message");
        }
        let Some((body, _)) = entry(behind) else { return Ok(None) };
        self.taken += 1 + 4 + body.len();
        let end = self.taken;
        Ok(Some((kind, &self.bytes[end - body.len()..end])))
    }
}

/// Child: a message.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + body.len());
    bytes.push(kind);
    bytes.extend_from_slice(&(body.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_batch_comes_out_as_it_went_in_however_it_is_cut() {
        let mut batch = Batch::new();
        for payload in ["one", "", "three"] {
            batch.push(&payload.to_owned()).unwrap();
        }
        // Two of them may be there at once.
        let sent = batch.finish().repeat(2);
        struct Trickle<'a>(&'a [u8], usize);
        impl Read for Trickle<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(into.len());
                into[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        for step in [1, 3, 1000] {
            let mut reader = Reader::new();
            let mut from = Trickle(&sent, step);
            for _ in 0..2 {
                let (count, batch) = reader.next(&mut from).unwrap().unwrap();
                let payloads: Vec<String> = payloads(batch).map(|bytes| payload(bytes).unwrap()).collect();
                assert_eq!((count, payloads), (3, vec!["one".to_owned(), String::new(), "three".to_owned()]));
            }
            assert!(reader.next(&mut from).unwrap().is_none());
        }
    }

    #[test]
    fn outcomes_travel_whole() {
        let error = || TaskError::new("status", "busy").with_code(503).with_tail("later").with_again(Again::After(Duration::from_secs(2)));
        for outcome in [
            Outcome::Ok((7, "x".to_owned())),
            Outcome::Failed(error()),
            Outcome::Failed(TaskError::invalid("no")),
            Outcome::Retry { after: Some(Duration::from_millis(5)), why: error() },
            Outcome::Panicked("oh".to_owned()),
            Outcome::TimedOut { limit: Duration::from_secs(1) },
            Outcome::Killed { signal: 9 },
            Outcome::Lost("gone".to_owned()),
            Outcome::Cancelled,
            Outcome::Skipped(Skip::Revoked),
        ] {
            let mut bytes = Vec::new();
            push_outcome(outcome.clone(), &mut bytes);
            let back: Outcome<(i32, String)> = super::outcome(&bytes);
            assert_eq!(format!("{back:?}"), format!("{outcome:?}"));
            assert_eq!(back.error().map(|error| error.again()), outcome.error().map(|error| error.again()));
        }
    }

    /// A type that says how long it is only at its end, which this format cannot carry, and one
    /// that panics.
    enum Bad {
        Unknown,
        Panics,
    }

    impl Serialize for Bad {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Bad::Unknown => serde::ser::SerializeSeq::end(serializer.serialize_seq(None)?),
                Bad::Panics => panic!("not today"),
            }
        }
    }

    #[test]
    fn what_cannot_be_sent_says_so_and_leaves_nothing_behind() {
        let mut batch = Batch::new();
        for (bad, why) in [(Bad::Unknown, "payload"), (Bad::Panics, "not today")] {
            let error = batch.push(&bad).unwrap_err();
            assert!(error.message().contains(why) && error.message().contains("Bad"), "{error}");
        }
        assert_eq!((batch.len(), batch.count), (Batch::HEAD, 0));
        let mut bytes = Vec::new();
        push_outcome(Outcome::Ok(Bad::Panics), &mut bytes);
        let told: Outcome<HashMap<u8, u8>> = super::outcome(&bytes);
        assert!(matches!(&told, Outcome::Failed(error) if error.message().contains("not today")), "{told:?}");
        assert!(matches!(super::outcome::<u32>(&[200]), Outcome::Failed(_)));
    }

    #[test]
    fn messages_come_whole_or_not_at_all_and_nonsense_is_refused() {
        let mut inbox = Inbox::new();
        let sent = [message(ANSWER, b"long"), message(DONE, b"")].concat();
        assert!(!inbox.fill(Chunk(&sent[..7])).unwrap());
        assert_eq!(inbox.next(), Ok(None));
        assert!(!inbox.fill(Chunk(&sent[7..])).unwrap());
        assert_eq!(inbox.next(), Ok(Some((ANSWER, b"long".as_slice()))));
        assert_eq!(inbox.next(), Ok(Some((DONE, b"".as_slice()))));
        assert_eq!(inbox.next(), Ok(None));
        assert!(inbox.fill(io::empty()).unwrap());
        for nonsense in [b"?\0\0\0\0".as_slice(), b"A\xff\xff\xff\xff"] {
            let mut inbox = Inbox::new();
            inbox.fill(Chunk(nonsense)).unwrap();
            assert!(inbox.next().is_err(), "{nonsense:?}");
        }
    }

    /// Gives its bytes once and then would block.
    struct Chunk<'a>(&'a [u8]);

    impl Read for Chunk<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = self.0.len().min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }
}
