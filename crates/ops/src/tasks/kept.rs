//! Messages of tasks that have ended without success: stores keep them, so that the tasks can be
//! sent again as they were.

use longshore_brokers::Key;
use longshore_celery::{Limits, Message};
use longshore_worker::Client;

use super::{find::TaskInfo, standing::TaskStanding};
use crate::{error::OpsError, message::MessageBrief};

/// Most messages that are in memory at a time.
const AT_ONCE: usize = 8;
/// The deepest message that is read.
const DEPTH: usize = 512;

/// Returns whether the message of a task that stands so may be kept.
fn is_kept(standing: TaskStanding) -> bool {
    matches!(standing, TaskStanding::Failure | TaskStanding::Revoked)
}

/// Returns the message of a task, if it is kept.
pub(super) async fn message(client: &Client, task: &TaskInfo) -> Result<Option<Vec<u8>>, OpsError> {
    if !is_kept(task.standing) || task.found.is_some() {
        return Ok(None);
    }
    Ok(client.results().get(&[Key::Message(task.id.clone())]).await?.pop().flatten())
}

/// Adds to tasks that have ended what their kept messages say of them.
pub(super) async fn describe(client: &Client, tasks: &mut [TaskInfo]) -> Result<(), OpsError> {
    let lacks = |task: &TaskInfo| is_kept(task.standing) && task.found.is_none() && task.args.is_none();
    let mut tasks: Vec<&mut TaskInfo> = tasks.iter_mut().filter(|task| lacks(task)).collect();
    for some in tasks.chunks_mut(AT_ONCE) {
        let keys: Vec<Key> = some.iter().map(|task| Key::Message(task.id.clone())).collect();
        for (task, raw) in some.iter_mut().zip(client.results().get(&keys).await?) {
            if let Some(raw) = raw {
                task.describe(MessageBrief::read(&raw));
            }
        }
    }
    Ok(())
}

/// Returns the message by which a task is sent again: its first attempt, at once, without end. One
/// that was called off has no id: its own stays called off for hours. `None` where it cannot be
/// read.
pub(super) fn again(raw: &[u8], standing: TaskStanding) -> Option<Message> {
    let mut message = Message::decode(raw, &Limits::unlimited(DEPTH)).ok()?;
    (message.retries, message.eta, message.expires) = (0, None, None);
    message.redelivered = false;
    if standing == TaskStanding::Revoked {
        let own = std::mem::take(&mut message.id);
        message.correlation_id = None;
        message.root_id = message.root_id.filter(|root| *root != own);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use longshore_celery::{Encoding, WireSignature};

    use super::*;

    #[test]
    fn a_task_is_sent_again_with_all_that_follows_it_and_without_its_time() {
        let then = SystemTime::UNIX_EPOCH;
        let message = Message {
            id: "i".into(),
            root_id: Some("i".into()),
            task: "t".into(),
            args: vec![1.into()],
            retries: 3,
            eta: Some(then),
            expires: Some(then),
            routing_key: "q".into(),
            callbacks: vec![WireSignature { task: "next".into(), ..WireSignature::default() }],
            ..Message::default()
        };
        let raw = message.encode(Encoding::Json);
        for (standing, id) in [(TaskStanding::Failure, "i"), (TaskStanding::Revoked, "")] {
            let again = again(&raw, standing).unwrap();
            assert_eq!((again.id.as_str(), again.task.as_str(), again.routing_key.as_str()), (id, "t", "q"));
            assert_eq!((again.retries, again.eta, again.expires), (0, None, None));
            assert_eq!((again.args, again.callbacks.len()), (vec![1.into()], 1));
            assert_eq!(again.root_id.as_deref(), (standing == TaskStanding::Failure).then_some("i"));
        }
        assert_eq!(super::again(b"nonsense", TaskStanding::Failure), None);
    }
}
