//! The words of a command that are read as a program, in one table: the script of `sh -c`, the text
//! of `python3 -c`, the line that `ssh` makes of its words.

/// Word of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word<'a> {
    /// The same for every record.
    Fixed(&'a str),
    /// One with a value of the record's in it, and what stands in front of that.
    Value(&'a str),
}

impl<'a> Word<'a> {
    fn fixed(self) -> Option<&'a str> {
        match self {
            Word::Fixed(text) => Some(text),
            Word::Value(_) => None,
        }
    }
}

/// Programs that read some of their words as a program.
#[derive(Debug)]
struct Reads {
    /// Their names; a version behind (`python3.12`) is passed over.
    names: &'static [&'static str],
    /// The words that they read so.
    which: Which,
    /// The way in which a value gets into such a program as data.
    data: Data,
}

/// Words that are read as a program.
#[derive(Clone, Copy, Debug)]
enum Which {
    /// The script of a shell.
    Script,
    /// The word behind `-c`, wherever that stands.
    BehindC,
    /// The words behind these options, before the first that is no option.
    Behind(&'static str),
    /// The first word that is no option.
    First,
    /// All that stand behind the first word that is no option, joined.
    BehindHost,
    /// All, joined.
    All,
}

/// Way in which a value gets into a program as data.
#[derive(Clone, Copy, Debug)]
enum Data {
    /// As `$1`.
    Shell,
    /// As an argument, which the program reads so.
    Argument(&'static str),
    /// In a variable, which the program reads so.
    Variable(&'static str),
    /// On stdin.
    Stdin,
    /// As a word of its own.
    Word,
}

const fn reads(names: &'static [&'static str], which: Which, data: Data) -> Reads {
    Reads { names, which, data }
}

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "rbash", "fish", "csh", "tcsh"];

const TABLE: &[Reads] = &[
    reads(SHELLS, Which::Script, Data::Shell),
    reads(&["su", "runuser", "script", "flock"], Which::BehindC, Data::Shell),
    reads(&["python", "pypy"], Which::Behind("c"), Data::Argument("sys.argv[1]")),
    reads(&["perl"], Which::Behind("eE"), Data::Argument("$ARGV[0]")),
    reads(&["ruby"], Which::Behind("e"), Data::Argument("ARGV[0]")),
    reads(&["node", "nodejs"], Which::Behind("ep"), Data::Argument("process.argv[1]")),
    reads(&["php"], Which::Behind("r"), Data::Argument("$argv[1]")),
    reads(&["Rscript"], Which::Behind("e"), Data::Argument("commandArgs(TRUE)[1]")),
    reads(&["awk", "gawk", "mawk", "nawk"], Which::First, Data::Variable("ENVIRON[\"x\"]")),
    reads(&["ssh"], Which::BehindHost, Data::Stdin),
    reads(&["env"], Which::Behind("S"), Data::Word),
    reads(&["eval"], Which::All, Data::Shell),
];

/// Programs that run the rest of their words.
const WRAPPERS: &[&str] = &[
    "env",
    "nice",
    "ionice",
    "chrt",
    "timeout",
    "nohup",
    "setsid",
    "stdbuf",
    "time",
    "strace",
    "sudo",
    "doas",
    "busybox",
    "toybox",
    "chroot",
    "taskset",
    "unshare",
    "nsenter",
    "xargs",
    "find",
    "flock",
    "docker",
    "podman",
    "kubectl",
    "systemd-run",
];

/// A word with a value that is read as a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadWord {
    /// Its place among the words.
    pub(super) at: usize,
    /// The program that reads it.
    name: String,
    /// The place of it in the table.
    row: usize,
}

impl ReadWord {
    /// Returns the place of it, for people: `in the script of sh -c`.
    pub(super) fn place(&self) -> String {
        let name = &self.name;
        match TABLE[self.row].which {
            Which::Script | Which::BehindC => format!("in the script of {name} -c"),
            Which::Behind(options) => format!("in the program of {name} -{}", options.chars().next().unwrap_or('c')),
            Which::First => format!("in the program of {name}"),
            Which::BehindHost => format!("in the line of {name}, which joins its words for the shell of the other machine"),
            Which::All => format!("where {name} runs it as a program"),
        }
    }

    /// Returns the way to write it in a command of `run`.
    pub(super) fn advice(&self, placeholder: &str) -> String {
        let (name, option) = (&self.name, self.option());
        match TABLE[self.row].data {
            Data::Shell if matches!(TABLE[self.row].which, Which::All) => format!("sh -c '… \"$1\"' sh {placeholder}"),
            Data::Shell => format!("{name} -c '… \"$1\"' {} {placeholder}", self.zero()),
            Data::Argument(way) => format!("{name} {option} '… {way} …' {placeholder}"),
            Data::Variable(way) => format!("--env 'x={placeholder}' -- {name} '… {way} …'"),
            Data::Stdin => format!("--stdin '{placeholder}' -- {name} HOST 'IFS= read -r x; … \"$x\"'"),
            Data::Word => "the words one by one".to_owned(),
        }
    }

    /// Returns the way to write it in `exec` of a task.
    pub(super) fn task_advice(&self, placeholder: &str) -> String {
        let (name, option) = (&self.name, self.option());
        match TABLE[self.row].data {
            Data::Shell => format!("[\"{name}\", \"-c\", \"… \\\"$1\\\"\", \"{}\", \"{placeholder}\"]", self.zero()),
            Data::Argument(way) => format!("[\"{name}\", \"{option}\", \"… {way} …\", \"{placeholder}\"]"),
            Data::Variable(way) => format!("env = [\"x={placeholder}\"], and {way} in the program"),
            Data::Stdin => format!("stdin = \"{placeholder}\", and [\"{name}\", \"HOST\", \"IFS= read -r x; … \\\"$x\\\"\"]"),
            Data::Word => "the words one by one".to_owned(),
        }
    }

    /// Returns true where a shell reads it, so that `--shell` would do.
    pub(super) fn is_shell(&self) -> bool {
        matches!(TABLE[self.row].which, Which::Script | Which::BehindC)
    }

    fn option(&self) -> String {
        match TABLE[self.row].which {
            Which::Behind(options) => format!("-{}", options.chars().next().unwrap_or('c')),
            _ => "-c".to_owned(),
        }
    }

    /// Returns the word that is `$0` of a script.
    fn zero(&self) -> &str {
        if SHELLS.contains(&self.name.as_str()) { &self.name } else { "sh" }
    }
}

/// Returns the first word with a value that is read as a program.
pub(super) fn find(words: &[Word<'_>]) -> Option<ReadWord> {
    let first = words.first()?.fixed().map(base)?;
    // Somewhere behind a wrapper stands what it runs.
    let most = if WRAPPERS.contains(&first) { words.len() } else { 1 };
    (0..most).find_map(|at| {
        let name = words[at].fixed().filter(|text| !text.contains('=')).map(base)?;
        let row = TABLE.iter().position(|row| row.names.contains(&versionless(name)))?;
        let rest = &words[at + 1..];
        let found = match TABLE[row].which {
            Which::Script => script(rest, name == "fish"),
            Which::BehindC => behind_c(rest),
            Which::Behind(options) => behind(rest, options),
            Which::First => first_operand(rest),
            Which::BehindHost => behind_host(rest),
            Which::All => rest.iter().position(|word| word.fixed().is_none()),
        }?;
        let found = at + 1 + found;
        words[found].fixed().is_none().then(|| ReadWord { at: found, name: name.to_owned(), row })
    })
}

/// Returns the place of the word that a shell with these arguments runs as a script.
fn script(words: &[Word<'_>], fish: bool) -> Option<usize> {
    let mut takes = false;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let here = at;
        at += 1;
        let text = match word {
            // The script, or an option with the script in it.
            Word::Value(begin) => {
                let is_glued = ["-c", "-C", "--command=", "--init-command="].iter().any(|option| begin.starts_with(option));
                return Some(here).filter(|_| takes || is_glued);
            }
            Word::Fixed(text) => *text,
        };
        match text {
            "--" | "-" => return Some(at).filter(|at| takes && *at < words.len()),
            "--command" | "--init-command" => return Some(at).filter(|at| *at < words.len()),
            "--rcfile" | "--init-file" => at += 1,
            _ if text.starts_with("--") => {}
            _ if text.starts_with(['-', '+']) => {
                takes |= text.starts_with('-') && (text.contains('c') || fish && text.contains('C'));
                // Each of these has a word of its own.
                at += text.matches(['o', 'O']).count();
            }
            _ => return Some(here).filter(|_| takes),
        }
    }
    None
}

/// Returns the place of the word behind `-c`.
fn behind_c(words: &[Word<'_>]) -> Option<usize> {
    let at = words.iter().position(|word| matches!(word.fixed(), Some("-c" | "--command" | "--session-command")));
    let glued = |word: &Word<'_>| matches!(word, Word::Value(begin) if begin.starts_with("--command="));
    at.map(|at| at + 1).filter(|at| *at < words.len()).or_else(|| words.iter().position(glued))
}

/// Returns the place of the first word with a value that is the program behind one of these
/// options.
fn behind(words: &[Word<'_>], options: &str) -> Option<usize> {
    let mut words = words.iter().enumerate();
    while let Some((at, word)) = words.next() {
        let text = match word {
            // Glued to the option, as in `-eprint`, `--eval=…`.
            Word::Value(begin) => {
                let glued = begin.strip_prefix('-').is_some_and(|rest| match rest.strip_prefix('-') {
                    Some(long) => is_long(long.split('=').next().unwrap_or_default()),
                    None => rest.contains(|each| options.contains(each)),
                });
                return Some(at).filter(|_| glued);
            }
            Word::Fixed(text) => *text,
        };
        let takes = match text.strip_prefix('-') {
            None | Some("" | "-") => return None,
            // Modules, paths and warnings, which have a word of their own.
            Some("I" | "M" | "W" | "X" | "r" | "C" | "u") if !options.contains(&text[1..]) => {
                words.next();
                false
            }
            Some(rest) => match rest.strip_prefix('-') {
                Some(long) => is_long(long),
                None => rest.ends_with(|each| options.contains(each)),
            },
        };
        if takes && let Some((at, Word::Value(_))) = words.next() {
            return Some(at);
        }
    }
    None
}

/// Returns whether a program stands behind a long option.
fn is_long(option: &str) -> bool {
    ["eval", "print", "run", "split-string"].contains(&option)
}

/// Returns the place of the program among the words of awk.
fn first_operand(words: &[Word<'_>]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match word {
            // A separator or a variable of awk's: data.
            Word::Value(begin) if begin.starts_with('-') => {}
            Word::Value(_) => return Some(at),
            Word::Fixed("-F" | "-v" | "-i" | "-l" | "--assign" | "--field-separator" | "--include" | "--load") => at += 1,
            Word::Fixed("-e" | "--source" | "--") => return Some(at + 1).filter(|at| *at < words.len()),
            // The program is in a file.
            Word::Fixed("-f" | "--file" | "-E" | "--exec") => return None,
            Word::Fixed(text) if text.starts_with("-f") || text.starts_with("--file=") => return None,
            Word::Fixed(text) if text.starts_with('-') => {}
            Word::Fixed(_) => return None,
        }
        at += 1;
    }
    None
}

/// Returns the place of the first word with a value that goes to the other machine.
fn behind_host(words: &[Word<'_>]) -> Option<usize> {
    const WITH_WORD: &str = "BbcDEeFIiJLlmOoPpQRSWw";
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        match word {
            Word::Fixed("--") => {
                at += 1;
                break;
            }
            Word::Fixed(text) if text.starts_with('-') => at += usize::from(text.len() == 2 && WITH_WORD.contains(&text[1..])),
            Word::Value(begin) if begin.starts_with('-') => {}
            // The host.
            _ => break,
        }
    }
    words.iter().skip(at).position(|word| word.fixed().is_none()).map(|found| at + found)
}

/// Returns a program's name without its directory.
fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Returns a program's name without its version.
fn versionless(name: &str) -> &str {
    name.trim_end_matches(|each: char| each.is_ascii_digit() || each == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words, of which those with `{}` have a value.
    fn found(line: &str) -> Option<(usize, String)> {
        let words = shell_words::split(line).unwrap();
        let words: Vec<Word<'_>> =
            words.iter().map(|word| word.split_once("{}").map_or(Word::Fixed(word), |(begin, _)| Word::Value(begin))).collect();
        find(&words).map(|found| (found.at, found.place()))
    }

    #[test]
    fn a_value_in_a_program_is_found_wherever_it_is_written() {
        for (line, at, place) in [
            ("python3 -c 'print({})'", 2, "in the program of python3 -c"),
            ("/usr/bin/python3.12 -Ic 'print({})'", 2, "in the program of python3.12 -c"),
            ("python -W ignore -c 'print({})'", 4, "in the program of python -c"),
            ("python3 '-cprint({})'", 1, "in the program of python3 -c"),
            ("perl -ne 'print if /{}/' file", 2, "in the program of perl -e"),
            ("perl -e 'BEGIN {1}' -e 'print {}'", 4, "in the program of perl -e"),
            ("perl -I lib -E 'say {}'", 4, "in the program of perl -e"),
            ("ruby -e 'puts {}'", 2, "in the program of ruby -e"),
            ("node --eval 'f({})'", 2, "in the program of node -e"),
            ("node '--print=f({})'", 1, "in the program of node -e"),
            ("php -r 'echo {};'", 2, "in the program of php -r"),
            ("awk '{print \"{}\"}' file", 1, "in the program of awk"),
            ("gawk -F: -v x=1 '/{}/'", 4, "in the program of gawk"),
            ("awk -F , '/{}/'", 3, "in the program of awk"),
            ("awk -- '/{}/'", 2, "in the program of awk"),
            ("ssh host 'ls {}'", 2, "in the line of ssh, which joins its words for the shell of the other machine"),
            ("ssh -p 22 -o BatchMode=yes host ls {}", 7, "in the line of ssh, which joins its words for the shell of the other machine"),
            ("ssh {} ls {}", 3, "in the line of ssh, which joins its words for the shell of the other machine"),
            ("ssh -- host sh -c 'echo \"$1\"' sh {}", 7, "in the line of ssh, which joins its words for the shell of the other machine"),
            ("env sh -c 'echo {}'", 3, "in the script of sh -c"),
            ("env -S 'sh -c {}'", 2, "in the program of env -S"),
            ("xargs -n 1 sh -c 'echo {}'", 5, "in the script of sh -c"),
            ("find . -exec sh -c 'echo {}' ;", 5, "in the script of sh -c"),
            ("docker exec python python3 -c 'print({})'", 5, "in the program of python3 -c"),
            ("sudo -u bob nice ssh host rm {}", 7, "in the line of ssh, which joins its words for the shell of the other machine"),
            ("eval echo {}", 2, "where eval runs it as a program"),
        ] {
            assert_eq!(found(line), Some((at, place.to_owned())), "{line}");
        }
    }

    #[test]
    fn a_value_that_is_data_is_left_alone() {
        for line in [
            "python3 -c 'import sys; print(sys.argv[1])' {}",
            "python3 score.py -c {}",
            "python3 -m json.tool {}",
            "python3 {}",
            "perl -pe 's/a/b/' {}",
            "perl convert.pl -e {}",
            "ruby -e 'puts ARGV[0]' {}",
            "node -r esm index.js -e {}",
            "awk '{print $1}' {}",
            "awk -F {} '{print $1}' f",
            "awk -v x={} 'BEGIN {print x}'",
            "awk -f prog.awk {}",
            "ssh {} uptime",
            "ssh -p 22 user@{} uptime",
            "ssh -i {} host uptime",
            "env A={} python3 -c 'import os'",
            "xargs -n 1 echo {}",
            "find {} -name x",
            "docker run image {}",
            "grep awk {}",
            "echo ssh host {}",
            "tar -c {}",
            "{} -c x",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }
}
