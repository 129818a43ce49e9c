//! Reading JSON: a scanner over bytes that are known to be UTF-8. The readers of messages and
//! results drive it directly, member by member, so that what they know needs no tree in between;
//! everything else becomes a [`Value`].

use memchr::memchr2;

use super::{MOST_DEPTH, Map, Value, ValueError};

/// A position in a JSON text.
pub(crate) struct Scan<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    limit: usize,
    /// Most values that may be made, and the number of those that were.
    values: (usize, usize),
}

/// A text as it was found.
#[derive(Debug, PartialEq)]
pub(crate) enum Text<'a> {
    /// Nothing in it was escaped.
    Plain(&'a str),
    /// It was escaped.
    Unescaped(String),
    /// It has lone surrogates: what stands between the quotes.
    Lone(&'a str),
}

impl Text<'_> {
    /// The text, if it has no lone surrogates.
    pub(crate) fn into_string(self) -> Option<String> {
        match self {
            Text::Plain(text) => Some(text.to_owned()),
            Text::Unescaped(text) => Some(text),
            Text::Lone(_) => None,
        }
    }

    /// The text, with lone surrogates replaced.
    pub(crate) fn into_shown(self) -> String {
        match self {
            Text::Plain(text) => text.to_owned(),
            Text::Unescaped(text) => text,
            Text::Lone(escaped) => unescape(escaped).map_or_else(|_| escaped.to_owned(), |(text, _)| text),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Text::Plain(text) => Value::Text(text.to_owned()),
            Text::Unescaped(text) => Value::Text(text),
            Text::Lone(escaped) => Value::Escaped(escaped.into()),
        }
    }
}

impl<'a> Scan<'a> {
    pub(crate) fn new(json: &'a [u8], depth: usize) -> Result<Self, ValueError> {
        let text = std::str::from_utf8(json).map_err(|wrong| ValueError::syntax(format!("not UTF-8 at byte {}", wrong.valid_up_to())))?;
        Ok(Self { text, at: 0, depth: 0, limit: depth.min(MOST_DEPTH), values: (usize::MAX, 0) })
    }

    /// The same, making no more values than this.
    pub(crate) fn up_to(mut self, values: usize) -> Self {
        self.values.0 = values;
        self
    }

    /// Returns the place that it has read up to.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not blank, which stays.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn wrong(&self, expected: &str) -> ValueError {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => ValueError::syntax(format!("not JSON: expected {expected} at byte {}, found {found:?}", self.at)),
            None => ValueError::syntax(format!("not JSON: it ends at byte {} where {expected} was expected", self.at)),
        }
    }

    /// Takes this byte if it is the next one.
    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    /// Nothing but blanks may follow.
    pub(crate) fn end(&mut self) -> Result<(), ValueError> {
        if self.peek().is_none() { Ok(()) } else { Err(self.wrong("nothing more")) }
    }

    fn enter(&mut self, open: u8, expected: &str) -> Result<(), ValueError> {
        if !self.take(open) {
            return Err(self.wrong(expected));
        }
        self.depth += 1;
        if self.depth > self.limit { Err(ValueError::deep(self.limit)) } else { Ok(()) }
    }

    /// Goes through an object: `each` is called with a member's name and must read its value.
    pub(crate) fn object(&mut self, mut each: impl FnMut(&mut Self, Text<'a>) -> Result<(), ValueError>) -> Result<(), ValueError> {
        self.enter(b'{', "an object")?;
        if !self.take(b'}') {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(self.wrong("a member's name"));
                }
                let name = self.text()?;
                if !self.take(b':') {
                    return Err(self.wrong("':'"));
                }
                each(self, name)?;
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.wrong("',' or '}'"));
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Goes through an array: `each` is called with an item's index and must read it.
    pub(crate) fn array(&mut self, mut each: impl FnMut(&mut Self, usize) -> Result<(), ValueError>) -> Result<(), ValueError> {
        self.enter(b'[', "a list")?;
        if !self.take(b']') {
            let mut index = 0;
            loop {
                each(self, index)?;
                index += 1;
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.wrong("',' or ']'"));
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Any value.
    pub(crate) fn value(&mut self) -> Result<Value, ValueError> {
        self.values.1 += 1;
        if self.values.1 > self.values.0 {
            return Err(ValueError::many(self.values.0, "values"));
        }
        match self.peek() {
            Some(b'"') => Ok(self.text()?.into_value()),
            Some(b'{') => Ok(Value::Map(self.map()?)),
            Some(b'[') => {
                let mut list = Vec::new();
                self.array(|scan, _| {
                    list.push(scan.value()?);
                    Ok(())
                })?;
                Ok(Value::List(list))
            }
            Some(b'0'..=b'9') => self.number(),
            Some(b'-') if self.word("-Infinity") => Ok(Value::Float(f64::NEG_INFINITY)),
            Some(b'-') => self.number(),
            Some(b'n') if self.word("null") => Ok(Value::Null),
            Some(b't') if self.word("true") => Ok(Value::Bool(true)),
            Some(b'f') if self.word("false") => Ok(Value::Bool(false)),
            Some(b'N') if self.word("NaN") => Ok(Value::Float(f64::NAN)),
            Some(b'I') if self.word("Infinity") => Ok(Value::Float(f64::INFINITY)),
            _ => Err(self.wrong("a value")),
        }
    }

    /// An object as a map.
    pub(crate) fn map(&mut self) -> Result<Map, ValueError> {
        let mut members = Vec::new();
        self.object(|scan, name| {
            let name = scan.name(name)?;
            members.push((name, scan.value()?));
            Ok(())
        })?;
        Ok(Map(members))
    }

    /// A member's name to keep.
    pub(crate) fn name(&self, name: Text<'a>) -> Result<String, ValueError> {
        name.into_string()
            .ok_or_else(|| ValueError::syntax(format!("the name of a member that ends at byte {} has a lone surrogate", self.at)))
    }

    /// Goes past a value, whose text it returns.
    pub(crate) fn skip(&mut self) -> Result<&'a str, ValueError> {
        self.peek();
        let from = self.at;
        match self.peek() {
            Some(b'"') => self.text_span().map(|_| ())?,
            Some(b'n') if self.word("null") => {}
            Some(b'{') => self.object(|scan, _| scan.skip().map(|_| ()))?,
            Some(b'[') => self.array(|scan, _| scan.skip().map(|_| ()))?,
            _ => self.value().map(|_| ())?,
        }
        Ok(&self.text[from..self.at])
    }

    /// This word, if it is the next one.
    pub(crate) fn word(&mut self, word: &str) -> bool {
        self.peek();
        let is = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if is { word.len() } else { 0 };
        is
    }

    /// Reads what stands between the quotes of a text, and whether anything in it is escaped.
    #[inline]
    fn text_span(&mut self) -> Result<(&'a str, bool), ValueError> {
        let text = self.text;
        let from = self.at + 1;
        let mut to = from;
        let mut escaped = false;
        // Names are short: for them looking at each byte is quicker than calling what is quick for
        // long ones.
        for (at, byte) in text.as_bytes()[from..].iter().take(16).enumerate() {
            match byte {
                b'"' => {
                    self.at = from + at + 1;
                    return Ok((&text[from..from + at], false));
                }
                b'\\' => break,
                _ => to = from + at + 1,
            }
        }
        loop {
            match memchr2(b'"', b'\\', &text.as_bytes()[to..]) {
                None => {
                    self.at = text.len();
                    return Err(self.wrong("the end of a text"));
                }
                Some(far) if text.as_bytes()[to + far] == b'"' => {
                    self.at = to + far + 1;
                    return Ok((&text[from..to + far], escaped));
                }
                Some(far) => {
                    escaped = true;
                    to = (to + far + 2).min(text.len());
                }
            }
        }
    }

    /// A text; the next byte is its quote.
    pub(crate) fn text(&mut self) -> Result<Text<'a>, ValueError> {
        let from = self.at;
        let (span, escaped) = self.text_span()?;
        if !escaped {
            return Ok(Text::Plain(span));
        }
        match unescape(span) {
            Ok((text, false)) => Ok(Text::Unescaped(text)),
            Ok((_, true)) => Ok(Text::Lone(span)),
            Err(at) => {
                self.at = from + 1 + at;
                Err(self.wrong("a known escape"))
            }
        }
    }

    fn number(&mut self) -> Result<Value, ValueError> {
        let bytes = self.text.as_bytes();
        let from = self.at;
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let first = from + usize::from(bytes[from] == b'-');
        let mut to = digits(first);
        if to == first || (bytes[first] == b'0' && to > first + 1) {
            self.at = to.min(first + 1);
            return Err(self.wrong("a number"));
        }
        let mut float = false;
        if bytes.get(to) == Some(&b'.') && digits(to + 1) > to + 1 {
            (to, float) = (digits(to + 1), true);
        }
        if let Some(b'e' | b'E') = bytes.get(to) {
            let power = to + 1 + usize::from(matches!(bytes.get(to + 1), Some(b'+' | b'-')));
            if digits(power) > power {
                (to, float) = (digits(power), true);
            }
        }
        self.at = to;
        let number = &self.text[from..to];
        if float {
            return number.parse().map(Value::Float).map_err(|_| self.wrong("a number"));
        }
        Ok(number.parse().map_or_else(|_| Value::Big(number.into()), Value::Int))
    }
}

/// The text that an escaped one stands for, and whether lone surrogates had to be replaced; an
/// error with the place of an escape that is none.
fn unescape(escaped: &str) -> Result<(String, bool), usize> {
    let bytes = escaped.as_bytes();
    let hex = |at: usize| -> Result<u16, usize> {
        let digits = bytes.get(at..at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or(at)?;
        Ok(digits.iter().fold(0, |all, digit| all << 4 | char::from(*digit).to_digit(16).unwrap_or(0) as u16))
    };
    let mut text = String::with_capacity(escaped.len());
    let mut lone = false;
    let mut at = 0;
    // Whole runs without a backslash are copied at once.
    while let Some(far) = memchr::memchr(b'\\', &bytes[at..]) {
        text.push_str(&escaped[at..at + far]);
        at += far;
        let plain = match bytes.get(at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                // Beyond the first plane a character is two escapes; one alone has no meaning.
                let high = hex(at + 2)?;
                let pair = (0xD800..0xDC00).contains(&high) && bytes.get(at + 6..at + 8) == Some(b"\\u");
                let low = if pair { hex(at + 8)? } else { 0 };
                if (0xDC00..0xE000).contains(&low) {
                    at += 6;
                    char::decode_utf16([high, low]).next().and_then(Result::ok).unwrap_or(char::REPLACEMENT_CHARACTER)
                } else {
                    char::from_u32(high.into()).unwrap_or_else(|| {
                        lone = true;
                        char::REPLACEMENT_CHARACTER
                    })
                }
            }
            _ => return Err(at),
        };
        at += if bytes[at + 1] == b'u' { 6 } else { 2 };
        text.push(plain);
    }
    text.push_str(&escaped[at..]);
    Ok((text, lone))
}
