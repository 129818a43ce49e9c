//! From values to Rust types: typed handlers get their arguments so.

use std::{collections::HashMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor, value::StringDeserializer,
};

use super::{Map, Value, ValueError};

/// Asks our own deserializer for what JSON's types cannot say; foreign ones take it for the name of
/// a newtype.
const WHOLE: &str = "$longshore::Value";

impl Value {
    /// Reads a Rust type from it. Unlike JSON it also knows `NaN`, integers of 128 bits, and bytes
    /// that kombu has tagged (for types that ask for bytes).
    ///
    /// # Errors
    /// It is not what the type expects: where, what was expected, what was found.
    pub fn to<T: DeserializeOwned>(self) -> Result<T, ValueError> {
        T::deserialize(self)
    }
}

impl de::Error for ValueError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        ValueError::new(reason.to_string())
    }
}

impl Value {
    fn unexpected<T>(&self, expected: &dyn de::Expected) -> Result<T, ValueError> {
        Err(ValueError::new(format!("expected {expected}, found {}", self.kind())))
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self {
            Value::Null => visitor.visit_unit(),
            Value::Bool(is) => visitor.visit_bool(is),
            Value::Int(number) => visitor.visit_i64(number),
            Value::Big(digits) => match (digits.parse::<u64>(), digits.parse::<i128>(), digits.parse::<u128>()) {
                (Ok(number), ..) => visitor.visit_u64(number),
                (_, Ok(number), _) => visitor.visit_i128(number),
                (_, _, Ok(number)) => visitor.visit_u128(number),
                _ => Err(ValueError::new(format!("expected {}, found an integer of {} digits", Expected(&visitor), digits.len()))),
            },
            Value::Float(number) => visitor.visit_f64(number),
            Value::Text(text) => visitor.visit_string(text),
            Value::Escaped(_) => Err(ValueError::new(format!("expected {}, found a text with lone surrogates", Expected(&visitor)))),
            Value::List(items) => {
                let mut items = ListReader { items: items.into_iter(), index: 0 };
                let read = visitor.visit_seq(&mut items)?;
                match items.items.len() {
                    0 => Ok(read),
                    more => Err(ValueError::new(format!("expected a list of {}, found {}", items.index, items.index + more))),
                }
            }
            Value::Map(map) => visitor.visit_map(MapReader { members: distinct(map).0.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, ValueError> {
        match self {
            Value::Big(digits) if name == WHOLE => visitor.visit_enum(BeyondJson(0, digits.into())),
            Value::Escaped(escaped) if name == WHOLE => visitor.visit_enum(BeyondJson(1, escaped.into())),
            plain => visitor.visit_newtype_struct(plain),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match self {
            Value::Text(variant) => visitor.visit_enum(Variant { variant, content: None }),
            Value::Map(mut map) if map.len() == 1 => match map.0.pop() {
                Some((variant, content)) => visitor.visit_enum(Variant { variant, content: Some(content) }),
                None => visitor.visit_unit(),
            },
            other => other.unexpected(&"a variant (a text, or an object with one member)"),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.tagged() {
            Some(("bytes", Value::Text(text))) => visitor.visit_byte_buf(text.clone().into_bytes()),
            Some(("base64", Value::Text(text))) => match STANDARD.decode(text) {
                Ok(bytes) => visitor.visit_byte_buf(bytes),
                Err(wrong) => Err(ValueError::new(format!("bytes tagged as base64 that are none: {wrong}"))),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string unit seq tuple tuple_struct map struct identifier
    }
}

/// A visitor's expectation, in its own words.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

/// Of members with the same name only the last one, as in Python.
fn distinct(map: Map) -> Map {
    let twice = match map.0.as_slice() {
        [] | [_] => false,
        few @ [_, _, ..] if few.len() <= 8 => {
            few.iter().enumerate().any(|(index, (name, _))| few[..index].iter().any(|(other, _)| other == name))
        }
        _ => true,
    };
    if !twice {
        return map;
    }
    let last: HashMap<String, usize> = map.0.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
    Map(map.0.into_iter().enumerate().filter(|(index, (name, _))| last.get(name) == Some(index)).map(|(_, member)| member).collect())
}

struct ListReader {
    items: std::vec::IntoIter<Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for &mut ListReader {
    type Error = ValueError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ValueError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.in_item(self.index - 1))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct MapReader {
    members: std::vec::IntoIter<(String, Value)>,
    value: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for MapReader {
    type Error = ValueError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ValueError> {
        let Some((name, value)) = self.members.next() else { return Ok(None) };
        let key = seed.deserialize(KeyName(name.clone()))?;
        self.value = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, ValueError> {
        let (name, value) = self.value.take().unwrap_or_default();
        seed.deserialize(value).map_err(|error| error.in_member(&name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.members.len())
    }
}

/// A member's name, from which maps with keys that are numbers or booleans can be read too.
struct KeyName(String);

macro_rules! from_name {
    ($($method:ident $visit:ident $type:ty)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
            match self.0.parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_string(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for KeyName {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_string(self.0)
    }

    from_name! {
        deserialize_bool visit_bool bool
        deserialize_i8 visit_i8 i8
        deserialize_i16 visit_i16 i16
        deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64
        deserialize_i128 visit_i128 i128
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
        deserialize_u128 visit_u128 u128
        deserialize_f32 visit_f32 f32
        deserialize_f64 visit_f64 f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_enum(Variant { variant: self.0, content: None })
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Variant {
    variant: String,
    content: Option<Value>,
}

impl<'de> de::EnumAccess<'de> for Variant {
    type Error = ValueError;
    type Variant = Content;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Content), ValueError> {
        let name: StringDeserializer<ValueError> = self.variant.clone().into_deserializer();
        Ok((seed.deserialize(name)?, Content { variant: self.variant, content: self.content }))
    }
}

struct Content {
    variant: String,
    content: Option<Value>,
}

impl Content {
    fn needs<T>(&self, what: &str) -> Result<T, ValueError> {
        Err(ValueError::new(format!("expected {what} under the variant {:?}", self.variant)))
    }
}

impl<'de> de::VariantAccess<'de> for Content {
    type Error = ValueError;

    fn unit_variant(self) -> Result<(), ValueError> {
        match self.content {
            None | Some(Value::Null) => Ok(()),
            _ => self.needs("nothing"),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ValueError> {
        match self.content {
            Some(content) => seed.deserialize(content).map_err(|error| error.in_member(&self.variant)),
            None => self.needs("a value"),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, ValueError> {
        match self.content {
            Some(content @ Value::List(_)) => content.deserialize_any(visitor).map_err(|error| error.in_member(&self.variant)),
            _ => self.needs("a list"),
        }
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value, ValueError> {
        match self.content {
            Some(content @ (Value::Map(_) | Value::List(_))) => {
                content.deserialize_any(visitor).map_err(|error| error.in_member(&self.variant))
            }
            _ => self.needs("an object"),
        }
    }
}

/// A value that JSON's types cannot say, on its way from our deserializer to a [`Value`]: which
/// one, and its text.
struct BeyondJson(u32, String);

impl<'de> de::EnumAccess<'de> for BeyondJson {
    type Error = ValueError;
    type Variant = Content;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Content), ValueError> {
        let which = seed.deserialize(self.0.into_deserializer())?;
        Ok((which, Content { variant: WHOLE.to_owned(), content: Some(Value::Text(self.1)) }))
    }
}

impl<'de> de::Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_newtype_struct(WHOLE, ValueVisitor)
    }
}

impl<'de> de::Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Map(map) => Ok(map),
            other => Err(de::Error::custom(ValueError::expected("an object", &other))),
        }
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (which, content) = data.variant::<u32>()?;
        let text: String = de::VariantAccess::newtype_variant(content)?;
        // What is written as it stands must be what it says it is, whoever called this.
        let json = if which == 0 { text } else { format!("\"{text}\"") };
        match Value::parse(json.as_bytes(), 0) {
            Ok(value @ (Value::Big(_) | Value::Int(_) | Value::Escaped(_) | Value::Text(_))) => Ok(value),
            _ => Err(A::Error::invalid_value(Unexpected::Enum, &self)),
        }
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(Value::Bool(is))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i128<E>(self, number: i128) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or_else(|_| Value::Big(number.to_string().into()), Value::Int))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or_else(|_| Value::Big(number.to_string().into()), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(super::msgpack::tag_bytes(bytes))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::default();
        while let Some(member) = members.next_entry()? {
            map.0.push(member);
        }
        Ok(Value::Map(map))
    }
}
