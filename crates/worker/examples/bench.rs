//! The worker and the client of `benches/tasks/run.sh`: the same tasks as its Python workers have.
//!
//! `bench worker URL QUEUE [early] [noresult] [slots=N]` · `bench publish URL QUEUE TASK COUNT
//! await|concurrent|bulk|later [ARG]` · `bench roundtrip URL QUEUE COUNT` · `bench mixed URL QUEUE
//! SECONDS`; `current` runs any of them on a runtime of one thread
//!
//! What the machine allows, with commands to Redis and nothing else:
//! `bench bare-publish PORT COUNT` · `bench bare-worker PORT` · `bench bare-ask PORT COUNT`
#![expect(clippy::unwrap_used, reason = "a measuring program")]

extern crate longshore_worker as longshore;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use longshore::{Acks, App, Client, Signature, Worker, WorkerOptions};

#[longshore::task(name = "bench.noop")]
async fn noop() {}

/// Plain functions, as somebody writes them who thinks of nothing.
#[longshore::task(name = "bench.sleep")]
fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[longshore::task(name = "bench.wait")]
async fn wait(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Computes for so many milliseconds of CPU.
#[longshore::task(name = "bench.cpu")]
fn cpu(ms: u64) -> u64 {
    let limit = Duration::from_millis(ms);
    let (start, mut x) = (longshore_sys::clock::thread_cpu_time(), 1_u64);
    while longshore_sys::clock::thread_cpu_time() - start < limit {
        for _ in 0..1_000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    x
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| args[place].parse::<usize>().unwrap();
    match args[0].as_str() {
        "bare-publish" => return println!("{}", bare_publish(number(1), number(2))),
        "bare-worker" => return bare_worker(number(1)),
        "bare-ask" => return bare_ask(number(1), number(2)),
        _ => {}
    }
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let runtime = if has("current") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    };
    let main = async move {
        let has = |word: &str| args.iter().any(|arg| arg == word);
        let app = App::new().broker(&args[1]).default_queue(&args[2]);
        match args[0].as_str() {
            "worker" => {
                let tasks: [longshore::Task; 4] = [noop.into(), sleep.into(), wait.into(), cpu.into()];
                let app = tasks.into_iter().fold(app, |app, mut task| {
                    task.policy.acks = Some(if has("early") { Acks::Early } else { Acks::Late });
                    task.policy.ignore_result = has("noresult");
                    app.task(task)
                });
                let mut options = WorkerOptions::new("bench@longshore");
                if let Some(slots) = args.iter().find_map(|arg| arg.strip_prefix("slots=")) {
                    let slots = slots.parse().unwrap();
                    options.lanes = [slots, slots, 2, 2];
                }
                let worker = Worker::start(app, options).await.unwrap();
                let stopper = worker.stopper();
                tokio::spawn(async move {
                    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
                    term.recv().await;
                    stopper.warm();
                });
                println!("ready");
                println!("{:?}", worker.join().await);
            }
            "publish" => {
                let client = Client::of(&app).unwrap();
                let (task, count) = (args[3].clone(), args[4].parse::<usize>().unwrap());
                let later = args[5] == "later";
                let signature = || {
                    let signature = Signature::named(&task);
                    let signature = args.get(6).and_then(|arg| arg.parse::<u64>().ok()).iter().fold(signature, Signature::arg);
                    if later { signature.countdown(Duration::from_secs(3600)) } else { signature }
                };
                let start = Instant::now();
                match args[5].as_str() {
                    "await" => {
                        for _ in 0..count {
                            client.send(signature()).await.unwrap();
                        }
                    }
                    "concurrent" => {
                        let client = Arc::new(client);
                        let sends = stream::iter((0..count).map(|_| {
                            let (client, signature) = (client.clone(), signature());
                            async move { client.send(signature).await.map(drop).unwrap() }
                        }));
                        sends.buffer_unordered(64).collect::<Vec<()>>().await;
                    }
                    _ => {
                        let mut sent = client.send_all(stream::iter((0..count).map(|_| signature())));
                        while let Some(one) = sent.next().await {
                            assert!(one.1.is_ok());
                        }
                    }
                }
                println!("{}", start.elapsed().as_secs_f64());
            }
            "mixed" => mixed(Client::of(&app).unwrap(), Duration::from_secs_f64(args[3].parse().unwrap())).await,
            _ => {
                let client = Client::of(&app).unwrap();
                let mut times = Vec::new();
                for _ in 0..args[3].parse::<usize>().unwrap() {
                    let start = Instant::now();
                    client.send(Signature::named("bench.noop")).await.unwrap().get().await.unwrap();
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                tell(times);
            }
        }
    };
    runtime.block_on(main);
}

/// Fifty sleeps of 20 ms a second, each asked for and waited for, beside eight computations of 100
/// ms.
async fn mixed(client: Client, time: Duration) {
    let end = Instant::now() + time;
    let computing = tokio::spawn({
        let client = client.clone();
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(125));
            while Instant::now() < end {
                tick.tick().await;
                client.send(Signature::named("bench.cpu").arg(&100).ignore_result()).await.unwrap();
            }
        }
    });
    let askers = (0..5).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20 * number)).await;
            let (mut tick, mut times) = (tokio::time::interval(Duration::from_millis(100)), Vec::new());
            while Instant::now() < end {
                tick.tick().await;
                let start = Instant::now();
                client.send(Signature::named("bench.sleep").arg(&20)).await.unwrap().get().await.unwrap();
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            times
        })
    });
    let times = futures_util::future::join_all(askers.collect::<Vec<_>>()).await.into_iter().flat_map(Result::unwrap).collect();
    computing.await.unwrap();
    tell(times);
}

/// A connection to Redis that knows how to write a command and to read whatever comes.
struct Bare(TcpStream);

impl Bare {
    fn to(port: usize) -> Self {
        let socket = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        socket.set_nodelay(true).unwrap();
        Self(socket)
    }

    fn say(&mut self, commands: &[&[&[u8]]]) {
        let mut out = Vec::new();
        for command in commands {
            write!(out, "*{}\r\n", command.len()).unwrap();
            for word in *command {
                write!(out, "${}\r\n", word.len()).unwrap();
                out.extend_from_slice(word);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.0.write_all(&out).unwrap();
    }

    /// Reads until so many lines have come.
    fn lines(&mut self, count: usize) {
        let (mut seen, mut buffer) = (0, [0; 8192]);
        while seen < count {
            match self.0.read(&mut buffer) {
                Ok(0) => std::process::exit(0),
                Ok(read) => seen += buffer[..read].iter().filter(|byte| **byte == b'\n').count(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// As long as Celery's messages are.
const MESSAGE: &[u8] = &[b'x'; 930];

/// Seconds for messages pushed one after the other by a loop that never sleeps.
fn bare_publish(port: usize, count: usize) -> f64 {
    let mut redis = Bare::to(port);
    redis.0.set_nonblocking(true).unwrap();
    let start = Instant::now();
    for _ in 0..count {
        redis.say(&[&[b"LPUSH", b"bare", MESSAGE]]);
        redis.lines(1);
    }
    start.elapsed().as_secs_f64()
}

/// Pops, stores, tells.
fn bare_worker(port: usize) {
    let mut redis = Bare::to(port);
    loop {
        redis.say(&[&[b"BRPOP", b"bare", b"0"]]);
        redis.lines(5);
        redis.say(&[&[b"SET", b"result", b"x"], &[b"PUBLISH", b"done", b"x"]]);
        redis.lines(2);
    }
}

/// Pushes a message and waits until it is told that the result is stored.
fn bare_ask(port: usize, count: usize) {
    let (mut redis, mut told) = (Bare::to(port), Bare::to(port));
    told.say(&[&[b"SUBSCRIBE", b"done"]]);
    told.lines(6);
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        redis.say(&[&[b"LPUSH", b"bare", MESSAGE]]);
        redis.lines(1);
        told.lines(7);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    tell(times);
}

/// The median and the 99th of a hundred, in ms.
fn tell(mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    println!("{} {}", times[times.len() / 2], times[times.len() * 99 / 100]);
}
