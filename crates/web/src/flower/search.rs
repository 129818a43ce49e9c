//! The search of Flower's lists: words, `field:value`, phrases in quotes, AND, OR and groups. It is
//! refused with Flower's sentences.

use crate::history::{MatchField, Matching};

/// Longest search, in characters.
const LONGEST: usize = 2_048;
/// Most words and signs of it.
const MOST_TOKENS: usize = 128;
/// Most groups that stand in each other.
const DEEPEST: usize = 5;
/// Shortest word that is looked for.
const SHORTEST: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Word(String),
}

/// Reads a search; `None` finds everything.
///
/// # Errors
/// Flower's sentence on what is wrong.
pub(super) fn read(text: &str) -> Result<Option<Matching>, String> {
    let text = text.trim();
    if text.chars().count() > LONGEST {
        return Err(format!("Query exceeds {LONGEST} characters."));
    }
    let tokens = tokens(text)?;
    let end = text.chars().count();
    let mut reader = Reader { tokens, at: 0, end };
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
            Self::Word(word) => word,
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
    let (mut word, mut has_quotes, mut in_quotes) = (String::new(), false, false);
    while let Some(character) = characters.get(*at) {
        match character {
            '\\' if matches!(characters.get(*at + 1), Some('"' | '\\')) => {
                word.push(characters[*at + 1]);
                *at += 2;
                continue;
            }
            '"' => (has_quotes, in_quotes) = (true, !in_quotes),
            character if !in_quotes && (character.is_whitespace() || matches!(character, '(' | ')')) => break,
            character => word.push(*character),
        }
        *at += 1;
    }
    match word.as_str() {
        _ if in_quotes => Err(format!("Unterminated quoted phrase at position {position}.")),
        "" => Err(format!("Empty search term at position {position}.")),
        "AND" if !has_quotes => Ok(Token::And),
        "OR" if !has_quotes => Ok(Token::Or),
        "NOT" if !has_quotes => Err(format!("NOT is not supported at position {position}.")),
        _ => Ok(Token::Word(word)),
    }
}

struct Reader {
    tokens: Vec<(Token, usize)>,
    at: usize,
    /// Position behind the last character.
    end: usize,
}

impl Reader {
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
            Some((Token::Word(word), _)) => term(&word, position),
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

fn term(word: &str, position: usize) -> Result<Matching, String> {
    let split = word.split_once(':').map(|(field, value)| (field.to_lowercase(), value));
    let named = split.as_ref().and_then(|(field, value)| {
        let field = match field.as_str() {
            "state" => return Some((None, *value)),
            "name" => MatchField::Name,
            "worker" => MatchField::Worker,
            "args" => MatchField::Args,
            "kwargs" => MatchField::Kwargs,
            "result" => MatchField::Result,
            _ => return None,
        };
        Some((Some(field), *value))
    });
    if named.is_none() && word.starts_with('-') {
        return Err(format!("Negation with '-' is not supported at position {position}."));
    }
    let value = named.map_or(word, |(_, value)| value);
    if value.is_empty() {
        return Err(format!("Search qualifier requires a value at position {position}."));
    }
    match (named, value.split_once('=')) {
        (Some((None, value)), _) => Ok(Matching::State(value.to_owned())),
        (Some((Some(MatchField::Kwargs), _)), Some((name, value))) => Ok(Matching::Kwarg(name.trim().to_owned(), value.trim().to_owned())),
        _ if value.trim().chars().count() < SHORTEST => {
            Err(format!("Substring search terms must contain at least {SHORTEST} characters at position {position}."))
        }
        (field, _) => Ok(Matching::Word(field.and_then(|(field, _)| field), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Matching {
        Matching::Word(None, text.to_owned())
    }

    #[test]
    fn a_search_is_read_as_flower_reads_it() {
        let rows = [
            ("  ", None),
            ("lab.add", Some(word("lab.add"))),
            ("one two", Some(Matching::All(vec![word("one"), word("two")]))),
            ("one AND two OR six", Some(Matching::Any(vec![Matching::All(vec![word("one"), word("two")]), word("six")]))),
            ("one (two OR six)", Some(Matching::All(vec![word("one"), Matching::Any(vec![word("two"), word("six")])]))),
            (r#""two words" "AND""#, Some(Matching::All(vec![word("two words"), word("AND")]))),
            (r#"a\"b"#, Some(word("a\"b"))),
            ("State:ok", Some(Matching::State("ok".to_owned()))),
            ("name:add", Some(Matching::Word(Some(MatchField::Name), "add".to_owned()))),
            ("kwargs:n=1", Some(Matching::Kwarg("n".to_owned(), "1".to_owned()))),
            ("unknown:add", Some(word("unknown:add"))),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_flower_refuses_is_refused_with_its_sentence() {
        // As Flower 2.2.0 says it.
        let rows = [
            ("x", "Substring search terms must contain at least 3 characters at position 0."),
            ("one AND", "AND must be followed by a search term at position 4."),
            ("one OR )", "OR must be followed by a search term at position 4."),
            ("AND one", "Expected a search term at position 0."),
            ("(one", "Missing closing parenthesis at position 0."),
            ("()", "Empty group at position 0."),
            ("one )", "Unexpected ')' at position 4."),
            ("\"one", "Unterminated quoted phrase at position 0."),
            ("\"\"", "Empty search term at position 0."),
            ("-one", "Negation with '-' is not supported at position 0."),
            ("one NOT two", "NOT is not supported at position 4."),
            ("name:", "Search qualifier requires a value at position 0."),
            ("((((((one))))))", "Query nesting exceeds 5 levels at position 5."),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(read(&"a".repeat(2_049)), Err("Query exceeds 2048 characters.".to_owned()));
        assert_eq!(read(&"abc ".repeat(129)), Err("Query exceeds 128 tokens.".to_owned()));
    }
}
