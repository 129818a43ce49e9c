//! Tasks that go on through exchanges.

use std::time::{Duration, Instant};

use longshore_celery::{Message, State, Value, WireSignature};
use longshore_testkit::rabbit;
use longshore_worker::{App, Client, Route, Signature};

use crate::{
    bench::Bench,
    days::{message, outgoing},
};

/// Makes an exchange of this type in a virtual host, and binds this queue to it.
fn bind(vhost: &str, exchange: &str, kind: &str, queue: &str, key: &str) {
    let name = |kind: &str, name: &str| format!(r#"rabbit_misc:r(<<"{vhost}">>, {kind}, <<"{name}">>)"#);
    let (exchange, queue) = (name("exchange", exchange), name("queue", queue));
    rabbit::shared().unwrap().eval(&format!(
        r#"rabbit_exchange:declare({exchange}, {kind}, true, false, false, [], <<"test">>), rabbit_binding:add({{binding, {exchange}, <<"{key}">>, {queue}, []}}, <<"test">>), ok."#
    ));
}

fn through(exchange: &str, key: &str, number: i64) -> WireSignature {
    let mut link = WireSignature { task: "good".to_owned(), immutable: true, ..WireSignature::default() }.args([Value::from(number)]);
    for (name, text) in [("exchange", exchange), ("exchange_type", "topic"), ("routing_key", key)] {
        link.options.set(name, text);
    }
    link
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_goes_through_its_exchange_and_one_that_nobody_takes_fails_its_task() {
    for options in ["", "?queue_type=quorum"] {
        let Some(url) = rabbit::vhost() else { return };
        let bench = Bench::new(&format!("{url}{options}"));
        bench.connected.broker.publish(&[outgoing(&message("good", 0))]).await.unwrap();
        bind(bench.vhost(), "media", "topic", "celery", "media.#");
        let with = |number: i64, link: WireSignature| outgoing(&Message { callbacks: vec![link], ..message("good", number) });
        let mut late = through("media", "media.late", 12);
        late.options.set("countdown", 3);
        let begun = Instant::now();
        let batch = [
            with(1, through("media", "media.video", 11)),
            with(2, late),
            with(3, through("media", "sound", 13)),
            with(4, through("nothing", "media.video", 14)),
        ];
        bench.connected.broker.publish(&batch).await.unwrap();
        let worker = bench.worker([]).await;
        bench.until("it goes on", async || bench.runs(11) == 1 && bench.runs(12) == 1).await;
        assert!(begun.elapsed() >= Duration::from_secs(3), "not before its time");
        for (id, reason) in
            [("good-3", "exchange media has no queue for the routing key `sound`"), ("good-4", "there is no exchange nothing")]
        {
            bench.until(id, async || bench.state(id).await == Some(State::Failure)).await;
            bench
                .until(reason, async || {
                    let letters = bench.connected.letters().unwrap().dead(Some("celery")).await.unwrap();
                    letters.iter().any(|letter| letter.reason.contains(reason))
                })
                .await;
        }
        assert_eq!([bench.runs(13), bench.runs(14)], [0, 0]);
        // A client's calls, by their route.
        let routes = App::new()
            .broker(&url)
            .results("memory://exchanges")
            .route("good", Route::exchange("media", "topic", "media.call"))
            .route("lost", Route::exchange("media", "topic", "lost"));
        let client = Client::of(&routes).unwrap();
        client.send(Signature::<Value>::named("good").args(&[21])).await.unwrap();
        bench.until("it is called", async || bench.runs(21) == 1).await;
        let error = client.send(Signature::<Value>::named("lost")).await.unwrap_err();
        assert!(error.to_string().contains("no queue for the routing key `lost`"), "{error}");
        worker.stopper().warm();
        assert_eq!(worker.join().await.error, None);
    }
}
