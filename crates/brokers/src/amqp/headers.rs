//! Looks at the properties of messages before lapin does. It ends the connection, or this whole
//! process, over properties that RabbitMQ takes from anybody: names that are not UTF-8, tables in
//! tables by the thousand. They are taken out here, and kept in a header of their own: the message
//! comes through, cannot be read, and harms nobody.
//!
//! Names of exchanges and routing keys are a stranger's as well, and what the server says of
//! anything is cut after so many bytes. Over a text that is not UTF-8 lapin ends the connection,
//! and the message comes again on the next one.
//!
//! Pure: bytes in, bytes out, whatever the pieces in which they come. The format is that of AMQP
//! 0-9-1, sections 2.3 and 4.2, with RabbitMQ's types of values.

/// The header that stands in place of properties that cannot be read, with their bytes.
pub(super) const UNREADABLE: &str = "x-longshore-unreadable";

/// Bytes of a frame before its payload.
const HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;
/// The deepest nesting of tables and lists that is let through. Celery's own have three levels.
const DEPTH: usize = 64;

/// Takes frames out of what goes on.
pub(super) trait Taker {
    /// Says whether a method frame is taken.
    fn method(&mut self, channel: u16, payload: &[u8]) -> bool;
    /// Says whether a header frame is taken.
    fn header(&mut self, channel: u16, payload: &[u8]) -> bool;
    /// Says whether a body frame is taken.
    fn has_body(&mut self, channel: u16) -> bool;
    /// Takes bytes of it.
    fn body(&mut self, channel: u16, piece: &[u8]);
}

/// A filter of what a server sends.
#[derive(Debug, Default)]
pub(super) struct HeaderFilter {
    /// A frame that has come in part, if it is one that is looked at, or its first bytes.
    partial: Vec<u8>,
    /// Bytes of another frame that are still to come, and pass as they are.
    passing: usize,
    /// Bytes of a body that are still to come, and the channel of whoever takes them; then the last
    /// byte of the frame.
    taking: Option<(usize, u16)>,
    /// The largest frame that the server has announced; 0 where there is none.
    most: usize,
    /// Properties that were taken out.
    pub(super) replaced: u64,
}

impl HeaderFilter {
    /// Returns whether all that went on so far are whole frames.
    pub(super) fn is_between(&self) -> bool {
        self.passing == 0
    }

    /// Takes bytes as they come, and appends those that go on.
    pub(super) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, taker: &mut impl Taker) {
        while !bytes.is_empty() {
            if let Some((left, channel)) = self.taking {
                let (now, rest) = bytes.split_at(left.min(bytes.len()));
                taker.body(channel, now);
                bytes = rest;
                self.taking = Some((left - now.len(), channel));
                if left == now.len() && !bytes.is_empty() {
                    self.taking = None;
                    bytes = &bytes[1..];
                }
                continue;
            }
            if self.passing > 0 {
                let (now, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                bytes = rest;
                continue;
            }
            if self.partial.is_empty() && bytes.len() >= HEAD {
                let size = size_of_frame(bytes);
                if !is_looked_at(bytes[0]) {
                    if self.takes_body(&bytes[..HEAD], size, taker) {
                        bytes = &bytes[HEAD..];
                    } else {
                        self.passing = size;
                    }
                    continue;
                }
                if let Some(frame) = bytes.get(..size) {
                    self.look(frame, out, taker);
                    bytes = &bytes[size..];
                    continue;
                }
            }
            // The size of a frame stands in its first seven bytes.
            let wanted = if self.partial.len() < HEAD { HEAD } else { size_of_frame(&self.partial) };
            let (now, rest) = bytes.split_at((wanted - self.partial.len()).min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = rest;
            if self.partial.len() < HEAD {
                continue;
            }
            let size = size_of_frame(&self.partial);
            if !is_looked_at(self.partial[0]) {
                let head = std::mem::take(&mut self.partial);
                if !self.takes_body(&head, size, taker) {
                    self.passing = size - head.len();
                    out.extend_from_slice(&head);
                }
            } else if self.partial.len() == size {
                let frame = std::mem::take(&mut self.partial);
                self.look(&frame, out, taker);
            }
        }
    }

    /// Begins to take the body of a frame, if somebody wants it.
    fn takes_body(&mut self, head: &[u8], size: usize, taker: &mut impl Taker) -> bool {
        let takes = head[0] == BODY && taker.has_body(channel_of(head));
        if takes {
            self.taking = Some((size - HEAD - 1, channel_of(head)));
        }
        takes
    }

    /// Lets a whole frame through, or another in its place, if nobody takes it.
    fn look(&mut self, frame: &[u8], out: &mut Vec<u8>, taker: &mut impl Taker) {
        let begins = out.len();
        self.mended(frame, out);
        let payload = &out[begins + HEAD..out.len() - 1];
        let channel = channel_of(frame);
        let taken = if frame[0] == METHOD { taker.method(channel, payload) } else { taker.header(channel, payload) };
        if taken {
            out.truncate(begins);
        }
    }

    /// Appends a frame, or another in its place.
    fn mended(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        if frame[0] == METHOD {
            let begins = out.len();
            out.extend_from_slice(frame);
            mend(&mut out[begins + HEAD..]);
            if let Some([0, 10, 0, 30, _, _, most @ ..]) = frame.get(HEAD..HEAD + 10) {
                self.most = u32::from_be_bytes([most[0], most[1], most[2], most[3]]) as usize;
            }
            return;
        }
        let payload = &frame[HEAD..frame.len() - 1];
        // Class, weight and the size of the body come before the properties.
        if payload.len() < 12 || is_readable(&payload[12..]) {
            out.extend_from_slice(frame);
            return;
        }
        self.replaced += 1;
        let name = UNREADABLE.as_bytes();
        let others = 1 + name.len() + 1 + 4;
        // Where they fill a frame by themselves, the last bytes do not fit.
        let room = if self.most == 0 { usize::MAX } else { self.most.saturating_sub(HEAD + 12 + 2 + 4 + others + 1) };
        let kept = &payload[12..payload.len().min(room.saturating_add(12))];
        let table = others + kept.len();
        let size = 12 + 2 + 4 + table;
        out.extend_from_slice(&frame[..3]);
        out.extend_from_slice(&(size as u32).to_be_bytes());
        out.extend_from_slice(&payload[..12]);
        // Of all properties there is only the table of headers.
        out.extend_from_slice(&(1_u16 << 13).to_be_bytes());
        out.extend_from_slice(&(table as u32).to_be_bytes());
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.push(b'S');
        out.extend_from_slice(&(kept.len() as u32).to_be_bytes());
        out.extend_from_slice(kept);
        out.push(END);
    }
}

fn channel_of(head: &[u8]) -> u16 {
    u16::from_be_bytes([head[1], head[2]])
}

/// Returns the whole size of a frame of which at least seven bytes are here.
fn size_of_frame(bytes: &[u8]) -> usize {
    let size = u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]);
    HEAD + size as usize + 1
}

/// Says whether frames of a kind are looked at whole.
fn is_looked_at(kind: u8) -> bool {
    matches!(kind, METHOD | HEADER)
}

/// Part of a method's arguments.
enum Part {
    Skip(usize),
    Text,
}

/// Puts a question mark for each byte of a method's texts that are no UTF-8. Nothing here asks for
/// their contents.
fn mend(method: &mut [u8]) {
    use Part::{Skip, Text};
    let parts: &[Part] = match method {
        // The end of a connection or of a channel: a code, and what happened.
        [0, 10, 0, 50, ..] | [0, 20, 0, 40, ..] => &[Skip(2), Text],
        // A message that comes back: a code, a text, exchange and key.
        [0, 60, 0, 50, ..] => &[Skip(2), Text, Text, Text],
        // A delivery: its consumer, tag and flag, exchange and key.
        [0, 60, 0, 60, ..] => &[Text, Skip(9), Text, Text],
        // One that was asked for.
        [0, 60, 0, 71, ..] => &[Skip(9), Text, Text],
        _ => return,
    };
    let mut at = 4;
    for part in parts {
        match part {
            Skip(count) => at += count,
            Text => {
                let Some(size) = method.get(at).copied() else { return };
                let Some(text) = method.get_mut(at + 1..at + 1 + usize::from(size)) else { return };
                if std::str::from_utf8(text).is_err() {
                    text.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
                }
                at += 1 + usize::from(size);
            }
        }
    }
}

/// Says whether properties are as lapin reads them.
fn is_readable(properties: &[u8]) -> bool {
    let mut reader = Reader { rest: properties };
    reader.properties().is_some() && reader.rest.is_empty()
}

/// Reads on, or gives up with `None`.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn size(&mut self) -> Option<usize> {
        let bytes = self.take(4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn short_text(&mut self) -> Option<()> {
        let size = self.byte()?;
        std::str::from_utf8(self.take(size.into())?).is_ok().then_some(())
    }

    /// Reads the flags, and the properties that they announce.
    fn properties(&mut self) -> Option<()> {
        let flags = self.take(2)?;
        let flags = u16::from_be_bytes([flags[0], flags[1]]);
        // The last bit would announce more flags, of which there are none; the one before it means
        // nothing.
        if flags & 0b11 != 0 {
            return None;
        }
        for property in 0..14 {
            if flags & (1 << (15 - property)) == 0 {
                continue;
            }
            match property {
                // The table of headers.
                2 => self.table()?,
                // Delivery mode and priority.
                3 | 4 => self.take(1).map(drop)?,
                // The time.
                9 => self.take(8).map(drop)?,
                _ => self.short_text()?,
            }
        }
        Some(())
    }

    /// Reads a table with all that is in it. What is open is kept in a list, not on the stack.
    fn table(&mut self) -> Option<()> {
        let mut open = vec![self.container(true)?];
        while let Some((end, named)) = open.last().copied() {
            if self.rest.len() == end {
                open.pop();
                continue;
            }
            if self.rest.len() < end {
                return None;
            }
            if named {
                self.short_text()?;
            }
            match self.byte()? {
                b't' | b'b' | b'B' => self.take(1).map(drop)?,
                b's' | b'U' | b'u' => self.take(2).map(drop)?,
                b'I' | b'i' | b'f' => self.take(4).map(drop)?,
                b'L' | b'l' | b'd' | b'T' => self.take(8).map(drop)?,
                b'D' => self.take(5).map(drop)?,
                b'V' => {}
                b'S' | b'x' => {
                    let size = self.size()?;
                    self.take(size)?;
                }
                kind @ (b'F' | b'A') => {
                    if open.len() == DEPTH {
                        return None;
                    }
                    open.push(self.container(kind == b'F')?);
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// Reads the size of a table or a list. Returns how much is left behind its end, and whether
    /// its members have names.
    fn container(&mut self, named: bool) -> Option<(usize, bool)> {
        let size = self.size()?;
        Some((self.rest.len().checked_sub(size)?, named))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, 1];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        frame.push(END);
        frame
    }

    /// A header frame with this table.
    fn header(table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        payload.extend_from_slice(&[0x20, 0]);
        payload.extend_from_slice(&(table.len() as u32).to_be_bytes());
        payload.extend_from_slice(table);
        frame(HEADER, &payload)
    }

    /// Passes all on; nothing is on channel 0.
    fn passed(bytes: &[u8], pieces: usize) -> (Vec<u8>, u64) {
        let (mut filter, mut out) = (HeaderFilter::default(), Vec::new());
        bytes.chunks(pieces.max(1)).for_each(|piece| filter.pass(piece, &mut out, &mut Kept::default()));
        (out, filter.replaced)
    }

    /// Takes all of one channel.
    #[derive(Default)]
    struct Kept {
        channel: u16,
        kept: Vec<(u8, Vec<u8>)>,
    }

    impl Taker for Kept {
        fn method(&mut self, channel: u16, payload: &[u8]) -> bool {
            let is = channel == self.channel;
            self.kept.extend(is.then(|| (METHOD, payload.to_vec())));
            is
        }

        fn header(&mut self, channel: u16, payload: &[u8]) -> bool {
            let is = channel == self.channel;
            self.kept.extend(is.then(|| (HEADER, payload.to_vec())));
            is
        }

        fn has_body(&mut self, channel: u16) -> bool {
            self.kept.extend((channel == self.channel).then(|| (BODY, Vec::new())));
            channel == self.channel
        }

        fn body(&mut self, channel: u16, piece: &[u8]) {
            assert_eq!(channel, self.channel);
            self.kept.last_mut().unwrap().1.extend_from_slice(piece);
        }
    }

    fn nested(levels: usize) -> Vec<u8> {
        let mut table = Vec::new();
        for _ in 0..levels {
            let mut outer = vec![1, b'a', b'F'];
            outer.extend_from_slice(&(table.len() as u32).to_be_bytes());
            outer.extend_from_slice(&table);
            table = outer;
        }
        table
    }

    #[test]
    fn headers_that_can_be_read_pass_as_they_are() {
        for table in [
            vec![],
            b"\x02idS\0\0\0\x01x\x03etaV\x01tt\x01\x01iI\0\0\0\x05\x01lA\0\0\0\x02VV".to_vec(),
            b"\x01aL\0\0\0\0\0\0\0\x01\x01dd\0\0\0\0\0\0\0\0\x01DD\x02\0\0\0\x07\x01TT\0\0\0\0\0\0\0\x09".to_vec(),
            // A text of any bytes is a text.
            b"\x01sS\0\0\0\x02\xff\xfe".to_vec(),
            nested(DEPTH - 1),
        ] {
            let bytes = header(&table);
            assert_eq!(passed(&bytes, bytes.len()), (bytes.clone(), 0), "{table:?}");
        }
    }

    #[test]
    fn headers_that_cannot_be_read_come_as_one_that_keeps_their_bytes() {
        for table in [
            // A name that is not UTF-8, a type that nobody knows, a size beyond the end.
            b"\x02\xff\xfeV".to_vec(),
            b"\x01aQ".to_vec(),
            b"\x01aS\0\0\0\x09x".to_vec(),
            b"\x01aF\0\0\0\x09".to_vec(),
            b"\x09a".to_vec(),
            nested(DEPTH),
            nested(9_000),
        ] {
            let bytes = header(&table);
            let (out, replaced) = passed(&bytes, bytes.len());
            assert_eq!(replaced, 1, "{}", table.len());
            assert!(is_readable(&out[7 + 12..out.len() - 1]));
            assert_eq!(size_of_frame(&out), out.len());
            let kept = out.windows(table.len()).any(|window| window == table);
            assert!(kept, "the bytes are there");
        }
    }

    #[test]
    fn what_stands_in_place_of_others_is_no_larger_than_a_frame_may_be() {
        let tune = frame(METHOD, b"\0\x0a\0\x1e\x07\xff\0\0\x10\0\0\x3c");
        let table = [&b"\x01aQ"[..], &[7; 4096 - HEAD - 12 - 2 - 4 - 3 - 1]].concat();
        let bytes = header(&table);
        assert_eq!(bytes.len(), 4096);
        let (out, replaced) = passed(&[&tune[..], &bytes].concat(), 100);
        assert_eq!((replaced, out.len()), (1, tune.len() + 4096));
        assert!(is_readable(&out[tune.len() + HEAD + 12..out.len() - 1]));
    }

    #[test]
    fn texts_of_methods_that_are_no_utf8_have_question_marks() {
        for (method, mended) in [
            (
                &b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\xff\x01\x02\xff\xfe\x03a\xc3k"[..],
                &b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\xff\x01\x02??\x03a?k"[..],
            ),
            (b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\xff\x01\0\x02\xc3\xa4", b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\xff\x01\0\x02\xc3\xa4"),
            (b"\0\x3c\0\x47\0\0\0\0\0\0\0\xff\x01\x01\xff\x01\xfe\0\0\0\xff", b"\0\x3c\0\x47\0\0\0\0\0\0\0\xff\x01\x01?\x01?\0\0\0\xff"),
            (b"\0\x14\0\x28\x01\x94\x02n\xc3\0\0\0\0", b"\0\x14\0\x28\x01\x94\x02n?\0\0\0\0"),
            (b"\0\x0a\0\x32\x01\x94\xff\xfe", b"\0\x0a\0\x32\x01\x94\xff\xfe"),
            // Others, and what is too short, stay as they are.
            (b"\0\x0a\0\x0a\xff\xfe", b"\0\x0a\0\x0a\xff\xfe"),
            (b"\0\x3c\0\x3c", b"\0\x3c\0\x3c"),
        ] {
            for pieces in [1, 5, 1000] {
                assert_eq!(passed(&frame(METHOD, method), pieces).0, frame(METHOD, mended));
            }
        }
    }

    #[test]
    fn properties_that_are_no_utf8_are_taken_out_too() {
        // The content type.
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 2, 0xc3, 0x28];
        assert_eq!(passed(&frame(HEADER, &payload), 1000).1, 1);
        payload.truncate(12);
        payload.extend_from_slice(&[0x80, 0, 2, b'o', b'k']);
        assert_eq!(passed(&frame(HEADER, &payload), 1000).1, 0);
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_the_same_goes_on(
            frames in prop::collection::vec((1_u8..4, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
            pieces in 1_usize..40,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            let whole = passed(&bytes, bytes.len());
            prop_assert_eq!(passed(&bytes, pieces), whole.clone());
            // Frames stay frames, and those that are no headers stay as they are.
            let (mut rest, mut kinds) = (&whole.0[..], Vec::new());
            while !rest.is_empty() {
                let size = size_of_frame(rest);
                prop_assert_eq!(rest[size - 1], END);
                kinds.push(rest[0]);
                rest = &rest[size..];
            }
            prop_assert_eq!(kinds, frames.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_taken_is_whole_and_the_rest_goes_on(
            frames in prop::collection::vec((prop_oneof![Just(METHOD), Just(BODY), Just(8)], 1_u16..4, prop::collection::vec(any::<u8>(), 0..60)), 0..12),
            pieces in 1_usize..40,
        ) {
            let bytes = |taken: bool| -> Vec<Vec<u8>> {
                let is = |(kind, channel, _): &&(u8, u16, Vec<u8>)| (*channel == 2 && *kind != 8) == taken;
                frames.iter().filter(is).map(|(kind, channel, payload)| {
                    let mut frame = frame(*kind, payload);
                    frame[2] = *channel as u8;
                    frame
                }).collect()
            };
            let all: Vec<u8> = frames.iter().flat_map(|(kind, channel, payload)| {
                let mut frame = frame(*kind, payload);
                frame[2] = *channel as u8;
                frame
            }).collect();
            let (mut filter, mut out, mut taker) = (HeaderFilter::default(), Vec::new(), Kept { channel: 2, kept: Vec::new() });
            all.chunks(pieces).for_each(|piece| filter.pass(piece, &mut out, &mut taker));
            let mended = passed(&bytes(false).concat(), 1000).0;
            prop_assert_eq!(out, mended);
            prop_assert!(filter.is_between());
            let kinds: Vec<_> = taker.kept.iter().map(|(kind, payload)| (*kind, payload.len())).collect();
            let expected: Vec<_> = bytes(true).iter().map(|frame| (frame[0], frame.len() - HEAD - 1)).collect();
            prop_assert_eq!(kinds, expected);
        }

        #[test]
        fn no_bytes_stop_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            is_readable(&bytes);
        }
    }
}
