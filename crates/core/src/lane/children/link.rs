//! Traits of a child, whatever it is told and says.

use std::{io, os::fd::BorrowedFd, time::Duration};

use longshore_sys::isolated::resident_bytes;

use super::ChildLimits;
use crate::{
    error::TaskError,
    lane::child::{Child, Children},
};

/// A living child, and the way to talk to it. What is sent and said differs from link to link: a
/// shared board for functions of this program, lines and frames for other programs.
pub trait ChildLink {
    /// Returns the process: its end, its group.
    fn child(&self) -> &Child;

    /// Returns how many pieces of work it has that it has not answered.
    fn in_flight(&self) -> usize;

    /// Lets it end by itself for a while, when it has nothing to do; kills what is left.
    fn retire(self, limits: &ChildLimits);

    /// Returns the memory that it holds now, in bytes.
    fn resident(&self) -> u64 {
        resident_bytes(self.child().pid()).unwrap_or(0)
    }
}

/// A kind of child that is told pieces of work, each as bytes with a number, and answers them.
pub trait ChildKind: Send + Sync {
    /// The way to talk to one.
    type Link: TalkLink + Send;

    /// Number of children in a row that end before they have begun anything, from which on their
    /// work is to blame for it.
    const FRUITLESS: u32;

    /// Starts one in this slot.
    ///
    /// # Errors
    /// As [`Children::start`]; and when it does not get ready.
    fn start(&self, slot: u32, children: &Children, limits: &ChildLimits) -> Result<Self::Link, TaskError>;
}

/// The way to talk to a child of such a kind. Nothing here waits but [`wait`](Self::wait).
pub trait TalkLink: ChildLink {
    /// Looks at what it did while it had nothing to do.
    fn rest(&mut self) -> Resting;

    /// Sends it a piece of work, with the next [`wait`](Self::wait).
    fn send(&mut self, id: u64, work: &[u8]);

    /// Returns how many pieces it may have now, of this many that its limits allow.
    fn most(&self, at_once: usize) -> usize {
        at_once
    }

    /// Sends and reads what can be, once something can be, or one of the others is ready to be
    /// read, or the time is over.
    ///
    /// # Errors
    /// What poll(2) says.
    fn wait(&mut self, others: [Option<BorrowedFd<'_>>; 2], time: Option<Duration>) -> io::Result<Woken>;

    /// Returns the next thing that it has said.
    ///
    /// # Errors
    /// What it said wrongly, which ends it.
    fn said(&mut self) -> Result<Option<Said>, TaskError>;

    /// Asks it to end this piece of work soon.
    fn soften(&mut self, id: u64);

    /// Returns the work that it may have begun without having said so.
    fn may_have_begun(&self) -> Option<u64>;

    /// Reads what is left of a child that was killed or has ended; returns what counts of it.
    fn last_said(&mut self) -> Vec<Said>;

    /// Returns the last of what it wrote to its standard error.
    fn tail(&self) -> Option<String>;

    /// Returns the process, to be reaped.
    fn into_child(self) -> Child;
}

/// Behaviour of a child while it had nothing to do.
#[derive(Debug)]
pub enum Resting {
    /// Nothing.
    Quiet,
    /// It ended.
    Ended,
    /// It said what nobody asked for.
    Wrong(TaskError),
}

/// Message of a child.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// It has begun a piece of work that it had got before.
    Begun(u64),
    /// It has done a piece of work.
    Answer(u64, Vec<u8>),
}

/// Reason why a wait has ended.
#[derive(Clone, Copy, Debug)]
pub struct Woken {
    /// It has ended, or closed its output, and all that it said has been read.
    pub gone: bool,
    /// The others that are ready.
    pub others: [bool; 2],
}
