//! What runs for each record, as plain data.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use longshore_worker::Settings;

use crate::http::StatusRanges;

/// Program that runs for each record.
///
/// Words and texts are templates: `{}` is the record, `{field}` one of its fields, `{{ … }}` an
/// expression.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Program {
    /// A child process per task.
    Command(CommandSpec),
    /// A request per task.
    Http(Box<RequestSpec>),
    /// A line to one of the children that stay alive.
    Pipe(PipeSpec),
    /// A task of a queue per task; its worker's answer is the result.
    Task(Box<TaskSpec>),
    /// Nothing, for measurements.
    #[default]
    Nothing,
}

impl Program {
    /// Runs a program with these words for each record. Where no word names the record, it becomes
    /// the last one.
    pub fn command<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::Command(CommandSpec { argv: words.into_iter().map(Into::into).collect(), ..CommandSpec::default() })
    }

    /// Runs a text through `sh -c` for each record, every value quoted.
    pub fn shell(text: impl Into<OsString>) -> Self {
        Self::Command(CommandSpec { argv: vec![text.into()], shell: true, ..CommandSpec::default() })
    }

    /// Sends a request for each record: `GET https://example.com/{id}`.
    pub fn http(request: impl Into<String>) -> Self {
        Self::Http(Box::new(RequestSpec { request: request.into(), ..RequestSpec::default() }))
    }

    /// Hands each record as a line to children that stay alive, and reads a line as the answer.
    pub fn pipe(command: impl Into<String>) -> Self {
        Self::Pipe(PipeSpec { command: command.into(), ..PipeSpec::default() })
    }
}

/// A command for each record.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CommandSpec {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Through `sh -c`.
    pub shell: bool,
    /// An expression: what it reads from its stdin.
    pub stdin: Option<String>,
    /// Its working directory.
    pub cwd: Option<PathBuf>,
    /// Variables of its environment, each `NAME=EXPR`.
    pub env: Vec<String>,
}

/// A request for each record.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestSpec {
    /// Method and URL.
    pub request: String,
    /// Headers, each `Name: value`.
    pub headers: Vec<String>,
    /// The body, as JSON.
    pub body_json: Option<String>,
    /// The body.
    pub body: Option<String>,
    /// The body as fields of a form, each `NAME=TEXT`.
    pub form: Vec<String>,
    /// Statuses that count as ok.
    pub ok: StatusRanges,
    /// Most redirects to follow.
    pub redirects: u32,
    /// Always speak HTTP/2.
    pub http2: bool,
    /// Accept any certificate.
    pub insecure: bool,
    /// A proxy, or `none`; the proxy variables when absent.
    pub proxy: Option<String>,
    /// Limit for connecting.
    pub connect_timeout: Duration,
    /// A directory for the bodies of answers.
    pub save_body: Option<PathBuf>,
}

impl Default for RequestSpec {
    fn default() -> Self {
        Self {
            request: String::new(),
            headers: Vec::new(),
            body_json: None,
            body: None,
            form: Vec::new(),
            ok: StatusRanges::default(),
            redirects: 5,
            http2: false,
            insecure: false,
            proxy: None,
            connect_timeout: Duration::from_secs(5),
            save_body: None,
        }
    }
}

/// Children that stay alive.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PipeSpec {
    /// The command, as a shell's words.
    pub command: String,
    /// Their working directory.
    pub cwd: Option<PathBuf>,
    /// Variables of its environment, each `NAME=EXPR`; none may depend on a record.
    pub env: Vec<String>,
    /// Lines that a child may have at once; 0 is one. With more, it has to work them off one after
    /// the other and answer in their order.
    pub window: u32,
}

/// A task of a queue for each record.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TaskSpec {
    /// The task's name.
    pub name: String,
    /// Its arguments, a JSON array.
    pub args: Option<String>,
    /// Its keyword arguments, a JSON object.
    pub kwargs: Option<String>,
    /// Its queue; its own, else `celery` when absent.
    pub queue: Option<String>,
    /// The settings that say where the queue is.
    pub settings: Settings,
}

/// Settings of a run that concern its program.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProgramLimits {
    /// From TERM to KILL.
    pub kill_after: Duration,
    /// Most bytes of each stream that are kept.
    pub max_output: u64,
    /// Most bytes of a record, and of a line of an answer.
    pub max_record: u64,
    /// Records are ranges of a file.
    pub split: bool,
    /// A call may have several records.
    pub batch: bool,
    /// Results of an earlier sitting are failures that are to be tried again.
    pub retries_failed: bool,
    /// The times that servers ask for are kept to.
    pub retry_after: bool,
}

impl Default for ProgramLimits {
    fn default() -> Self {
        crate::RunSpec::default().limits()
    }
}
