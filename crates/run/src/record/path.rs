//! The way to a field.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

/// The way to a field: `user`, `a.b`, `args.0`, `1`. Parts are names (letters, digits, `_`, `-`) or
/// numbers, with dots between.
///
/// In a JSON object a part is a key; in an array it is a number, counted from 0 (`args.0`), but a
/// first number in a record that is itself an array is a column, counted from 1 (`1`), as in a
/// table. In a table the path is a column's number from 1, or its name with all its dots. Of a key
/// that stands twice in an object, the last counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Box<str>);

impl Path {
    /// The path, if the text is one.
    pub fn parse(text: &str) -> Option<Self> {
        let part =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) && !part.starts_with('-');
        text.split('.').all(part).then(|| Self(text.into()))
    }

    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The column's number, from 1 (but 0 if that was written), if the path is nothing but a
    /// number.
    pub fn number(&self) -> Option<usize> {
        self.0.parse().ok()
    }

    /// The value of one key of a JSON object, whatever characters are in it; `None` if it is not
    /// there, or the value is no object.
    pub(crate) fn key<'a>(raw: &'a RawValue, key: &str) -> Result<Option<&'a RawValue>, String> {
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        let seek = Level { head: key, rest: None, base: usize::MAX };
        deserializer.deserialize_any(seek).map_err(|error| error.to_string())
    }

    /// The value at this path in a JSON text, as its own text.
    ///
    /// # Errors
    /// The text is not JSON, or is nested too deep.
    pub(crate) fn find<'a>(&self, raw: &'a RawValue) -> Result<Option<&'a RawValue>, String> {
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        Seek { path: Some(&self.0), base: 1 }.deserialize(&mut deserializer).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Walks the JSON text down to the path's value. All of the text is read, for that is how serde
/// knows where a value ends, but nothing is built.
struct Seek<'p> {
    path: Option<&'p str>,
    base: usize,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.path {
            None => <&RawValue>::deserialize(deserializer).map(Some),
            Some(path) => {
                let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
                deserializer.deserialize_any(Level { head, rest, base: self.base })
            }
        }
    }
}

struct Level<'p> {
    head: &'p str,
    rest: Option<&'p str>,
    base: usize,
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(here) = map.next_key_seed(KeyIs(self.head))? {
            if here {
                found = map.next_value_seed(Seek { path: self.rest, base: 0 })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let wanted = self.head.parse::<usize>().ok().and_then(|number| number.checked_sub(self.base));
        let mut found = None;
        let mut at = 0;
        loop {
            if wanted == Some(at) {
                let Some(value) = seq.next_element_seed(Seek { path: self.rest, base: 0 })? else { break };
                found = value;
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            at += 1;
        }
        Ok(found)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct KeyIs<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, path: &str) -> Option<String> {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        Path::parse(path).expect(path).find(raw).unwrap().map(|found| found.get().to_string())
    }

    #[test]
    fn a_path_finds_its_value_as_it_stands() {
        let object = r#"{"a":{"b":[10, {"c":1.50}],"":0},"é":"x","k\u0065y":null,"7":true,"d":1,"d":2,"user-id":9}"#;
        let rows = [
            (object, "a.b", Some(r#"[10, {"c":1.50}]"#)),
            (object, "a.b.0", Some("10")),
            (object, "a.b.1.c", Some("1.50")),
            (object, "a.b.2", None),
            (object, "a.c", None),
            (object, "d.x", None),
            (object, "é", Some("\"x\"")),
            (object, "key", Some("null")),
            (object, "7", Some("true")),
            (object, "d", Some("2")),
            (object, "user-id", Some("9")),
            ("[10,[20,30]]", "1", Some("10")),
            ("[10,[20,30]]", "2.0", Some("20")),
            ("[10]", "0", None),
            ("[10]", "x", None),
            ("\"text\"", "a", None),
            ("12345678901234567890123", "a", None),
        ];
        for (json, path, expected) in rows {
            assert_eq!(find(json, path).as_deref(), expected, "{path} in {json}");
        }
    }

    #[test]
    fn what_is_a_path() {
        for text in ["a", "a.b", "args.0", "1", "user_id", "user-id", "größe", "_x"] {
            assert!(Path::parse(text).is_some(), "{text}");
        }
        for text in ["", ".", "a.", ".a", "a b", "a,b", "a..b", "1..3", "$x", "a/b", "-rf", "print $1"] {
            assert!(Path::parse(text).is_none(), "{text}");
        }
    }
}
