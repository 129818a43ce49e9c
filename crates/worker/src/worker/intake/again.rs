//! What was lent before and has ended: in a worker that died, or lost its lease, before it could
//! say so to the broker; or what a scheduler has sent twice.

use std::{collections::HashSet, sync::Arc, time::Duration};

use longshore_brokers::{BrokerError, Key};
use longshore_celery::{Message, State, TaskResult, Value};

use super::{
    super::{
        close::{self, Closing},
        conclude::{self, UnrunReason},
        runs::{LOOK_AGAIN, NOTED_WITHIN, TakenIn},
        work::ClaimedTask,
    },
    Intake,
    turns::suspect,
};

/// Places of those that may have run before, or may run elsewhere.
#[derive(Default)]
pub(super) struct RunBefore {
    /// Among those that may run.
    pub(super) works: Vec<(usize, Doubt)>,
    /// Among those that shall not run.
    pub(super) closings: Vec<usize>,
}

/// Reason for which a message may run elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It was lent before, to a worker that may not have noted yet that it runs it.
    Lent,
    /// Its scheduler may have sent it twice. Whoever runs such a one has noted it before.
    Sent,
}

/// Returns whether a message may be another copy of one that was run: where broker and result
/// backend are two, a scheduler that dies at the wrong moment leaves its successor in doubt, and
/// that sends the task of a due time again under the same id.
pub(super) fn may_come_twice(message: &Message) -> bool {
    message.headers.get("celery_beat_task") == Some(&Value::Bool(true))
}

impl Intake {
    /// Takes out, of those that may run elsewhere, the ones that another worker runs, or may say so
    /// in a moment, and those of which this one runs a copy; with the time after which they are
    /// looked at again. The others are noted as ours: what is returned beside is to be kept until
    /// they are live.
    pub(super) async fn run_elsewhere(
        &self,
        again: &mut RunBefore,
        works: &mut Vec<Arc<ClaimedTask>>,
    ) -> (Vec<(Arc<ClaimedTask>, Duration)>, Option<TakenIn>) {
        let Some(runs) = self.shared.runs.as_ref().filter(|_| !again.works.is_empty()) else { return (Vec::new(), None) };
        let waited = |(place, doubt): &(usize, Doubt)| *doubt == Doubt::Sent || runs.has_waited(works[*place].receipt.0);
        let waited: Vec<bool> = again.works.iter().map(waited).collect();
        let asked: Vec<String> = again
            .works
            .iter()
            .zip(&waited)
            .filter(|(_, waited)| **waited)
            .map(|((place, _), _)| works[*place].message.id.clone())
            .collect();
        // First those that are taken in, then those that are live: what is neither is no more.
        let (taken_in, mut are_here) = runs.take_in(asked.clone());
        let live: HashSet<String> = self.shared.works().iter().map(|work| work.message.id.clone()).collect();
        are_here.iter_mut().zip(&asked).for_each(|(is_here, id)| *is_here |= live.contains(id));
        let ids: Vec<String> = asked.into_iter().zip(&are_here).filter(|(_, is_here)| !**is_here).map(|(id, _)| id).collect();
        // While nobody can say who runs them, they wait.
        let mut ours = if ids.is_empty() { Vec::new() } else { runs.claim(&ids).await.unwrap_or_default() }.into_iter();
        let mut are_here = are_here.into_iter();
        let (mut elsewhere, mut stay) = (Vec::new(), Vec::with_capacity(again.works.len()));
        for ((place, doubt), waited) in std::mem::take(&mut again.works).into_iter().zip(waited) {
            let place = place - elsewhere.len();
            if !waited {
                elsewhere.push((works.remove(place), NOTED_WITHIN));
            } else if !are_here.next().unwrap_or(false) && ours.next().unwrap_or(false) {
                stay.push((place, doubt));
            } else {
                let work = works.remove(place);
                // It has waited already when it is looked at again.
                runs.has_waited(work.receipt.0);
                elsewhere.push((work, LOOK_AGAIN));
            }
        }
        again.works = stay;
        (elsewhere, Some(taken_in))
    }

    /// Ends, of those that were lent before, the ones that have succeeded already, whatever else
    /// were to become of them: the success stands, and what follows it may not have been sent.
    pub(super) async fn end_finished(
        &self,
        again: RunBefore,
        works: &mut Vec<Arc<ClaimedTask>>,
        closings: &mut Vec<Closing>,
    ) -> Result<(), BrokerError> {
        let of_works: Vec<Arc<Message>> = again.works.iter().map(|(place, _)| works[*place].message.clone()).collect();
        let mut succeeded = self.succeeded(&of_works).await?;
        for ((place, _), result) in again.works.into_iter().zip(succeeded.drain(..)).rev() {
            if let Some(result) = result {
                let work = works.remove(place);
                closings.push(conclude::already(&self.shared, work.message.clone(), work.owed(), work.queue.clone(), result));
            }
        }
        let of_closings: Vec<Arc<Message>> = again.closings.iter().filter_map(|place| closings[*place].message.clone()).collect();
        let succeeded = self.succeeded(&of_closings).await?;
        for (place, (message, result)) in again.closings.into_iter().zip(of_closings.into_iter().zip(succeeded)) {
            if let Some(result) = result {
                let closing = &mut closings[place];
                *closing = conclude::already(&self.shared, message, closing.receipt, closing.queue.clone(), result);
            }
        }
        Ok(())
    }

    /// Counts the workers that died with suspects, where the broker does not, and ends the guilty.
    pub(super) async fn judge(&self, works: &mut Vec<Arc<ClaimedTask>>, closings: &mut Vec<Closing>) {
        let places: Vec<usize> = (0..works.len()).filter(|place| works[*place].crashes > 0).collect();
        let Some(runs) = self.shared.runs.as_ref().filter(|_| !places.is_empty()) else { return };
        let asked: Vec<(&str, u32)> = places
            .iter()
            .map(|place| {
                let work = &works[*place];
                (work.message.id.as_str(), suspect(work.crashes, &work.task).most())
            })
            .collect();
        let deaths = runs.deaths(&asked).await;
        for (place, deaths) in places.into_iter().zip(deaths).rev() {
            let crashes = works[place].crashes.saturating_add(deaths);
            if suspect(crashes, &works[place].task).is_guilty() {
                let work = works.remove(place);
                let why = UnrunReason::Crashed(crashes);
                closings.push(conclude::unrun(&self.shared, work.message.clone(), work.receipt, work.queue.clone(), why));
            } else if let Some(work) = Arc::get_mut(&mut works[place]) {
                work.crashes = crashes;
            }
        }
    }

    /// Returns the results of these, where they have succeeded.
    async fn succeeded(&self, messages: &[Arc<Message>]) -> Result<Vec<Option<TaskResult>>, BrokerError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = messages.iter().map(|message| Key::Task(message.id.clone())).collect();
        // Where they cannot be read, it is as if nothing were stored.
        let stored = close::insist(|| self.shared.results.get(&keys)).await?.unwrap_or_else(|_| vec![None; keys.len()]);
        let success = |doc: Option<Vec<u8>>| {
            let result = TaskResult::decode(&doc?, self.shared.limits.body).ok()?;
            (result.state == State::Success).then_some(result)
        };
        Ok(stored.into_iter().map(success).collect())
    }
}
