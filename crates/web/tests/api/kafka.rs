//! A consumer of Kafka and the groups of a cluster, on a real Kafka: pages, forms, and each
//! operation against the document.

use std::{collections::BTreeMap, time::Instant};

use longshore_kafka::{
    Acks, Admin, Consumer, Handler, NewRecord, Producer, Record, RunningConsumer, Sending, Settings,
    admin::{Lag, UNTOLD},
};
use longshore_run::jobs::StateDir;
use longshore_testkit::kafka::{name, shared};
use longshore_web::{ConsumerNote, KafkaOptions};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A topic with records, and a group that nothing of a page must run.
struct Orders {
    address: String,
    topic: String,
    group: String,
}

impl Orders {
    /// `None` where there is no Kafka.
    async fn new(records: usize) -> Option<Self> {
        tokio::task::spawn_blocking(move || {
            let orders = Self { address: shared()?, topic: name("orders"), group: name("<script>alert('group')</script>/") };
            orders.admin().create_topic(&orders.topic, 2, None, &[]).unwrap();
            let sending = Sending { acks: Acks::All, ..Sending::default() };
            let producer = Producer::open(&orders.settings(), &sending).unwrap();
            for number in 0..records {
                let key = format!("<img src=k{number}>");
                let record = NewRecord { topic: &orders.topic, key: Some(key.as_bytes()), value: Some(b"7"), ..NewRecord::default() };
                assert!(producer.send(&record, Box::new(|placed| assert!(placed.is_ok()))).is_ok());
            }
            assert!(producer.flush(PATIENCE));
            Some(orders)
        })
        .await
        .unwrap()
    }

    fn settings(&self) -> Settings {
        Settings::parse(&self.address).unwrap()
    }

    fn admin(&self) -> Admin {
        Admin::open(&self.settings(), PATIENCE).unwrap()
    }

    /// Starts a member that takes 20 ms for a record, five at once.
    async fn consume(&self, settings: Settings, group: &str) -> RunningConsumer {
        let consumer = Consumer::new(settings, group, [&self.topic]).max_threads(5).commit_every(Duration::from_millis(100));
        let slow = async |_: Record| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, longshore_core::TaskError>(())
        };
        consumer.start(Handler::new(slow)).await.unwrap()
    }
}

async fn json_of(address: SocketAddr, path: &str) -> Value {
    let answered = ask(address, "GET", path, "", "").await;
    serde_json::from_str(&answered.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answered.body))
}

async fn until(what: &str, address: SocketAddr, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let seen = json_of(address, path).await;
        if is_so(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {seen:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends a form of the page, as a browser without script does. Returns where that leads.
async fn submit(address: SocketAddr, fields: &str) -> String {
    let page = ask(address, "GET", "/", "", "").await.body;
    let token = page.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
    let answered = ask(address, "POST", "/act", FORM, &format!("_token={token}&back=/&{fields}")).await;
    assert_eq!(answered.status, 303, "{}", answered.body);
    answered.header("location").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_kafka_is_seen_and_steered_on_its_page_and_answers_as_the_document_says() {
    let Some(orders) = Orders::new(4_000).await else { return };
    let running = orders.consume(orders.settings(), &orders.group).await;
    let options = WebOptions::default();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_consumer(options, running.handle()));
    let address = serving.address();
    let mut described = Described::of(address, "").await;
    let path = "/api/v1/kafka/consumer";
    let seen = until("records in work, and a lag", address, path, |seen| {
        seen["counts"]["done"].as_u64() > Some(10)
            && seen["lag"].as_u64() > Some(0)
            && !seen["running"][0]["record"].is_null()
            && seen["partitions"].as_array().is_some_and(|partitions| partitions.len() == 2)
    })
    .await;
    let partition = &seen["partitions"][0];
    assert_eq!((&seen["max_threads"], &seen["max_in_flight"], &partition["topic"]), (&json!(5), &json!(50), &json!(orders.topic)));
    assert!(partition["position"].as_i64() >= partition["committed"].as_i64(), "{seen:#}");
    let page = ask(address, "GET", "/", "", "").await.body;
    for want in ["&lt;script&gt;alert(", "&lt;img src=k", "records in work", "Partitions", "Gate", "At most"] {
        assert!(page.contains(want), "{want}: {page}");
    }
    assert!(!page.contains("<script>alert") && !page.contains("<img src=k"), "{page}");
    let metrics = ask(address, "GET", "/metrics", "", "").await.body;
    for family in ["lag_records", "position_offset", "parked_records", "gate_open", "max_threads"] {
        assert!(metrics.contains(&format!("longshore_kafka_{family}{{")), "{family}: {metrics}");
    }

    // What was changed is what is shown next.
    assert!(submit(address, "what=set&max_threads=3").await.contains("at%20most%203%20in%20work"));
    assert_eq!(json_of(address, path).await["max_threads"], 3);
    assert!(submit(address, "what=set&max_in_flight=none").await.contains("refused=1"));

    let post = |what: &str, body: &str| {
        let path = format!("/api/v1/kafka/consumer/{what}");
        Asked::post(&path, &path, body)
    };
    let looks = ["/healthz", "/api/v1/openapi.json", "/readyz", "/metrics", path].map(|path| Asked::get(path, path));
    let set = post("set", r#"{"max_threads":9,"max_in_flight":30,"rate":"500/s"}"#);
    let all = [&looks[..], &[post("pause", ""), post("resume", ""), set, post("drain", ""), post("cancel", "{}")]].concat();
    refuse_each(&mut described, address, &all).await;
    described.ask(address, &post("set", "{}"), 422).await;
    for asked in &all[..8] {
        described.ask(address, asked, 200).await;
        if asked.path.ends_with("/pause") {
            until("a pause", address, path, |seen| seen["state"] == "paused" && seen["active"] == 0).await;
        }
    }
    let seen = json_of(address, path).await;
    assert_eq!((&seen["max_threads"], &seen["max_in_flight"], &seen["pace"]), (&json!(9), &json!(30), &json!("500/s")));

    // Drained, and then told to end at once.
    for asked in &all[8..] {
        described.ask(address, asked, 200).await;
    }
    let summary = running.join().await;
    assert!(summary.error.is_none(), "{:?}", summary.error);
    let begun = Instant::now();
    while ask(address, "GET", path, "", "").await.status != 503 {
        assert!(begun.elapsed() < PATIENCE, "it is over, and does not say so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for asked in &all[2..] {
        described.ask(address, asked, 503).await;
    }
    assert_eq!(described.unseen(), [], "described, and never brought about");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_records_are_hidden_with_arguments() {
    let Some(orders) = Orders::new(1_000).await else { return };
    let running = orders.consume(orders.settings(), &orders.group).await;
    let mut options = WebOptions::default();
    options.hide_args = true;
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_consumer(options, running.handle()));
    let seen = until("records in work", serving.address(), "/api/v1/kafka/consumer", |seen| !seen["running"][0]["record"].is_null()).await;
    assert!(seen["running"].as_array().unwrap().iter().all(|running| running["key"].is_null()), "{seen:#}");
    let page = ask(serving.address(), "GET", "/", "", "").await.body;
    assert!(page.contains(&orders.topic) && !page.contains("img src=k"), "{page}");
    running.handle().stop_now();
    running.join().await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_kafka_are_shown_with_members_and_lag_and_answer_as_the_document_says() {
    let Some(orders) = Orders::new(3_000).await else { return };
    let running = orders.consume(orders.settings(), &orders.group).await;
    let newer = name("newer");
    let other = orders.consume(orders.settings().with("group.protocol=consumer").unwrap(), &newer).await;
    let folder = tempfile::tempdir().unwrap();
    let mut options = WebOptions::default();
    options.jobs = Some(StateDir::open(Some(folder.path())).unwrap());
    let mut kafka = KafkaOptions::new(orders.settings());
    kafka.groups = vec![orders.group.clone(), newer.clone(), "nobody".to_owned()];
    options.kafka = Some(kafka);
    let note =
        ConsumerNote::write(options.jobs.as_ref().unwrap(), &running.handle().client_id(), "127.0.0.1:7073".parse().unwrap()).unwrap();
    let (_, serving) = deployment("memory://api-kafka", options, limits()).await;
    let address = serving.address();
    let mut described = Described::of(address, "").await;

    // A group may come into being between the list and the lags of one answer.
    let has_lag = |group: &Value| group["lag"].as_u64() > Some(0) && group["partitions"].as_u64() == Some(2) && group["state"] != "Dead";
    let seen = until("three groups with their lags", address, "/api/v1/kafka/groups", |seen| {
        seen["groups"].as_array().is_some_and(|groups| groups.iter().filter(|group| has_lag(group)).count() == 2)
    })
    .await;
    let groups: BTreeMap<&str, &Value> =
        seen["groups"].as_array().unwrap().iter().map(|group| (group["group"].as_str().unwrap(), group)).collect();
    assert_eq!((&groups[&*orders.group]["state"], &groups[&*orders.group]["members"]), (&json!("Stable"), &json!(1)));
    // Brokers call a group of the newer protocol dead when they are asked in the older way.
    assert_eq!((&groups[&*newer]["state"], &groups["nobody"]["state"]), (&json!(UNTOLD), &json!("Dead")));

    let escaped = "%3Cscript%3Ealert%28%27group%27%29%3C%2Fscript%3E%2F";
    let path = format!("/api/v1/kafka/groups/{}", orders.group.replace("<script>alert('group')</script>/", escaped));
    let group = json_of(address, &path).await;
    assert_eq!((&group["group"], &group["members"][0]["partitions"]), (&json!(orders.group), &json!(2)), "{group:#}");
    assert_eq!(group["members"][0]["page"], "http://127.0.0.1:7073/");
    let lags: u64 = group["partitions"].as_array().unwrap().iter().filter_map(|row| row["lag"].as_u64()).sum();
    assert_eq!((group["lag"].as_u64(), group["topics"][0]["lag"].as_u64()), (Some(lags), Some(lags)));

    let page = ask(address, "GET", "/kafka", "", "").await.body;
    assert!(page.contains("&lt;script&gt;alert(") && !page.contains("<script>alert") && page.contains(&newer), "{page}");
    assert!(page.contains(&format!("&#x2f;kafka&#x2f;{escaped}")), "{page}");
    let page = ask(address, "GET", &path.replace("/api/v1/kafka/groups", "/kafka"), "", "").await.body;
    assert!(page.contains("its page</a>") && page.contains(&orders.topic) && page.contains("Stable"), "{page}");
    let page = ask(address, "GET", &format!("/kafka/{newer}"), "", "").await.body;
    assert!(page.contains("newer protocol") && page.contains(&orders.topic), "{page}");

    // The same as `longshore kafka lag` has, when nothing moves any more.
    for running in [running, other] {
        running.handle().stop_now();
        running.join().await;
    }
    drop(note);
    let group = until("a group without members", address, &path, |group| group["members"] == json!([])).await;
    let (admin, name) = (orders.admin(), orders.group.clone());
    let lags = tokio::task::spawn_blocking(move || admin.lag(&name, &[]).unwrap()).await.unwrap();
    assert_eq!(group["lag"].as_u64(), Some(lags.iter().map(Lag::records).sum()));

    let all = [
        Asked::get("/api/v1/kafka/groups", "/api/v1/kafka/groups"),
        Asked::get("/api/v1/kafka/groups/{group}", &format!("/api/v1/kafka/groups/{newer}")),
    ];
    refuse_each(&mut described, address, &all).await;
    described.ask(address, &Asked::get("/api/v1/kafka/groups/{group}", "/api/v1/kafka/groups/nobody"), 404).await;
    for asked in &all {
        described.ask(address, asked, 200).await;
    }
    // Nobody listens there; other pages are answered meanwhile.
    let mut options = WebOptions::default();
    options.kafka = Some(KafkaOptions::new(Settings::parse("127.0.0.1:1").unwrap()));
    let (_, away) = deployment("memory://api-no-kafka", options, limits()).await;
    let refused = async |asked: &Asked| {
        let begun = Instant::now();
        (asked.send(away.address()).await, begun.elapsed())
    };
    let others = Asked::get("/api/v1/queues", "/api/v1/queues");
    let (groups, group, queues) = tokio::join!(refused(&all[0]), refused(&all[1]), refused(&others));
    for (asked, (answered, took)) in all.iter().zip([groups, group]) {
        assert!(answered.status == 503 && took < Duration::from_secs(8), "{answered:?} after {took:?}");
        described.check(&asked.operation, &answered);
    }
    assert!(queues.0.status == 200 && queues.1 < Duration::from_secs(3), "{queues:?}");
    let page = ask(away.address(), "GET", "/kafka", "", "").await;
    assert!(page.status == 200 && page.body.contains("role=\"alert\">") && page.body.contains("127.0.0.1:1"), "{}", page.body);
    away.stop().await;
    // 502 takes a broker that refuses us: `cli/tests/kafka_permissions.rs`.
    let unseen: Vec<_> =
        described.unseen().into_iter().filter(|(operation, status)| operation.contains("/kafka/") && *status != 502).collect();
    assert_eq!(unseen, [], "described, and never brought about");
    serving.stop().await;
}
