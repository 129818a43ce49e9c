//! The frames that go past lapin (AMQP 0-9-1, section 4.2.3, and class `basic`): written for what
//! is published and acknowledged, read for what is delivered, confirmed and returned.
//!
//! Pure: bytes in, bytes out.

use super::properties::RawReader;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;
/// Bytes of a frame before its payload.
const HEAD: usize = 7;
/// Bytes of a frame that are not its payload.
const AROUND: usize = HEAD + 1;
/// Class `basic`.
const BASIC: [u8; 2] = [0, 60];

/// A message on its way to an exchange.
pub(super) struct Outgoing<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    pub(super) mandatory: bool,
    pub(super) properties: &'a [u8],
    pub(super) body: &'a [u8],
}

/// Writes a frame whose payload is written by this.
fn frame(kind: u8, channel: u16, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let begins = out.len() + 4;
    out.extend_from_slice(&[0; 4]);
    payload(out);
    let size = (out.len() - begins) as u32;
    out[begins - 4..begins].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

fn short(text: &str, out: &mut Vec<u8>) {
    // What is longer would be another frame; names of queues and exchanges are looked at before.
    let end = (0..=text.len().min(255)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    out.push(end as u8);
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// Writes a message, in frames that are no larger than that.
pub(super) fn publish(channel: u16, message: &Outgoing<'_>, frame_max: usize, out: &mut Vec<u8>) {
    out.reserve(message.properties.len() + message.body.len() + message.key.len() + message.exchange.len() + 3 * AROUND + 24);
    frame(METHOD, channel, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
        short(message.exchange, out);
        short(message.key, out);
        out.push(u8::from(message.mandatory));
    });
    frame(HEADER, channel, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(message.body.len() as u64).to_be_bytes());
        out.extend_from_slice(message.properties);
    });
    for part in message.body.chunks(frame_max.saturating_sub(AROUND).max(1)) {
        frame(BODY, channel, out, |out| out.extend_from_slice(part));
    }
}

/// Writes an acknowledgement: of this tag, or of all up to it.
pub(super) fn ack(channel: u16, tag: u64, multiple: bool, out: &mut Vec<u8>) {
    frame(METHOD, channel, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 80]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// Writes that a message goes back to its place.
pub(super) fn give_back(channel: u16, tag: u64, out: &mut Vec<u8>) {
    frame(METHOD, channel, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 120]);
        out.extend_from_slice(&tag.to_be_bytes());
        // Not those before it; requeued.
        out.push(0b10);
    });
}

/// Writes that a message is rejected: its queue has it dead-lettered, or drops it.
pub(super) fn reject(channel: u16, tag: u64, out: &mut Vec<u8>) {
    frame(METHOD, channel, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 90]);
        out.extend_from_slice(&tag.to_be_bytes());
        // Not requeued.
        out.push(0);
    });
}

/// Writes a sign of life.
pub(super) fn heartbeat(out: &mut Vec<u8>) {
    frame(8, 0, out, |_| {});
}

/// A method of the server's, as far as it means something here.
#[derive(Debug, PartialEq)]
pub(super) enum Method<'a> {
    /// A message begins.
    Deliver { consumer: &'a [u8], tag: u64, redelivered: bool },
    /// A message begins that nobody takes.
    Return { exchange: &'a [u8], key: &'a [u8] },
    /// The server has what was sent, or (`ok` is false) does not take it.
    Confirm { tag: u64, multiple: bool, ok: bool },
    /// The channel is ended by the server.
    ChannelClose { code: u16, text: &'a [u8] },
    /// The channel's end was ours, and is confirmed.
    ChannelClosed,
    /// The connection is ended by the server.
    ConnectionClose { code: u16, text: &'a [u8] },
}

impl<'a> Method<'a> {
    /// Reads a method frame's payload; `None` if it is another one.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        let mut reader = RawReader(payload);
        let (class, method) = (reader.array::<2>()?, u16::from_be_bytes(reader.array()?));
        Some(match (class, method) {
            (BASIC, 60) => {
                let consumer = reader.short()?;
                let tag = u64::from_be_bytes(reader.array()?);
                Self::Deliver { consumer, tag, redelivered: reader.array::<1>()?[0] & 1 != 0 }
            }
            (BASIC, 50) => {
                reader.take(2)?;
                reader.short()?;
                Self::Return { exchange: reader.short()?, key: reader.short()? }
            }
            (BASIC, 80 | 120) => {
                let tag = u64::from_be_bytes(reader.array()?);
                Self::Confirm { tag, multiple: reader.array::<1>()?[0] & 1 != 0, ok: method == 80 }
            }
            ([0, 20], 40) => Self::ChannelClose { code: u16::from_be_bytes(reader.array()?), text: reader.short()? },
            ([0, 20], 41) => Self::ChannelClosed,
            ([0, 10], 50) => Self::ConnectionClose { code: u16::from_be_bytes(reader.array()?), text: reader.short()? },
            _ => return None,
        })
    }
}

/// Follows frames that come in pieces, to say where one ends.
#[derive(Debug, Default)]
pub(super) struct FrameEnds {
    head: Vec<u8>,
    left: usize,
}

impl FrameEnds {
    /// Takes bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at((HEAD - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(head);
                bytes = rest;
                if self.head.len() < HEAD {
                    return;
                }
                let size = u32::from_be_bytes([self.head[3], self.head[4], self.head[5], self.head[6]]) as usize;
                // A connection begins with eight bytes that are no frame.
                self.left = if self.head.starts_with(b"AMQP") { 1 } else { size + 1 };
                self.head.clear();
            }
            let now = self.left.min(bytes.len());
            self.left -= now;
            bytes = &bytes[now..];
        }
    }

    /// Returns whether all frames are whole.
    pub(super) fn is_between(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use proptest::prelude::*;

    use super::*;
    use crate::amqp::properties::RawProperties;

    #[test]
    fn a_message_is_written_in_frames_that_fit() {
        let properties = RawProperties::of(&BasicProperties::default().with_delivery_mode(2));
        let message = Outgoing { exchange: "e", key: "qq", mandatory: true, properties: properties.bytes(), body: b"12345" };
        let mut out = Vec::new();
        publish(7, &message, AROUND + 3, &mut out);
        let expected: &[&[u8]] = &[
            b"\x01\0\x07\0\0\0\x0c\0\x3c\0\x28\0\0\x01e\x02qq\x01\xce",
            b"\x02\0\x07\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x05\x10\0\x02\xce",
            b"\x03\0\x07\0\0\0\x03123\xce",
            b"\x03\0\x07\0\0\0\x0245\xce",
        ];
        assert_eq!(out, expected.concat());
        out.clear();
        publish(1, &Outgoing { body: b"", ..message }, 4096, &mut out);
        assert!(!out.windows(7).any(|bytes| bytes == b"\x03\0\x01\0\0\0\0"), "no body has no frame");
    }

    #[test]
    fn acknowledgements_are_written_and_read() {
        let mut out = Vec::new();
        ack(1, 5, true, &mut out);
        give_back(1, 6, &mut out);
        assert_eq!(out[..HEAD], *b"\x01\0\x01\0\0\0\x0d");
        assert_eq!(Method::read(&out[HEAD..HEAD + 13]), Some(Method::Confirm { tag: 5, multiple: true, ok: true }));
        assert_eq!(Method::read(&out[21 + HEAD..]), Some(Method::Confirm { tag: 6, multiple: false, ok: false }));
    }

    #[test]
    fn a_rejection_is_of_one_message_that_nobody_is_given_again() {
        let mut out = Vec::new();
        reject(1, 6, &mut out);
        assert_eq!(out, *b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x5a\0\0\0\0\0\0\0\x06\0\xce");
    }

    #[test]
    fn methods_of_the_servers_are_read_and_no_others() {
        for (payload, method) in [
            (
                &b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\x01\x02\x01\x01e\x01k"[..],
                Some(Method::Deliver { consumer: b"c", tag: 258, redelivered: true }),
            ),
            (b"\0\x3c\0\x32\x01\x38\x02no\x01e\x01k", Some(Method::Return { exchange: b"e", key: b"k" })),
            (b"\0\x14\0\x28\x01\x94\x02no\0\0\0\0", Some(Method::ChannelClose { code: 404, text: b"no" })),
            (b"\0\x14\0\x29", Some(Method::ChannelClosed)),
            (b"\0\x0a\0\x32\x01\x40\x02no\0\0\0\0", Some(Method::ConnectionClose { code: 320, text: b"no" })),
            (b"\0\x3c\0\x15\x01c", None),
            (b"\0\x3c\0\x3c\x09c", None),
            (b"", None),
        ] {
            assert_eq!(Method::read(payload), method, "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn ends_of_frames_are_found_whatever_the_pieces(sizes in prop::collection::vec(0_usize..300, 0..8), piece in 1_usize..50) {
            let (mut bytes, mut ends) = (b"AMQP\0\0\x09\x01".to_vec(), vec![0, 8]);
            for size in sizes {
                frame(BODY, 1, &mut bytes, |out| out.resize(out.len() + size, 7));
                ends.push(bytes.len());
            }
            let (mut follows, mut at) = (FrameEnds::default(), 0);
            for piece in bytes.chunks(piece) {
                follows.take(piece);
                at += piece.len();
                prop_assert_eq!(follows.is_between(), ends.contains(&at), "{}", at);
            }
        }

        #[test]
        fn no_bytes_stop_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Method::read(&bytes);
        }
    }
}
