//! The graph of a crate's top modules, and its circles.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    items::ItemKind,
    paths::{Place, Resolver, used},
    tree::Workspace,
};

/// One module that names another, and where.
pub type Edges = BTreeMap<(String, String), String>;

/// Returns which top module of a crate names which other one, with the first place where it does.
pub fn edges(workspace: &Workspace, resolver: &Resolver<'_>, of_crate: usize) -> Edges {
    let tree = &workspace.crates[of_crate];
    let mut edges = Edges::new();
    for (module, owner) in tree.modules.iter().enumerate() {
        // The root names all of them, which is its purpose.
        let Some(from) = owner.path.first() else { continue };
        let file = &tree.files[owner.file];
        let place = Place { of_crate, module, item: None };
        for item in owner.items.iter().filter(|item| item.kind != ItemKind::Module) {
            for at in item.tokens.clone() {
                let token = &file.tokens[at];
                let begins = token.is_word("crate") || token.is_word("super");
                let colons =
                    file.tokens.get(at + 1).is_some_and(|next| next.is(':')) && file.tokens.get(at + 2).is_some_and(|next| next.is(':'));
                let inside = at >= 2 && file.tokens[at - 1].is(':') && file.tokens[at - 2].is(':');
                if !begins || !colons || inside || file.is_test(at) {
                    continue;
                }
                for path in used(&file.tokens, at, item.tokens.end).0 {
                    let Some(found) = resolver.find(place, &path.segments).filter(|found| found.of_crate == of_crate) else { continue };
                    let Some(to) = tree.modules[found.module].path.first() else { continue };
                    if to != from {
                        let said = || format!("{}:{}", file.path, token.line);
                        edges.entry((from.clone(), to.clone())).or_insert_with(said);
                    }
                }
            }
        }
    }
    edges
}

/// Returns the largest set of modules of which each can be reached from each other; empty if there
/// is no circle.
pub fn largest(edges: &Edges) -> Vec<String> {
    all(edges).into_iter().max_by_key(Vec::len).unwrap_or_default()
}

/// Returns each set of modules of which each can be reached from each other.
pub fn all(edges: &Edges) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().push(to);
    }
    let reach = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(at) = open.pop() {
            for to in next.get(at.as_str()).into_iter().flatten() {
                if seen.insert((*to).to_owned()) {
                    open.push((*to).to_owned());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<String, BTreeSet<String>> = next.keys().map(|from| ((*from).to_owned(), reach(from))).collect();
    let mut circles = Vec::new();
    for (from, to) in &reached {
        let back = |other: &&String| reached.get(*other).is_some_and(|back| back.contains(from));
        let circle: Vec<String> = to.iter().filter(back).cloned().collect();
        if !circle.is_empty() && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_circle_is_found_and_a_line_is_none() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (((*a).to_owned(), (*b).to_owned()), String::new())).collect::<Edges>();
        assert_eq!(largest(&of(&[("a", "b"), ("b", "c")])), Vec::<String>::new());
        assert_eq!(largest(&of(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "e"), ("e", "c"), ("a", "c")])), ["c", "d", "e"]);
        assert_eq!(all(&of(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("a", "c")])), [["a", "b"], ["c", "d"]]);
    }
}
