//! A loop over two pipes, as short as it can be: no length, no error, no limit.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use crate::harness::{Args, on, runtime, table, way};

const ARGUMENT: &str = "__echo";

/// The child of the loop: what comes in goes out.
pub(crate) fn child_if_asked() {
    if std::env::args().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    let batch = std::env::args().nth(2).and_then(|batch| batch.parse::<usize>().ok()).expect("a number");
    let mut frames = vec![0; 8 * batch];
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    while stdin.read_exact(&mut frames).is_ok() {
        stdout.write_all(&frames).and_then(|()| stdout.flush()).expect("a parent");
    }
    std::process::exit(0);
}

/// The loop: so many numbers, some at a time.
fn by_hand(tasks: u64, batch: usize) {
    let mut child = Command::new("/proc/self/exe")
        .args([ARGUMENT, &batch.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let (mut to, mut from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let mut frames = vec![0; 8 * batch];
    let mut sum = 0;
    for first in (0..tasks).step_by(batch) {
        for (n, frame) in (first..).zip(frames.chunks_exact_mut(8)) {
            frame.copy_from_slice(&n.to_ne_bytes());
        }
        to.write_all(&frames).expect("a child");
        from.read_exact(&mut frames).expect("a child");
        sum += frames.chunks_exact(8).map(|frame| u64::from_ne_bytes(frame.try_into().expect("8 bytes"))).sum::<u64>();
    }
    drop(to);
    child.wait().expect("an end");
    assert_eq!(sum, (0..tasks).sum::<u64>());
}

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    let job = |tasks, children, batch| {
        let job = crate::job(tasks, children, batch);
        assert_eq!(on(&runtime, async { job.start().join().await }).ok(), tasks);
    };
    let tasks = args.tasks.min(100_000);
    let ways = vec![
        way("a loop over pipes", || by_hand(tasks, 1)).limit(1.5),
        way("longshore `map`", || crate::map(tasks, 1, Some(1))),
        way("longshore `Job`", || job(tasks, 1, Some(1))),
    ];
    table(&format!("{tasks} no-ops of 8 bytes in a child process, 1 at a time"), ways, args, tasks);
    let tasks = args.tasks / 100 * 100;
    let ways = vec![
        way("a loop over pipes", || by_hand(tasks, 100)).limit(1.5),
        way("longshore `Job`, each item a task", || job(tasks, 1, Some(100))),
        way("longshore `map`", || crate::map(tasks, 1, Some(100))),
    ];
    table(&format!("{tasks} no-ops of 8 bytes in a child process, 100 at a time"), ways, args, tasks);
    let tasks = args.tasks;
    let ways = vec![
        way("a loop over pipes, 512 at a time", || by_hand(tasks / 512 * 512, 512)),
        way("longshore `Job`, each item a task", || job(tasks, 2, None)),
        way("longshore `map`", || crate::map(tasks, 2, None)),
    ];
    table(&format!("{tasks} no-ops, two children, batches as the lane chooses"), ways, args, tasks);
}
