//! A message, as far as it is shown.

use std::time::SystemTime;

use longshore_brokers::Doing;
use longshore_celery::{BadMessage, Limits, Message, REPR_LENGTH, TaskResult, Value, args_repr, kwargs_repr};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::wire;

/// Most characters of a task's arguments or result that are shown, so that a list stays a list.
pub(crate) const SHOWN: usize = 128;

/// A message as it lies in a broker, as far as it is shown: never the whole of its arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MessageBrief {
    /// The task's id; empty where the message cannot be read.
    pub id: String,
    /// The task's name; empty where the message cannot be read.
    pub task: String,
    /// Its arguments as Python shows them, at most 128 characters.
    pub args: String,
    /// Number of its retries so far.
    pub retries: u32,
    /// The time before which it is not started.
    #[serde(serialize_with = "wire::some_moment")]
    pub eta: Option<SystemTime>,
    /// Reason that it cannot be read, if it cannot.
    pub unreadable: Option<String>,
}

impl MessageBrief {
    /// Reads a message as far as it can be read.
    pub fn read(raw: &[u8]) -> Self {
        match Message::decode(raw, &Limits::default()) {
            Ok(message) => Self {
                args: args_of(&message),
                id: message.id,
                task: message.task,
                retries: message.retries,
                eta: message.eta,
                unreadable: None,
            },
            Err(BadMessage { reason, task, id, .. }) => {
                Self { id: id.unwrap_or_default(), task: task.unwrap_or_default(), unreadable: Some(reason), ..Self::default() }
            }
        }
    }
}

/// Arguments of a message, for somebody who wants to change them and send another: as they are,
/// with whole numbers of any length.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CallArguments {
    /// The positional ones: a list.
    pub args: Value,
    /// The named ones: a map.
    pub kwargs: Value,
}

impl CallArguments {
    /// Reads them from a message as a broker or a store has it; `None` where it cannot be read.
    pub fn read(raw: &[u8]) -> Option<Self> {
        let message = Message::decode(raw, &Limits::default()).ok()?;
        Some(Self { args: Value::List(message.args), kwargs: message.kwargs.into() })
    }

    /// Takes them from a result that keeps them (`result_extended`); `None` where it does not.
    pub(crate) fn of_result(result: &TaskResult) -> Option<Self> {
        let extended = result.extended.as_ref()?;
        let args = Value::List(extended.args.as_list()?.to_vec());
        Some(Self { args, kwargs: extended.kwargs.as_map().cloned().unwrap_or_default().into() })
    }
}

/// Returns a task's arguments, as far as they are shown.
fn args_of(message: &Message) -> String {
    let args = message.argsrepr.clone().unwrap_or_else(|| args_repr(&message.args, REPR_LENGTH));
    let kwargs = message.kwargsrepr.clone().unwrap_or_else(|| kwargs_repr(&message.kwargs, REPR_LENGTH));
    let both = match (args.as_str(), kwargs.as_str()) {
        (_, "{}" | "") => args,
        ("()" | "[]" | "", _) => kwargs,
        _ => format!("{args} {kwargs}"),
    };
    cut(&both, SHOWN)
}

/// Returns the beginning of a text, with `…` where more followed.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Serialises what a message does in a broker: `{"waiting": {"place": 1, "of": 5, "since": …}}`.
pub(crate) struct DoingOf<'a>(pub(crate) &'a Doing);

impl Serialize for DoingOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self.0 {
            Doing::Waiting { place, of, since } => {
                map.serialize_entry("waiting", &serde_json::json!({ "place": place, "of": of, "since": since.map(wire::time_text) }))?;
            }
            Doing::Later { due } => map.serialize_entry("later", &serde_json::json!({ "due": wire::time_text(*due) }))?,
            Doing::Held { by, since } => {
                map.serialize_entry("held", &serde_json::json!({ "by": by, "since": since.map(wire::time_text) }))?;
            }
            Doing::Dead { reason } => map.serialize_entry("dead", &serde_json::json!({ "reason": reason }))?,
        }
        map.end()
    }
}
