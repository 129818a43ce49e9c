//! Search lines: words, `field:value`, phrases in quotes, AND, OR and groups.
//!
//! One reader for all: `search/terms.rs` has the fields of our own pages, `flower/search.rs` those
//! of Flower's lists.

mod terms;

pub(crate) use self::terms::{duration, fields, line, states_of, term_of};
use crate::history::Matching;

/// Longest search, in characters.
const LONGEST: usize = 2_048;
/// Most words and signs of it.
const MOST_TOKENS: usize = 128;
/// Most groups that stand in each other.
const DEEPEST: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Word(Term),
}

/// A word or a phrase of a search, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// Its text, without quotes.
    pub(crate) text: String,
    /// Bytes of it that stand before the first quote; none: it has no quotes.
    bare: Option<usize>,
    /// Characters before it.
    pub(crate) position: usize,
}

impl Term {
    /// Splits `field:value`; a colon behind a quote splits nothing.
    pub(crate) fn field(&self) -> Option<(&str, &str)> {
        let (field, value) = self.text.split_once(':')?;
        self.bare.is_none_or(|bare| field.len() < bare).then_some((field, value))
    }
}

/// Reads a term as what it looks for.
pub(crate) type ReadTerm<'a> = &'a dyn Fn(&Term) -> Result<Matching, String>;

/// Reads a search, each term of it as this says; `None` finds everything.
///
/// # Errors
/// A sentence on what is wrong, in Flower's words where it is no term.
pub(crate) fn read(text: &str, term: ReadTerm<'_>) -> Result<Option<Matching>, String> {
    let text = text.trim();
    if text.chars().count() > LONGEST {
        return Err(format!("Query exceeds {LONGEST} characters."));
    }
    let tokens = tokens(text)?;
    let end = text.chars().count();
    let mut reader = Reader { tokens, at: 0, end, term };
    if reader.tokens.is_empty() {
        return Ok(None);
    }
    let read = reader.either(0)?;
    match reader.next() {
        None => Ok(Some(read)),
        Some((token, position)) => Err(format!("Unexpected '{}' at position {position}.", token.text())),
    }
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Open => "(",
            Self::Close => ")",
            Self::And => "AND",
            Self::Or => "OR",
            Self::Word(term) => &term.text,
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, String> {
    let characters: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(character) = characters.get(at) {
        if character.is_whitespace() {
            at += 1;
            continue;
        }
        let position = at;
        let token = match character {
            '(' | ')' => {
                at += 1;
                if *character == '(' { Token::Open } else { Token::Close }
            }
            _ => word(&characters, &mut at)?,
        };
        tokens.push((token, position));
        if tokens.len() > MOST_TOKENS {
            return Err(format!("Query exceeds {MOST_TOKENS} tokens."));
        }
    }
    Ok(tokens)
}

/// Reads a word, or a phrase in quotes.
fn word(characters: &[char], at: &mut usize) -> Result<Token, String> {
    let position = *at;
    let (mut word, mut bare, mut in_quotes) = (String::new(), None, false);
    while let Some(character) = characters.get(*at) {
        match character {
            '\\' if matches!(characters.get(*at + 1), Some('"' | '\\')) => {
                word.push(characters[*at + 1]);
                *at += 2;
                continue;
            }
            '"' => (bare, in_quotes) = (bare.or(Some(word.len())), !in_quotes),
            character if !in_quotes && (character.is_whitespace() || matches!(character, '(' | ')')) => break,
            character => word.push(*character),
        }
        *at += 1;
    }
    match word.as_str() {
        _ if in_quotes => Err(format!("Unterminated quoted phrase at position {position}.")),
        "" => Err(format!("Empty search term at position {position}.")),
        "AND" if bare.is_none() => Ok(Token::And),
        "OR" if bare.is_none() => Ok(Token::Or),
        "NOT" if bare.is_none() => Err(format!("NOT is not supported at position {position}.")),
        _ => Ok(Token::Word(Term { text: word, bare, position })),
    }
}

struct Reader<'a> {
    tokens: Vec<(Token, usize)>,
    at: usize,
    /// Position behind the last character.
    end: usize,
    term: ReadTerm<'a>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn next(&mut self) -> Option<(Token, usize)> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    fn position(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |(_, position)| *position)
    }

    /// Takes AND or OR, behind which something has to come.
    fn operator(&mut self, word: &str) -> Result<(), String> {
        let position = self.position();
        self.at += 1;
        match self.peek() {
            Some(Token::Word(_) | Token::Open) => Ok(()),
            _ => Err(format!("{word} must be followed by a search term at position {position}.")),
        }
    }

    fn either(&mut self, depth: usize) -> Result<Matching, String> {
        let mut any = vec![self.each(depth)?];
        while self.peek() == Some(&Token::Or) {
            self.operator("OR")?;
            any.push(self.each(depth)?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Matching::Any(any) })
    }

    fn each(&mut self, depth: usize) -> Result<Matching, String> {
        let mut all = vec![self.primary(depth)?];
        while !matches!(self.peek(), None | Some(Token::Close | Token::Or)) {
            if self.peek() == Some(&Token::And) {
                self.operator("AND")?;
            }
            all.push(self.primary(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Matching::All(all) })
    }

    fn primary(&mut self, depth: usize) -> Result<Matching, String> {
        let position = self.position();
        match self.next() {
            Some((Token::Word(term), _)) => (self.term)(&term),
            Some((Token::Open, _)) if depth >= DEEPEST => Err(format!("Query nesting exceeds {DEEPEST} levels at position {position}.")),
            Some((Token::Open, _)) => {
                if self.peek() == Some(&Token::Close) {
                    return Err(format!("Empty group at position {position}."));
                }
                let group = self.either(depth + 1)?;
                match self.next() {
                    Some((Token::Close, _)) => Ok(group),
                    _ => Err(format!("Missing closing parenthesis at position {position}.")),
                }
            }
            _ => Err(format!("Expected a search term at position {position}.")),
        }
    }
}
