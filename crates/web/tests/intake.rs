//! A server that is killed while tasks come in: each that was answered 202 is in the broker.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../examples/intake/caller.rs"]
mod caller;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use caller::Caller;
use longshore_celery::{Limits, Message};
use longshore_testkit::servers::Redis;
use longshore_web::{Intake, IntakeOptions, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};

/// Says to this program that it is the server, and over which broker.
const SERVES: &str = "LONGSHORE_TEST_INTAKE";
/// Number of answers after which the server is killed.
const KILLED_AFTER: usize = 300;

/// Serves, if this program was started for that.
async fn serve_if_told() {
    let Ok(broker) = std::env::var(SERVES) else { return };
    let intake = Intake::new(Client::connect(&Settings::new(broker)).unwrap(), IntakeOptions::default());
    let server = WebServer::bind("127.0.0.1:0", &WebOptions::default()).await.unwrap();
    println!("\nserves {}", server.address());
    let _serving = server.serve(Site::of_intake(WebOptions::default(), &intake));
    std::future::pending::<()>().await;
}

/// A server that ends with its test.
struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this program once more, as a server. Returns its address.
fn start(test: &str, broker: &str) -> (ServerProcess, String) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(SERVES, broker)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = lines.map(|line| line.unwrap()).find_map(|line| line.strip_prefix("serves ").map(str::to_owned)).unwrap();
    (ServerProcess(server), address)
}

/// Sends tasks over eight connections until the server is killed; ids of those that were confirmed.
async fn send_until_killed(server: ServerProcess, address: &str) -> BTreeSet<String> {
    let confirmed = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (address, confirmed) = (address.to_owned(), confirmed.clone());
            tokio::spawn(async move {
                let mut ids = BTreeSet::new();
                for number in 0.. {
                    let id = format!("{caller}-{number}");
                    let body = format!(r#"{{"args":[{number}],"id":"{id}"}}"#);
                    // A connection of its own each: how far a request came does not hang on others.
                    let Ok(mut caller) = Caller::connect(&address, "/api/v1/tasks/shop.price", &body).await else { break };
                    match caller.send().await {
                        Ok((202, _)) => {
                            ids.insert(id);
                            confirmed.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => break,
                    }
                }
                ids
            })
        })
        .collect();
    while confirmed.load(Ordering::SeqCst) < KILLED_AFTER {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(server);
    let mut ids = BTreeSet::new();
    for caller in callers {
        ids.extend(caller.await.unwrap());
    }
    ids
}

async fn kill_one(test: &str, broker: &str) {
    let (server, address) = start(test, broker);
    let confirmed = send_until_killed(server, &address).await;
    let client = Client::connect(&Settings::new(broker)).unwrap();
    let messages = client.connected().inspect().unwrap().peek("celery", 1_000_000).await.unwrap();
    let there: Vec<_> = messages.iter().map(|raw| Message::decode(raw, &Limits::default()).unwrap().id).collect();
    let distinct: BTreeSet<_> = there.iter().cloned().collect();
    assert_eq!(there.len(), distinct.len(), "none is there twice");
    let lost: Vec<_> = confirmed.difference(&distinct).collect();
    assert!(lost.is_empty() && confirmed.len() >= KILLED_AFTER, "{} of {} are lost: {lost:?}", lost.len(), confirmed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_answered_is_in_redis_when_the_server_is_killed() {
    serve_if_told().await;
    let Some(redis) = Redis::start(&[]) else { return };
    kill_one("all_that_was_answered_is_in_redis_when_the_server_is_killed", &redis.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_answered_is_in_the_file_when_the_server_is_killed() {
    serve_if_told().await;
    let directory = tempfile::tempdir().unwrap();
    let broker = format!("sqlite:{}", directory.path().join("tasks.db").display());
    kill_one("all_that_was_answered_is_in_the_file_when_the_server_is_killed", &broker).await;
}
