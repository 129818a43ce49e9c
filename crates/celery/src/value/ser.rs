//! From Rust types to values: typed handlers give their results so.

use std::fmt;

use serde::ser::{self, Impossible, Serialize, Serializer};

use super::{MOST_DEPTH, Map, Value, ValueError, msgpack};

/// Tell our own serializer what JSON's types cannot say; for foreign ones they are names of
/// newtypes around a text.
const BIG: &str = "$longshore::Big";
const ESCAPED: &str = "$longshore::Escaped";

impl Value {
    /// Makes a value of a Rust type. Bytes are tagged as kombu tags them.
    ///
    /// # Errors
    /// A map whose keys are no texts, numbers or booleans; a type that refuses; nesting of more
    /// than 512 levels.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Value, ValueError> {
        value.serialize(ToValue { depth: 0 })
    }
}

impl ser::Error for ValueError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        ValueError::new(reason.to_string())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(is) => serializer.serialize_bool(*is),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Big(digits) => match (digits.parse::<u64>(), digits.parse::<i128>()) {
                (Ok(number), _) => serializer.serialize_u64(number),
                (_, Ok(number)) => serializer.serialize_i128(number),
                _ => serializer.serialize_newtype_struct(BIG, &**digits),
            },
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Escaped(escaped) => serializer.serialize_newtype_struct(ESCAPED, &**escaped),
            Value::List(list) => serializer.collect_seq(list),
            Value::Map(map) => map.serialize(serializer),
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[derive(Clone, Copy)]
struct ToValue {
    depth: usize,
}

impl ToValue {
    fn deeper(self) -> Result<Self, ValueError> {
        if self.depth >= MOST_DEPTH { Err(ValueError::deep(MOST_DEPTH)) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}

macro_rules! into_value {
    ($($method:ident $type:ty)*) => {$(
        fn $method(self, value: $type) -> Result<Value, ValueError> {
            Ok(Value::from(value))
        }
    )*};
}

impl Serializer for ToValue {
    type Ok = Value;
    type Error = ValueError;
    type SerializeSeq = ListWriter;
    type SerializeTuple = ListWriter;
    type SerializeTupleStruct = ListWriter;
    type SerializeTupleVariant = ListWriter;
    type SerializeMap = MapWriter;
    type SerializeStruct = MapWriter;
    type SerializeStructVariant = MapWriter;

    into_value! {
        serialize_bool bool serialize_i32 i32 serialize_i64 i64 serialize_u32 u32 serialize_u64 u64 serialize_f64 f64 serialize_str &str
    }

    fn serialize_i8(self, number: i8) -> Result<Value, ValueError> {
        Ok(Value::Int(number.into()))
    }

    fn serialize_i16(self, number: i16) -> Result<Value, ValueError> {
        Ok(Value::Int(number.into()))
    }

    fn serialize_i128(self, number: i128) -> Result<Value, ValueError> {
        Ok(i64::try_from(number).map_or_else(|_| Value::Big(number.to_string().into()), Value::Int))
    }

    fn serialize_u8(self, number: u8) -> Result<Value, ValueError> {
        Ok(Value::Int(number.into()))
    }

    fn serialize_u16(self, number: u16) -> Result<Value, ValueError> {
        Ok(Value::Int(number.into()))
    }

    fn serialize_u128(self, number: u128) -> Result<Value, ValueError> {
        Ok(i64::try_from(number).map_or_else(|_| Value::Big(number.to_string().into()), Value::Int))
    }

    fn serialize_f32(self, number: f32) -> Result<Value, ValueError> {
        Ok(Value::Float(number.into()))
    }

    fn serialize_char(self, char: char) -> Result<Value, ValueError> {
        Ok(Value::Text(char.into()))
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Value, ValueError> {
        Ok(msgpack::tag_bytes(bytes))
    }

    fn serialize_none(self) -> Result<Value, ValueError> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, ValueError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, ValueError> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value, ValueError> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Result<Value, ValueError> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Value, ValueError> {
        match (name, value.serialize(self)?) {
            (BIG, Value::Text(digits)) => Ok(Value::Big(digits.into())),
            (ESCAPED, Value::Text(escaped)) => Ok(Value::Escaped(escaped.into())),
            (_, value) => Ok(value),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, ValueError> {
        let value = value.serialize(self.deeper()?).map_err(|error| error.in_member(variant))?;
        Ok(Value::Map(Map(vec![(variant.to_owned(), value)])))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<ListWriter, ValueError> {
        // A length that is only announced sets nothing much aside.
        Ok(ListWriter { variant: None, list: Vec::with_capacity(len.unwrap_or(0).min(1024)), inner: self.deeper()? })
    }

    fn serialize_tuple(self, len: usize) -> Result<ListWriter, ValueError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<ListWriter, ValueError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<ListWriter, ValueError> {
        Ok(ListWriter { variant: Some(variant), ..self.deeper()?.serialize_seq(Some(len))? })
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<MapWriter, ValueError> {
        Ok(MapWriter { variant: None, map: Map::default(), name: None, inner: self.deeper()? })
    }

    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<MapWriter, ValueError> {
        self.serialize_map(Some(len))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<MapWriter, ValueError> {
        Ok(MapWriter { variant: Some(variant), ..self.deeper()?.serialize_map(Some(len))? })
    }
}

/// Under its variant, if it is one's.
fn under(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        Some(variant) => Value::Map(Map(vec![(variant.to_owned(), value)])),
        None => value,
    }
}

struct ListWriter {
    variant: Option<&'static str>,
    list: Vec<Value>,
    inner: ToValue,
}

impl ListWriter {
    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ValueError> {
        let item = item.serialize(self.inner).map_err(|error| error.in_item(self.list.len()))?;
        self.list.push(item);
        Ok(())
    }
}

macro_rules! items {
    ($($trait:ident $method:ident)*) => {$(
        impl ser::$trait for ListWriter {
            type Ok = Value;
            type Error = ValueError;

            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ValueError> {
                self.push(item)
            }

            fn end(self) -> Result<Value, ValueError> {
                Ok(under(self.variant, Value::List(self.list)))
            }
        }
    )*};
}

items! { SerializeSeq serialize_element SerializeTuple serialize_element SerializeTupleStruct serialize_field SerializeTupleVariant serialize_field }

struct MapWriter {
    variant: Option<&'static str>,
    map: Map,
    name: Option<String>,
    inner: ToValue,
}

impl MapWriter {
    fn push<T: Serialize + ?Sized>(&mut self, name: String, value: &T) -> Result<(), ValueError> {
        let value = value.serialize(self.inner).map_err(|error| error.in_member(&name))?;
        self.map.0.push((name, value));
        Ok(())
    }

    fn done(self) -> Value {
        under(self.variant, Value::Map(self.map))
    }
}

impl ser::SerializeMap for MapWriter {
    type Ok = Value;
    type Error = ValueError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ValueError> {
        self.name = Some(key.serialize(ToName)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        let name = self.name.take().ok_or_else(|| ValueError::new("a map that gives a value before its key"))?;
        self.push(name, value)
    }

    fn end(self) -> Result<Value, ValueError> {
        Ok(self.done())
    }
}

impl ser::SerializeStruct for MapWriter {
    type Ok = Value;
    type Error = ValueError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), ValueError> {
        self.push(name.to_owned(), value)
    }

    fn end(self) -> Result<Value, ValueError> {
        Ok(self.done())
    }
}

impl ser::SerializeStructVariant for MapWriter {
    type Ok = Value;
    type Error = ValueError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), ValueError> {
        self.push(name.to_owned(), value)
    }

    fn end(self) -> Result<Value, ValueError> {
        Ok(self.done())
    }
}

/// A map's key, as the name of a member.
struct ToName;

macro_rules! names {
    ($($method:ident $type:ty)*) => {$(
        fn $method(self, key: $type) -> Result<String, ValueError> {
            Ok(key.to_string())
        }
    )*};
}

macro_rules! no_names {
    ($($method:ident ($($arg:ty),*) -> $ok:ty)*) => {$(
        fn $method(self $(, _: $arg)*) -> Result<$ok, ValueError> {
            no_name()
        }
    )*};
}

fn no_name<T>() -> Result<T, ValueError> {
    Err(ValueError::new("a map whose keys are no texts, numbers or booleans"))
}

impl Serializer for ToName {
    type Ok = String;
    type Error = ValueError;
    type SerializeSeq = Impossible<String, ValueError>;
    type SerializeTuple = Impossible<String, ValueError>;
    type SerializeTupleStruct = Impossible<String, ValueError>;
    type SerializeTupleVariant = Impossible<String, ValueError>;
    type SerializeMap = Impossible<String, ValueError>;
    type SerializeStruct = Impossible<String, ValueError>;
    type SerializeStructVariant = Impossible<String, ValueError>;

    names! {
        serialize_bool bool serialize_i8 i8 serialize_i16 i16 serialize_i32 i32 serialize_i64 i64 serialize_i128 i128
        serialize_u8 u8 serialize_u16 u16 serialize_u32 u32 serialize_u64 u64 serialize_u128 u128
        serialize_f32 f32 serialize_f64 f64 serialize_char char serialize_str &str
    }

    no_names! {
        serialize_bytes(&[u8]) -> String
        serialize_none() -> String
        serialize_unit() -> String
        serialize_unit_struct(&'static str) -> String
        serialize_seq(Option<usize>) -> Self::SerializeSeq
        serialize_tuple(usize) -> Self::SerializeTuple
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant
        serialize_map(Option<usize>) -> Self::SerializeMap
        serialize_struct(&'static str, usize) -> Self::SerializeStruct
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Result<String, ValueError> {
        Ok(variant.to_owned())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<String, ValueError> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<String, ValueError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _value: &T,
    ) -> Result<String, ValueError> {
        no_name()
    }
}
