//! A publisher that writes AMQP's frames by hand: what no client library lets anybody send.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;
/// Both sides' largest frame, unless the server says otherwise.
pub const FRAME_MAX: usize = 131_072;

/// A connection with one channel, on which each message is confirmed. A channel that the server
/// closes is opened again.
pub struct RawPublisher {
    stream: TcpStream,
    port: u16,
    vhost: String,
}

/// Properties of a message as they are on the wire, in the order of the protocol.
#[derive(Clone, Debug, Default)]
pub struct RawProperties {
    values: [Option<Vec<u8>>; 14],
}

/// Places of properties.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the protocol's own names")]
pub enum Place {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

impl RawProperties {
    /// Sets a property to these bytes, as they stand on the wire.
    #[must_use]
    pub fn raw(mut self, place: Place, bytes: &[u8]) -> Self {
        self.values[place as usize] = Some(bytes.to_vec());
        self
    }

    /// Sets one to a short string.
    #[must_use]
    pub fn short(self, place: Place, bytes: &[u8]) -> Self {
        self.raw(place, &short(bytes))
    }

    /// Sets the table of headers; see [`field`].
    #[must_use]
    pub fn headers(self, table: &[u8]) -> Self {
        self.raw(Place::Headers, &long(table))
    }

    /// Returns the size of the frame that carries them.
    pub fn size_of_frame(&self) -> usize {
        7 + 12 + self.encode().len() + 1
    }

    fn encode(&self) -> Vec<u8> {
        let flags = (0..14).filter(|at| self.values[*at].is_some()).fold(0_u16, |flags, at| flags | 1 << (15 - at));
        let mut bytes = flags.to_be_bytes().to_vec();
        self.values.iter().flatten().for_each(|value| bytes.extend_from_slice(value));
        bytes
    }
}

/// Returns bytes with their length in front, as a short string has it. What is longer is cut.
pub fn short(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(255)];
    [&[u8::try_from(bytes.len()).unwrap_or(255)], bytes].concat()
}

/// Returns bytes with their length in front, as a long string, a table and a list have it.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes(), bytes].concat()
}

/// Returns a member of a table: its name, the letter of its type, and its value as on the wire.
pub fn field(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[kind], value].concat()
}

/// Returns a member of a table that is a text.
pub fn text(name: &str, text: &str) -> Vec<u8> {
    field(name.as_bytes(), b'S', &long(text.as_bytes()))
}

/// Returns a table in tables, so many levels deep.
pub fn nested(levels: usize) -> Vec<u8> {
    // From the inside: each level is a name, a type and a length before what is in it.
    let mut bytes = Vec::new();
    for level in (0..levels).rev() {
        let inside = (levels - 1 - level) * 7;
        bytes.push([&[1, b'a', b'F'][..], &u32::try_from(inside).unwrap_or(u32::MAX).to_be_bytes()].concat());
    }
    bytes.reverse();
    bytes.concat()
}

impl RawPublisher {
    /// Connects as `guest` and opens a channel.
    ///
    /// # Errors
    /// The server is away, or refuses it.
    pub fn connect(port: u16, vhost: &str) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut publisher = Self { stream, port, vhost: vhost.to_owned() };
        publisher.stream.write_all(b"AMQP\0\0\x09\x01")?;
        publisher.expect(10, 10)?;
        let login = [&long(b"")[..], &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")].concat();
        publisher.method(0, 10, 11, &login)?;
        let mut tuned = publisher.expect(10, 30)?;
        // No heartbeat.
        let end = tuned.len();
        tuned[end - 2..].fill(0);
        publisher.method(0, 10, 31, &tuned)?;
        let open = [&short(vhost.as_bytes())[..], &[0, 0]].concat();
        publisher.method(0, 10, 40, &open)?;
        publisher.expect(10, 41)?;
        publisher.open()?;
        Ok(publisher)
    }

    fn open(&mut self) -> io::Result<()> {
        self.method(1, 20, 10, &[0])?;
        self.expect(20, 11)?;
        self.method(1, 85, 10, &[0])?;
        self.expect(85, 11).map(drop)
    }

    /// Publishes, and waits for the confirmation. What the server says where it refuses the
    /// message, is the inner error.
    ///
    /// # Errors
    /// The server is away.
    pub fn publish(&mut self, exchange: &[u8], key: &[u8], properties: &RawProperties, body: &[u8]) -> io::Result<Result<(), String>> {
        let publish = [&[0, 0][..], &short(exchange), &short(key), &[0]].concat();
        self.method(1, 60, 40, &publish)?;
        let size = u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes();
        self.frame(HEADER, 1, &[&[0, 60, 0, 0][..], &size, &properties.encode()].concat())?;
        for piece in body.chunks(FRAME_MAX - 8) {
            self.frame(BODY, 1, piece)?;
        }
        self.confirmed()
    }

    fn confirmed(&mut self) -> io::Result<Result<(), String>> {
        loop {
            let (channel, class, method, arguments) = match self.read() {
                Ok(read) => read,
                Err(error) => {
                    *self = Self::connect(self.port, &self.vhost)?;
                    return Ok(Err(format!("it ends the connection: {error}")));
                }
            };
            let said = || {
                let size = usize::from(arguments.get(2).copied().unwrap_or(0));
                String::from_utf8_lossy(arguments.get(3..3 + size).unwrap_or_default()).into_owned()
            };
            match (class, method) {
                (60, 80) => return Ok(Ok(())),
                (60, 120) => return Ok(Err("nack".to_owned())),
                (20, 40) => {
                    let said = said();
                    self.method(channel, 20, 41, &[])?;
                    self.open()?;
                    return Ok(Err(said));
                }
                (10, 50) => {
                    let said = said();
                    *self = Self::connect(self.port, &self.vhost)?;
                    return Ok(Err(said));
                }
                _ => {}
            }
        }
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[END]].concat();
        self.stream.write_all(&frame)
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> io::Result<()> {
        self.frame(METHOD, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat())
    }

    /// Reads the next method: channel, class, number, arguments.
    fn read(&mut self) -> io::Result<(u16, u16, u16, Vec<u8>)> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head)?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.stream.read_exact(&mut payload)?;
            payload.pop();
            if head[0] == METHOD && payload.len() >= 4 {
                let of = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
                return Ok((u16::from_be_bytes([head[1], head[2]]), of(0), of(2), payload[4..].to_vec()));
            }
        }
    }

    fn expect(&mut self, class: u16, method: u16) -> io::Result<Vec<u8>> {
        let (_, was_class, was_method, arguments) = self.read()?;
        if (class, method) == (was_class, was_method) {
            return Ok(arguments);
        }
        Err(io::Error::other(format!(
            "method {was_class}.{was_method} in place of {class}.{method}: {}",
            String::from_utf8_lossy(&arguments)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::nested;

    #[test]
    fn tables_lie_in_tables() {
        assert_eq!(nested(2), [1, b'a', b'F', 0, 0, 0, 7, 1, b'a', b'F', 0, 0, 0, 0]);
    }
}
