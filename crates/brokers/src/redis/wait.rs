//! Waiting without taking anything: the server tracks the lengths that this connection asked for, and tells when one of the lists changed.

use std::{io, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    connection::Connection,
    fail::{Fail, Refusal, explain, refusal},
    layout::Layout,
    link::pause,
    resp::{Pack, Reply},
    url::Config,
};

/// How long an answer may take before the connection is replaced.
const LATE: Duration = Duration::from_secs(2);
/// How long a change may be missed: then the lengths are asked for again.
const SAFETY: Duration = Duration::from_secs(1);

/// A connection that waits for lists to fill.
pub(super) struct Waiter {
    config: Arc<Config>,
    layout: Layout,
    connection: Option<Connection>,
    attempt: u32,
}

impl Waiter {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let layout = Layout::new(&config);
        Self { config, layout, connection: None, attempt: 0 }
    }

    /// Resolves when one of these queues, if it is not paused, may have something, and at the latest after a second. May be dropped at any point.
    ///
    /// # Errors
    /// The server refuses us.
    pub(super) async fn some(&mut self, queues: &[Arc<str>]) -> Result<(), Fail> {
        // Dropped in the middle of an exchange, it would take old answers for new ones: only a whole exchange leaves the connection behind.
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await? {
                Some(connection) => connection,
                None => return Ok(()),
            },
        };
        match self.wait(connection, queues).await {
            Ok(connection) => {
                self.attempt = 0;
                self.connection = Some(connection);
                Ok(())
            }
            Err(Fail::Refused(text)) => Err(Fail::Refused(text)),
            Err(_) => {
                self.rest().await;
                Ok(())
            }
        }
    }

    async fn connect(&mut self) -> Result<Option<Connection>, Fail> {
        let mut connection = match Connection::open(&self.config).await {
            Ok(connection) => connection,
            Err(Fail::Refused(text)) => return Err(Fail::Refused(text)),
            Err(_) => {
                self.rest().await;
                return Ok(None);
            }
        };
        match self.ask(&mut connection, &Pack::of(&[b"CLIENT", b"TRACKING", b"ON"])).await {
            Ok(_) => Ok(Some(connection)),
            Err(Fail::Refused(text)) => Err(Fail::Refused(text)),
            Err(_) => Ok(None),
        }
    }

    async fn rest(&mut self) {
        sleep(pause(self.attempt)).await;
        self.attempt += 1;
    }

    async fn ask(&self, connection: &mut Connection, pack: &Pack) -> Result<Vec<Reply>, Fail> {
        let place = self.config.place();
        let lost = |error: io::Error| Fail::Unable(format!("redis at {place}: {error}"));
        let replies = timeout(LATE, connection.call(pack)).await.map_err(|_| lost(io::ErrorKind::TimedOut.into()))?.map_err(lost)?;
        match replies.iter().find_map(Reply::error) {
            None => Ok(replies),
            Some(error) if refusal(error) == Refusal::Never => Err(Fail::Refused(explain(&place, error))),
            Some(error) => Err(Fail::Unable(error.to_owned())),
        }
    }

    async fn wait(&self, mut connection: Connection, queues: &[Arc<str>]) -> Result<Connection, Fail> {
        let mut pack = Pack::of(&[b"HKEYS", self.layout.own("paused").as_bytes()]);
        for queue in queues {
            for list in self.layout.lists(queue) {
                pack.add(&[b"LLEN", list.as_bytes()]);
            }
        }
        // What changed before is in the lengths that come now.
        connection.pushes.clear();
        let mut replies = self.ask(&mut connection, &pack).await?.into_iter();
        let paused: Vec<Vec<u8>> =
            replies.next().map(Reply::into_list).unwrap_or_default().into_iter().filter_map(Reply::into_bytes).collect();
        let lengths: Vec<i64> = replies.map(|reply| reply.int().unwrap_or(0)).collect();
        let filled = queues
            .iter()
            .zip(lengths.chunks(self.layout.steps()))
            .any(|(queue, lengths)| lengths.iter().any(|length| *length > 0) && !paused.iter().any(|name| name == queue.as_bytes()));
        if !filled {
            let changed = async {
                loop {
                    if let Reply::Push(push) = connection.any().await?
                        && push.first().and_then(Reply::bytes) == Some(b"invalidate")
                    {
                        return io::Result::Ok(());
                    }
                }
            };
            if let Ok(Err(error)) = timeout(SAFETY, changed).await {
                return Err(Fail::Unable(error.to_string()));
            }
        }
        Ok(connection)
    }
}
