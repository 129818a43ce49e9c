//! One operation: what it takes, what it answers, and how it refuses.

use serde_json::{Value, json};

/// Refusals of whatever asks a broker.
const OF_A_BROKER: [u16; 2] = [502, 503];

/// An operation for programs.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(super) is_post: bool,
    path: &'static str,
    pub(super) summary: &'static str,
    pub(super) parameters: Vec<Parameter>,
    pub(super) fields: Vec<Field>,
    /// Type of the body, and the schema of it.
    pub(super) body: Option<(&'static str, &'static str)>,
    pub(super) status: u16,
    pub(super) answer: (&'static str, &'static str),
    pub(super) refusals: Vec<u16>,
}

impl Operation {
    /// Describes a question.
    pub(crate) fn get(path: &'static str, summary: &'static str) -> Self {
        let refusals = if path.contains('{') { vec![400] } else { Vec::new() };
        Self {
            is_post: false,
            path,
            summary,
            parameters: Vec::new(),
            fields: Vec::new(),
            body: None,
            status: 200,
            answer: ("application/json", "Anything"),
            refusals,
        }
    }

    /// Describes what changes something: it takes JSON, and no page of another site may send it.
    pub(crate) fn post(path: &'static str, summary: &'static str) -> Self {
        Self { is_post: true, ..Self::get(path, summary) }.refuses(&[403, 415, 422])
    }

    /// Describes an action: the last part of its path says what is done.
    pub(crate) fn act(path: &'static str, summary: &'static str) -> Self {
        Self::post(path, summary).answers("Done").reads()
    }

    /// Says that its body is read as a whole before anything is done.
    pub(crate) fn reads(self) -> Self {
        self.refuses(&[400, 408, 413])
    }

    /// Says which schema its answer has; `[Name]` is a list of those.
    pub(crate) fn answers(self, schema: &'static str) -> Self {
        Self { answer: (self.answer.0, schema), ..self }
    }

    /// Says of which type its answer is.
    pub(crate) fn of_type(self, content_type: &'static str) -> Self {
        Self { answer: (content_type, self.answer.1), ..self }
    }

    /// Says with which status it answers.
    pub(crate) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Says that it asks the broker, which may be away or refuse.
    pub(crate) fn asks(self) -> Self {
        self.refuses(&OF_A_BROKER)
    }

    /// Says how it may be refused, beside what its method brings along.
    pub(crate) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend(statuses);
        self.refusals.sort_unstable();
        self.refusals.dedup();
        self
    }

    /// Adds a field of the query.
    pub(crate) fn query(mut self, name: &'static str, about: &'static str) -> Self {
        self.parameters.push(Parameter { place: "query", name, about });
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &'static str, about: &'static str) -> Self {
        self.parameters.push(Parameter { place: "header", name, about });
        self
    }

    /// Adds a member of its body.
    pub(crate) fn field(mut self, field: Field) -> Self {
        self.fields.push(field);
        self
    }

    /// Says what its body is, where that is not an object of fields.
    pub(crate) fn takes(self, content_type: &'static str, schema: &'static str) -> Self {
        Self { body: Some((content_type, schema)), ..self }
    }

    /// Returns its path, with names in braces.
    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    /// Returns the last part of its path.
    pub(super) fn word(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Parameter of a query, or header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(super) place: &'static str,
    pub(super) name: &'static str,
    pub(super) about: &'static str,
}

/// Kind of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldKind {
    Text,
    Texts,
    Whole,
    Number,
    Flag,
}

/// Member of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(super) name: &'static str,
    /// Name that the form of the page has for it.
    pub(super) form: &'static str,
    kind: FieldKind,
    pub(super) is_required: bool,
    about: &'static str,
}

impl Field {
    fn new(kind: FieldKind, name: &'static str, about: &'static str) -> Self {
        Self { name, form: name, kind, is_required: false, about }
    }

    /// Describes a text.
    pub(crate) fn text(name: &'static str, about: &'static str) -> Self {
        Self::new(FieldKind::Text, name, about)
    }

    /// Describes a list of texts; the form has one field for each.
    pub(crate) fn texts(name: &'static str, form: &'static str, about: &'static str) -> Self {
        Self { form, ..Self::new(FieldKind::Texts, name, about) }
    }

    /// Describes a whole number.
    pub(crate) fn whole(name: &'static str, about: &'static str) -> Self {
        Self::new(FieldKind::Whole, name, about)
    }

    /// Describes a number.
    pub(crate) fn number(name: &'static str, about: &'static str) -> Self {
        Self::new(FieldKind::Number, name, about)
    }

    /// Describes what is true or false.
    pub(crate) fn flag(name: &'static str, about: &'static str) -> Self {
        Self::new(FieldKind::Flag, name, about)
    }

    /// Says that it has to be there.
    pub(crate) fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    /// Returns its schema.
    pub(super) fn schema(&self) -> Value {
        let mut schema = match self.kind {
            FieldKind::Text => json!({"type": "string", "minLength": 1}),
            FieldKind::Texts => json!({"type": "array", "items": {"type": "string"}}),
            FieldKind::Whole => json!({"type": "integer"}),
            FieldKind::Number => json!({"type": "number"}),
            FieldKind::Flag => json!({"type": "boolean"}),
        };
        schema["description"] = self.about.into();
        schema
    }

    /// Returns what is expected, for people.
    pub(super) fn expected(&self) -> &'static str {
        match self.kind {
            FieldKind::Text => "a text",
            FieldKind::Texts => "a list of texts",
            FieldKind::Whole => "a whole number",
            FieldKind::Number => "a number",
            FieldKind::Flag => "true or false",
        }
    }

    /// Returns the fields that a form would have for this value; `None` where it is of another
    /// kind.
    pub(super) fn as_form(&self, value: &Value) -> Option<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self.kind {
            FieldKind::Text => Some(vec![text(value).filter(|text| !text.is_empty())?]),
            FieldKind::Texts => value.as_array()?.iter().map(text).collect(),
            FieldKind::Whole => Some(vec![value.as_i64()?.to_string()]),
            FieldKind::Number => Some(vec![value.as_f64()?.to_string()]),
            FieldKind::Flag => Some(if value.as_bool()? { vec!["1".to_owned()] } else { Vec::new() }),
        }
    }
}
