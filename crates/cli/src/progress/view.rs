//! The structs that a run fills, and the form in which they are shown.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::builder::styling::Style;

use super::{Voice, bar::Bar, plain};

pub use longshore_run::{RunState as State, RunView as Snapshot, SlowTask as Slow};

/// `--progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Two lines on a terminal, else plain lines.
    #[default]
    Auto,
    /// Two lines, redrawn in place.
    Bar,
    /// A line of `key=value` now and then.
    Plain,
    /// A JSON object a line now and then.
    Json,
    /// Nothing.
    None,
}

impl Mode {
    /// Parses the flag's word.
    ///
    /// # Errors
    /// A sentence that lists the words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Mode::Auto,
            "bar" => Mode::Bar,
            "plain" => Mode::Plain,
            "json" => Mode::Json,
            "none" => Mode::None,
            _ => return Err(format!("`{text}` is not a form of progress; write auto, bar, plain, json or none")),
        })
    }

    /// The mode itself, or what `auto` means here. `terminal`: whether stderr is one.
    pub fn resolve(self, terminal: bool) -> Self {
        match (self, terminal) {
            (Mode::Auto, true) => Mode::Bar,
            (Mode::Auto, false) => Mode::Plain,
            (mode, _) => mode,
        }
    }
}

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorMode {
    /// On a terminal, unless `NO_COLOR` is set or it is a dumb one.
    #[default]
    Auto,
    /// Always, whatever the environment says.
    Always,
    /// Never.
    Never,
}

impl std::fmt::Display for ColorMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl ColorMode {
    /// Parses the flag's word.
    ///
    /// # Errors
    /// A sentence that lists the words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => ColorMode::Auto,
            "always" => ColorMode::Always,
            "never" => ColorMode::Never,
            _ => return Err(format!("`{text}` does not say when to use colours; write auto, always or never")),
        })
    }

    /// Returns true where a stream gets colours. `env` looks a variable up.
    pub fn enabled(self, terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
        // https://no-color.org: set and not empty.
        let no_color = env("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env("TERM").is_some_and(|value| value == "dumb");
        match self {
            ColorMode::Always => true,
            ColorMode::Never => false,
            ColorMode::Auto => terminal && !no_color && !dumb,
        }
    }

    /// Returns true where this process's stdout gets colours.
    pub fn on_stdout(self) -> bool {
        self.enabled(io::stdout().is_terminal(), |name| std::env::var(name).ok())
    }

    /// Returns true where this process's stderr gets colours.
    pub fn on_stderr(self) -> bool {
        self.enabled(io::stderr().is_terminal(), |name| std::env::var(name).ok())
    }
}

/// The text in a style, or as it is.
pub(crate) fn paint(on: bool, style: Style, text: &str) -> String {
    match on {
        true => format!("{}{text}{}", style.render(), style.render_reset()),
        false => text.to_owned(),
    }
}

/// Shows snapshots on stderr. Errors of stderr are swallowed: a run does not end because nobody
/// watches.
#[derive(Debug)]
pub struct Progress {
    form: Form,
    every: Duration,
    next: Option<Instant>,
    /// True where a line tells how it ended. Who did not ask for lines gets that one only behind
    /// others: the summary says the same.
    last: bool,
    voice: Voice,
}

#[derive(Debug)]
enum Form {
    Bar(Bar),
    Lines(fn(&Snapshot) -> String),
    None,
}

impl Progress {
    /// A view of this form. `every` is the time between lines of the plain and JSON forms; the
    /// first one comes after that time.
    pub fn new(mode: Mode, color: ColorMode, every: Duration, voice: Voice) -> Self {
        let asked = mode;
        let mode = voice.progress(mode);
        let form = match mode.resolve(io::stderr().is_terminal()) {
            Mode::Bar | Mode::Auto => Form::Bar(Bar::new(color.on_stderr())),
            Mode::Plain => Form::Lines(plain::line),
            Mode::Json => Form::Lines(plain::json),
            Mode::None => Form::None,
        };
        Self { form, every, next: None, last: asked != Mode::Auto, voice }
    }

    /// Takes what is the case now. Cheap when there is nothing to draw.
    pub fn update(&mut self, snapshot: &Snapshot, now: Instant) {
        match &mut self.form {
            Form::None => {}
            Form::Bar(bar) => bar.draw(snapshot),
            Form::Lines(render) => {
                let due = *self.next.get_or_insert(now + self.every);
                if now >= due {
                    // Not `due + every`: after a pause of the whole process one line is enough.
                    self.next = Some(now + self.every);
                    self.last = true;
                    eprintln!("{}", render(snapshot));
                }
            }
        }
    }

    /// Says something about the run, if it is to be said, so that it does not run into the bar.
    pub fn note(&self, line: &str) {
        if let Some(line) = self.voice.note(line) {
            self.message(&line);
        }
    }

    /// Writes a line of another origin as it is, so that it does not run into the bar.
    pub fn message(&self, line: &str) {
        match &self.form {
            Form::Bar(bar) => bar.message(line),
            Form::Lines(_) | Form::None => eprintln!("{line}"),
        }
    }

    /// Runs `write`, which writes to the terminal itself (results on stdout, say), with the bar out
    /// of the way.
    pub fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.form {
            Form::Bar(bar) => bar.suspend(write),
            Form::Lines(_) | Form::None => write(),
        }
    }

    /// Takes the bar away. Plain and JSON forms end with one more line, so that the last one tells
    /// how it ended; not for `auto` when none came before.
    pub fn finish(self, last: &Snapshot) {
        match self.form {
            Form::None => {}
            Form::Bar(bar) => bar.clear(),
            Form::Lines(render) if self.last => eprintln!("{}", render(last)),
            Form::Lines(_) => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use longshore_core::watch::Counts;

    use super::*;

    /// The moment that the documentation shows.
    pub(in crate::progress) fn sample() -> Snapshot {
        Snapshot {
            name: "prices".to_owned(),
            job: "a81c".to_owned(),
            counts: Counts::from([6180, 22, 0, 0, 0, 0, 0, 12]),
            total: Some(10_000),
            cut: 0,
            retrying: 12,
            active: 48,
            rate_per_s: 98.7,
            p50: Some(Duration::from_millis(412)),
            p99: Some(Duration::from_millis(1_900)),
            eta: Some(Duration::from_secs(38)),
            gate: vec![("pace 100/s".to_owned(), 36)],
            slow: Some(Slow { seq: 5990, age: Duration::from_secs(61), attempt: 2 }),
            state: State::Running,
            ..Snapshot::default()
        }
    }

    #[test]
    fn auto_is_a_bar_on_a_terminal_and_lines_elsewhere() {
        for (word, terminal, want) in [
            ("auto", true, Mode::Bar),
            ("auto", false, Mode::Plain),
            ("bar", false, Mode::Bar),
            ("json", true, Mode::Json),
            ("none", true, Mode::None),
        ] {
            assert_eq!(Mode::parse(word).unwrap().resolve(terminal), want);
        }
        assert!(Mode::parse("fancy").unwrap_err().contains("auto, bar, plain"));
    }

    #[test]
    fn colours_follow_the_flag_then_the_environment_then_the_terminal() {
        for (mode, terminal, var, want) in [
            ("auto", true, None, true),
            ("auto", false, None, false),
            ("auto", true, Some(("NO_COLOR", "1")), false),
            ("auto", true, Some(("NO_COLOR", "")), true),
            ("auto", true, Some(("TERM", "dumb")), false),
            ("always", false, Some(("NO_COLOR", "1")), true),
            ("never", true, None, false),
        ] {
            let env = |name: &str| var.filter(|(var, _)| *var == name).map(|(_, value)| value.to_owned());
            assert_eq!(ColorMode::parse(mode).unwrap().enabled(terminal, env), want, "{mode} {terminal} {var:?}");
        }
        assert!(ColorMode::parse("yes").is_err());
    }
}
