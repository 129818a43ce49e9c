//! Rust's values and the wire's: the one place where they meet.

use longshore_celery::Value;
use serde::{Serialize, de::DeserializeOwned};

use crate::failure::Failure;

/// Turns a value of the wire into a type of ours.
pub(crate) fn to<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    value.to().map_err(|error| error.to_string())
}

/// Turns a value of ours into one of the wire.
pub(crate) fn from<T: Serialize + ?Sized>(value: &T) -> Result<Value, String> {
    Value::from_serialize(value).map_err(|error| error.to_string())
}

/// Writes what a task returns, for generated code.
///
/// # Errors
/// `TypeError`: it cannot be written (a map whose keys are no text, say).
pub fn reply<T: Serialize + ?Sized>(value: &T) -> Result<Value, Failure> {
    from(value).map_err(|error| Failure::error("TypeError", format!("the result cannot be written as JSON: {error}")))
}
