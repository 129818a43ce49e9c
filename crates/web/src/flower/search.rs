//! The terms of the search of Flower's lists. They are refused with Flower's sentences.

use crate::{
    history::{MatchField, Matching},
    search::{self, Term},
};

/// Shortest word that is looked for.
const SHORTEST: usize = 3;

/// Reads a search as Flower does; `None` finds everything.
///
/// # Errors
/// Flower's sentence on what is wrong.
pub(super) fn read(text: &str) -> Result<Option<Matching>, String> {
    search::read(text, &term)
}

fn term(term: &Term) -> Result<Matching, String> {
    let (word, position) = (term.text.as_str(), term.position);
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
