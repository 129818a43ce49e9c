//! What the server says of messages that were sent on a channel: of each, in the order in which
//! they went, or of many at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::{
    fail::{Consequence, consequence},
    link::locked,
    publish::{Routed, Sent},
};

/// Messages that were sent together.
pub(super) struct Batch {
    pub(super) sends: Vec<Routed>,
    /// Outcomes other than a plain confirmation.
    others: Mutex<Vec<(usize, Sent)>>,
    left: AtomicUsize,
    over: Notify,
}

impl Batch {
    pub(super) fn new(sends: Vec<Routed>) -> Arc<Self> {
        let left = AtomicUsize::new(sends.len());
        Arc::new(Self { sends, others: Mutex::default(), left, over: Notify::new() })
    }

    /// Notes what has become of one of them, each once.
    fn end(&self, at: usize, sent: Sent) {
        if !matches!(sent, Sent::Confirmed) {
            locked(&self.others).push((at, sent));
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.over.notify_one();
        }
    }

    /// Notes that none of them was sent.
    pub(super) fn fail(&self, error: &lapin::Error) {
        (0..self.sends.len()).for_each(|at| self.end(at, ended(error)));
    }

    /// Returns of how many nothing has been said.
    pub(super) fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// Returns those that were not taken, as far as is known.
    pub(super) fn troubled(&self) -> Vec<usize> {
        locked(&self.others).iter().map(|(at, _)| *at).collect()
    }

    /// Returns what was said of each, but for those of which nothing was.
    pub(super) fn said(&self, unsaid: &[usize]) -> Vec<Option<Sent>> {
        let mut said: Vec<Option<Sent>> = self.sends.iter().map(|_| Some(Sent::Confirmed)).collect();
        locked(&self.others).drain(..).for_each(|(at, other)| said[at] = Some(other));
        unsaid.iter().for_each(|at| said[*at] = None);
        said
    }

    /// Waits until the server has said something of each. One caller alone may wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn sent(&self) -> Vec<Sent> {
        while self.left.load(Ordering::Acquire) > 0 {
            self.over.notified().await;
        }
        let mut sent: Vec<Sent> = self.sends.iter().map(|_| Sent::Confirmed).collect();
        locked(&self.others).drain(..).for_each(|(at, other)| sent[at] = other);
        sent
    }
}

fn ended(error: &lapin::Error) -> Sent {
    match consequence(error) {
        Consequence::Connection => Sent::Away(error.clone()),
        _ => Sent::Channel(error.clone()),
    }
}

/// A message of which nothing has been said.
struct Pending {
    batch: Arc<Batch>,
    at: usize,
    returned: bool,
    over: bool,
}

impl Pending {
    fn end(&mut self, ok: bool) {
        if !std::mem::replace(&mut self.over, true) {
            let sent = match (ok, self.returned) {
                (_, true) => Sent::Returned,
                (true, false) => Sent::Confirmed,
                (false, false) => Sent::Nacked,
            };
            self.batch.end(self.at, sent);
        }
    }

    fn routed(&self) -> &Routed {
        &self.batch.sends[self.at]
    }
}

/// Messages on a channel, by the numbers that the server counts them with.
#[derive(Default)]
pub(super) struct Confirms(Mutex<Unconfirmed>);

struct Unconfirmed {
    /// Number of the first of those below.
    first: u64,
    pending: VecDeque<Pending>,
}

impl Default for Unconfirmed {
    fn default() -> Self {
        Self { first: 1, pending: VecDeque::new() }
    }
}

impl Confirms {
    /// Takes messages in, as they are sent.
    pub(super) fn add(&self, batch: &Arc<Batch>) {
        let pending = |at| Pending { batch: batch.clone(), at, returned: false, over: false };
        locked(&self.0).pending.extend((0..batch.sends.len()).map(pending));
    }

    /// Returns those of a batch of which nothing has been said.
    pub(super) fn unsaid(&self, batch: &Arc<Batch>) -> Vec<usize> {
        let state = locked(&self.0);
        state.pending.iter().filter(|one| !one.over && Arc::ptr_eq(&one.batch, batch)).map(|one| one.at).collect()
    }

    /// Takes a confirmation, of one number or of all up to it (0: all), or the opposite.
    pub(super) fn confirm(&self, tag: u64, multiple: bool, ok: bool) {
        let mut state = locked(&self.0);
        let Unconfirmed { first, pending } = &mut *state;
        let end = match tag.checked_sub(*first) {
            _ if multiple && tag == 0 => pending.len(),
            // It is of what is over.
            None => return,
            Some(at) => usize::try_from(at).map_or(pending.len(), |at| at.saturating_add(1).min(pending.len())),
        };
        let begin = if multiple { 0 } else { end.saturating_sub(1) };
        let is_known = multiple || tag - *first < pending.len() as u64;
        if is_known {
            pending.range_mut(begin..end).for_each(|one| one.end(ok));
        }
        while pending.front().is_some_and(|one| one.over) {
            pending.pop_front();
            *first += 1;
        }
    }

    /// Takes a message that nobody took. It is confirmed later, and bears no number: it is the
    /// first that was sent with just these bytes, or else the first on that way.
    pub(super) fn returned(&self, exchange: &[u8], key: &[u8], properties: &[u8], body: &[u8]) {
        let mut state = locked(&self.0);
        let is_on_way = |one: &Pending| {
            let routed = one.routed();
            let is_open = !one.over && !one.returned && routed.mandatory;
            is_open && routed.exchange.as_bytes() == exchange && routed.key.as_bytes() == key
        };
        let is_same = |one: &Pending| {
            let parcel = &one.routed().parcel;
            is_on_way(one) && parcel.properties.bytes() == properties && parcel.body == body
        };
        let at = state.pending.iter().position(is_same).or_else(|| state.pending.iter().position(is_on_way));
        if let Some(one) = at.and_then(|at| state.pending.get_mut(at)) {
            one.returned = true;
        }
    }

    /// Notes that nothing more will be said.
    pub(super) fn fail(&self, error: &lapin::Error) {
        let pending = std::mem::take(&mut locked(&self.0).pending);
        pending.into_iter().filter(|one| !one.over).for_each(|one| one.batch.end(one.at, ended(error)));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::amqp::parts::Parcel;

    fn batch(keys: &[&str]) -> Arc<Batch> {
        let routed = |(at, key): (usize, &&str)| Routed::to(&(*key).into(), Parcel::as_it_is(vec![at as u8]));
        Batch::new(keys.iter().enumerate().map(routed).collect())
    }

    fn letters(batch: &Batch) -> Option<String> {
        let letter = |sent: &Sent| match sent {
            Sent::Confirmed => 'c',
            Sent::Returned => 'r',
            Sent::Nacked => 'n',
            Sent::Channel(_) => 'x',
            Sent::Away(_) => 'a',
        };
        batch.sent().now_or_never().map(|sent| sent.iter().map(letter).collect())
    }

    #[test]
    fn messages_are_confirmed_one_by_one_and_together_in_any_order() {
        for (said, letters_of) in [
            (&[(3, true, true)][..], Some("ccc")),
            (&[(2, false, true), (1, false, true), (3, false, true)], Some("ccc")),
            (&[(2, false, false), (3, true, true)], Some("cnc")),
            (&[(0, true, false)], Some("nnn")),
            (&[(1, false, true), (1, false, true), (9, false, true), (3, false, true)], None),
            (&[(2, true, true), (1, true, true), (9, true, true)], Some("ccc")),
        ] {
            let (confirms, batch) = (Confirms::default(), batch(&["a", "b", "c"]));
            confirms.add(&batch);
            said.iter().for_each(|(tag, multiple, ok)| confirms.confirm(*tag, *multiple, *ok));
            assert_eq!(letters(&batch).as_deref(), letters_of, "{said:?}");
        }
    }

    #[test]
    fn what_comes_back_is_the_message_that_was_sent_so_whatever_is_confirmed_with_it() {
        let (confirms, batch) = (Confirms::default(), batch(&["here", "gone", "here"]));
        confirms.add(&batch);
        let gone = &batch.sends[1];
        confirms.returned(b"", b"gone", gone.parcel.properties.bytes(), &gone.parcel.body);
        confirms.confirm(3, true, true);
        assert_eq!(letters(&batch).as_deref(), Some("crc"));
    }

    #[test]
    fn of_messages_on_one_way_the_one_with_these_bytes_comes_back_and_else_the_first() {
        for (body, letters_of) in [(&[1][..], "crc"), (&[9], "rcc")] {
            let (confirms, batch) = (Confirms::default(), batch(&["q", "q", "q"]));
            confirms.add(&batch);
            confirms.returned(b"", b"q", batch.sends[1].parcel.properties.bytes(), body);
            confirms.confirm(0, true, true);
            assert_eq!(letters(&batch).as_deref(), Some(letters_of));
        }
    }

    #[test]
    fn what_was_confirmed_is_known_while_others_are_not() {
        let (confirms, batch, other) = (Confirms::default(), batch(&["a", "b", "c"]), batch(&["d"]));
        confirms.add(&batch);
        confirms.add(&other);
        confirms.confirm(1, false, true);
        confirms.confirm(3, false, false);
        assert_eq!((confirms.unsaid(&batch), confirms.unsaid(&other)), (vec![1], vec![0]));
        assert_eq!((batch.left(), batch.troubled()), (1, vec![2]));
        let said = batch.said(&confirms.unsaid(&batch));
        assert!(matches!(said[..], [Some(Sent::Confirmed), None, Some(Sent::Nacked)]));
    }

    #[test]
    fn what_is_not_confirmed_ends_with_its_channel() {
        let (confirms, batch) = (Confirms::default(), batch(&["a", "b"]));
        confirms.add(&batch);
        confirms.confirm(1, false, true);
        confirms.fail(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
        assert_eq!(letters(&batch).as_deref(), Some("ca"));
        confirms.confirm(2, false, true);
        assert!(confirms.unsaid(&batch).is_empty());
        let next = self::batch(&["c"]);
        next.fail(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
        assert_eq!(letters(&next).as_deref(), Some("a"));
    }
}
