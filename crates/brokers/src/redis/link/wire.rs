//! A connection in service: who is owed which replies.

use std::{collections::VecDeque, io, sync::Arc, task::Poll};

use tokio::{runtime::Handle, time::Instant};

use super::{
    super::{
        connection::Connection,
        fail::{Fail, Refusal, refusal},
        resp::Reply,
    },
    Request,
    changes::Changes,
};

/// A connection, and those whose replies it owes.
pub(super) struct Wire {
    pub(super) connection: Connection,
    pub(super) waiting: VecDeque<Waiting>,
    /// Runtime on which the task lives.
    pub(super) runtime: Handle,
    pub(super) heard: Instant,
    /// Changes of what was asked for, where that is tracked.
    pub(super) changes: Option<Arc<Changes>>,
    /// Error that a caller found when it looked for its answer.
    pub(super) broken: Option<io::Error>,
}

/// Point up to which replies are read.
#[derive(PartialEq)]
pub(super) enum Until {
    /// Everybody has his.
    Answered,
    /// Nothing more is there.
    Nothing,
}

/// A request that was written.
pub(super) struct Waiting {
    request: Request,
    replies: Vec<Reply>,
    /// One of them says that the server may not do it any more.
    moved: bool,
}

impl Waiting {
    pub(super) fn new(request: Request) -> Self {
        Self { request, replies: Vec::new(), moved: false }
    }

    pub(super) fn end(self, result: Result<Vec<Reply>, Fail>) {
        let _ = self.request.done.send(result);
    }
}

impl Wire {
    /// Takes a request up, to be written with the next flush.
    pub(super) fn admit(&mut self, request: Request) {
        // Its caller has given up, so it is not done at all.
        if request.done.is_closed() {
            return;
        }
        if self.waiting.is_empty() {
            self.heard = Instant::now();
        }
        request.pack.write_to(&mut self.connection.out);
        self.waiting.push_back(Waiting::new(request));
    }

    /// Hands out the replies that are there, and those that `fill` brings.
    pub(super) fn read(&mut self, mut fill: impl FnMut(&mut Connection) -> Poll<io::Result<()>>, until: Until) -> io::Result<()> {
        loop {
            while let Some(reply) = self.connection.next()? {
                self.heard = Instant::now();
                let reply = match reply {
                    Reply::Push(push) => {
                        if let Some(changes) = &self.changes {
                            changes.add(push);
                        }
                        continue;
                    }
                    reply => reply,
                };
                let Some(waiting) = self.waiting.front_mut() else {
                    return Err(io::Error::other(reply.error().unwrap_or("a reply that nobody asked for").to_owned()));
                };
                waiting.moved |= reply.error().is_some_and(|error| refusal(error) == Refusal::NotThere);
                waiting.replies.push(reply);
                if waiting.replies.len() == waiting.request.pack.replies()
                    && let Some(mut waiting) = self.waiting.pop_front()
                {
                    let (moved, replies) = (waiting.moved, std::mem::take(&mut waiting.replies));
                    // Whole, so that its caller takes his time.
                    waiting.end(Ok(replies));
                    // The reply is handed out; a new connection finds the server that took its
                    // place.
                    if moved {
                        return Err(io::Error::other("it is a replica now"));
                    }
                }
            }
            if until == Until::Answered && self.waiting.is_empty() {
                return Ok(());
            }
            match fill(&mut self.connection) {
                Poll::Ready(read) => {
                    read?;
                    self.heard = Instant::now();
                }
                Poll::Pending => return Ok(()),
            }
        }
    }
}
