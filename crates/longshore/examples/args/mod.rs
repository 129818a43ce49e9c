//! `--name value` and `--flag`, parsed by hand, for the examples.

use std::{fmt::Debug, process::ExitCode, str::FromStr, time::Duration};

/// What the command line says.
pub(crate) struct Args {
    words: Vec<String>,
}

impl Args {
    /// Reads the command line; prints `help` and ends for `--help`, and for a word that `help` does
    /// not mention.
    pub(crate) fn parse(help: &str) -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        if words.iter().any(|word| word == "--help" || word == "-h") {
            println!("{help}");
            std::process::exit(0);
        }
        for word in words.iter().filter(|word| word.starts_with('-')) {
            if !help.split_whitespace().any(|known| known == word) {
                eprintln!("`{word}` is no option of this example\n\n{help}");
                std::process::exit(2);
            }
        }
        Self { words }
    }

    /// Whether a flag is there.
    #[allow(dead_code, reason = "not every example has one")]
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.words.iter().any(|word| word == name)
    }

    /// The value behind a name, or the default.
    pub(crate) fn get<V: FromStr<Err: Debug>>(&self, name: &str, default: V) -> V {
        let Some(at) = self.words.iter().position(|word| word == name) else { return default };
        match self.words.get(at + 1).map(|text| text.parse()) {
            Some(Ok(value)) => value,
            _ => {
                eprintln!("`{name}` needs a value of another kind; see --help");
                std::process::exit(2);
            }
        }
    }

    /// `--scale`: shrinks (or stretches) every duration of the example.
    #[allow(dead_code, reason = "not every example has one")]
    pub(crate) fn scale(&self) -> f64 {
        self.get("--scale", 1.0)
    }
}

/// What the example claims, checked: each claim is printed, and one that does not hold makes the
/// example fail.
#[derive(Default)]
#[allow(dead_code, reason = "not every example claims something")]
pub(crate) struct Claims {
    broken: usize,
}

#[allow(dead_code, reason = "not every example claims something")]
impl Claims {
    /// Prints a claim and whether it holds.
    pub(crate) fn check(&mut self, holds: bool, claim: &str) {
        println!("{} {claim}", if holds { "  holds:" } else { "  DOES NOT HOLD:" });
        self.broken += usize::from(!holds);
    }

    /// How the example ends.
    pub(crate) fn end(self) -> ExitCode {
        if self.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A duration in milliseconds, for a table.
#[allow(dead_code, reason = "not every example prints one")]
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
