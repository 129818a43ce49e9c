//! The first argument of errbacks.

use serde::{Deserialize, Serialize};

use crate::value::{Map, Value, ValueError};

/// The failed task that an errback is told of: its request, or its id alone, which is all that
/// Celery's workers send. Tasks take it as an argument.
/// ```
/// use longshore_celery::{FailedRequest, Map, Value};
///
/// let request = Map::from_iter([("id", Value::from("1f")), ("task", "shop.pay".into()), ("retries", 2.into())]);
/// let failed = FailedRequest::try_from(Value::from(request))?;
/// assert_eq!((&*failed.id, failed.task.as_deref(), failed.retries), ("1f", Some("shop.pay"), 2));
/// assert_eq!(FailedRequest::try_from(Value::from("1f"))?.id, "1f");
/// # Ok::<(), longshore_celery::ValueError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
#[non_exhaustive]
pub struct FailedRequest {
    /// The task's id.
    pub id: String,
    /// The task's name.
    pub task: Option<String>,
    /// Its positional arguments.
    pub args: Vec<Value>,
    /// Its keyword arguments.
    pub kwargs: Map,
    /// Number of its retries.
    pub retries: u32,
    /// The first task of its tree.
    pub root_id: Option<String>,
    /// The task that sent it.
    pub parent_id: Option<String>,
    /// Everything that was said of it, by the names that Celery's tasks know.
    pub request: Map,
}

impl TryFrom<Value> for FailedRequest {
    type Error = ValueError;

    fn try_from(value: Value) -> Result<Self, ValueError> {
        let request = match value {
            Value::Text(id) => return Ok(Self { request: Map::from_iter([("id", id.as_str())]), id, ..Self::default() }),
            Value::Map(request) => request,
            other => return Err(ValueError::expected("a request (an object), or a task's id", &other)),
        };
        let text = |name: &str| request.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = request.get("retries").and_then(Value::as_i64).and_then(|retries| u32::try_from(retries).ok());
        Ok(Self {
            id: text("id").ok_or_else(|| ValueError::new("a request without an id"))?,
            task: text("task"),
            args: request.get("args").and_then(Value::as_list).map(<[Value]>::to_vec).unwrap_or_default(),
            kwargs: request.get("kwargs").and_then(Value::as_map).cloned().unwrap_or_default(),
            retries: number.unwrap_or_default(),
            root_id: text("root_id"),
            parent_id: text("parent_id"),
            request,
        })
    }
}

impl From<FailedRequest> for Value {
    fn from(failed: FailedRequest) -> Self {
        Value::Map(failed.request)
    }
}
