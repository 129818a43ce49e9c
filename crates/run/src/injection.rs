//! Places in which a value of a record would be read as a program: the script of `sh -c`, and what
//! is not the plain text of a command with `--shell`. A template with a placeholder there is
//! refused, since whoever writes a record could then run what they like.

use crate::template::{Template, TextPart};

/// Programs that run the word behind `-c` as a script.
const SHELLS: [&str; 11] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "rbash", "fish", "csh", "tcsh"];
/// Programs that hand the word behind `-c` to a shell, wherever that stands.
const CALLERS: [&str; 4] = ["su", "runuser", "script", "flock"];
/// Programs that run the rest of their words.
const WRAPPERS: [&str; 17] = [
    "env", "nice", "ionice", "timeout", "nohup", "setsid", "stdbuf", "time", "sudo", "doas", "busybox", "toybox", "chroot", "taskset",
    "unshare", "xargs", "flock",
];

/// A placeholder that would become part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    /// The placeholder, as it was written.
    pub(crate) placeholder: String,
    /// The shell that reads it.
    pub(crate) shell: String,
    /// It is all of the script.
    pub(crate) whole: bool,
}

/// Returns the placeholder that stands in the script of a shell, if there is one among these words.
pub(crate) fn in_words(words: &[Template]) -> Option<Injection> {
    let first = words.first().and_then(constant).map(base)?;
    let named =
        |word: &Template, names: &[&str]| constant(word).filter(|text| !text.contains('=')).is_some_and(|text| names.contains(&base(text)));
    let at = if SHELLS.contains(&first) || CALLERS.contains(&first) {
        0
    } else if WRAPPERS.contains(&first) {
        words.iter().skip(1).position(|word| named(word, &SHELLS) || named(word, &CALLERS))? + 1
    } else {
        return None;
    };
    let (shell, rest) = words.get(at..)?.split_first()?;
    let shell = base(constant(shell)?);
    let script = if CALLERS.contains(&shell) { behind_option(rest) } else { script(rest, shell == "fish") }?;
    let placeholder = values(script).next()?.to_owned();
    let whole = script.parts().count() == 1;
    Some(Injection { placeholder, shell: shell.to_owned(), whole })
}

/// Returns the word that a shell with these arguments runs as a script.
fn script(words: &[Template], fish: bool) -> Option<&Template> {
    let mut takes = false;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let Some(text) = constant(word) else {
            // The script, or an option with the script in it.
            let glued = ["-c", "-C", "--command=", "--init-command="];
            let is_glued =
                matches!(word.parts().next(), Some(TextPart::Text(text)) if glued.iter().any(|option| text.starts_with(option.as_bytes())));
            return Some(word).filter(|_| takes || is_glued);
        };
        match text {
            "--" | "-" => return words.get(at).filter(|_| takes),
            "--command" | "--init-command" => return words.get(at),
            "--rcfile" | "--init-file" => at += 1,
            _ if text.starts_with("--") => {}
            _ if text.starts_with(['-', '+']) => {
                takes |= text.starts_with('-') && (text.contains('c') || fish && text.contains('C'));
                // Each of these has a word of its own.
                at += text.matches(['o', 'O']).count();
            }
            _ => return Some(word).filter(|_| takes),
        }
    }
    None
}

/// Returns the word behind `-c`.
fn behind_option(words: &[Template]) -> Option<&Template> {
    let glued = |word: &&Template| {
        matches!(word.parts().next(), Some(TextPart::Text(text)) if text.starts_with(b"--command=")) && !word.is_constant()
    };
    let at = words.iter().position(|word| matches!(constant(word), Some("-c" | "--command" | "--session-command")));
    at.and_then(|at| words.get(at + 1)).or_else(|| words.iter().find(glued))
}

/// The placeholders that can hold anything but a number of ours.
fn values(template: &Template) -> impl Iterator<Item = &str> {
    template.parts().filter_map(|part| match part {
        TextPart::Value { written, number: false } => Some(written),
        _ => None,
    })
}

fn constant(word: &Template) -> Option<&str> {
    std::str::from_utf8(word.source()).ok().filter(|_| word.is_constant())
}

fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Returns why a value must not stand where this text has it, although it comes quoted; `None`
/// where every value is one word.
pub(crate) fn in_text(text: &Template) -> Option<String> {
    let mut reader = Reader::default();
    for part in text.parts() {
        match part {
            TextPart::Text(bytes) => reader.read(bytes),
            TextPart::Value { written, .. } => {
                if let Some(why) = reader.refuses() {
                    return Some(format!("`{written}` stands {why}"));
                }
                reader.value();
            }
        }
    }
    None
}

/// Part of a shell's text that has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A subshell or `$(…)`: commands, as at the top.
    Commands,
    Double,
    Single,
    /// `$'…'`.
    Escaping,
    Backquotes,
    /// `${…}`.
    Variable,
    /// `$((…))`, with the number of its brackets.
    Sum(usize),
    Comment,
    /// A here-document, and all behind it.
    Document,
}

/// Reads a shell's text, as far as is needed to know what a place in it is.
#[derive(Debug, Default)]
struct Reader {
    open: Vec<Part>,
    /// The bytes before this one that are no quoted text, newest last; spaces part words.
    words: Vec<u8>,
    escaped: bool,
    /// A here-document begins with the next line.
    document: bool,
}

impl Reader {
    fn value(&mut self) {
        self.words.push(b'_');
    }

    fn refuses(&self) -> Option<&'static str> {
        if self.escaped {
            return Some("behind a `\\`: write it without");
        }
        if let Some(part) = self.open.iter().find(|part| !matches!(part, Part::Commands | Part::Double)) {
            return Some(match part {
                Part::Single | Part::Escaping => QUOTED,
                Part::Backquotes => "between backquotes, where quotes do not hold: write $(…)",
                Part::Variable => "in ${…}: put it into a variable first, as in x={}; echo \"${x%.*}\"",
                Part::Sum(_) => "in $((…)), which reads it as a program: make the sum with {{ … }}",
                Part::Comment => "in a comment, which ends with the first line of a value",
                _ => "in or behind a here-document: give it on --stdin, or put it into a variable first",
            });
        }
        if self.open.last() == Some(&Part::Double) {
            return Some(QUOTED);
        }
        if self.words.last() == Some(&b'$') {
            return Some("behind a `$`, which changes what quotes mean: write it without");
        }
        let text = String::from_utf8_lossy(&self.words);
        let mut words = text.split_whitespace().rev();
        let (last, before) = (words.next()?, words.next());
        let runs = text.ends_with(' ')
            && (last == "eval" || last.starts_with('-') && last.ends_with('c') && before.is_some_and(|word| SHELLS.contains(&base(word))));
        runs.then_some("where it is run as a program: write sh -c '… \"$1\"' sh {}")
    }

    fn read(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            if std::mem::take(&mut self.escaped) {
                self.words.push(b'_');
                continue;
            }
            at += self.step(byte, &bytes[at..]);
        }
    }

    /// Takes one byte; returns the number of those behind it that go with it.
    fn step(&mut self, byte: u8, rest: &[u8]) -> usize {
        let part = self.open.last().copied();
        let begins_word = self.words.last().is_none_or(|last| b" ;&|(".contains(last));
        match part {
            Some(Part::Document) => return 0,
            Some(Part::Single) if byte == b'\'' => self.close(),
            Some(Part::Single) => {}
            Some(Part::Comment) if byte == b'\n' => {
                self.open.pop();
                self.end_line();
            }
            Some(Part::Comment) => {}
            _ if byte == b'\\' => self.escaped = true,
            Some(Part::Escaping) if byte == b'\'' => self.close(),
            Some(Part::Escaping) => {}
            Some(Part::Backquotes) if byte == b'`' => self.close(),
            Some(Part::Backquotes) => {}
            Some(Part::Double) if byte == b'"' => self.close(),
            Some(Part::Variable) if byte == b'}' => self.close(),
            Some(Part::Sum(1)) if byte == b')' => self.close(),
            Some(Part::Sum(depth)) if matches!(byte, b'(' | b')') => {
                self.open.pop();
                self.open.push(Part::Sum(if byte == b'(' { depth + 1 } else { depth - 1 }));
            }
            _ if byte == b'`' => self.open.push(Part::Backquotes),
            _ if byte == b'"' => self.open.push(Part::Double),
            _ if byte == b'$' => return self.dollar(part, rest),
            Some(Part::Double | Part::Variable | Part::Sum(_)) => {}
            // The text of commands from here on.
            _ if byte == b'\'' => self.open.push(Part::Single),
            _ if byte == b'#' && begins_word => self.open.push(Part::Comment),
            _ if byte == b'\n' => self.end_line(),
            _ if byte == b'<' && rest.first() == Some(&b'<') => {
                let string = rest.get(1) == Some(&b'<');
                self.document |= !string;
                self.words.push(b' ');
                return if string { 2 } else { 1 };
            }
            _ if byte == b'(' && rest.first() == Some(&b'(') => {
                self.open.push(Part::Sum(2));
                return 1;
            }
            _ if byte == b'(' => {
                self.open.push(Part::Commands);
                self.words.push(b'(');
            }
            Some(Part::Commands) if byte == b')' => self.close(),
            _ => self.words.push(if byte.is_ascii_whitespace() { b' ' } else { byte }),
        }
        0
    }

    fn dollar(&mut self, part: Option<Part>, rest: &[u8]) -> usize {
        let is_text = !matches!(part, Some(Part::Double | Part::Variable | Part::Sum(_)));
        match rest {
            [b'(', b'(', ..] => {
                self.open.push(Part::Sum(2));
                2
            }
            [b'(', ..] => {
                self.open.push(Part::Commands);
                self.words.push(b'(');
                1
            }
            [b'{', ..] => {
                self.open.push(Part::Variable);
                1
            }
            [b'\'', ..] if is_text => {
                self.open.push(Part::Escaping);
                1
            }
            _ => {
                self.words.push(b'$');
                0
            }
        }
    }

    fn close(&mut self) {
        self.open.pop();
        self.words.push(b'_');
    }

    fn end_line(&mut self) {
        self.words.push(b';');
        if std::mem::take(&mut self.document) {
            self.open.push(Part::Document);
        }
    }
}

const QUOTED: &str = "between quotes, and --shell quotes every value itself: write it without quotes, as in echo \"to: \"{}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::testing::line,
        template::{Shape, Vars},
    };

    fn template(text: &str) -> Template {
        Template::parse(text, &Shape::json()).unwrap()
    }

    #[test]
    fn a_placeholder_in_the_script_of_a_shell_is_found_behind_options_and_wrappers() {
        for (words, want) in [
            (&["sh", "-c", "echo {}"][..], Some(("sh", "{}", false))),
            (&["sh", "-c", "{}"], Some(("sh", "{}", true))),
            (&["/bin/bash", "-lc", "echo {name}"], Some(("bash", "{name}", false))),
            (&["bash", "-o", "pipefail", "-c", "echo {/}"], Some(("bash", "{/}", false))),
            (&["bash", "-eo", "pipefail", "-c", "echo {}"], Some(("bash", "{}", false))),
            (&["bash", "--rcfile", "x", "-c", "--", "echo {}"], Some(("bash", "{}", false))),
            (&["bash", "-c", "-e", "echo {}"], Some(("bash", "{}", false))),
            (&["dash", "-c", "echo {{ name|upper }}"], Some(("dash", "{{ name|upper }}", false))),
            (&["zsh", "-c", "echo {}", "x"], Some(("zsh", "{}", false))),
            (&["ksh", "-c", "echo {}"], Some(("ksh", "{}", false))),
            (&["fish", "--command=echo {}"], Some(("fish", "{}", false))),
            (&["fish", "-C", "set x {}", "f"], Some(("fish", "{}", false))),
            (&["fish", "--command", "echo {}"], Some(("fish", "{}", false))),
            (&["busybox", "sh", "-c", "echo {}"], Some(("sh", "{}", false))),
            (&["env", "A=/bin/sh", "B={}", "bash", "-c", "echo {}"], Some(("bash", "{}", false))),
            (&["nice", "-n", "5", "timeout", "9", "sh", "-c", "echo {}"], Some(("sh", "{}", false))),
            (&["sudo", "su", "bob", "-c", "echo {}"], Some(("su", "{}", false))),
            (&["flock", "lock", "-c", "echo {}"], Some(("flock", "{}", false))),
            // Data, and no script.
            (&["sh", "-c", "echo \"$1\"", "sh", "{}"], None),
            (&["sh", "-c", "echo $0", "{}"], None),
            (&["sh", "-c", "echo {#} {%} {{ seq + 1 }}"], None),
            (&["sh", "script.sh", "{}"], None),
            (&["sh", "{}"], None),
            (&["sh", "-x", "{}", "-c", "a"], None),
            (&["bash", "-s", "{}"], None),
            (&["env", "A={}", "sh", "-c", "echo $A"], None),
            (&["tar", "-c", "{}"], None),
            (&["env", "SHELL=/bin/sh", "tar", "-c", "{}"], None),
            (&["{}"], None),
        ] {
            let found = in_words(&words.iter().map(|word| template(word)).collect::<Vec<_>>());
            let want =
                want.map(|(shell, placeholder, whole)| Injection { placeholder: placeholder.to_owned(), shell: shell.to_owned(), whole });
            assert_eq!(found, want, "{words:?}");
        }
    }

    /// Texts in which every value is one word.
    const FINE: [&str; 13] = [
        "echo {} | tr a-z A-Z",
        "echo \"to: \"{}' and more'",
        "test -e {} && mv {} done/{/}",
        "echo \"$(basename {})\"",
        "x={}; echo \"${x%.*}\"",
        "(cd {} && make) > {}.log",
        "cat <<< {}",
        "case {} in a) echo a;; *) echo {};; esac",
        "f() { echo \"$1\"; }; f {}",
        "echo a#{} 'it'\\''s' {}",
        "# greets\necho {}",
        "echo $((1 + 2)) {}",
        "echo \\\\{} \\' {}",
    ];

    #[test]
    fn no_value_runs_where_a_placeholder_is_allowed() {
        let values = [
            "$(touch pwned)",
            "`touch pwned`",
            "'; touch pwned; '",
            "\"; touch pwned; \"",
            "a\ntouch pwned\n",
            "a & touch pwned; #",
            "\\'; touch pwned #",
            "${x:-$(touch pwned)}",
            "*) touch pwned;; esac",
            "-n $'\\'; touch pwned #",
        ];
        for (text, value) in FINE.iter().flat_map(|text| values.map(|value| (text, value))) {
            let dir = tempfile::tempdir().unwrap();
            let parsed = Template::parse(text, &Shape::lines()).unwrap();
            let script = parsed.render_shell(&line(value), &Vars::default()).unwrap();
            let mut shell = std::process::Command::new("sh");
            let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
            shell
                .arg("-c")
                .arg(script)
                .current_dir(dir.path())
                .stdin(std::process::Stdio::null())
                .stdout(out)
                .stderr(err)
                .status()
                .unwrap();
            assert!(!dir.path().join("pwned").exists(), "{text} with {value}");
        }
    }

    #[test]
    fn with_shell_a_value_stands_only_where_it_is_one_word() {
        for text in FINE {
            assert_eq!(in_text(&template(text)), None, "{text}");
        }
        for (text, want) in [
            ("echo \"{}\"", "between quotes"),
            ("echo '{}'", "between quotes"),
            ("echo $'{}'", "between quotes"),
            ("echo \"$(basename \"{}\")\"", "between quotes"),
            ("echo `basename {}`", "backquotes"),
            ("echo \"`basename {}`\"", "backquotes"),
            ("echo $(echo `echo {}`)", "backquotes"),
            ("echo ${x:-{}}", "in ${…}"),
            ("echo $(({} + 1))", "in $((…))"),
            ("(( {} + 1 ))", "in $((…))"),
            ("echo hi # for {}", "in a comment"),
            ("cat <<EOF\n{}\nEOF", "here-document"),
            ("cat <<'EOF'\nx\nEOF\necho {}", "here-document"),
            ("echo \\{}", "behind a `\\`"),
            ("echo ${}", "behind a `$`"),
            ("eval {}", "run as a program"),
            ("sh -c {}", "run as a program"),
        ] {
            let found = in_text(&template(text));
            assert!(found.as_ref().is_some_and(|found| found.contains(want)), "{text}: {found:?}");
        }
    }
}
