//! `http`: a request for each attempt. What a 2xx answer carries is the result.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use longshore_celery::Value;
use longshore_core::{Outcome, TaskError};
use longshore_worker::{Call, Failure, TaskContext};
use reqwest::Method;

use super::{
    answer::{self, Told},
    record::{self, vars},
};
use longshore_run::{
    http::{Body, HttpClient, HttpPlan, HttpReply, ReplyBody, Request},
    record::Origin,
};

pub(super) struct Http {
    plan: HttpPlan,
    client: HttpClient,
    told: Told,
    origin: Arc<Origin>,
}

/// The worker's own limit is to be the first.
const SPARE: Duration = Duration::from_secs(1);

type Handler = Arc<dyn Fn(TaskContext, Call) -> BoxFuture<'static, Result<Value, Failure>> + Send + Sync>;

impl Http {
    pub(super) fn new(plan: HttpPlan, told: Told, origin: Arc<Origin>) -> Result<Self, String> {
        let client = HttpClient::new(plan.options())?;
        Ok(Self { plan, client, told, origin })
    }

    pub(super) fn handler(self) -> Handler {
        let this = Arc::new(self);
        Arc::new(move |context, call| {
            let this = this.clone();
            Box::pin(async move { this.run(&context, &call).await })
        })
    }

    async fn run(&self, context: &TaskContext, call: &Call) -> Result<Value, Failure> {
        let failed = |error: TaskError| self.told.failure(&Outcome::Failed(error), record::attempt(context));
        let request = self.request(context, call).map_err(failed)?;
        // A request needs no time to end well: it is dropped when nobody wants it any more.
        tokio::select! {
            biased;
            () = context.cancelled() => Err(answer::stopped()),
            reply = self.client.send(request) => match reply {
                Ok(reply) if reply.cut => Err(failed(answer::too_long(self.plan.options().max_body))),
                Ok(reply) => Ok(value(reply)),
                Err(error) => Err(failed(error)),
            }
        }
    }

    /// The request, with the task as its body unless something else is said, or none belongs there.
    fn request(&self, context: &TaskContext, call: &Call) -> Result<Request, TaskError> {
        let record = record::record(&self.origin, context, call);
        let mut request = self.plan.request(&record, &vars(context))?;
        // A limit of the message's or of remote control goes before the section's `timeout`; it is
        // the worker who ends the attempt then.
        request.timeout = context.time_limit().map(|limit| limit + SPARE);
        if request.body.is_none() && !matches!(request.method, Method::GET | Method::HEAD | Method::DELETE) {
            request.body = Some(Body::Json(record::json(context, call)));
        }
        Ok(request)
    }
}

fn value(reply: HttpReply) -> Value {
    match reply.body {
        ReplyBody::Json(json) => answer::value(json.as_bytes()),
        ReplyBody::Text(text) if text.is_empty() => Value::Null,
        ReplyBody::Text(text) => Value::Text(text),
        ReplyBody::Binary(bytes) => {
            let mut tagged = longshore_celery::Map::default();
            tagged.set("__type__", "base64");
            tagged.set("__value__", longshore_run::record::base64(&bytes));
            Value::Map(tagged)
        }
        ReplyBody::Saved(_) => Value::Null,
    }
}
