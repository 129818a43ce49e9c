//! What is looked for among remembered tasks, and the conditions in SQL that it becomes.

use rusqlite::ToSql;

use super::state::PastState;

/// Words that have to be there, and how they hang together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Matching {
    All(Vec<Self>),
    Any(Vec<Self>),
    /// A text in one member, or (without one) in any that Flower looks into.
    Word(Option<MatchField>, String),
    /// A text in the id, the name, the error or the worker.
    Anywhere(String),
    /// The state is this one, in Celery's word.
    State(String),
    /// The state is one of these.
    Stands(Vec<PastState>),
    /// There is such a keyword argument.
    Kwarg(String, String),
    /// A name is this one; `*` stands for any text.
    Named(NamedColumn, String),
    /// The id begins so.
    Id(String),
    /// It ran for this time at least, or at most.
    Ran {
        is_longest: bool,
        seconds: f64,
    },
    /// Its last event is not older than these milliseconds.
    Since(i64),
}

/// Member in which a text is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatchField {
    Name,
    Worker,
    Error,
    Args,
    Kwargs,
    Result,
}

/// Column that holds a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedColumn {
    Task,
    Queue,
    Worker,
}

impl NamedColumn {
    fn sql(self) -> &'static str {
        match self {
            Self::Task => "tasks.name",
            Self::Queue => "tasks.queue",
            Self::Worker => "tasks.worker",
        }
    }
}

/// Conditions in SQL, all of which have to be true, with their values.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) sql: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
    /// One of them is about what lists need not read.
    reads_texts: bool,
}

impl Conditions {
    /// Keeps a value. Returns its name in SQL.
    pub(super) fn value(&mut self, value: impl ToSql + 'static) -> String {
        self.values.push(Box::new(value));
        format!("?{}", self.values.len())
    }

    /// Adds that something is true of a value.
    pub(super) fn add(&mut self, condition: &str, value: impl ToSql + 'static) {
        let value = self.value(value);
        self.sql.push(format!("{condition} {value}"));
    }

    /// Returns that one of these has a text in it, in any case of letters.
    fn has(&mut self, columns: &[&str], text: &str) -> String {
        let text = self.value(format!("%{}%", escaped(text)));
        self.reads_texts |= columns.iter().any(|column| column.starts_with("texts."));
        let each: Vec<String> = columns.iter().map(|column| format!("{column} LIKE {text} ESCAPE '\\'")).collect();
        format!("({})", each.join(" OR "))
    }

    /// Returns that a column is this, or fits to it where there is a `*` in it. A worker may be
    /// named without its host.
    pub(super) fn named(&mut self, column: NamedColumn, pattern: &str) -> String {
        let of = column.sql();
        if pattern.contains('*') {
            let pattern = self.value(globbed(pattern));
            return format!("{of} GLOB {pattern}");
        }
        let name = self.value(pattern.to_owned());
        if column == NamedColumn::Worker && !pattern.contains('@') {
            let anywhere = self.value(format!("{}@*", globbed(pattern)));
            return format!("({of} = {name} OR {of} GLOB {anywhere})");
        }
        format!("{of} = {name}")
    }

    /// Returns that an id begins so.
    pub(super) fn id(&mut self, id: &str) -> String {
        // All texts that begin so lie between it and it with the last character behind it.
        let (first, last) = (self.value(id.to_owned()), self.value(format!("{id}\u{10ffff}")));
        format!("(tasks.id >= {first} AND tasks.id <= {last})")
    }

    /// Returns that a search is true at this time. What is hidden is not looked into.
    pub(super) fn matching(&mut self, matching: &Matching, hide_args: bool, now: i64) -> String {
        let state = word_sql();
        let mut joined = |each: &[Matching], with: &str| {
            let each: Vec<String> = each.iter().map(|one| self.matching(one, hide_args, now)).collect();
            format!("({})", each.join(with))
        };
        match matching {
            Matching::All(each) => joined(each, " AND "),
            Matching::Any(each) => joined(each, " OR "),
            Matching::Word(Some(MatchField::Name), text) => self.has(&["tasks.name"], text),
            Matching::Word(Some(MatchField::Worker), text) => self.has(&["tasks.worker"], text),
            Matching::Word(Some(MatchField::Error), text) => self.has(&["tasks.error"], text),
            Matching::Word(Some(_), _) | Matching::Kwarg(..) if hide_args => "0".to_owned(),
            Matching::Word(Some(MatchField::Args), text) => self.has(&["texts.args"], text),
            Matching::Word(Some(MatchField::Kwargs), text) => self.has(&["texts.kwargs"], text),
            Matching::Word(Some(MatchField::Result), text) => self.has(&["texts.result"], text),
            Matching::Word(None, text) => {
                let all = ["tasks.id", "tasks.name", state.as_str(), "tasks.worker", "texts.args", "texts.kwargs", "texts.result"];
                self.has(if hide_args { &all[..4] } else { &all }, text)
            }
            Matching::Anywhere(text) => self.has(&["tasks.name", "tasks.error", "tasks.id", "tasks.worker"], text),
            Matching::State(text) => {
                let text = self.value(text.clone());
                format!("{state} = {text} COLLATE NOCASE")
            }
            Matching::Stands(states) => stands(states),
            Matching::Kwarg(name, value) => {
                let forms = ["'", ""].into_iter().flat_map(|quote| [',', '}'].map(|end| format!("'{name}': {quote}{value}{quote}{end}")));
                let forms: Vec<String> = forms.map(|form| self.has(&["texts.kwargs"], &form)).collect();
                format!("({})", forms.join(" OR "))
            }
            Matching::Named(column, pattern) => self.named(*column, pattern),
            Matching::Id(id) => self.id(id),
            Matching::Ran { is_longest, seconds } => {
                let seconds = self.value(*seconds);
                format!("tasks.took {} {seconds}", if *is_longest { "<=" } else { ">=" })
            }
            Matching::Since(milliseconds) => {
                let first = self.value(now.saturating_sub(*milliseconds));
                format!("tasks.heard >= {first}")
            }
        }
    }

    /// Returns the tables that are looked through.
    pub(super) fn from(&self) -> &'static str {
        if self.reads_texts { FROM_BOTH } else { "FROM tasks" }
    }

    /// Returns all of them as SQL.
    pub(super) fn sql(&self) -> String {
        if self.sql.is_empty() { String::new() } else { format!("WHERE {}", self.sql.join(" AND ")) }
    }

    /// Returns their values.
    pub(super) fn values(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(|value| &**value).collect()
    }
}

/// Both tables of tasks.
pub(super) const FROM_BOTH: &str = "FROM tasks LEFT JOIN texts ON texts.n = tasks.n";

/// Returns that a task stands in one of these ways.
pub(super) fn stands(states: &[PastState]) -> String {
    let numbers: Vec<String> = states.iter().map(|state| state.number().to_string()).collect();
    format!("tasks.state IN ({})", numbers.join(", "))
}

/// Takes the meaning from characters that mean something in a pattern.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|character| matches!(character, '%' | '_' | '\\').then_some('\\').into_iter().chain([character])).collect()
}

/// Takes the meaning from all characters of a pattern of names but `*`.
fn globbed(pattern: &str) -> String {
    pattern.replace('[', "[[]").replace('?', "[?]")
}

/// Returns the state in Celery's word. Lost tasks are in none of Celery's states: it does not
/// notice.
pub(super) fn word(state: PastState) -> &'static str {
    match state {
        PastState::Waiting => "PENDING",
        PastState::Held => "RECEIVED",
        PastState::Started => "STARTED",
        PastState::Retry => "RETRY",
        PastState::Success => "SUCCESS",
        PastState::Failure => "FAILURE",
        PastState::Revoked => "REVOKED",
        PastState::Rejected => "REJECTED",
        PastState::Lost | PastState::Unheard => "LOST",
    }
}

/// Returns the word of a state as SQL.
pub(super) fn word_sql() -> String {
    let cases: Vec<String> = PastState::ALL.into_iter().map(|state| format!("WHEN {} THEN '{}'", state.number(), word(state))).collect();
    format!("CASE tasks.state {} END", cases.join(" "))
}
