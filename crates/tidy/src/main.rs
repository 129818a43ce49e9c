//! The yardstick: where a tree of longshore's source stands, in one table.
//!
//! `cargo run -p longshore-tidy -- [TREE] [--where]`; TREE is the directory of a workspace, this
//! one if none is given. `--where` names the places, so that a figure can be looked at.

use std::{
    collections::BTreeSet,
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use longshore_tidy::{
    circles,
    items::ItemKind,
    measures::{self, Function, LONG_FUNCTION},
    paths::Resolver,
    tree::{SourceFile, Workspace},
};

/// Traits that every broker or result backend has. By hand: the halves that it may leave out are
/// not here.
const BROKER_TRAITS: [&str; 3] = ["Broker", "Consumer", "ResultBackend"];

/// Ways to hold a child, each with the ends of the files that hold one so. By hand: reading cannot
/// tell what a `struct` with a process in it is for. A way that is gone has no such file any more;
/// one that is new is added here.
const CHILDREN: [(&str, &[&str]); 2] = [("one for one task: a command", &["lane/child.rs"]), ("one for many tasks", &["lane/children.rs"])];

/// Places that make a handler of a program (a command, an HTTP request, a pipe). By hand, as above.
const PROGRAMS: [(&str, &[&str]); 1] = [("run, kafka consume and [tasks]", &["run/src/program.rs"])];

fn main() -> Result<(), Box<dyn Error>> {
    let mut root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut with_places = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--where" => with_places = true,
            "--help" | "-h" => {
                writeln!(io::stdout(), "Usage: yardstick [TREE] [--where]")?;
                return Ok(());
            }
            tree => root = tree.into(),
        }
    }
    let workspace = Workspace::read(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let table = Table { rows: Vec::new(), with_places };
    write!(io::stdout(), "{}", table.measure(&workspace))?;
    Ok(())
}

/// The rows, each with its places.
struct Table {
    rows: Vec<(String, String, Vec<String>)>,
    with_places: bool,
}

impl Table {
    fn row(&mut self, measure: impl Into<String>, figure: impl Into<String>, places: Vec<String>) {
        self.rows.push((measure.into(), figure.into(), places));
    }

    /// Measures everything; the table as text.
    fn measure(mut self, workspace: &Workspace) -> String {
        self.sizes(workspace);
        self.circles(workspace);
        self.outcomes(workspace);
        self.brokers(workspace);
        for (measure, list) in
            [("ways to hold a child (list by hand)", &CHILDREN[..]), ("programs as handlers (list by hand)", &PROGRAMS[..])]
        {
            let there = list.iter().filter(|(_, ends)| files(workspace).any(|file| ends.iter().any(|end| file.path.ends_with(end))));
            let names: Vec<String> = there.map(|(name, _)| (*name).to_owned()).collect();
            self.row(measure, names.len().to_string(), names);
        }
        self.functions(workspace);
        self.type_names(workspace);
        self.comments(workspace);

        let wide = self.rows.iter().map(|(measure, ..)| measure.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (measure, figure, places) in &self.rows {
            text += &format!("{measure:<wide$}  {figure}\n");
            if self.with_places {
                text.extend(places.iter().map(|place| format!("    {place}\n")));
            }
        }
        text
    }

    fn sizes(&mut self, workspace: &Workspace) {
        let sizes: Vec<(&str, usize, usize)> = workspace
            .products()
            .map(|tree| {
                let (code, all) = measures::lines(tree);
                (tree.dir.as_str(), code, all)
            })
            .collect();
        let (code, all) = sizes.iter().fold((0, 0), |(code, all), size| (code + size.1, all + size.2));
        let share = |dir: &str| sizes.iter().filter(|size| size.0 == dir).map(|size| size.2).sum::<usize>() as f64 / all as f64 * 100.0;
        let each = sizes.iter().map(|(dir, code, all)| format!("{dir}: {all}, {code} with code")).collect();
        self.row("source lines without tests (of these with code)", format!("{all} ({code})"), each);
        self.row("cli's share of them", format!("{:.1} %", share("cli")), Vec::new());
    }

    fn circles(&mut self, workspace: &Workspace) {
        let resolver = Resolver::new(workspace);
        let mut told = Vec::new();
        for (nth, tree) in workspace.crates.iter().enumerate() {
            let edges = circles::edges(workspace, &resolver, nth);
            let circle = circles::largest(&edges);
            if circle.is_empty() {
                continue;
            }
            let top = tree.modules.iter().filter(|module| module.path.len() == 1).count();
            told.push(format!("{} {} of {top} ({})", tree.dir, circle.len(), circle.join(", ")));
            let inside = edges.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
            told.extend(inside.map(|((from, to), place)| format!("    {from} → {to}  {place}")));
        }
        let circles: Vec<&str> =
            told.iter().filter(|line| !line.starts_with(' ')).map(|line| line.split(" (").next().unwrap_or(line)).collect();
        let figure = if circles.is_empty() { "none".to_owned() } else { circles.join(", ") };
        self.row("largest circle among top modules, by crate", figure, told);
    }

    fn outcomes(&mut self, workspace: &Workspace) {
        let mut places = Vec::new();
        let mut in_files = BTreeSet::new();
        for tree in workspace.products() {
            for module in &tree.modules {
                let file = &tree.files[module.file];
                for item in module.items.iter().filter(|item| item.kind == ItemKind::Struct && measures::counts_outcomes(file, item)) {
                    places.push(format!("{} {}:{}", item.name, file.path, item.line));
                    in_files.insert(&file.path);
                }
            }
        }
        self.row("structs that count outcomes (files)", format!("{} ({})", places.len(), in_files.len()), places);
    }

    fn brokers(&mut self, workspace: &Workspace) {
        let mut told = Vec::new();
        let (mut required, mut all) = (0, 0);
        for name in BROKER_TRAITS {
            let Some((must, of)) = measures::methods(workspace, "brokers", name) else { continue };
            told.push(format!("{name}: {must} of {of}"));
            required += must;
            all += of;
        }
        self.row("methods that a new broker must write (with defaults)", format!("{required} ({all})"), told);
    }

    fn functions(&mut self, workspace: &Workspace) {
        let mut functions: Vec<Function> = files(workspace).flat_map(measures::functions).collect();
        functions.sort_by_key(|function| std::cmp::Reverse(function.lines));
        let told = functions.iter().take(25).map(|f| format!("{} lines  {}  {}:{}", f.lines, f.name, f.path, f.line)).collect();
        let beyond = functions.iter().filter(|function| function.lines > 100).count();
        let longest = functions.first().map_or(0, |function| function.lines);
        self.row("longest function (how many beyond 100 lines)", format!("{longest} ({beyond})"), told);
        let long: Vec<&Function> = functions.iter().filter(|function| function.lines > LONG_FUNCTION).collect();
        let (code, comments) = long.iter().fold((0, 0), |(code, comments), f| (code + f.code, comments + f.comments));
        let figure = format!("1 for {:.0} lines ({} functions)", code as f64 / comments.max(1) as f64, long.len());
        self.row(format!("plain comments in functions longer than {LONG_FUNCTION} lines"), figure, Vec::new());
    }

    fn type_names(&mut self, workspace: &Workspace) {
        let (mut names, mut twice, mut thrice, mut told, mut told_twice) = (0, 0, 0, Vec::new(), Vec::new());
        let (mut types, mut shared) = (0, 0);
        for tree in workspace.products() {
            for (name, places) in measures::type_names(tree) {
                names += 1;
                types += places.len();
                twice += usize::from(places.len() > 1);
                thrice += usize::from(places.len() > 2);
                if places.len() > 1 {
                    shared += places.len();
                }
                let (count, line) = (places.len(), format!("{} {name}: {}", tree.dir, places.into_iter().collect::<Vec<_>>().join(" ")));
                match count {
                    ..=1 => {}
                    2 => told_twice.push(line),
                    _ => told.push(line),
                }
            }
        }
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64 * 100.0;
        let figure = format!("{:.1} %; {:.1} % of all types ({twice} of {names} names)", share(twice, names), share(shared, types));
        self.row("type names in more than one module of a crate", figure, told_twice);
        self.row("type names in more than two modules of a crate", format!("{:.1} % ({thrice})", share(thrice, names)), told);
    }

    fn comments(&mut self, workspace: &Workspace) {
        let (mut heads, mut clauses, mut wide) = (0, Vec::new(), Vec::new());
        for file in files(workspace) {
            for (line, text) in measures::doc_heads(file) {
                heads += 1;
                if measures::is_clause(text) {
                    clauses.push(format!("{}:{line}  {text}", file.path));
                }
            }
            wide.extend(measures::wide_comments(file).into_iter().map(|line| format!("{}:{line}", file.path)));
        }
        let share = clauses.len() as f64 / heads as f64 * 100.0;
        self.row("doc comments that begin as a clause", format!("{share:.1} % ({} of {heads})", clauses.len()), clauses);
        self.row(format!("comment lines beyond {} columns", measures::COLUMNS), wide.len().to_string(), wide);
    }
}

/// Returns the files of all crates that are products.
fn files(workspace: &Workspace) -> impl Iterator<Item = &SourceFile> {
    workspace.products().flat_map(|tree| &tree.files)
}
