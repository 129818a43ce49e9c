//! Rust's values and the wire's: the one place where they meet.

use longshore_celery::{Map, Value};
use serde::{Serialize, de::DeserializeOwned};

use crate::failure::Failure;

/// A value of the wire as a type of ours.
pub(crate) fn to<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(json(value)).map_err(|error| error.to_string())
}

/// A value of ours for the wire.
pub(crate) fn from<T: Serialize + ?Sized>(value: &T) -> Result<Value, String> {
    serde_json::to_value(value).map(wire).map_err(|error| error.to_string())
}

/// What a task returns, for generated code.
///
/// # Errors
/// `TypeError`: it cannot be written (a map whose keys are no text, say).
pub fn reply<T: Serialize + ?Sized>(value: &T) -> Result<Value, Failure> {
    from(value).map_err(|error| Failure::error("TypeError", format!("the result cannot be written as JSON: {error}")))
}

fn json(value: Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Value::Null => Json::Null,
        Value::Bool(is) => is.into(),
        Value::Int(number) => number.into(),
        Value::Float(number) => number.into(),
        Value::Big(digits) | Value::Escaped(digits) => String::from(digits).into(),
        Value::Text(text) => text.into(),
        Value::List(list) => Json::Array(list.into_iter().map(json).collect()),
        Value::Map(map) => Json::Object(map.0.into_iter().map(|(name, value)| (name, json(value))).collect()),
    }
}

fn wire(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(is) => Value::Bool(is),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None if number.is_u64() => Value::Big(number.to_string().into()),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(list) => Value::List(list.into_iter().map(wire).collect()),
        Json::Object(map) => Value::Map(Map(map.into_iter().map(|(name, value)| (name, wire(value))).collect())),
    }
}
