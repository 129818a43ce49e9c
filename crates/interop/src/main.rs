//! The tasks of `tests/interop/labapp.py` in Rust, as a program: what the interop tests start as a worker (`labapp worker …`), and drive as a client
//! (`labapp client …`).

mod client;
mod tasks;
mod worker;

use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next();
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match word.as_str() {
            "--broker" => options.broker = value,
            "--results" => options.results = Some(value),
            "-n" => options.node = value,
            "-Q" => options.queues = value.split(',').map(str::to_owned).collect(),
            "-c" => options.concurrency = value.parse().unwrap_or(4),
            "--lease" => options.lease = seconds(&value),
            "--visibility-timeout" => options.visibility_timeout = seconds(&value),
            _ => {}
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("labapp: {error}");
            return ExitCode::from(71);
        }
    };
    let code = match command.as_deref() {
        Some("worker") => runtime.block_on(worker::serve(options)),
        Some("client") => runtime.block_on(client::listen(options)),
        // What the tests may ask for.
        Some("can") => {
            println!("worker client");
            0
        }
        _ => {
            eprintln!(
                "labapp worker|client --broker URL [--results URL] [-n NODE] [-Q QUEUES] [-c N] [--lease 5s] [--visibility-timeout 3600s]"
            );
            2
        }
    };
    // Threads that are stuck in a handler are no reason to stay.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// What the command line says.
struct Options {
    broker: String,
    results: Option<String>,
    node: String,
    queues: Vec<String>,
    concurrency: usize,
    lease: Duration,
    visibility_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            broker: String::new(),
            results: None,
            node: "longshore@lab".to_owned(),
            queues: vec!["celery".to_owned()],
            concurrency: 4,
            lease: Duration::from_secs(5),
            visibility_timeout: Duration::from_secs(3600),
        }
    }
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(text.trim_end_matches('s').parse().unwrap_or(5.0))
}
