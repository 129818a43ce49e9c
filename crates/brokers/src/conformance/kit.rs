//! Messages as Celery sends them, and waiting with a limit.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longshore_celery::{Map, Value};
use longshore_core::{Receipt, source::Fetched};

use super::Subject;
use crate::{
    broker::{Broker, Consumer, OpenOptions, QueueOrder},
    connected::Connected,
    halves::{Bus, DeadLetters, Inspect, Schedules, SharedState},
    json,
    message::{Claimed, End, Ended, Finish, Outgoing},
    results::ResultBackend,
};

/// The lease of the suite's consumers.
pub const LEASE: Duration = Duration::from_secs(1);

/// What must happen soon happens within this time, on a machine that is busy with something else.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// A connection, and the halves that a case asks of it. What it is used as first is a broker.
pub(super) struct Halves(pub(super) Connected);

impl Halves {
    pub(super) fn bus(&self) -> &dyn Bus {
        &**self.0.bus().expect("a bus")
    }

    pub(super) fn inspect(&self) -> &dyn Inspect {
        &**self.0.inspect().expect("it lets us look")
    }

    pub(super) fn letters(&self) -> &dyn DeadLetters {
        &**self.0.letters().expect("dead letters")
    }

    pub(super) fn shared(&self) -> &dyn SharedState {
        &**self.0.shared().expect("a shared state")
    }

    pub(super) fn schedules(&self) -> &dyn Schedules {
        &**self.0.schedules().expect("it keeps schedules")
    }
}

impl std::ops::Deref for Halves {
    type Target = dyn Broker;

    fn deref(&self) -> &Self::Target {
        &*self.0.broker
    }
}

impl Subject {
    /// Returns how many lent messages the broker shows where there are so many.
    pub(super) fn held(&self, count: u64) -> u64 {
        if self.lacks.held { 0 } else { count }
    }

    /// Returns the crashes of a message that was handed back.
    pub(super) fn handed_back(&self) -> u32 {
        self.lacks.innocence.into()
    }

    /// Says whether a message is as it was sent.
    pub(super) fn is_same(&self, one: &[u8], other: &[u8]) -> bool {
        let parts = |raw: &[u8]| Value::parse(raw, 64).ok().map(in_order);
        one == other || (self.lacks.bytes && parts(one) == parts(other))
    }

    pub(super) fn broker(&self) -> Halves {
        Halves((self.connect)())
    }

    /// Connects once, as one process that uses both does.
    pub(super) fn pair(&self) -> (Halves, Arc<dyn ResultBackend>) {
        let connected = (self.connect)();
        let results = connected.results.clone();
        (Halves(connected), results)
    }

    pub(super) fn results(&self) -> Arc<dyn ResultBackend> {
        (self.connect)().results
    }

    /// A consumer of its own, as another process would open it.
    pub(super) async fn consumer(&self, queues: &[&str]) -> Arc<dyn Consumer> {
        open(&*self.broker(), queues).await
    }
}

/// Returns a value with the members of all objects in the order of their names.
fn in_order(value: Value) -> Value {
    match value {
        Value::Map(map) => {
            let mut members: Vec<_> = map.0.into_iter().map(|(name, value)| (name, in_order(value))).collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Map(Map(members))
        }
        Value::List(list) => Value::List(list.into_iter().map(in_order).collect()),
        other => other,
    }
}

pub(super) async fn open(broker: &dyn Broker, queues: &[&str]) -> Arc<dyn Consumer> {
    open_with(broker, queues, false, QueueOrder::InTurn).await
}

/// One that serves its queues in this order.
pub(super) async fn open_in(broker: &dyn Broker, queues: &[&str], order: QueueOrder) -> Arc<dyn Consumer> {
    open_with(broker, queues, false, order).await
}

/// One whose messages are acknowledged as they are claimed.
pub(super) async fn open_early(broker: &dyn Broker, queues: &[&str]) -> Arc<dyn Consumer> {
    open_with(broker, queues, true, QueueOrder::InTurn).await
}

async fn open_with(broker: &dyn Broker, queues: &[&str], early: bool, order: QueueOrder) -> Arc<dyn Consumer> {
    let mut options = OpenOptions::new("suite@here", queues.iter().copied());
    (options.lease, options.early, options.order) = (LEASE, early, order);
    broker.open(options).await.expect("the broker opens a consumer")
}

/// `[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`
const BODY: &str = "W1tdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=";

/// A message as Celery writes it. An ETA lies on the full second: its day is far ahead or it is
/// `None`.
pub(super) fn raw(queue: &str, priority: u8, id: &str, eta: Option<&str>) -> Vec<u8> {
    let eta = eta.map_or("null".to_owned(), |eta| format!("\"{eta}\""));
    let headers = format!(
        r#"{{"lang": "py", "task": "suite.task", "id": "{id}", "shadow": null, "eta": {eta}, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "{id}", "parent_id": null, "argsrepr": "()", "kwargsrepr": "{{}}", "origin": "suite", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {{}}}}"#
    );
    let properties = format!(
        r#"{{"correlation_id": "{id}", "reply_to": "suite", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "{queue}"}}, "priority": {priority}, "body_encoding": "base64", "delivery_tag": "tag-{id}"}}"#
    );
    format!(
        r#"{{"body": "{BODY}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {headers}, "properties": {properties}}}"#
    )
    .into_bytes()
}

pub(super) fn message(queue: &str, id: &str) -> Outgoing {
    with_priority(queue, 0, id)
}

pub(super) fn with_priority(queue: &str, priority: u8, id: &str) -> Outgoing {
    Outgoing { queue: queue.into(), exchange: None, priority, due: None, raw: raw(queue, priority, id, None) }
}

pub(super) fn due(queue: &str, id: &str, due: SystemTime, eta: &str) -> Outgoing {
    Outgoing { queue: queue.into(), exchange: None, priority: 0, due: Some(due), raw: raw(queue, 0, id, Some(eta)) }
}

pub(super) async fn publish(broker: &dyn Broker, queue: &str, ids: &[&str]) {
    let batch: Vec<_> = ids.iter().map(|id| message(queue, id)).collect();
    broker.publish(&batch).await.expect("it is published");
}

pub(super) fn id(raw: &[u8]) -> String {
    json::task_id(raw).expect("a message has an id").to_owned()
}

pub(super) fn ids(claimed: &[Claimed]) -> Vec<String> {
    claimed.iter().map(|claimed| id(&claimed.raw)).collect()
}

/// Claims until so many are there.
pub(super) async fn claim(consumer: &dyn Consumer, count: usize) -> Vec<Claimed> {
    let mut claimed = Vec::new();
    while claimed.len() < count {
        let (before, room) = (claimed.len(), count - claimed.len());
        let fetched = tokio::time::timeout(SOON, consumer.claim(room, &mut claimed)).await;
        let fetched = fetched.unwrap_or_else(|_| panic!("{before} of {count} messages came")).expect("it claims");
        assert_eq!(fetched, Fetched::More);
        assert!(claimed.len() > before && claimed.len() <= count, "at least one and at most {room}: {before} → {}", claimed.len());
    }
    claimed
}

/// Claims so many one at a time; their ids.
pub(super) async fn claim_singly(consumer: &dyn Consumer, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(claim(consumer, 1).await);
    }
    ids(&all)
}

/// Nothing comes within a third of a second. The claim is not cancelled: it is ended by closing the
/// consumer.
pub(super) async fn nothing_comes(consumer: Arc<dyn Consumer>) {
    let claiming = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move {
            let mut claimed = Vec::new();
            consumer.claim(10, &mut claimed).await.map(|_| ids(&claimed))
        }
    });
    tokio::time::sleep(Duration::from_millis(350)).await;
    consumer.close();
    let came = tokio::time::timeout(SOON, claiming).await.expect("close wakes it").expect("it does not panic").expect("it claims");
    assert_eq!(came, Vec::<String>::new(), "nothing should come");
}

pub(super) fn finish(receipt: Receipt, end: End) -> Finish {
    Finish { receipt, publish: Vec::new(), results: Vec::new(), part: None, end }
}

pub(super) async fn end(consumer: &dyn Consumer, claimed: &[Claimed], end: End) -> Vec<Ended> {
    let batch: Vec<_> = claimed.iter().map(|claimed| finish(claimed.receipt, end.clone())).collect();
    consumer.finish(&batch).await.expect("it finishes")
}

/// A time as its seconds since 1970 say it, in the ISO form of Celery's headers.
pub(super) fn iso(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days after 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}+00:00", rest / 3600, rest / 60 % 60, rest % 60)
}
