//! A command as its templates say it: its words, for one record or for the several of a `--batch`,
//! its input and its surroundings.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use longshore_core::{
    Context, TaskError,
    lane::child::{self, Command, Limits, Stdin, Stream},
};

use crate::{
    batch::Weight,
    call::Item,
    environment::surroundings,
    injection::{self, Injection},
    record::{Range, Record, key_hex},
    spec::{CommandSpec, ProgramLimits},
    template::{Expr, Shape, Template, Vars},
};

/// A command's templates.
pub struct CommandPlan {
    argv: Vec<Template>,
    /// Everything in one text for `sh -c`.
    shell: Option<Template>,
    stdin: Option<Expr>,
    /// A range of a file goes to its stdin.
    stream: bool,
    env: Vec<(OsString, Expr)>,
    cwd: Option<PathBuf>,
    /// A call may have several records.
    batch: bool,
    /// Between TERM and KILL.
    pub kill_after: Duration,
    /// The most of each stream that is kept.
    pub max_output: usize,
    /// The most address space of a child, in bytes.
    memory: Option<u64>,
    /// The command as people read it.
    text: String,
}

impl CommandPlan {
    pub(crate) fn compile(spec: &CommandSpec, env: Vec<(OsString, Expr)>, limits: &ProgramLimits, shape: &Shape) -> Result<Self, String> {
        // The bytes of a range go straight from the file to the command: held here they would fill
        // the memory.
        let mut stream = limits.split && spec.stdin.as_deref().is_some_and(|text| text.trim() == "{}");
        let stdin = spec
            .stdin
            .as_deref()
            .filter(|_| !stream)
            .map(|text| Expr::parse(text, shape))
            .transpose()
            .map_err(|error| format!("--stdin: {error}"))?;
        let mut words = spec.argv.clone();
        let text = shell_words::join(words.iter().map(|word| word.to_string_lossy()));
        let parse = |word: &OsString| Template::parse(word.as_encoded_bytes(), shape);
        let mut argv = words.iter().map(parse).collect::<Result<Vec<_>, _>>().map_err(|error| format!("the command: {error}"))?;
        // As xargs and parallel do it: a command that uses its record nowhere gets it as last
        // argument. A range of a file is too long for that.
        let unused = argv.iter().all(Template::is_constant) && spec.stdin.is_none() && env.iter().all(|(_, expr)| expr.is_constant());
        stream |= unused && limits.split;
        if unused && !stream {
            words.push("{}".into());
            argv.push(parse(&"{}".into()).map_err(|error| error.to_string())?);
        }
        // The words are joined without quotes: a shell is asked for because it is to interpret
        // them.
        let shell = if spec.shell {
            let text = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
            Some(Template::parse(&text, shape).map_err(|error| format!("the command: {error}"))?)
        } else {
            None
        };
        // Said now and once, not by every task.
        if let Some(cwd) = spec.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
            return Err(format!("--cwd {}: no such directory", cwd.display()));
        }
        let max_output = usize::try_from(limits.max_output).unwrap_or(usize::MAX);
        Ok(Self {
            argv,
            shell,
            stdin,
            stream,
            env,
            cwd: spec.cwd.clone(),
            batch: limits.batch,
            kill_after: limits.kill_after,
            max_output,
            memory: None,
            text,
        })
    }

    /// Returns why it would run what stands in a record, and what to write; `None` if it does not.
    pub(crate) fn injection(&self) -> Option<String> {
        if let Some(text) = &self.shell {
            return injection::in_text(text).map(|why| format!("the command: {why}"));
        }
        let Injection { placeholder, place, advice, .. } = injection::in_words(&self.argv)?;
        Some(format!("the command: `{placeholder}` stands {place}, so that a record could run any program: write {advice}"))
    }

    /// Returns why its program cannot run for any record, as far as that is known before it is
    /// tried. Blocks.
    pub(crate) fn missing(&self) -> Option<String> {
        // With a PATH of its own the program is looked for there.
        if self.env.iter().any(|(name, _)| name == "PATH") {
            return None;
        }
        match &self.shell {
            Some(text) => missing_in_shell(text.source(), self.cwd.as_deref()),
            None => {
                let program = self.argv.first().filter(|word| word.is_constant())?;
                let command = Command { program: os(program.source().to_vec()), cwd: self.cwd.clone(), ..Command::default() };
                child::missing(&command).map(|error| error.message().to_owned())
            }
        }
    }

    /// Returns whether it starts the same program for every record.
    pub(crate) fn has_one_program(&self) -> bool {
        let varies = self.env.iter().any(|(name, expr)| name == "PATH" && !expr.is_constant());
        !varies && (self.shell.is_some() || self.argv.first().is_some_and(Template::is_constant))
    }

    /// A command for tasks of a queue: these words, and what `limits` says.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn of_words(
        words: &[String],
        env: Vec<(OsString, Expr)>,
        stdin: Option<Expr>,
        cwd: Option<PathBuf>,
        limits: &Limits,
        memory: Option<u64>,
        shape: &Shape,
    ) -> Result<Self, String> {
        let argv =
            words.iter().map(|word| Template::parse(word, shape)).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        if let Some(Injection { placeholder, place, task_advice, .. }) = injection::in_words(&argv) {
            return Err(format!("`{placeholder}` stands {place}, so that whoever sends a task could run any program: write {task_advice}"));
        }
        let text = shell_words::join(words);
        let Limits { kill_after, max_output, .. } = *limits;
        Ok(Self { argv, shell: None, stdin, stream: false, env, cwd, batch: false, kill_after, max_output, memory, text })
    }

    /// Limits its children's memory, unless that is limited already.
    pub fn limit_memory(&mut self, memory: Option<u64>) {
        self.memory = self.memory.or(memory);
    }

    /// Returns the command as people read it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Everything that decides what a task does, for the journal's hash. How many records share a
    /// call does not: a job may go on in other groups.
    pub(crate) fn sources(&self) -> Vec<Vec<u8>> {
        let mut all = vec![if self.shell.is_some() { b"shell".to_vec() } else { b"command".to_vec() }];
        all.extend(self.argv.iter().chain(&self.shell).map(|template| template.source().to_vec()));
        let stdin = self.stdin.as_ref().map_or(Vec::new(), |stdin| stdin.source().to_vec());
        all.push(if self.stream { b"range".to_vec() } else { stdin });
        all.extend(surroundings(self.cwd.as_deref(), &self.env));
        all
    }

    /// Returns the reason why a call of it cannot have several records, if there is one.
    pub(crate) fn takes_one_because(&self) -> Option<String> {
        if self.shell.is_some() {
            let hint = "write a script of its own that takes words: -- sh -c 'cat \"$@\" | wc -l' sh {}";
            return Some(format!("--batch and --shell exclude each other, since a shell's text has no word to repeat; {hint}"));
        }
        if self.argv.first().is_some_and(Template::is_of_record) {
            return Some("--batch: the program's name depends on the record, so that each record needs a call of its own".to_owned());
        }
        let (name, _) = self.env.iter().find(|(_, expr)| expr.is_of_record())?;
        Some(format!("--env {}: a call of --batch has many records; write a constant: {{{{ 'x' }}}}", name.display()))
    }

    /// The command for these records. Words with a placeholder of the record come once for each, in
    /// order; all others once.
    ///
    /// # Errors
    /// Those of the first record that has any.
    pub fn command(&self, records: &[&Record], vars: &Vars<'_>) -> Result<Command, TaskError> {
        records.iter().try_for_each(|record| record.check())?;
        if !self.stream {
            records.iter().filter_map(|record| record.as_range()).try_for_each(Range::check_unchanged)?;
        }
        let Some(first) = records.first() else { return Err(TaskError::invalid("a call without a record")) };
        let (program, args) = match &self.shell {
            Some(shell) => ("sh".into(), vec!["-c".into(), shell.render_shell(first, vars)?]),
            None => {
                let mut words = Vec::with_capacity(self.argv.len() + records.len() - 1);
                for template in &self.argv {
                    let count = if template.is_of_record() { records.len() } else { 1 };
                    for record in &records[..count] {
                        words.push(template.render_arg(record, vars)?);
                    }
                }
                let mut words = words.into_iter();
                (words.next().unwrap_or_default(), words.collect())
            }
        };
        if program.is_empty() {
            return Err(first.invalid("the program's name is empty"));
        }
        let mut env = Vec::with_capacity(self.env.len() + 4);
        for (name, expr) in &self.env {
            let value = expr.eval_bytes(first, vars)?;
            if value.contains(&0) {
                return Err(first.invalid(format_args!("the variable {} would hold a NUL byte", name.display())));
            }
            env.push((name.clone(), os(value)));
        }
        let stdin = match (&self.stdin, first.as_range()) {
            (_, Some(range)) if self.stream => {
                let range = range.clone();
                Stdin::Stream(Stream::new(move || range.open()))
            }
            (stdin, _) => self.bytes_for_stdin(stdin.as_ref(), records, vars)?,
        };
        Ok(Command { program, args, env, cwd: self.cwd.clone(), stdin, memory: self.memory, spill: None, listener: None })
    }

    fn bytes_for_stdin(&self, stdin: Option<&Expr>, records: &[&Record], vars: &Vars<'_>) -> Result<Stdin, TaskError> {
        Ok(match stdin {
            None => Stdin::Null,
            Some(expr) => {
                let mut text = Vec::new();
                for record in records {
                    text.extend(expr.eval_bytes(record, vars)?);
                    if self.batch {
                        text.push(b'\n');
                    }
                }
                Stdin::Bytes(text)
            }
        })
    }

    /// Returns the bytes that a record adds to a call that it shares.
    ///
    /// # Errors
    /// What a call of it alone would fail with.
    pub(crate) fn weigh(&self, record: &Record) -> Result<Weight, TaskError> {
        let command = self.command(&[record], &Vars::default())?;
        let argv = command.args.iter().zip(&self.argv[1..]).filter(|(_, template)| template.is_of_record());
        let stdin = if let Stdin::Bytes(bytes) = &command.stdin { bytes.len() } else { 0 };
        // With its NUL and its pointer, as the kernel counts. The record's id goes into a variable.
        Ok(Weight { argv: argv.map(|(word, _)| word.len() + 9).sum::<usize>() + ID, held: record.raw().len() + stdin })
    }

    /// Returns the bytes of a call's words before any record is in it.
    pub(crate) fn base(&self) -> usize {
        self.argv.iter().filter(|template| !template.is_of_record()).map(|template| template.source().len() + 9).sum()
    }
}

/// Asks the shell for the first word of a text, where that is plainly a command.
fn missing_in_shell(text: &[u8], cwd: Option<&Path>) -> Option<String> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./-+".contains(byte);
    let word = std::str::from_utf8(&text[..end]).ok().filter(|word| !word.is_empty() && word.bytes().all(|byte| is_plain(&byte)))?;
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "command -v \"$1\"", "sh", word]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(cwd) = cwd {
        shell.current_dir(cwd);
    }
    // 127 says "not found"; what else may be wrong is said by the tasks.
    let found = shell.status().ok()?.code();
    found.filter(|code| matches!(code, 1 | 127)).map(|_| format!("cannot run `{word}`: the shell finds no such program"))
}

/// A task's id with a number of times, and a space.
const ID: usize = 32 + 12;

/// Returns the variables that tell every child about its task. The id is the task's own in every
/// attempt and every sitting, wherever its record stands in the input: good for what must be done
/// once only. Where a record comes again a number follows. Records that share a call have one id
/// each, with spaces between.
pub(crate) fn told(job: &str, call: &[Item], context: &Context) -> [(OsString, OsString); 4] {
    let mut ids = String::with_capacity(call.len() * 33);
    for item in call {
        if !ids.is_empty() {
            ids.push(' ');
        }
        ids += &key_hex(item.key);
        if item.nth > 0 {
            ids += &format!("-{}", item.nth);
        }
    }
    [
        ("LONGSHORE_JOB".into(), job.into()),
        ("LONGSHORE_TASK_ID".into(), ids.into()),
        ("LONGSHORE_ATTEMPT".into(), context.attempt.to_string().into()),
        ("LONGSHORE_SLOT".into(), (context.slot + 1).to_string().into()),
    ]
}

#[cfg(unix)]
fn os(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}
