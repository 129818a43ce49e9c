//! Runs a batch of commands and a batch of requests from a program, watched, steered and reported.
//!
//! `cargo run -p longshore-run --example batch`

use std::time::Duration;

use axum::{Router, extract::Path, http::StatusCode, routing::get};
use longshore_core::watch::Heard;
use longshore_run::{Program, Run, RunError, RunEvent, RunSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Commands end with this program, whatever ends it.
    longshore_core::init();
    tokio::runtime::Runtime::new()?.block_on(async {
        commands().await?;
        requests().await
    })
}

/// Runs commands, and looks at them while they run.
async fn commands() -> Result<(), RunError> {
    let spec = RunSpec::new(Program::shell("sleep 0.{}; test {} -ne 3"))
        .records(["1", "2", "3", "4"])
        .concurrency(2)
        .timeout(Duration::from_secs(5));
    let running = Run::start(Run::plan(spec)?).await?;
    let mut handle = running.handle();
    let viewer = tokio::spawn(async move {
        let mut most = 0;
        while handle.changed().await {
            most = most.max(handle.view().active);
        }
        most
    });
    let report = running.await;
    let most = viewer.await.unwrap_or_default();
    println!("commands: {} ok, {} failed, at most {most} at once", report.ran() - report.failed(), report.failed());
    assert_eq!((report.ran(), report.failed()), (4, 1));
    Ok(())
}

/// Sends requests to a server of this program, hears what becomes of each, and speeds up on the
/// way.
async fn requests() -> Result<(), Box<dyn std::error::Error>> {
    let answer = |Path(id): Path<u32>| async move { if id == 7 { StatusCode::NOT_FOUND } else { StatusCode::OK } };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/{id}", get(answer))).await });

    let spec = RunSpec::new(Program::http(format!("GET http://{address}/{{}}")))
        .records((1..=20).map(|id| id.to_string()))
        .rate(50.0, Duration::from_secs(1))
        .retries(1);
    let running = Run::start(Run::plan(spec)?).await?;
    let (mut events, handle) = (running.events(1_000), running.handle());
    let hearer = tokio::spawn(async move {
        let mut failures = Vec::new();
        while let Some(event) = events.next().await {
            if let Heard::Event(RunEvent::Ended(task)) = event {
                failures.extend(task.error.map(|error| (task.seq, error)));
            }
        }
        failures
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    handle.set_rate(None);
    let report = running.await;
    for (record, error) in hearer.await? {
        println!("request {record}: {error}");
    }
    println!("requests: {} ok, {} failed; {:?}", report.ran() - report.failed(), report.failed(), report.failed_by_error);
    assert_eq!((report.ran(), report.failed()), (20, 1));
    server.abort();
    Ok(())
}
