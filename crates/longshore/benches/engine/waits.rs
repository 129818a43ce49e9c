//! Ten thousand waits of 10 ms, 500 at once: what the engine adds to the sleeps themselves.

use std::time::Duration;

use longshore::Job;
use tokio::time::sleep;

use crate::harness::{Args, on, runtime, table, way};

const WAITS: u64 = 10_000;
const AT_ONCE: usize = 500;
const WAIT: Duration = Duration::from_millis(10);

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    let ways = vec![
        way("bare tokio: 500 tasks that sleep in a loop", || on(&runtime, bare())).limit(1.0 / 0.97),
        way("longshore", || on(&runtime, ours())),
    ];
    table("10000 waits of 10 ms, 500 at once", ways, args, WAITS);
}

async fn bare() {
    let loops: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            tokio::spawn(async {
                for _ in 0..WAITS as usize / AT_ONCE {
                    sleep(WAIT).await;
                }
            })
        })
        .collect();
    for one in loops {
        one.await.expect("no panic");
    }
}

async fn ours() {
    let report = Job::new(|_| async {
        sleep(WAIT).await;
        Ok::<_, String>(())
    })
    .params(0..WAITS)
    .workers(AT_ONCE)
    .timeout(Duration::from_secs(30))
    .start()
    .join()
    .await;
    assert_eq!(report.ok(), WAITS);
}
