//! The fields of a search line of our own pages, and how they are written.

use std::time::Duration;

use super::{Term, Token, read, tokens};
use crate::history::{MatchField, Matching, NamedColumn, PastState};

/// What can be written, for whoever wrote something else.
const UNDERSTOOD: &str = "Understood are words (looked for in id, name, error and worker) and state:failure task:shop.* queue:mails \
                          worker:w1 error:timeout args:42 kwargs:eur result:7 runtime:>2s since:1h id:4f2a, with quotes around what has \
                          blanks or signs, and OR between two";

/// Other words for states, as people know them from elsewhere.
const ALSO: [(&str, PastState); 8] = [
    ("failed", PastState::Failure),
    ("running", PastState::Started),
    ("done", PastState::Success),
    ("succeeded", PastState::Success),
    ("pending", PastState::Waiting),
    ("received", PastState::Held),
    ("cancelled", PastState::Revoked),
    ("retrying", PastState::Retry),
];

/// Reads a search line; `None` finds everything.
///
/// # Errors
/// A sentence on what is wrong, and what is understood. What is hidden is not searched.
pub(crate) fn line(text: &str, hide_args: bool) -> Result<Option<Matching>, String> {
    read(text, &|term| read_term(term, hide_args))
}

fn read_term(term: &Term, hide_args: bool) -> Result<Matching, String> {
    let Some((field, value)) = term.field() else { return Ok(Matching::Anywhere(term.text.clone())) };
    let field = field.to_lowercase();
    if value.is_empty() {
        return Err(format!("{field}: has nothing behind it. {UNDERSTOOD}"));
    }
    let wrong_time = || format!("{field}:{value}: write a time such as 500ms, 30s, 15m, 2h or 1d");
    let text = value.to_owned();
    Ok(match field.as_str() {
        "state" => Matching::Stands(states_of(value).ok_or_else(|| {
            let words: Vec<&str> = PastState::ALL.into_iter().map(PastState::word).collect();
            format!("{value} is no state of a remembered task. These are: {}", words.join(", "))
        })?),
        "task" | "name" => Matching::Named(NamedColumn::Task, text),
        "queue" => Matching::Named(NamedColumn::Queue, text),
        "worker" => Matching::Named(NamedColumn::Worker, text),
        "error" => Matching::Word(Some(MatchField::Error), text),
        "id" => Matching::Id(text),
        "args" | "kwargs" | "result" if hide_args => {
            return Err(format!("{field}: arguments and results are hidden here (--hide-args), and so are not searched"));
        }
        "args" => Matching::Word(Some(MatchField::Args), text),
        "result" => Matching::Word(Some(MatchField::Result), text),
        "kwargs" => {
            let has_text = Matching::Word(Some(MatchField::Kwargs), text);
            match value.split_once('=') {
                Some((name, value)) => Matching::Any(vec![Matching::Kwarg(name.trim().to_owned(), value.trim().to_owned()), has_text]),
                None => has_text,
            }
        }
        "runtime" | "took" => {
            let (is_longest, time) = match value.strip_prefix('<') {
                Some(time) => (true, time),
                None => (false, value.strip_prefix('>').unwrap_or(value)),
            };
            let took = duration(time.strip_prefix('=').unwrap_or(time)).ok_or_else(wrong_time)?;
            Matching::Ran { is_longest, seconds: took.as_secs_f64() }
        }
        "since" => {
            let since = duration(value).ok_or_else(wrong_time)?;
            Matching::Since(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        }
        _ => return Err(format!("{field}: is no field of a task; with quotes around it, it is looked for as it stands. {UNDERSTOOD}")),
    })
}

/// Reads a search line for whoever can look at single fields only: the broker.
///
/// # Errors
/// A sentence on what only the history can look for.
pub(crate) fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (token, _) in tokens(text.trim())? {
        let term = match token {
            Token::And => continue,
            Token::Word(term) => term,
            Token::Open | Token::Close | Token::Or => return Err(format!("groups and OR: {ONLY_PAST}")),
        };
        let Some((field, value)) = term.field().filter(|(_, value)| !value.is_empty()) else {
            return Err(format!("{}: a word without a field: {ONLY_PAST}", term.text));
        };
        let field = match field.to_lowercase().as_str() {
            "name" => "task".to_owned(),
            field => field.to_owned(),
        };
        if !["state", "task", "queue", "error", "since", "id"].contains(&field.as_str()) {
            return Err(format!("{field}: {ONLY_PAST}"));
        }
        if found.iter().any(|(known, _)| *known == field) {
            return Err(format!("{field} stands there twice: {ONLY_PAST}"));
        }
        found.push((field, value.to_owned()));
    }
    Ok(found)
}

/// Reason that a broker is not searched by something.
const ONLY_PAST: &str = "only what is remembered can be searched by it. Queues and results are asked by state:, task:, queue:, error:, \
                         since: and id:, each once";

/// Writes a term for a search line.
pub(crate) fn term_of(field: &str, text: &str) -> String {
    let is_plain = |letter: char| !letter.is_whitespace() && !matches!(letter, '"' | '\\' | '(' | ')');
    if text.chars().all(is_plain) {
        return format!("{field}:{text}");
    }
    format!("{field}:\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Reads the word of a state; one whose end was not heard is as good as lost for whoever looks for
/// it.
pub(crate) fn states_of(word: &str) -> Option<Vec<PastState>> {
    let word = word.to_lowercase();
    if word == PastState::Lost.word() {
        return Some(vec![PastState::Lost, PastState::Unheard]);
    }
    let known = PastState::ALL.into_iter().find(|state| state.word() == word);
    known.or_else(|| ALSO.into_iter().find(|(also, _)| *also == word).map(|(_, state)| state)).map(|state| vec![state])
}

/// Reads `500ms`, `1.5s`, `15m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let unit = match text[end..].trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let count: f64 = text[..end].parse().ok()?;
    Duration::try_from_secs_f64(count * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_line_is_read_as_people_write_it() {
        let word = |field, text: &str| Matching::Word(Some(field), text.to_owned());
        let anywhere = |text: &str| Matching::Anywhere(text.to_owned());
        let rows = [
            (" ", None),
            ("mail", Some(anywhere("mail"))),
            (r#""two words""#, Some(anywhere("two words"))),
            (r#""state: it is""#, Some(anywhere("state: it is"))),
            ("State:FAILED", Some(Matching::Stands(vec![PastState::Failure]))),
            ("state:lost", Some(Matching::Stands(vec![PastState::Lost, PastState::Unheard]))),
            ("task:shop.*", Some(Matching::Named(NamedColumn::Task, "shop.*".to_owned()))),
            ("worker:w1", Some(Matching::Named(NamedColumn::Worker, "w1".to_owned()))),
            (r#"error:"bad: address""#, Some(word(MatchField::Error, "bad: address"))),
            ("args:42", Some(word(MatchField::Args, "42"))),
            ("runtime:>1.5s", Some(Matching::Ran { is_longest: false, seconds: 1.5 })),
            ("took:<=500ms", Some(Matching::Ran { is_longest: true, seconds: 0.5 })),
            ("since:2m", Some(Matching::Since(120_000))),
            ("a queue:b OR id:c", {
                let both = vec![anywhere("a"), Matching::Named(NamedColumn::Queue, "b".to_owned())];
                Some(Matching::Any(vec![Matching::All(both), Matching::Id("c".to_owned())]))
            }),
        ];
        for (text, expected) in rows {
            assert_eq!(line(text, false), Ok(expected), "{text}");
        }
        assert!(matches!(line("kwargs:cur=eur", false), Ok(Some(Matching::Any(each))) if each.len() == 2));
    }

    #[test]
    fn a_wrong_term_is_answered_with_what_is_understood() {
        let rows = [
            ("colour:red", "colour: is no field of a task"),
            ("colour:red", "runtime:>2s since:1h"),
            ("task:", "task: has nothing behind it"),
            ("state:broken", "broken is no state of a remembered task. These are: waiting,"),
            ("runtime:fast", "runtime:fast: write a time such as 500ms"),
            ("since:2", "since:2: write a time"),
            ("(a", "Missing closing parenthesis"),
        ];
        for (text, expected) in rows {
            let said = line(text, false).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
        for text in ["args:1", "KWARGS:a=1", "a OR result:2"] {
            assert!(line(text, true).unwrap_err().contains("--hide-args"), "{text}");
        }
    }

    #[test]
    fn a_broker_is_asked_for_single_fields() {
        let of = |pairs: &[(&str, &str)]| Ok(pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect());
        assert_eq!(fields("state:dead AND name:shop.*"), of(&[("state", "dead"), ("task", "shop.*")]));
        assert_eq!(fields(""), of(&[]));
        for text in ["word", "a:1", "(state:dead)", "id:a OR id:b", "id:a id:b", "runtime:2s"] {
            assert!(fields(text).unwrap_err().contains("only what is remembered"), "{text}");
        }
    }

    #[test]
    fn a_term_that_is_written_is_read_as_what_it_was() {
        for text in ["plain", "two words", "a \"quote\" and \\", "f(x)", "a:b"] {
            let written = term_of("error", text);
            assert_eq!(line(&written, false), Ok(Some(Matching::Word(Some(MatchField::Error), text.to_owned()))), "{written}");
        }
    }
}
