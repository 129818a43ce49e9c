//! Topics, producing, lag, and what is said when something is not allowed, on a real Kafka.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore_brokers::BrokerError;
use longshore_kafka::{Admin, NewRecord, Placed, Producer, Sending, Settings, produce::NotTaken};
use longshore_testkit::kafka;

const PATIENCE: Duration = Duration::from_secs(15);

fn admin(address: &str) -> Admin {
    Admin::open(&Settings::parse(address).unwrap(), PATIENCE).unwrap()
}

/// What became of each of these values, in their order; the error as people read it.
fn fates(producer: &Producer, topic: &str, values: &[Vec<u8>]) -> Vec<Result<i64, String>> {
    let fates: Arc<Mutex<BTreeMap<usize, Result<i64, String>>>> = Arc::default();
    for (at, value) in values.iter().enumerate() {
        let told = fates.clone();
        let done = Box::new(move |result: Result<Placed, BrokerError>| {
            told.lock().unwrap().insert(at, result.map(|placed| placed.offset).map_err(|error| error.to_string()));
        });
        match producer.send(&NewRecord { topic, value: Some(value), ..NewRecord::default() }, done) {
            Ok(()) => {}
            Err(NotTaken::Refused(error)) => drop(fates.lock().unwrap().insert(at, Err(error.to_string()))),
            Err(NotTaken::Full(_)) => panic!("there is room for {}", values.len()),
        }
    }
    assert!(producer.flush(PATIENCE), "{topic}: {} wait, told: {:?}", producer.waiting(), fates.lock().unwrap());
    std::mem::take(&mut *fates.lock().unwrap()).into_values().collect()
}

#[test]
fn a_record_that_is_too_large_is_told_so_and_the_others_are_delivered() {
    let Some(address) = kafka::shared() else { return };
    let (admin, settings) = (admin(&address), Settings::parse(&address).unwrap());
    let (narrow, wide) = (kafka::name("narrow"), kafka::name("wide"));
    admin.create_topic(&narrow, 1, None, &[("max.message.bytes", "2000")]).unwrap();
    admin.create_topic(&wide, 1, None, &[]).unwrap();
    let values = |large: usize| -> Vec<Vec<u8>> { (0..100).map(|at| vec![b'x'; if at == 7 { large } else { 90 }]).collect() };
    let most = admin.max_message_bytes(&narrow).unwrap();
    assert_eq!((most, admin.max_message_bytes(&wide).unwrap()), (2_000, 1_048_588));
    // Larger than the topic takes; and larger than the client does, which knows that at once.
    let careful = Producer::open(&settings, &Sending { max_batch: most, ..Sending::default() }).unwrap();
    let usual = Producer::open(&settings, &Sending::default()).unwrap();
    for (producer, topic, large, verb) in [(careful, &narrow, 5_000, "deliver"), (usual, &wide, 2_000_000, "send")] {
        let fates = fates(&producer, topic, &values(large));
        let delivered: Vec<i64> = fates.iter().filter_map(|fate| fate.as_ref().ok().copied()).collect();
        assert_eq!(delivered, (0..99).collect::<Vec<_>>());
        let error = fates[7].as_ref().unwrap_err();
        assert!(error.starts_with(&format!("cannot {verb} a record of {large} bytes to `{topic}`: the record is larger than")), "{error}");
        assert!(error.contains("max.message.bytes") && error.ends_with("raise that, or make it smaller"), "{error}");
    }
    let missing = admin.max_message_bytes(&kafka::name("missing")).unwrap_err().to_string();
    assert!(missing.contains("there is no such topic"), "{missing}");
}

#[test]
fn records_go_where_java_would_put_them_and_the_lag_counts_them() {
    let Some(address) = kafka::shared() else { return };
    let (admin, topic) = (admin(&address), kafka::name("orders"));
    admin.create_topic(&topic, 6, None, &[("retention.ms", "3600000")]).unwrap();
    let made = admin.topic(&topic).unwrap().unwrap();
    assert_eq!((made.partitions, made.replicas, made.ailing), (6, 1, 0));
    assert!(admin.topics().unwrap().contains(&made));
    let again = admin.create_topic(&topic, 6, None, &[]).unwrap_err().to_string();
    assert!(again.contains("it exists already"), "{again}");

    let producer = Producer::open(&Settings::parse(&address).unwrap(), &Sending::default()).unwrap();
    assert_eq!(producer.partitions(&topic, PATIENCE).unwrap(), 6);
    let placed: Arc<Mutex<BTreeMap<String, Placed>>> = Arc::default();
    let keys: Vec<String> = (0..100).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        let (placed, name) = (placed.clone(), key.clone());
        let record = NewRecord {
            topic: &topic,
            key: Some(key.as_bytes()),
            value: Some(b"{}"),
            headers: &[("trace", Some(b"x")), ("empty", None)],
            ..NewRecord::default()
        };
        let done = Box::new(move |result: Result<Placed, _>| assert!(placed.lock().unwrap().insert(name, result.unwrap()).is_none()));
        assert!(producer.send(&record, done).is_ok());
    }
    assert!(producer.flush(PATIENCE));
    let placed = placed.lock().unwrap();
    assert_eq!(placed.len(), 100);
    // toPositive(murmur2(key)) % 6, as Java's Utils has it.
    for key in &keys {
        let want = (murmur2(key.as_bytes()) & 0x7fff_ffff) % 6;
        assert_eq!(placed[key].partition as u32, want, "{key}");
    }
    let ends: i64 = admin.extents(&topic).unwrap().values().map(|extent| extent.end - extent.begin).sum();
    assert_eq!(ends, 100);
    let lag = admin.lag("nobody-yet", std::slice::from_ref(&topic)).unwrap();
    assert_eq!((lag.len(), lag.iter().map(|row| row.records()).sum::<u64>()), (6, 100));
    assert!(lag.iter().all(|row| row.committed.is_none() && row.member.is_none()));
    assert_eq!(admin.lag("nobody-yet", &[]).unwrap(), []);
}

#[test]
fn a_topic_that_is_not_there_is_named_with_what_to_do() {
    let Some(address) = kafka::shared() else { return };
    let (admin, topic) = (admin(&address), kafka::name("missing"));
    assert_eq!(admin.topic(&topic).unwrap(), None);
    let error = admin.lag("g", std::slice::from_ref(&topic)).unwrap_err().to_string();
    assert!(error.contains(&topic) && error.contains("create-topic"), "{error}");
    let producer = Producer::open(&Settings::parse(&address).unwrap(), &Sending::default()).unwrap();
    let error = producer.partitions(&topic, PATIENCE).unwrap_err().to_string();
    assert!(error.contains("create-topic"), "{error}");
    let error = admin.create_topic("no such name", 1, None, &[]).unwrap_err().to_string();
    assert!(error.contains("249"), "{error}");
}

#[test]
fn a_producer_whose_queue_is_full_says_so_and_what_is_too_large_is_refused_alone() {
    let Some(address) = kafka::shared() else { return };
    let (admin, topic) = (admin(&address), kafka::name("full"));
    admin.create_topic(&topic, 1, None, &[("max.message.bytes", "2000")]).unwrap();
    let sending = Sending { max_waiting: 3, ..Sending::default() };
    let producer = Producer::open(&Settings::parse(&address).unwrap().with("linger.ms=1000").unwrap(), &sending).unwrap();
    let told: Arc<Mutex<Vec<Result<Placed, String>>>> = Arc::default();
    let send = |value: &[u8]| {
        let told = told.clone();
        let done = Box::new(move |result: Result<Placed, longshore_brokers::BrokerError>| {
            told.lock().unwrap().push(result.map_err(|error| error.to_string()));
        });
        producer.send(&NewRecord { topic: &topic, value: Some(value), ..NewRecord::default() }, done)
    };
    let mut full = 0;
    for _ in 0..4 {
        full += u32::from(matches!(send(b"x"), Err(NotTaken::Full(_))));
    }
    assert_eq!(full, 1);
    assert!(producer.flush(PATIENCE));
    assert!(send(&[b'x'; 5000]).is_ok(), "the client takes a megabyte");
    assert!(producer.flush(PATIENCE));
    assert!(matches!(send(&vec![b'x'; 3 << 20]), Err(NotTaken::Refused(error)) if error.message.contains("max.message.bytes")));
    let told = told.lock().unwrap();
    assert_eq!(told.iter().filter(|result| result.is_ok()).count(), 3);
    assert!(told.iter().any(|result| result.as_ref().is_err_and(|error| error.contains("max.message.bytes"))), "{told:?}");
}

#[test]
fn nobody_there_is_told_with_the_reason() {
    let settings = Settings::parse("127.0.0.1:1").unwrap();
    let error = Admin::open(&settings, Duration::from_secs(2)).unwrap().topics().unwrap_err().to_string();
    assert!(error.contains("Connection refused") && error.contains("is Kafka running"), "{error}");
}

#[cfg(feature = "tls")]
#[test]
fn a_wrong_certificate_a_wrong_password_and_no_permission_are_told_apart() {
    let Some(node) = kafka::Kafka::start_secure(&[]) else { return };
    let (address, ca) = (node.secure_address(), node.ca().display().to_string());
    let ask = |url: String| Admin::open(&Settings::parse(&url).unwrap(), PATIENCE).unwrap();
    let right = ask(format!("kafkas://admin:admin-secret@{address}/?ca={ca}"));
    right.create_topic("till", 1, None, &[]).unwrap();
    let error = ask(format!("kafkas://admin:wrong@{address}/?ca={ca}")).topics().unwrap_err().to_string();
    assert!(error.contains("user or password is wrong"), "{error}");
    let error = ask(format!("kafkas://admin:admin-secret@{address}")).topics().unwrap_err().to_string();
    assert!(error.contains("certificate") && error.contains("?ca=FILE"), "{error}");
    ask(format!("kafkas://admin:admin-secret@{address}/?insecure=true")).topics().unwrap();
    let error = ask(format!("kafka://admin:admin-secret@{address}")).topics().unwrap_err().to_string();
    assert!(error.contains("kafkas://"), "{error}");
    let error = ask(format!("kafkas://{address}/?ca={ca}")).topics().unwrap_err().to_string();
    assert!(error.contains("wants a user"), "{error}");
    let guest = ask(format!("kafkas://guest:guest-secret@{address}/?ca={ca}"));
    assert_eq!(guest.topics().unwrap(), [], "what one may not see is not there");
    let error = guest.create_topic("mine", 1, None, &[]).unwrap_err().to_string();
    assert!(error.contains("no permission"), "{error}");
    let error = guest.lag("g", &["till".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("no permission"), "{error}");
}

/// Java's `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let chunks = data.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}
