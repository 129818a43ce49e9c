//! Screen of a consumer: redrawn in place on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use longshore_kafka::Trouble;
use serde_json::json;

use super::{fates::Failures, trouble, view::Moment};
use crate::progress::{
    ColorMode, Mode, Voice,
    bar::{Bar, terminal_width},
};

/// A consumer's view on stderr.
pub(super) struct Screen {
    form: Form,
    every: Duration,
    next: Option<Instant>,
    color: bool,
    voice: Voice,
}

enum Form {
    Bar(Bar),
    Plain,
    Json,
    None,
}

impl Screen {
    /// `quiet_terminal`: values are printed on the terminal, where a view that redraws itself would
    /// be in the way unless it was asked for.
    pub(super) fn new(mode: Mode, color: ColorMode, every: Duration, voice: Voice, quiet_terminal: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let form = match voice.progress(mode) {
            Mode::Auto if quiet_terminal => Form::None,
            mode => match mode.resolve(terminal) {
                Mode::Bar | Mode::Auto => Form::Bar(Bar::new(color.on_stderr())),
                Mode::Plain => Form::Plain,
                Mode::Json => Form::Json,
                Mode::None => Form::None,
            },
        };
        Self { form, every, next: None, color: color.on_stderr(), voice }
    }

    /// Returns the bar that redraws itself, for whoever writes to the same terminal.
    pub(super) fn bar(&self) -> Option<Bar> {
        if let Form::Bar(bar) = &self.form { Some(bar.clone()) } else { None }
    }

    /// Takes what is the case now.
    pub(super) fn update(&mut self, moment: &Moment, now: Instant) {
        if let Form::Bar(bar) = &self.form {
            return bar.show(&moment.lines(terminal_width(), self.color));
        }
        let due = *self.next.get_or_insert(now + self.every);
        if now >= due {
            self.next = Some(now + self.every);
            self.line(moment);
        }
    }

    fn line(&self, moment: &Moment) {
        let line = match &self.form {
            Form::Plain => moment.plain(),
            Form::Json => moment.json().to_string(),
            Form::Bar(_) | Form::None => return,
        };
        eprintln!("{line}");
    }

    /// Says something, unless nothing is to be said.
    pub(super) fn note(&self, line: &str) {
        let Some(line) = self.voice.note(line) else { return };
        self.put(&line);
    }

    /// Says what the first record failed of that failed in a way of its own, unless nothing is to
    /// be said: a warning in every form.
    pub(super) fn failure(&self, failures: &Failures) {
        if self.voice.level < 0 {
            return;
        }
        let sentence = failures.sentence();
        self.put(&if self.voice.json || matches!(self.form, Form::Json) {
            json!({ "level": "warning", "message": sentence, "failure": failures.json() }).to_string()
        } else {
            format!("longshore: {sentence}")
        });
    }

    fn put(&self, line: &str) {
        match &self.form {
            Form::Bar(bar) => bar.message(line),
            _ => eprintln!("{line}"),
        }
    }

    /// Says that something is wrong or right again: a line of its own in every form, however little
    /// is said otherwise.
    pub(super) fn trouble(&self, place: &str, trouble: &Trouble, complaint: Option<&str>) {
        let json = self.voice.json || matches!(self.form, Form::Json);
        let sentence = match trouble.until {
            None => Some(trouble.sentence(complaint)),
            Some(_) => trouble::end(trouble),
        };
        let line = match sentence {
            _ if json => {
                let level = if trouble.until.is_none() { "warning" } else { "info" };
                json!({ "level": level, "kafka": place, "trouble": trouble::json(trouble, complaint) }).to_string()
            }
            Some(sentence) => format!("longshore: {place}: {sentence}"),
            None => return,
        };
        self.put(&line);
    }

    /// Takes the view away; the last moment stays behind as a line, where lines were shown.
    pub(super) fn finish(self, last: Option<&Moment>) {
        match (self.form, last) {
            (Form::Bar(bar), _) => bar.clear(),
            (form, Some(last)) if self.next.is_some() => Self { form, ..self }.line(last),
            _ => {}
        }
    }
}
