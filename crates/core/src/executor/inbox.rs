//! Where calls say that they have ended, for a reader of many.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

/// Numbers of ended calls, in the order in which they ended. One reader.
#[derive(Default)]
pub(super) struct CallInbox(Mutex<EndedCalls>);

#[derive(Default)]
struct EndedCalls {
    places: VecDeque<usize>,
    reader: Option<Waker>,
}

impl CallInbox {
    pub(super) fn push(&self, place: usize) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.places.push_back(place);
        let reader = ended.reader.take();
        drop(ended);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.places.pop_front() {
            Some(place) => Poll::Ready(place),
            None => {
                ended.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
