//! Python's own pool of processes, and loky.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::harness::{Args, on, runtime, table, way};

/// Starts a pool and its processes, then runs the tasks once for each line on standard input, and
/// answers with a line.
const PROGRAM: &str = r#"
import sys
from operator import pos
kind, tasks, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if kind.startswith("loky"):
    import loky
    pool = loky.get_reusable_executor(max_workers=workers, timeout=None)
else:
    from concurrent.futures import ProcessPoolExecutor
    pool = ProcessPoolExecutor(workers)
chunk = 100 if kind.endswith("100") else 1
list(pool.map(pos, range(workers * 10)))
print("ready", flush=True)
for line in sys.stdin:
    got = sum(pool.map(pos, range(tasks), chunksize=chunk))
    assert got == tasks * (tasks - 1) // 2
    print("done", flush=True)
"#;

struct Python {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Python {
    /// `None` if there is no such Python, or no such module.
    fn start(kind: &str, tasks: u64, workers: usize) -> Option<Self> {
        let python = std::env::var("LONGSHORE_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut process = Command::new(python)
            .args(["-c", PROGRAM, kind, &tasks.to_string(), &workers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let (to, from) = (process.stdin.take()?, BufReader::new(process.stdout.take()?));
        let mut this = Self { process, to, from };
        (this.line() == "ready").then_some(this)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.from.read_line(&mut line);
        line.trim_end().to_owned()
    }

    fn round(&mut self) {
        self.to.write_all(b"go\n").expect("Python runs");
        assert_eq!(self.line(), "done");
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn run(args: &Args) {
    let runtime = runtime();
    // One at a time, as the name says and as most people write it; and in chunks by hand, for
    // comparison: ours finds them by itself.
    for (chunk, children, tasks) in [(1, 2, args.tasks.min(20_000)), (100, 2, args.tasks.min(500_000))] {
        let kinds: [(&'static str, &str); 2] = match chunk {
            1 => [("ProcessPoolExecutor.map", "futures"), ("loky map", "loky")],
            _ => [("ProcessPoolExecutor.map, chunksize 100", "futures100"), ("loky map, chunksize 100", "loky100")],
        };
        let mut ways = Vec::new();
        for (name, kind) in kinds {
            match Python::start(kind, tasks, children) {
                Some(mut python) => {
                    let way = way(name, move || python.round());
                    ways.push(if chunk == 1 { way.limit(0.1) } else { way });
                }
                None => println!("\n{name}: not there"),
            }
        }
        ways.push(way("longshore", || {
            let job = crate::job(tasks, children, None);
            assert_eq!(on(&runtime, async { job.start().join().await }).ok(), tasks);
        }));
        table(&format!("{tasks} no-ops in two child processes; ours starts and ends its children each time"), ways, args, tasks);
    }
}
