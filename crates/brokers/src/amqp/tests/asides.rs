//! Ends of which a single destination takes nothing for now: they harm no other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_testkit::rabbit;
use tokio::time::timeout;

use super::{
    super::{
        declare::Declarer,
        link::{Link, Wait},
        parts::Parcel,
        publish::{Publisher, Routed},
        url::Config,
    },
    counts,
    refusals::{SOON, ack, claim, connect, declare, message, open, said},
    until, vhost_of,
};
use crate::message::{Claimed, End, Ended, Finish};

/// Arguments of a queue that has room for one message, and refuses all others.
const FULL: &str = r#"[{<<"x-max-length">>, long, 1}, {<<"x-overflow">>, longstr, <<"reject-publish">>}]"#;

fn followed(claimed: &Claimed, queue: &str) -> Finish {
    Finish { publish: vec![message(queue)], ..ack(claimed) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_does_not_take_holds_up_its_own_message_alone_until_it_does() {
    let Some(url) = rabbit::vhost() else { return };
    let vhost = vhost_of(&url);
    declare(&url, "full", true, false, FULL, "none");
    let (connected, heard) = connect(&url);
    connected.broker.publish(&[message("full")]).await.unwrap();
    connected.broker.publish(&[(); 6].map(|()| message("in"))).await.unwrap();
    let consumer = open(&connected, &["in"]).await;
    let mut claimed = Vec::new();
    while claimed.len() < 6 {
        claimed.push(claim(&consumer).await);
    }
    let stuck = [followed(&claimed[0], "next"), followed(&claimed[1], "full"), ack(&claimed[2])];
    let ended = timeout(SOON, consumer.finish(&stuck)).await.expect("it ends").unwrap();
    assert_eq!(ended, [Ended::Done, Ended::Done, Ended::Done]);
    said(&heard, &["it does not take what is sent to full", "asked again"]).await;
    until("the others are done", async || (counts(vhost, "next") == (1, 0) && counts(vhost, "in") == (0, 4)).then_some(())).await;
    // It is known by now: nobody waits at all.
    let begun = Instant::now();
    let again = [followed(&claimed[3], "full"), followed(&claimed[4], "next")];
    assert_eq!(consumer.finish(&again).await.unwrap(), [Ended::Done, Ended::Done]);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    until("the other is done", async || (counts(vhost, "next") == (2, 0) && counts(vhost, "in") == (0, 3)).then_some(())).await;
    // What has to be sent before something else is done is waited for.
    let kept = [Finish { end: End::Keep, ..followed(&claimed[5], "full") }];
    let mut keeping = Box::pin(consumer.finish(&kept));
    assert!(timeout(Duration::from_secs(2), keeping.as_mut()).await.is_err(), "it is not sent yet");
    declare_room(&url);
    assert_eq!(timeout(SOON, keeping).await.expect("it ends").unwrap(), [Ended::Done]);
    until("all is sent", async || (counts(vhost, "full").0 == 3 && counts(vhost, "in") == (0, 1)).then_some(())).await;
    said(&heard, &["it takes what it is given again"]).await;
    let told = heard.lock().unwrap().iter().filter(|text| text.contains("sent to full")).count();
    assert_eq!(told, 1, "once for all: {:?}", heard.lock().unwrap());
}

/// Puts another queue in the place of the full one, which has room.
fn declare_room(url: &str) {
    let vhost = vhost_of(url);
    rabbit::shared().unwrap().eval(&format!(
        r#"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"full">>)), rabbit_amqqueue:delete(Q, false, false, <<"test">>), ok."#
    ));
    declare(url, "full", true, false, "[]", "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_is_not_sent_again_with_what_nobody_confirms() {
    let Some(url) = rabbit::vhost() else { return };
    let vhost = vhost_of(&url);
    let (config, server) = (Arc::new(Config::parse(&format!("{url}?queue_type=quorum&patience=0.5")).unwrap()), rabbit::shared().unwrap());
    let link = Arc::new(Link::new(config.clone(), Arc::new(|_| {}), "sends".to_owned()));
    let publisher = Publisher::new(link, Arc::new(Declarer::new(config, Arc::new(|_| {}))));
    let to = |queue: &str| Routed::to(&queue.into(), Parcel::of(&message(queue).raw).unwrap());
    publisher.send(&[to("good"), to("stuck")], Wait::Forever).await.unwrap();
    // As a queue without a leader.
    server.eval(&format!("sys:suspend('{vhost}_stuck')."));
    let mut sending = publisher.begin(vec![to("good"), to("stuck"), to("good")]);
    publisher.go_on(&mut sending, Wait::Forever, Some(tokio::time::Instant::now() + Duration::from_secs(2))).await.unwrap();
    assert_eq!((sending.open(), sending.is_over()), (vec![1], false));
    assert!(publisher.is_in_trouble("stuck") && !publisher.is_in_trouble("good"));
    // It is silent for six times the patience, and is sent once more.
    let resume = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        server.eval(&format!("sys:resume('{vhost}_stuck')."));
    };
    let (sent, ()) = timeout(Duration::from_secs(90), async { tokio::join!(publisher.go_on(&mut sending, Wait::Forever, None), resume) })
        .await
        .expect("it ends");
    sent.unwrap();
    assert!(sending.is_over() && !publisher.is_in_trouble("stuck"));
    until("those that were confirmed are there once", async || (counts(vhost, "good") == (3, 0)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_beside_the_others_is_sent_again_where_nobody_confirms_it() {
    let Some(url) = rabbit::vhost() else { return };
    let (vhost, server) = (vhost_of(&url), rabbit::shared().unwrap());
    // Silent for six seconds, which is longer than an end holds up the others.
    let (connected, _) = connect(&format!("{url}?queue_type=quorum&patience=1"));
    connected.broker.publish(&[message("in"), message("stuck")]).await.unwrap();
    let consumer = open(&connected, &["in"]).await;
    let claimed = claim(&consumer).await;
    server.eval(&format!("sys:suspend('{vhost}_stuck')."));
    assert_eq!(timeout(SOON, consumer.finish(&[followed(&claimed, "stuck")])).await.expect("it ends").unwrap(), [Ended::Done]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    server.eval(&format!("sys:resume('{vhost}_stuck')."));
    // Nobody knew whether the first one was taken.
    until("it was sent again, and has ended", async || (counts(vhost, "stuck").0 >= 3 && counts(vhost, "in") == (0, 0)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_back_again_and_again_is_not_thrown_away_by_a_queue_that_counts() {
    let Some(url) = rabbit::vhost() else { return };
    // As RabbitMQ 4 has it by itself, with 20.
    let limited = r#"[{<<"x-queue-type">>, longstr, <<"quorum">>}, {<<"x-delivery-limit">>, long, 12}]"#;
    declare(&url, "limited", true, false, limited, "none");
    let (connected, _) = connect(&url);
    connected.broker.publish(&[message("limited")]).await.unwrap();
    let consumer = open(&connected, &["limited"]).await;
    for number in 0..30 {
        let mut claimed = Vec::new();
        let came = timeout(SOON, consumer.claim(1, &mut claimed)).await;
        assert!(came.is_ok() && claimed.len() == 1, "it was lent {number} times, and is gone");
        let back = Finish { end: End::Back { front: true }, ..ack(&claimed[0]) };
        assert_eq!(consumer.finish(&[back]).await.unwrap(), [Ended::Done]);
    }
    let vhost = vhost_of(&url);
    consumer.leave().await.unwrap();
    until("it is there", async || (counts(vhost, "limited") == (1, 0)).then_some(())).await;
}
