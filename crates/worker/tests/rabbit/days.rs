//! Servers and workers that end, freeze and refuse, under a worker that runs tasks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use longshore_brokers::Outgoing;
use longshore_celery::{Encoding, Message, State, Value, WireSignature};
use longshore_core::ErrorKind;
use longshore_testkit::rabbit::{self, RabbitOptions, RabbitServer};
use longshore_worker::{Call, Task};
use tokio::sync::Semaphore;

use crate::bench::{Bench, PATIENCE};

pub(crate) fn message(task: &str, number: i64) -> Message {
    let id = format!("{task}-{number}");
    Message { id, task: task.to_owned(), args: vec![number.into()], routing_key: "celery".to_owned(), ..Message::default() }
}

pub(crate) fn outgoing(message: &Message) -> Outgoing {
    Outgoing { queue: "celery".into(), exchange: None, priority: 0, due: None, raw: message.encode(Encoding::Json) }
}

async fn send(bench: &Bench, numbers: std::ops::Range<i64>) {
    let batch: Vec<_> = numbers.map(|number| outgoing(&message("good", number))).collect();
    // With patience: a server that is away for longer is asked again.
    loop {
        let sent = tokio::time::timeout(PATIENCE * 2, bench.connected.broker.publish(&batch)).await;
        match sent.unwrap_or_else(|_| panic!("no answer, and no error; said: {:?}", bench.said.lock().unwrap())) {
            Ok(()) => return,
            Err(error) => assert_eq!(error.kind, ErrorKind::Transient, "{error}"),
        }
    }
}

fn link(queue: &str, size: usize) -> WireSignature {
    let mut link = WireSignature { task: "good".to_owned(), ..WireSignature::default() }.args([Value::from(-1), "x".repeat(size).into()]);
    link.options.set("queue", queue);
    link
}

fn with_header(mut link: WireSignature, header: &str) -> WireSignature {
    link.options.set("headers", Value::Map([("h", header)].into_iter().collect()));
    link
}

/// A task of this name that waits at a gate, and the gate.
fn gated(name: &str, begun: &Arc<AtomicU32>) -> (Task, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let (waits, begun) = (gate.clone(), begun.clone());
    let task = Task::future(name, move |_, _: Call| {
        begun.fetch_add(1, Ordering::SeqCst);
        let waits = waits.clone();
        async move {
            drop(waits.acquire().await);
            Ok(Value::Null)
        }
    });
    (task, gate)
}

/// A task that lasts so long, and counts its runs.
pub(crate) fn lasting(time: Duration) -> (Task, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let task = Task::future("lasts", move |_, _: Call| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(time).await;
            Ok(Value::Null)
        }
    });
    (task, runs)
}

/// All of them ran, and their results are there.
async fn all_ended(bench: &Bench, what: &str, count: i64) {
    for number in 0..count {
        let id = format!("good-{number}");
        bench.until(what, async || bench.state(&id).await == Some(State::Success)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_server_refuses_of_one_task_fails_it_alone() {
    let Some(server) = RabbitServer::start(&["max_message_size = 150000"]) else { return };
    let long = "q".repeat(300);
    let header = "h".repeat(140_000);
    for (what, callbacks, reason) in [
        // Small as it comes, large as it goes on: its result is an argument of what follows.
        ("a body over max_message_size", vec![link("celery", 1)], "larger than configured max size"),
        ("a queue's name of 300 bytes", vec![link(&long, 1)], "300 bytes"),
        ("a queue's name of RabbitMQ's own", vec![link("amq.mine", 1)], "reserved prefix 'amq.*'"),
        // Under max_message_size, as a part of the body that it comes in.
        ("headers over frame_max", vec![with_header(link("celery", 1), &header)], "a frame of this server's has room for"),
    ] {
        let url = server.vhost();
        let bench = Bench::new(&url);
        let mut batch: Vec<_> = (0..200).map(|number| outgoing(&message("good", number))).collect();
        let mut bad = Message { id: "bad".to_owned(), callbacks, ..message("good", -2) };
        if reason.contains("max size") {
            bad.task = "large".to_owned();
        }
        batch.insert(70, outgoing(&bad));
        bench.connected.broker.publish(&batch).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let large = Task::plain("large", |_, _| Ok("x".repeat(200_000).into()));
        let worker = bench.worker([large]).await;
        all_ended(&bench, what, 200).await;
        bench.until(what, async || bench.state("bad").await == Some(State::Failure)).await;
        // Its result is stored before the broker has its letter.
        bench.until(what, async || bench.connected.letters().unwrap().dead(Some("celery")).await.unwrap().len() == 1).await;
        let letters = bench.connected.letters().unwrap().dead(Some("celery")).await.unwrap();
        assert!(letters[0].reason.contains(reason) && !letters[0].reason.contains("rabbitmqctl"), "{what}: {}", letters[0].reason);
        assert!((0..200).all(|number| bench.runs(number) == 1), "{what}");
        worker.stopper().warm();
        let summary = worker.join().await;
        assert_eq!((summary.counts.ok, summary.counts.failed, summary.error), (200, 1, None), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_outlasts_the_consumer_timeout_runs_once() {
    // The server looks twice a second here, and not once a minute.
    let impatient = RabbitOptions::new().conf("consumer_timeout = 2000").advanced("[{rabbit, [{channel_tick_interval, 500}]}].");
    outlasts(impatient, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three minutes: a real server looks once a minute; run by hand"]
async fn a_task_of_150_s_outlasts_a_consumer_timeout_of_60_s_and_runs_once() {
    outlasts(RabbitOptions::new().conf("consumer_timeout = 60000"), Duration::from_secs(150)).await;
}

async fn outlasts(server: RabbitOptions, time: Duration) {
    let Some(server) = server.start() else { return };
    for options in ["", "?queue_type=quorum"] {
        let bench = Bench::new(&format!("{}{options}", server.vhost()));
        let (lasts, runs) = lasting(time);
        let worker = bench.worker([lasts]).await;
        let batch: Vec<_> = (0..3).map(|number| outgoing(&message("lasts", number))).collect();
        bench.connected.broker.publish(&batch).await.unwrap();
        tokio::time::sleep(time).await;
        for number in 0..3 {
            let id = format!("lasts-{number}");
            bench.until("it ends", async || bench.state(&id).await == Some(State::Success)).await;
        }
        bench
            .until("nothing is left", async || {
                bench.connected.broker.queues(&["celery".into()]).await.is_ok_and(|states| states[0].waiting == 0)
            })
            .await;
        worker.stopper().warm();
        let summary = worker.join().await;
        let said = bench.said.lock().unwrap().clone();
        assert_eq!((runs.load(Ordering::SeqCst), summary.counts.ok, summary.counts.late), (3, 3, 0), "{options}: {said:?}");
        assert!(said.iter().any(|text| text.contains("timed out")), "the channel was closed, and that is told: {said:?}");
        println!("{options}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_short_of_memory_or_disk_is_told_and_waited_for() {
    let Some(server) = RabbitServer::start(&[]) else { return };
    for alarm in ["{resource_limit, memory, node()}", "{resource_limit, disk, node()}"] {
        let bench = Bench::new(&server.vhost());
        let begun = Arc::new(AtomicU32::new(0));
        let ((lasts, gate), (goes_on, later)) = (gated("lasts", &begun), gated("goes-on", &begun));
        let worker = bench.worker([lasts, goes_on]).await;
        let mut batch: Vec<_> = (0..7).map(|number| outgoing(&message("lasts", number))).collect();
        let follows = |number| Message { callbacks: vec![link("celery", 1)], ..message("goes-on", number) };
        batch.extend((0..3).map(|number| outgoing(&follows(number))));
        bench.connected.broker.publish(&batch).await.unwrap();
        bench.until("they run", async || begun.load(Ordering::SeqCst) == 10).await;
        // Connections know it when the alarms can be asked for: it is told to them first.
        server.eval(&format!("rabbit_alarm:set_alarm({{{alarm}, []}}), rabbit_alarm:get_alarms(), ok."));
        // A connection that sends is blocked with what it sends next.
        let patient =
            tokio::time::timeout(Duration::from_millis(700), bench.connected.broker.publish(&[outgoing(&message("good", 0))])).await;
        assert!(!matches!(patient, Ok(Ok(()))), "nothing is confirmed");
        gate.close();
        for number in 0..7 {
            let id = format!("lasts-{number}");
            bench.until("what runs ends", async || bench.state(&id).await == Some(State::Success)).await;
        }
        let lent = || server.queues(bench.vhost()).iter().find(|(name, ..)| name == "celery").map_or(0, |(_, _, lent, _)| *lent);
        bench.until("it is acknowledged", async || lent() == 3).await;
        let told = |what: &str| bench.said.lock().unwrap().iter().filter(|text| text.contains(what)).count();
        assert_eq!(told("takes nothing"), 0, "the worker has sent nothing yet");
        later.close();
        bench.until("it is told", async || told("it takes nothing for now") == 1).await;
        assert_eq!((bench.runs(-1), lent()), (0, 3), "what follows waits, and what it follows stays lent");
        server.eval(&format!("rabbit_alarm:clear_alarm({alarm}), ok."));
        bench.until("what follows runs", async || bench.runs(-1) == 3).await;
        bench.until("it is told", async || told("it takes what it is given again") == 1).await;
        send(&bench, 1..5).await;
        bench.until("all is well", async || (1..5).all(|number| bench.runs(number) >= 1)).await;
        worker.stopper().warm();
        assert_eq!(worker.join().await.error, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_under_a_worker_is_made_again() {
    let Some(url) = rabbit::vhost() else { return };
    let bench = Bench::new(&url);
    let worker = bench.worker([]).await;
    send(&bench, 0..3).await;
    all_ended(&bench, "before", 3).await;
    let vhost = bench.vhost();
    rabbit::shared().unwrap().eval(&format!(
        r#"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"celery">>)), rabbit_amqqueue:delete(Q, false, false, <<"test">>), ok."#
    ));
    bench.until("it is told", async || bench.said.lock().unwrap().iter().any(|text| text.contains("was deleted"))).await;
    send(&bench, 3..6).await;
    all_ended(&bench, "after", 6).await;
    worker.stopper().warm();
    assert_eq!(worker.join().await.error, None);
}
