//! The pages: what each shows, and what can be done on it.
//!
//! `worker.rs`, `run.rs`: the page of one worker, of one run; `jobs.rs`: jobs from their
//! journals; `consumer.rs`, `kafka.rs`: a consumer of Kafka, and groups; `copies.rs`: a task as a
//! line to copy. All others stand on
//! `crate::deployment`, a broker with its workers: each asks `longshore-ops`, and has the same
//! facts as JSON under `/api/v1`.

#[cfg(feature = "kafka")]
pub(crate) mod consumer;
mod copies;
pub(crate) mod dead;
pub(crate) mod events;
pub(crate) mod jobs;
pub(crate) mod kafka;
pub(crate) mod limits;
pub(crate) mod overview;
pub(crate) mod past;
pub(crate) mod queues;
pub(crate) mod run;
pub(crate) mod schedules;
pub(crate) mod settings;
pub(crate) mod tasks;
pub(crate) mod times;
pub(crate) mod worker;
pub(crate) mod workers;

use std::{future::Future, sync::Arc};

use axum::{
    Extension, Json,
    extract::{OriginalUri, RawPathParams, RawQuery},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::{self, Done, Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, PageRequest, Said},
    guard::{Caller, FormFields},
};

/// A form that somebody has sent.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) caller: Caller,
    pub(crate) form: FormFields,
    /// Way by which it came: a page, or the API.
    door: &'static str,
}

impl Asked {
    /// Makes one of these fields, as if a page had sent it.
    #[cfg(test)]
    pub(crate) fn of(fields: Vec<(String, String)>) -> Self {
        let caller = Caller { name: "somebody".into(), from: std::net::Ipv4Addr::LOCALHOST.into() };
        Self { caller, form: FormFields::new(fields), door: "page" }
    }

    /// Returns the word for what is to be done.
    pub(crate) fn what(&self) -> &str {
        self.form.get("what").unwrap_or_default()
    }

    /// Returns a field that has to be there, without blanks around it.
    pub(crate) fn text(&self, name: &str) -> Result<String, WebError> {
        let text = self.form.get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        text.ok_or_else(|| WebError::unprocessable(format!("the field {name} is empty")))
    }

    /// Returns who is named as the one who did it, where others see it.
    pub(crate) fn by(&self) -> String {
        format!("{} ({})", self.caller.name, self.door)
    }

    /// Refuses an action that is not known.
    pub(crate) fn unknown(&self) -> WebError {
        WebError::not_found(format_args!("action {} here", self.what()))
    }
}

/// Returns the route of an action: it is done, noted, and told on the page that it was taken from.
pub(crate) fn action<A, F, T>(frame: &Arc<Frame>, deployment: &Arc<Deployment>, act: A) -> MethodRouter
where
    A: Fn(Arc<Deployment>, Asked, Action) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (Action, Result<T, WebError>)> + Send + 'static,
    T: Into<Done>,
{
    let (frame, deployment) = (frame.clone(), deployment.clone());
    post(move |Extension(caller): Extension<Caller>, Extension(form): Extension<FormFields>| {
        let (frame, deployment, act) = (frame.clone(), deployment.clone(), act.clone());
        let actions = frame.actions.clone();
        let done = async move {
            let asked = Asked { caller: caller.clone(), form: form.clone(), door: "page" };
            let noted = Action::new(asked.what(), "");
            let (mut noted, done) = act(deployment.clone(), asked, noted).await;
            deployment.changed();
            frame.answer(&caller, &form, &mut noted, done.map_or_else(Said::refused, |done| Said::done(done.into().said)))
        };
        async move { actions.run(done).await }
    })
}

/// Returns the routes of the same actions for programs.
pub(crate) fn orders<A, F, T>(
    frame: &Arc<Frame>,
    deployment: &Arc<Deployment>,
    operations: impl IntoIterator<Item = Operation>,
    act: A,
) -> Routes
where
    A: Fn(Arc<Deployment>, Asked, Action) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (Action, Result<T, WebError>)> + Send + 'static,
    T: Into<Done> + Send,
{
    let deployment = deployment.clone();
    let operations = operations.into_iter().map(Operation::asks);
    api::orders(frame, operations, move |caller, form| {
        let (deployment, act) = (deployment.clone(), act.clone());
        async move {
            let asked = Asked { caller, form, door: "API" };
            let noted = Action::new(asked.what(), "");
            let answered = act(deployment.clone(), asked, noted).await;
            deployment.changed();
            answered
        }
    })
}

/// Returns the route of facts as JSON.
pub(crate) fn facts<A, F, T>(frame: &Arc<Frame>, deployment: &Arc<Deployment>, ask: A) -> MethodRouter
where
    A: Fn(Arc<Deployment>, Arc<PageRequest>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<T, WebError>> + Send + 'static,
    T: Serialize,
{
    let (deployment, hide) = (deployment.clone(), frame.guard.options.hide_args);
    get(move |OriginalUri(uri): OriginalUri, params: RawPathParams, RawQuery(query): RawQuery, Extension(caller): Extension<Caller>| {
        let asked = ask(deployment.clone(), Arc::new(PageRequest::new(&uri, &params, query.as_deref(), caller)));
        async move {
            let facts = asked.await.and_then(|facts| Ok(serde_json::to_value(facts)?));
            json(facts.map(|mut facts| {
                if hide {
                    without_args(&mut facts);
                }
                facts
            }))
        }
    })
}

/// Members that hold arguments or results of tasks.
const OF_TASKS: [&str; 9] = ["args", "kwargs", "argsrepr", "kwargsrepr", "result", "message", "traceback", "options", "stored"];

/// Takes arguments and results of tasks out of facts.
pub(crate) fn without_args(facts: &mut Value) {
    match facts {
        Value::Object(members) => {
            for (name, member) in members {
                if OF_TASKS.contains(&name.as_str()) {
                    *member = Value::Null;
                } else {
                    without_args(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_args),
        _ => {}
    }
}

/// Answers with facts as JSON, or with why there are none.
pub(crate) fn json<T: Serialize>(facts: Result<T, WebError>) -> Response {
    match facts {
        Ok(facts) => Json(facts).into_response(),
        Err(error) => error.json(),
    }
}
