//! The page of one consumer of Kafka: how it goes, and what of it can be changed.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use longshore_core::{Rate, watch::Command};
use longshore_run::units;
use minijinja::{Value, context, value::Serde};

use crate::{
    api::{Field, Operation, Routes, orders},
    audit::Action,
    error::WebError,
    frame::{Frame, Page, PageRequest, Said, page},
    guard::{Caller, FormFields},
    kafka::consumer::{ConsumerReader, Order},
};

/// Most threads, and most records in flight.
const MOST: usize = 10_000_000;

/// State of the page.
struct ConsumerPage {
    frame: Arc<Frame>,
    reader: Arc<ConsumerReader>,
}

/// Returns the page, its actions, and the same as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, reader: Arc<ConsumerReader>) -> Routes {
    let state = Arc::new(ConsumerPage { frame: frame.clone(), reader });
    let one = Operation::get("/api/v1/kafka/consumer", "The consumer as it goes").answers("KafkaConsumer").refuses(&[503]);
    let steers = |path, summary| Operation::act(path, summary).refuses(&[503]);
    let acts = [
        steers("/api/v1/kafka/consumer/pause", "Lets nothing more start; what is in work goes on"),
        steers("/api/v1/kafka/consumer/resume", "Goes on"),
        steers("/api/v1/kafka/consumer/drain", "Reads no more, lets what is in work end, commits, and leaves the group"),
        steers("/api/v1/kafka/consumer/cancel", "The same, and ends what is in work: it comes again"),
        steers("/api/v1/kafka/consumer/set", "Changes how much is in work")
            .field(Field::whole("max_threads", "most records in work"))
            .field(Field::whole("max_in_flight", "most records in work or waiting for it"))
            .field(Field::text("rate", "pace of the starts: 100/s, 500/min, 10/h, none")),
    ];
    let asked = state.clone();
    let orders = orders(frame, acts, move |_, form| {
        let state = asked.clone();
        async move { state.act(&form).await }
    });
    Routes::new()
        .route("/", page(frame, &state, show))
        .route("/act", post(act).with_state(state.clone()))
        .api(one, get(facts).with_state(state))
        .merge(orders)
}

impl ConsumerPage {
    /// Does what a form asks for.
    async fn act(&self, form: &FormFields) -> (Action, Result<String, WebError>) {
        let what = form.get("what").unwrap_or_default();
        let told = steering(what, form);
        let set = ["max_threads", "max_in_flight", "rate"].into_iter().filter_map(|name| Some(format!("{name} {}", form.get(name)?)));
        let noted = Action::new(what, set.collect::<Vec<_>>().join(", "));
        let done = told.and_then(|(orders, said)| self.reader.steer(&orders).map(|()| said));
        (noted, done)
    }
}

async fn show(state: Arc<ConsumerPage>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let (facts, charts) = state.reader.look().await?;
    let facts = if state.frame.guard.options.hide_args { facts.without_keys() } else { facts };
    let charts: Vec<Value> = charts.iter().map(|chart| Value::from_safe_string(chart.clone())).collect();
    let title = facts.group.clone();
    Ok(Page::new(
        "consumer.html",
        title,
        context! { failed => facts.failed(), done_well => facts.done_well(), view => Serde(&facts), charts },
    ))
}

async fn facts(State(state): State<Arc<ConsumerPage>>) -> Response {
    match state.reader.look().await {
        Ok((facts, _)) if state.frame.guard.options.hide_args => Json(facts.without_keys()).into_response(),
        Ok((facts, _)) => Json(facts).into_response(),
        Err(error) => error.json(),
    }
}

async fn act(
    State(state): State<Arc<ConsumerPage>>,
    Extension(caller): Extension<Caller>,
    Extension(form): Extension<FormFields>,
) -> Response {
    let actions = state.frame.actions.clone();
    let done = async move {
        let (mut noted, done) = state.act(&form).await;
        state.frame.answer(&caller, &form, &mut noted, done.map_or_else(Said::refused, Said::done))
    };
    actions.run(done).await
}

/// Returns what the consumer is told, and what is said of it.
fn steering(what: &str, form: &FormFields) -> Result<(Vec<Order>, String), WebError> {
    let one = |order, said: &str| Ok((vec![order], said.to_owned()));
    match what {
        "pause" => one(Order::Engine(Command::Pause), "paused: nothing more starts; what is in work goes on"),
        "resume" => one(Order::Engine(Command::Resume), "it goes on"),
        "drain" => one(Order::Stop, "it stops: nothing more is read, what is in work may end; then it commits and leaves the group"),
        "cancel" => one(Order::StopNow, "it stops now: what is in work is told to end, and comes again"),
        "set" => set(form),
        _ => Err(WebError::not_found(format_args!("action {what} here"))),
    }
}

fn set(form: &FormFields) -> Result<(Vec<Order>, String), WebError> {
    let (mut orders, mut said) = (Vec::new(), Vec::new());
    let number = |name: &str| {
        let text = form.get(name).map(str::trim).filter(|text| !text.is_empty());
        let wrong = || WebError::unprocessable(format!("{name} is a number from 1 to {MOST}"));
        text.map(|text| text.parse().ok().filter(|most| (1..=MOST).contains(most)).ok_or_else(wrong)).transpose()
    };
    if let Some(most) = number("max_threads")? {
        orders.push(Order::Threads(most));
        said.push(format!("at most {most} in work at once"));
    }
    if let Some(most) = number("max_in_flight")? {
        orders.push(Order::InFlight(most));
        said.push(format!("at most {most} in flight"));
    }
    match form.get("rate").map(str::trim).filter(|rate| !rate.is_empty()) {
        None => {}
        Some("none") => {
            orders.push(Order::Engine(Command::Rate { rate: None }));
            said.push("no pace is kept".to_owned());
        }
        Some(text) => {
            let rate: Rate = units::rate(text).map_err(WebError::unprocessable)?.with_burst(1);
            orders.push(Order::Engine(Command::Rate { rate: Some(rate) }));
            said.push(format!("the pace is {text}"));
        }
    }
    if orders.is_empty() {
        return Err(WebError::unprocessable("say what is to change: max_threads, max_in_flight, or rate (100/s, 500/min, 10/h, none)"));
    }
    Ok((orders, said.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_consumer_is_told_is_what_was_asked_for_or_is_refused_with_a_sentence() {
        let pace = |rate| Order::Engine(Command::Rate { rate });
        for (what, fields, want) in [
            ("pause", &[][..], Ok((vec![Order::Engine(Command::Pause)], "paused: nothing more starts; what is in work goes on"))),
            ("set", &[("max_threads", " 8 ")], Ok((vec![Order::Threads(8)], "at most 8 in work at once"))),
            (
                "set",
                &[("max_in_flight", "30"), ("rate", "none"), ("max_threads", "")],
                Ok((vec![Order::InFlight(30), pace(None)], "at most 30 in flight; no pace is kept")),
            ),
            ("set", &[("rate", "90/min")], Ok((vec![pace(Some(units::rate("90/min").unwrap().with_burst(1)))], "the pace is 90/min"))),
            ("set", &[], Err("say what is to change")),
            ("set", &[("max_threads", "0")], Err("max_threads is a number from 1 to 10000000")),
            ("set", &[("max_in_flight", "many")], Err("max_in_flight is a number")),
            ("set", &[("rate", "fast")], Err("`fast`")),
            ("explode", &[], Err("there is no action explode here")),
        ] {
            let form = FormFields::new(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
            match (steering(what, &form), want) {
                (Ok((orders, said)), Ok((expected, sentence))) => {
                    assert_eq!((orders, said.as_str()), (expected, sentence), "{what} {fields:?}")
                }
                (Err(error), Err(sentence)) => assert!(error.message.starts_with(sentence), "{error}"),
                (got, want) => panic!("{what} {fields:?}: {got:?}, not {want:?}"),
            }
        }
    }
}
