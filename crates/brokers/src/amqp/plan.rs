//! What is to be done at the end of a message, before any of it is done.

use super::{dead, held::Lent, parts::Parcel, publish::Routed, rpc};
use crate::message::{End, Ended, Finish};

/// Steps at the end of a message that is ours.
pub(super) enum Plan {
    /// Nothing.
    Over(Ended),
    /// These are sent, and it stays.
    Keep(Vec<Routed>),
    /// These are sent, and it is acknowledged.
    Ack(Vec<Routed>),
    /// The same beside the others, when it can be sent.
    Aside,
    /// These are sent, and it is left to the dead-letter exchange of its queue.
    Reject(Vec<Routed>),
    /// It goes back to its place.
    Back,
}

impl Plan {
    /// Makes it; a letter's properties have so much room, and there is none where what is buried is
    /// the queue's own to place.
    pub(super) fn of(finish: &Finish, lent: &Lent, room: Option<usize>) -> Self {
        if finish.part.is_some() {
            return Self::Over(Ended::Impossible { reason: rpc::NO_CHORDS.to_owned() });
        }
        let mut sends = match finish.publish.iter().map(Routed::of).collect::<Result<Vec<_>, _>>() {
            Ok(sends) => sends,
            Err(reason) => return Self::Over(Ended::Impossible { reason }),
        };
        match finish.results.iter().filter_map(|stored| rpc::routed(stored).transpose()).collect::<Result<Vec<_>, _>>() {
            Ok(results) => sends.extend(results),
            Err(reason) => return Self::Over(Ended::Impossible { reason }),
        }
        match &finish.end {
            End::Keep => return Self::Keep(sends),
            End::Back { front: true } if sends.is_empty() && !lent.parcel.is_worn() => return Self::Back,
            End::Back { .. } => sends.push(Routed::to(&lent.queue, copy(&lent.parcel))),
            End::Dead { reason } | End::Junk { reason } => {
                let Some(room) = room else { return Self::Reject(sends) };
                sends.push(dead::letter(&lent.queue, &lent.parcel, reason, matches!(finish.end, End::Junk { .. }), room));
            }
            End::Ack => {}
        }
        Self::Ack(sends)
    }

    pub(super) fn sends(&self) -> &[Routed] {
        match self {
            Self::Over(_) | Self::Aside | Self::Back => &[],
            Self::Keep(sends) | Self::Ack(sends) | Self::Reject(sends) => sends,
        }
    }
}

/// Returns the same message as one that was never delivered, with a name of its own.
pub(super) fn copy(parcel: &Parcel) -> Parcel {
    let fresh = parcel.fresh();
    Parcel::read(&fresh.properties.parse().with_message_id(uuid::Uuid::new_v4().to_string().into()), fresh.body)
}
