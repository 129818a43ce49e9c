//! What is counted in the source: types, functions, comments, structs that count outcomes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    items::{Item, ItemKind, after_bracket, items},
    lex::TokenKind,
    tree::{CrateTree, SourceFile, Workspace},
};

/// Widest line of a comment.
pub const COLUMNS: usize = 100;

/// Lines of a function from which on it wants a comment at each step.
pub const LONG_FUNCTION: usize = 40;

/// A function with a body.
#[derive(Debug)]
pub struct Function {
    /// Its file.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Line of its `fn`.
    pub line: usize,
    /// Lines from its `fn` to its last bracket.
    pub lines: usize,
    /// Of these, lines with code.
    pub code: usize,
    /// Plain comment lines in it.
    pub comments: usize,
}

/// Returns the functions of a file, those of tests left out.
pub fn functions(file: &SourceFile) -> Vec<Function> {
    let mut found = Vec::new();
    for at in 0..file.tokens.len() {
        if !file.tokens[at].is_word("fn") || file.is_test(at) {
            continue;
        }
        let Some(name) = file.tokens.get(at + 1).filter(|token| token.kind == TokenKind::Word) else { continue };
        let Some(item) = items(&file.tokens, at..file.tokens.len().min(block_end(file, at))).into_iter().next() else { continue };
        let Some(body) = item.body.filter(|_| item.has_block) else { continue };
        let (first, last) = (file.tokens[at].line, file.tokens[body.end].line);
        let lines: BTreeSet<usize> = file.tokens[at..=body.end].iter().map(|token| token.line).collect();
        let plain = file.comments.iter().filter(|comment| !comment.is_doc() && (first..=last).contains(&comment.line));
        found.push(Function {
            path: file.path.clone(),
            name: name.text.to_owned(),
            line: first,
            lines: last - first + 1,
            code: lines.len(),
            comments: plain.count(),
        });
    }
    found
}

/// Returns the place after the block or semicolon that ends what begins at a token.
fn block_end(file: &SourceFile, from: usize) -> usize {
    let (tokens, end) = (&file.tokens, file.tokens.len());
    let mut at = from;
    while at < end {
        if tokens[at].is(';') {
            return at + 1;
        }
        if tokens[at].is('{') {
            return after_bracket(tokens, at, end);
        }
        at = if tokens[at].is('(') || tokens[at].is('[') { after_bracket(tokens, at, end) } else { at + 1 };
    }
    end
}

/// Returns the modules of a crate that define a type of each name. An error's alias `Result` is
/// nobody's own word.
pub fn type_names(tree: &CrateTree) -> BTreeMap<&str, BTreeSet<String>> {
    let mut names: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for module in &tree.modules {
        for item in module.items.iter().filter(|item| item.is_type() && item.name != "Result") {
            names.entry(&item.name).or_default().insert(format!("{}:{}", tree.files[module.file].path, item.line));
        }
    }
    names
}

/// First words of a doc comment that make a clause of it and not a sentence.
pub const CLAUSE_WORDS: [&str; 9] = ["What", "Whether", "How", "Whom", "Who", "Whose", "Where", "When", "Why"];

/// Returns true for a doc comment that begins as a clause: "What …", "Whether …", "So many …".
pub fn is_clause(text: &str) -> bool {
    let mut words = text.trim_start_matches(['/', '!', '*', ' ']).split([' ', ',', ':']);
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    CLAUSE_WORDS.contains(&first)
        || (first == "So" && matches!(second, "many" | "much" | "long" | "far" | "late" | "often" | "large" | "old"))
}

/// Returns the first line of each doc comment of a file, those of tests left out.
pub fn doc_heads(file: &SourceFile) -> Vec<(usize, &str)> {
    let mut heads = Vec::new();
    let mut last = 0;
    for comment in file.comments.iter().filter(|comment| comment.is_doc()) {
        let continues = last + 1 == comment.line;
        last = comment.line;
        if !continues && !file.is_test_line(comment.line) {
            heads.push((comment.line, comment.text));
        }
    }
    heads
}

/// Returns the lines of comments that are wider than [`COLUMNS`], tests' too. Code in a doc comment
/// is code, whose width is rustfmt's business; tables, links and single words cannot be broken.
pub fn wide_comments(file: &SourceFile) -> Vec<usize> {
    let lines: Vec<&str> = file.text.lines().collect();
    let (mut found, mut in_code, mut last) = (Vec::new(), false, 0);
    for comment in file.comments.iter().filter(|comment| !comment.after_code) {
        let body = comment.text.trim_start_matches(['/', '!', '*']).trim();
        in_code &= last + 1 == comment.line;
        last = comment.line;
        if body.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        let whole = in_code || body.starts_with('|') || !body.trim_start_matches(['<', '-']).trim().contains(' ');
        let width = lines.get(comment.line - 1).map_or(0, |line| line.chars().count());
        if width > COLUMNS && !whole {
            found.push(comment.line);
        }
    }
    found
}

/// Words that name an outcome of a task, or what became of it.
const OUTCOMES: [&str; 23] = [
    "ok",
    "done",
    "failed",
    "finished",
    "succeeded",
    "completed",
    "retried",
    "timed_out",
    "panicked",
    "killed",
    "cancelled",
    "skipped",
    "rejected",
    "refused",
    "expired",
    "revoked",
    "dead",
    "lost",
    "dropped",
    "outcomes",
    "settled",
    "delivered",
    "processed",
];

/// Number types that count.
const COUNTERS: [&str; 7] = ["u64", "u32", "usize", "AtomicU64", "AtomicU32", "AtomicUsize", "Counter"];

/// Returns true for a struct that counts outcomes: two or more of its fields are numbers and named
/// after outcomes, or a field is a list of numbers with a place for each outcome. One such number
/// is a limit, a position or a length: no other outcome would ever stand beside it.
pub fn counts_outcomes(file: &SourceFile, item: &Item) -> bool {
    if item.kind != ItemKind::Struct {
        return false;
    }
    let tokens = &file.tokens;
    let is = |at: usize, sign: char| tokens.get(at).is_some_and(|token| token.is(sign));
    let counter = |at: usize| tokens.get(at).is_some_and(|kind| COUNTERS.contains(&kind.text));
    let named = |at: &usize| {
        let outcome = tokens[*at].kind == TokenKind::Word && OUTCOMES.contains(&tokens[*at].text);
        outcome && is(at + 1, ':') && !is(at + 2, ':') && counter(at + 2)
    };
    // `[u64; Word::ALL.len()]`, in braces or in parentheses.
    let listed = |at: usize| {
        let words = [at + 3, at + 6].map(|at| tokens.get(at).map_or("", |token| token.text));
        is(at, '[') && counter(at + 1) && words == ["Word", "ALL"]
    };
    let listed = item.tokens.clone().any(listed);
    listed || item.body.clone().is_some_and(|body| body.filter(named).count() > 1)
}

/// Returns where the products print, or take hold of stdout or stderr.
pub fn prints(file: &SourceFile) -> Vec<usize> {
    let tokens = &file.tokens;
    let is = |at: usize, sign: char| tokens.get(at).is_some_and(|token| token.is(sign));
    let places = (0..tokens.len()).filter(|at| match tokens[*at].text {
        "println" | "eprintln" | "print" | "eprint" => is(at + 1, '!'),
        "stdout" | "stderr" => is(at + 1, '(') && is(at + 2, ')') && (*at == 0 || !is(at - 1, '.')),
        _ => false,
    });
    places.filter(|at| !file.is_test(*at)).map(|at| tokens[at].line).collect()
}

/// Returns how many methods of a trait must be written by whoever implements it, and how many there
/// are.
pub fn methods(workspace: &Workspace, dir: &str, name: &str) -> Option<(usize, usize)> {
    let tree = workspace.find(dir)?;
    for module in &tree.modules {
        let file = &tree.files[module.file];
        if let Some(item) = module.items.iter().find(|item| item.kind == ItemKind::Trait && item.name == name) {
            let inner = items(&file.tokens, item.body.clone()?);
            let all: Vec<&Item> = inner.iter().filter(|inner| inner.kind == ItemKind::Function).collect();
            return Some((all.iter().filter(|method| !method.has_block).count(), all.len()));
        }
    }
    None
}

/// Returns the lines of a crate without its tests: those with code, and all.
pub fn lines(tree: &CrateTree) -> (usize, usize) {
    let (mut code, mut all) = (0, 0);
    for file in &tree.files {
        let with_code: BTreeSet<usize> =
            file.tokens.iter().enumerate().filter(|(at, _)| !file.is_test(*at)).map(|(_, token)| token.line).collect();
        code += with_code.len();
        all += (1..=file.text.lines().count()).filter(|line| !file.is_test_line(*line)).count();
    }
    (code, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_counts_outcomes_with_two_numbers_or_a_list_of_them() {
        for (source, counts) in [
            ("struct A { ok: u64, failed: AtomicU64 }", true),
            ("struct A { counts: [u64; Word::ALL.len()], retried: u64 }", true),
            ("struct A([AtomicU64; Word::ALL.len()]);", true),
            ("struct A { failed: u64, name: String }", false),
            ("struct A { failed: Vec<String>, done: bool, lost: u64 }", false),
            ("struct A { counts: Counts, untold: u64 }", false),
            ("fn ok(done: u64, failed: u64) {}", false),
        ] {
            let text: &'static str = source;
            let (tokens, comments) = crate::lex::read(text);
            let file = SourceFile { path: String::new(), text, tokens, comments, tests: Vec::new() };
            let found = items(&file.tokens, 0..file.tokens.len());
            assert_eq!(found.iter().any(|item| counts_outcomes(&file, item)), counts, "{source}");
        }
    }
}
