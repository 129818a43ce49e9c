//! Values as Python shows them, for the texts that clients match on.

use crate::value::Value;

pub(super) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Big(digits) => digits.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Escaped(text) => format!("'{text}'"),
        Value::List(list) => format!("[{}]", list.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            format!("{{{}}}", map.0.iter().map(|(name, value)| format!("'{name}': {}", repr(value))).collect::<Vec<_>>().join(", "))
        }
    }
}
