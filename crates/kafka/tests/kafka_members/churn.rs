//! Members that join and leave every few seconds, under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_core::TaskError;
use longshore_kafka::{Consumer, Handler, Record, Settings};
use longshore_testkit::kafka::{name, shared};

use crate::common::{Place, Topic, sized};

/// What all members did.
#[derive(Default)]
struct Seen {
    /// The keys that are in work.
    busy: BTreeSet<Vec<u8>>,
    /// The highest number of each key that is done.
    last: BTreeMap<Vec<u8>, u64>,
    done: BTreeMap<Place, usize>,
    wrong: Vec<String>,
}

impl Seen {
    fn begin(&mut self, record: &Record) {
        let (key, number) = (record.key().unwrap().to_vec(), number(record));
        let place = (record.partition(), record.offset());
        // A repeat may come behind its successors.
        if self.last.get(&key).is_some_and(|last| *last > number) && !self.done.contains_key(&place) {
            self.wrong.push(format!("{record} began behind number {} of its key", self.last[&key]));
        }
        if !self.busy.insert(key) {
            self.wrong.push(format!("{record} began while another one of its key was in work"));
        }
    }

    fn end(&mut self, record: &Record) {
        let key = record.key().unwrap();
        self.busy.remove(key);
        let last = self.last.entry(key.to_vec()).or_default();
        *last = (*last).max(number(record));
        *self.done.entry((record.partition(), record.offset())).or_default() += 1;
    }
}

fn number(record: &Record) -> u64 {
    record.text().unwrap().parse().unwrap()
}

fn member(topic: &Topic, group: &str) -> Consumer {
    Consumer::new(Settings::parse(&topic.address).unwrap(), group, [topic.name.as_str()])
        .max_threads(30)
        .commit_every(Duration::from_millis(300))
}

fn handler(seen: &Arc<Mutex<Seen>>) -> Handler<()> {
    let seen = seen.clone();
    Handler::new(move |record: Record| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().begin(&record);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..60))).await;
            seen.lock().unwrap().end(&record);
            Ok::<_, TaskError>(())
        }
    })
}

#[test]
fn members_that_come_and_go_skip_nothing_repeat_nothing_and_keep_each_keys_order() {
    let Some(address) = shared() else { return };
    let (rounds, records) = sized((4, 12_000), (60, 150_000));
    let topic = Topic::filled(&address, "churn", 6, records, 500);
    let (group, seen) = (name("churn"), Arc::new(Mutex::new(Seen::default())));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stays = member(&topic, &group).start(handler(&seen)).await.unwrap();
        let mut by_guests = 0;
        for _ in 0..rounds {
            let guest = member(&topic, &group).start(handler(&seen)).await.unwrap();
            // Until it has had something to do, as long as there is anything.
            let handle = guest.handle();
            while handle.snapshot().await.is_some_and(|view| view.counts.done == 0) && seen.lock().unwrap().done.len() < records {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(200..1_500))).await;
            handle.stop();
            let summary = guest.join().await;
            assert_eq!((summary.error, summary.counts.abandoned), (None, 0));
            by_guests += summary.counts.done;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..800))).await;
        }
        let began = Instant::now();
        while seen.lock().unwrap().done.len() < records {
            assert!(began.elapsed() < Duration::from_secs(120), "{} of {records} are done", seen.lock().unwrap().done.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stays.handle().stop();
        let summary = stays.join().await;
        assert_eq!((summary.error, summary.counts.lost), (None, 0));
        assert!(by_guests > 0, "no guest had anything to do");
        println!("{rounds} guests did {by_guests} of {records}; who stayed: {:?}", summary.counts);
    });
    let seen = seen.lock().unwrap();
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    let repeats: Vec<_> = seen.done.iter().filter(|(_, times)| **times > 1).collect();
    assert!(repeats.is_empty(), "repeated although every member had time to commit: {repeats:?}");
    assert_eq!(seen.done.len(), records);
    for (committed, end) in topic.committed(&group).iter().zip(topic.ends()) {
        assert_eq!((committed.offset, committed.metadata.as_str()), (Some(end), ""));
    }
}
