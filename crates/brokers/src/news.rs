//! News of a broker or a result backend about itself: typed, and made a sentence where it is
//! printed.

use std::{fmt, sync::Arc};

use longshore_core::watch::LinkState;

/// Which half of a pair tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Half {
    /// The broker; also the result backend, where it is in the same store.
    #[default]
    Broker,
    /// The result backend.
    Results,
}

impl Half {
    /// Returns its name: `broker` or `results`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Half::Broker => "broker",
            Half::Results => "results",
        }
    }
}

/// Something that happened. As text it is a sentence for people.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The half that tells it.
    pub half: Half,
    /// The event itself.
    pub what: Happened,
}

/// Event of a broker or a result backend.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Happened {
    /// The connection is gone, and tried again until it is back.
    Lost {
        /// Reason, with the server's name.
        reason: String,
    },
    /// The server answers, and does not do what it is told; a file takes nothing.
    Refused {
        /// Reason, with its name.
        reason: String,
    },
    /// It answers again.
    Back {
        /// The server, without its password.
        server: String,
    },
    /// It can again what it could not.
    Able {
        /// The server or the file.
        server: String,
        /// Ability that it has again.
        again: Ability,
    },
    /// Something else for people: it changes no state.
    Remark(String),
}

/// Ability that a server or a file lost for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ability {
    /// Do what it is told.
    Obey,
    /// Take what it is given.
    Take,
    /// Be read.
    Read,
}

impl From<Happened> for News {
    fn from(what: Happened) -> Self {
        Self { half: Half::Broker, what }
    }
}

impl News {
    /// Returns a sentence for people that is no state.
    #[must_use]
    pub fn remark(text: impl Into<String>) -> Self {
        Happened::Remark(text.into()).into()
    }

    /// Returns how the connection is from now on; `None`: as before.
    #[must_use]
    pub fn state(&self) -> Option<LinkState> {
        match &self.what {
            Happened::Lost { reason } => Some(LinkState::Lost { reason: reason.clone() }),
            Happened::Refused { reason } => Some(LinkState::Refused { reason: reason.clone() }),
            Happened::Back { .. } | Happened::Able { .. } => Some(LinkState::Up),
            Happened::Remark(_) => None,
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Happened::Lost { reason: text } | Happened::Refused { reason: text } | Happened::Remark(text) => f.write_str(text),
            Happened::Back { server } => write!(f, "{server} answers again"),
            Happened::Able { server, again: Ability::Obey } => write!(f, "{server} does what it is told again"),
            Happened::Able { server, again: Ability::Take } => write!(f, "{server}: it takes what it is given again"),
            Happened::Able { server, again: Ability::Read } => write!(f, "{server}: it can be read again"),
        }
    }
}

/// Is told what happens to connections: lost, back, tasks rescued from a dead worker. Must not
/// block.
pub type Notice = Arc<dyn Fn(&News) + Send + Sync>;

/// Returns a notice that tells everything as news of the result backend.
pub(crate) fn of_results(notice: Notice) -> Notice {
    Arc::new(move |news| notice(&News { half: Half::Results, ..news.clone() }))
}
