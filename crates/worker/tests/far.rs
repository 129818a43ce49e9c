//! A worker whose broker is far away: the next messages are asked for while there is still something to do.

use std::time::{Duration, Instant};

use longshore_brokers::{Outgoing, connect};
use longshore_celery::{Encoding, Message, Value};
use longshore_testkit::{proxy::Proxy, servers::Redis};
use longshore_worker::{App, Task, Worker, WorkerOptions};

const TASKS: usize = 600;
const SLOTS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_way_is_longer_than_the_tasks_more_is_claimed_than_can_start() {
    let Some(server) = Redis::start(&[]) else { return };
    let (broker, _) = connect(&server.url(), None).unwrap();
    let outgoing = |number: usize| {
        let message = Message { task: "short".to_owned(), id: number.to_string(), routing_key: "celery".to_owned(), ..Message::default() };
        Outgoing { queue: "celery".into(), priority: 0, due: None, raw: message.encode(Encoding::Json) }
    };
    broker.publish(&(0..TASKS).map(outgoing).collect::<Vec<_>>()).await.unwrap();
    let proxy = Proxy::start(server.port());
    proxy.far(Duration::from_millis(10));
    let short = Task::future("short", |_, _| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(Value::Null)
    });
    let mut options = WorkerOptions::new("w@test");
    options.lanes = [SLOTS; 4];
    let app = App::new().broker(format!("redis://127.0.0.1:{}/0", proxy.port())).task(short);
    let worker = Worker::start(app, options).await.unwrap();
    let length = |command: &str, key: &str| -> usize { server.command(&[command, key]).trim().trim_start_matches(':').parse().unwrap() };
    let (begun, mut most) = (Instant::now(), 0);
    loop {
        let held = length("HLEN", "unacked");
        most = most.max(held);
        if held + length("LLEN", "celery") == 0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "all are run");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // What can start, and what ends while a claim is on its way, four times over: a hundred, as fast as this machine is, and by far not all.
    assert!((10 * SLOTS..TASKS / 2).contains(&most), "{most} were claimed at a time");
    worker.stopper().warm();
    worker.join().await;
}
