//! Refusals of a real server, each as one sentence that says what, where, and what to do; and that
//! they harm nobody else.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use lapin::{options::BasicConsumeOptions, types::FieldTable};
use longshore_core::ErrorKind;
use longshore_testkit::rabbit::{self, RabbitServer};
use tokio::time::timeout;

use super::{
    super::{
        link::{Link, Wait},
        url::Config,
    },
    counts, outgoing, until, vhost_of,
};
use crate::{
    Connected, News,
    broker::{Consumer, OpenOptions},
    connect::connect_with,
    message::{Claimed, End, Ended, Finish, Outgoing},
};

/// Longest time that something takes that comes.
pub(super) const SOON: Duration = Duration::from_secs(40);

pub(super) type Said = Arc<Mutex<Vec<String>>>;

/// Makes a user with these permissions in a virtual host (to configure, write, read), and returns
/// the URL with which it comes.
fn user(url: &str, name: &str, permissions: [&str; 3]) -> String {
    let name = format!("{name}-{}", vhost_of(url));
    let eval = format!(r#"rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"S3CRET">>, <<"test">>)."#);
    rabbit::shared().unwrap().eval(&eval);
    permit(url, &name, permissions);
    url.replace("amqp://", &format!("amqp://{name}:S3CRET@"))
}

fn permit(url: &str, name: &str, permissions: [&str; 3]) {
    let (vhost, [configure, write, read]) = (vhost_of(url), permissions.map(|text| format!("<<\"{text}\">>")));
    rabbit::shared().unwrap().eval(&format!(
        r#"rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"{vhost}">>, {configure}, {write}, {read}, <<"test">>)."#
    ));
}

/// Declares a queue in the server, with these properties and arguments.
pub(super) fn declare(url: &str, queue: &str, durable: bool, auto_delete: bool, arguments: &str, owner: &str) {
    let vhost = vhost_of(url);
    rabbit::shared().unwrap().eval(&format!(
        r#"rabbit_amqqueue:declare(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>), {durable}, {auto_delete}, {arguments}, {owner}, <<"test">>), ok."#
    ));
}

pub(super) fn connect(url: &str) -> (Connected, Said) {
    let said = Said::default();
    let heard = said.clone();
    let notice = move |news: &News| heard.lock().unwrap().push(news.to_string());
    (connect_with(url, Some("memory://amqp-refusals"), Arc::new(notice)).unwrap(), said)
}

pub(super) fn message(queue: &str) -> Outgoing {
    outgoing(queue, queue, SystemTime::now(), false)
}

pub(super) async fn open(connected: &Connected, queues: &[&str]) -> Arc<dyn Consumer> {
    connected.broker.open(OpenOptions::new("w@test", queues.iter().copied())).await.unwrap()
}

pub(super) async fn claim(consumer: &Arc<dyn Consumer>) -> Claimed {
    let mut claimed = Vec::new();
    timeout(SOON, consumer.claim(1, &mut claimed)).await.expect("a message comes").unwrap();
    claimed.remove(0)
}

pub(super) fn ack(claimed: &Claimed) -> Finish {
    Finish { receipt: claimed.receipt, publish: Vec::new(), results: Vec::new(), part: None, end: End::Ack }
}

pub(super) async fn said(said: &Said, what: &[&str]) {
    let has = || said.lock().unwrap().iter().any(|text| what.iter().all(|what| text.contains(what)));
    let end = std::time::Instant::now() + SOON;
    while !has() {
        assert!(std::time::Instant::now() < end, "{what:?}: {:?}", said.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_says_what_where_and_what_to_do() {
    let Some(url) = rabbit::vhost() else { return };
    let server = format!("rabbitmq at 127.0.0.1:{}: ", rabbit::shared().unwrap().port());
    declare(&url, "another's", false, false, "[]", "whereis(init)");
    let to_exclusive = Outgoing { queue: "another's".into(), ..message("q") };
    for (url, sent, what, advice) in [
        (user(&url, "known", [".*"; 3]).replace("S3CRET", "S3CRET-NOT"), message("q"), "Login was refused", "user and password"),
        (url.replace("amqp://", "amqp://nobody:S3CRET@"), message("q"), "Login was refused", "user and password"),
        (format!("{url}-not"), message("q"), "-not not found", "rabbitmqctl add_vhost"),
        (
            user(&url, "else", [".*"; 3]).replace(&format!("/{}", vhost_of(&url)), "/%2F"),
            message("q"),
            "access to vhost '/' refused",
            "let that user in",
        ),
        (user(&url, "maker", ["", ".*", ".*"]), message("q"), "there is no queue q", "let that user configure it"),
        (user(&url, "writer", [".*", "", ".*"]), message("q"), "exchange 'amq.default'", "let that user write to it"),
        (format!("{url}?declare=passive"), message("none"), "there is no queue none", "declare it, or leave that out"),
        (url.clone(), to_exclusive, "exclusive access to locked queue 'another's'", "name another queue"),
    ] {
        let (connected, _) = connect(&url);
        let error = timeout(SOON, connected.broker.publish(&[sent])).await.expect("an answer").unwrap_err();
        let text = &error.message;
        assert_eq!(error.kind, ErrorKind::Refused, "{text}");
        assert!(text.starts_with(&server) && text.matches("127.0.0.1").count() == 1, "{text}");
        assert!(text.contains(what) && text.contains(advice) && !text.contains("S3CRET"), "{text}");
        assert!(!text.contains(".;"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_may_not_be_read_is_told_once_and_harms_no_other() {
    for options in ["?queue_type=classic", "?queue_type=quorum"] {
        let Some(url) = rabbit::vhost() else { return };
        let (connected, _) = connect(&format!("{url}{options}"));
        connected.broker.publish(&[message("good"), message("bad")]).await.unwrap();
        let (other, heard) = connect(&format!("{}{options}", user(&url, "reader", [".*", ".*", "good"])));
        let consumer = open(&other, &["good", "bad"]).await;
        let claimed = claim(&consumer).await;
        said(&heard, &["nothing is taken from queue bad", "let that user read it"]).await;
        let lease = consumer.lease().unwrap();
        let term = lease.term(crate::lease::clock());
        // It has been asked for again by then.
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(lease.term(crate::lease::clock()), term, "the channel of the good one stays: {:?}", heard.lock().unwrap());
        assert_eq!(consumer.finish(&[ack(&claimed)]).await.unwrap(), [Ended::Done]);
        assert_eq!(heard.lock().unwrap().iter().filter(|text| text.contains("queue bad")).count(), 1, "{:?}", heard.lock().unwrap());
        permit(&url, &format!("reader-{}", vhost_of(&url)), [".*"; 3]);
        let claimed = claim(&consumer).await;
        assert_eq!(&*claimed.queue, "bad");
        said(&heard, &["queue bad gives again"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_may_not_be_sent_is_told_and_waits_until_it_may() {
    let Some(url) = rabbit::vhost() else { return };
    let (connected, _) = connect(&url);
    connected.broker.publish(&[message("in")]).await.unwrap();
    let (other, heard) = connect(&user(&url, "silent", [".*", "^in$", ".*"]));
    let consumer = open(&other, &["in"]).await;
    let claimed = claim(&consumer).await;
    let finish = Finish { publish: vec![message("next")], ..ack(&claimed) };
    let ends = [finish];
    let ending = consumer.finish(&ends);
    let permitting = async {
        said(&heard, &["let that user write to it", "asked again"]).await;
        permit(&url, &format!("silent-{}", vhost_of(&url)), [".*"; 3]);
    };
    let (ended, ()) = timeout(SOON, async { tokio::join!(ending, permitting) })
        .await
        .unwrap_or_else(|_| panic!("it does not end: {:?}", heard.lock().unwrap()));
    assert_eq!(ended.unwrap(), [Ended::Done]);
    let vhost = vhost_of(&url);
    until("it was sent on", async || (counts(vhost, "next") == (1, 0) && counts(vhost, "in") == (0, 0)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_are_there_with_other_arguments_are_taken_as_they_are_and_that_is_told() {
    let Some(url) = rabbit::vhost() else { return };
    for (queue, durable, auto_delete, arguments, told) in [
        ("prior", true, false, r#"[{<<"x-max-priority">>, signedint, 10}]"#, "x-max-priority=10"),
        ("quorum", true, false, r#"[{<<"x-queue-type">>, longstr, <<"quorum">>}]"#, "x-queue-type=quorum"),
        ("expires", true, false, r#"[{<<"x-expires">>, signedint, 600000}]"#, "x-expires=600000"),
        ("passing", false, false, "[]", "durable=false"),
        ("deleted", true, true, "[]", "auto_delete=true"),
        ("single", true, false, r#"[{<<"x-single-active-consumer">>, bool, true}]"#, "x-single-active-consumer=true"),
        ("both", false, true, r#"[{<<"x-message-ttl">>, long, 600000}, {<<"x-max-length">>, long, 5}]"#, "x-message-ttl=600000"),
    ] {
        declare(&url, queue, durable, auto_delete, arguments, "none");
        let (connected, heard) = connect(&url);
        connected.broker.publish(&[message(queue)]).await.unwrap_or_else(|error| panic!("{queue}: {error}"));
        said(&heard, &[&format!("queue {queue} is there already with"), told, "taken as it is"]).await;
        let consumer = open(&connected, &[queue]).await;
        let claimed = claim(&consumer).await;
        assert_eq!(consumer.finish(&[ack(&claimed)]).await.unwrap(), [Ended::Done], "{queue}");
        consumer.leave().await.unwrap();
        assert_eq!(heard.lock().unwrap().len(), 1, "{:?}", heard.lock().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_consumers_of_a_queue_with_one_active_the_other_takes_over() {
    let Some(url) = rabbit::vhost() else { return };
    declare(&url, "q", true, false, r#"[{<<"x-single-active-consumer">>, bool, true}]"#, "none");
    let (connected, _) = connect(&url);
    let first = open(&connected, &["q"]).await;
    connected.broker.publish(&[message("q"), message("q")]).await.unwrap();
    let claimed = claim(&first).await;
    let second = open(&connected, &["q"]).await;
    let mut waits = Box::pin(claim(&second));
    assert!(timeout(Duration::from_secs(2), waits.as_mut()).await.is_err(), "the first one has them all");
    assert_eq!(first.finish(&[ack(&claimed)]).await.unwrap(), [Ended::Done]);
    first.leave().await.unwrap();
    assert_eq!(&*waits.await.queue, "q");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_another_consumer_has_for_itself_is_had_when_that_ends() {
    let Some(url) = rabbit::vhost() else { return };
    let (connected, heard) = connect(&url);
    connected.broker.publish(&[message("q")]).await.unwrap();
    let link = Link::new(Arc::new(Config::parse(&url).unwrap()), Arc::new(|_| {}), "alone".to_owned());
    let (_open, channel) = link.channel(Wait::Patience).await.unwrap();
    let alone = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let _alone = channel.basic_consume("q".into(), "alone".into(), alone, FieldTable::default()).await.unwrap();
    let consumer = open(&connected, &["q"]).await;
    let mut claimed = Vec::new();
    let waits = consumer.claim(1, &mut claimed);
    let ending = async {
        said(&heard, &["nothing is taken from queue q", "in exclusive use", "end that one"]).await;
        link.close().await;
    };
    let (fetched, ()) =
        timeout(SOON, async { tokio::join!(waits, ending) }).await.unwrap_or_else(|_| panic!("it is not had: {:?}", heard.lock().unwrap()));
    fetched.unwrap();
    assert_eq!(claimed.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_that_does_not_answer_is_told_and_harms_no_other() {
    let Some(url) = rabbit::vhost() else { return };
    let (connected, heard) = connect(&format!("{url}?queue_type=quorum"));
    connected.broker.publish(&[message("good"), message("stuck")]).await.unwrap();
    let (vhost, server) = (vhost_of(&url), rabbit::shared().unwrap());
    // As one without a leader.
    server.eval(&format!("sys:suspend('{vhost}_stuck')."));
    let consumer = open(&connected, &["good", "stuck"]).await;
    let claimed = claim(&consumer).await;
    assert_eq!(&*claimed.queue, "good");
    said(&heard, &["nothing is taken from queue stuck", "it does not answer", "quorum_status"]).await;
    assert_eq!(timeout(SOON, consumer.finish(&[ack(&claimed)])).await.expect("it ends").unwrap(), [Ended::Done]);
    connected.broker.publish(&[message("good")]).await.unwrap();
    let claimed = claim(&consumer).await;
    assert_eq!(consumer.finish(&[ack(&claimed)]).await.unwrap(), [Ended::Done]);
    server.eval(&format!("sys:resume('{vhost}_stuck')."));
    let claimed = claim(&consumer).await;
    assert_eq!(&*claimed.queue, "stuck");
    assert_eq!(consumer.finish(&[ack(&claimed)]).await.unwrap(), [Ended::Done]);
}

/// Whoever sends a batch anew, one by one, where none of it was sent, sends nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_with_one_that_is_too_large_is_unknown_once_and_then_not_sent_at_all() {
    let Some(server) = RabbitServer::start(&["max_message_size = 150000"]) else { return };
    let url = server.vhost();
    let connected = crate::connect(&url, Some("memory://amqp-too-large")).unwrap();
    let now = SystemTime::now();
    let batch = |name: &str| {
        let mut all: Vec<_> = (0..3).map(|at| outgoing("q", &format!("{name}-{at}"), now, false)).collect();
        let body = "x".repeat(300_000);
        let raw = String::from_utf8(all[1].raw.clone()).unwrap().replace("W1tdLCB7fSwge31d", &body);
        all[1].raw = raw.into_bytes();
        all
    };
    let error = connected.broker.publish(&batch("first")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{}", error.message);
    assert!(error.message.contains("larger than configured max size 150000; others that went with it were taken"), "{}", error.message);
    let error = connected.broker.publish(&batch("second")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{}", error.message);
    let waiting: u64 = server.queues(vhost_of(&url)).iter().map(|(_, ready, ..)| *ready).sum();
    assert_eq!(waiting, 2, "of the first batch");
}
