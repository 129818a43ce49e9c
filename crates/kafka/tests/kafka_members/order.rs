//! The order by key, and what runs beside it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_core::TaskError;
use longshore_kafka::{Consumer, Handler, Order, Record, Settings};
use longshore_testkit::kafka::{name, shared};

use crate::common::{Topic, sized};

#[derive(Default)]
struct Seen {
    /// Each key's last number, and whether it is in work.
    keys: BTreeMap<Vec<u8>, (Option<u64>, bool)>,
    active: usize,
    peak: usize,
    /// Sums of what ran at each begin, for the mean.
    sum: usize,
    count: usize,
    wrong: Vec<String>,
}

#[test]
fn a_thousand_keys_keep_their_order_while_many_more_run_than_there_are_partitions() {
    let Some(address) = shared() else { return };
    let records = sized(20_000, 200_000);
    let topic = Topic::filled(&address, "keys", 4, records, 1_000);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = seen.clone();
    let handler = Handler::new(move |record: Record| {
        let seen = shared.clone();
        async move {
            let (key, number) = (record.key().unwrap().to_vec(), record.text().unwrap().parse::<u64>().unwrap());
            {
                let mut seen = seen.lock().unwrap();
                seen.active += 1;
                (seen.peak, seen.sum, seen.count) = (seen.peak.max(seen.active), seen.sum + seen.active, seen.count + 1);
                let (last, busy) = seen.keys.entry(key.clone()).or_default();
                if *busy || last.is_some_and(|last| last >= number) {
                    let text = format!("{record}: number {number} behind {last:?}, its key busy: {busy}");
                    seen.wrong.push(text);
                } else {
                    (*last, *busy) = (Some(number), true);
                }
            }
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
            let mut seen = seen.lock().unwrap();
            seen.active -= 1;
            seen.keys.get_mut(&key).unwrap().1 = false;
            Ok::<_, TaskError>(())
        }
    });
    let consumer = Consumer::new(Settings::parse(&address).unwrap(), name("keys"), [topic.name.as_str()]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let summary = runtime.block_on(async {
        let running = consumer.order(Order::Key).max_threads(200).until_end().start(handler).await.unwrap();
        let joined = tokio::time::timeout(Duration::from_secs(120), running.join()).await;
        joined.unwrap_or_else(|_| panic!("it does not end"))
    });
    assert_eq!(summary.error, None);
    let seen = seen.lock().unwrap();
    assert!(seen.wrong.is_empty(), "out of order: {:#?}", seen.wrong);
    assert_eq!((seen.count, seen.keys.len()), (records, 1_000));
    let mean = seen.sum / seen.count;
    println!("{records} records, 1000 keys, 4 partitions: none out of order, {mean} at once in the mean, {} at most", seen.peak);
    assert!(seen.peak <= 200 && mean > 80, "{} at most, {mean} in the mean", seen.peak);
}
