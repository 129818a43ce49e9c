//! A workspace's crates, their modules as `mod` declares them, and which lines are for tests alone.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    items::{Item, ItemKind, items},
    lex::{self, CommentLine, Token},
};

/// A source file, read.
#[derive(Debug)]
pub struct SourceFile {
    /// Path from the workspace's root.
    pub path: String,
    /// Its text. It lives as long as the program: a tree is read once.
    pub text: &'static str,
    /// Its tokens.
    pub tokens: Vec<Token<'static>>,
    /// Its comments.
    pub comments: Vec<CommentLine<'static>>,
    /// Tokens that are compiled for tests alone.
    pub tests: Vec<Range<usize>>,
}

impl SourceFile {
    /// Reads a file of a workspace; which of it is for tests is not known yet.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(root: &Path, path: &Path) -> io::Result<Self> {
        let text: &'static str = fs::read_to_string(path)?.leak();
        let (tokens, comments) = lex::read(text);
        let path = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        Ok(Self { path, text, tokens, comments, tests: Vec::new() })
    }

    /// Returns true for a token that is compiled for tests alone.
    pub fn is_test(&self, token: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&token))
    }

    /// Returns true for a line within what is compiled for tests alone.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.tests.iter().any(|range| {
            let (first, last) = (self.tokens[range.start].line, self.tokens[range.end - 1].line);
            (first..=last).contains(&line)
        })
    }
}

/// A module of a crate.
#[derive(Debug)]
pub struct Module {
    /// Names from the crate's root, which has none.
    pub path: Vec<String>,
    /// Place of its file among the crate's.
    pub file: usize,
    /// Its items, those of tests left out.
    pub items: Vec<Item>,
    /// True where every module on the way is `pub`.
    pub public: bool,
}

/// A crate.
#[derive(Debug)]
pub struct CrateTree {
    /// Its name with underscores, as paths say it.
    pub name: String,
    /// Its directory's name below `crates/`.
    pub dir: String,
    /// Its files, tests left out.
    pub files: Vec<SourceFile>,
    /// Modules of the library (of the program, where there is none); the root is the first.
    pub modules: Vec<Module>,
    /// True for a crate that is for tests alone, or for reading the source.
    pub for_tests: bool,
}

/// A workspace.
#[derive(Debug)]
pub struct Workspace {
    /// Its directory.
    pub root: PathBuf,
    /// Its crates, in the order of their names.
    pub crates: Vec<CrateTree>,
}

impl Workspace {
    /// Reads the workspace in a directory.
    ///
    /// # Errors
    /// A file that cannot be read, or a module whose file is missing.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut dirs: Vec<_> = fs::read_dir(root.join("crates"))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        dirs.retain(|dir| dir.join("Cargo.toml").is_file());
        dirs.sort();
        let crates = dirs.iter().map(|dir| CrateTree::read(root, dir)).collect::<io::Result<_>>()?;
        Ok(Self { root: root.to_owned(), crates })
    }

    /// Returns the crate with this directory or name.
    pub fn find(&self, name: &str) -> Option<&CrateTree> {
        self.crates.iter().find(|tree| tree.dir == name || tree.name == name)
    }

    /// Returns the crates that are products: those for tests alone are left out.
    pub fn products(&self) -> impl Iterator<Item = &CrateTree> {
        self.crates.iter().filter(|tree| !tree.for_tests)
    }
}

impl CrateTree {
    fn read(root: &Path, dir: &Path) -> io::Result<Self> {
        let manifest = fs::read_to_string(dir.join("Cargo.toml"))?;
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default();
        let dir_name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut tree = Self {
            name: name.trim_matches('"').replace('-', "_"),
            for_tests: matches!(dir_name.as_str(), "testkit" | "interop" | "tidy" | "suite"),
            dir: dir_name,
            files: Vec::new(),
            modules: Vec::new(),
        };
        let source = dir.join("src");
        let (library, program) = (source.join("lib.rs"), source.join("main.rs"));
        let mut roots: Vec<PathBuf> = [library, program].into_iter().filter(|path| path.is_file()).collect();
        if let Ok(entries) = fs::read_dir(source.join("bin")) {
            let mut programs: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            programs.sort();
            roots.extend(programs.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")));
        }
        for (nth, path) in roots.iter().enumerate() {
            let before = tree.modules.len();
            tree.read_module(root, path, &source, Vec::new(), true)?;
            // A second program's modules are files of the crate, but no part of its library.
            if nth > 0 {
                tree.modules.truncate(before);
            }
        }
        Ok(tree)
    }

    /// Reads a file as a module, and the modules that it declares, whose files are in `children`.
    fn read_module(&mut self, root: &Path, path: &Path, children: &Path, names: Vec<String>, public: bool) -> io::Result<()> {
        let mut file = SourceFile::read(root, path)?;
        let all = 0..file.tokens.len();
        let mut declared = Vec::new();
        let file_place = self.files.len();
        let mut modules = Vec::new();
        collect(&mut file, all, names, public, children, file_place, &mut modules, &mut declared);
        self.files.push(file);
        self.modules.extend(modules);
        for (names, dir, public) in declared {
            let name = names.last().map(String::as_str).unwrap_or_default();
            let (flat, nested) = (dir.join(format!("{name}.rs")), dir.join(name).join("mod.rs"));
            let path = if flat.is_file() { flat } else { nested };
            let context = |error| io::Error::other(format!("module {}: {}: {error}", names.join("::"), path.display()));
            self.read_module(root, &path, &dir.join(name), names.clone(), public).map_err(context)?;
        }
        Ok(())
    }

    /// Returns the module with this path.
    pub fn module(&self, path: &[String]) -> Option<usize> {
        self.modules.iter().position(|module| module.path == path)
    }
}

/// Collects a module's items, those of modules written in the same file, and the modules that are
/// declared.
#[expect(clippy::too_many_arguments, reason = "a walk's state, which nobody else has")]
fn collect(
    file: &mut SourceFile,
    within: Range<usize>,
    names: Vec<String>,
    public: bool,
    dir: &Path,
    file_place: usize,
    modules: &mut Vec<Module>,
    declared: &mut Vec<(Vec<String>, PathBuf, bool)>,
) {
    let mut own = Vec::new();
    let place = modules.len();
    modules.push(Module { path: names.clone(), file: file_place, items: Vec::new(), public });
    for item in items(&file.tokens, within) {
        if item.is_test() {
            file.tests.push(item.tokens.clone());
            continue;
        }
        if matches!(item.kind, ItemKind::Implementation | ItemKind::Trait)
            && let Some(body) = item.body.clone()
        {
            let inner = items(&file.tokens, body);
            file.tests.extend(inner.into_iter().filter(Item::is_test).map(|item| item.tokens));
        }
        if item.kind == ItemKind::Module {
            let names = [names.clone(), vec![item.name.clone()]].concat();
            let public = public && item.visibility == crate::items::Visibility::Public;
            match item.body.clone() {
                Some(body) => collect(file, body, names, public, &dir.join(&item.name), file_place, modules, declared),
                None => declared.push((names, dir.to_owned(), public)),
            }
        }
        own.push(item);
    }
    modules[place].items = own;
}
