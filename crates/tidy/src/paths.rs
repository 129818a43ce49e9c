//! What a path names: `use` with its groups, globs and renamings, from module to module and from crate to crate.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    items::{Item, ItemKind, Visibility, after_bracket},
    lex::{Token, TokenKind},
    tree::{CrateTree, Workspace},
};

/// One name that a `use` brings, or one path of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedPath {
    /// Its segments.
    pub segments: Vec<String>,
    /// Its new name: the last segment, if none is given.
    pub name: String,
    /// True for `::*`.
    pub glob: bool,
}

/// Place of an item or a module in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Place of the crate.
    pub of_crate: usize,
    /// Place of the module in it.
    pub module: usize,
    /// Place of the item in that; none for the module itself.
    pub item: Option<usize>,
}

/// Returns the paths of a `use` tree that begins at a token, and the place after it.
pub fn used(tokens: &[Token<'_>], at: usize, end: usize) -> (Vec<UsedPath>, usize) {
    let mut found = Vec::new();
    let after = walk(tokens, at, end, &mut Vec::new(), &mut found);
    (found, after)
}

fn walk(tokens: &[Token<'_>], mut at: usize, end: usize, before: &mut Vec<String>, found: &mut Vec<UsedPath>) -> usize {
    let is = |at: usize, sign: char| at < end && tokens[at].is(sign);
    let depth = before.len();
    let colons = |at: usize| if is(at, ':') && is(at + 1, ':') { 2 } else { 0 };
    at += colons(at);
    loop {
        if is(at, '*') {
            found.push(UsedPath { segments: before.clone(), name: String::new(), glob: true });
            at += 1;
            break;
        }
        if is(at, '{') {
            let after = after_bracket(tokens, at, end);
            at += 1;
            while at + 1 < after {
                at = walk(tokens, at, after - 1, before, found).max(at + 1);
                if is(at, ',') {
                    at += 1;
                }
            }
            before.truncate(depth);
            return after;
        }
        if at >= end || tokens[at].kind != TokenKind::Word {
            // A path that ends in something else (`::<T>`).
            push(before, found);
            break;
        }
        before.push(tokens[at].text.to_owned());
        at += 1;
        if colons(at) == 0 {
            push(before, found);
            if at + 1 < end && tokens[at].is_word("as") {
                if let Some(last) = found.last_mut() {
                    last.name = tokens[at + 1].text.to_owned();
                }
                at += 2;
            }
            break;
        }
        at += 2;
    }
    before.truncate(depth);
    at
}

fn push(segments: &[String], found: &mut Vec<UsedPath>) {
    // `a::{self}` is `a`.
    let segments = match segments {
        [rest @ .., last] if last == "self" && !rest.is_empty() => rest,
        all => all,
    };
    if let Some(last) = segments.last() {
        found.push(UsedPath { segments: segments.to_vec(), name: last.clone(), glob: false });
    }
}

/// Finds what paths name.
#[derive(Debug)]
pub struct Resolver<'a> {
    workspace: &'a Workspace,
    /// Paths of each `use`, by crate, module and item.
    imports: BTreeMap<Place, Vec<UsedPath>>,
}

impl<'a> Resolver<'a> {
    /// Reads every `use` of a workspace.
    pub fn new(workspace: &'a Workspace) -> Self {
        let mut imports = BTreeMap::new();
        for (of_crate, tree) in workspace.crates.iter().enumerate() {
            for (module, owner) in tree.modules.iter().enumerate() {
                for (nth, item) in owner.items.iter().enumerate().filter(|(_, item)| item.kind == ItemKind::Import) {
                    let place = Place { of_crate, module, item: Some(nth) };
                    imports.insert(place, used(&tree.files[owner.file].tokens, item.head.start, item.head.end).0);
                }
            }
        }
        Self { workspace, imports }
    }

    /// Returns a crate of the workspace.
    pub fn tree(&self, place: Place) -> &'a CrateTree {
        &self.workspace.crates[place.of_crate]
    }

    /// Returns the item at a place.
    pub fn item(&self, place: Place) -> Option<&'a Item> {
        self.tree(place).modules[place.module].items.get(place.item?)
    }

    /// Returns the names that a module's `use`s bring, each with its path.
    pub fn imports(&self, module: Place) -> impl Iterator<Item = (&'a Item, &UsedPath)> {
        let from = Place { item: Some(0), ..module };
        let to = Place { item: Some(usize::MAX), ..module };
        let here = self.imports.range(from..=to);
        here.filter_map(|(place, paths)| Some((self.item(*place)?, paths)))
            .flat_map(|(item, paths)| paths.iter().map(move |path| (item, path)))
    }

    /// Returns what a path names, said in a module. None for what is of another workspace, or not found.
    pub fn find(&self, module: Place, segments: &[String]) -> Option<Place> {
        self.seek(module, segments, &mut BTreeSet::new())
    }

    fn seek(&self, module: Place, segments: &[String], seen: &mut BTreeSet<(Place, Vec<String>)>) -> Option<Place> {
        // A glob may lead back to where it came from.
        if !seen.insert((module, segments.to_vec())) {
            return None;
        }
        let (first, rest) = segments.split_first()?;
        let tree = self.tree(module);
        let own = &tree.modules[module.module].path;
        let at = |path: &[String]| Some(Place { module: tree.module(path)?, item: None, ..module });
        let start = match first.as_str() {
            "crate" | "$crate" => at(&[])?,
            "self" => module,
            "super" => at(own.split_last()?.1)?,
            _ => match self.named(module, first, seen) {
                Some(place) => place,
                None => {
                    let of_crate = self.workspace.crates.iter().position(|tree| tree.name == *first)?;
                    Place { of_crate, module: 0, item: None }
                }
            },
        };
        if rest.is_empty() {
            return Some(start);
        }
        // What follows a type is a variant or a function of it: the type is what is named.
        if start.item.is_some() { Some(start) } else { self.within(start, rest, seen) }
    }

    fn within(&self, module: Place, segments: &[String], seen: &mut BTreeSet<(Place, Vec<String>)>) -> Option<Place> {
        match segments.first()?.as_str() {
            "super" | "self" => self.seek(module, segments, seen),
            name => {
                let found = self.named(module, name, seen)?;
                let rest = &segments[1..];
                if rest.is_empty() || found.item.is_some() { Some(found) } else { self.within(found, rest, seen) }
            }
        }
    }

    /// Returns what a name means in a module: an item of its own, or one that a `use` brings.
    fn named(&self, module: Place, name: &str, seen: &mut BTreeSet<(Place, Vec<String>)>) -> Option<Place> {
        let tree = self.tree(module);
        let owner = &tree.modules[module.module];
        if let Some(nth) = owner.items.iter().position(|item| item.name == name && item.kind != ItemKind::Other) {
            if owner.items[nth].kind != ItemKind::Module {
                return Some(Place { item: Some(nth), ..module });
            }
            let path = [owner.path.clone(), vec![name.to_owned()]].concat();
            return Some(Place { module: tree.module(&path)?, item: None, ..module });
        }
        for (_, path) in self.imports(module).filter(|(_, path)| !path.glob && path.name == name) {
            // `use foo;` of a crate, said in that crate's root, would look for itself.
            if let Some(found) = self.seek(module, &path.segments, seen) {
                return Some(found);
            }
        }
        for (_, path) in self.imports(module).filter(|(_, path)| path.glob) {
            if let Some(target) = self.seek(module, &path.segments, seen).filter(|target| target.item.is_none() && *target != module)
                && let Some(found) = self.named(target, name, seen)
                && self.is_public(target, name)
            {
                return Some(found);
            }
        }
        None
    }

    /// Returns true where a module gives a name to others.
    fn is_public(&self, module: Place, name: &str) -> bool {
        let owner = &self.tree(module).modules[module.module];
        let own = owner.items.iter().filter(|item| item.name == name).any(|item| item.visibility != Visibility::Private);
        own || self.imports(module).any(|(item, path)| item.visibility != Visibility::Private && (path.glob || path.name == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lex;

    #[test]
    fn a_use_tree_is_read_with_groups_globs_and_new_names() {
        let source = "crate::{a::{self, B as C}, d::*, e}";
        let (tokens, _) = lex::read(source);
        let (paths, after) = used(&tokens, 0, tokens.len());
        let told: Vec<String> =
            paths.iter().map(|path| format!("{} {}{}", path.segments.join("::"), path.name, if path.glob { "*" } else { "" })).collect();
        assert_eq!(told, ["crate::a a", "crate::a::B C", "crate::d *", "crate::e e"]);
        assert_eq!(after, tokens.len());
    }
}
