//! Channels that end, by our will or the server's, while messages of theirs are being run.

use std::{sync::Arc, time::SystemTime};

use longshore_core::source::Fetched;
use longshore_testkit::rabbit::{self, RabbitOptions};

use super::{counts, outgoing, until, vhost_of};
use crate::{
    Connected,
    broker::{Consumer, OpenOptions},
    message::{Claimed, End, Ended, Finish},
};

fn end(claimed: &Claimed, end: End) -> Finish {
    Finish { receipt: claimed.receipt, publish: Vec::new(), results: Vec::new(), part: None, end }
}

/// Has the server end all connections of a virtual host.
pub(super) fn cut_all(url: &str) {
    rabbit::shared().unwrap().eval(&format!(
        "[rabbit_networking:close_connection(proplists:get_value(pid, C), \"test\") || C <- rabbit_networking:connection_info_all([pid, vhost]), proplists:get_value(vhost, C) =:= <<\"{}\">>].",
        vhost_of(url)
    ));
}

async fn send(connected: &Connected, queue: &str, count: usize) {
    let now = SystemTime::now();
    let batch: Vec<_> = (0..count).map(|at| outgoing(queue, &format!("{queue}-{at}"), now, false)).collect();
    connected.broker.publish(&batch).await.unwrap();
}

async fn claim(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Claimed> {
    let mut claimed = Vec::new();
    while claimed.len() < count {
        // One at a time: the latest claim asks for no more.
        consumer.claim(1, &mut claimed).await.unwrap();
    }
    claimed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_when_a_consumer_is_closed_stays_its_own_and_what_waits_goes_back() {
    for options in ["", "?queue_type=quorum"] {
        let Some(url) = rabbit::vhost() else { return };
        let connected = crate::connect(&format!("{url}{options}"), Some("memory://amqp-close")).unwrap();
        send(&connected, "q", 6).await;
        let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
        let mut claimed = Vec::new();
        while claimed.len() < 2 {
            consumer.claim(2 - claimed.len(), &mut claimed).await.unwrap();
        }
        consumer.close();
        assert!(matches!(consumer.claim(5, &mut claimed).await, Ok(Fetched::End)));
        let vhost = vhost_of(&url);
        until("the others can have the rest", async || (counts(vhost, "q") == (4, 2)).then_some(())).await;
        let ends = [end(&claimed[0], End::Ack), end(&claimed[1], End::Ack)];
        assert_eq!(consumer.finish(&ends).await.unwrap(), [Ended::Done, Ended::Done], "{options}");
        consumer.leave().await.unwrap();
        until("it has left", async || (counts(vhost, "q") == (4, 0)).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_after_a_close_and_a_lost_channel_is_refused_at_once() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&url, Some("memory://amqp-close-lost")).unwrap();
    send(&connected, "q", 1).await;
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
    let claimed = claim(&consumer, 1).await;
    consumer.close();
    let lease = consumer.lease().unwrap();
    let term = lease.term(crate::lease::clock());
    cut_all(&url);
    until("the channel is lost", async || (lease.term(crate::lease::clock()) != term).then_some(())).await;
    let ends = [end(&claimed[0], End::Ack)];
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), consumer.finish(&ends)).await;
    assert_eq!(ended.expect("nobody waits for what is not asked for").unwrap(), [Ended::Refused]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_worker_has_all_that_it_runs_again_when_its_channel_was_lost() {
    for options in ["", "?queue_type=quorum"] {
        let Some(url) = rabbit::vhost() else { return };
        let connected = crate::connect(&format!("{url}{options}"), Some("memory://amqp-full")).unwrap();
        send(&connected, "q", 8).await;
        let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
        let claimed = claim(&consumer, 5).await;
        let lease = consumer.lease().unwrap();
        let term = lease.term(crate::lease::clock());
        cut_all(&url);
        until("the channel is lost", async || (lease.term(crate::lease::clock()) != term).then_some(())).await;
        let ends: Vec<_> = claimed.iter().map(|claimed| end(claimed, End::Ack)).collect();
        assert_eq!(consumer.finish(&ends).await.unwrap(), vec![Ended::Done; 5], "{options}");
    }
}

/// The server looks twice a second here, and not once a minute.
fn impatient(timeout: u32) -> RabbitOptions {
    RabbitOptions::new().conf(&format!("consumer_timeout = {timeout}")).advanced("[{rabbit, [{channel_tick_interval, 500}]}].")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_lost_beside_another_is_waited_for() {
    let Some(server) = impatient(3_000).start() else { return };
    let (classic, quorum) = (server.url(), format!("{}?queue_type=quorum", server.url()));
    send(&crate::connect(&quorum, Some("memory://amqp-beside")).unwrap(), "k", 1).await;
    let connected = crate::connect(&classic, Some("memory://amqp-beside")).unwrap();
    send(&connected, "c", 3).await;
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["c", "k"])).await.unwrap();
    let mut claimed = claim(&consumer, 4).await;
    let at = claimed.iter().position(|claimed| &*claimed.queue == "k").unwrap();
    let other = claimed.remove(at);
    assert_eq!(consumer.finish(&[end(&other, End::Ack)]).await.unwrap(), [Ended::Done]);
    let lease = consumer.lease().unwrap();
    let term = lease.term(crate::lease::clock());
    // Longer than an end waits for a message that does not come.
    let began = std::time::Instant::now();
    while lease.term(crate::lease::clock()) == term {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the server ends the channel");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let ends: Vec<_> = claimed.iter().map(|claimed| end(claimed, End::Ack)).collect();
    assert_eq!(consumer.finish(&ends).await.unwrap(), [Ended::Done, Ended::Done, Ended::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_waits_no_longer_than_for_a_channel_where_its_queue_is_served_no_more() {
    let Some(url) = rabbit::vhost() else { return };
    let connected = crate::connect(&url, Some("memory://amqp-served")).unwrap();
    send(&connected, "q", 1).await;
    let consumer = connected.broker.open(OpenOptions::new("w@test", ["q"])).await.unwrap();
    let claimed = claim(&consumer, 1).await;
    consumer.serve("q", false);
    let lease = consumer.lease().unwrap();
    let term = lease.term(crate::lease::clock());
    rabbit::shared().unwrap().eval(&format!(
        "[rabbit_networking:close_connection(proplists:get_value(pid, C), \"test\") || C <- rabbit_networking:connection_info_all([pid, vhost]), proplists:get_value(vhost, C) =:= <<\"{}\">>].",
        vhost_of(&url)
    ));
    until("the channel is lost", async || (lease.term(crate::lease::clock()) != term).then_some(())).await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), consumer.finish(&[end(&claimed[0], End::Ack)])).await;
    assert_eq!(ended.expect("it hangs").unwrap(), [Ended::Refused]);
}
