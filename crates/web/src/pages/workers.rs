//! Workers, ours and Celery's: who is there, does what; grow, shrink, autoscale, rates, time
//! limits, queues, warm stop.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use longshore_celery::Value;
use longshore_core::{Rate, watch::View};
use longshore_ops::workers::{self, WorkerAction, WorkerDetail, WorkerDone, WorkersRequest};
use minijinja::{context, value::Serde};
use serde::Serialize;

use crate::{
    api::{Field, Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page, page},
    pages::{Asked, action, facts, orders},
};

/// Longest limit of time of a task that is taken: a year.
const LONGEST_LIMIT: Duration = Duration::from_secs(366 * 86_400);
/// Most slots that a worker is given or loses at once.
const MOST_SLOTS: i64 = 10_000;

/// Returns the pages, their action, and the facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = Operation::get("/api/v1/workers", "Workers, Celery's too").answers("[Worker]").refuses(&[503]);
    let one = Operation::get("/api/v1/workers/{node}", "All that one worker says of itself").answers("WorkerDetail").asks().refuses(&[404]);
    let slots = || Field::whole("slots", "how many").required();
    let queue = || Field::text("queue", "the queue").required();
    let stop = Operation::act("/api/v1/workers/{node}/shutdown", "Stops a worker warmly: what runs may end");
    let acts = [
        Operation::act("/api/v1/workers/{node}/grow", "Gives a worker more slots").field(slots()),
        Operation::act("/api/v1/workers/{node}/shrink", "Takes slots from a worker").field(slots()),
        Operation::act("/api/v1/workers/{node}/serve", "Lets a worker serve a queue, too").field(queue()),
        Operation::act("/api/v1/workers/{node}/leave", "Lets a worker leave a queue").field(queue()),
        Operation::act("/api/v1/workers/{node}/rate", "Sets how often a worker may start a task")
            .field(Field::text("task", "the task's name").required())
            .field(Field::text("rate", "such as 10/s, 30/m or 5/h; 0: none").required()),
    ];
    let time_limit = Operation::act("/api/v1/workers/{node}/time_limit", "Sets after how long a worker ends a task")
        .field(Field::text("task", "the task's name").required())
        .field(Field::number("soft", "seconds after which it is told to end; absent: no limit"))
        .field(Field::number("hard", "seconds after which it is ended; absent: no limit"));
    let autoscale = Operation::act("/api/v1/workers/{node}/autoscale", "Sets between how many slots a worker scales by itself")
        .field(Field::whole("max", "the most; absent: as before"))
        .field(Field::whole("min", "the fewest; absent: as before"));
    let acts = acts.into_iter().chain([time_limit, autoscale]);
    let acts = acts.map(|operation| operation.refuses(&[404])).chain([stop]);
    Routes::new()
        .route("/workers", page(frame, deployment, list_page))
        .route("/workers/act", action(frame, deployment, do_it))
        .route("/workers/{node}", asking_page(frame, deployment, worker_page))
        .api(all, facts(frame, deployment, async |deployment, _| Ok(deployment.look().await?.workers.clone())))
        .api(one, facts(frame, deployment, detail))
        .merge(orders(frame, deployment, acts, do_it))
}

async fn detail(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<WorkerDetail, WebError> {
    Ok(workers::show(&deployment.client, request.param("node")).await?)
}

async fn list_page(deployment: Arc<Deployment>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let overview = deployment.look().await?;
    Ok(Page::new("workers.html", "Workers", context! { workers => Serde(&overview.workers), one => false }))
}

/// Share of the machine that a worker has used, as far as it says so.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Used {
    /// Bytes of its process, now and at most.
    memory: Option<f64>,
    peak: Option<f64>,
    cpu_seconds: Option<f64>,
    /// Part of one core, over all of its time.
    cpu_percent: Option<f64>,
    /// Number of times that a task held up the async lane, and since when the last one did, in
    /// seconds since 1970.
    stalls: Option<u64>,
    stalled_at: Option<f64>,
}

impl Used {
    /// Reads a reply to `stats`, and a view; `None` where neither says anything.
    fn of(stats: Option<&Value>, view: Option<&View>) -> Option<Self> {
        let of_stats = |name: &str| stats?.get("rusage")?.get(name)?.as_f64();
        let cpu_seconds = of_stats("utime").zip(of_stats("stime")).map(|(user, system)| user + system);
        let uptime = stats.and_then(|stats| stats.get("uptime")?.as_f64()).filter(|uptime| *uptime > 0.0);
        let gauge = |name: &str| view?.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value);
        let latest = view.and_then(|view| view.stalled.latest.as_ref());
        let used = Self {
            memory: gauge("process_resident_memory_bytes"),
            // The system tells it in units of 1024 bytes.
            peak: of_stats("maxrss").map(|units| units * 1024.0),
            cpu_seconds,
            cpu_percent: cpu_seconds.zip(uptime).map(|(cpu, uptime)| 100.0 * cpu / uptime),
            stalls: view.map(|view| view.stalled.times),
            stalled_at: latest.map(|stall| stall.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()),
        };
        (used != Self::default()).then_some(used)
    }
}

/// Shows one worker, which is asked for its registered tasks, what it runs and its settings.
async fn worker_page(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let node = request.param("node");
    let mut overview = deployment.look().await?;
    if !overview.workers.iter().any(|worker| worker.node == node) {
        // It may have come just now.
        deployment.nudge();
        overview = deployment.look().await?;
    }
    let worker = overview.workers.iter().find(|worker| worker.node == node);
    let worker = worker.ok_or_else(|| WebError::not_found(format_args!("worker {node}: it was not heard of for a minute")))?;
    let mut whom = WorkersRequest::default();
    whom.nodes = vec![node.to_owned()];
    // Celery's are not asked for a view, and one that is busy shows none.
    let (detail, views) = tokio::join!(workers::show(&deployment.client, node), workers::views(&deployment.client, &whom));
    let view = views.ok().and_then(|views| views.into_iter().next());
    let used = Used::of(detail.as_ref().ok().and_then(|detail| detail.said.get("stats")), view.as_ref().map(|view| &view.view));
    let (detail, trouble) = match detail {
        Ok(detail) => (serde_json::to_value(detail).unwrap_or_default(), None),
        Err(error) => (serde_json::Value::Null, Some(error.to_string())),
    };
    let context = context! { workers => Serde([worker]), one => true, node, detail => Serde(detail), trouble, used => Serde(used) };
    Ok(Page::new("workers.html", node.to_owned(), context))
}

/// Reads a rate in Celery's words: `10/s`, `30/m`, `5/h`, a bare number a second; nothing or 0:
/// none.
pub(crate) fn rate(text: &str) -> Result<Option<Rate>, WebError> {
    let (count, per) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match per.trim() {
        "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err(WebError::unprocessable(format!("{text}: write a rate such as 10/s, 30/m or 5/h"))),
    };
    match count.trim().parse::<f64>() {
        Ok(0.0) => Ok(None),
        // In the unit that was asked for: 7/m is 7/m for whoever looks, too.
        Ok(count) if count > 0.0 && count < 1e9 => Ok(Some(Rate { per: Duration::from_secs(seconds), ..Rate::per_second(count) })),
        _ => Err(WebError::unprocessable(format!("{text}: write a rate such as 10/s, 30/m or 5/h"))),
    }
}

/// Reads the most or the fewest slots; nothing: as before.
fn bound(asked: &Asked, name: &str) -> Result<Option<i64>, WebError> {
    let text = asked.form.get(name).map(str::trim).filter(|text| !text.is_empty());
    let read = |text: &str| text.parse::<i64>().ok().filter(|bound| (1..=10_000).contains(bound));
    text.map(|text| read(text).ok_or_else(|| WebError::unprocessable(format!("{name} is a whole number from 1 to 10000")))).transpose()
}

/// Reads a limit of time in seconds; nothing: no limit.
fn limit(asked: &Asked, name: &str) -> Result<Option<Duration>, WebError> {
    let text = asked.form.get(name).map(str::trim).filter(|text| !text.is_empty());
    let read = |text: &str| {
        text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    };
    let wrong = || WebError::unprocessable(format!("{name} is a number of seconds above 0; without one there is no limit"));
    text.map(|text| read(text).filter(|limit| *limit <= LONGEST_LIMIT).ok_or_else(wrong)).transpose()
}

/// Returns what is asked for of a task's limits of time.
fn time_limit(asked: &Asked) -> Result<WorkerAction, WebError> {
    let (task, soft, hard) = (asked.text("task")?, limit(asked, "soft")?, limit(asked, "hard")?);
    if soft.zip(hard).is_some_and(|(soft, hard)| soft > hard) {
        return Err(WebError::unprocessable("soft is longer than hard: the task would be ended before it is told to end"));
    }
    Ok(WorkerAction::SetTimeLimit { task, soft, hard })
}

/// Returns what is asked for of the bounds of autoscale.
fn autoscale(asked: &Asked) -> Result<WorkerAction, WebError> {
    let (max, min) = (bound(asked, "max")?, bound(asked, "min")?);
    match (max, min) {
        (None, None) => Err(WebError::unprocessable("max and min are both empty: name one of them")),
        (Some(max), Some(min)) if max < min => Err(WebError::unprocessable("max is less than min")),
        (max, min) => Ok(WorkerAction::Autoscale { max, min }),
    }
}

/// Returns what a form asks for.
fn wanted(asked: &Asked) -> Result<WorkerAction, WebError> {
    let slots = || {
        let text = asked.text("slots")?;
        let slots = text.parse::<i64>().ok().filter(|slots| (1..=MOST_SLOTS).contains(slots));
        slots.ok_or_else(|| WebError::unprocessable(format!("{text}: slots are a whole number from 1 to {MOST_SLOTS}")))
    };
    match asked.what() {
        "shutdown" => Ok(WorkerAction::Shutdown),
        "grow" => Ok(WorkerAction::Grow(slots()?)),
        "shrink" => Ok(WorkerAction::Grow(-slots()?)),
        "serve" => Ok(WorkerAction::Serve { queue: asked.text("queue")? }),
        "leave" => Ok(WorkerAction::Leave { queue: asked.text("queue")? }),
        "time_limit" => time_limit(asked),
        "autoscale" => autoscale(asked),
        "rate" => Ok(WorkerAction::SetRate { task: asked.text("task")?, rate: rate(&asked.text("rate")?)? }),
        _ => Err(asked.unknown()),
    }
}

async fn tell(deployment: &Deployment, asked: &Asked) -> Result<String, WebError> {
    let (node, action) = (asked.text("node")?, wanted(asked)?);
    let mut whom = WorkersRequest::default();
    whom.nodes = vec![node.clone()];
    match workers::act(&deployment.client, &action, &whom).await? {
        WorkerDone::Told(nodes) => Ok(format!("{} was told to stop: what runs may end", nodes.join(", "))),
        WorkerDone::Replied(replies) => match (replies.first(), replies.iter().find_map(|reply| reply.error())) {
            (None, _) => Err(WebError::not_found(format_args!("worker {node} that answers"))),
            (Some(_), Some(error)) => Err(WebError::unprocessable(error)),
            (Some(reply), None) => {
                let ok = reply.reply.get("ok").and_then(|ok| ok.as_str()).unwrap_or("done").to_owned();
                Ok(format!("{node}: {ok}"))
            }
        },
        _ => Ok("done".to_owned()),
    }
}

async fn do_it(deployment: Arc<Deployment>, asked: Asked, mut noted: Action) -> (Action, Result<String, WebError>) {
    let words = ["node", "slots", "queue", "task", "rate"].into_iter().filter_map(|name| asked.form.get(name)).map(str::to_owned);
    let named = ["soft", "hard", "max", "min"].into_iter().filter_map(|name| Some(format!("{name}={}", asked.form.get(name)?)));
    noted.to = words.chain(named).collect::<Vec<_>>().join(" ");
    let done = tell(&deployment, &asked).await;
    (noted, done)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use longshore_core::watch::ViewKind;

    use super::*;
    use crate::guard::{Caller, FormFields};

    #[test]
    fn what_a_worker_has_used_is_shown_as_far_as_it_says_so() {
        assert_eq!(Used::of(None, None), None);
        let stats = Value::parse(br#"{"uptime": 100, "rusage": {"utime": 4.0, "stime": 1.0, "maxrss": 2048}}"#, 5).unwrap();
        let used = Used::of(Some(&stats), None).unwrap();
        assert_eq!((used.memory, used.peak, used.cpu_seconds, used.cpu_percent), (None, Some(2_097_152.0), Some(5.0), Some(5.0)));
        assert_eq!(used.stalls, None);
        let mut view = View::new(ViewKind::Worker, "w@h");
        view.gauge("process_resident_memory_bytes", &[], 1024.0);
        let used = Used::of(None, Some(&view)).unwrap();
        assert_eq!((used.memory, used.stalls, used.stalled_at), (Some(1024.0), Some(0), None));
    }

    #[test]
    fn slots_are_refused_where_another_number_would_be_given() {
        let caller = Caller { name: "ann".into(), from: Ipv4Addr::LOCALHOST.into() };
        let asked = |what: &str, slots: &str| {
            let form = [("what", what), ("slots", slots)].map(|(name, value)| (name.to_owned(), value.to_owned()));
            wanted(&Asked { caller: caller.clone(), form: FormFields::new(form.into()), door: "page" })
        };
        assert!(matches!(asked("grow", "10000"), Ok(WorkerAction::Grow(10_000))));
        assert!(matches!(asked("shrink", "1"), Ok(WorkerAction::Grow(-1))));
        for (what, slots) in [("grow", "-3"), ("grow", "0"), ("grow", "20000"), ("shrink", "-3"), ("grow", "two"), ("shrink", "1.5")] {
            let refused = asked(what, slots).err().map(|error| (error.status.as_u16(), error.message));
            assert_eq!(refused, Some((422, format!("{slots}: slots are a whole number from 1 to 10000"))), "{what}");
        }
    }

    #[test]
    fn rates_are_read_in_celerys_words() {
        let per_second = |text: &str| super::rate(text).map(|rate| rate.map(|rate| (rate.count / rate.per.as_secs_f64() * 3600.0).round()));
        assert_eq!(per_second("10/s"), Ok(Some(36_000.0)));
        assert_eq!(per_second("30/m"), Ok(Some(1_800.0)));
        assert_eq!(per_second("5/h"), Ok(Some(5.0)));
        assert_eq!(per_second("2"), Ok(Some(7_200.0)));
        let minutes = super::rate("7/m").unwrap().unwrap();
        assert_eq!((minutes.count, minutes.per.as_secs()), (7.0, 60));
        assert_eq!(per_second("0"), Ok(None));
        for wrong in ["x", "-1/s", "1/y", "", "NaN", "1e99"] {
            assert!(super::rate(wrong).is_err(), "{wrong}");
        }
    }

    fn asked(fields: &[(&str, &str)]) -> Asked {
        Asked::of(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn time_limits_are_read_or_refused_in_words() {
        let read = |soft: &str, hard: &str| time_limit(&asked(&[("task", "t"), ("soft", soft), ("hard", hard)]));
        let set = |soft: Option<u64>, hard: Option<u64>| WorkerAction::SetTimeLimit {
            task: "t".to_owned(),
            soft: soft.map(Duration::from_millis),
            hard: hard.map(Duration::from_millis),
        };
        assert_eq!(read(" 1.5", "2").unwrap(), set(Some(1_500), Some(2_000)));
        assert_eq!((read("", "60").unwrap(), read("", "").unwrap()), (set(None, Some(60_000)), set(None, None)));
        for (soft, hard, why) in [
            ("0", "", "soft is a number"),
            ("", "soon", "hard is a number"),
            ("", "NaN", "above 0"),
            ("1e300", "", "soft"),
            ("3", "2", "longer than hard"),
        ] {
            assert!(read(soft, hard).unwrap_err().message.contains(why), "{soft} {hard}");
        }
        assert!(time_limit(&asked(&[("soft", "1")])).is_err(), "of which task?");
    }

    #[test]
    fn bounds_of_autoscale_are_read_or_refused_in_words() {
        let read = |max: &str, min: &str| autoscale(&asked(&[("max", max), ("min", min)]));
        assert_eq!(read("8", " 2 ").unwrap(), WorkerAction::Autoscale { max: Some(8), min: Some(2) });
        assert_eq!(read("", "2").unwrap(), WorkerAction::Autoscale { max: None, min: Some(2) });
        for (max, min, why) in
            [("", "", "both empty"), ("1", "2", "less than min"), ("0", "", "from 1"), ("", "-1", "from 1"), ("x", "", "whole number")]
        {
            assert!(read(max, min).unwrap_err().message.contains(why), "{max} {min}");
        }
    }
}
