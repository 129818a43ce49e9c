//! Children that take several pieces of work at once, and answer them in any order.
//!
//! What goes through a child's stdin and stdout is frames, numbers little-endian:
//!
//! ```text
//! frame            [length of the rest: u32] [kind: u8] [number: u64] body
//! parent → child   T  a piece of work     S  it should end soon           the end of the stream: end, when all is answered
//! child → parent   H  ready (number 0)    B  it has begun a piece of work A  the answer to one
//! ```
//!
//! A child says `H` once, when it is ready, and `B` before it begins a piece: when it dies, those
//! that it had begun have the blame, and the others go to another child. What it prints must not go
//! to its stdout: it keeps a copy of that descriptor for frames, and puts stderr in its place.

use std::{fmt, io, os::fd::BorrowedFd, sync::Arc, time::Duration};

use super::{
    ChildLimits, ChildLink,
    link::{ChildKind, Resting, Said, TalkLink, Woken},
    talk::{HearStderr, Talk},
};
use crate::{
    clock,
    error::{Again, TaskError},
    lane::child::{Child, Children, Command, Stdin},
};

/// Longest time that a child may take until it is ready.
const START_UP: Duration = Duration::from_secs(20);
/// Bytes of a frame in front of its body, without its length.
const HEAD: usize = 9;

/// Children that take several pieces of work at once, in frames; the module says what those are.
#[derive(Clone)]
#[non_exhaustive]
pub struct Frames {
    /// The program. A child knows its slot as `LONGSHORE_SLOT`.
    pub command: Command,
    /// The longest answer, in bytes.
    pub max_answer: usize,
    hear_stderr: Option<HearStderr>,
}

impl Frames {
    /// Makes children that run this command; answers have 16 MiB at most.
    pub fn new(command: Command) -> Self {
        Self { command: Command { stdin: Stdin::Open, ..command }, max_answer: 16 << 20, hear_stderr: None }
    }

    /// Sets [`max_answer`](Self::max_answer).
    #[must_use]
    pub fn max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    /// Hands on what children write to their standard error, as it comes. It is called by the
    /// thread that keeps their time: it must not wait.
    #[must_use]
    pub fn on_stderr(mut self, hear: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.hear_stderr = Some(HearStderr(Arc::new(hear)));
        self
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("command", &self.command).field("max_answer", &self.max_answer).finish_non_exhaustive()
    }
}

impl ChildKind for Frames {
    type Link = FrameLink;

    const FRUITLESS: u32 = 3;

    fn start(&self, slot: u32, children: &Children, limits: &ChildLimits) -> Result<FrameLink, TaskError> {
        let mut command = self.command.clone();
        command.env.push(("LONGSHORE_SLOT".into(), slot.to_string().into()));
        let talk = Talk::new(children.start(slot, &command)?, self.hear_stderr.clone());
        let mut link = FrameLink { talk, in_flight: 0, max_answer: self.max_answer };
        match link.hello(children, limits.start_up.unwrap_or(START_UP)) {
            Ok(()) => Ok(link),
            Err(why) => {
                link.talk.drain(false);
                let tail = link.talk.tail();
                let name = command.program.to_string_lossy();
                let exit = link.talk.child.reap().map_or_else(|error| error.to_string(), |end| end.status.exit.to_string());
                let error = TaskError::new("setup", format!("the child `{name}` {why} ({exit})"));
                Err(tail.map_or(error.clone(), |tail| error.with_tail(tail)).with_again(Again::ByPolicy))
            }
        }
    }
}

/// One child that is talked to in frames.
#[derive(Debug)]
pub struct FrameLink {
    talk: Talk,
    in_flight: usize,
    max_answer: usize,
}

impl FrameLink {
    fn hello(&mut self, children: &Children, patience: Duration) -> Result<(), &'static str> {
        let until = clock::now().checked_add(patience);
        loop {
            let left = until.map(|until| until.saturating_duration_since(clock::now()));
            let woken = self.talk.wait([Some(children.stop_fd()), None], left).map_err(|_| "could not be heard")?;
            match take(&mut self.talk.heard, self.max_answer) {
                Ok(Some((b'H', ..))) => return Ok(()),
                Ok(Some(_)) | Err(_) => return Err("said something else than that it is ready"),
                Ok(None) if woken.gone => return Err("ended before it was ready"),
                Ok(None) if woken.others[0] => return Err("was stopped before it was ready"),
                Ok(None) if left.is_some_and(|left| left.is_zero()) => return Err("did not get ready in time"),
                Ok(None) => {}
            }
        }
    }
}

impl ChildLink for FrameLink {
    fn child(&self) -> &Child {
        &self.talk.child
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn retire(self, limits: &ChildLimits) {
        self.talk.retire(limits);
    }
}

impl TalkLink for FrameLink {
    fn rest(&mut self) -> Resting {
        match self.talk.look() {
            _ if !self.talk.heard.is_empty() => Resting::Wrong(TaskError::new("answer", "the child spoke while it had nothing to do")),
            true => Resting::Quiet,
            false => Resting::Ended,
        }
    }

    fn send(&mut self, id: u64, work: &[u8]) {
        self.in_flight += 1;
        self.talk.tell(&[&head(b'T', id, work.len()), work]);
    }

    fn wait(&mut self, others: [Option<BorrowedFd<'_>>; 2], time: Option<Duration>) -> io::Result<Woken> {
        self.talk.wait(others, time)
    }

    fn said(&mut self) -> Result<Option<Said>, TaskError> {
        match take(&mut self.talk.heard, self.max_answer)? {
            None => Ok(None),
            Some((b'B', id, _)) => Ok(Some(Said::Begun(id))),
            Some((b'A', id, body)) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                Ok(Some(Said::Answer(id, body)))
            }
            Some((kind, ..)) => Err(garbage(kind)),
        }
    }

    fn soften(&mut self, id: u64) {
        self.talk.tell(&[&head(b'S', id, 0)]);
    }

    fn may_have_begun(&self) -> Option<u64> {
        None
    }

    fn last_said(&mut self) -> Vec<Said> {
        self.talk.drain(true);
        std::iter::from_fn(|| self.said().ok().flatten()).collect()
    }

    fn tail(&self) -> Option<String> {
        self.talk.tail()
    }

    fn into_child(self) -> Child {
        self.talk.child
    }
}

/// Returns the bytes that stand in front of a body.
fn head(kind: u8, id: u64, body: usize) -> [u8; 4 + HEAD] {
    let mut head = [0; 4 + HEAD];
    head[..4].copy_from_slice(&((body + HEAD) as u32).to_le_bytes());
    head[4] = kind;
    head[5..].copy_from_slice(&id.to_le_bytes());
    head
}

/// Takes the first frame that is there whole: its kind, its number, its body.
fn take(heard: &mut Vec<u8>, max_answer: usize) -> Result<Option<(u8, u64, Vec<u8>)>, TaskError> {
    let Some((length, rest)) = heard.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    // Before more is read than anybody asked for: what is no frame has any length.
    let kind = rest.first().copied();
    if let Some(kind) = kind.filter(|kind| !matches!(kind, b'H' | b'B' | b'A')) {
        return Err(garbage(kind));
    }
    if length < HEAD {
        return Err(TaskError::new("answer", "the child wrote what is no frame: it has no number"));
    }
    if length - HEAD > max_answer {
        let message = format!("the child wrote an answer of {} bytes, and {max_answer} are the most", length - HEAD);
        return Err(TaskError::new("answer", message).with_again(Again::Never));
    }
    let Some(frame) = rest.get(..length) else { return Ok(None) };
    let (Some((&kind, numbered)), behind) = (frame.split_first(), 4 + length) else { return Ok(None) };
    let (id, body) = numbered.split_first_chunk::<8>().map_or((0, Vec::new()), |(id, body)| (u64::from_le_bytes(*id), body.to_vec()));
    heard.drain(..behind);
    if heard.is_empty() {
        // One large answer does not keep its memory.
        heard.shrink_to(1 << 20);
    }
    Ok(Some((kind, id, body)))
}

fn garbage(kind: u8) -> TaskError {
    TaskError::new("answer", format!("the child wrote what is no frame: it begins with {:?}", char::from(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
        [&head(kind, id, body.len())[..], body].concat()
    }

    proptest! {
        #[test]
        fn frames_come_whole_and_in_order_however_they_are_cut(
            sent in prop::collection::vec((prop::sample::select(vec![b'H', b'B', b'A']), any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            step in 1_usize..50,
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|(kind, id, body)| frame(*kind, *id, body)).collect();
            let (mut heard, mut came) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(step) {
                heard.extend_from_slice(piece);
                while let Some(frame) = take(&mut heard, 1 << 20).unwrap() {
                    came.push(frame);
                }
            }
            prop_assert_eq!(came, sent);
        }
    }

    #[test]
    fn what_is_no_frame_is_told_as_soon_as_it_can_be() {
        for (bytes, want) in [
            (b"hello, world".to_vec(), "no frame"),
            (frame(b'A', 1, &[0; 11]), "11 bytes, and 10 are the most"),
            (vec![3, 0, 0, 0, b'A'], "no number"),
        ] {
            let error = take(&mut bytes.clone(), 10).unwrap_err();
            assert!(error.message().contains(want), "{error}");
        }
    }
}
