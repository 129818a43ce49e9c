//! What it takes to read and to write one message and one result, in nanoseconds: `cargo run
//! --release -p longshore-celery --example codec_speed`, with a word to take only the measurements
//! that have it in their names.

use std::{hint::black_box, time::Instant};

use longshore_celery::{Encoding, Limits, Message, State, TaskResult, Value, crashes_of, mark_redelivered};

const ROUNDS: u32 = 200_000;

fn main() {
    let recorded = include_bytes!("../fixtures/messages/plain.json");
    let fixture = Value::parse(recorded, 16).unwrap_or_default();
    let raw = fixture.get("raw").and_then(Value::as_str).unwrap_or_default().as_bytes();
    let limits = Limits::default();
    let Ok(message) = Message::decode(raw, &limits) else {
        eprintln!("the recorded message cannot be read");
        return;
    };
    let result = TaskResult {
        task_id: message.id.clone(),
        state: State::Success,
        result: 5.into(),
        children: Value::List(vec![]),
        ..TaskResult::default()
    };
    let document = result.encode();
    println!("a message of {} bytes, a result of {}", raw.len(), document.len());
    time("read a message", || Message::decode(black_box(raw), &limits).map_or(0, |message| message.args.len()));
    time("read it as a tree, without its body", || Value::parse(black_box(raw), 128).map_or(0, |value| usize::from(value.is_null())));
    time("the same by serde_json", || {
        serde_json::from_slice::<serde_json::Value>(black_box(raw)).map_or(0, |value| usize::from(value.is_null()))
    });
    time("write a message", || black_box(&message).encode(Encoding::Json).len());
    time("write a message, its tag being there", || black_box(&message).encode_tagged(Encoding::Json, uuid::Uuid::nil()).len());
    time("write a message as MessagePack", || black_box(&message).encode(Encoding::MsgPack).len());
    time("look for crashes", || crashes_of(black_box(raw)) as usize);
    time("mark it redelivered", || mark_redelivered(black_box(raw), Some(1)).map_or(0, |raw| raw.len()));
    time("write a result", || black_box(&result).encode().len());
    time("read a result", || TaskResult::decode(black_box(&document), 1 << 20).map_or(0, |result| result.task_id.len()));
}

/// The best of five rounds: what is measured is the code, not what else the machine does.
fn time(what: &str, mut each: impl FnMut() -> usize) {
    if std::env::args().nth(1).is_some_and(|word| !what.contains(&word)) {
        return;
    }
    let best = (0..5)
        .map(|_| {
            let from = Instant::now();
            let mut sum = 0;
            for _ in 0..ROUNDS {
                sum += each();
            }
            black_box(sum);
            from.elapsed() / ROUNDS
        })
        .min()
        .unwrap_or_default();
    println!("{what:40} {:>6} ns", best.as_nanos());
}
