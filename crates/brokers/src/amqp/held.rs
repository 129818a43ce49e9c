//! Messages that were delivered and not acknowledged, under numbers of our own: a delivery's tag
//! ends with its channel, and the same message may come back under another.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher as _, BuildHasherDefault, Hash as _, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use lapin::types::AMQPValue;
use tokio::time::Instant;

use super::parts::Parcel;

/// A delivery's name: its channel's number, of ours, and the server's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) session: u64,
    pub(super) tag: u64,
}

/// Hashes our own numbers, which nobody can choose, by spreading them.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// Number of messages whose acknowledgement may not have arrived, that are remembered.
const OVER: usize = 8192;

/// Bytes from which on a message is not remembered whole: 32 MiB for all.
const LARGE: usize = 4096;

/// Time for which a message that has ended is known when it comes again.
const DOUBTED_FOR: Duration = Duration::from_secs(15 * 60);

/// Beginnings of the server's own headers, which are others whenever a message comes again:
/// `x-death`, `x-delivery-count`, and `x-acquired-count` of RabbitMQ 4.3.
const SERVERS: [&str; 2] = ["x-d", "x-acquired-count"];

/// A message that was delivered.
#[derive(Clone)]
pub(super) struct Lent {
    pub(super) queue: Arc<str>,
    pub(super) parcel: Arc<Parcel>,
    /// `None` while the channel that it came on is gone, and it has not come again.
    pub(super) tag: Option<Tag>,
}

/// All that is lent to us.
pub(super) struct Held {
    lent: HashMap<u64, Lent, BuildHasherDefault<NumberHasher>>,
    /// By their contents, those whose channel is gone.
    lost: HashMap<u64, Vec<u64>>,
    /// Contents of what ended last, with the channel that carried the acknowledgement, and its
    /// place among all: the acknowledgement may be lost with the channel.
    over: VecDeque<Over>,
    /// Contents of those of them whose channel is gone, and since when: each may come again once.
    doubtful: HashMap<u64, Vec<Instant>>,
    next: u64,
    ends: u64,
    hasher: RandomState,
}

struct Over {
    queue: Arc<str>,
    what: OverParcel,
    session: u64,
    place: u64,
}

/// Remains of a message that has ended.
enum OverParcel {
    /// All of a small one: hashing each would cost more.
    Whole(Arc<Parcel>),
    /// The key of its contents.
    Key(u64),
}

/// Meaning of a message that comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It is one that we have, under its old number.
    Ours,
    /// It has ended here, and is to be acknowledged.
    Over,
    /// It is new to us.
    New,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            lent: HashMap::default(),
            lost: HashMap::new(),
            over: VecDeque::new(),
            doubtful: HashMap::new(),
            next: 1,
            ends: 0,
            hasher: RandomState::new(),
        }
    }
}

impl Held {
    fn key(&self, queue: &str, parcel: &Parcel) -> u64 {
        let properties = parcel.properties.parse();
        let id = properties.correlation_id().as_ref().map(lapin::types::ShortString::as_str);
        let name = properties.message_id().as_ref().map(lapin::types::ShortString::as_str);
        let mut hasher = self.hasher.build_hasher();
        (queue, id, name, &parcel.body).hash(&mut hasher);
        // Attempts of a task differ in their headers alone.
        if let Some(headers) = properties.headers() {
            headers.inner().iter().filter(|(name, _)| !SERVERS.iter().any(|server| name.as_str().starts_with(server))).for_each(
                |(name, value)| {
                    name.as_str().hash(&mut hasher);
                    hash(value, &mut hasher);
                },
            );
        }
        hasher.finish()
    }

    /// Looks whether a message that was delivered before is one of ours.
    pub(super) fn again(&mut self, queue: &str, parcel: &Parcel, tag: Tag) -> Again {
        if self.lost.is_empty() && self.doubtful.is_empty() {
            return Again::New;
        }
        let key = self.key(queue, parcel);
        if let Some(numbers) = self.lost.get_mut(&key)
            && let Some(number) = numbers.pop()
        {
            if numbers.is_empty() {
                self.lost.remove(&key);
            }
            if let Some(lent) = self.lent.get_mut(&number) {
                lent.tag = Some(tag);
                return Again::Ours;
            }
        }
        if !self.was_doubted(key) {
            return Again::New;
        }
        // Its acknowledgement may be lost once more.
        self.ends += 1;
        self.remember(Over { queue: queue.into(), what: OverParcel::Key(key), session: tag.session, place: self.ends });
        Again::Over
    }

    /// Returns whether such a message has ended here not long ago, of which the server may not have
    /// heard; the next one like it is another.
    fn was_doubted(&mut self, key: u64) -> bool {
        let Some(since) = self.doubtful.get_mut(&key) else { return false };
        since.retain(|since| since.elapsed() < DOUBTED_FOR);
        let is_known = since.pop().is_some();
        if since.is_empty() {
            self.doubtful.remove(&key);
        }
        is_known
    }

    fn doubt(&mut self, key: u64) {
        self.doubtful.entry(key).or_default().push(Instant::now());
    }

    fn remember(&mut self, over: Over) {
        if self.over.len() == OVER {
            self.over.pop_front();
        }
        self.over.push_back(over);
    }

    /// Takes a message in, and returns its number.
    pub(super) fn add(&mut self, queue: Arc<str>, parcel: Arc<Parcel>, tag: Tag) -> u64 {
        let number = self.next;
        self.next += 1;
        self.lent.insert(number, Lent { queue, parcel, tag: Some(tag) });
        number
    }

    /// Returns a message by its number.
    pub(super) fn get(&self, number: u64) -> Option<&Lent> {
        self.lent.get(&number)
    }

    /// Takes a message out. One whose acknowledgement is on its way (`ended`) is remembered until
    /// the server has it.
    pub(super) fn remove(&mut self, number: u64, ended: bool) -> Option<Lent> {
        let lent = self.lent.remove(&number)?;
        if lent.tag.is_none() {
            let key = self.key(&lent.queue, &lent.parcel);
            if let Some(numbers) = self.lost.get_mut(&key) {
                numbers.retain(|other| *other != number);
                if numbers.is_empty() {
                    self.lost.remove(&key);
                }
            }
        }
        if ended {
            let Some(Tag { session, .. }) = lent.tag else {
                // Its channel is gone already.
                self.doubt(self.key(&lent.queue, &lent.parcel));
                return Some(lent);
            };
            self.ends += 1;
            let is_large = lent.parcel.body.len() + lent.parcel.properties.bytes().len() > LARGE;
            let what = match is_large {
                true => OverParcel::Key(self.key(&lent.queue, &lent.parcel)),
                false => OverParcel::Whole(lent.parcel.clone()),
            };
            self.remember(Over { queue: lent.queue.clone(), what, session, place: self.ends });
        }
        Some(lent)
    }

    /// Returns how many are expected to come again.
    pub(super) fn lost(&self) -> usize {
        self.lost.values().map(Vec::len).sum()
    }

    /// Returns the place of the last end, for [`has_all`](Self::has_all).
    pub(super) fn last_end(&self) -> u64 {
        self.ends
    }

    /// Notes that the server has all acknowledgements of a channel up to this place.
    pub(super) fn has_all(&mut self, session: u64, place: u64) {
        self.over.retain(|over| over.session != session || over.place > place);
    }

    /// Notes that a channel is gone. Returns how many messages it had.
    pub(super) fn lose(&mut self, session: u64) -> usize {
        let is_lost = |lent: &Lent| lent.tag.is_some_and(|tag| tag.session == session);
        let numbers: Vec<u64> = self.lent.iter().filter(|(_, lent)| is_lost(lent)).map(|(number, _)| *number).collect();
        for number in &numbers {
            let Some(lent) = self.lent.get_mut(number) else { continue };
            lent.tag = None;
            let (queue, parcel) = (lent.queue.clone(), lent.parcel.clone());
            let key = self.key(&queue, &parcel);
            self.lost.entry(key).or_default().push(*number);
        }
        if self.doubtful.len() > OVER {
            self.doubtful.retain(|_, since| since.iter().any(|since| since.elapsed() < DOUBTED_FOR));
        }
        let (gone, kept) = std::mem::take(&mut self.over).into_iter().partition(|over| over.session == session);
        self.over = kept;
        let gone: VecDeque<Over> = gone;
        for over in gone {
            let key = match over.what {
                OverParcel::Whole(parcel) => self.key(&over.queue, &parcel),
                OverParcel::Key(key) => key,
            };
            self.doubt(key);
        }
        numbers.len()
    }
}

fn hash(value: &AMQPValue, hasher: &mut impl Hasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        AMQPValue::Boolean(is) => is.hash(hasher),
        AMQPValue::LongInt(number) => number.hash(hasher),
        AMQPValue::LongLongInt(number) => number.hash(hasher),
        AMQPValue::Timestamp(number) => number.hash(hasher),
        AMQPValue::Double(number) => number.to_bits().hash(hasher),
        AMQPValue::LongString(bytes) => bytes.as_bytes().hash(hasher),
        AMQPValue::FieldArray(list) => list.as_slice().iter().for_each(|value| hash(value, hasher)),
        AMQPValue::FieldTable(table) => table.inner().iter().for_each(|(name, value)| {
            name.as_str().hash(hasher);
            hash(value, hasher);
        }),
        // Celery's headers have no others.
        _ => {}
    }
}

/// Says how to acknowledge these tags in as few frames as can be: all up to the first that is not
/// among them at once, the others one by one. They are taken out of what is outstanding.
pub(super) fn acknowledgements(outstanding: &mut BTreeSet<u64>, mut tags: Vec<u64>) -> Vec<(u64, bool)> {
    tags.sort_unstable();
    tags.dedup();
    tags.retain(|tag| outstanding.contains(tag));
    let together = tags.iter().zip(outstanding.iter()).take_while(|(tag, next)| tag == next).count();
    let mut frames = Vec::new();
    if together > 0 {
        frames.push((tags[together - 1], together > 1));
    }
    frames.extend(tags[together..].iter().map(|tag| (*tag, false)));
    tags.iter().for_each(|tag| {
        outstanding.remove(tag);
    });
    frames
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parcel(body: &str) -> Arc<Parcel> {
        Arc::new(Parcel { body: body.into(), ..Parcel::default() })
    }

    fn tag(session: u64, tag: u64) -> Tag {
        Tag { session, tag }
    }

    #[test]
    fn what_comes_again_under_another_tag_keeps_its_number() {
        let mut held = Held::default();
        let one = held.add("q".into(), parcel("one"), tag(1, 1));
        let two = held.add("q".into(), parcel("two"), tag(1, 2));
        assert_eq!(held.again("q", &parcel("one"), tag(1, 3)), Again::New, "nothing is lost yet");
        assert_eq!(held.lose(1), 2);
        assert!(held.get(one).unwrap().tag.is_none());
        assert_eq!(held.again("other", &parcel("one"), tag(2, 1)), Again::New, "another queue");
        assert_eq!(held.again("q", &parcel("one"), tag(2, 1)), Again::Ours);
        assert_eq!(held.get(one).unwrap().tag, Some(tag(2, 1)));
        assert_eq!(held.again("q", &parcel("one"), tag(2, 2)), Again::New, "a second one of the same contents");
        assert!(held.remove(two, false).is_some());
        assert_eq!(held.again("q", &parcel("two"), tag(2, 3)), Again::New, "we have given it up");
    }

    #[test]
    fn a_large_message_that_has_ended_is_known_and_not_kept() {
        let mut held = Held::default();
        let large = parcel(&"x".repeat(LARGE));
        let one = held.add("q".into(), large.clone(), tag(1, 1));
        held.remove(one, true);
        assert_eq!(Arc::strong_count(&large), 1);
        held.lose(1);
        assert_eq!(held.again("q", &large, tag(2, 1)), Again::Over);
    }

    #[test]
    fn what_has_ended_is_known_each_time_that_it_comes_again_and_another_one_like_it_is_new() {
        let mut held = Held::default();
        let one = held.add("q".into(), parcel("one"), tag(1, 1));
        held.remove(one, true);
        held.lose(1);
        assert_eq!(held.again("q", &parcel("one"), tag(2, 1)), Again::Over);
        assert_eq!(held.again("q", &parcel("one"), tag(2, 2)), Again::New, "the same task, sent once more");
        held.lose(2);
        assert_eq!(held.again("q", &parcel("one"), tag(3, 1)), Again::Over, "the second acknowledgement was lost, too");
        // It ends while its channel is gone.
        let two = held.add("q".into(), parcel("two"), tag(3, 2));
        held.lose(3);
        held.remove(two, true);
        assert_eq!(held.again("q", &parcel("two"), tag(4, 1)), Again::Over);
    }

    #[test]
    fn headers_of_the_server_make_no_other_message() {
        let with = |name: &str| {
            let mut headers = lapin::types::FieldTable::default();
            headers.insert("retries".into(), AMQPValue::LongInt(1));
            headers.insert(name.into(), AMQPValue::LongLongInt(1));
            Parcel::read(&lapin::BasicProperties::default().with_headers(headers), b"one".to_vec())
        };
        for name in ["x-death", "x-delivery-count", "x-acquired-count"] {
            let mut held = Held::default();
            let mut plain = lapin::types::FieldTable::default();
            plain.insert("retries".into(), AMQPValue::LongInt(1));
            let plain = Parcel::read(&lapin::BasicProperties::default().with_headers(plain), b"one".to_vec());
            held.add("q".into(), Arc::new(plain), tag(1, 1));
            held.lose(1);
            assert_eq!(held.again("q", &with(name), tag(2, 1)), Again::Ours, "{name}");
        }
    }

    #[test]
    fn what_has_ended_and_comes_again_is_known() {
        let mut held = Held::default();
        let one = held.add("q".into(), parcel("one"), tag(1, 1));
        held.remove(one, true);
        held.lose(1);
        assert_eq!(held.again("q", &parcel("one"), tag(2, 1)), Again::Over);
        assert_eq!(held.again("q", &parcel("two"), tag(2, 2)), Again::New);
        let mut headers = lapin::types::FieldTable::default();
        headers.insert("retries".into(), AMQPValue::LongInt(1));
        let retry = Parcel::read(&lapin::BasicProperties::default().with_headers(headers), b"one".to_vec());
        assert_eq!(held.again("q", &retry, tag(2, 1)), Again::New, "another attempt of the same task");
        let two = held.add("q".into(), parcel("two"), tag(2, 1));
        held.remove(two, true);
        held.has_all(2, held.last_end());
        held.lose(2);
        assert_eq!(held.again("q", &parcel("two"), tag(3, 1)), Again::New, "the server had the acknowledgement");
    }

    #[test]
    fn tags_are_acknowledged_together_as_far_as_they_are_the_first() {
        for (outstanding, tags, frames) in [
            (vec![1, 2, 3], vec![1, 2, 3], vec![(3, true)]),
            (vec![1, 2, 3, 4], vec![4, 2, 1], vec![(2, true), (4, false)]),
            (vec![1, 2, 3], vec![2], vec![(2, false)]),
            (vec![5, 6], vec![5], vec![(5, false)]),
            (vec![5, 6], vec![7], vec![]),
        ] {
            let mut set = outstanding.into_iter().collect();
            assert_eq!(acknowledgements(&mut set, tags), frames);
        }
    }

    proptest! {
        #[test]
        fn no_other_tag_is_acknowledged(outstanding in prop::collection::btree_set(0_u64..40, 0..30), tags in prop::collection::vec(0_u64..40, 0..30)) {
            let mut left = outstanding.clone();
            let frames = acknowledgements(&mut left, tags.clone());
            let mut server = outstanding.clone();
            for (tag, multiple) in frames {
                server.retain(|other| if multiple { *other > tag } else { *other != tag });
            }
            let expected: BTreeSet<u64> = outstanding.into_iter().filter(|tag| !tags.contains(tag)).collect();
            prop_assert_eq!(&server, &expected);
            prop_assert_eq!(left, expected);
        }
    }
}
