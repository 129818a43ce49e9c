//! Turns of queues that have equal priority.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::broker::QueueOrder;

/// The queues in service, in the order in which a consumer serves them.
pub(crate) struct Rotation(Mutex<Turns>);

struct Turns {
    order: QueueOrder,
    /// Each queue with what it has had, by its weight; the one that was just served stands last.
    queues: VecDeque<(Arc<str>, u64)>,
}

/// Cost of a claim for a queue of weight 1.
const COST: u64 = 1 << 20;

impl Turns {
    fn place(&self, queue: &str) -> Option<usize> {
        self.queues.iter().position(|(name, _)| **name == *queue)
    }

    /// Returns what a claim costs this queue.
    fn cost(&self, queue: &str) -> u64 {
        let QueueOrder::Weighted(weights) = &self.order else { return 0 };
        let weight = weights.iter().find(|(name, _)| **name == *queue).map_or(1, |(_, weight)| *weight);
        COST / u64::from(weight.max(1))
    }
}

impl Rotation {
    pub(crate) fn new(queues: Vec<Arc<str>>, order: QueueOrder) -> Self {
        let rotation = Self(Mutex::new(Turns { order, queues: VecDeque::new() }));
        queues.iter().for_each(|queue| rotation.serve(queue, true));
        rotation
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a queue goes before all priorities of those behind it.
    pub(crate) fn is_strict(&self) -> bool {
        self.lock().order == QueueOrder::Strict
    }

    /// Returns the queues, the next one first.
    pub(crate) fn order(&self) -> Vec<Arc<str>> {
        let turns = self.lock();
        let mut queues: Vec<&(Arc<str>, u64)> = turns.queues.iter().collect();
        queues.sort_by_key(|(_, had)| *had);
        queues.into_iter().map(|(queue, _)| queue.clone()).collect()
    }

    pub(crate) fn served(&self, queue: &str) {
        let mut turns = self.lock();
        if turns.order == QueueOrder::Strict {
            return;
        }
        let cost = turns.cost(queue);
        if let Some(at) = turns.place(queue)
            && let Some((name, had)) = turns.queues.remove(at)
        {
            // Whoever has had less had nothing to give: it saves up no turns.
            turns.queues.iter_mut().for_each(|(_, other)| *other = (*other).max(had));
            turns.queues.push_back((name, had + cost));
        }
    }

    pub(crate) fn serve(&self, queue: &str, on: bool) {
        let mut turns = self.lock();
        match turns.place(queue) {
            Some(at) if !on => drop(turns.queues.remove(at)),
            None if on => {
                let had = turns.queues.iter().map(|(_, had)| *had).min().unwrap_or(0);
                turns.queues.push_back((queue.into(), had));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(order: QueueOrder) -> Rotation {
        Rotation::new(vec!["a".into(), "b".into(), "a".into(), "c".into()], order)
    }

    /// Serves the first of the order that has work, so often.
    fn serve(turns: &Rotation, count: usize, with_work: &[&str]) -> String {
        let mut served = String::new();
        for _ in 0..count {
            let order = turns.order();
            let next = order.iter().find(|queue| with_work.contains(&&***queue)).expect("one has work");
            turns.served(next);
            served.push_str(next);
        }
        served
    }

    #[test]
    fn the_queue_just_served_goes_last_and_each_is_there_once() {
        let turns = turns(QueueOrder::InTurn);
        turns.served("a");
        turns.served("unknown");
        assert_eq!(turns.order(), ["b".into(), "c".into(), "a".into()]);
        turns.serve("c", false);
        turns.serve("b", true);
        turns.serve("d", true);
        assert_eq!(turns.order(), ["b".into(), "a".into(), "d".into()]);
    }

    #[test]
    fn a_queue_has_its_share_by_its_weight_and_saves_up_none() {
        let weights = QueueOrder::Weighted(vec![("a".into(), 3), ("b".into(), 2)]);
        let turns = turns(weights);
        let count = |served: &str, queue: char| served.matches(queue).count();
        let served = serve(&turns, 60, &["a", "b", "c"]);
        assert!((29..=31).contains(&count(&served, 'a')) && (19..=21).contains(&count(&served, 'b')), "{served}");
        // Nobody waits longer than a round of all weights.
        assert!(served.split('c').all(|without| without.len() <= 6), "{served}");
        // For a while only one has work: then all have their shares again, not what they missed.
        serve(&turns, 500, &["a"]);
        let served = serve(&turns, 12, &["a", "b", "c"]);
        assert!((5..=7).contains(&count(&served, 'a')), "{served}");
    }

    #[test]
    fn in_strict_order_the_first_that_has_work_is_served() {
        let turns = turns(QueueOrder::Strict);
        assert_eq!(serve(&turns, 4, &["a", "b", "c"]), "aaaa");
        assert_eq!(serve(&turns, 3, &["b", "c"]), "bbb");
        assert_eq!(serve(&turns, 2, &["c"]) + &serve(&turns, 2, &["a", "c"]), "ccaa");
    }
}
