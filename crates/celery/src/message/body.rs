//! What is packed inside a message: base64, compression, and under them arguments and what comes
//! after the task.

use std::{
    borrow::Cow,
    io::{Read, Write},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{
    bufread::{GzDecoder, ZlibDecoder},
    write::ZlibEncoder,
};

use super::{
    Compression, Limits, Message, MessageFault,
    decode::{DecodeFault, EnvelopeWords, array, header, known, map, nullable, object, within},
};
use crate::{
    signature::WireSignature,
    value::{Value, ValueError, msgpack, read::Scan},
};

/// The larger ones of zstd's windows would make a few bytes claim gigabytes of memory.
const ZSTD_WINDOW_LOG: u32 = 26;

/// Reads the body into the message.
pub(super) fn read(packing: &EnvelopeWords<'_>, limits: &Limits, message: &mut Message) -> Result<(), DecodeFault> {
    let json = json(packing, limits)?;
    if json.len() > limits.body {
        return Err(DecodeFault(MessageFault::TooLarge, format!("the body has {} bytes, and {} are accepted", json.len(), limits.body)));
    }
    contents(&json, limits, message).map_err(|bad| bad.within("the body"))
}

/// The body as JSON.
fn json<'b>(packing: &'b EnvelopeWords<'_>, limits: &Limits) -> Result<Cow<'b, [u8]>, DecodeFault> {
    let text = packing.body.as_ref().map(known).unwrap_or_default();
    let bytes = match packing.body_encoding.as_deref() {
        Some("base64") => Cow::Owned(unpack_base64(text)?),
        None | Some("") => Cow::Borrowed(text.as_bytes()),
        Some(other) => {
            return Err(DecodeFault(MessageFault::Unreadable, format!("body_encoding is {other:?}; base64 and plain text can be read")));
        }
    };
    let bytes = match packing.compression.as_deref() {
        None | Some("") => bytes,
        Some(how) => Cow::Owned(inflate(&bytes, how, limits.body)?),
    };
    match packing.content_encoding.as_deref().unwrap_or("utf-8").to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" | "binary" | "" => {}
        other => return Err(DecodeFault(MessageFault::Unreadable, format!("content-encoding is {other:?}; utf-8 and binary can be read"))),
    }
    let refused =
        |what: &str| Err(DecodeFault(MessageFault::ContentType, format!("content type {what}; send JSON (task_serializer = \"json\")")));
    match packing.content_type.as_deref() {
        Some("application/json") => Ok(bytes),
        Some("application/x-msgpack" | "application/msgpack") if limits.msgpack => {
            let value = msgpack::parse(&bytes, limits.depth, limits.values).map_err(|error| DecodeFault::from(error).within("the body"))?;
            Ok(Cow::Owned(value.to_json()))
        }
        Some(name @ ("application/x-msgpack" | "application/msgpack")) => refused(&format!("{name} (MessagePack) is not accepted here")),
        Some(name @ "application/x-python-serialize") => refused(&format!("{name} (pickle) is never accepted: reading it can run code")),
        Some(name @ ("application/x-yaml" | "text/yaml")) => refused(&format!("{name} (YAML) is not accepted")),
        Some(other) => refused(&format!("{other:?} is not known")),
        None => Err(DecodeFault(MessageFault::Malformed, "the message has no content-type".to_owned())),
    }
}

pub(super) fn unpack_base64(text: &str) -> Result<Vec<u8>, DecodeFault> {
    STANDARD
        .decode(text)
        .or_else(|wrong| {
            // Some write it in lines.
            let lines = text.bytes().any(|byte| byte.is_ascii_whitespace());
            if lines { STANDARD.decode(text.split_ascii_whitespace().collect::<String>()) } else { Err(wrong) }
        })
        .map_err(|wrong| DecodeFault(MessageFault::Unreadable, format!("the body is not base64, though body_encoding says so: {wrong}")))
}

impl Compression {
    /// The one of this name: `zlib` or `gzip`, `zstd` or `zstandard`, or as it stands in a header.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "zlib" | "gzip" | "application/x-gzip" => Some(Self::Zlib),
            "zstd" | "zstandard" | "application/zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// As kombu names it in a message.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Zlib => "application/x-gzip",
            Self::Zstd => "application/zstd",
        }
    }

    pub(super) fn pack(self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Self::Zstd => zstd::encode_all(bytes, zstd::DEFAULT_COMPRESSION_LEVEL),
        }
    }
}

/// Unpacks what was compressed, and stops at the limit.
fn inflate(packed: &[u8], how: &str, limit: usize) -> Result<Vec<u8>, DecodeFault> {
    let refused = |name: &str| {
        Err(DecodeFault(
            MessageFault::Compression,
            format!("compression {how} ({name}) is not accepted; send with compression \"zlib\", \"zstd\" or none"),
        ))
    };
    match how {
        "application/x-gzip" | "gzip" | "zlib" | "application/zstd" | "zstd" | "zstandard" => {}
        "application/x-bz2" | "bzip2" | "bzip" => return refused("bzip2"),
        "application/x-lzma" | "lzma" | "xz" => return refused("xz"),
        "application/x-brotli" | "brotli" => return refused("brotli"),
        _ => return refused("unknown"),
    }
    inflate_up_to(packed, how.contains("zst"), limit).map_err(|error| match error {
        Some(error) => DecodeFault(MessageFault::Unreadable, format!("the body is not what its compression {how} says: {error}")),
        None => DecodeFault(MessageFault::TooLarge, format!("the body, unpacked, has more than the {limit} bytes that are accepted")),
    })
}

/// Unpacks zlib, gzip (which Celery calls zlib) or zstd; `None`: there is more than the limit.
pub(crate) fn inflate_up_to(packed: &[u8], zstd: bool, limit: usize) -> Result<Vec<u8>, Option<std::io::Error>> {
    let stream: Box<dyn Read + '_> = if zstd {
        let mut decoder = zstd::Decoder::with_buffer(packed)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Box::new(decoder)
    } else if packed.starts_with(&[0x1f, 0x8b]) {
        Box::new(GzDecoder::new(packed))
    } else {
        Box::new(ZlibDecoder::new(packed))
    };
    let mut unpacked = Vec::new();
    stream.take(limit as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > limit { Err(None) } else { Ok(unpacked) }
}

fn contents(json: &[u8], limits: &Limits, message: &mut Message) -> Result<(), DecodeFault> {
    let mut scan = Scan::new(json, limits.depth)?.up_to(limits.values);
    if scan.peek() == Some(b'{') && message.task.is_empty() {
        protocol_1(&mut scan, limits, message)?;
    } else {
        let mut count = 0;
        array(&mut scan, |scan, index| {
            count = index + 1;
            match index {
                0 => args(scan, limits, message).map_err(|error| error.in_item(0)),
                1 => kwargs(scan, limits, message).map_err(|error| error.in_item(1)),
                2 => nullable(scan, |scan| object(scan, |scan, name| within(name, |name| embedded(scan, known(name), message))))
                    .map_err(|error| error.in_item(2)),
                _ => scan.skip().map(|_| ()),
            }
        })?;
        if count != 3 {
            return Err(DecodeFault(
                MessageFault::Malformed,
                format!("expected a list of three (arguments, keyword arguments, what follows), found {count}"),
            ));
        }
    }
    scan.end()?;
    Ok(())
}

fn protocol_1(scan: &mut Scan<'_>, limits: &Limits, message: &mut Message) -> Result<(), ValueError> {
    scan.object(|scan, name| match known(&name) {
        "args" => within(name, |_| args(scan, limits, message)),
        "kwargs" => within(name, |_| kwargs(scan, limits, message)),
        "callbacks" | "errbacks" | "chord" => within(name, |name| embedded(scan, known(name), message)),
        "taskset" => {
            if let Value::Text(group) = scan.value()? {
                message.group = Some(group);
            }
            Ok(())
        }
        _ => match header(scan, name, message)? {
            Some(_) => scan.skip().map(|_| ()),
            None => Ok(()),
        },
    })
}

fn too_many(limits: &Limits) -> ValueError {
    ValueError::many(limits.args, "arguments")
}

fn args(scan: &mut Scan<'_>, limits: &Limits, message: &mut Message) -> Result<(), ValueError> {
    message.args.clear();
    nullable(scan, |scan| {
        array(scan, |scan, index| {
            if index >= limits.args {
                return Err(too_many(limits));
            }
            message.args.push(scan.value().map_err(|error| error.in_item(index))?);
            Ok(())
        })
    })
}

fn kwargs(scan: &mut Scan<'_>, limits: &Limits, message: &mut Message) -> Result<(), ValueError> {
    message.kwargs = map(scan)?;
    if message.kwargs.len() > limits.args { Err(too_many(limits)) } else { Ok(()) }
}

/// Reads what comes after the task.
fn embedded(scan: &mut Scan<'_>, name: &str, message: &mut Message) -> Result<(), ValueError> {
    match name {
        "callbacks" => message.callbacks = signatures(scan.value()?)?.unwrap_or_default(),
        "errbacks" => message.errbacks = signatures(scan.value()?)?.unwrap_or_default(),
        "chain" => {
            message.chain = match scan.value()? {
                // Celery takes its last one off, so one alone is none.
                one @ Value::Map(_) => return Err(ValueError::expected("a list of signatures", &one)),
                list => signatures(list)?,
            }
        }
        "chord" => {
            message.chord = match scan.value()? {
                Value::Null => None,
                chord => Some(Arc::new(WireSignature::from_value(chord)?)),
            }
        }
        _ => scan.skip().map(|_| ())?,
    }
    Ok(())
}

/// A list of signatures, one alone, or none.
fn signatures(value: Value) -> Result<Option<Vec<WireSignature>>, ValueError> {
    match value {
        Value::Null => Ok(None),
        Value::List(list) => {
            let each = list.into_iter().enumerate();
            each.map(|(index, value)| WireSignature::from_value(value).map_err(|error| error.in_item(index)))
                .collect::<Result<_, _>>()
                .map(Some)
        }
        one => Ok(Some(vec![WireSignature::from_value(one)?])),
    }
}
