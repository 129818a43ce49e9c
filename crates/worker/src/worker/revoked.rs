//! Ids that must not run any more.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use longshore_brokers::{MOST_REVOKED as MOST, REVOKED_FOR as FOR};
use longshore_celery::{Map, Value};

/// Ids and stamps that must not run any more: at most 50 000, each for three hours; the oldest are
/// forgotten first. A stamp stands among the ids, here and in the broker, as a text that no id is.
#[derive(Default)]
pub(crate) struct RevokedIds {
    since: HashMap<String, Instant>,
    order: VecDeque<(Instant, String)>,
}

/// Beginning of a stamp among ids, and the character between its name and its value.
const STAMP: &str = "stamp\u{1f}";
const PART: char = '\u{1f}';

/// Returns a stamp's value as it stands among ids. What Python takes for equal stands there as the
/// same text: `1`, `1.0` and `true`, objects in any order. A value that is no text stands as JSON
/// behind a second parting, so that `"1234"` is another stamp than `1234`.
pub(crate) fn stamp(name: &str, value: &Value) -> String {
    let mut id = format!("{STAMP}{name}{PART}");
    match value {
        Value::Text(text) if !text.starts_with(PART) => id.push_str(text),
        other => {
            let mut json = Vec::new();
            as_python_compares(other).write(&mut json);
            id.push(PART);
            id.push_str(&String::from_utf8_lossy(&json));
        }
    }
    id
}

/// Returns the values of a stamp: the items of a list, or the one value that it is. `null` is none.
pub(crate) fn values(stamp: &Value) -> &[Value] {
    match stamp {
        Value::Null => &[],
        Value::List(values) => values,
        one => std::slice::from_ref(one),
    }
}

/// Returns the value that stands for all that Python finds equal to this one.
fn as_python_compares(value: &Value) -> Value {
    match value {
        Value::Bool(is) => Value::Int((*is).into()),
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "only where nothing is lost")]
        Value::Float(number) if (*number as i64) as f64 == *number && number.abs() < 9e18 => Value::Int(*number as i64),
        Value::List(items) => Value::List(items.iter().map(as_python_compares).collect()),
        Value::Map(map) => {
            let mut members: Vec<_> = map.iter().map(|(name, value)| (name.to_owned(), as_python_compares(value))).collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Map(Map(members))
        }
        other => other.clone(),
    }
}

impl RevokedIds {
    pub(crate) fn add(&mut self, id: &str, now: Instant) {
        if self.since.insert(id.to_owned(), now).is_none() {
            self.order.push_back((now, id.to_owned()));
        }
        while let Some((at, _)) = self.order.front()
            && (self.order.len() > MOST || now.saturating_duration_since(*at) > FOR)
        {
            if let Some((_, id)) = self.order.pop_front() {
                self.since.remove(&id);
            }
        }
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        !self.since.is_empty() && self.since.contains_key(id)
    }

    /// Returns whether a stamp of this name and one of its values is revoked.
    pub(crate) fn has_stamp(&self, name: &str, of: &Value) -> bool {
        !self.since.is_empty() && values(of).iter().any(|value| self.since.contains_key(&stamp(name, value)))
    }

    /// The ids, without stamps: what Celery's workers tell each other.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.order.iter().filter(|(_, id)| !id.starts_with(STAMP)).map(|(_, id)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn revoked_ids_are_forgotten_after_three_hours_and_beyond_fifty_thousand() {
        let mut revoked = RevokedIds::default();
        let start = Instant::now();
        revoked.add("first", start);
        for n in 0..MOST {
            revoked.add(&n.to_string(), start + Duration::from_secs(1));
        }
        assert!(!revoked.has("first") && revoked.has("0"));
        revoked.add("late", start + FOR + Duration::from_secs(2));
        assert_eq!(revoked.ids(), ["late"]);
    }

    #[test]
    fn a_stamp_is_revoked_by_any_of_its_values() {
        let mut revoked = RevokedIds::default();
        ["a", "b"].into_iter().for_each(|value| revoked.add(&stamp("tags", &value.into()), Instant::now()));
        assert!(revoked.ids().is_empty());
        assert!(revoked.has_stamp("tags", &vec!["x", "b"].into()));
        assert!(!revoked.has_stamp("tags", &"x".into()) && !revoked.has_stamp("other", &"a".into()));
    }

    /// Each row as a Celery worker of 5.7 has decided it.
    #[test]
    fn stamps_that_are_not_text_are_compared_as_python_compares_them() {
        for (called_off, stamp_of, is_revoked) in [
            ("[1234]", "1234", true),
            ("[1234]", "\"1234\"", false),
            ("[\"1234\"]", "1234", false),
            ("true", "true", true),
            ("true", "1", true),
            ("1.0", "1", true),
            ("[0]", "false", true),
            ("[1, 2]", "[2, 9]", true),
            ("[[1, 2]]", "[[1, 2]]", true),
            ("[[1, 2]]", "[1, 2]", false),
            ("{\"a\": 1, \"b\": 2}", "{\"b\": 2, \"a\": 1}", true),
            ("1.5", "[1.5]", true),
            ("[1.5]", "\"1.5\"", false),
            ("1000000000000000000000000000000", "1000000000000000000000000000000", true),
            ("\"ab\"", "\"a\"", false),
            ("[[true]]", "[[1]]", true),
            ("[]", "[]", false),
            ("[1]", "null", false),
            ("\"\\u001f1\"", "1", false),
        ] {
            let read = |json: &str| Value::parse(json.as_bytes(), 9).unwrap();
            let mut revoked = RevokedIds::default();
            values(&read(called_off)).iter().for_each(|value| revoked.add(&stamp("id", value), Instant::now()));
            assert_eq!(revoked.has_stamp("id", &read(stamp_of)), is_revoked, "{called_off} and {stamp_of}");
        }
    }
}
