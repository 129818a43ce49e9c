//! What is remembered of tasks: lists for the page of tasks, steps for the page of one, charts for
//! the overview, and all of it as JSON.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use longshore_charts::{OverTime, Series, Spark, Tone};
use serde::Serialize;

use super::facts;
use crate::{
    api::{Operation, Routes},
    deployment::Deployment,
    error::WebError,
    frame::{Frame, PageRequest, read_query},
    history::{ChartSpan, History, PastPage, PastQuery, PastSort, Timeline, TrafficPoint},
    search::{self, duration, states_of},
};

/// Most tasks of one page, and of one answer to a program.
const MOST: usize = 100;
const MOST_ASKED: usize = 1_000;

/// Tasks that are read at once for an export.
const AT_ONCE: usize = 500;
/// Place of all that match.
const EXPORT: &str = "/api/v1/history/export";

/// Fields of a search among remembered tasks.
pub(super) const FIELDS: [&str; 9] = ["q", "state", "task", "queue", "worker", "error", "since", "took", "id"];

/// Returns what is remembered as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let filtered = |operation: Operation| {
        operation
            .query("q", "a search line: words, and state:failure task:shop.* error:\"bad address\" runtime:>2s …")
            .query("state", "tasks that stand so: started, failure, lost, …")
            .query("task", "tasks of this name; shop.* is all that begin so")
            .query("queue", "tasks of this queue")
            .query("worker", "tasks that this worker had")
            .query("error", "tasks with this text in their error")
            .query("since", "tasks with news not older than this: 30s, 15m, 2h, 1d")
            .query("took", "tasks that ran no shorter than this: 2s, 5m")
            .query("id", "tasks of these ids, with blanks between them")
    };
    let list = filtered(Operation::get("/api/v1/history", "Tasks that are remembered, the latest first"))
        .query("sort", "their order: took, heard, starts, …; -took is the longest first")
        .query("before", "tasks before this place, which the last answer named")
        .query("most", "how many are answered with, at most 1000 (100)")
        .answers("Past");
    let lines = filtered(Operation::get(EXPORT, "All remembered tasks that match, the latest first, as JSON Lines"))
        .of_type("application/x-ndjson")
        .answers("PastLines");
    let steps = Operation::get("/api/v1/tasks/{task}/timeline", "What is remembered of a task, step by step").answers("Timeline");
    let counts = Operation::get("/api/v1/traffic", "What came and ended, over time")
        .query("span", "day, or else the last ten minutes")
        .answers("Traffic");
    let hide = frame.guard.options.hide_args;
    let timeline = move |deployment, request| timeline(deployment, request, hide);
    Routes::new()
        .api(list.refuses(&[404, 422, 503]), facts(frame, deployment, found))
        .api(lines.refuses(&[404, 422, 503]), get(export).with_state(deployment.clone()))
        .api(steps.refuses(&[404, 503]), facts(frame, deployment, timeline))
        .api(counts.refuses(&[404, 503]), facts(frame, deployment, traffic))
}

/// Returns the history; an error says that none is kept.
pub(super) fn history(deployment: &Deployment) -> Result<&Arc<History>, WebError> {
    let none = || WebError::new(StatusCode::NOT_FOUND, "no history is kept here: the dashboard was started without one");
    deployment.feed.history.as_ref().ok_or_else(none)
}

async fn found(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<PastPage, WebError> {
    let most = request.query("most").and_then(|most| most.parse().ok()).unwrap_or(MOST).min(MOST_ASKED);
    find(&deployment, |name| request.query(name).map(str::to_owned), most).await
}

/// Answers with all that match, page by page, as fast as they are taken: at no time there is more
/// than a page of it here. What is first heard of meanwhile is not part of it.
async fn export(State(deployment): State<Arc<Deployment>>, uri: Uri) -> Response {
    let fields = read_query(uri.query().unwrap_or_default());
    let field = |name: &str| fields.iter().find(|(field, value)| field == name && !value.is_empty()).map(|(_, value)| value.clone());
    let begun = async {
        let history = history(&deployment)?.clone();
        let query = PastQuery { leaves_counts: true, sort: None, ..query(field, AT_ONCE, deployment.feed.hides_args())? };
        // What is refused is refused in words, before the first line.
        let first = history.find(query.clone()).await?;
        Ok((history, query, first))
    };
    let (history, query, first) = match begun.await {
        Ok(begun) => begun,
        Err(error) => return WebError::json(&error),
    };
    let pages = stream::try_unfold(Some((None, Some(first))), move |turn| {
        let (history, query) = (history.clone(), query.clone());
        async move {
            let page = match turn {
                None => return Ok(None),
                Some((_, Some(page))) => page,
                Some((before, None)) => history.find(PastQuery { before, ..query }).await?,
            };
            let next = page.next.map(|before| (Some(before), None));
            Ok::<_, WebError>(Some((lines(&page)?, next)))
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CONTENT_DISPOSITION, "attachment; filename=\"tasks.jsonl\"")];
    (headers, Body::from_stream(pages)).into_response()
}

/// Writes a task on each line.
fn lines(page: &PastPage) -> Result<Bytes, WebError> {
    let mut lines = Vec::new();
    for task in &page.tasks {
        serde_json::to_writer(&mut lines, task)?;
        lines.push(b'\n');
    }
    Ok(lines.into())
}

async fn timeline(deployment: Arc<Deployment>, request: Arc<PageRequest>, hide: bool) -> Result<Timeline, WebError> {
    let id = request.param("task");
    let found = history(&deployment)?.timeline(id).await?;
    let found = found.ok_or_else(|| WebError::not_found(format_args!("task {id} in the history")))?;
    Ok(if hide { found.without_args() } else { found })
}

/// Counts over time, as programs get them.
#[derive(Serialize)]
struct TrafficFacts {
    /// Seconds of one point.
    point_seconds: i64,
    /// The oldest first; nothing where nothing is known.
    points: Vec<Option<TrafficPoint>>,
}

async fn traffic(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<TrafficFacts, WebError> {
    let span = span(&request);
    Ok(TrafficFacts { point_seconds: span.seconds(), points: history(&deployment)?.points(span).await? })
}

/// Looks for remembered tasks.
///
/// # Errors
/// The search, or the history, cannot be read.
pub(super) async fn find(deployment: &Deployment, get: impl Fn(&str) -> Option<String>, most: usize) -> Result<PastPage, WebError> {
    let query = query(get, most, deployment.feed.hides_args())?;
    history(deployment)?.find(query).await
}

/// Reads what is looked for.
fn query(get: impl Fn(&str) -> Option<String>, most: usize, hide_args: bool) -> Result<PastQuery, WebError> {
    let wrong = |name: &str, text: &str| WebError::unprocessable(format!("{name} {text}: write a time such as 30s, 15m, 2h or 1d"));
    let unknown = |word: &str| WebError::unprocessable(format!("{word} is no state of a remembered task"));
    let states = get("state").map(|word| states_of(&word).ok_or_else(|| unknown(&word))).transpose()?.unwrap_or_default();
    let line = get("q").map(|line| search::line(&line, hide_args).map_err(WebError::unprocessable)).transpose()?;
    let seconds = |name: &str| get(name).map(|text| duration(&text).ok_or_else(|| wrong(name, &text))).transpose();
    let before =
        get("before").map(|text| text.parse().map_err(|_| WebError::unprocessable(format!("before {text}: no place in the history"))));
    let sort = get("sort").map(|word| {
        let known = || PastSort::words().collect::<Vec<_>>().join(", ");
        PastSort::of(&word)
            .ok_or_else(|| WebError::unprocessable(format!("sort {word}: write one of {}, or -took for the longest first", known())))
    });
    Ok(PastQuery {
        states,
        matching: line.flatten(),
        ids: get("id").map(|ids| ids.split_whitespace().take(MOST_ASKED).map(str::to_owned).collect()).unwrap_or_default(),
        task: get("task"),
        queue: get("queue"),
        worker: get("worker"),
        error: get("error"),
        since: seconds("since")?.map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
        took: seconds("took")?.map(|took| took.as_secs_f64()),
        sort: sort.transpose()?,
        before: before.transpose()?,
        most,
        leaves_counts: false,
    })
}

/// Returns the span that a page asks for.
pub(super) fn span(request: &PageRequest) -> ChartSpan {
    if request.query("span") == Some("day") { ChartSpan::Day } else { ChartSpan::TenMinutes }
}

/// Charts of the overview, as SVG.
#[derive(Default)]
pub(super) struct Charts {
    pub(super) running: String,
    pub(super) waiting: String,
    pub(super) incoming: String,
    pub(super) outgoing: String,
    pub(super) failed: String,
    pub(super) took: String,
    pub(super) workers: String,
    pub(super) throughput: String,
    /// Part of the ended tasks that failed, and their mean running time, over all of it.
    pub(super) failed_percent: Option<f64>,
    pub(super) mean_took: Option<f64>,
}

/// Draws what is known.
pub(super) fn charts(points: &[Option<TrafficPoint>], span: ChartSpan) -> Charts {
    let seconds = span.seconds() as f64;
    let words = match span {
        ChartSpan::TenMinutes => "the last ten minutes",
        ChartSpan::Day => "the last day",
    };
    let spark = |what: &str, tone: Tone, of: &dyn Fn(&TrafficPoint) -> Option<f64>| {
        let values = points.iter().map(|point| point.as_ref().and_then(of)).collect();
        Spark { title: format!("{what}, {words}"), tone, values }.svg()
    };
    let each = |of: &dyn Fn(&TrafficPoint) -> i64| -> Vec<f64> {
        points.iter().map(|point| point.as_ref().map_or(0.0, |point| of(point) as f64 / seconds)).collect()
    };
    let sum = |of: &dyn Fn(&TrafficPoint) -> f64| points.iter().flatten().map(of).sum::<f64>();
    let (ok, failed) = (sum(&|point| point.ok as f64), sum(&|point| point.failed as f64));
    let ended = |point: &TrafficPoint| (point.ok + point.failed + point.other) as f64;
    let series = |name: &str, tone, values| Series { name: name.to_owned(), tone, values };
    let throughput = OverTime {
        title: "Tasks that ended".to_owned(),
        axis: "tasks per second".to_owned(),
        series: vec![
            series("ok", Tone::Good, each(&|point| point.ok)),
            series("other", Tone::Plain, each(&|point| point.retried + point.other)),
            series("failed", Tone::Bad, each(&|point| point.failed)),
        ],
        bucket: seconds,
        span: seconds * points.len() as f64,
        ends_now: true,
        limit: None,
    };
    // Gauges are written when they change, or now and then: between two of them the last one holds.
    let held = |of: fn(&TrafficPoint) -> Option<i64>, most: usize| -> Vec<Option<f64>> {
        let mut last: Option<(usize, f64)> = None;
        let hold = |(place, point): (usize, &Option<TrafficPoint>)| {
            last = point.as_ref().and_then(of).map(|value| (place, value as f64)).or(last);
            last.filter(|(seen, _)| place - seen <= most).map(|(_, value)| value)
        };
        points.iter().enumerate().map(hold).collect()
    };
    let minutes = |minutes: f64| (minutes * 60.0 / seconds).ceil() as usize;
    let gauge = |what: &str, values| Spark { title: format!("{what}, {words}"), tone: Tone::Plain, values }.svg();
    Charts {
        running: gauge("running", held(|point| point.running, minutes(0.2))),
        waiting: gauge("waiting", held(|point| point.waiting, minutes(2.0))),
        workers: gauge("workers", held(|point| point.workers, minutes(0.2))),
        incoming: spark("received a second", Tone::Plain, &|point| Some(point.received as f64 / seconds)),
        outgoing: spark("ended a second", Tone::Good, &|point| Some(ended(point) / seconds)),
        failed: spark("failed a second", Tone::Bad, &|point| Some(point.failed as f64 / seconds)),
        took: spark("mean running time in seconds", Tone::Plain, &|point| (point.ok > 0).then(|| point.took / point.ok as f64)),
        throughput: throughput.svg(),
        failed_percent: (ok + failed > 0.0).then(|| 100.0 * failed / (ok + failed)),
        mean_took: (ok > 0.0).then(|| sum(&|point| point.took) / ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::PastState;

    fn of(pairs: &[(&str, &str)]) -> Result<PastQuery, WebError> {
        query(|name| pairs.iter().find(|(field, _)| *field == name).map(|(_, value)| (*value).to_owned()), 7, true)
    }

    #[test]
    fn a_search_is_read_or_refused_in_words() {
        let read = of(&[("state", "lost"), ("took", "2s"), ("since", "1h"), ("id", "a  b"), ("before", "12")]).unwrap();
        assert_eq!((read.states, read.took, read.since), (vec![PastState::Lost, PastState::Unheard], Some(2.0), Some(3_600)));
        assert_eq!((read.ids, read.before, read.most), (vec!["a".to_owned(), "b".to_owned()], Some(12), 7));
        for (name, value) in [("state", "broken"), ("since", "2"), ("took", "fast"), ("before", "x"), ("sort", "colour")] {
            assert!(of(&[(name, value)]).unwrap_err().message.contains(value), "{name}={value}");
        }
        assert!(of(&[("q", "a word")]).unwrap().matching.is_some());
        for (line, said) in [("colour:red", "no field"), ("args:4111", "--hide-args")] {
            assert!(of(&[("q", line)]).unwrap_err().message.contains(said), "{line}");
        }
    }

    #[test]
    fn charts_show_what_is_known_and_gauges_hold_for_a_while() {
        let point = TrafficPoint { ok: 3, failed: 1, took: 6.0, running: Some(2), ..TrafficPoint::default() };
        let mut points = vec![None; 120];
        (points[10], points[60]) = (Some(point), Some(TrafficPoint { running: None, ..point }));
        let charts = charts(&points, ChartSpan::TenMinutes);
        assert_eq!((charts.failed_percent, charts.mean_took), (Some(25.0), Some(2.0)));
        // One of five seconds, and 15 seconds after it.
        assert!(charts.running.contains("M10 24") && charts.running.contains("L14 24Z") && charts.running.matches("<path").count() == 1);
        assert_eq!(charts.outgoing.matches("<path").count(), 2);
        assert!(charts.waiting.contains("nothing is known") && charts.throughput.contains(">ago</text>"));
    }
}
