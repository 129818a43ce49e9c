//! Turns of queues that have equal priority.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The queues in service; the one that was just served goes last.
pub(crate) struct Rotation(Mutex<VecDeque<Arc<str>>>);

impl Rotation {
    pub(crate) fn new(queues: Vec<Arc<str>>) -> Self {
        let mut unique = VecDeque::new();
        for queue in queues {
            if !unique.contains(&queue) {
                unique.push_back(queue);
            }
        }
        Self(Mutex::new(unique))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the queues, the next one first.
    pub(crate) fn order(&self) -> Vec<Arc<str>> {
        self.lock().iter().cloned().collect()
    }

    pub(crate) fn served(&self, queue: &str) {
        let mut order = self.lock();
        if let Some(at) = order.iter().position(|name| &**name == queue)
            && let Some(name) = order.remove(at)
        {
            order.push_back(name);
        }
    }

    pub(crate) fn serve(&self, queue: &str, on: bool) {
        let mut order = self.lock();
        match order.iter().position(|name| &**name == queue) {
            Some(at) if !on => drop(order.remove(at)),
            None if on => order.push_back(queue.into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rotation;

    #[test]
    fn the_queue_just_served_goes_last_and_each_is_there_once() {
        let turns = Rotation::new(vec!["a".into(), "b".into(), "a".into(), "c".into()]);
        turns.served("a");
        turns.served("unknown");
        assert_eq!(turns.order(), ["b".into(), "c".into(), "a".into()]);
        turns.serve("c", false);
        turns.serve("b", true);
        turns.serve("d", true);
        assert_eq!(turns.order(), ["b".into(), "a".into(), "d".into()]);
    }
}
