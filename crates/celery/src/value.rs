//! JSON as Python reads and writes it. `value/`: reading, writing, to and from Rust types,
//! MessagePack.

pub(crate) mod de;
pub(crate) mod msgpack;
#[cfg(test)]
mod msgpack_tests;
pub(crate) mod read;
pub(crate) mod ser;
#[cfg(test)]
mod tests;
pub(crate) mod write;

/// The deepest nesting that any reader of this crate accepts, whatever limit it is given: values
/// are dropped, compared and written level by level on the stack.
pub(crate) const MOST_DEPTH: usize = 512;

/// The reason why a value cannot be read, or is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ValueError {
    /// Place in the value, as `[2].name`; empty for the whole of it.
    pub path: String,
    /// The expectation, and what was found.
    pub reason: String,
    pub(crate) fault: Fault,
}

/// A fault of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not JSON (or MessagePack).
    Syntax,
    /// It is nested too deeply, or too long.
    Deep,
    /// It is not of the type that was expected.
    Type,
}

impl ValueError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into(), fault: Fault::Type }
    }

    pub(crate) fn syntax(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into(), fault: Fault::Syntax }
    }

    /// Expected this, found that.
    pub(crate) fn expected(what: &str, found: &Value) -> Self {
        Self::new(format!("expected {what}, found {}", found.kind()))
    }

    pub(crate) fn deep(limit: usize) -> Self {
        Self { path: String::new(), reason: format!("nested more than {limit} levels deep"), fault: Fault::Deep }
    }

    pub(crate) fn many(limit: usize, what: &str) -> Self {
        Self { path: String::new(), reason: format!("more than {limit} {what}"), fault: Fault::Deep }
    }

    /// The same error as seen from the list around it.
    pub(crate) fn in_item(mut self, index: usize) -> Self {
        self.path.insert_str(0, &format!("[{index}]"));
        self
    }

    /// The same error as seen from the object around it.
    pub(crate) fn in_member(mut self, name: &str) -> Self {
        self.path.insert_str(0, &format!(".{name}"));
        self
    }
}

impl std::fmt::Display for ValueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.strip_prefix('.').unwrap_or(&self.path) {
            "" => f.write_str(&self.reason),
            path => write!(f, "at {path}: {}", self.reason),
        }
    }
}

/// A JSON value that loses nothing of what Python's `json` can write: integers of any length, `NaN`
/// and the infinities, lone surrogates.
///
/// Tagged values (`{"__type__": …, "__value__": …}`: dates, decimals, UUIDs, bytes) stay maps and
/// travel on untouched.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer that does not fit into 64 bits, as its digits.
    Big(Box<str>),
    /// A number with a fraction or an exponent; also `NaN`, `Infinity` and `-Infinity`.
    Float(f64),
    /// A text.
    Text(String),
    /// A text with lone surrogates, which no Rust string can hold: what stands between the quotes,
    /// escapes and all. Only the reader makes these; whatever is put here is written as it is.
    Escaped(Box<str>),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Map(Map),
}

impl Value {
    /// Reads one JSON text. More lenient than the standard, as Python is: `NaN`, `Infinity`,
    /// integers of any length, lone surrogates, and a name that comes twice (the last one counts).
    ///
    /// # Errors
    /// Not UTF-8, not JSON, something after the value, a lone surrogate in a member's name, or
    /// nested more than `depth` levels (512 at most).
    pub fn parse(json: &[u8], depth: usize) -> Result<Value, ValueError> {
        let mut scan = read::Scan::new(json, depth)?;
        let value = scan.value()?;
        scan.end()?;
        Ok(value)
    }

    /// Returns the kind of value in JSON's words, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Big(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Text(_) | Value::Escaped(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    /// Returns whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The boolean that it is.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(is) = self { Some(*is) } else { None }
    }

    /// The integer that it is, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::Int(number) = self { Some(*number) } else { None }
    }

    /// The number that it is, integers included, to the nearest float.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "to the nearest, as documented")]
            Value::Int(number) => Some(*number as f64),
            Value::Big(digits) => digits.parse().ok(),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The text that it is. `None` for one with lone surrogates.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// The list that it is.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(list) = self { Some(list) } else { None }
    }

    /// The object that it is.
    pub fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = self { Some(map) } else { None }
    }

    /// The member of this name, if it is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_map().and_then(|map| map.get(name))
    }

    /// Kombu's tag and the value under it, if it is a tagged value
    /// (`{"__type__": …, "__value__": …}` and nothing else).
    pub fn tagged(&self) -> Option<(&str, &Value)> {
        let map = self.as_map()?;
        if map.0.len() != 2 {
            return None;
        }
        Some((map.get("__type__")?.as_str()?, map.get("__value__")?))
    }
}

/// An object: its members in the order in which they were written. Lookups are linear; headers and
/// options are small.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Map(pub Vec<(String, Value)>);

impl Map {
    /// The member of this name; the last one, if there are several (as in Python).
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Sets a member, in its old place if it is there.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().rev().find(|(key, _)| *key == name) {
            Some(member) => member.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().rposition(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes every member of this name out; the last one counts.
    pub(crate) fn remove_all(&mut self, name: &str) -> Option<Value> {
        let value = self.remove(name)?;
        self.0.retain(|(other, _)| other != name);
        Some(value)
    }

    /// Returns the number of its members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Its members, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Value::Map(map)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}
impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Float(number)
    }
}
impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Value::Bool(is)
    }
}
impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Int(number.into())
    }
}
impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Value::Int(number.into())
    }
}
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or_else(|_| Value::Big(number.to_string().into()), Value::Int)
    }
}
impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        Map(members.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(list: Vec<V>) -> Self {
        Value::List(list.into_iter().map(Into::into).collect())
    }
}
impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}
