//! Words of other programs (GNU parallel, xargs, Celery), each with what is written here, and a
//! command whose `--` was forgotten.

use std::{
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Place in which a word is foreign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// In place of a command's name.
    Command,
    /// A flag of this command.
    FlagOf(&'static str),
    /// A flag of any command.
    AnyFlag,
}

/// A word of another program.
#[derive(Debug)]
pub(crate) struct ForeignWord {
    pub(crate) at: At,
    /// Its spellings.
    pub(crate) words: &'static [&'static str],
    /// The program.
    pub(crate) of: &'static str,
    /// The words to write here; those of a command line stand in backticks.
    pub(crate) here: &'static str,
}

const fn word(at: At, words: &'static [&'static str], of: &'static str, here: &'static str) -> ForeignWord {
    ForeignWord { at, words, of, here }
}

const RUN: At = At::FlagOf("run");
const WORKER: At = At::FlagOf("worker");
const PARALLEL: &str = "GNU parallel";
const BOTH: &str = "xargs and GNU parallel";
const CELERY: &str = "Celery";

/// The words, the special ones before those of any command.
pub(crate) const WORDS: &[ForeignWord] = &[
    // How many at once, how many in a call.
    word(RUN, &["-P", "--max-procs", "--jobs"], BOTH, "`-j 8`"),
    word(RUN, &["-N", "--max-args"], BOTH, "`--batch 50`, records that share one call"),
    word(RUN, &["-L", "-l", "--max-lines"], BOTH, "`--batch 50`, records that share one call"),
    word(RUN, &["-X", "-m", "--xargs"], PARALLEL, "`--batch 50`, or `--batch auto`"),
    word(RUN, &["-s", "--max-chars"], BOTH, "nothing, a call is never longer than 128 KiB; `--batch 50` is the most of records"),
    word(RUN, &["--load"], PARALLEL, "`--max-load 90%`"),
    word(RUN, &["--memfree", "--memsuspend"], PARALLEL, "`--min-free-mem 1GiB`"),
    word(RUN, &["--delay"], PARALLEL, "`--rate 10/s`"),
    // Input.
    word(RUN, &["-I", "-J", "--replace"], BOTH, "`{}` stands for the record in every word behind `--`, without a flag"),
    word(RUN, &["-a", "--arg-file"], BOTH, "`-i FILE`, or the file's name before `--`"),
    word(RUN, &["-d", "--delimiter"], BOTH, "`-0` for records that end with NUL; else a line each: tr , '\\n' | longshore run …"),
    word(RUN, &["-C", "--colsep"], PARALLEL, "`--format csv` or `--format tsv`, and `{1}` or `{price}` for a column"),
    word(RUN, &["--csv"], PARALLEL, "`--format csv`: the first row names the columns, unless `--no-header`"),
    word(RUN, &["--no-run-if-empty"], BOTH, "nothing; without records nothing runs"),
    word(RUN, &["-E", "--eof"], BOTH, "`--take 100`: no word ends the input"),
    word(RUN, &["--link", "--xapply"], PARALLEL, "one table: `--format tsv`, and `{1}` `{2}`"),
    word(RUN, &["--shuf"], PARALLEL, "shuf FILE | longshore run …"),
    word(RUN, &["--block", "--pipe-part", "--pipepart"], PARALLEL, "`--split 10MiB`, parts of one file on stdin"),
    word(RUN, &["--recstart", "--recend"], PARALLEL, "`--format auto`: records are lines, JSON, rows, or end with NUL (`-0`)"),
    word(RUN, &["--round-robin"], PARALLEL, "`--pipe CMD`: children that stay, a line each in turn"),
    // Output, and what is seen.
    word(
        RUN,
        &["--joblog"],
        PARALLEL,
        "nothing; every run keeps a journal: `longshore jobs show`, and `longshore jobs export JOB --as tsv` has the columns of a job log",
    ),
    word(RUN, &["--bar", "--eta"], PARALLEL, "nothing on a terminal, where it is shown; else `--progress plain`"),
    word(RUN, &["--keep-order"], PARALLEL, "`-k`"),
    word(RUN, &["--group"], PARALLEL, "nothing; what a task writes comes out whole"),
    word(RUN, &["--linebuffer", "--lb"], PARALLEL, "`--line-buffer`, whole lines while the commands run"),
    word(RUN, &["-u", "--ungroup"], PARALLEL, "`--line-buffer`, whole lines while the commands run"),
    word(RUN, &["--tagstring"], PARALLEL, "`--tag`, the record before each line"),
    word(RUN, &["--dryrun"], PARALLEL, "`-n`, or `-n 10`"),
    word(RUN, &["-p", "--interactive"], BOTH, "`-n` to look before anything runs"),
    word(RUN, &["--tmux", "--tmuxpane"], PARALLEL, "the key s, which shows what runs"),
    // Failures.
    word(RUN, &["--halt", "--halt-on-error"], PARALLEL, "`--max-fail 1` (soon) or `--max-fail 1:now`; of success `--until-ok 1`"),
    word(RUN, &["--resume-failed"], PARALLEL, "`--retry-failed NAME`"),
    word(RUN, &["--termseq"], PARALLEL, "`--kill-after 10s`, from TERM to KILL"),
    word(RUN, &["-x", "--exit"], BOTH, "`--max-fail 1`"),
    // Where it runs, and how.
    word(RUN, &["--wd", "--workdir"], PARALLEL, "`--cwd DIR`"),
    word(RUN, &["--quote"], PARALLEL, "nothing; there is no shell; with `--shell` every value is quoted"),
    word(RUN, &["--process-slot-var"], "xargs", "`{%}`, or the variable LONGSHORE_SLOT"),
    word(RUN, &["--plus", "--rpl"], PARALLEL, "`{{ expression }}`, as in `{{ name | upper }}`"),
    word(RUN, &["--profile"], PARALLEL, "`longshore run @NAME`, a [job.NAME] in longshore.toml"),
    word(
        RUN,
        &["-S", "--sshlogin", "--slf", "--sshloginfile", "--trc", "--transferfile", "--nonall", "--onall"],
        PARALLEL,
        "workers on those hosts, and `longshore run --task NAME`",
    ),
    word(RUN, &["--will-cite", "--citation", "--bibtex"], PARALLEL, "nothing"),
    word(At::Command, &["parallel", "xargs", "sem"], "GNU parallel and xargs", "`longshore run -j 8`, then -- CMD {}"),
    // Celery.
    word(At::Command, &["purge"], CELERY, "`longshore queues purge QUEUE`"),
    word(
        At::Command,
        &["multi"],
        CELERY,
        "one process has all lanes: `longshore worker`; several are systemd's, longshore-worker@QUEUE.service",
    ),
    word(
        At::Command,
        &["flower"],
        CELERY,
        "`longshore top`, `longshore workers`, `longshore queues`, `longshore events`; Flower itself works, too: celery flower",
    ),
    word(At::Command, &["shell"], CELERY, "`longshore call NAME`"),
    word(At::Command, &["amqp", "list"], CELERY, "`longshore queues`, `longshore tasks list`"),
    word(At::Command, &["migrate"], CELERY, "`longshore queues move`"),
    word(At::Command, &["graph", "report"], CELERY, "`longshore inspect report`, `longshore workers`"),
    word(At::Command, &["upgrade"], CELERY, "`longshore config init` and `longshore config check`"),
    word(At::Command, &["logtool"], CELERY, "`--log-format json`, a JSON object a line"),
    word(
        At::Command,
        &["ping", "active", "reserved", "scheduled", "registered", "stats", "revoked"],
        CELERY,
        "`longshore inspect`, and that word",
    ),
    word(
        At::Command,
        &["revoke", "rate_limit", "add_consumer", "cancel_consumer", "pool_grow", "shutdown"],
        CELERY,
        "`longshore control`, and that word",
    ),
    word(At::Command, &["requeue"], "RQ", "`longshore tasks retry`, or `longshore dead retry`"),
    word(
        WORKER,
        &["-s", "--schedule"],
        CELERY,
        "nothing: schedules are kept in the broker's store, with when they were last due; `longshore schedule`",
    ),
    word(
        At::FlagOf("beat"),
        &["-s", "--schedule", "-S", "--scheduler", "--max-interval"],
        CELERY,
        "nothing: schedules are kept in the broker's store, with when they were last due; `longshore schedule`",
    ),
    word(WORKER, &["-D", "--detach"], CELERY, "systemd, longshore-worker@QUEUE.service: this one stays in the foreground"),
    word(WORKER, &["-f", "--logfile"], CELERY, "2>>worker.log; `-l info` for Celery's lines"),
    word(WORKER, &["--uid", "--gid", "--umask"], CELERY, "the service's own: User= and UMask= of systemd"),
    word(WORKER, &["-I", "--include"], CELERY, "[tasks.NAME] sections in longshore.toml, or a program in Rust with `longshore::main`"),
    word(WORKER, &["--disable-prefetch"], CELERY, "`--prefetch 1`"),
    word(WORKER, &["--burst"], "RQ", "`--until-empty`"),
    word(WORKER, &["-p", "--processes", "--threads"], "Dramatiq", "`--lane cpu=2,blocking=8`"),
    word(At::AnyFlag, &["-A", "--app"], CELERY, "nothing; `--broker URL` or CELERY_BROKER_URL says where the tasks are"),
    word(At::AnyFlag, &["-b"], CELERY, "`--broker URL`"),
    word(At::AnyFlag, &["--result-backend"], CELERY, "`--results URL`"),
    word(At::AnyFlag, &["--no-color", "-C"], CELERY, "`--color never`"),
    #[cfg(not(feature = "kafka"))]
    word(
        At::Command,
        &["kafka"],
        "a longshore with Kafka",
        "build it in, it needs cc and make: cargo build --release --features kafka (with TLS: kafka-tls)",
    ),
];

/// Answers a mistake in a command line: a foreign word, or a command without its `--`. `argv` is
/// the line, `verb` its command.
pub(crate) fn answer(argv: &[OsString], verb: &str, error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if verb == "run" && matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        let own = argv.iter().position(|word| word == "run").map_or(&[][..], |at| &argv[at + 1..]);
        if let Some(answer) = without_dashes(own) {
            return Some(answer);
        }
    }
    let (place, word) = match error.kind() {
        ErrorKind::InvalidSubcommand => (At::Command, context(ContextKind::InvalidSubcommand)?),
        ErrorKind::UnknownArgument => (At::AnyFlag, context(ContextKind::InvalidArg)?),
        _ => return None,
    };
    // `--halt=now` and `-P4` are those words, too.
    let bare = word.split('=').next().unwrap_or(word);
    let found = WORDS.iter().find(|foreign| {
        let here = match foreign.at {
            At::FlagOf(command) => place == At::AnyFlag && command == verb,
            at => at == place,
        };
        here && foreign.words.contains(&bare)
    })?;
    Some(format!("{bare} is a word of {}; here: {}", found.of, found.here))
}

/// Says where the `--` belongs that these words of `run` lack, if a program stands among them.
pub(crate) fn without_dashes(words: &[OsString]) -> Option<String> {
    let program = words[dashes(words, &is_program)?].to_string_lossy();
    Some(format!("the command stands behind `--`: longshore run … -- {} …", shell_words::quote(&program)))
}

/// Returns the place of the first word that is a program, where no `--` stands and the word is no
/// flag's value.
fn dashes(words: &[OsString], is_program: &dyn Fn(&OsStr) -> bool) -> Option<usize> {
    let is_flag = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    if words.iter().any(|word| word == "--") {
        return None;
    }
    (0..words.len()).find(|at| !is_flag(&words[*at]) && (*at == 0 || !is_flag(&words[at - 1])) && is_program(&words[*at]))
}

/// Returns whether a shell would find a program of this name, and no file of this name is here.
fn is_program(word: &OsStr) -> bool {
    let runs = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if word.as_encoded_bytes().contains(&b'/') {
        return runs(Path::new(word));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    !word.is_empty() && !Path::new(word).exists() && std::env::split_paths(&path).any(|dir| runs(&dir.join(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashes_belong_before_the_first_word_that_is_a_program() {
        let program = |word: &OsStr| ["gzip", "convert"].iter().any(|name| word == *name);
        for (line, want) in [
            ("gzip {}", Some(0)),
            ("-j 4 gzip -9 {}", Some(2)),
            ("-k gzip {}", None),
            ("urls.txt convert {} -resize 50%", Some(1)),
            ("-o gzip", None),
            ("urls.txt", None),
            ("-- gzip {}", None),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(dashes(&words, &program), want, "{line}");
        }
    }
}
