//! The first page of a deployment: how much runs and waits, and what needs attention.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use longshore_ops::overview::Overview;
use minijinja::{Value, context, value::Serde};
use serde::Serialize;

use super::{dead::signature, past};
use crate::{
    api::{Operation, Routes},
    deployment::{Deployment, Glance},
    error::WebError,
    frame::{Frame, Page, PageRequest, in_query, page},
    heard::now_ms,
    history::{ChartSpan, FailedTasks, LostTasks, TroubledTasks},
    pages::facts,
    search::term_of,
    templates::filters,
};

/// Returns the page, and its facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = facts(frame, deployment, async |deployment, _| Ok(Overview::clone(&*deployment.look().await?)));
    let described = Operation::get("/api/v1/overview", "All workers and queues, at one moment").answers("Overview").refuses(&[503]);
    Routes::new().route("/", page(frame, deployment, show)).api(described, all)
}

async fn show(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let Glance { overview, begins } = deployment.glance().await?;
    let sum = |of: &dyn Fn(&longshore_ops::queues::QueueInfo) -> u64| overview.queues.iter().map(of).sum::<u64>();
    // Of queues that only Celery's workers serve nobody knows it: the sum is a lower bound then.
    let rate = |of: &dyn Fn(&longshore_ops::queues::QueueInfo) -> Option<f64>| {
        let known: Vec<f64> = overview.queues.iter().filter_map(of).collect();
        let sign = if known.len() < overview.queues.len() && !known.is_empty() { "≥ " } else { "" };
        let sum = if known.is_empty() { "–".to_owned() } else { filters::rate(known.iter().sum()) };
        format!("{sign}{sum}")
    };
    let span = past::span(&request);
    let points = match &deployment.feed.history {
        // What is wrong with the file stands above.
        Some(history) => history.points(span).await.ok(),
        None => None,
    };
    let p99_took = match &deployment.feed.history {
        Some(history) => history.took(span, 0.99).await.ok().flatten(),
        None => None,
    };
    let troubled = match &deployment.feed.history {
        Some(history) => history.troubled(FAILED_IN).await.unwrap_or_default(),
        None => TroubledTasks::default(),
    };
    let charts = points.map(|points| {
        let charts = past::charts(&points, span);
        let svg = |svg: String| Value::from_safe_string(svg);
        context! {
            running => svg(charts.running), waiting => svg(charts.waiting), workers => svg(charts.workers), incoming => svg(charts.incoming),
            outgoing => svg(charts.outgoing), failed => svg(charts.failed), took => svg(charts.took), throughput => svg(charts.throughput),
            failed_percent => charts.failed_percent, mean_took => charts.mean_took, p99_took, is_day => span == ChartSpan::Day,
        }
    });
    let running: u64 = overview.workers.iter().filter_map(|worker| worker.running).sum();
    let context = context! {
        overview => Serde(&*overview), running,
        waiting => sum(&|queue| queue.waiting),
        later => sum(&|queue| queue.eta),
        dead => sum(&|queue| queue.dead),
        incoming => rate(&|queue| queue.in_per_second),
        outgoing => rate(&|queue| queue.out_per_second),
        there => overview.workers.iter().filter(|worker| worker.silent.is_none()).count(),
        attention => Serde(attention(&overview, begins, &deployment.feed.notices(), &troubled, now_ms() as f64 / 1e3)),
        charts, begins,
    };
    Ok(Page::new("overview.html", "Overview", context))
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Attention {
    /// State that it is shown as.
    state: &'static str,
    text: String,
    /// The page to look at it.
    path: String,
}

impl Attention {
    fn new(state: &'static str, text: String, path: &str) -> Self {
        Self { state, text, path: path.to_owned() }
    }
}

/// Time over which failures are counted.
const FAILED_IN: Duration = Duration::from_secs(300);
/// Most kinds of failures that are named.
const MOST_KINDS: usize = 5;
/// Shortest part of an error that is searched for, in bytes, and most of them.
const SHORTEST: usize = 3;
const MOST_PARTS: usize = 4;
/// Longest error that is shown, in characters.
const LONGEST: usize = 120;

/// Returns what somebody should look at, as sentences with the page to look at it.
fn attention(overview: &Overview, begins: bool, notices: &[String], troubled: &TroubledTasks, now: f64) -> Vec<Attention> {
    let mut found: Vec<Attention> = notices.iter().map(|text| Attention::new("lost", text.clone(), "/events")).collect();
    found.extend(troubled.lost.iter().map(|lost| lost_by(lost, now)));
    for worker in overview.workers.iter().filter(|worker| worker.silent.is_some()) {
        if troubled.lost.iter().any(|lost| lost.worker == worker.node) {
            // It is said already, with its tasks.
            continue;
        }
        let silent = worker.silent.unwrap_or_default();
        let running = worker.running.filter(|running| *running > 0).map(|running| format!(", with {running} tasks")).unwrap_or_default();
        found.push(Attention::new(
            "lost",
            format!("worker {} has not been heard for {} s{running}", worker.node, silent.as_secs()),
            "/workers",
        ));
    }
    found.extend(failures(&troubled.failed));
    for queue in &overview.queues {
        if let Some(by) = &queue.paused_by {
            found.push(Attention::new("paused", format!("queue {} is paused by {by}", queue.name), "/queues"));
        }
        if queue.workers == Some(0) && queue.waiting > 0 {
            let text = format!("queue {} has {} waiting, and no worker serves it", queue.name, queue.waiting);
            found.push(Attention::new("waiting", text, "/queues"));
        }
        if queue.dead > 0 {
            let letters = if queue.dead == 1 { "letter" } else { "letters" };
            found.push(Attention::new("dead", format!("queue {} has {} dead {letters}", queue.name, queue.dead), "/dead"));
        }
    }
    if overview.workers.is_empty() && !begins {
        found.push(Attention::new("waiting", "no worker is there".to_owned(), "/workers"));
    }
    found
}

/// Returns the page with what a search line finds.
fn search_for(terms: &[String]) -> String {
    format!("/tasks?q={}", in_query(&terms.join(" ")))
}

/// Says that a worker was lost, and with how many tasks.
fn lost_by(lost: &LostTasks, now: f64) -> Attention {
    let ago = (now - lost.heard).max(0.0) as u64;
    let ago = match ago {
        0..60 => format!("{ago} s"),
        60..3_600 => format!("{} min", ago / 60),
        3_600..86_400 => format!("{} h", ago / 3_600),
        _ => format!("{} d", ago / 86_400),
    };
    let tasks = if lost.count == 1 { "task" } else { "tasks" };
    let path = search_for(&["state:lost".to_owned(), term_of("worker", &lost.worker)]);
    Attention::new("lost", format!("worker {} was lost {ago} ago, with {} {tasks}", lost.worker, lost.count), &path)
}

/// Failures of one kind.
#[derive(Default)]
struct FailureKind<'a> {
    count: i64,
    /// The error of one of them, and whether all have this one.
    error: &'a str,
    has_others: bool,
}

/// Returns the exception's name and the message of an error as Python writes it, where the message
/// is more than a word: `ValueError('no such shelf')`. Pure.
fn message_of(error: &str) -> Option<(&str, &str)> {
    let (name, rest) = error.split_once('(')?;
    let quote = rest.chars().next().filter(|letter| matches!(letter, '\'' | '"'))?;
    let message = &rest[1..rest.rfind(quote)?.max(1)];
    let is_name = name.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'));
    (is_name && message.contains(' ')).then_some((name, message))
}

/// Says which errors were frequent: those that differ by numbers and quoted parts only are one.
fn failures(failed: &[FailedTasks]) -> Vec<Attention> {
    let mut kinds: BTreeMap<(Option<&str>, &str, String), FailureKind<'_>> = BTreeMap::new();
    for one in failed {
        let (name, message) = message_of(&one.error).unwrap_or(("", &one.error));
        let kind = kinds.entry((one.task.as_deref(), name, signature(message))).or_default();
        kind.has_others |= kind.count > 0;
        (kind.error, kind.count) = (message, kind.count + one.count);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
    let minutes = FAILED_IN.as_secs() / 60;
    let base = || vec!["state:failure".to_owned(), format!("since:{minutes}m")];
    let rest: i64 = kinds.iter().skip(MOST_KINDS).map(|(_, kind)| kind.count).sum();
    let named = kinds.iter().take(MOST_KINDS).map(|((task, name, common), kind)| {
        let mut terms = base();
        terms.extend(task.map(|task| term_of("task", task)));
        // What is left of the error between numbers and quoted parts is what all of them have.
        let parts = [name].into_iter().copied().chain(common.split('…'));
        terms.extend(parts.filter(|part| part.trim().len() >= SHORTEST).take(MOST_PARTS).map(|part| term_of("error", part)));
        let error = match () {
            () if kind.error.is_empty() => "a failure without words".to_owned(),
            () if kind.has_others => common.clone(),
            () => longshore_ops::cut(kind.error, LONGEST),
        };
        let text = format!("{} × {error} of {} in {minutes} min", kind.count, task.unwrap_or("a task without a name"));
        Attention::new("failure", text, &search_for(&terms))
    });
    let others = (rest > 0).then(|| Attention::new("failure", format!("{rest} × other errors in {minutes} min"), &search_for(&base())));
    named.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(task: Option<&str>, error: &str, count: i64) -> FailedTasks {
        FailedTasks { task: task.map(str::to_owned), error: error.to_owned(), count }
    }

    #[test]
    fn failures_of_one_kind_are_one_line_that_leads_to_a_search_for_them() {
        let said = failures(&[
            failed(Some("shop.price"), "status 503 of host 7", 20),
            failed(Some("shop.price"), "status 503 of host 8", 11),
            failed(None, "KeyError('a')", 30),
            failed(None, "KeyError('b')", 10),
            failed(None, "HTTPError('status 503', 7)", 9),
            failed(Some("t"), "OSError(\"no host 'a b' there\")", 3),
            failed(Some("t"), "OSError(\"no host 'c' there\")", 3),
        ]);
        let lines: Vec<&str> = said.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(
            lines,
            [
                "40 × KeyError('…') of a task without a name in 5 min",
                "31 × status … of host … of shop.price in 5 min",
                "9 × status 503 of a task without a name in 5 min",
                "6 × no host '…' there of t in 5 min",
            ]
        );
        let terms = ["state:failure", "since:5m", "task:shop.price", "error:\"status \"", "error:\" of host \""];
        assert_eq!(said[1].path, search_for(&terms.map(str::to_owned)));
        for one in &said {
            let line = crate::frame::read_query(one.path.split_once('?').unwrap().1).remove(0).1;
            assert!(crate::search::line(&line, true).unwrap().is_some(), "{line}");
        }
        let many: Vec<FailedTasks> = ["a", "b", "c", "d", "e", "f", "g"].into_iter().map(|error| failed(None, error, 2)).collect();
        let said = failures(&many);
        assert_eq!((said.len(), said[5].text.as_str()), (6, "4 × other errors in 5 min"));
    }

    #[test]
    fn a_lost_worker_is_named_with_its_tasks_for_as_long_as_they_are_lost() {
        let lost = |count, heard| lost_by(&LostTasks { worker: "w 1@h".to_owned(), count, heard }, 100_000.0).text;
        assert_eq!(lost(4, 99_800.0), "worker w 1@h was lost 3 min ago, with 4 tasks");
        assert_eq!(lost(1, 90_000.0), "worker w 1@h was lost 2 h ago, with 1 task");
        assert_eq!(lost(2, 100_010.0), "worker w 1@h was lost 0 s ago, with 2 tasks");
    }
}
