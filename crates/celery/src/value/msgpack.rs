//! MessagePack, to and from the same values.

use base64::{Engine, engine::general_purpose::STANDARD};
use rmp::{Marker, encode};

use super::{MOST_DEPTH, Map, Value, ValueError};

/// Reads one value. Bytes become what kombu makes of them in JSON:
/// `{"__type__": "bytes", "__value__": …}`.
pub(crate) fn parse(packed: &[u8], depth: usize, values: usize) -> Result<Value, ValueError> {
    let mut reader = Reader { rest: packed, limit: depth.min(MOST_DEPTH), values, made: 0 };
    let value = reader.value(0)?;
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(ValueError::syntax(format!("not MessagePack: {} bytes follow the value", reader.rest.len())))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    limit: usize,
    /// Most values that may be made, and the number made so far.
    values: usize,
    made: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ValueError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| ValueError::syntax("not MessagePack: it ends inside a value"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A big-endian number of this many bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, ValueError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Result<usize, ValueError> {
        Ok(self.number(bytes)? as usize)
    }

    fn value(&mut self, depth: usize) -> Result<Value, ValueError> {
        self.made += 1;
        if self.made > self.values {
            return Err(ValueError::many(self.values, "values"));
        }
        Ok(match Marker::from_u8(self.take(1)?[0]) {
            Marker::Null => Value::Null,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(number) => Value::Int(number.into()),
            Marker::FixNeg(number) => Value::Int(number.into()),
            Marker::U8 => self.number(1)?.into(),
            Marker::U16 => self.number(2)?.into(),
            Marker::U32 => self.number(4)?.into(),
            Marker::U64 => self.number(8)?.into(),
            Marker::I8 => Value::Int((self.number(1)? as i8).into()),
            Marker::I16 => Value::Int((self.number(2)? as i16).into()),
            Marker::I32 => Value::Int((self.number(4)? as i32).into()),
            Marker::I64 => Value::Int(self.number(8)? as i64),
            Marker::F32 => Value::Float(f32::from_bits(self.number(4)? as u32).into()),
            Marker::F64 => Value::Float(f64::from_bits(self.number(8)?)),
            Marker::FixStr(length) => Value::Text(self.text(length.into())?),
            Marker::Str8 => self.length(1).and_then(|length| self.text(length)).map(Value::Text)?,
            Marker::Str16 => self.length(2).and_then(|length| self.text(length)).map(Value::Text)?,
            Marker::Str32 => self.length(4).and_then(|length| self.text(length)).map(Value::Text)?,
            Marker::Bin8 => self.length(1).and_then(|length| self.take(length)).map(tag_bytes)?,
            Marker::Bin16 => self.length(2).and_then(|length| self.take(length)).map(tag_bytes)?,
            Marker::Bin32 => self.length(4).and_then(|length| self.take(length)).map(tag_bytes)?,
            Marker::FixArray(length) => self.list(length.into(), depth)?,
            Marker::Array16 => self.length(2).and_then(|length| self.list(length, depth))?,
            Marker::Array32 => self.length(4).and_then(|length| self.list(length, depth))?,
            Marker::FixMap(length) => self.map(length.into(), depth)?,
            Marker::Map16 => self.length(2).and_then(|length| self.map(length, depth))?,
            Marker::Map32 => self.length(4).and_then(|length| self.map(length, depth))?,
            other => return Err(ValueError::syntax(format!("MessagePack with a type that has no JSON form ({other:?})"))),
        })
    }

    fn text(&mut self, length: usize) -> Result<String, ValueError> {
        let bytes = self.take(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| ValueError::syntax("not MessagePack: a text that is not UTF-8"))
    }

    /// Lengths are only believed item by item: nothing is set aside for them.
    fn list(&mut self, length: usize, depth: usize) -> Result<Value, ValueError> {
        self.inside(depth)?;
        (0..length).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::List)
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value, ValueError> {
        self.inside(depth)?;
        let mut map = Map::default();
        for _ in 0..length {
            let name = match self.value(depth + 1)? {
                Value::Text(name) => name,
                // As `json.dumps` does with such keys.
                plain @ (Value::Null | Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_)) => plain.to_string(),
                other => return Err(ValueError::syntax(format!("a member's name is {}", other.kind()))),
            };
            map.0.push((name, self.value(depth + 1)?));
        }
        Ok(Value::Map(map))
    }

    fn inside(&self, depth: usize) -> Result<(), ValueError> {
        if depth >= self.limit { Err(ValueError::deep(self.limit)) } else { Ok(()) }
    }
}

/// Bytes as kombu writes them in JSON.
pub(crate) fn tag_bytes(bytes: &[u8]) -> Value {
    let (tag, text) = match std::str::from_utf8(bytes) {
        Ok(text) => ("bytes", text.to_owned()),
        Err(_) => ("base64", STANDARD.encode(bytes)),
    };
    Value::Map(Map::from_iter([("__type__", tag.to_owned()), ("__value__", text)]))
}

/// Writes a value.
///
/// # Errors
/// It holds what MessagePack has no form for: an integer of more than 64 bits, a lone surrogate.
/// Something of it may have been written.
pub(crate) fn write(value: &Value, into: &mut Vec<u8>) -> Result<(), ValueError> {
    let long = || ValueError::new("longer than MessagePack can say");
    let no_form = |what: &str| Err(ValueError::new(format!("MessagePack has no form for {what}")));
    match value {
        Value::Null => infallible(encode::write_nil(into)),
        Value::Bool(is) => infallible(encode::write_bool(into, *is)),
        Value::Int(number) => {
            encode::write_sint(into, *number).map_err(|_| long())?;
        }
        Value::Big(digits) => match digits.parse::<u64>() {
            Ok(number) => {
                encode::write_uint(into, number).map_err(|_| long())?;
            }
            Err(_) => return no_form("an integer of more than 64 bits"),
        },
        Value::Float(number) => encode::write_f64(into, *number).map_err(|_| long())?,
        Value::Text(text) => encode::write_str(into, text).map_err(|_| long())?,
        Value::Escaped(_) => return no_form("lone surrogates"),
        Value::List(list) => {
            encode::write_array_len(into, u32::try_from(list.len()).map_err(|_| long())?).map_err(|_| long())?;
            for item in list {
                write(item, into)?;
            }
        }
        Value::Map(map) => {
            encode::write_map_len(into, u32::try_from(map.len()).map_err(|_| long())?).map_err(|_| long())?;
            for (name, item) in map.iter() {
                encode::write_str(into, name).map_err(|_| long())?;
                write(item, into)?;
            }
        }
    }
    Ok(())
}

/// Writing to a vector does not fail.
fn infallible<E>(_written: Result<(), E>) {}
