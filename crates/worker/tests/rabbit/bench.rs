//! A worker on a virtual host of its own, with its results in a file, and what it has run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use longshore_brokers::{Connected, Key, News, Notice, connect};
use longshore_celery::{State, TaskResult, Value};
use longshore_core::LaneKind;
use longshore_testkit::rabbit::raw::{Place, RawProperties, field, long, text};
use longshore_worker::{App, Call, Task, Worker, WorkerOptions};

/// Longest time for which a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Number of runs of each task by its first argument.
pub(crate) type Ledger = Arc<Mutex<BTreeMap<i64, u32>>>;

pub(crate) struct Bench {
    pub(crate) connected: Connected,
    pub(crate) ledger: Ledger,
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    url: String,
    results: String,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(url: &str) -> Self {
        Self::in_folder(url, tempfile::tempdir().unwrap())
    }

    /// The same, with the file of the results in this folder.
    pub(crate) fn in_folder(url: &str, folder: tempfile::TempDir) -> Self {
        let results = format!("sqlite:{}?sync=normal", folder.path().join("results.db").display());
        let connected = connect(url, Some(&results)).unwrap();
        Self { connected, ledger: Ledger::default(), said: Arc::default(), url: url.to_owned(), results, _folder: folder }
    }

    /// Starts a worker with this task beside `good`, which notes its argument.
    pub(crate) async fn worker(&self, more: impl IntoIterator<Item = Task>) -> Worker {
        self.worker_at(&self.url, more).await
    }

    /// The same, on another way to the server.
    pub(crate) async fn worker_at(&self, url: &str, more: impl IntoIterator<Item = Task>) -> Worker {
        let (ledger, said) = (self.ledger.clone(), self.said.clone());
        let notice: Notice = Arc::new(move |news: &News| said.lock().unwrap().push(news.to_string()));
        let good = Task::plain("good", move |_, call: Call| {
            let number = call.args.first().and_then(Value::as_i64).unwrap_or(-1);
            *ledger.lock().unwrap().entry(number).or_default() += 1;
            Ok(number.into())
        })
        .on(LaneKind::Blocking);
        let app = App::new().broker(url).results(&self.results).told(notice).task(good);
        let app = more.into_iter().fold(app, App::task);
        Worker::start(app, WorkerOptions::new("w@rabbit")).await.unwrap()
    }

    /// The name of its virtual host.
    pub(crate) fn vhost(&self) -> &str {
        let path = self.url.rsplit('/').next().unwrap();
        path.split('?').next().unwrap()
    }

    pub(crate) fn runs(&self, number: i64) -> u32 {
        self.ledger.lock().unwrap().get(&number).copied().unwrap_or(0)
    }

    pub(crate) async fn state(&self, id: &str) -> Option<State> {
        let doc = self.connected.results.get(&[Key::Task(id.to_owned())]).await.unwrap().remove(0)?;
        Some(TaskResult::decode(&doc, 1 << 20).unwrap().state)
    }

    pub(crate) async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !is().await {
            assert!(begun.elapsed() < PATIENCE, "{what}; said: {:?}", self.said.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The headers of a call, as far as a worker needs them, with others in their place.
pub(crate) fn headers(id: &str, task: &str, others: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    for (name, value) in [("id", id), ("task", task), ("lang", "py")] {
        let mut named = vec![u8::try_from(name.len()).unwrap()];
        named.extend_from_slice(name.as_bytes());
        // Whoever names one of them means another type, or none.
        if !others.starts_with(&named) {
            table.extend(text(name, value));
        }
    }
    table.extend_from_slice(others);
    table
}

/// The properties of a call as Celery sends them.
pub(crate) fn properties(id: &str, headers: &[u8]) -> RawProperties {
    let of = RawProperties::default().short(Place::ContentType, b"application/json").short(Place::ContentEncoding, b"utf-8");
    of.headers(headers).raw(Place::DeliveryMode, &[2]).short(Place::CorrelationId, id.as_bytes())
}

pub(crate) fn body(number: i64) -> Vec<u8> {
    format!("[[{number}], {{}}, {{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}}]").into_bytes()
}

/// A list of these values, each with its type.
pub(crate) fn list(values: &[&[u8]]) -> Vec<u8> {
    long(&values.concat())
}

pub(crate) fn int(name: &str, number: i32) -> Vec<u8> {
    field(name.as_bytes(), b'I', &number.to_be_bytes())
}
