//! Three stages over channels as one writes them by hand: a task or a thread each, and one for the
//! source.

use std::hint::black_box;

async fn step(n: u64) -> Result<u64, String> {
    black_box(Ok(n + 1))
}

fn plain_step(n: u64) -> Result<u64, String> {
    black_box(Ok(n + 1))
}

/// Tasks over a channel whose ends have an async `send` and `recv`.
macro_rules! tasks {
    ($name:ident, $channel:expr, $recv:ident) => {
        pub(crate) async fn $name(n: u64, queue: usize) -> u64 {
            let channel = $channel;
            let (send, mut receive) = channel(queue);
            tokio::spawn(async move {
                for item in 0..n {
                    send.send(item).await.expect("a reader");
                }
            });
            for _ in 0..3 {
                let (next, there) = channel(queue);
                tokio::spawn(async move {
                    #[allow(unused_mut, reason = "some receivers want it")]
                    let mut receive = receive;
                    while let $recv(item) = receive.recv().await {
                        let Ok(output) = step(item).await else { return };
                        if next.send(output).await.is_err() {
                            return;
                        }
                    }
                });
                receive = there;
            }
            let mut sum = 0;
            while let $recv(item) = receive.recv().await {
                sum += item;
            }
            sum
        }
    };
}

tasks!(tokio_mpsc, tokio::sync::mpsc::channel::<u64>, Some);
tasks!(crossfire_spsc, crossfire::spsc::bounded_async::<u64>, Ok);
tasks!(kanal_async, kanal::bounded_async::<u64>, Ok);

/// As the others; flume has names of its own.
pub(crate) async fn flume_async(n: u64, queue: usize) -> u64 {
    let (send, mut receive) = flume::bounded(queue);
    tokio::spawn(async move {
        for item in 0..n {
            send.send_async(item).await.expect("a reader");
        }
    });
    for _ in 0..3 {
        let (next, there) = flume::bounded(queue);
        tokio::spawn(async move {
            while let Ok(item) = receive.recv_async().await {
                let Ok(output) = step(item).await else { return };
                if next.send_async(output).await.is_err() {
                    return;
                }
            }
        });
        receive = there;
    }
    let mut sum = 0;
    while let Ok(item) = receive.recv_async().await {
        sum += item;
    }
    sum
}

/// Threads over a channel whose ends block.
macro_rules! threads {
    ($name:ident, $channel:expr) => {
        pub(crate) fn $name(n: u64, queue: usize) -> u64 {
            std::thread::scope(|scope| {
                let channel = $channel;
                let (send, mut receive) = channel(queue);
                scope.spawn(move || {
                    for item in 0..n {
                        send.send(item).expect("a reader");
                    }
                });
                for _ in 0..3 {
                    let (next, there) = channel(queue);
                    scope.spawn(move || {
                        while let Ok(item) = receive.recv() {
                            let Ok(output) = plain_step(item) else { return };
                            if next.send(output).is_err() {
                                return;
                            }
                        }
                    });
                    receive = there;
                }
                let mut sum = 0;
                while let Ok(item) = receive.recv() {
                    sum += item;
                }
                sum
            })
        }
    };
}

threads!(crossbeam_threads, crossbeam_channel::bounded::<u64>);
threads!(crossfire_threads, crossfire::spsc::bounded_blocking::<u64>);
threads!(kanal_threads, kanal::bounded::<u64>);
threads!(flume_threads, flume::bounded::<u64>);
threads!(std_threads, std::sync::mpsc::sync_channel::<u64>);
