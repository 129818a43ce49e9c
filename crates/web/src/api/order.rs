//! An action of a page, asked for as JSON: the same fields, the same effect, the same line in the
//! log of actions.

use std::{future::Future, sync::Arc};

use axum::{
    Extension, Json,
    body::Body,
    extract::RawPathParams,
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use serde_json::{Value, json};

use super::{Field, Operation, Routes};
use crate::{
    audit::Action,
    error::WebError,
    frame::Frame,
    guard::{self, Caller, FormFields},
};

/// Report of an action: a sentence, and the ids of tasks that came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) said: String,
    pub(crate) ids: Vec<String>,
}

impl From<String> for Done {
    fn from(said: String) -> Self {
        Self { said, ids: Vec::new() }
    }
}

/// Returns the routes of these actions; `act` does what the word says that the form has as `what`.
pub(crate) fn orders<A, F, T>(frame: &Arc<Frame>, operations: impl IntoIterator<Item = Operation>, act: A) -> Routes
where
    A: Fn(Caller, FormFields) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (Action, Result<T, WebError>)> + Send + 'static,
    T: Into<Done>,
{
    operations.into_iter().fold(Routes::new(), |routes, operation| {
        let handler = order(frame, &operation, act.clone());
        routes.api(operation, handler)
    })
}

fn order<A, F, T>(frame: &Arc<Frame>, operation: &Operation, act: A) -> MethodRouter
where
    A: Fn(Caller, FormFields) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (Action, Result<T, WebError>)> + Send + 'static,
    T: Into<Done>,
{
    let (frame, fields, what): (_, Arc<[Field]>, _) = (frame.clone(), operation.fields.clone().into(), operation.word());
    post(move |Extension(caller): Extension<Caller>, params: RawPathParams, body: Body| {
        let (frame, fields, act) = (frame.clone(), fields.clone(), act.clone());
        let named: Vec<(String, String)> = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        async move {
            let read = guard::read_whole(body).await.and_then(|body| form(&fields, &body));
            let mut form = match read {
                Ok(form) => form,
                Err(error) => return error.json(),
            };
            form.extend(named);
            form.push(("what".to_owned(), what.to_owned()));
            let actions = frame.actions.clone();
            let done = async move {
                let (mut noted, done) = act(caller.clone(), FormFields::new(form)).await;
                frame.note(&caller, &mut noted, done.as_ref().err().map(|error| error.message.clone()));
                told(&noted, done.map(Into::into))
            };
            actions.run(done).await
        }
    })
}

fn told(noted: &Action, done: Result<Done, WebError>) -> Response {
    let done = match done {
        Ok(done) => done,
        Err(error) => return error.json(),
    };
    let mut answer = json!({"done": done.said});
    if let Some(count) = noted.count {
        answer["count"] = count.into();
    }
    if !done.ids.is_empty() {
        answer["ids"] = done.ids.into();
    }
    Json(answer).into_response()
}

/// Reads a body as the form that has the same fields.
fn form(fields: &[Field], body: &[u8]) -> Result<Vec<(String, String)>, WebError> {
    let members = if body.iter().all(u8::is_ascii_whitespace) {
        serde_json::Map::default()
    } else {
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err(WebError::unprocessable(format!("expected an object with {}", names(fields)))),
            Err(error) => return Err(WebError::unprocessable(format!("this is not JSON: {error}"))),
        }
    };
    let mut form = Vec::new();
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let name: String = name.chars().take(64).collect();
            return Err(WebError::unprocessable(format!("there is no field {name:?} here; there is {}", names(fields))));
        };
        let values = field.as_form(value).ok_or_else(|| WebError::unprocessable(format!("{} is {}", field.name, field.expected())))?;
        form.extend(values.into_iter().map(|value| (field.form.to_owned(), value)));
    }
    if let Some(missing) = fields.iter().find(|field| field.is_required && !form.iter().any(|(name, _)| name == field.form)) {
        return Err(WebError::unprocessable(format!("the field {} is missing: it is {}", missing.name, missing.expected())));
    }
    Ok(form)
}

fn names(fields: &[Field]) -> String {
    if fields.is_empty() {
        return "none".to_owned();
    }
    fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::extract::Request;
    use tokio::sync::{mpsc, oneshot};
    use tower_service::Service;

    use super::*;
    use crate::{audit::Auditor, guard::Guard, options::WebOptions};

    #[tokio::test]
    async fn an_action_whose_client_goes_away_ends_and_is_noted() {
        let noted: Arc<Mutex<Vec<Action>>> = Arc::default();
        let audit = noted.clone();
        let options =
            WebOptions { audit: Some(Auditor::new(move |action| audit.lock().unwrap().push(action.clone()))), ..WebOptions::default() };
        let frame = Arc::new(Frame::new(Arc::new(Guard::new(options.clone())), "test".to_owned(), Vec::new()));
        let (began, mut begins) = mpsc::unbounded_channel();
        let act = move |_, _| {
            let (go, goes) = oneshot::channel::<()>();
            began.send(go).unwrap();
            async move {
                let _ = goes.await;
                (Action::new("pause", "q"), Ok("it is paused".to_owned()))
            }
        };
        let mut site = orders(&frame, [Operation::act("/api/v1/x/pause", "Pauses")], act).into_router(&options);
        let mut request = Request::builder().method("POST").uri("/api/v1/x/pause").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Caller { name: "ann".into(), from: [127, 0, 0, 1].into() });
        let go = tokio::select! {
            _ = site.call(request) => panic!("it cannot have ended"),
            go = begins.recv() => go.unwrap(),
        };
        go.send(()).unwrap();
        frame.actions.ended().await;
        let noted = noted.lock().unwrap().clone();
        assert!(noted.len() == 1 && noted[0].who == "ann" && noted[0].what == "pause", "{noted:?}");
    }

    #[test]
    fn a_body_is_read_as_its_form_or_refused_in_words() {
        let fields = [Field::text("to", "").required(), Field::texts("ids", "id", ""), Field::whole("slots", ""), Field::flag("all", "")];
        let read = form(&fields, br#"{"to":"q","ids":["a","b"],"slots":-3,"all":true}"#).unwrap();
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(read, [("to", "q"), ("id", "a"), ("id", "b"), ("slots", "-3"), ("all", "1")]);
        assert_eq!(form(&fields, br#"{"to":"q","all":false,"slots":null}"#).unwrap().len(), 1);
        let rows = [
            ("", "the field to is missing: it is a text"),
            ("[]", "expected an object with to, ids, slots, all"),
            ("{", "this is not JSON"),
            (r#"{"to":7}"#, "to is a text"),
            (r#"{"to":""}"#, "to is a text"),
            (r#"{"to":"q","ids":[1]}"#, "ids is a list of texts"),
            (r#"{"to":"q","slots":1.5}"#, "slots is a whole number"),
            (r#"{"to":"q","all":1}"#, "all is true or false"),
            (r#"{"to":"q","what":"purge"}"#, "no field \"what\" here"),
        ];
        for (body, expected) in rows {
            let error = form(&fields, body.as_bytes()).unwrap_err();
            assert!(error.status == 422 && error.message.contains(expected), "{body}: {error}");
        }
        assert!(form(&[], b"  ").unwrap().is_empty());
    }
}
