//! Results of tasks that are about to run again, or never will.

use std::time::Duration;

use longshore_brokers::{Key, Stored};
use longshore_celery::{State, TaskResult};
use longshore_worker::Client;

use crate::error::OpsError;

/// Most results that are read in one step.
const AT_ONCE: usize = 500;
/// The longest stored result that is read, in bytes, unpacked.
pub(crate) const LONGEST: usize = 64 << 20;

/// Returns a document that is stored of a task for a day.
pub(crate) fn document(id: String, doc: Vec<u8>) -> Stored {
    Stored { key: Key::Task(id), doc, expires: Some(Duration::from_secs(86_400)), keep_success: true, reply_to: None }
}

/// Marks these results as not over, for whoever looks for them. Returns what was stored before, for
/// the case that nothing comes of it.
pub(crate) async fn again_from_now(client: &Client, ids: impl IntoIterator<Item = String>) -> Result<Vec<Stored>, OpsError> {
    let ids: Vec<String> = ids.into_iter().collect();
    let (mut before, mut again) = (Vec::new(), Vec::new());
    for ids in ids.chunks(AT_ONCE) {
        let keys: Vec<Key> = ids.iter().cloned().map(Key::Task).collect();
        let documents = client.results().get(&keys).await?;
        for (id, doc) in ids.iter().zip(documents) {
            // What cannot be read says nothing that would have to be taken back.
            let Some((doc, stored)) = doc.and_then(|doc| TaskResult::decode(&doc, LONGEST).ok().map(|stored| (doc, stored))) else {
                continue;
            };
            if stored.state.is_ready() {
                again.push(document(id.clone(), TaskResult { state: State::Retry, date_done: None, ..stored }.encode()));
                before.push(document(id.clone(), doc));
            }
        }
    }
    if !again.is_empty() {
        client.results().store(&again).await?;
    }
    Ok(before)
}
