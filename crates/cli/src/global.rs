//! The flags of every command.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args};

use crate::progress::{ColorMode, LogFormat, Voice};

/// The flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Read this configuration in place of the project's longshore.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where tasks wait: redis://HOST:PORT/DB, amqp://HOST/VHOST, or sqlite:FILE
    /// [LONGSHORE_BROKER, CELERY_BROKER_URL, the configuration, sqlite:longshore.db]
    #[arg(long, global = true, value_name = "URL", help_heading = "Task queue")]
    pub broker: Option<String>,
    /// Where results are stored, if not with the broker [LONGSHORE_RESULTS, CELERY_RESULT_BACKEND,
    /// the configuration]
    #[arg(long, global = true, value_name = "URL", help_heading = "Task queue")]
    pub results: Option<String>,
    /// Tell monitors when a task is sent, so that timelines know it: one more command to the broker
    /// for each
    #[arg(long, global = true, help_heading = "Task queue")]
    pub task_send_sent_event: bool,
    /// Colours: auto, always or never
    #[arg(long, global = true, default_value = "auto", value_parser = ColorMode::parse)]
    pub color: ColorMode,
    /// JSON instead of tables and summaries
    #[arg(long, global = true)]
    pub json: bool,
    /// Also say which tasks failed, as they end; twice: every task
    #[arg(short = 'v', long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors: no progress, no notes, no summary
    #[arg(short = 'q', long, global = true)]
    pub quiet: bool,
    /// What is said on stderr: auto, text or json (a JSON object a line, progress and summary
    /// included)
    #[arg(long, global = true, value_name = "FORMAT", default_value = "auto", value_parser = LogFormat::parse)]
    pub log_format: LogFormat,
    /// Read no keys from the terminal
    #[arg(long, global = true)]
    pub no_input: bool,
}

impl Global {
    /// The flags again, for a command that stands for another.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(path) = &self.config {
            words.extend(["--config".into(), path.clone().into_os_string()]);
        }
        for (flag, url) in [("--broker", &self.broker), ("--results", &self.results)] {
            words.extend(url.iter().flat_map(|url| [flag.into(), url.into()]));
        }
        words.push(format!("--color={}", self.color).into());
        words.push(format!("--log-format={}", self.log_format).into());
        let switches = [
            ("--json", self.json),
            ("--quiet", self.quiet),
            ("--no-input", self.no_input),
            ("--task-send-sent-event", self.task_send_sent_event),
        ];
        words.extend(switches.into_iter().filter(|(_, on)| *on).map(|(word, _)| word.into()));
        words.extend((0..self.verbose).map(|_| "-v".into()));
        words
    }

    /// Returns the voice that the flags ask for: what is said on stderr, and in which form.
    pub fn voice(&self) -> Voice {
        Voice::new(self.verbose, self.quiet, self.log_format)
    }
}
