//! Seed 004, a client in Rust: three slow additions at once, served by whoever serves `tasks._add`:
//! Celery's own worker (`celery -A tasks worker` in `examples/seed004`), or `seed004_worker`.
//!
//! `cargo run --example seed004_client [URL]` (`redis://localhost` unless told otherwise)

use std::time::{Duration, Instant};

use longshore::{Client, Settings, Signature};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = std::env::args().nth(1).unwrap_or_else(|| "redis://localhost".to_owned());
    let client = Client::connect(&Settings::new(broker))?;
    // The task is Python's: it is known by its name alone.
    let add = |a: i64, b: i64| -> Signature<i64> { Signature::named("tasks._add").arg(&a).arg(&b).returns() };

    let begun = Instant::now();
    let answers = [client.send(add(1, 1)).await?, client.send(add(2, 2)).await?, client.send(add(3, 3)).await?];
    println!("sent after {:.0?}", begun.elapsed());
    let mut results = Vec::new();
    for answer in &answers {
        results.push(answer.get_within(Duration::from_secs(60)).await?);
    }
    println!("{results:?}");
    println!("after {:.1?}", begun.elapsed());
    Ok(())
}
