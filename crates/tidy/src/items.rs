//! The items of a file: what a module, a trait or an `impl` holds, down to where its body begins.

use std::ops::Range;

use crate::lex::{Token, TokenKind};

/// Kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// `mod`
    Module,
    /// `struct` or `union`
    Struct,
    /// `enum`
    Enum,
    /// `trait`
    Trait,
    /// `type`
    Alias,
    /// `fn`
    Function,
    /// `const` or `static`
    Constant,
    /// `use` or `extern crate`
    Import,
    /// `impl`
    Implementation,
    /// `macro_rules!`
    Macro,
    /// Something else: a macro that is called.
    Other,
}

/// Those who may name an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// `pub`
    Public,
    /// `pub(crate)` and its kin
    Crate,
    /// No word.
    Private,
}

/// An item.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its kind.
    pub kind: ItemKind,
    /// Its name; empty for an `impl`, a `use`, a macro that is called.
    pub name: String,
    /// Those who may name it.
    pub visibility: Visibility,
    /// Line of its first word.
    pub line: usize,
    /// Tokens from its first attribute to its end.
    pub tokens: Range<usize>,
    /// Tokens between its name (or first keyword) and its body.
    pub head: Range<usize>,
    /// Tokens inside of its braces, or after its `=`.
    pub body: Option<Range<usize>>,
    /// True where it has a block: a function without one is a trait's to be written.
    pub has_block: bool,
    /// Its attributes, each as its words.
    pub attributes: Vec<Vec<String>>,
}

impl Item {
    /// Returns true if an attribute begins with this word.
    pub fn has_attribute(&self, word: &str) -> bool {
        self.attributes.iter().any(|words| words.first().is_some_and(|first| first == word))
    }

    /// Returns true for what is compiled for tests alone.
    pub fn is_test(&self) -> bool {
        self.attributes.iter().any(|words| {
            let is_cfg = words.first().is_some_and(|first| first == "cfg");
            let of_tests = words.iter().any(|word| word == "test") && !words.iter().any(|word| word == "not");
            (is_cfg && of_tests) || words.last().is_some_and(|last| last == "test") || words.first().is_some_and(|first| first == "test")
        })
    }

    /// Returns true for a struct, enum, trait or alias.
    pub fn is_type(&self) -> bool {
        matches!(self.kind, ItemKind::Struct | ItemKind::Enum | ItemKind::Trait | ItemKind::Alias)
    }
}

/// Returns the items between two tokens: of a file, of a module's body, of a trait's or an
/// `impl`'s.
pub fn items(tokens: &[Token<'_>], within: Range<usize>) -> Vec<Item> {
    let mut found = Vec::new();
    let mut at = within.start;
    while at < within.end {
        match item(tokens, at, within.end) {
            Some(item) => {
                at = item.tokens.end.max(at + 1);
                found.push(item);
            }
            None => at += 1,
        }
    }
    found
}

/// Returns the place after the bracket that closes the one at `at`.
pub fn after_bracket(tokens: &[Token<'_>], at: usize, end: usize) -> usize {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().take(end).skip(at) {
        if token.is('{') || token.is('(') || token.is('[') {
            depth += 1;
        } else if token.is('}') || token.is(')') || token.is(']') {
            depth -= 1;
            if depth == 0 {
                return place + 1;
            }
        }
    }
    end
}

fn item(tokens: &[Token<'_>], start: usize, end: usize) -> Option<Item> {
    let is = |at: usize, sign: char| at < end && tokens[at].is(sign);
    let word = |at: usize| if at < end && tokens[at].kind == TokenKind::Word { tokens[at].text } else { "" };
    let mut at = start;

    // Attributes; those of the file itself (`#![…]`) are nobody's.
    let mut attributes = Vec::new();
    while is(at, '#') {
        let inner = is(at + 1, '!');
        let bracket = at + 1 + usize::from(inner);
        let after = after_bracket(tokens, bracket, end);
        if !inner {
            let words = tokens[bracket..after].iter().filter(|token| token.kind != TokenKind::Sign);
            attributes.push(words.map(|token| token.text.trim_matches('"').to_owned()).collect());
        }
        at = after;
    }
    if at >= end {
        return None;
    }
    let line = tokens[at].line;

    // Who may see it.
    let mut visibility = Visibility::Private;
    if word(at) == "pub" {
        visibility = if is(at + 1, '(') { Visibility::Crate } else { Visibility::Public };
        at = if is(at + 1, '(') { after_bracket(tokens, at + 1, end) } else { at + 1 };
    }

    // Words that say nothing about its kind.
    loop {
        let next = word(at + 1);
        match word(at) {
            "async" | "unsafe" | "default" | "auto" if !is(at + 1, '!') => at += 1,
            "const" if matches!(next, "fn" | "unsafe" | "async" | "extern") => at += 1,
            "extern" if next != "crate" && !is(at + 1, '{') && tokens.get(at + 2).is_none_or(|token| !token.is('{')) => at += 1,
            _ if at < end && tokens[at].kind == TokenKind::Literal => at += 1,
            _ => break,
        }
        if at >= end {
            return None;
        }
    }

    let kind = match word(at) {
        "mod" => ItemKind::Module,
        "struct" | "union" => ItemKind::Struct,
        "enum" => ItemKind::Enum,
        "trait" => ItemKind::Trait,
        "type" => ItemKind::Alias,
        "fn" => ItemKind::Function,
        "const" | "static" => ItemKind::Constant,
        "use" => ItemKind::Import,
        "extern" if word(at + 1) == "crate" => ItemKind::Import,
        "impl" => ItemKind::Implementation,
        "macro_rules" => ItemKind::Macro,
        _ => ItemKind::Other,
    };
    let named = match kind {
        ItemKind::Import | ItemKind::Implementation | ItemKind::Other => at,
        ItemKind::Macro => at + 2,
        ItemKind::Constant if word(at + 1) == "mut" => at + 2,
        _ => at + 1,
    };
    let name = match kind {
        ItemKind::Import | ItemKind::Implementation | ItemKind::Other => "",
        _ => word(named),
    };
    let head_from = if kind == ItemKind::Import { at + 1 } else { named + 1 };

    // Its end: a semicolon, or the block where it has one.
    let takes_block = !matches!(kind, ItemKind::Constant | ItemKind::Alias | ItemKind::Import);
    let mut place = named;
    let (mut head_to, mut body, mut has_block) = (None, None, false);
    while place < end {
        let token = tokens[place];
        if token.is(';') {
            break;
        }
        if token.is('{') || token.is('(') || token.is('[') {
            let after = after_bracket(tokens, place, end);
            if token.is('{') && takes_block {
                (head_to, body, has_block) = (Some(place), Some(place + 1..after.saturating_sub(1).max(place + 1)), true);
                place = after - 1;
                break;
            }
            // A macro that is called with other brackets ends with its semicolon, a tuple struct
            // too.
            place = after;
            continue;
        }
        place += 1;
    }
    let stop = (place + 1).min(end);
    let head = head_from.min(stop)..head_to.unwrap_or(place).max(head_from.min(stop));
    Some(Item { kind, name: name.to_owned(), visibility, line, tokens: start..stop, head, body, has_block, attributes })
}
