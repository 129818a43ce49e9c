//! Rust's source as tokens and comments, each with its line. It needs no more than to know strings,
//! comments and brackets for what they are: a file that does not compile is read somehow.

/// One token.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Kind of the token.
    pub kind: TokenKind,
    /// The token as it is written.
    pub text: &'a str,
    /// Line on which it begins, from 1.
    pub line: usize,
}

/// Kind of a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A name or a keyword.
    Word,
    /// A string, a character or a number.
    Literal,
    /// One sign. A bracket is one, too.
    Sign,
}

/// One line comment, or one line of a block comment.
#[derive(Clone, Copy, Debug)]
pub struct CommentLine<'a> {
    /// Line on which it stands, from 1.
    pub line: usize,
    /// The comment with its slashes.
    pub text: &'a str,
    /// True where code stands before it on its line.
    pub after_code: bool,
}

impl CommentLine<'_> {
    /// Returns true for `///` and `//!`.
    pub fn is_doc(&self) -> bool {
        (self.text.starts_with("///") && !self.text.starts_with("////")) || self.text.starts_with("//!")
    }
}

impl Token<'_> {
    /// Returns true for this sign.
    pub fn is(&self, sign: char) -> bool {
        self.kind == TokenKind::Sign && self.text.starts_with(sign)
    }

    /// Returns true for this name or keyword.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text == word
    }
}

/// Returns the tokens and the comments of a source text.
pub fn read(source: &str) -> (Vec<Token<'_>>, Vec<CommentLine<'_>>) {
    let mut reader = Reader { source, at: 0, line: 1, tokens: Vec::new(), comments: Vec::new() };
    while reader.step() {}
    (reader.tokens, reader.comments)
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token<'a>>,
    comments: Vec<CommentLine<'a>>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Reads what stands next; false at the end.
    fn step(&mut self) -> bool {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return false };
        match first {
            _ if first.is_whitespace() => self.skip(first.len_utf8()),
            '/' if rest.starts_with("//") => {
                let length = rest.find('\n').unwrap_or(rest.len());
                self.comment(length);
            }
            '/' if rest.starts_with("/*") => self.block_comment(),
            '"' => self.literal(after_string(rest, 1)),
            '\'' => self.quote(),
            'r' | 'b' | 'c' if let Some(length) = prefixed_literal(rest) => self.literal(length),
            _ if first.is_ascii_digit() => self.literal(after_number(rest)),
            _ if is_name(first) => {
                let length = rest.strip_prefix("r#").map_or(0, |_| 2);
                let length = length + rest[length..].find(|c: char| !is_name(c)).unwrap_or(rest.len() - length);
                self.token(TokenKind::Word, length);
            }
            _ => self.token(TokenKind::Sign, first.len_utf8()),
        }
        true
    }

    fn skip(&mut self, length: usize) {
        self.line += self.rest()[..length].matches('\n').count();
        self.at += length;
    }

    fn token(&mut self, kind: TokenKind, length: usize) {
        self.tokens.push(Token { kind, text: &self.rest()[..length], line: self.line });
        self.skip(length);
    }

    fn literal(&mut self, length: usize) {
        self.token(TokenKind::Literal, length);
    }

    fn comment(&mut self, length: usize) {
        let after_code = self.tokens.last().is_some_and(|token| token.line == self.line);
        for (nth, text) in self.rest()[..length].split('\n').enumerate() {
            self.comments.push(CommentLine { line: self.line + nth, text: text.trim(), after_code: after_code && nth == 0 });
        }
        self.skip(length);
    }

    fn block_comment(&mut self) {
        let rest = self.rest();
        let (mut depth, mut at) = (0, 0);
        while at < rest.len() {
            let here = &rest.as_bytes()[at..];
            if here.starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else if here.starts_with(b"*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            } else {
                at += 1;
            }
        }
        self.comment(at);
    }

    /// A lifetime, or a character.
    fn quote(&mut self) {
        let rest = self.rest();
        let mut chars = rest.char_indices().skip(1);
        let second = chars.next().map_or('\'', |(_, c)| c);
        let third = chars.next();
        if second != '\\' && third.is_none_or(|(_, c)| c != '\'') {
            let length = rest[1..].find(|c: char| !is_name(c)).map_or(rest.len(), |length| length + 1);
            return self.token(TokenKind::Sign, length.max(1));
        }
        let mut escaped = false;
        let end = rest[1..].char_indices().find(|(_, c)| {
            let closes = *c == '\'' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        self.literal(end.map_or(rest.len(), |(at, _)| at + 2));
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Returns the length of a string whose text begins at `from`.
fn after_string(rest: &str, from: usize) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(from) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// Returns the length of a string or byte that begins with letters (`r"…"`, `br#"…"#`, `b'…'`,
/// `c"…"`).
fn prefixed_literal(rest: &str) -> Option<usize> {
    let letters = rest.find(|c| !matches!(c, 'r' | 'b' | 'c')).filter(|letters| *letters <= 2)?;
    let raw = rest[..letters].contains('r');
    let after = &rest[letters..];
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    if raw && after[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let text = letters + hashes + 1;
        return Some(rest[text..].find(&end).map_or(rest.len(), |at| text + at + end.len()));
    }
    if after.starts_with('"') {
        return Some(after_string(rest, letters + 1));
    }
    if &rest[..letters] == "b" && after.starts_with('\'') {
        let escape = usize::from(after[1..].starts_with('\\'));
        return Some(rest[2 + escape + 1..].find('\'').map_or(rest.len(), |at| at + 2 + escape + 2));
    }
    None
}

/// Returns the length of a number; `1..2` has two.
fn after_number(rest: &str) -> usize {
    let digits = |from: usize| rest[from..].find(|c: char| !is_name(c)).map_or(rest.len(), |at| from + at);
    let end = digits(0);
    let mut fraction = rest[end..].chars();
    if fraction.next() == Some('.') && fraction.next().is_some_and(|c| c.is_ascii_digit()) { digits(end + 1) } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_comments_and_brackets_are_known_for_what_they_are() {
        for (source, tokens, comments) in [
            ("let a = \"// {\"; // why", &["let", "a", "=", "\"// {\"", ";"][..], &["// why"][..]),
            (r##"r#"a"b"# r"\" b"\"" b'\'' b'{'"##, &[r##"r#"a"b"#"##, r#"r"\""#, r#"b"\"""#, r"b'\''", "b'{'"], &[]),
            ("'{' '\\'' &'a str", &["'{'", "'\\''", "&", "'a", "str"], &[]),
            ("1..2 1.5 0x_ff.max(r#type)", &["1", ".", ".", "2", "1.5", "0x_ff", ".", "max", "(", "r#type", ")"], &[]),
            ("a /* x /* y */\n z */ b", &["a", "b"], &["/* x /* y */", "z */"]),
            ("'é' 'static", &["'é'", "'static"], &[]),
        ] {
            let read = read(source);
            assert_eq!(read.0.iter().map(|token| token.text).collect::<Vec<_>>(), tokens, "{source}");
            assert_eq!(read.1.iter().map(|comment| comment.text).collect::<Vec<_>>(), comments, "{source}");
        }
    }
}
