//! What stands behind `task`: its words and their values.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use syn::{
    Error, Expr, ExprArray, ExprLit, Lit, LitStr, Path, Result, Token,
    ext::IdentExt,
    parse::{Parse, ParseStream, Parser},
    punctuated::Punctuated,
};

use crate::units::{self, Backoff, Rate};

/// The words, as they were given.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) name: Option<LitStr>,
    /// Stands before the function's name: a text, or a constant that is one.
    pub(crate) prefix: Option<Expr>,
    pub(crate) lane: Option<(Lane, Span)>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) priority: Option<u8>,
    /// `Some(None)`: for ever.
    pub(crate) retries: Option<Option<u32>>,
    pub(crate) retry_delay: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) autoretry_for: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) rate: Option<Rate>,
    pub(crate) rate_shared: Option<bool>,
    pub(crate) acks_early: Option<bool>,
    pub(crate) acks_on_failure: Option<bool>,
    pub(crate) ignore_result: Option<bool>,
    pub(crate) track_started: Option<bool>,
    /// What comes back is a `Result` under another name.
    pub(crate) fallible: bool,
    pub(crate) errback: Option<bool>,
    pub(crate) krate: Option<Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Async,
    Blocking,
    Cpu,
    Process,
}

const WORDS: &[&str] = &[
    "name",
    "prefix",
    "lane",
    "queue",
    "priority",
    "retries",
    "retry_delay",
    "backoff",
    "autoretry_for",
    "timeout",
    "soft_timeout",
    "rate",
    "rate_shared",
    "acks",
    "acks_on_failure",
    "ignore_result",
    "track_started",
    "errback",
    "fallible",
    "crate",
];

/// `word` or `word = value`.
struct Entry {
    word: String,
    span: Span,
    value: Option<Expr>,
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let word = syn::Ident::parse_any(input)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Some(input.parse()?)
        } else {
            None
        };
        Ok(Self { word: word.to_string(), span: word.span(), value })
    }
}

pub(crate) fn parse(tokens: TokenStream) -> Result<Attributes> {
    let entries = Punctuated::<Entry, Token![,]>::parse_terminated.parse2(tokens)?;
    let mut this = Attributes::default();
    let mut seen: Vec<String> = Vec::new();
    for entry in entries {
        // Which of the two counts would be anybody's guess.
        if seen.contains(&entry.word) {
            return Err(Error::new(entry.span, format!("`{}` stands here twice", entry.word)));
        }
        match entry.word.as_str() {
            "name" => this.name = Some(name(&entry)?),
            "prefix" => this.prefix = Some(prefix(&entry)?),
            "lane" => this.lane = Some((lane(&entry)?, entry.span)),
            "queue" => this.queue = Some(queue(&entry)?),
            "priority" => this.priority = Some(priority(&entry)?),
            "retries" => this.retries = Some(retries(&entry)?),
            "retry_delay" => this.retry_delay = Some(entry.unit(units::duration)?),
            "backoff" => this.backoff = Some(entry.unit(units::backoff)?),
            "autoretry_for" => this.autoretry_for = entry.texts()?,
            "timeout" => this.timeout = Some(entry.unit(positive)?),
            "soft_timeout" => this.soft_timeout = Some(entry.unit(positive)?),
            "rate" => this.rate = Some(entry.unit(units::rate)?),
            "rate_shared" => this.rate_shared = Some(entry.flag()?),
            "acks" => {
                this.acks_early = Some(entry.unit(|text| match text {
                    "early" => Ok(true),
                    "late" => Ok(false),
                    _ => Err(format!(
                        "`{text}` is not when to acknowledge: write \"late\" (after the result is stored) or \"early\" (before it starts)"
                    )),
                })?);
            }
            "acks_on_failure" => this.acks_on_failure = Some(entry.flag()?),
            "ignore_result" => this.ignore_result = Some(entry.flag()?),
            "track_started" => this.track_started = Some(entry.flag()?),
            "errback" => this.errback = Some(entry.flag()?),
            "fallible" => this.fallible = entry.flag()?,
            "crate" => this.krate = Some(entry.text()?.parse()?),
            other => return Err(Error::new(entry.span, unknown(other))),
        }
        seen.push(entry.word);
    }
    // Rules about several attributes at once, when all are known.
    if let (Some(soft), Some(hard)) = (this.soft_timeout, this.timeout)
        && soft >= hard
    {
        return Err(Error::new(
            Span::call_site(),
            "`soft_timeout` must be shorter than `timeout`: the task is told at the one and ended at the other",
        ));
    }
    if let (Some(name), Some(_)) = (&this.name, &this.prefix) {
        return Err(Error::new(
            name.span(),
            "`name` is the whole name; with `prefix` the function's own stands behind it: write one of the two",
        ));
    }
    if this.rate_shared.is_some() && this.rate.is_none() {
        return Err(Error::new(Span::call_site(), "`rate_shared` says whose rate it is: write the rate too, rate = \"10/min\""));
    }
    Ok(this)
}

fn positive(text: &str) -> std::result::Result<Duration, String> {
    units::duration(text)
        .and_then(|time| if time.is_zero() { Err("a limit of nothing would end every attempt".to_owned()) } else { Ok(time) })
}

impl Entry {
    /// The value, which is a string.
    fn text(&self) -> Result<LitStr> {
        match &self.value {
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Ok(text.clone()),
            Some(other) => Err(Error::new_spanned(other, format!("`{}` takes a string: {} = \"…\"", self.word, self.word))),
            None => Err(Error::new(self.span, format!("`{}` takes a string: {} = \"…\"", self.word, self.word))),
        }
    }

    /// The value, read from a string.
    fn unit<T>(&self, read: impl Fn(&str) -> std::result::Result<T, String>) -> Result<T> {
        let text = self.text()?;
        read(&text.value()).map_err(|error| Error::new(text.span(), error))
    }

    /// `word` alone is true.
    fn flag(&self) -> Result<bool> {
        match &self.value {
            None => Ok(true),
            Some(Expr::Lit(ExprLit { lit: Lit::Bool(is), .. })) => Ok(is.value),
            Some(other) => Err(Error::new_spanned(other, format!("`{}` is true or false; `{}` alone is true", self.word, self.word))),
        }
    }

    /// The value, a list of strings.
    fn texts(&self) -> Result<Vec<String>> {
        let help = || format!("`{}` takes a list of types: {} = [\"ConnectionError\", …]", self.word, self.word);
        let Some(Expr::Array(ExprArray { elems, .. })) = &self.value else {
            return Err(self.value.as_ref().map_or_else(|| Error::new(self.span, help()), |value| Error::new_spanned(value, help())));
        };
        elems
            .iter()
            .map(|element| match element {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.value()),
                other => Err(Error::new_spanned(other, help())),
            })
            .collect()
    }
}

fn name(entry: &Entry) -> Result<LitStr> {
    let text = entry.text()?;
    if text.value().is_empty() || text.value().chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::new(text.span(), "a task's name has no spaces and is not empty, as in \"tasks.add\""));
    }
    Ok(text)
}

fn prefix(entry: &Entry) -> Result<Expr> {
    let help = "`prefix` is what stands before the function's name: a text such as \"shop.orders\", or the name of a constant that is one";
    match &entry.value {
        Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => {
            let value = text.value();
            let bad = value.is_empty() || value.ends_with('.') || value.chars().any(|c| c.is_whitespace() || c.is_control());
            if bad {
                let message =
                    "a prefix has no spaces, is not empty and has no dot at its end, which comes by itself, as in \"shop.orders\"";
                return Err(Error::new(text.span(), message));
            }
        }
        Some(Expr::Path(_)) => {}
        Some(other) => return Err(Error::new_spanned(other, help)),
        None => return Err(Error::new(entry.span, help)),
    }
    entry.value.clone().ok_or_else(|| Error::new(entry.span, help))
}

fn queue(entry: &Entry) -> Result<LitStr> {
    let text = entry.text()?;
    if text.value().is_empty() || text.value().chars().any(char::is_control) {
        return Err(Error::new(text.span(), "a queue's name is not empty and has no control characters, as in queue = \"mail\""));
    }
    Ok(text)
}

fn priority(entry: &Entry) -> Result<u8> {
    let help = "`priority` is a number from 0 to 9, on RabbitMQ to 255; on Redis and SQLite 0 is served first";
    let number = match &entry.value {
        Some(Expr::Lit(ExprLit { lit: Lit::Int(number), .. })) => number,
        Some(other) => return Err(Error::new_spanned(other, help)),
        None => return Err(Error::new(entry.span, help)),
    };
    number.base10_parse().ok().ok_or_else(|| Error::new(number.span(), help))
}

fn lane(entry: &Entry) -> Result<Lane> {
    entry.unit(|text| match text {
        "async" => Ok(Lane::Async),
        "blocking" => Ok(Lane::Blocking),
        "cpu" => Ok(Lane::Cpu),
        "process" => Ok(Lane::Process),
        _ => Err(format!("`{text}` is not a lane: there are \"async\", \"blocking\", \"cpu\" and \"process\"")),
    })
}

fn retries(entry: &Entry) -> Result<Option<u32>> {
    match &entry.value {
        Some(Expr::Lit(ExprLit { lit: Lit::Int(number), .. })) => number.base10_parse().map(Some),
        Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) if text.value() == "forever" => Ok(None),
        Some(other) => Err(Error::new_spanned(other, "`retries` is a number, or \"forever\"")),
        None => Err(Error::new(entry.span, "`retries` takes a number: retries = 3")),
    }
}

/// Returns what to say of a word that is not known: the nearest one that is, if there is one near.
fn unknown(word: &str) -> String {
    let known = match word {
        "max_retries" => Some("retries"),
        "time_limit" | "hard_timeout" => Some("timeout"),
        "soft_time_limit" => Some("soft_timeout"),
        "rate_limit" => Some("rate"),
        "default_retry_delay" | "countdown" => Some("retry_delay"),
        "retry_backoff" => Some("backoff"),
        "acks_late" => Some("acks"),
        _ => WORDS.iter().copied().filter(|known| distance(known, word) <= 2).min_by_key(|known| distance(known, word)),
    };
    match known {
        Some(known) => format!("a task has no `{word}`: did you mean `{known}`?"),
        None => format!("a task has no `{word}`: there are {}", WORDS.join(", ")),
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (above + 1).min(row[j] + 1).min(corner + usize::from(x != *y));
            corner = above;
        }
    }
    row[b.len()]
}
