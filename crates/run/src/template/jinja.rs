//! `{{ expr }}`: minijinja expressions over a record.
//!
//! Variables: the fields of a JSON object or the columns of a table by name, `record` (the whole),
//! `seq`, `slot`, `attempt`, and what [`Vars::extra`] brings; [`Jinja::eval`] says what types they
//! have. Only what an expression names is looked up in the record.
//!
//! A name that is not there fails the record rather than counting as empty; `x is defined` and
//! `x|default('…')` ask for it without that.

use super::{TemplateError, Vars};
use crate::record::{Record, json_text};
use longshore_core::TaskError;
use minijinja::{Environment, Error, ErrorKind, Expression, UndefinedBehavior, Value, value::Serde};
use std::{collections::BTreeMap, fmt, sync::LazyLock};

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(UndefinedBehavior::Strict));

/// As [`ENVIRONMENT`], but it goes on where a name is not there.
static LENIENT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(UndefinedBehavior::Chainable));

fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    // Marked as safe, so that a URL does not encode it once more.
    environment.add_filter("urlencode", |value: &Value| minijinja::filters::urlencode(value).map(Value::from_safe_string));
    environment
}

/// Finds filters, tests and functions that do not exist. minijinja looks them up only when it runs,
/// so the expression is run without a record; what fails otherwise says nothing.
fn probe(source: &str) -> Result<(), TemplateError> {
    let outcome = LENIENT.compile_expression(source).and_then(|expression| expression.eval(()));
    match outcome {
        Err(error) if matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction) => {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
            Err(TemplateError::new(format!("`{source}` cannot work: {detail}")))
        }
        _ => Ok(()),
    }
}

/// A compiled expression.
pub(super) struct Jinja {
    source: Box<str>,
    expression: Expression<'static, 'static>,
    names: Vec<String>,
    compared: Vec<Compared>,
}

/// A comparison that stands in the expression, of a name with a literal.
#[derive(Debug, PartialEq)]
enum Compared {
    /// `price > 10`: the field must be a number, or text would count as more than any number.
    Order { name: String },
    /// `id == "42"`: in a table the column is a number, which no text equals.
    NumberInQuotes { name: String, text: String },
}

/// Result of an expression.
pub(super) enum Out {
    Text(String),
    Json(String),
    Safe(String),
    Null,
}

impl Jinja {
    pub(super) fn compile(source: &str) -> Result<Self, TemplateError> {
        let trimmed = source.trim();
        if trimmed.is_empty() {
            return Err(TemplateError::new("`{{ }}` is empty: put an expression in, or write {{ '{{ }}' }} for the braces themselves"));
        }
        let expression = ENVIRONMENT.compile_expression_owned(trimmed.to_string()).map_err(|error| {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
            TemplateError::new(format!("`{trimmed}` is no expression: {detail}"))
        })?;
        probe(trimmed)?;
        let known = |name: &String| !ENVIRONMENT.globals().any(|(global, _)| global == name);
        let mut names: Vec<String> = expression.undeclared_variables(false).into_iter().filter(known).collect();
        names.sort();
        Ok(Self { source: trimmed.into(), expression, names, compared: compared(trimmed) })
    }

    /// The names that it takes from the record and from [`Vars`].
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Refuses `id == "42"`, where `id` is a column: a column that holds numbers never equals a
    /// text, so nothing would be found.
    pub(super) fn refuse_numbers_in_quotes(&self, written: &str, is_column: impl Fn(&str) -> bool) -> Result<(), TemplateError> {
        for compared in &self.compared {
            if let Compared::NumberInQuotes { name, text } = compared
                && is_column(name)
            {
                let message =
                    format!("a column that holds numbers is compared as a number: write {name} == {text}, or record.{name} for its text");
                return Err(TemplateError::new(format!("`{written}`: {message}")));
            }
        }
        Ok(())
    }

    /// The value, for putting it somewhere: a string is text, `none` is null, anything else JSON.
    ///
    /// A field of a JSON record is what it is. A field of a table is a number, `true` or `false` if
    /// it is written as JSON writes one, else text. `record` is a plain record's text, a JSON
    /// value, or an object of a row's fields, of which all are text.
    pub(super) fn eval(&self, record: &Record, vars: &Vars<'_>) -> Result<Out, TaskError> {
        let value = self.value(record, vars)?;
        if value.is_undefined() {
            return Err(record.invalid(format_args!("`{}` is not defined", self.source)));
        }
        if value.is_none() {
            return Ok(Out::Null);
        }
        if let Some(text) = value.as_str() {
            return Ok(if value.is_safe() { Out::Safe(text.into()) } else { Out::Text(text.into()) });
        }
        serde_json::to_string(&value)
            .map(Out::Json)
            .map_err(|error| record.invalid(format_args!("`{}` gives no JSON value: {error}", self.source)))
    }

    /// The value as a truth: `true` or `false`; `none` is false.
    ///
    /// Anything else is an error, for the text "false" would count as true.
    pub(super) fn eval_bool(&self, record: &Record, vars: &Vars<'_>) -> Result<bool, TaskError> {
        let value = self.value(record, vars)?;
        match bool::try_from(value.clone()) {
            Ok(truth) if value.kind() == minijinja::value::ValueKind::Bool => Ok(truth),
            _ if value.is_none() => Ok(false),
            _ if value.is_undefined() => Err(record.invalid(format_args!("`{}` is not defined", self.source))),
            _ => Err(record.invalid(format_args!(
                "`{}` gives a {}, not true or false: compare it with something",
                self.source,
                value.kind()
            ))),
        }
    }

    fn value(&self, record: &Record, vars: &Vars<'_>) -> Result<Value, TaskError> {
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        for name in &self.names {
            if let Some(value) = variable(name, record, vars)? {
                context.insert(name, value);
            }
        }
        for compared in &self.compared {
            if let Compared::Order { name } = compared
                && let Some(value) = context.get(name.as_str())
                && !value.is_number()
            {
                return Err(record.invalid(format_args!("`{name}` is {}, not a number, in `{}`", shown(value), self.source)));
            }
        }
        self.expression.eval(Value::from(context)).map_err(|error| self.failed(record, &error))
    }

    fn failed(&self, record: &Record, error: &Error) -> TaskError {
        let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
        match self.names.iter().find(|name| reason.contains(&format!("`{name}` is undefined"))) {
            Some(name) => record.invalid(format_args!("no field `{name}` for `{}`", self.source)),
            None => record.invalid(format_args!("`{}`: {reason}", self.source)),
        }
    }
}

impl fmt::Debug for Jinja {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Jinja").field(&self.source).finish()
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"))
}

/// The variable of this name. A record's own field goes before `seq` and its like, so that a column
/// may be named so; `record` is always the record.
fn variable(name: &str, record: &Record, vars: &Vars<'_>) -> Result<Option<Value>, TaskError> {
    if name == "record" {
        return whole(record).map(Some);
    }
    if let Some((fields, columns)) = record.as_row() {
        if let Some(bytes) = columns.position(name).and_then(|at| fields.get(at)) {
            return cell(bytes, name, record).map(|text| Some(typed(text)));
        }
    } else if let Some(raw) = record.as_json()
        && let Some(found) = crate::record::Path::key(raw, name).map_err(|reason| record.invalid(reason))?
    {
        return json(found, record).map(Some);
    }
    Ok(match name {
        "seq" => Some(Value::from(record.seq())),
        "slot" => Some(Value::from(vars.slot)),
        "attempt" => Some(Value::from(vars.attempt)),
        _ => vars.extra.iter().find(|(extra, _)| *extra == name).map(|(_, text)| Value::from(*text)),
    })
}

fn whole(record: &Record) -> Result<Value, TaskError> {
    if let Some(raw) = record.as_json() {
        return json(raw, record);
    }
    let Some((fields, columns)) = record.as_row() else {
        return record.as_text().map(|text| Value::from(text.as_ref()));
    };
    let texts = fields.iter().enumerate().map(|(at, bytes)| {
        let key = columns.key(at);
        cell(bytes, &key, record).map(|text| (key.to_string(), text.to_string()))
    });
    if columns.is_named() {
        texts.collect::<Result<BTreeMap<_, _>, _>>().map(Value::from)
    } else {
        texts.map(|pair| pair.map(|(_, text)| text)).collect::<Result<Vec<_>, _>>().map(Value::from)
    }
}

fn cell<'a>(bytes: &'a [u8], name: &str, record: &Record) -> Result<&'a str, TaskError> {
    std::str::from_utf8(bytes).map_err(|error| record.invalid(format_args!("`{name}` is not UTF-8 at byte {}", error.valid_up_to() + 1)))
}

fn json(raw: &serde_json::value::RawValue, record: &Record) -> Result<Value, TaskError> {
    if raw.get().starts_with('"') {
        return json_text(raw).map(|text| Value::from(text.as_ref())).map_err(|reason| record.invalid(reason));
    }
    let value: serde_json::Value = serde_json::from_str(raw.get()).map_err(|error| record.invalid(error))?;
    Ok(Value::from(Serde(value)))
}

/// A table's field as an expression sees it: what is written as a JSON number, `true` or `false` is
/// one. Numbers too long to be kept exactly are text.
fn typed(text: &str) -> Value {
    let starts = text.bytes().next().is_some_and(|byte| byte == b'-' || byte.is_ascii_digit());
    match text {
        "true" => Value::from(true),
        "false" => Value::from(false),
        _ if !starts => Value::from(text),
        _ => match serde_json::from_str::<serde_json::Number>(text) {
            Ok(number) if number.is_f64() && !text.contains(['.', 'e', 'E']) => Value::from(text),
            Ok(number) if text.len() == text.trim_end().len() => Value::from(Serde(number)),
            _ => Value::from(text),
        },
    }
}

/// The comparisons of a name with a literal in an expression. Only what stands alone on its side
/// counts (`price > 10`, not `price|float > 10`, not `price * 2 > 10`): this is a guard against the
/// common mistake, not a type checker.
fn compared(source: &str) -> Vec<Compared> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for at in 1..tokens.len().saturating_sub(1) {
        let Token::Compare(operator) = tokens[at] else { continue };
        let alone = |token: Option<&Token<'_>>| matches!(token, None | Some(Token::Word | Token::Open | Token::Close));
        let before = at.checked_sub(2).and_then(|before| tokens.get(before));
        if !alone(before) || !alone(tokens.get(at + 2)) {
            continue;
        }
        let (name, literal) = match (&tokens[at - 1], &tokens[at + 1]) {
            (Token::Name(name), literal) | (literal, Token::Name(name)) => (*name, literal),
            _ => continue,
        };
        let equality = matches!(operator, "==" | "!=");
        match literal {
            Token::Number if !equality && !asked_for(&tokens, name) => found.push(Compared::Order { name: name.into() }),
            Token::Text(text) if equality && !matches!(typed(text).kind(), minijinja::value::ValueKind::String) => {
                found.push(Compared::NumberInQuotes { name: name.into(), text: (*text).into() });
            }
            _ => {}
        }
    }
    found
}

/// Returns true if the expression looks at what the name is (`price is number and price > 10`), and
/// so needs no guard.
fn asked_for(tokens: &[Token<'_>], name: &str) -> bool {
    tokens.windows(2).any(|two| two[0] == Token::Name(name) && two[1] == Token::Name("is"))
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// `and`, `or`, `not`, `if`, `else`.
    Word,
    Number,
    Text(&'a str),
    Compare(&'a str),
    Open,
    Close,
    Other,
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    // Only what `compared` looks at is told apart; the rest is minijinja's business, mistakes
    // included.
    let run = |from: usize, more: &dyn Fn(u8) -> bool| from + bytes[from..].iter().take_while(|byte| more(**byte)).count();
    while at < bytes.len() {
        let from = at;
        let token = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            quote @ (b'"' | b'\'') => {
                at = run(at + 1, &|byte| byte != quote);
                let text = &source[from + 1..at];
                at += 1;
                // With an escape in it the text means something else than what stands here.
                if text.contains('\\') { Token::Other } else { Token::Text(text) }
            }
            byte if byte.is_ascii_digit() => {
                at = run(at, &|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
                Token::Number
            }
            byte if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 => {
                at = run(at, &|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80);
                match &source[from..at] {
                    // These join comparisons, so what is beside them stands alone; they are no
                    // names.
                    "and" | "or" | "not" | "if" | "else" => Token::Word,
                    name => Token::Name(name),
                }
            }
            b'<' | b'>' | b'=' | b'!' => {
                at = run(at, &|byte| matches!(byte, b'<' | b'>' | b'=' | b'!'));
                match &source[from..at] {
                    operator @ ("<" | "<=" | ">" | ">=" | "==" | "!=") => Token::Compare(operator),
                    _ => Token::Other,
                }
            }
            b'(' => {
                at += 1;
                Token::Open
            }
            b')' => {
                at += 1;
                Token::Close
            }
            _ => {
                at += 1;
                Token::Other
            }
        };
        tokens.push(token);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_of_a_name_with_a_literal_are_seen() {
        let order = |name: &str| Compared::Order { name: name.into() };
        let quoted = |name: &str, text: &str| Compared::NumberInQuotes { name: name.into(), text: text.into() };
        let rows = [
            ("price > 10", vec![order("price")]),
            ("10 <= price and (n<5 or n>7)", vec![order("price"), order("n"), order("n")]),
            ("id == \"42\" or make != 'VW'", vec![quoted("id", "42")]),
            ("ok == 'true'", vec![quoted("ok", "true")]),
            ("id == '007' or id == 42", vec![]),
            ("price is number and price > 10", vec![]),
            ("price|float > 10", vec![]),
            ("price * 2 > 10", vec![]),
            ("a.price > 10", vec![]),
            ("price > 10 * 2", vec![]),
            ("'>' == x", vec![]),
            ("'unclosed", vec![]),
        ];
        for (source, expected) in rows {
            assert_eq!(compared(source), expected, "{source}");
        }
    }

    #[test]
    fn fields_of_a_table_are_numbers_where_json_would_have_one() {
        let numbers = ["0", "-1", "42", "1.50", "1e3", "18446744073709551615"];
        let texts = ["", "007", "+1", "1.", ".5", "1 ", " 1", "0x10", "1e999", "123456789012345678901234567890", "nan", "TRUE", "-"];
        for text in numbers {
            assert!(typed(text).is_number(), "{text}");
        }
        for text in texts {
            assert_eq!(typed(text).as_str(), Some(text));
        }
    }
}
