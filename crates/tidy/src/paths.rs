//! What a path names: `use` with its groups, globs and renamings, from module to module and from
//! crate to crate.

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

    /// Returns where an item stands: file and line.
    pub fn told(&self, place: Place) -> String {
        let tree = self.tree(place);
        let path = &tree.files[tree.modules[place.module].file].path;
        self.item(place).map_or_else(|| path.clone(), |item| format!("{path}:{}", item.line))
    }

    /// Returns the names that a module's `use`s bring, each with its path.
    pub fn imports(&self, module: Place) -> impl Iterator<Item = (&'a Item, &UsedPath)> {
        let from = Place { item: Some(0), ..module };
        let to = Place { item: Some(usize::MAX), ..module };
        let here = self.imports.range(from..=to);
        here.filter_map(|(place, paths)| Some((self.item(*place)?, paths)))
            .flat_map(|(item, paths)| paths.iter().map(move |path| (item, path)))
    }

    /// Returns what a path names, said in a module: a type or a module, if there is one of that
    /// name, else a function or a constant. None for what is of another workspace, or not found.
    pub fn find(&self, module: Place, segments: &[String]) -> Option<Place> {
        let found = self.find_all(module, segments);
        found.iter().find(|place| self.is_type(**place)).or(found.first()).copied()
    }

    /// Returns all that a path names: a module and a function may have one name.
    pub fn find_all(&self, module: Place, segments: &[String]) -> Vec<Place> {
        Search { resolver: self, seen: BTreeSet::new() }.path(module, segments)
    }

    fn is_type(&self, place: Place) -> bool {
        self.item(place).is_none_or(Item::is_type)
    }

    /// Returns true where a module may use what another one has.
    fn may_see(&self, asker: Place, owner: Place, visibility: Visibility) -> bool {
        match visibility {
            Visibility::Public => true,
            Visibility::Crate => asker.of_crate == owner.of_crate,
            Visibility::Private => {
                let path = |place: Place| &self.tree(place).modules[place.module].path;
                asker.of_crate == owner.of_crate && path(asker).starts_with(path(owner))
            }
        }
    }
}

/// One search. A glob may lead back to where it came from.
struct Search<'a, 'b> {
    resolver: &'b Resolver<'a>,
    seen: BTreeSet<(Place, Place, String)>,
}

impl Search<'_, '_> {
    fn path(&mut self, asker: Place, segments: &[String]) -> Vec<Place> {
        let Some((first, rest)) = segments.split_first() else { return Vec::new() };
        let tree = self.resolver.tree(asker);
        let at = |path: &[String]| tree.module(path).map(|module| Place { module, item: None, ..asker });
        let mut start: Vec<Place> = match first.as_str() {
            "crate" | "$crate" => at(&[]).into_iter().collect(),
            "self" => vec![asker],
            "super" => tree.modules[asker.module].path.split_last().and_then(|(_, parent)| at(parent)).into_iter().collect(),
            name => self.name(asker, asker, name),
        };
        if start.is_empty() {
            let of_crate = self.resolver.workspace.crates.iter().position(|tree| tree.name == *first);
            start.extend(of_crate.map(|of_crate| Place { of_crate, module: 0, item: None }));
        }
        for segment in rest {
            // What follows a type is a variant or a function of it: the type is what is named.
            let Some(inner) = start.iter().copied().find(|place| self.resolver.is_type(*place)) else { return Vec::new() };
            if inner.item.is_some() {
                return vec![inner];
            }
            start = if segment == "super" {
                let path = &self.resolver.tree(inner).modules[inner.module].path;
                let parent = path.split_last().and_then(|(_, parent)| self.resolver.tree(inner).module(parent));
                parent.map(|module| Place { module, ..inner }).into_iter().collect()
            } else {
                self.name(asker, inner, segment)
            };
        }
        start
    }

    /// Returns what a name means in a module for whoever asks: items of its own, and what a `use`
    /// brings.
    fn name(&mut self, asker: Place, module: Place, name: &str) -> Vec<Place> {
        if !self.seen.insert((asker, module, name.to_owned())) {
            return Vec::new();
        }
        let tree = self.resolver.tree(module);
        let owner = &tree.modules[module.module];
        let mut found = Vec::new();
        for (nth, item) in owner.items.iter().enumerate() {
            if item.name != name || !self.resolver.may_see(asker, module, item.visibility) {
                continue;
            }
            if item.kind == ItemKind::Module {
                let path = [owner.path.clone(), vec![name.to_owned()]].concat();
                found.extend(tree.module(&path).map(|inner| Place { module: inner, item: None, ..module }));
            } else {
                found.push(Place { item: Some(nth), ..module });
            }
        }
        let resolver = self.resolver;
        let seen = |item: &Item| resolver.may_see(asker, module, item.visibility);
        for (_, path) in resolver.imports(module).filter(|(item, path)| !path.glob && path.name == name && seen(item)) {
            found.extend(self.path(module, &path.segments));
        }
        if found.is_empty() {
            for (_, path) in resolver.imports(module).filter(|(item, path)| path.glob && seen(item)) {
                let targets = self.path(module, &path.segments);
                for target in targets.into_iter().filter(|target| target.item.is_none() && *target != module) {
                    found.extend(self.name(module, target, name));
                }
            }
        }
        self.seen.remove(&(asker, module, name.to_owned()));
        found.sort();
        found.dedup();
        found
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
