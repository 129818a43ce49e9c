//! A message's properties as they stand on the wire (AMQP 0-9-1, section 4.2.6.1): most of them go
//! from one place to another and are never taken apart.

use lapin::{
    BasicProperties,
    protocol::basic::parse_properties,
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};

/// The deepest nesting that is read.
const DEPTH: usize = 80;

/// Properties as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawProperties(Vec<u8>);

impl Default for RawProperties {
    fn default() -> Self {
        Self(vec![0, 0])
    }
}

impl RawProperties {
    /// Takes bytes that a server has sent, of which `headers.rs` has said that they can be read.
    pub(super) fn received(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Writes properties.
    pub(super) fn of(from: &BasicProperties) -> Self {
        let mut out = vec![0, 0];
        let mut flags = 0_u16;
        let mut text = |value: &Option<ShortString>, bit: u16, out: &mut Vec<u8>| {
            if let Some(value) = value {
                flags |= 1 << bit;
                write_short(value.as_str(), out);
            }
        };
        text(from.content_type(), 15, &mut out);
        text(from.content_encoding(), 14, &mut out);
        let headers = from.headers().as_ref().map(|headers| write_table(headers, &mut out));
        let mode = from.delivery_mode().map(|mode| out.push(mode));
        let priority = from.priority().map(|priority| out.push(priority));
        text(from.correlation_id(), 10, &mut out);
        text(from.reply_to(), 9, &mut out);
        text(from.expiration(), 8, &mut out);
        text(from.message_id(), 7, &mut out);
        let time = from.timestamp().map(|time| out.extend_from_slice(&time.to_be_bytes()));
        text(from.kind(), 5, &mut out);
        text(from.user_id(), 4, &mut out);
        text(from.app_id(), 3, &mut out);
        text(from.cluster_id(), 2, &mut out);
        for (value, bit) in [(headers, 13), (mode, 12), (priority, 11), (time, 6)] {
            flags |= u16::from(value.is_some()) << bit;
        }
        out[..2].copy_from_slice(&flags.to_be_bytes());
        Self(out)
    }

    /// Returns the bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes them apart.
    pub(super) fn parse(&self) -> BasicProperties {
        parse_properties(&self.0[..]).map(|(_, properties)| properties).unwrap_or_default()
    }

    /// Returns where each of them stands.
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::of(&self.0).unwrap_or_default()
    }
}

fn write_short(text: &str, out: &mut Vec<u8>) {
    // A short text of lapin's has 255 bytes at most.
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn write_long(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes what has its size before it.
fn write_sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begins = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let size = (out.len() - begins - 4) as u32;
    out[begins..begins + 4].copy_from_slice(&size.to_be_bytes());
}

fn write_table(table: &FieldTable, out: &mut Vec<u8>) {
    write_sized(out, |out| {
        for (name, value) in table.inner() {
            write_short(name.as_str(), out);
            write_value(value, out);
        }
    });
}

fn write_list(list: &FieldArray, out: &mut Vec<u8>) {
    write_sized(out, |out| list.as_slice().iter().for_each(|value| write_value(value, out)));
}

fn write_value(value: &AMQPValue, out: &mut Vec<u8>) {
    let mut plain = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend_from_slice(bytes);
    };
    match value {
        AMQPValue::Boolean(is) => plain(b't', &[u8::from(*is)]),
        AMQPValue::ShortShortInt(number) => plain(b'b', &number.to_be_bytes()),
        AMQPValue::ShortShortUInt(number) => plain(b'B', &number.to_be_bytes()),
        AMQPValue::ShortInt(number) => plain(b's', &number.to_be_bytes()),
        AMQPValue::ShortUInt(number) => plain(b'u', &number.to_be_bytes()),
        AMQPValue::LongInt(number) => plain(b'I', &number.to_be_bytes()),
        AMQPValue::LongUInt(number) => plain(b'i', &number.to_be_bytes()),
        AMQPValue::LongLongInt(number) => plain(b'l', &number.to_be_bytes()),
        AMQPValue::Timestamp(time) => plain(b'T', &time.to_be_bytes()),
        AMQPValue::Float(number) => plain(b'f', &number.to_be_bytes()),
        AMQPValue::Double(number) => plain(b'd', &number.to_be_bytes()),
        AMQPValue::DecimalValue(number) => {
            plain(b'D', &[number.scale]);
            out.extend_from_slice(&number.value.to_be_bytes());
        }
        AMQPValue::ShortString(text) => {
            out.push(b'S');
            write_long(text.as_str().as_bytes(), out);
        }
        AMQPValue::LongString(bytes) => {
            out.push(b'S');
            write_long(bytes.as_bytes(), out);
        }
        AMQPValue::ByteArray(bytes) => {
            out.push(b'x');
            write_long(bytes.as_slice(), out);
        }
        AMQPValue::FieldArray(list) => {
            out.push(b'A');
            write_list(list, out);
        }
        AMQPValue::FieldTable(table) => {
            out.push(b'F');
            write_table(table, out);
        }
        _ => out.push(b'V'),
    }
}

/// Places of properties in their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) content_type: Option<&'a [u8]>,
    pub(super) content_encoding: Option<&'a [u8]>,
    /// The members of the table of headers.
    pub(super) headers: &'a [u8],
    pub(super) delivery_mode: Option<u8>,
    pub(super) priority: Option<u8>,
    pub(super) correlation_id: Option<&'a [u8]>,
    pub(super) reply_to: Option<&'a [u8]>,
    pub(super) expiration: Option<&'a [u8]>,
    pub(super) message_id: Option<&'a [u8]>,
    pub(super) timestamp: Option<u64>,
    pub(super) kind: Option<&'a [u8]>,
    pub(super) app_id: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = RawReader(bytes);
        let flags = u16::from_be_bytes(reader.array()?);
        let has = |bit: u16| flags & (1 << bit) != 0;
        let mut to = Self::default();
        let text = |bit: u16, reader: &mut RawReader<'a>| if has(bit) { reader.short().map(Some) } else { Some(None) };
        to.content_type = text(15, &mut reader)?;
        to.content_encoding = text(14, &mut reader)?;
        if has(13) {
            to.headers = reader.long()?;
        }
        if has(12) {
            to.delivery_mode = Some(reader.array::<1>()?[0]);
        }
        if has(11) {
            to.priority = Some(reader.array::<1>()?[0]);
        }
        to.correlation_id = text(10, &mut reader)?;
        to.reply_to = text(9, &mut reader)?;
        to.expiration = text(8, &mut reader)?;
        to.message_id = text(7, &mut reader)?;
        if has(6) {
            to.timestamp = Some(u64::from_be_bytes(reader.array()?));
        }
        to.kind = text(5, &mut reader)?;
        text(4, &mut reader)?;
        to.app_id = text(3, &mut reader)?;
        Some(to)
    }

    /// Returns a header.
    pub(super) fn header(&self, name: &str) -> Option<RawValue<'a>> {
        members(self.headers).find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value)
    }
}

/// A value in its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RawValue<'a> {
    Nothing,
    Is(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'a [u8]),
    /// Its members.
    Table(&'a [u8]),
    /// Its values.
    List(&'a [u8]),
}

/// Returns names and values of a table, as far as they can be read.
pub(super) fn members(table: &[u8]) -> impl Iterator<Item = (&[u8], RawValue<'_>)> {
    let mut reader = RawReader(table);
    std::iter::from_fn(move || Some((reader.short()?, reader.value()?)))
}

/// Returns the values of a list, as far as they can be read.
pub(super) fn values(list: &[u8]) -> impl Iterator<Item = RawValue<'_>> {
    let mut reader = RawReader(list);
    std::iter::from_fn(move || reader.value())
}

/// Returns whether a value at this depth is still read.
pub(super) fn is_read(depth: usize) -> bool {
    depth < DEPTH
}

/// Reads on, or gives up with `None`.
pub(super) struct RawReader<'a>(pub(super) &'a [u8]);

impl<'a> RawReader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let size = self.array::<1>()?[0];
        self.take(size.into())
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let size = u32::from_be_bytes(self.array()?);
        self.take(size as usize)
    }

    fn value(&mut self) -> Option<RawValue<'a>> {
        use RawValue::{Float, Is, List, Nothing, Signed, Table, Text, Unsigned};
        Some(match self.array::<1>()?[0] {
            b't' => Is(self.array::<1>()?[0] != 0),
            b'b' => Signed(i8::from_be_bytes(self.array()?).into()),
            b'B' => Unsigned(u8::from_be_bytes(self.array()?).into()),
            b's' | b'U' => Signed(i16::from_be_bytes(self.array()?).into()),
            b'u' => Unsigned(u16::from_be_bytes(self.array()?).into()),
            b'I' => Signed(i32::from_be_bytes(self.array()?).into()),
            b'i' => Unsigned(u32::from_be_bytes(self.array()?).into()),
            b'L' | b'l' => Signed(i64::from_be_bytes(self.array()?)),
            b'T' => Unsigned(u64::from_be_bytes(self.array()?)),
            b'f' => Float(f32::from_be_bytes(self.array()?).into()),
            b'd' => Float(f64::from_be_bytes(self.array()?)),
            b'D' => {
                let scale = self.array::<1>()?[0];
                Float(f64::from(u32::from_be_bytes(self.array()?)) / 10_f64.powi(scale.into()))
            }
            b'V' => Nothing,
            b'S' | b'x' => Text(self.long()?),
            b'F' => Table(self.long()?),
            b'A' => List(self.long()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::DecimalValue;
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            Just(AMQPValue::Void),
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            (-1e9_f32..1e9).prop_map(AMQPValue::Float),
            (-1e9_f64..1e9).prop_map(AMQPValue::Double),
            (0_u8..9, any::<u32>()).prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
            "\\PC{0,20}".prop_map(|text| AMQPValue::LongString(text.into())),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|list| AMQPValue::FieldArray(list.into())),
                prop::collection::btree_map("[a-z]{0,9}", inner, 0..4).prop_map(|map| AMQPValue::FieldTable(table(map))),
            ]
        })
    }

    fn table(map: std::collections::BTreeMap<String, AMQPValue>) -> FieldTable {
        FieldTable::from(map.into_iter().map(|(name, value)| (name.into(), value)).collect::<std::collections::BTreeMap<ShortString, _>>())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_by_lapin_and_here(
            headers in prop::option::of(prop::collection::btree_map("[a-z]{0,9}", value(), 0..6)),
            texts in prop::collection::vec(prop::option::of("\\PC{0,30}"), 10),
            numbers in (any::<Option<u8>>(), any::<Option<u8>>(), any::<Option<u64>>()),
        ) {
            let mut properties = BasicProperties::default();
            macro_rules! set {
                ($($at:literal $with:ident),*) => { $(if let Some(text) = &texts[$at] { properties = properties.$with(text.as_str().into()); })* };
            }
            set!(0 with_content_type, 1 with_content_encoding, 2 with_correlation_id, 3 with_reply_to, 4 with_expiration,
                 5 with_message_id, 6 with_type, 7 with_user_id, 8 with_app_id, 9 with_cluster_id);
            let size = headers.as_ref().map(std::collections::BTreeMap::len);
            if let Some(headers) = headers { properties = properties.with_headers(table(headers)); }
            if let Some(mode) = numbers.0 { properties = properties.with_delivery_mode(mode); }
            if let Some(priority) = numbers.1 { properties = properties.with_priority(priority); }
            if let Some(time) = numbers.2 { properties = properties.with_timestamp(time); }
            let raw = RawProperties::of(&properties);
            prop_assert_eq!(raw.parse(), properties);
            let fields = raw.fields();
            let bytes = |at: usize| texts[at].as_ref().map(String::as_bytes);
            prop_assert_eq!((fields.content_type, fields.content_encoding), (bytes(0), bytes(1)));
            prop_assert_eq!((fields.correlation_id, fields.reply_to, fields.expiration), (bytes(2), bytes(3), bytes(4)));
            prop_assert_eq!((fields.message_id, fields.kind, fields.app_id), (bytes(5), bytes(6), bytes(8)));
            prop_assert_eq!((fields.delivery_mode, fields.priority, fields.timestamp), numbers);
            prop_assert_eq!(members(fields.headers).count(), size.unwrap_or(0));
        }

        #[test]
        fn no_bytes_stop_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let raw = RawProperties::received(bytes.clone());
            let _ = (raw.parse(), raw.fields(), members(&bytes).count(), values(&bytes).count());
        }
    }
}
