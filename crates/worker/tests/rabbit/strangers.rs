//! Names of exchanges and keys that a stranger chose, which come with each delivery.

use longshore_testkit::rabbit::{self, raw::RawPublisher};

use crate::bench::{Bench, body, headers, properties};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routing_key_that_is_no_text_reaches_its_task() {
    let Some(url) = rabbit::vhost() else { return };
    let vhost = url.rsplit('/').next().unwrap().to_owned();
    let server = rabbit::shared().unwrap();
    let bench = Bench::new(&url);
    let worker = bench.worker([]).await;
    let mut raw = RawPublisher::connect(server.port(), &vhost).unwrap();
    bench.until("the queue is there", async || server.queues(&vhost).iter().any(|(name, ..)| name == "celery")).await;
    server.eval(&format!(
        r#"X = rabbit_misc:r(<<"{vhost}">>, exchange, <<255, 254>>), Q = rabbit_misc:r(<<"{vhost}">>, queue, <<"celery">>),
        rabbit_exchange:declare(X, fanout, false, false, false, [], <<"test">>),
        ok = rabbit_binding:add({{binding, X, <<>>, Q, []}}, <<"test">>)."#
    ));
    for (number, key) in [&[0xff; 255][..], b"\xc3\x28", b"good"].into_iter().enumerate() {
        let id = format!("strange-{number}");
        raw.publish(&[0xff, 0xfe], key, &properties(&id, &headers(&id, "good", b"")), &body(number as i64)).unwrap().unwrap();
        bench.until("it runs", async || bench.runs(number as i64) == 1).await;
    }
    worker.stopper().warm();
    assert_eq!(worker.join().await.error, None);
    let said = bench.said.lock().unwrap().clone();
    assert!(said.is_empty(), "the connection stays: {said:?}");
}
