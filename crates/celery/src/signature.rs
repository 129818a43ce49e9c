//! A task that is yet to be sent.

use crate::value::{Map, Value, ValueError, write};

/// Kind of a signature.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Subtask {
    /// A task.
    #[default]
    Task,
    /// `kwargs.tasks`, one after the other.
    Chain,
    /// `kwargs.tasks`, side by side.
    Group,
    /// `kwargs.header` side by side, then `kwargs.body`.
    Chord,
    /// Another word (`xmap`, `xstarmap`, `chunks`): sent as the task that it names.
    Other(String),
}

/// A task that is yet to be sent: what is embedded in messages, and what canvas is made of. Unknown
/// options are kept.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct WireSignature {
    /// The task's name.
    pub task: String,
    /// Its positional arguments.
    pub args: Vec<Value>,
    /// Its keyword arguments.
    pub kwargs: Map,
    /// `task_id`, `reply_to`, `group_id`, `chord`, `link`, `countdown`, `queue`, … and whatever
    /// else stands there.
    pub options: Map,
    /// Its kind.
    pub subtask: Subtask,
    /// True where it ignores the result of what went before it.
    pub immutable: bool,
}

impl Subtask {
    /// The word for it on the wire; a task has none.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Subtask::Task => None,
            Subtask::Chain => Some("chain"),
            Subtask::Group => Some("group"),
            Subtask::Chord => Some("chord"),
            Subtask::Other(word) => Some(word),
        }
    }
}

impl From<&str> for Subtask {
    fn from(word: &str) -> Self {
        match word {
            "" => Subtask::Task,
            "chain" => Subtask::Chain,
            "group" => Subtask::Group,
            "chord" => Subtask::Chord,
            other => Subtask::Other(other.to_owned()),
        }
    }
}

impl WireSignature {
    /// Reads one that is written as an object. All but its task may be absent or null.
    ///
    /// # Errors
    /// It is no object, has no task, or a member is of the wrong type.
    pub fn from_value(value: Value) -> Result<Self, ValueError> {
        let Value::Map(members) = value else {
            return Err(ValueError::expected("a signature (an object)", &value));
        };
        let mut signature = WireSignature::default();
        for (name, value) in members.0 {
            let wrong = |expected: &str, found: &Value| Err(ValueError::expected(expected, found).in_member(&name));
            match (name.as_str(), value) {
                ("task", Value::Text(task)) => signature.task = task,
                ("task", other) => return wrong("a text", &other),
                ("args", Value::List(args)) => signature.args = args,
                ("kwargs", Value::Map(kwargs)) => signature.kwargs = kwargs,
                ("options", Value::Map(options)) => signature.options = options,
                ("subtask_type", Value::Text(word)) => signature.subtask = word.as_str().into(),
                ("immutable", Value::Bool(immutable)) => signature.immutable = immutable,
                (_, Value::Null) => {}
                ("args", other) => return wrong("a list", &other),
                ("kwargs" | "options", other) => return wrong("an object", &other),
                ("subtask_type", other) => return wrong("a text", &other),
                ("immutable", other) => return wrong("a boolean", &other),
                _ => {}
            }
        }
        if signature.task.is_empty() { Err(ValueError::new("a signature without a task")) } else { Ok(signature) }
    }

    /// As it is embedded in messages.
    pub fn to_value(&self) -> Value {
        Value::Map(Map::from_iter([
            ("task", Value::from(self.task.as_str())),
            ("args", Value::List(self.args.clone())),
            ("kwargs", Value::Map(self.kwargs.clone())),
            ("options", Value::Map(self.options.clone())),
            ("subtask_type", self.subtask.as_str().into()),
            ("immutable", self.immutable.into()),
        ]))
    }

    /// Writes what [`to_value`](WireSignature::to_value) gives.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(b"{\"task\": ");
        write::text(&self.task, into);
        into.extend_from_slice(b", \"args\": ");
        write::list(&self.args, into, Value::write);
        into.extend_from_slice(b", \"kwargs\": ");
        self.kwargs.write(into);
        into.extend_from_slice(b", \"options\": ");
        self.options.write(into);
        into.extend_from_slice(b", \"subtask_type\": ");
        match self.subtask.as_str() {
            Some(word) => write::text(word, into),
            None => into.extend_from_slice(b"null"),
        }
        into.extend_from_slice(if self.immutable { b", \"immutable\": true}" } else { b", \"immutable\": false}" });
    }
}
