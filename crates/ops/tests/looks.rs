//! Looks through queues, which cost their length, and who is spared them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures_util::future::BoxFuture;
use longshore_brokers::{BrokerError, Found, Inspect, connect};
use longshore_celery::Value;
use longshore_ops::{
    tasks::{self, TaskStanding, TasksRequest},
    why::{TaskPlace, WhyRequest, why},
};
use longshore_worker::{App, Client, Signature, Task, Worker, WorkerOptions};

/// Counts looks for a task.
struct Counted {
    inner: Arc<dyn Inspect>,
    looks: Arc<AtomicU32>,
}

impl Inspect for Counted {
    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.inner.find(id)
    }

    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Vec<u8>>, BrokerError>> {
        self.inner.peek(queue, most)
    }

    fn transfer<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<u64, BrokerError>> {
        self.inner.transfer(from, to)
    }

    fn pause<'a>(&'a self, queue: &'a str, by: Option<&'a str>) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.inner.pause(queue, by)
    }

    fn list<'a>(&'a self, queue: Option<&'a str>, most: usize) -> BoxFuture<'a, Result<Vec<Found>, BrokerError>> {
        self.inner.list(queue, most)
    }
}

#[tokio::test]
async fn a_task_that_has_ended_is_looked_for_in_no_queue() {
    let mut connected = connect("memory://ops-looks", None).unwrap();
    let looks = Arc::new(AtomicU32::new(0));
    let inner = connected.inspect.take().unwrap();
    connected.inspect = Some(Arc::new(Counted { inner, looks: looks.clone() }));
    let app = App::new().task(Task::plain("good", |_, _| Ok(Value::Null))).told(None);
    let client = Client::over(&app, connected.clone());
    let worker = Worker::over(app, WorkerOptions::new("w@test"), connected).await.unwrap();
    let mut ids = Vec::new();
    for task in ["good", "good", "nobody.knows"] {
        let answer = client.send(Signature::<Value>::named(task)).await.unwrap();
        let _ = answer.get().await;
        ids.push(answer.id().to_owned());
    }
    worker.stopper().warm();
    worker.join().await;
    let found = tasks::list(&client, &TasksRequest::ids(ids.clone())).await.unwrap();
    let standing: Vec<TaskStanding> = found.tasks.iter().map(|task| task.standing).collect();
    assert_eq!(standing, [TaskStanding::Success, TaskStanding::Success, TaskStanding::Dead]);
    let answers = why(&client, &WhyRequest::new(ids[0].as_str())).await.unwrap();
    assert!(matches!(answers[0].place, TaskPlace::Ended { .. }));
    assert_eq!(looks.load(Ordering::SeqCst), 0);
    client.send(Signature::<Value>::named("good").task_id("waits")).await.unwrap();
    let found = tasks::list(&client, &TasksRequest::ids(["waits"])).await.unwrap();
    assert_eq!((found.tasks[0].standing, looks.load(Ordering::SeqCst)), (TaskStanding::Waiting, 1));
}
