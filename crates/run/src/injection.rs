//! Places in which a value of a record would be read as a program: the script of `sh -c` and the
//! like, and what is not the plain text of a command with `--shell`. A template with a placeholder
//! there is refused, since whoever writes a record could then run what they like.
//!
//! `injection/words.rs`: the table of programs that read their words so.

mod words;

use std::borrow::Cow;

use self::words::Word;
use crate::template::{Template, TextPart};

/// A placeholder that would become part of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    /// The placeholder, as it was written.
    pub(crate) placeholder: String,
    /// Its place: `in the script of sh -c`.
    pub(crate) place: String,
    /// The way to write it in a command.
    pub(crate) advice: String,
    /// The way to write it in `exec` of a task.
    pub(crate) task_advice: String,
}

/// Returns the placeholder that stands in a program among these words, if there is one.
pub(crate) fn in_words(words: &[Template]) -> Option<Injection> {
    let found = words::find(&words.iter().map(word).collect::<Vec<_>>())?;
    let template = &words[found.at];
    let placeholder = values(template).next()?.to_owned();
    let mut advice = found.advice(&placeholder);
    if found.is_shell() {
        advice.push_str(", or --shell, which quotes every value");
        if template.parts().count() == 1 {
            advice.push_str("; records that are commands go to --stdin {} -- sh");
        }
    }
    Some(Injection { place: found.place(), advice, task_advice: found.task_advice(&placeholder), placeholder })
}

/// Returns a word as far as it is known before there is a record.
fn word(template: &Template) -> Word<'_> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    match (values(template).next(), template.parts().next()) {
        // A number of ours is none that anybody else writes.
        (None, _) => Word::Fixed(text(template.source())),
        (Some(_), Some(TextPart::Text(begin))) => Word::Value(text(begin)),
        (Some(_), _) => Word::Value(""),
    }
}

/// The placeholders that can hold anything but a number of ours.
fn values(template: &Template) -> impl Iterator<Item = &str> {
    template.parts().filter_map(|part| match part {
        TextPart::Value { written, number: false } => Some(written),
        _ => None,
    })
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

    fn refuses(&self) -> Option<Cow<'static, str>> {
        if self.escaped {
            return Some("behind a `\\`: write it without".into());
        }
        if let Some(part) = self.open.iter().find(|part| !matches!(part, Part::Commands | Part::Double)) {
            let why = match part {
                Part::Single | Part::Escaping => QUOTED,
                Part::Backquotes => "between backquotes, where quotes do not hold: write $(…)",
                Part::Variable => "in ${…}: put it into a variable first, as in x={}; echo \"${x%.*}\"",
                Part::Sum(_) => "in $((…)), which reads it as a program: make the sum with {{ … }}",
                Part::Comment => "in a comment, which ends with the first line of a value",
                _ => "in or behind a here-document: give it on --stdin, or put it into a variable first",
            };
            return Some(why.into());
        }
        if self.open.last() == Some(&Part::Double) {
            return Some(QUOTED.into());
        }
        if self.words.last() == Some(&b'$') {
            return Some("behind a `$`, which changes what quotes mean: write it without".into());
        }
        let text = String::from_utf8_lossy(&self.words);
        // The command that this is a word of.
        let command = text.rsplit([';', '&', '|', '(']).next().unwrap_or_default();
        let begun = command.rsplit(|each: char| each.is_ascii_whitespace()).next().unwrap_or_default();
        let before = &command[..command.len() - begun.len()];
        // The name of a file, and no word.
        if begun.contains(['<', '>']) || before.trim_end().ends_with(['<', '>']) {
            return None;
        }
        let is_leading = |word: &&str| KEYWORDS.contains(word) || word.contains('=');
        let mut words: Vec<Word<'_>> = before.split_whitespace().skip_while(is_leading).map(Word::Fixed).collect();
        words.push(Word::Value(begun));
        let found = words::find(&words)?;
        Some(match found.is_shell() {
            true => Cow::Borrowed("where it is run as a program: write sh -c '… \"$1\"' sh {}"),
            false => Cow::Owned(format!("{}: write {}", found.place(), found.advice("{}"))),
        })
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

/// Words of a shell that stand in front of a command.
const KEYWORDS: [&str; 16] =
    ["if", "then", "elif", "else", "while", "until", "do", "{", "!", "time", "exec", "command", "builtin", "nohup", "_", "coproc"];

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
            let found = found.map(|found| (found.place, found.placeholder, found.advice.contains("--stdin")));
            let want = want.map(|(shell, placeholder, whole)| (format!("in the script of {shell} -c"), placeholder.to_owned(), whole));
            assert_eq!(found, want, "{words:?}");
        }
    }

    /// Texts in which every value is one word.
    const FINE: [&str; 17] = [
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
        "true ssh host uptime > {}.log",
        "awk '{print $1}' < {}",
        "awk 'END {print NR}' {}",
        "python3 -c 'import sys' {}",
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
            ("eval {}", "where eval runs it as a program"),
            ("sh -c {}", "run as a program"),
            ("eval echo {}", "where eval runs it as a program"),
            ("if true; then eval x {}; fi", "where eval runs it as a program"),
            ("cd /tmp && A=1 ssh \"$host\" rm {}", "in the line of ssh"),
            ("ssh host ls | awk {}", "in the program of awk"),
            ("python3 -c {}", "in the program of python3 -c"),
            ("echo $(perl -e {})", "in the program of perl -e"),
        ] {
            let found = in_text(&template(text));
            assert!(found.as_ref().is_some_and(|found| found.contains(want)), "{text}: {found:?}");
        }
    }
}
