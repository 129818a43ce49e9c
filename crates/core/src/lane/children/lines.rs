//! Children that answer one line for each line.
//!
//! What a child says while it was not asked is a mistake that would shift every answer after it:
//! such a child is ended and replaced. So is one that answers without end.
//!
//! What cannot be seen: a line too many that is written after the child has read its next line of
//! work. It counts as the answer to that; the true one comes behind it, and ends the child and
//! fails the task that is then its.
//!
//! A child that works its lines off one after the other, and answers in their order, may have
//! several at once ([`ChildLimits::at_once`]), of which it works on the first. A new child has one
//! until it has answered.

use std::{collections::VecDeque, io, os::fd::BorrowedFd, time::Duration};

use super::{
    ChildLimits, ChildLink,
    link::{ChildKind, Resting, Said, TalkLink, Woken},
    talk::Talk,
};
use crate::{
    error::{Again, TaskError},
    lane::child::{Child, Children, Command, Stdin},
};

/// Time for which the first answer of a child is held back, to see whether another line follows
/// that nobody asked for.
const GREETING: Duration = Duration::from_millis(100);

/// Children that answer one line for each line, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lines {
    /// The program. A child knows its slot as `LONGSHORE_SLOT`.
    pub command: Command,
    /// The longest answer, in bytes.
    pub max_answer: usize,
    /// The name of the setting that allows longer ones, for whoever meets the limit.
    pub setting: &'static str,
}

impl Lines {
    /// Makes children that run this command; answers have 16 MiB at most.
    pub fn new(command: Command) -> Self {
        Self { command: Command { stdin: Stdin::Open, ..command }, max_answer: 16 << 20, setting: "" }
    }

    /// Sets [`max_answer`](Self::max_answer), and the name of the setting that it comes from.
    #[must_use]
    pub fn max_answer(mut self, bytes: usize, setting: &'static str) -> Self {
        (self.max_answer, self.setting) = (bytes, setting);
        self
    }
}

impl ChildKind for Lines {
    type Link = LineLink;

    /// One, because a child that ends before it has read anything will do so again.
    const FRUITLESS: u32 = 1;

    fn start(&self, slot: u32, children: &Children, _: &ChildLimits) -> Result<LineLink, TaskError> {
        let mut command = self.command.clone();
        command.env.push(("LONGSHORE_SLOT".into(), slot.to_string().into()));
        let talk = Talk::new(children.start(slot, &command)?, None);
        let Self { max_answer, setting, .. } = *self;
        Ok(LineLink { talk, asked: VecDeque::new(), taken: 0, scanned: 0, read: 0, is_new: true, max_answer, setting })
    }
}

/// One child, with what it is told and what it wrote.
#[derive(Debug)]
pub struct LineLink {
    talk: Talk,
    /// The lines that it has not answered yet.
    asked: VecDeque<AskedLine>,
    /// Bytes of what it wrote that are answers which were taken.
    taken: usize,
    /// Bytes of what it wrote that are known to hold no end of a line that was not taken.
    scanned: usize,
    /// Bytes of all that it was told that it is known to have read.
    read: u64,
    /// True until it has answered something.
    is_new: bool,
    max_answer: usize,
    setting: &'static str,
}

/// A line that a child has.
#[derive(Debug)]
struct AskedLine {
    id: u64,
    /// Where it begins and ends among all bytes that the child was ever told.
    from: u64,
    to: u64,
}

impl ChildLink for LineLink {
    fn child(&self) -> &Child {
        &self.talk.child
    }

    fn in_flight(&self) -> usize {
        self.asked.len()
    }

    fn retire(self, limits: &ChildLimits) {
        self.talk.retire(limits);
    }
}

impl TalkLink for LineLink {
    fn rest(&mut self) -> Resting {
        let is_there = self.talk.look();
        match () {
            () if !self.talk.heard.is_empty() => Resting::Wrong(unasked(&self.talk.heard)),
            () if is_there => Resting::Quiet,
            () => Resting::Ended,
        }
    }

    fn send(&mut self, id: u64, work: &[u8]) {
        let (from, _) = self.talk.told();
        self.talk.tell(&[work, b"\n"]);
        self.asked.push_back(AskedLine { id, from, to: from + work.len() as u64 + 1 });
    }

    fn most(&self, at_once: usize) -> usize {
        if self.is_new { 1 } else { at_once }
    }

    fn wait(&mut self, others: [Option<BorrowedFd<'_>>; 2], time: Option<Duration>) -> io::Result<Woken> {
        self.talk.wait(others, time)
    }

    fn said(&mut self) -> Result<Option<Said>, TaskError> {
        let (Some(first), heard) = (self.asked.front(), &self.talk.heard) else { return Ok(None) };
        let found = heard[self.scanned..].iter().position(|byte| *byte == b'\n').map(|at| self.scanned + at);
        let Some(at) = found else {
            // The beginning of an answer stands first, so that it can grow.
            self.talk.heard.drain(..self.taken);
            (self.taken, self.scanned) = (0, self.talk.heard.len());
            return if self.scanned > self.max_answer { Err(self.too_long()) } else { Ok(None) };
        };
        let (answer, rest) = (self.taken..at, &heard[at + 1..]);
        if first.to > self.talk.told().1 {
            return Err(TaskError::new("answer", "the child answered before it had read its line"));
        }
        if answer.len() > self.max_answer {
            return Err(self.too_long());
        }
        if self.asked.len() == 1 && !rest.is_empty() {
            return Err(unasked(rest));
        }
        // It cannot be the answer of a line that lies in the pipe still: it came late for an
        // earlier one.
        if self.read <= first.from {
            self.read = self.talk.has_read();
        }
        if self.read <= first.from {
            return Err(unasked(&heard[answer]));
        }
        let id = first.id;
        let answer = if rest.is_empty() && self.taken == 0 {
            let mut answer = std::mem::take(&mut self.talk.heard);
            answer.truncate(at);
            answer
        } else {
            heard[answer].to_vec()
        };
        // A program that greets its user writes that before it has read anything, and its own
        // answer comes right behind.
        if std::mem::take(&mut self.is_new) {
            self.talk.linger(GREETING);
            if !self.talk.heard.is_empty() {
                return Err(unasked(&answer));
            }
        }
        self.asked.pop_front();
        if at + 1 >= self.talk.heard.len() {
            self.talk.heard.clear();
            (self.taken, self.scanned) = (0, 0);
        } else {
            (self.taken, self.scanned) = (at + 1, at + 1);
        }
        Ok(Some(Said::Answer(id, answer)))
    }

    fn soften(&mut self, _: u64) {
        self.talk.child.terminate();
    }

    /// Returns the first that it has not answered, if it has read any of it: it answers in order.
    fn may_have_begun(&self) -> Option<u64> {
        let first = self.asked.front()?;
        (self.talk.heard.len() > self.taken || self.talk.has_read() > first.from).then_some(first.id)
    }

    /// Returns nothing: it cannot be known any more whether its last line is the answer to what it
    /// was asked.
    fn last_said(&mut self) -> Vec<Said> {
        self.talk.drain(false);
        Vec::new()
    }

    fn tail(&self) -> Option<String> {
        self.talk.tail()
    }

    fn into_child(self) -> Child {
        self.talk.child
    }
}

impl LineLink {
    fn too_long(&self) -> TaskError {
        let message = format!("the answer is longer than {} bytes{}", self.max_answer, self.setting);
        TaskError::new("answer", message).with_again(Again::Never)
    }
}

fn unasked(line: &[u8]) -> TaskError {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let shown: String = String::from_utf8_lossy(line).chars().take(80).collect();
    TaskError::new("answer", format!("the child wrote a line that nobody asked for, and was ended: `{shown}`"))
}
