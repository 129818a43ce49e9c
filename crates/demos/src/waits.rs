//! Scenarios that wait: one problem every way, URLs, files, services.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use longshore_core::{Executor, Job, LaneKind, TaskError, as_completed, lane::child::Command};

use crate::{
    server,
    stage::{Settings, Shown, Stage},
};

/// `add` with a sleep of 3 s, on three pairs: one after another, and every other way.
pub(crate) fn options(settings: &Settings) -> Result<Shown> {
    let wait = settings.time(3.0);
    let pairs = [(1, 1), (2, 2), (3, 3)];
    let wanted = [2, 4, 6];
    let add = move |a: i32, b: i32| {
        sleep(wait);
        a + b
    };
    let mut stage = Stage::new(format!("add(a, b), each of which waits {wait:?}, on (1, 1), (2, 2), (3, 3)"));
    let sums = stage.way("one after another", || Ok(pairs.map(|(a, b)| add(a, b))))?;
    ensure!(sums == wanted, "one after another: {sums:?}");
    let pool = Executor::builder().workers(LaneKind::Blocking, settings.workers(5)).build();
    let (first, second) = (pairs.map(|pair| pair.0), pairs.map(|pair| pair.1));
    let sums = stage.way("blocking lane, map over two inputs", || Ok(pool.blocking().map2(first, second, add).results()?))?;
    ensure!(sums == wanted, "blocking, two inputs: {sums:?}");
    let sums = stage.way("blocking lane, map over pairs", || Ok(pool.blocking().map(pairs, move |(a, b)| add(a, b)).results()?))?;
    ensure!(sums == wanted, "blocking, pairs: {sums:?}");
    let sums = stage.way("async lane, gather", || {
        let each = pairs.map(|(a, b)| {
            pool.futures().submit(async move {
                tokio::time::sleep(wait).await;
                a + b
            })
        });
        Ok(longshore_core::gather(each).wait()?)
    })?;
    ensure!(sums == wanted, "async: {sums:?}");
    let sums = stage.way("process lane, a child each", || {
        let script = format!("sleep {}; echo $(($1 + $2))", wait.as_secs_f64());
        let job = Job::commands(move |(a, b): &(i32, i32)| Command {
            program: "sh".into(),
            args: ["-c".into(), script.clone().into(), "sh".into(), a.to_string().into(), b.to_string().into()].to_vec(),
            ..Command::default()
        });
        let outputs = job
            .workers(settings.workers(5))
            .params(pairs)
            .collect()
            .results()
            .map_err(|(place, error)| anyhow::anyhow!("{place}: {error}"))?;
        outputs.iter().map(|output| Ok(String::from_utf8_lossy(&output.stdout).trim().parse::<i32>()?)).collect::<Result<Vec<_>>>()
    })?;
    ensure!(sums == wanted, "process: {sums:?}");
    let differ = pool.blocking().map2([1, 2, 3], [1, 2], |a, b| a + b).results().err().context("lengths that differ went through")?;
    stage.fact(format!("two inputs of different lengths: {}", differ.error.message()));
    Ok(stage.why("waiting costs no processor, so three waits take as long as one, whoever waits"))
}

const SLOW: f64 = 1.0;
const TIMEOUT: f64 = 5.0;

struct Fetched {
    path: String,
    took: Duration,
    answer: Result<(u16, usize), String>,
}

/// Five URLs of the lesson, and three that fail, from a server of our own.
pub(crate) fn urls(settings: &Settings) -> Result<Shown> {
    let server = server::Server::start(settings.time(SLOW), settings.time(TIMEOUT * 1.4))?;
    let timeout = settings.time(TIMEOUT);
    let refused = server::refusing()?;
    let mut urls: Vec<String> = ["/delay", "/delay", "/delay", "/json", "/uuid", "/503", "/late"].map(|path| server.url(path)).to_vec();
    urls.push(format!("http://{refused}/refused"));
    let workers = settings.workers(3);
    // The same provider as everywhere; who comes second is told so, and that is all right.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(timeout).build()?;
    let fetch = move |url: String| {
        let client = client.clone();
        async move {
            let began = Instant::now();
            let answer = async {
                let response = client.get(&url).send().await?;
                let status = response.status().as_u16();
                Ok::<_, reqwest::Error>((status, response.bytes().await?.len()))
            };
            let answer = answer.await.map_err(|error| reason(&error, timeout));
            let path = url.rsplit('/').next().unwrap_or_default().to_owned();
            Fetched { path, took: began.elapsed(), answer }
        }
    };
    let mut stage =
        Stage::new(format!("{} requests to a server that this demo starts, time-out {timeout:?}, {workers} workers", urls.len()));
    let one = Executor::builder().workers(LaneKind::Async, 1).build();
    let own = fetch.clone();
    let alone = stage.way("one after another", || Ok(one.futures().map(urls.clone(), own).results()?))?;
    let pool = Executor::builder().workers(LaneKind::Async, workers).build();
    let together = stage.way(format!("async lane, {workers} workers, as completed"), || {
        Ok(pool.futures().map(urls.clone(), fetch).unordered().collect::<Result<Vec<_>, _>>()?)
    })?;
    let count = |fetched: &[Fetched]| fetched.iter().filter(|one| matches!(one.answer, Ok((200, _)))).count();
    ensure!((count(&alone), count(&together)) == (5, 5), "five of the requests should have succeeded, both ways");
    for one in &together {
        let took = one.took.as_secs_f64();
        stage.fact(match &one.answer {
            Ok((status @ 200..=299, size)) => format!("{:<8} {took:>6.2} s  {status}, {size} bytes", one.path),
            Ok((status, _)) => format!("{:<8} {took:>6.2} s  failed: status {status}", one.path),
            Err(why) => format!("{:<8} {took:>6.2} s  failed: {why}", one.path),
        });
    }
    Ok(stage.why("each request is a wait; what fails is that request's result, and the others go on"))
}

fn reason(error: &reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        format!("no answer within {timeout:?}")
    } else if error.is_connect() {
        "connection refused".to_owned()
    } else {
        error.to_string()
    }
}

const FILES: [&str; 5] =
    ["data_report_2024.txt", "user_logs_january.txt", "sales_summary.txt", "inventory_update.txt", "customer_feedback.txt"];

/// Five files of which each is read, processed and written, a second in all.
pub(crate) fn files(settings: &Settings) -> Result<Shown> {
    let [read, process, write] = [0.5, 0.3, 0.2].map(|seconds| settings.time(seconds));
    let names: Vec<String> = (0..settings.items(FILES.len())).map(|nth| FILES[nth % FILES.len()].to_owned()).collect();
    let workers = settings.workers(3);
    let handle = move |name: &str| {
        sleep(read);
        sleep(process);
        sleep(write);
        name.len() * 10
    };
    let mut stage = Stage::new(format!("{} files, {:?} of waiting each, {workers} workers", names.len(), read + process + write));
    let alone = stage.way("one after another", || Ok(names.iter().map(|name| handle(name)).sum::<usize>()))?;
    let pool = Executor::builder().workers(LaneKind::Blocking, workers).build();
    let order = stage.way(format!("blocking lane, {workers} workers, as completed"), || {
        let handles: Vec<_> = names
            .iter()
            .map(|name| {
                let name = name.clone();
                pool.blocking().submit(move || handle(&name))
            })
            .collect();
        as_completed(handles).map(|(place, lines)| Ok::<_, TaskError>((place, lines?))).collect::<Result<Vec<_>, _>>().map_err(Into::into)
    })?;
    ensure!(order.iter().map(|(_, lines)| lines).sum::<usize>() == alone, "the two ways counted different lines");
    let done: Vec<&str> = order.iter().map(|(place, _)| names[*place].as_str()).collect();
    stage.fact(format!("completed in this order: {}", done.join(", ")));
    let rounds = names.len().div_ceil(workers);
    Ok(stage.why(format!("{} files at {workers} at a time are {rounds} rounds of waiting instead of {}", names.len(), names.len())))
}

/// Five health checks, submitted and forgotten, with a summary at the end.
pub(crate) fn services(settings: &Settings) -> Result<Shown> {
    let services = [("Database Server", 0.8), ("Web API", 0.5), ("Cache Service", 0.3), ("File Storage", 1.0), ("Email Service", 0.7)];
    let mut luck = fastrand::Rng::with_seed(settings.seed);
    let checks: Vec<_> = services.iter().map(|(name, seconds)| (*name, settings.time(*seconds), luck.u8(0..4) > 0)).collect();
    let mut stage = Stage::new("five health checks at once, submitted and forgotten");
    stage.took("the checks' own times, added", checks.iter().map(|(_, takes, _)| *takes).sum());
    let pool = Executor::builder().workers(LaneKind::Blocking, settings.workers(5)).build();
    let (closed, forgot) = stage.way("blocking lane, 5 workers, submit and forget", || {
        let began = Instant::now();
        for (name, takes, healthy) in checks.clone() {
            let check = move |_: &longshore_core::CancelToken| {
                sleep(takes);
                if healthy { Ok(()) } else { Err(TaskError::new("unhealthy", name)) }
            };
            pool.blocking().try_submit(check).forget();
        }
        let forgot = began.elapsed();
        Ok((pool.close(), forgot))
    })?;
    let healthy = checks.iter().filter(|(_, _, healthy)| *healthy).count() as u64;
    ensure!(
        (closed.ok(), closed.unread) == (healthy, checks.len() as u64 - healthy),
        "the summary does not say what was planted: {closed:?}"
    );
    stage.fact(format!("submitting all of them took {forgot:?}; the summary came when the pool was closed"));
    let first = closed.first_unread.map(|error| format!("; nobody read: {error}")).unwrap_or_default();
    stage.fact(format!("{healthy}/{} services healthy{first}", checks.len()));
    Ok(stage.why("as long as the slowest of them; what nobody reads is still counted, and named"))
}
