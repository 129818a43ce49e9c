//! Runs items the way that was advised.

use std::panic::{AssertUnwindSafe, catch_unwind};

use longshore_core::{Job, LaneKind, Outcome, TaskError};

use crate::{Advice, Place};

/// Runs a function on every item, where and as advised, and returns the results in the order of the
/// items.
///
/// Advice for the async or the process lane is followed on the blocking lane: a plain function runs
/// there.
///
/// # Errors
/// The place (from 0) of the first item whose function panicked, and what it said.
/// ```
/// use longshore_advise::{advise, map};
///
/// let square = |n: u64| n * n;
/// let advice = advise(square, (0..100).collect()).unwrap();
/// assert_eq!(map(&advice, 0..5, square).unwrap(), [0, 1, 4, 9, 16]);
/// ```
pub fn map<T, R>(
    advice: &Advice,
    items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
    function: impl Fn(T) -> R + Send + Sync + 'static,
) -> Result<Vec<R>, (usize, TaskError)>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let mut items = items.into_iter();
    let Place::Lane(lane) = advice.place else {
        return items.enumerate().map(|(place, item)| one(&function, item).map_err(|error| (place, error))).collect();
    };
    // Its fields are public, and a chunk of 0 would run nothing.
    let chunk = advice.chunk.max(1);
    if chunk == 1 {
        let run = move |item: T| one(&function, item);
        let job = if lane == LaneKind::Cpu { Job::cpu(run) } else { Job::blocking(run) };
        return job.params(items).workers(advice.workers).queue(advice.queue_capacity).collect().results();
    }
    let run = move |chunk: Vec<T>| -> Outcome<(Vec<R>, Option<TaskError>)> {
        let mut results = Vec::with_capacity(chunk.len());
        for item in chunk {
            match one(&function, item) {
                Ok(result) => results.push(result),
                // The results before it say which item of the chunk it was.
                Err(error) => return Outcome::Ok((results, Some(error))),
            }
        }
        Outcome::Ok((results, None))
    };
    let job = if lane == LaneKind::Cpu { Job::cpu(run) } else { Job::blocking(run) };
    let chunks = std::iter::from_fn(move || {
        let next: Vec<T> = items.by_ref().take(chunk).collect();
        (!next.is_empty()).then_some(next)
    });
    let chunks = job.params(chunks).workers(advice.workers).queue(advice.queue_capacity).collect().results();
    let mut all = Vec::new();
    // Chunks come in order, so that the results so far tell the place of the item.
    for (results, error) in chunks.map_err(|(place, error)| (place * chunk, error))? {
        all.extend(results);
        if let Some(error) = error {
            return Err((all.len(), error));
        }
    }
    Ok(all)
}

fn one<T, R>(function: &impl Fn(T) -> R, item: T) -> Result<R, TaskError> {
    catch_unwind(AssertUnwindSafe(|| function(item))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        TaskError::new("panicked", text.unwrap_or_else(|| "a panic that is not text".into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn every_way_gives_the_same_results_in_the_same_order_and_names_the_item_that_panicked() {
        for (place, workers, chunk) in [
            (Place::Sequential, 1, 1),
            (Place::Lane(LaneKind::Cpu), 2, 1),
            (Place::Lane(LaneKind::Cpu), 2, 7),
            (Place::Lane(LaneKind::Blocking), 8, 1),
            (Place::Lane(LaneKind::Blocking), 8, 1_000),
        ] {
            let advice = Advice::to_run(place, workers, chunk);
            let tripled: Vec<u32> = (0..100).map(|n| 3 * n).collect();
            assert_eq!(map(&advice, 0..100_u32, |n| 3 * n).unwrap(), tripled, "{place:?}");
            let (at, error) = map(&advice, 0..100_u32, |n| assert!(n != 41, "not this one")).unwrap_err();
            assert_eq!((at, error.kind()), (41, "panicked"), "{place:?}");
        }
    }
}
