//! What one worker has claimed no other can run: each takes its share.

use std::{sync::atomic::Ordering, time::Duration};

use longshore_testkit::rabbit::RabbitServer;

use crate::{
    bench::Bench,
    days::{lasting, message, outgoing},
};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_each_runs_its_share_of_what_waits() {
    let Some(server) = RabbitServer::start(&[]) else { return };
    for more in ["", "?queue_type=quorum"] {
        let bench = Bench::new(&format!("{}{more}", server.vhost()));
        let ((one, first), (other, second)) = (lasting(Duration::from_millis(100)), lasting(Duration::from_millis(100)));
        let workers = [bench.worker([one]).await, bench.worker([other]).await];
        let batch: Vec<_> = (0..2_000).map(|number| outgoing(&message("lasts", number))).collect();
        for part in batch.chunks(100) {
            bench.connected.broker.publish(part).await.unwrap();
        }
        let runs = || [&first, &second].map(|runs| runs.load(Ordering::SeqCst));
        bench.until("all have run", async || runs().iter().sum::<u32>() == 2_000).await;
        assert!(runs().iter().all(|runs| *runs >= 600), "{more}: {:?}", runs());
        for worker in workers {
            worker.stopper().warm();
            worker.join().await;
        }
    }
}
