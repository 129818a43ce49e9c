//! Users with the permissions that the book's table names (docs/src/rabbitmq.md), and no more.

use std::time::Duration;

use longshore_brokers::{Connected, connect};
use longshore_celery::{Value, control, events};
use longshore_testkit::rabbit::{self, RabbitServer};
use longshore_worker::{App, Client, Signature, Task, TaskContext, Worker, WorkerOptions};
use tokio::time::timeout;

use crate::{
    bench::PATIENCE,
    days::{message, outgoing},
};

const OWN: &str = r"celery|longshore\..*|celery_delayed_.*|.*celery\.pidbox|celeryev.*";
const CONTROL: &str = r".*celery\.pidbox";
const DEFAULT: &str = r"amq\.default";
/// A reply queue of a client of ours.
const REPLIES: &str = "[0-9a-f]{32}";

/// Sets what a user may configure, write and read: names that match one of these, as a whole.
fn permit(server: &RabbitServer, vhost: &str, user: &str, permissions: [&[&str]; 3]) {
    let [configure, write, read] = permissions.map(|names| format!("^({})$", names.join("|")).replace('\\', r"\\"));
    server.eval(&format!(
        r#"rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>, <<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"test">>)."#
    ));
}

/// Makes a user who may no more than that, and returns the URL with which it comes.
fn user(url: &str, name: &str, permissions: [&[&str]; 3]) -> String {
    let (server, vhost) = (rabbit::shared().unwrap(), url.rsplit('/').next().unwrap());
    server.eval(&format!(r#"rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"secret">>, <<"test">>)."#));
    permit(server, vhost, name, permissions);
    format!("{}?queue_type=quorum", url.replace("amqp://", &format!("amqp://{name}:secret@")))
}

/// Returns what the server has refused this user.
fn refused(server: &RabbitServer, user: &str) -> Vec<String> {
    let of_user = format!("user '{user}'");
    server.log().lines().filter(|line| line.contains("refused") && line.contains(&of_user)).map(str::to_owned).collect()
}

/// Starts a worker that does all that a worker does: queues, events, remote control, results.
async fn serve(url: &str) -> Worker {
    let flaky = Task::plain("flaky", |context: TaskContext, _| match context.retries() {
        0 => Err(context.retry_in(Duration::from_secs(3))),
        _ => Ok(Value::from("again")),
    });
    let app = App::new().broker(url).results("rpc://").task(Task::plain("good", |_, _| Ok("done".into()))).task(flaky);
    let mut options = WorkerOptions::new("w@permitted");
    options.events = true;
    Worker::start(app, options).await.unwrap()
}

/// Sends what nobody can read.
async fn send_junk(url: &str) {
    let connected = connect(&format!("{url}?queue_type=quorum"), Some("memory://permitted")).unwrap();
    let mut junk = outgoing(&message("good", 1));
    junk.raw = b"{not json".to_vec();
    connected.broker.publish(&[junk]).await.unwrap();
}

fn client(url: &str) -> Client {
    Client::of(&App::new().broker(url).results("rpc://")).unwrap()
}

/// Asks the workers whether they are there.
async fn ping(connected: &Connected) -> String {
    let bus = connected.bus().unwrap();
    let mut replies = bus.replies("asker").await.unwrap();
    let raw = control::Request::new("ping").answered("ticket", "asker").encode("tag");
    bus.broadcast(control::EXCHANGE, "", &raw).await.unwrap();
    let (_, raw) = timeout(PATIENCE, replies.messages.recv()).await.expect("a worker answers").unwrap();
    control::Reply::decode(&raw, 1 << 20).unwrap().from.remove(0).0
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_of_the_book_are_enough() {
    let Some(url) = rabbit::vhost() else { return };
    let (server, vhost) = (rabbit::shared().unwrap(), url.rsplit('/').next().unwrap().to_owned());
    let worker_url = user(&url, "worker", [&[OWN], &[OWN, DEFAULT], &[OWN]]);
    let own = ["celery", CONTROL, REPLIES];
    let client_url = user(&url, "client", [&own, &["celery", CONTROL, REPLIES, DEFAULT], &own]);
    let asks: [&[&str]; 3] = [&[CONTROL, "celeryev.*"]; 3];
    let asker = connect(&user(&url, "asker", asks), Some("memory://asker")).unwrap();
    let worker = serve(&worker_url).await;
    let mut heard = asker.bus().unwrap().subscribe(events::EXCHANGE, "worker.#").await.unwrap();
    let client = client(&client_url);
    for (task, result) in [("good", "done"), ("flaky", "again")] {
        let answer = client.send(Signature::named(task)).await.unwrap();
        assert_eq!(timeout(PATIENCE, answer.get()).await.unwrap().unwrap(), Value::from(result));
    }
    send_junk(&url).await;
    let has = |name: &str| server.queues(&vhost).iter().any(|(queue, ready, ..)| queue == name && *ready > 0);
    until("a letter", || has("longshore.junk.celery")).await;
    assert!(server.queues(&vhost).iter().any(|(queue, ..)| queue == "celery_delayed_1"), "what is tried again waited in the server");
    assert_eq!(ping(&asker).await, "w@permitted");
    assert!(timeout(PATIENCE, heard.messages.recv()).await.expect("it tells of itself").is_some());
    worker.stopper().warm();
    assert_eq!(worker.join().await.error, None);
    for user in ["worker", "client", "asker"] {
        assert_eq!(refused(server, user), Vec::<String>::new(), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_of_the_permissions_of_a_worker_is_too_many() {
    for (number, left_out) in OWN.split('|').chain([DEFAULT]).enumerate() {
        let Some(url) = rabbit::vhost() else { return };
        let (server, vhost, name) = (rabbit::shared().unwrap(), url.rsplit('/').next().unwrap(), format!("without-{number}"));
        let others: Vec<&str> = OWN.split('|').filter(|part| *part != left_out).collect();
        let to_write: Vec<&str> = others.iter().copied().chain((left_out != DEFAULT).then_some(DEFAULT)).collect();
        let worker_url = user(&url, &name, [&others, &to_write, &others]);
        let client = client(&format!("{url}?queue_type=quorum"));
        let mut answers = Vec::new();
        for task in ["good", "flaky"] {
            answers.push(client.send(Signature::named(task)).await.unwrap());
        }
        send_junk(&url).await;
        let worker = serve(&worker_url).await;
        until(&format!("{left_out} is needed"), || !refused(server, &name).is_empty()).await;
        // All is well as soon as it may.
        permit(server, vhost, &name, [&[".*"]; 3]);
        for answer in answers {
            timeout(PATIENCE, answer.get()).await.unwrap_or_else(|_| panic!("{left_out}: no result")).unwrap();
        }
        worker.stopper().warm();
        assert_eq!(worker.join().await.error, None, "{left_out}");
    }
}
