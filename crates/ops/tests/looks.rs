//! Looks through queues, which cost their length, and who is spared them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use longshore_brokers::{BrokerError, Found, Inspect, connect};
use longshore_celery::Value;
use longshore_ops::{
    held::{self, HeldRequest},
    tasks::{self, TaskStanding, TasksRequest},
    why::{TaskPlace, WhyRequest, why},
};
use longshore_worker::{App, Client, Failure, Signature, Task, Worker, WorkerOptions};
use tokio::sync::Semaphore;

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

#[tokio::test]
async fn what_is_held_is_told_by_the_broker_and_by_workers_alone_where_that_shows_nothing() {
    let mut connected = connect("memory://ops-held", None).unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let waits = gate.clone();
    let held = Task::future("held", move |_, _| {
        let gate = waits.clone();
        async move {
            drop(gate.acquire().await);
            Ok::<_, Failure>(Value::Null)
        }
    });
    let app = App::new().task(held).told(None);
    let open = Client::over(&app, connected.clone());
    let worker = Worker::over(app.clone(), WorkerOptions::new("w@test"), connected.clone()).await.unwrap();
    connected.inspect = None;
    let closed = Client::over(&app, connected);
    let request = HeldRequest::new("celery").workers(vec!["w@test".to_owned()]);
    for id in ["a", "b", "c"] {
        open.send(Signature::<Value>::named("held").task_id(id)).await.unwrap();
    }
    for client in [&open, &closed] {
        let mut list = held::list(client, &request).await.unwrap();
        while list.held.iter().filter(|held| held.stage == Some("active")).count() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            list = held::list(client, &request).await.unwrap();
        }
        let mut ids: Vec<&str> = list.held.iter().map(|held| held.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!((ids.as_slice(), list.more, &list.hidden), (&["a", "b", "c"][..], false, &None));
        assert!(list.held.iter().all(|held| held.worker.as_deref() == Some("w@test") && held.task == "held" && held.since.is_some()));
        let mut two = request.clone();
        two.most = 2;
        let list = held::list(client, &two).await.unwrap();
        assert_eq!((list.held.len(), list.more), (2, true));
        let other = HeldRequest::new("other").workers(request.workers.clone());
        assert_eq!(held::list(client, &other).await.unwrap().held, []);
    }
    // Without workers the broker says less, and where it says nothing that is said.
    let list = held::list(&open, &HeldRequest::new("celery")).await.unwrap();
    assert!(list.held.len() == 3 && list.held.iter().all(|held| held.stage.is_none()), "{list:?}");
    let list = held::list(&closed, &HeldRequest::new("celery")).await.unwrap();
    assert!(list.held.is_empty() && list.hidden.as_ref().unwrap().contains("no worker that answers serves this queue"), "{list:?}");
    let silent = HeldRequest::new("celery").workers(vec!["gone@test".to_owned()]);
    let list = held::list(&closed, &silent).await.unwrap();
    assert!(list.held.is_empty() && list.hidden.as_ref().unwrap().contains("gone@test did not say it"), "{list:?}");
    gate.close();
    worker.stopper().warm();
    worker.join().await;
}
