//! Templates of pages, and the page that says what is refused.
//!
//! `templates/filters.rs`: how they show numbers and times.

pub(crate) mod filters;

use std::sync::OnceLock;

use axum::{
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use minijinja::{AutoEscape, Environment, Value, context};

use crate::{assets, error::WebError};

/// Templates by name.
const TEMPLATES: [(&str, &str); 24] = [
    ("frame.html", include_str!("../templates/frame.html")),
    ("macros.html", include_str!("../templates/macros.html")),
    ("error.html", include_str!("../templates/error.html")),
    ("login.html", include_str!("../templates/login.html")),
    ("worker.html", include_str!("../templates/worker.html")),
    ("progress.html", include_str!("../templates/progress.html")),
    ("run.html", include_str!("../templates/run.html")),
    ("jobs.html", include_str!("../templates/jobs.html")),
    ("job.html", include_str!("../templates/job.html")),
    ("overview.html", include_str!("../templates/overview.html")),
    ("queues.html", include_str!("../templates/queues.html")),
    ("queue.html", include_str!("../templates/queue.html")),
    ("tasks.html", include_str!("../templates/tasks.html")),
    ("times.html", include_str!("../templates/times.html")),
    ("task.html", include_str!("../templates/task.html")),
    ("workers.html", include_str!("../templates/workers.html")),
    ("dead.html", include_str!("../templates/dead.html")),
    ("events.html", include_str!("../templates/events.html")),
    ("kafka.html", include_str!("../templates/kafka.html")),
    ("kafka_group.html", include_str!("../templates/kafka_group.html")),
    ("consumer.html", include_str!("../templates/consumer.html")),
    ("limits.html", include_str!("../templates/limits.html")),
    ("settings.html", include_str!("../templates/settings.html")),
    ("schedules.html", include_str!("../templates/schedules.html")),
];

/// Returns all templates, with their filters and functions. They are compiled once: whoever is
/// refused asks for them, too, and there may be many of those.
pub(crate) fn all() -> &'static Environment<'static> {
    static ALL: OnceLock<Environment<'static>> = OnceLock::new();
    ALL.get_or_init(compiled)
}

fn compiled() -> Environment<'static> {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
    for (name, text) in TEMPLATES {
        templates.add_template(name, text).unwrap_or_else(|error| unreachable!("the template {name}: {error:#}"));
    }
    filters::add(&mut templates);
    templates.add_function("version", || env!("CARGO_PKG_VERSION"));
    templates.add_function("asset", |name: String| assets::path(&name));
    templates
}

/// Draws one of them.
pub(crate) fn draw(templates: &Environment<'_>, name: &str, context: Value) -> Result<String, WebError> {
    let drawn = templates.get_template(name).and_then(|template| template.render(context));
    drawn.map_err(|error| WebError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the page {name} cannot be drawn: {error:#}")))
}

/// Answers with a page that says what is refused.
pub(crate) fn refusal(error: &WebError) -> Response {
    let context = context! { title => error.status.canonical_reason(), status => error.status.as_u16(), message => error.message.clone() };
    let html = draw(all(), "error.html", context).unwrap_or_else(|_| longshore_charts::escape(&error.message));
    error.with_headers((error.status, Html(html)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_compiled_once_however_many_are_refused() {
        assert!(std::ptr::eq(all(), all()));
        assert_eq!(refusal(&WebError::not_found("page here")).status(), StatusCode::NOT_FOUND);
        assert_eq!(all().templates().count(), TEMPLATES.len());
    }

    #[test]
    fn the_tab_of_lost_tasks_counts_those_that_it_lists() {
        let fields: std::collections::BTreeMap<&str, &str> =
            ["q", "state", "task", "queue", "worker", "error", "since", "took", "id"].map(|name| (name, "")).into();
        let past = context! { tasks => (), matched => 0, by_state => [("failure", 7), ("lost", 2), ("unheard", 3)] };
        let tabs = [("Failed", "failure", false), ("Lost", "lost", false), ("Held", "held", false)];
        let own = context! { past, fields, tabs, has_history => true, asks_broker => false, sort => "", again => "", states => (), known => (), columns => () };
        let frame =
            context! { title => "", site => "", caller => "", theme => (), form_token => "", back => "", nav => (), path => "/tasks" };
        let said = context! { said => (), notices => (), read_only => true, hide_args => false, trouble => () };
        let html = draw(all(), "tasks.html", context! { ..own, ..frame, ..said }).unwrap();
        let label = |tab: &str| html.split_once(&format!("{tab} <span class=\"faint\">")).and_then(|(_, rest)| rest.split('<').next());
        assert_eq!((label("Failed"), label("Lost"), label("Held")), (Some("7"), Some("5"), None), "{html}");
    }
}
