//! Messages are read, and sorted by what can be done with them.

use std::{sync::Arc, time::SystemTime};

use longshore_brokers::{Claimed, FEW, apart};
use longshore_celery::{BadMessage, Message};

use super::{Intake, NEAR, PAST};
use crate::{
    task::{RateScope, Task},
    worker::conclude::UnrunReason,
};

/// A message that is read, by what can be done with it now.
pub(super) enum SortedMessage {
    /// It may run.
    Run(Arc<Message>, Arc<Task>),
    /// It may run when it has a slot of a rate that all workers share.
    Ask(Arc<Message>, Arc<Task>),
    /// Not before then: its slot of the rate of this task, or (`None`) its own ETA. Without a
    /// `slot` it asks for one then.
    Later { due: SystemTime, paced: Option<Arc<str>>, slot: bool },
    /// It shall not run.
    Unrun(Arc<Message>, UnrunReason),
    /// It cannot be read.
    Bad(BadMessage),
}

impl Intake {
    /// Reads a message; a large one on another thread.
    pub(super) async fn read(&self, claimed: &mut Claimed) -> Result<Message, BadMessage> {
        if claimed.raw.len() <= FEW {
            return Message::decode(&claimed.raw, &self.shared.limits);
        }
        let (raw, limits) = (std::mem::take(&mut claimed.raw), self.shared.limits.clone());
        let (raw, message) = apart(raw.len(), move || {
            let message = Message::decode(&raw, &limits);
            (raw, message)
        })
        .await;
        claimed.raw = raw;
        message
    }

    /// Returns what can be done with a message now. One whose slot of a rate has come
    /// (`slot_taken`) does not ask for another.
    pub(super) fn sort(&self, message: Result<Message, BadMessage>, now: SystemTime, slot_taken: bool) -> SortedMessage {
        let message = match message {
            Ok(message) => Arc::new(message),
            Err(bad) => return SortedMessage::Bad(bad),
        };
        if self.shared.is_revoked(&message) {
            return SortedMessage::Unrun(message, UnrunReason::Revoked);
        }
        if message.expires.is_some_and(|expires| expires <= now) {
            return SortedMessage::Unrun(message, UnrunReason::Expired);
        }
        let Some(task) = self.shared.app.task_named(&message.task).cloned() else {
            return SortedMessage::Unrun(message, UnrunReason::Unknown);
        };
        if let Some(due) = message.eta.filter(|eta| *eta > now) {
            return SortedMessage::Later { due, paced: None, slot: false };
        }
        if !slot_taken && let Some((bucket, rate)) = self.rate(&task) {
            if self.state().lines.room(&bucket, rate) == 0 {
                return SortedMessage::Later { due: now + PAST, paced: Some(task.name.clone()), slot: false };
            }
            if task.policy.rate_scope == RateScope::Shared {
                return SortedMessage::Ask(message, task);
            }
        }
        let instant = self.shared.environment.now();
        if !slot_taken
            && let Some(slot) = self.shared.reserve(&task, instant)
            && slot > instant + NEAR
        {
            return SortedMessage::Later { due: now + slot.duration_since(instant), paced: Some(task.name.clone()), slot: true };
        }
        SortedMessage::Run(message, task)
    }
}
