//! Values of tasks as indented JSON, for people.

use longshore_celery::Value;
use serde::Serialize;

use super::{SHOWN, cut, readable};

/// Most lines that a page shows unfolded.
const UNFOLDED: usize = 20;
/// Deepest nesting that is read.
const DEEPEST: usize = 128;

/// A value as a page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ShownTree {
    label: &'static str,
    text: String,
    lines: usize,
    /// The end of it is not shown.
    is_cut: bool,
    /// It is shown when somebody opens it.
    is_folded: bool,
}

impl ShownTree {
    /// Shows a value.
    pub(super) fn of(label: &'static str, value: &Value) -> Self {
        let mut text = String::new();
        write(value, 0, &mut text);
        Self::standing(label, &text)
    }

    /// Shows a text that holds JSON; what cannot be read stands as it is.
    pub(super) fn of_json(label: &'static str, text: &str) -> Self {
        Value::parse(text.as_bytes(), DEEPEST).map_or_else(|_| Self::standing(label, text), |value| Self::of(label, &value))
    }

    fn standing(label: &'static str, text: &str) -> Self {
        let (shown, is_cut) = cut(text);
        let lines = shown.lines().count();
        Self { label, text: shown.to_owned(), lines, is_cut, is_folded: lines > UNFOLDED || is_cut }
    }

    /// Shows a list or an object that a text holds as JSON.
    pub(super) fn of_text(label: &'static str, text: &str) -> Option<Self> {
        let value = Value::parse(text.as_bytes(), DEEPEST).ok()?;
        is_container(&value).then(|| Self::of(label, &value))
    }
}

/// Returns whether it is a list or an object that has something in it.
pub(super) fn is_container(value: &Value) -> bool {
    match value {
        Value::List(items) => !items.is_empty(),
        Value::Map(map) => !map.is_empty(),
        _ => false,
    }
}

/// Writes a value behind what is there; ends where more than a page shows is written.
fn write(value: &Value, depth: usize, to: &mut String) {
    if !is_container(value) {
        to.push_str(&readable(value));
        return;
    }
    let line = |to: &mut String, depth: usize| {
        to.push('\n');
        (0..depth).for_each(|_| to.push_str("  "));
    };
    let (opens, closes, named) = match value {
        Value::Map(map) => ('{', '}', map.iter().map(|(name, value)| (Some(name), value)).collect::<Vec<_>>()),
        _ => ('[', ']', value.as_list().unwrap_or_default().iter().map(|value| (None, value)).collect()),
    };
    to.push(opens);
    for (place, (name, value)) in named.into_iter().enumerate() {
        if to.len() > SHOWN {
            return;
        }
        if place > 0 {
            to.push(',');
        }
        line(to, depth + 1);
        if let Some(name) = name {
            to.push_str(&serde_json::Value::from(name).to_string());
            to.push_str(": ");
        }
        write(value, depth + 1, to);
    }
    line(to, depth);
    to.push(closes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_indented_with_long_numbers_as_they_are_and_folded_when_they_are_long() {
        let text = r#"{"a": [1, {"b": []}, 123456789012345678901234567890], "<b>": "é"}"#;
        let tree = ShownTree::of_text("kwargs", text).unwrap();
        let lines = ["{", "  \"a\": [", "    1,", "    {", "      \"b\": []", "    },", "    123456789012345678901234567890", "  ],"];
        assert_eq!(tree.text, format!("{}\n  \"<b>\": \"é\"\n}}", lines.join("\n")));
        assert!(!tree.is_folded && !tree.is_cut && tree.lines == 10);
        let long = Value::List((0..30).map(Value::Int).collect());
        assert!(ShownTree::of("args", &long).is_folded);
        let huge = ShownTree::of("args", &Value::List((0..100_000).map(Value::Int).collect()));
        assert!(huge.is_cut && huge.is_folded && huge.text.len() <= SHOWN);
        // Neither Python's words nor single values are trees.
        for text in ["(1, 'a')", "{'a': 1}", "42", "[]"] {
            assert_eq!(ShownTree::of_text("args", text), None, "{text}");
        }
    }
}
