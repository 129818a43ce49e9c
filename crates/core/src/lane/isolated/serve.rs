//! The child's side: from `init` to the end of the process.

use std::{
    env,
    io::{PipeReader, PipeWriter, Write},
    process,
    time::Instant,
};

use longshore_sys::{
    Board, SIDES,
    clock::process_cpu_time,
    isolated::{self, Original},
};

use super::{
    CHUNK,
    registry::{self, Run},
    wire::{self, ANSWER, DONE, HELLO, Reader},
};

/// The first argument of such a child; behind it the place of its function and its parent's pid.
pub(super) const ARGUMENT: &str = "__isolated";

/// The longest answer that goes over the board; for longer ones a system call costs little.
const SHORT: usize = 1024;

/// Serves, and never returns, when this process was started as a child whose function is known by
/// now.
pub(crate) fn main_if_asked() {
    let mut args = env::args_os().skip(1);
    if args.next().is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    let mut number = || args.next()?.to_str()?.parse::<i32>().ok();
    let (Some(place), Some(parent)) = (number(), number()) else {
        eprintln!("longshore: {ARGUMENT} is started by longshore itself and not by hand");
        process::exit(2);
    };
    // A later call of init may bring the function.
    let Some((name, run)) = usize::try_from(place).ok().and_then(registry::take) else { return };
    match isolated::enter(parent) {
        Ok((board, requests, answers)) => {
            let original = Original::mark();
            serve(name, &run, &board, &requests, &answers, original.ok().as_ref())
        }
        Err(error) => {
            eprintln!("longshore: {ARGUMENT} is started by longshore itself and not by hand: {error}");
            process::exit(2);
        }
    }
}

fn serve(name: &str, run: &Run, board: &Board, requests: &PipeReader, answers: &PipeWriter, original: Option<&Original>) -> ! {
    let mut cpu_at = Instant::now();
    let mut batches = Reader::new();
    let mut answer = Vec::new();
    say(answers, HELLO, name.as_bytes());
    // The end, in whatever way, means that nobody wants anything any more.
    let mut side = 0;
    while let Ok(Some((count, batch))) = batches.next(requests) {
        let mut written = 0;
        for (item, payload) in (0..count).zip(wire::payloads(batch)) {
            if board.claim(side).is_none() {
                break;
            }
            answer.clear();
            // Room for the length of an entry, then the item.
            answer.extend_from_slice(&[0; 4]);
            answer.extend_from_slice(&item.to_ne_bytes());
            run(payload, &mut answer);
            if !original.is_none_or(Original::is_here) {
                // The function forked, and the copy came back too.
                isolated::leave(0);
            }
            let length = answer.len() - 4;
            answer[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            match (length <= SHORT).then(|| board.write(side, written, &answer)).flatten() {
                Some(end) => written = end,
                None => say(answers, ANSWER, &answer[4..]),
            }
            answer.shrink_to(1 << 20);
        }
        // Not after every one of many tiny batches: it costs half a microsecond.
        if cpu_at.elapsed() >= CHUNK {
            board.set_cpu(u64::try_from(process_cpu_time().as_nanos()).unwrap_or(u64::MAX));
            cpu_at = Instant::now();
        }
        say(answers, DONE, &[]);
        // The next batch may be there already.
        side = (side + 1) % SIDES;
    }
    process::exit(0)
}

fn say(mut answers: &PipeWriter, kind: u8, body: &[u8]) {
    if answers.write_all(&wire::message(kind, body)).is_err() {
        process::exit(0);
    }
}
