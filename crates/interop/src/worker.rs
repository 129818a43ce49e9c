//! The worker, set up by the command line.

use std::sync::Arc;

use longshore_worker::{Notice, Worker, WorkerOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Options, tasks};

/// Serves until it is told to stop; the exit code.
pub(crate) async fn serve(options: Options) -> u8 {
    let mut app = tasks::app().broker(options.broker);
    if let Some(results) = options.results {
        app = app.results(results);
    }
    let mut set = WorkerOptions::new(options.node);
    set.queues = options.queues;
    set.lanes = [options.concurrency; 4];
    set.parking = options.concurrency;
    set.lease = options.lease;
    set.visibility_timeout = options.visibility_timeout;
    set.listeners.push(Arc::new(|notices: &[Notice]| {
        for notice in notices {
            println!("{}[{}] {:?}", notice.message.task, notice.message.id, notice.what);
        }
    }));
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else { return 71 };
    let node = set.node.clone();
    let worker = tokio::select! {
        worker = Worker::start(app, set) => match worker {
            Ok(worker) => worker,
            Err(error) => {
                eprintln!("labapp: {error}");
                return 6;
            }
        },
        _ = term.recv() => return 0,
    };
    println!("{node} ready");
    let stopper = worker.stopper();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stopper.warm();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stopper.cold();
    });
    let summary = worker.join().await;
    println!("{node} stopped: {summary:?}");
    u8::from(summary.error.is_some())
}
