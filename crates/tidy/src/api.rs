//! Every name that a crate gives to its users.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{
    items::{Item, ItemKind, Visibility, after_bracket, items},
    lex::{Token, TokenKind},
    paths::{Place, Resolver},
    tree::Workspace,
};

/// A name that can be said from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicName {
    /// Path from the crate: `longshore::Job`.
    pub path: String,
    /// Its meaning; none for what comes from another workspace.
    pub place: Option<Place>,
}

/// Returns every path that can be said from outside of a crate, without what is marked
/// `doc(hidden)`.
pub fn names(workspace: &Workspace, resolver: &Resolver<'_>, of_crate: usize) -> Vec<PublicName> {
    let mut found = BTreeSet::new();
    let root = Place { of_crate, module: 0, item: None };
    let name = workspace.crates[of_crate].name.clone();
    walk(resolver, root, &name, &mut Vec::new(), &mut found);
    macros(workspace, &mut found);
    found.into_iter().collect()
}

fn walk(resolver: &Resolver<'_>, module: Place, path: &str, on_the_way: &mut Vec<Place>, found: &mut BTreeSet<PublicName>) {
    if on_the_way.contains(&module) {
        return;
    }
    on_the_way.push(module);
    for (name, places) in members(resolver, module, &mut BTreeSet::new()) {
        let path = format!("{path}::{name}");
        if places.is_empty() {
            found.insert(PublicName { path: path.clone(), place: None });
        }
        for place in places {
            found.insert(PublicName { path: path.clone(), place: Some(place) });
            if place.item.is_none() {
                walk(resolver, place, &path, on_the_way, found);
            }
        }
    }
    on_the_way.pop();
}

/// Returns the names that a module gives to everybody, each with all that it means: a module and a
/// function may have one name. Nothing is what comes from another workspace, or is made by a macro.
fn members(resolver: &Resolver<'_>, module: Place, seen: &mut BTreeSet<Place>) -> BTreeMap<String, BTreeSet<Place>> {
    let mut names: BTreeMap<String, BTreeSet<Place>> = BTreeMap::new();
    if !seen.insert(module) {
        return names;
    }
    let owner = &resolver.tree(module).modules[module.module];
    for (nth, item) in owner.items.iter().enumerate() {
        let named = !matches!(item.kind, ItemKind::Import | ItemKind::Implementation | ItemKind::Other | ItemKind::Macro);
        if item.visibility != Visibility::Public || !named || is_hidden(item) {
            continue;
        }
        let place = if item.kind == ItemKind::Module {
            let path = [owner.path.clone(), vec![item.name.clone()]].concat();
            resolver.tree(module).module(&path).map(|inner| Place { module: inner, item: None, ..module })
        } else {
            Some(Place { item: Some(nth), ..module })
        };
        names.entry(item.name.clone()).or_default().extend(place);
    }
    let public = || resolver.imports(module).filter(|(item, _)| item.visibility == Visibility::Public && !is_hidden(item));
    for (_, path) in public().filter(|(_, path)| !path.glob) {
        names.entry(path.name.clone()).or_default().extend(resolver.find_all(module, &path.segments));
    }
    // What a module has of its own goes before what a glob brings.
    for (_, path) in public().filter(|(_, path)| path.glob) {
        for target in resolver.find(module, &path.segments).into_iter().filter(|target| target.item.is_none()) {
            for (name, places) in members(resolver, target, seen) {
                names.entry(name).or_insert(places);
            }
        }
    }
    names
}

/// Returns the names that a crate's root lists although a glob brings something else of that name:
/// the name, what is listed, and what the glob brings.
pub fn hidden(resolver: &Resolver<'_>, of_crate: usize) -> Vec<(String, String, String)> {
    let root = Place { of_crate, module: 0, item: None };
    let public = || resolver.imports(root).filter(|(item, _)| item.visibility == Visibility::Public && !is_hidden(item));
    let mut found = Vec::new();
    for (_, glob) in public().filter(|(_, path)| path.glob) {
        let Some(target) = resolver.find(root, &glob.segments) else { continue };
        let brought = members(resolver, target, &mut BTreeSet::new());
        for (_, listed) in public().filter(|(_, path)| !path.glob) {
            let Some(others) = brought.get(&listed.name) else { continue };
            let is_type = |place: &Place| resolver.item(*place).is_none_or(Item::is_type);
            for own in resolver.find_all(root, &listed.segments).iter().filter(|own| !others.contains(own)) {
                // A function and a type may have one name.
                for other in others.iter().filter(|other| is_type(other) == is_type(own)) {
                    found.push((listed.name.clone(), resolver.told(*own), resolver.told(*other)));
                }
            }
        }
    }
    found
}

/// Macros that a crate exports are at its root, wherever they are written: they come with a glob of
/// that root.
fn macros(workspace: &Workspace, found: &mut BTreeSet<PublicName>) {
    let roots: BTreeMap<usize, String> = found
        .iter()
        .filter_map(|name| {
            let place = name.place.filter(|place| place.item.is_none() && place.module == 0)?;
            Some((place.of_crate, name.path.clone()))
        })
        .collect();
    for (of_crate, path) in roots {
        for (module, owner) in workspace.crates[of_crate].modules.iter().enumerate() {
            for (nth, item) in owner.items.iter().enumerate() {
                if item.kind == ItemKind::Macro && item.has_attribute("macro_export") && !is_hidden(item) {
                    let place = Some(Place { of_crate, module, item: Some(nth) });
                    found.insert(PublicName { path: format!("{path}::{}", item.name), place });
                }
            }
        }
    }
}

fn is_hidden(item: &Item) -> bool {
    item.attributes.iter().any(|words| words.first().is_some_and(|first| first == "doc") && words.iter().any(|word| word == "hidden"))
}

/// Returns one line for each public name of a crate, and for what each type has: fields, variants,
/// methods. A type with several names is told of at the shortest; the others say which that is.
pub fn lines(workspace: &Workspace, resolver: &Resolver<'_>, of_crate: usize) -> Vec<String> {
    let names = names(workspace, resolver, of_crate);
    let mut shortest: BTreeMap<Place, &str> = BTreeMap::new();
    for name in &names {
        let Some(place) = name.place else { continue };
        let rank = |path: &str| (path.matches("::").count(), path.len());
        let known = shortest.entry(place).or_insert(&name.path);
        if rank(&name.path) < rank(known) {
            *known = &name.path;
        }
    }
    let modules: BTreeMap<&str, Place> =
        names.iter().filter_map(|name| Some((name.path.as_str(), name.place.filter(|place| place.item.is_none())?))).collect();
    let methods = methods(workspace, resolver);
    let mut lines = BTreeSet::new();
    for name in &names {
        let Some(place) = name.place else {
            lines.insert(format!("{} (made by a macro, or of another workspace)", name.path));
            continue;
        };
        let first = shortest[&place];
        if first != name.path {
            // The members of a module that has two names are not told of twice.
            let parent = |path: &str| path.rsplit_once("::").and_then(|(parent, _)| modules.get(parent));
            let twin = parent(&name.path).is_some() && parent(&name.path) == parent(first);
            if !twin {
                lines.insert(format!("{} = {first}", name.path));
            }
            continue;
        }
        let Some(item) = resolver.item(place) else {
            lines.insert(format!("{} (mod)", name.path));
            continue;
        };
        lines.insert(format!(
            "{} ({}{})",
            name.path,
            word(item.kind),
            if item.has_attribute("non_exhaustive") { ", non_exhaustive" } else { "" }
        ));
        let tokens = &workspace.crates[place.of_crate].files[resolver.tree(place).modules[place.module].file].tokens;
        for member in own_members(tokens, item).into_iter().chain(methods.get(&place).into_iter().flatten().cloned()) {
            lines.insert(format!("{}{member}", name.path));
        }
    }
    lines.into_iter().collect()
}

fn word(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Module => "mod",
        ItemKind::Struct => "struct",
        ItemKind::Enum => "enum",
        ItemKind::Trait => "trait",
        ItemKind::Alias => "type",
        ItemKind::Function => "fn",
        ItemKind::Constant => "const",
        ItemKind::Macro => "macro",
        ItemKind::Import | ItemKind::Implementation | ItemKind::Other => "?",
    }
}

/// Returns a type's public fields, variants, and a trait's methods.
fn own_members(tokens: &[Token<'_>], item: &Item) -> Vec<String> {
    let Some(body) = item.body.clone() else { return Vec::new() };
    match item.kind {
        ItemKind::Struct => fields(tokens, body).into_iter().filter(|field| field.public).map(|field| format!(".{}", field.name)).collect(),
        ItemKind::Enum => variants(tokens, body).into_iter().map(|name| format!("::{name} (variant)")).collect(),
        ItemKind::Trait => {
            let inner = items(tokens, body).into_iter().filter(|inner| !inner.name.is_empty());
            inner.map(|inner| format!("::{} ({})", inner.name, word(inner.kind))).collect()
        }
        _ => Vec::new(),
    }
}

/// A named field of a struct.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// True for `pub`.
    pub public: bool,
}

/// Returns the named fields of a struct's body.
pub fn fields(tokens: &[Token<'_>], body: Range<usize>) -> Vec<Field> {
    let mut found = Vec::new();
    for part in parts(tokens, body) {
        let Some(colon) = part.clone().find(|at| tokens[*at].is(':')) else { continue };
        let public = tokens[part.start].is_word("pub") && !tokens[part.start + 1].is('(');
        found.push(Field { name: tokens[colon - 1].text.to_owned(), public });
    }
    found
}

fn variants(tokens: &[Token<'_>], body: Range<usize>) -> Vec<String> {
    parts(tokens, body)
        .into_iter()
        .filter(|part| tokens[part.start].kind == TokenKind::Word)
        .map(|part| tokens[part.start].text.to_owned())
        .collect()
}

/// Returns what stands between the commas of a body, without attributes. A comma between `<` and
/// `>` separates nothing.
fn parts(tokens: &[Token<'_>], body: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut at, mut angles) = (body.start, body.start, 0i32);
    while at < body.end {
        let token = &tokens[at];
        if token.is('#') && at == start {
            at = after_bracket(tokens, at + 1, body.end);
            start = at;
            continue;
        }
        if token.is('{') || token.is('(') || token.is('[') {
            at = after_bracket(tokens, at, body.end);
            continue;
        }
        if token.is('<') {
            angles += 1;
        } else if token.is('>') && !tokens[at - 1].is('-') {
            angles -= 1;
        } else if token.is(',') && angles <= 0 {
            found.push(start..at);
            start = at + 1;
        }
        at += 1;
    }
    if start < body.end {
        found.push(start..body.end);
    }
    found
}

/// Returns the public methods and constants of each type, from every `impl` that is of no trait.
fn methods(workspace: &Workspace, resolver: &Resolver<'_>) -> BTreeMap<Place, Vec<String>> {
    let mut found: BTreeMap<Place, Vec<String>> = BTreeMap::new();
    for (of_crate, tree) in workspace.crates.iter().enumerate() {
        for (module, owner) in tree.modules.iter().enumerate() {
            let tokens = &tree.files[owner.file].tokens;
            for item in owner.items.iter().filter(|item| item.kind == ItemKind::Implementation) {
                let Some(body) = item.body.clone() else { continue };
                let Some(path) = implemented(tokens, item.head.clone()) else { continue };
                let Some(target) = resolver.find(Place { of_crate, module, item: None }, &path) else { continue };
                for inner in items(tokens, body) {
                    let told = matches!(inner.kind, ItemKind::Function | ItemKind::Constant);
                    if told && inner.visibility == Visibility::Public && !is_hidden(&inner) {
                        found.entry(target).or_default().push(format!("::{} ({})", inner.name, word(inner.kind)));
                    }
                }
            }
        }
    }
    found
}

/// Returns the path of the type that an `impl` is for; none for that of a trait.
fn implemented(tokens: &[Token<'_>], head: Range<usize>) -> Option<Vec<String>> {
    let mut at = head.start;
    // Its generics.
    if tokens[at].is('<') {
        let mut depth = 0;
        while at < head.end {
            if tokens[at].is('<') {
                depth += 1;
            } else if tokens[at].is('>') && !tokens[at - 1].is('-') {
                depth -= 1;
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
    }
    let until = head.clone().find(|at| tokens[*at].is_word("where")).unwrap_or(head.end);
    // `for<'a>` stands in bounds only, behind `where` or within the generics.
    if (at..until).any(|at| tokens[at].is_word("for") && !tokens[at + 1].is('<')) {
        return None;
    }
    let mut path = Vec::new();
    while at < until && tokens[at].kind == TokenKind::Word {
        path.push(tokens[at].text.to_owned());
        at += 1;
        if at + 1 < until && tokens[at].is(':') && tokens[at + 1].is(':') {
            at += 2;
        } else {
            break;
        }
    }
    Some(path).filter(|path| !path.is_empty())
}
