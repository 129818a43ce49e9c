//! Notes of what somebody asked to be sent once, under a key of their own: who asks again, after an
//! answer that never came, is told the same id.

use std::time::Duration;

/// A request to send a task once, whoever else asks with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendNote {
    /// The key that was chosen by whoever asks.
    pub key: String,
    /// Digest of what is asked for: the same key for something else is a mistake.
    pub digest: String,
    /// Id that the task gets, if nobody has asked before.
    pub id: String,
    /// Word of whoever sends it, which no other has.
    pub by: String,
    /// Time for which the others leave the sending to that one.
    pub hold: Duration,
    /// Time for which the note is kept.
    pub keep: Duration,
}

/// Answer to a [`SendNote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotedSend {
    /// Nobody has asked before: it is for the asker to send it, under its id.
    First,
    /// Somebody was to send it under this id, and has not said that it was done: whether it was is
    /// unknown. It is for the asker to find out, and to send it.
    Unfinished {
        /// The task's id.
        id: String,
    },
    /// Somebody else is sending it under this id now.
    Underway {
        /// The task's id.
        id: String,
    },
    /// It was sent under this id.
    Sent {
        /// The task's id.
        id: String,
    },
    /// The key stands for something else.
    Other,
}

/// End of a sending that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotedEnd {
    /// The broker has the task.
    Sent,
    /// It certainly has not: the note is forgotten.
    NotSent,
    /// Nobody knows: the next one who asks may find out at once.
    Unknown,
}
