//! What is done to tasks from a page: sent again, called off, asked to end, sent with changed
//! arguments; and how that is said.

use longshore_celery::Value;
use longshore_ops::tasks::{self, CancelRefusal, CancelRequest, RetryDone, RetryRefusal, TaskInfo};
use longshore_worker::Signature;

use crate::{deployment::Deployment, error::WebError, pages::Asked};

/// Deepest nesting of arguments that somebody has edited.
const DEEPEST: usize = 128;

fn why_not(refusal: &RetryRefusal) -> &'static str {
    match refusal {
        RetryRefusal::InBroker(_) => "is in the broker already",
        RetryRefusal::NoEnd => "has not ended: it may still run",
        RetryRefusal::Succeeded => "has succeeded",
        RetryRefusal::NoArguments => {
            "cannot be sent again: neither its message nor its arguments are kept. Celery keeps arguments with `result_extended = True`, \
             longshore's workers with --result-extended"
        }
        RetryRefusal::TooLate => "was put back by somebody else",
        _ => "was not sent",
    }
}

/// Number of tasks to which an action was done, also where it ended early; and what is said of it.
pub(super) type Came = (Option<u64>, Result<String, WebError>);

/// Tasks that were sent again, and why others were not.
#[derive(Default)]
struct Retried {
    sent: u64,
    refused: Vec<String>,
}

impl Retried {
    /// Says what came of it, with `left` tasks that were not tried after an error.
    fn came(mut self, error: Option<WebError>, left: usize) -> Came {
        let sent = self.sent;
        if let Some(mut error) = error {
            if sent == 0 {
                return (None, Err(error));
            }
            // What was done is done: who is told of the error alone does it twice.
            error.message = format!("{sent} were sent again, then one failed, and {left} were not tried: {}", error.message);
            return (Some(sent), Err(error));
        }
        let Some(first) = self.refused.first() else { return (Some(sent), Ok(format!("{sent} sent again"))) };
        if sent == 0 {
            return (None, Err(WebError::unprocessable(self.refused.swap_remove(0))));
        }
        (Some(sent), Ok(format!("{sent} sent again; {} were not: the first {first}", self.refused.len())))
    }
}

pub(super) async fn retry(deployment: &Deployment, found: &[TaskInfo]) -> Came {
    let mut retried = Retried::default();
    for (place, task) in found.iter().enumerate() {
        match tasks::retry(&deployment.client, task).await {
            Ok(RetryDone::Sent { .. }) => retried.sent += 1,
            Ok(RetryDone::Refused(why)) => retried.refused.push(format!("{} {}", task.id, why_not(&why))),
            Ok(_) => {}
            Err(error) => return retried.came(Some(error.into()), found.len() - place - 1),
        }
    }
    retried.came(None, 0)
}

pub(super) async fn cancel(deployment: &Deployment, found: Vec<TaskInfo>, signal: Option<&str>) -> Result<(u64, String), WebError> {
    let many = found.len();
    let mut request = CancelRequest::of(found, &[]);
    if let Some(signal) = signal {
        request = request.terminate(signal);
    }
    let done = tasks::cancel(&deployment.client, &request).await.map_err(|error| {
        let mut error = WebError::from(error);
        if many > 1 {
            error.message = format!("some of {many} may be called off, and doing it again does no harm: {}", error.message);
        }
        error
    })?;
    let count = done.called_off.len() as u64;
    if count == 0 && !done.refused.is_empty() {
        return Err(WebError::unprocessable("nothing was called off: what was named has ended already"));
    }
    let rest = if done.refused.is_empty() { String::new() } else { format!("; {} had ended already", done.refused.len()) };
    Ok((count, format!("{count} called off{rest}")))
}

pub(super) async fn abort(deployment: &Deployment, found: &[TaskInfo]) -> Result<(u64, String), WebError> {
    let done = tasks::abort(&deployment.client, found).await?;
    match (done.asked.len() as u64, done.refused.first()) {
        (0, Some(refused)) if refused.why == CancelRefusal::Waits => {
            Err(WebError::unprocessable("it does not run yet: nothing was asked to end; cancel it"))
        }
        (0, Some(_)) => Err(WebError::unprocessable("nothing was asked to end: it has ended already")),
        (count, _) => Ok((count, format!("{count} asked to end: a task that is no AbortableTask, or does not look, goes on"))),
    }
}

/// Sends a task with arguments that somebody has edited. Returns its new id.
pub(super) async fn send_edited(deployment: &Deployment, asked: &Asked) -> Result<String, WebError> {
    // Celery's numbers have no end: read as anything else, long ones would be others.
    let json = |name: &str| -> Result<Value, WebError> {
        Value::parse(asked.text(name)?.as_bytes(), DEEPEST).map_err(|error| WebError::unprocessable(format!("{name} is no JSON: {error}")))
    };
    let mut signature: Signature = Signature::named(&asked.text("task")?);
    let args = json("args")?;
    for arg in args.as_list().ok_or_else(|| WebError::unprocessable("args is a JSON list: [1, 2]"))? {
        signature = signature.arg(arg);
    }
    let kwargs = json("kwargs")?;
    for (name, value) in kwargs.as_map().ok_or_else(|| WebError::unprocessable("kwargs is a JSON object: {\"size\": 3}"))?.iter() {
        signature = signature.kwarg(name, value);
    }
    if let Ok(queue) = asked.text("queue") {
        signature = signature.queue(&queue);
    }
    let answer = deployment.client.send(signature).await.map_err(longshore_ops::OpsError::from)?;
    Ok(answer.id().to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn what_was_sent_again_before_an_error_is_said_and_counted() {
        let away = || Some(WebError::new(StatusCode::SERVICE_UNAVAILABLE, "the broker is away"));
        let (count, said) = Retried { sent: 4_000, refused: Vec::new() }.came(away(), 999);
        let said = said.unwrap_err();
        assert_eq!((count, said.status), (Some(4_000), StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(said.message, "4000 were sent again, then one failed, and 999 were not tried: the broker is away");
        let (count, said) = Retried::default().came(away(), 4_999);
        assert_eq!((count, said.unwrap_err().message.as_str()), (None, "the broker is away"));
        let refused = || vec!["a has succeeded".to_owned(), "b has succeeded".to_owned()];
        assert_eq!(
            Retried { sent: 1, refused: refused() }.came(None, 0),
            (Some(1), Ok("1 sent again; 2 were not: the first a has succeeded".to_owned()))
        );
        assert_eq!(Retried { sent: 0, refused: refused() }.came(None, 0), (None, Err(WebError::unprocessable("a has succeeded"))));
        assert_eq!(Retried::default().came(None, 0), (Some(0), Ok("0 sent again".to_owned())));
    }
}
