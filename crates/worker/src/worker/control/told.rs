//! Tasks and settings in Celery's words.

use std::time::Duration;

use longshore_brokers::mask;
use longshore_celery::{Map, Value, control};
use longshore_core::Rate;

use crate::{
    app::App,
    route::Route,
    task::{Acks, Task},
};

/// Returns the settings that are this worker's own.
pub(super) fn settings(app: &App, slots: usize) -> Map {
    let settings = app.settings();
    let mut conf = Map::default();
    conf.set("broker_url", mask(&settings.broker));
    conf.set("result_backend", mask(settings.results_url()));
    conf.set("include", Value::List(Vec::new()));
    conf.set("task_default_queue", settings.default_queue.as_str());
    conf.set("task_routes", routes(&settings.routes));
    conf.set("result_expires", settings.result_expires.map(|after| after.as_secs_f64()));
    conf.set("result_extended", settings.result_extended);
    conf.set("task_send_sent_event", settings.task_send_sent_event);
    conf.set("task_acks_late", !app.is_early());
    conf.set("accept_content", if settings.accept_msgpack { vec!["json", "msgpack"] } else { vec!["json"] });
    conf.set("task_serializer", "json");
    conf.set("result_serializer", "json");
    conf.set("timezone", "UTC");
    conf.set("enable_utc", true);
    conf.set("worker_concurrency", slots as i64);
    conf
}

/// Returns the routes as Celery's setting has them; null where there are none.
fn routes(routes: &[(String, Route)]) -> Value {
    let route = |route: &Route| {
        let mut to = Map::default();
        for (name, text) in [
            ("queue", &route.queue),
            ("exchange", &route.exchange),
            ("exchange_type", &route.exchange_type),
            ("routing_key", &route.routing_key),
        ] {
            text.iter().for_each(|text| to.set(name, text.as_str()));
        }
        if let Some(priority) = route.priority {
            to.set("priority", u32::from(priority));
        }
        Value::Map(to)
    };
    match routes {
        [] => Value::Null,
        routes => Value::Map(routes.iter().map(|(pattern, to)| (pattern.as_str(), route(to))).collect()),
    }
}

/// Returns what is told of a task: its name, and those of these attributes that it has. As in
/// Python each is told once.
pub(super) fn registered(task: &Task, acks: Acks, rate: Option<Rate>, items: &[String]) -> Value {
    let mut told: Vec<(&str, String)> = Vec::new();
    for item in items {
        if let Some(value) = attribute(task, acks, rate, item)
            && told.iter().all(|(name, _)| name != item)
        {
            told.push((item, value));
        }
    }
    control::registered(&task.name, &told)
}

/// Returns an attribute of a task as Python shows it; none where Celery's is None, or where nothing
/// here is like it.
fn attribute(task: &Task, acks: Acks, rate: Option<Rate>, name: &str) -> Option<String> {
    let policy = &task.policy;
    let is = |truth: bool| Some(if truth { "True" } else { "False" }.to_owned());
    let seconds = |time: Duration| match time.subsec_nanos() {
        0 => time.as_secs().to_string(),
        _ => time.as_secs_f64().to_string(),
    };
    match name {
        "name" => Some(task.name.to_string()),
        "rate_limit" => rate.map(said),
        "max_retries" => policy.max_retries.map(|most| most.to_string()),
        "default_retry_delay" => Some(seconds(policy.retry_delay)),
        "time_limit" => policy.time_limit.map(seconds),
        "soft_time_limit" => policy.soft_time_limit.map(seconds),
        "acks_late" => is(acks == Acks::Late),
        "acks_on_failure" | "acks_on_failure_or_timeout" | "acks_on_timeout" => is(policy.acks_on_failure),
        "ignore_result" => is(policy.ignore_result),
        "track_started" => is(policy.track_started),
        "store_errors_even_if_ignored" | "store_eager_result" => is(false),
        "send_events" | "trail" | "typing" => is(true),
        "queue" => policy.queue.as_deref().map(str::to_owned),
        "priority" => policy.priority.map(|priority| priority.to_string()),
        "serializer" => Some("json".to_owned()),
        "lane" => Some(task.lane.to_string()),
        _ => None,
    }
}

/// Returns a rate as Celery says it: in the unit that it was set in, or else in the first in which
/// it is at least one.
pub(super) fn said(rate: Rate) -> String {
    match rate.per.as_secs() {
        60 => format!("{}/m", rate.count),
        3600 => format!("{}/h", rate.count),
        _ => {
            let per_second = rate.count / rate.per.as_secs_f64();
            let units = [(1.0, "s"), (60.0, "m")];
            let (seconds, word) = units.into_iter().find(|(seconds, _)| per_second * seconds >= 1.0).unwrap_or((3600.0, "h"));
            format!("{}/{word}", (per_second * seconds * 1000.0).round() / 1000.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_was_set_from_afar_is_told_as_a_person_wrote_it() {
        let of = |count: f64, seconds| said(Rate { count, per: Duration::from_secs(seconds), burst: 1 });
        assert_eq!([of(7.0, 60), of(7.0 / 60.0, 1), of(4.0, 1), of(5.0 / 3600.0, 1), of(1.5, 3600)], ["7/m", "7/m", "4/s", "5/h", "1.5/h"]);
    }

    /// Each row as a Celery worker of 5.7 tells it of a task with these options.
    #[test]
    fn a_task_is_told_with_the_attributes_that_were_asked_for() {
        let task = Task::plain("x.add", |_, _| Ok(Value::Null));
        for (items, told) in [
            ("name", "x.add [name=x.add]"),
            ("name max_retries", "x.add [name=x.add max_retries=3]"),
            ("max_retries name name", "x.add [max_retries=3 name=x.add]"),
            ("nosuch", "x.add"),
            ("time_limit rate_limit", "x.add"),
            ("acks_late acks_on_failure ignore_result", "x.add [acks_late=False acks_on_failure=True ignore_result=False]"),
            ("default_retry_delay serializer track_started", "x.add [default_retry_delay=180 serializer=json track_started=False]"),
            ("trail typing send_events", "x.add [trail=True typing=True send_events=True]"),
        ] {
            let items: Vec<String> = items.split(' ').map(str::to_owned).collect();
            assert_eq!(registered(&task, Acks::Early, None, &items), told.into());
        }
    }
}
