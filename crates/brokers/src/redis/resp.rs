//! Redis' own protocol, both versions: commands to bytes, bytes to replies. No sockets in here.

use std::io::Write as _;

/// Reply of the server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A text of any bytes. Numbers with a fraction, truths and verbatim texts come as this too.
    Bulk(Vec<u8>),
    /// A list. Maps come as lists of key, value, key, value; sets as lists.
    List(Vec<Reply>),
    /// It refused.
    Error(String),
    /// Nobody asked for it: a message, an invalidation.
    Push(Vec<Reply>),
}

impl Reply {
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(number) => Some(*number),
            Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Reply::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Reply::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn into_list(self) -> Vec<Reply> {
        match self {
            Reply::List(list) | Reply::Push(list) => list,
            _ => Vec::new(),
        }
    }

    /// Returns the first error in it, at any depth.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Reply::Error(text) => Some(text),
            Reply::List(list) => list.iter().find_map(Reply::error),
            _ => None,
        }
    }
}

/// Result of reading a reply from the beginning of a buffer.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    /// A reply, and how many bytes it took.
    Whole(Reply, usize),
    /// At least so many bytes are needed in all.
    Short(usize),
    /// This is not Redis' protocol.
    Garbage,
}

const DEEPEST: usize = 32;
/// The longest text that Redis itself allows.
const LONGEST: usize = 512 << 20;

/// Reads one reply. Attributes are skipped.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut at = 0;
    match value(bytes, &mut at, 0) {
        Ok(reply) => Parsed::Whole(reply, at),
        Err(Some(need)) => Parsed::Short(need),
        Err(None) => Parsed::Garbage,
    }
}

/// As [`parse`], where much is there already: nothing is copied before the reply is whole, or all
/// that is there would be copied again for each part of it that comes.
pub(super) fn parse_much(bytes: &[u8]) -> Parsed {
    match skip(bytes, &mut 0, 0) {
        Ok(()) => parse(bytes),
        Err(Some(need)) => Parsed::Short(need),
        Err(None) => Parsed::Garbage,
    }
}

/// Passes one reply; texts are only measured.
fn skip(bytes: &[u8], at: &mut usize, depth: usize) -> ParseStep<()> {
    let mut left = 1_usize;
    if depth > DEEPEST {
        return Err(None);
    }
    while left > 0 {
        left -= 1;
        let kind = *bytes.get(*at).ok_or(Some(*at + 1))?;
        *at += 1;
        let line = line(bytes, at)?;
        match kind {
            b'$' | b'!' | b'=' => {
                let length = number(line)?;
                let Ok(length) = usize::try_from(length) else { continue };
                *at = at.checked_add(length).filter(|_| length <= LONGEST).ok_or(None)? + 2;
                if *at > bytes.len() {
                    return Err(Some(*at));
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = usize::try_from(number(line)?).unwrap_or(0);
                let count = if matches!(kind, b'%' | b'|') { count.checked_mul(2).ok_or(None)? } else { count };
                // An attribute stands before what it is of.
                left += usize::from(kind == b'|');
                for _ in 0..count {
                    skip(bytes, at, depth + 1)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// `Err(Some(n))`: n bytes are needed. `Err(None)`: garbage.
type ParseStep<T> = Result<T, Option<usize>>;

fn value(bytes: &[u8], at: &mut usize, depth: usize) -> ParseStep<Reply> {
    // Each level costs a frame of the stack, and the bytes come from outside.
    if depth > DEEPEST {
        return Err(None);
    }
    loop {
        let kind = *bytes.get(*at).ok_or(Some(*at + 1))?;
        *at += 1;
        let line = line(bytes, at)?;
        return Ok(match kind {
            b'+' | b',' | b'(' => Reply::Bulk(line.to_vec()),
            b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
            b':' => Reply::Int(number(line)?),
            b'#' => Reply::Int(i64::from(line == b"t")),
            b'_' => Reply::Nil,
            b'$' | b'!' | b'=' => {
                let length = number(line)?;
                if length < 0 {
                    return Ok(Reply::Nil);
                }
                let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or(None)?;
                let end = *at + length;
                let tail = bytes.get(end..end + 2).ok_or(Some(end + 2))?;
                if tail != b"\r\n" {
                    return Err(None);
                }
                let text = &bytes[*at..end];
                *at = end + 2;
                match kind {
                    b'!' => Reply::Error(String::from_utf8_lossy(text).into_owned()),
                    // A text of this kind begins with the name of its format: `txt:`.
                    b'=' => Reply::Bulk(text.get(4..).unwrap_or_default().to_vec()),
                    _ => Reply::Bulk(text.to_vec()),
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = number(line)?;
                if count < 0 {
                    return Ok(Reply::Nil);
                }
                let mut count = usize::try_from(count).map_err(|_| None)?;
                if matches!(kind, b'%' | b'|') {
                    count = count.checked_mul(2).ok_or(None)?;
                }
                // What is announced is not believed before it is there.
                let mut list = Vec::with_capacity(count.min(1024));
                for _ in 0..count {
                    list.push(value(bytes, at, depth + 1)?);
                }
                match kind {
                    // Attributes only describe the reply that follows them.
                    b'|' => continue,
                    b'>' => Reply::Push(list),
                    _ => Reply::List(list),
                }
            }
            _ => return Err(None),
        });
    }
}

fn line<'a>(bytes: &'a [u8], at: &mut usize) -> ParseStep<&'a [u8]> {
    let rest = &bytes[*at..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\r') else {
        // A line that does not end is no line of Redis.
        return Err(if rest.len() > 64 << 10 { None } else { Some(bytes.len() + 1) });
    };
    match rest.get(end + 1) {
        None => Err(Some(bytes.len() + 1)),
        Some(b'\n') => {
            *at += end + 2;
            Ok(&rest[..end])
        }
        Some(_) => Err(None),
    }
}

fn number(line: &[u8]) -> ParseStep<i64> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(None)
}

/// Commands that travel together, and how many replies they bring.
#[derive(Clone, Debug, Default)]
pub(super) struct Pack {
    head: Vec<u8>,
    body: Vec<u8>,
    replies: usize,
    asides: usize,
    /// True if it only looks: a key of another kind than it thinks has nothing to see in it.
    looks: bool,
    script: Option<&'static Script>,
}

/// A script, by its text. The server is asked to run it by its digest, and is given the text when
/// it does not know it.
#[derive(Debug)]
pub(super) struct Script {
    name: &'static str,
    text: &'static str,
    digest: std::sync::OnceLock<String>,
}

impl Script {
    pub(super) const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, digest: std::sync::OnceLock::new() }
    }

    pub(super) fn digest(&self) -> &str {
        self.digest.get_or_init(|| sha1_smol::Sha1::from(self.text).digest().to_string())
    }
}

impl Pack {
    /// Makes a pack of one command.
    pub(super) fn of(args: &[&[u8]]) -> Self {
        // With the lengths, which take 25 bytes at most.
        let size = args.iter().map(|arg| arg.len() + 25).sum::<usize>() + 25;
        let mut pack = Self { body: Vec::with_capacity(size), ..Self::default() };
        pack.add(args);
        pack
    }

    /// Makes one transaction of these commands.
    pub(super) fn transaction(fill: impl FnOnce(&mut Pack)) -> Self {
        let mut pack = Self::of(&[b"MULTI"]);
        fill(&mut pack);
        pack.add(&[b"EXEC"]);
        pack
    }

    pub(super) fn add(&mut self, args: &[&[u8]]) {
        let _ = write!(self.body, "*{}\r\n", args.len());
        args.iter().for_each(|arg| bulk(&mut self.body, arg));
        self.replies += 1;
    }

    /// Asks for something behind all the rest, whose answer does not decide whether the rest was
    /// done.
    pub(super) fn aside(&mut self, args: &[&[u8]]) {
        self.add(args);
        self.asides += 1;
    }

    /// The same, taking what lies under a key of another kind for nothing.
    pub(super) fn looking(self) -> Self {
        Self { looks: true, ..self }
    }

    pub(super) fn looks(&self) -> bool {
        self.looks
    }

    /// Returns its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Returns how many of the last replies are to what was asked aside.
    pub(super) fn asides(&self) -> usize {
        self.asides
    }

    pub(super) fn replies(&self) -> usize {
        self.replies
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replies == 0
    }

    /// Describes it for people: the command and its key, or the script and its keys; of several
    /// commands the first.
    pub(super) fn describe(&self) -> String {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes);
        let mut words = Vec::new();
        let mut rest = bytes.as_slice();
        while let Parsed::Whole(command, taken) = parse(rest) {
            words = command.into_list().iter().filter_map(Reply::text).collect();
            rest = &rest[taken..];
            if !matches!(words.first().map(String::as_str), Some("MULTI" | "SCRIPT")) {
                break;
            }
        }
        match (self.script, words.get(2).and_then(|keys| keys.parse::<usize>().ok())) {
            (Some(script), Some(keys)) => {
                format!("the script `{}` on {}", script.name, words[3..].iter().take(keys.min(6)).cloned().collect::<Vec<_>>().join(", "))
            }
            _ => words.iter().take(2).cloned().collect::<Vec<_>>().join(" "),
        }
    }

    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.body);
    }

    /// The same, bringing the script's text along; one more reply comes, before the others. `None`
    /// if there is no script in it.
    pub(super) fn with_script(&self) -> Option<Self> {
        let mut pack = Self::of(&[b"SCRIPT", b"LOAD", self.script?.text.as_bytes()]);
        self.write_to(&mut pack.body);
        pack.replies += self.replies;
        pack.asides = self.asides;
        pack.script = self.script;
        pack.looks = self.looks;
        Some(pack)
    }
}

/// A call of a script, being put together.
pub(super) struct RedisCall {
    script: &'static Script,
    keys: usize,
    count: usize,
    body: Vec<u8>,
}

impl RedisCall {
    /// Keys first, then arguments by [`arg`](Self::arg).
    pub(super) fn new(script: &'static Script, keys: &[&[u8]]) -> Self {
        let mut body = Vec::with_capacity(256);
        keys.iter().for_each(|key| bulk(&mut body, key));
        Self { script, keys: keys.len(), count: keys.len(), body }
    }

    pub(super) fn arg(&mut self, arg: impl AsRef<[u8]>) {
        bulk(&mut self.body, arg.as_ref());
        self.count += 1;
    }

    pub(super) fn number(&mut self, number: u64) {
        let mut digits = [0; 20];
        self.arg(decimal(number, &mut digits));
    }

    pub(super) fn pack(self) -> Pack {
        let mut head = Vec::with_capacity(96);
        let _ = write!(head, "*{}\r\n", self.count + 3);
        bulk(&mut head, b"EVALSHA");
        bulk(&mut head, self.script.digest().as_bytes());
        bulk(&mut head, self.keys.to_string().as_bytes());
        Pack { head, body: self.body, replies: 1, asides: 0, looks: false, script: Some(self.script) }
    }
}

fn bulk(out: &mut Vec<u8>, arg: &[u8]) {
    let mut digits = [0; 20];
    out.push(b'$');
    out.extend_from_slice(decimal(arg.len() as u64, &mut digits));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Reply {
        match parse(bytes) {
            Parsed::Whole(reply, taken) => {
                assert_eq!(taken, bytes.len());
                reply
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
        let cases: &[(&[u8], Reply)] = &[
            (b"+OK\r\n", bulk("OK")),
            (b"-ERR no\r\n", Reply::Error("ERR no".into())),
            (b":-12\r\n", Reply::Int(-12)),
            (b"$3\r\na\r\n\r\n", bulk("a\r\n")),
            (b"$-1\r\n", Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (b"_\r\n", Reply::Nil),
            (b"#t\r\n", Reply::Int(1)),
            (b",1.5\r\n", bulk("1.5")),
            (b"=6\r\ntxt:ab\r\n", bulk("ab")),
            (b"!5\r\nERR x\r\n", Reply::Error("ERR x".into())),
            (b"*2\r\n:1\r\n*0\r\n", Reply::List(vec![Reply::Int(1), Reply::List(vec![])])),
            (b"%1\r\n+a\r\n:2\r\n", Reply::List(vec![bulk("a"), Reply::Int(2)])),
            (b"|1\r\n+a\r\n:2\r\n:7\r\n", Reply::Int(7)),
            (b">2\r\n+invalidate\r\n*1\r\n$1\r\nq\r\n", Reply::Push(vec![bulk("invalidate"), Reply::List(vec![bulk("q")])])),
        ];
        for (bytes, reply) in cases {
            assert_eq!(&all(bytes), reply, "{}", String::from_utf8_lossy(bytes));
            assert_eq!(parse_much(bytes), parse(bytes));
            for end in 0..bytes.len() {
                for parse in [parse, parse_much] {
                    assert!(matches!(parse(&bytes[..end]), Parsed::Short(need) if need > end && need <= bytes.len()), "{end} of {bytes:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_garbage_and_never_a_panic() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"$9999999999999\r\n", b":x\r\n", b"$1\r\nabc", b"+a\rb", b"*99999999999999999999\r\n"] {
            assert_eq!(parse(bytes), Parsed::Garbage, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(parse(&b"*1\r\n".repeat(100)), Parsed::Garbage, "too deep");
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| *random.choice(b"*$+-:_#,(!=%~|>0129\r\nab").unwrap()).collect();
            let (parsed, much) = (parse(&bytes), parse_much(&bytes));
            assert!(much == parsed || !matches!(parsed, Parsed::Whole(..)), "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn commands_and_calls_are_written_as_the_server_reads_them() {
        static SCRIPT: Script = Script::new("one", "return 1");
        let mut call = RedisCall::new(&SCRIPT, &[b"k"]);
        call.number(120);
        let pack = call.pack();
        let mut out = Vec::new();
        pack.write_to(&mut out);
        // The digest is the one that `redis-cli script load "return 1"` prints.
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "*5\r\n$7\r\nEVALSHA\r\n$40\r\ne0e1f9fabfc9d4800c877a703b823ac0578ff8db\r\n$1\r\n1\r\n$1\r\nk\r\n$3\r\n120\r\n"
        );
        assert_eq!(pack.with_script().unwrap().replies(), 2);
        assert_eq!(Pack::transaction(|pack| pack.add(&[b"PING"])).replies(), 3);
    }
}
