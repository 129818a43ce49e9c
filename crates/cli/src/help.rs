//! `-h`: one screen of a command's help, its most used flags with a line each. `--help` has all.

use std::ffi::OsString;

use clap::{Arg, Command, builder::Resettable};

/// Most lines of a screen.
#[cfg(all(test, feature = "kafka"))]
pub(crate) const SCREEN: usize = 42;

/// Flags of a command that `-h` shows: their ids, each with its line, or with the first clause of
/// its help.
type Shown = &'static [(&'static str, &'static str)];

/// The commands that have more flags than a screen has lines.
const SHOWN: &[(&str, Shown)] = &[("run", RUN), ("worker", WORKER), ("kafka consume", CONSUME), ("kafka produce", PRODUCE)];

const RUN: Shown = &[
    ("inputs", "Input files: - is stdin, @name a job of the configuration"),
    ("command", "Run this for each record: a program and its words, no shell"),
    ("http", "Send this for each record: 'POST https://h/x/{id}'"),
    ("pipe", "A child that stays: a line in for each record, a line out"),
    ("task", "Send a task to a queue for each record"),
    ("format", "auto, lines, jsonl, csv, tsv or nul"),
    ("null", ""),
    ("batch", "Records that share one call, as with xargs -n"),
    ("split", "Ranges of one large file, cut at records"),
    ("concurrency", "Most at once: a number, a share of the cores, or auto"),
    ("order_by", "Records of one value run one after the other"),
    ("rate", ""),
    ("retries", ""),
    ("timeout", "Limit of one attempt: 30s, or 300% of the median"),
    ("max_fail", "Stop after this many failures, or above this share"),
    ("output", ""),
    ("ordered", ""),
    ("save_output", "Also write what each task prints to files here"),
    ("shell", ""),
    ("name", "A name: the job goes on where it stopped"),
    ("resume", "Go on with a job, or with the last one"),
    ("retry_failed", ""),
    ("dry_run", "Show the first tasks, and run nothing"),
];

const WORKER: Shown = &[
    ("hostname", "Its node name: %h is this machine"),
    ("queues", ""),
    ("exclude_queues", ""),
    ("lane", ""),
    ("concurrency", "Slots of the blocking, cpu and process lanes"),
    ("pool", "Celery's word for a lane: prefork, threads, gevent, solo"),
    ("autoscale", "In place of -c: slots follow the load"),
    ("task_rate", ""),
    ("acks", "When messages are acknowledged: late or early"),
    ("time_limit", "The limit of one attempt"),
    ("max_tasks_per_child", "A child is replaced after so many tasks"),
    ("grace", ""),
    ("until_empty", ""),
    ("beat", "Send what is due, too, as `longshore beat` does"),
    ("pidfile", ""),
    ("loglevel", "Celery's lines: debug, info, warning, error"),
];

const CONSUME: Shown = &[
    ("topics", ""),
    ("command", "Run this for each record, its value on stdin"),
    ("http", "Send this for each record: 'POST https://h/x'"),
    ("pipe", "A child that stays: a line in, a line out"),
    ("to", "Write what each record brings to this topic"),
    ("group", "The group, whose members share the partitions"),
    ("from", "Where a new group starts"),
    ("until_end", "End when everything is done"),
    ("max_threads", ""),
    ("max_in_flight", ""),
    ("order", "Who waits for whom: key, partition or none"),
    ("rate", ""),
    ("retries", ""),
    ("timeout", ""),
    ("dead_letter", "Where a record goes that failed for good"),
    ("bootstrap", "Where Kafka is: HOST:PORT[,…]"),
    ("setting", ""),
];

const PRODUCE: Shown = &[
    ("topic", ""),
    ("input", ""),
    ("count", "Send this many records"),
    ("format", "auto, lines, jsonl, csv, tsv or nul"),
    ("key", ""),
    ("value", ""),
    ("header", ""),
    ("rate", ""),
    ("bootstrap", "Where Kafka is: HOST:PORT[,…]"),
    ("setting", ""),
];

/// Longest text about a command that fits behind its name.
const ONE_LINE: usize = 84;

/// Returns whether a command line that asks for help asks for a screen of it: not with `--help`.
pub(crate) fn is_short(argv: &[OsString]) -> bool {
    !argv.iter().take_while(|word| *word != "--").any(|word| word == "--help")
}

/// Makes `-h` of a command: the flags that are used most, a line each. `of_queue` says that the
/// command that is asked about needs a broker; `top`, that it is none of the commands.
pub(crate) fn short(command: Command, top: bool, of_queue: bool) -> Command {
    // The flags of every command are below the others.
    let common = command.mut_args(|arg| {
        let shown = match arg.get_id().as_str() {
            "config" => top || !of_queue,
            "broker" => top || of_queue,
            "json" | "quiet" => true,
            _ => false,
        };
        line(arg, "", !shown).display_order(900)
    });
    below(common, "")
}

/// Shortens the commands below this one.
fn below(command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = names.into_iter().fold(command, |command, name| {
        let path = format!("{path} {name}").trim_start().to_owned();
        command.mut_subcommand(name, |inner| shorten(inner, &path))
    });
    let all = if path.is_empty() { "COMMAND" } else { path };
    command.after_help(format!("All of it: longshore {all} --help")).after_long_help(Resettable::Reset).long_about(Resettable::Reset)
}

fn shorten(command: Command, path: &str) -> Command {
    let shown = SHOWN.iter().find(|(of, _)| *of == path).map(|(_, shown)| *shown);
    let about = command.get_about().map(|about| match first(&about.to_string()) {
        long if long.len() > ONE_LINE => long.split(": ").next().unwrap_or_default().to_owned(),
        about => about,
    });
    let command = command.mut_args(|arg| {
        let own = shown.map(|shown| shown.iter().find(|(id, _)| *id == arg.get_id().as_str()));
        match own {
            Some(None) => line(arg, "", true),
            Some(Some((_, text))) => line(arg, text, false),
            None => line(arg, "", false),
        }
    });
    below(if let Some(about) = about { command.about(about) } else { command }, path)
}

/// One line about a flag, below one heading.
fn line(arg: Arg, text: &'static str, hidden: bool) -> Arg {
    let help = match text {
        "" => arg.get_help().map(|help| first(&help.to_string())),
        text => Some(text.to_owned()),
    };
    let hidden = hidden || arg.is_hide_set();
    let arg = arg.help_heading(Resettable::Reset).long_help(Resettable::Reset).hide(hidden);
    let arg = if arg.get_action().takes_values() { arg.hide_possible_values(true) } else { arg };
    if let Some(help) = help { arg.help(help) } else { arg }
}

/// The first clause of a text.
fn first(text: &str) -> String {
    let ends = ["; ", " (", ". ", " ["].into_iter().filter_map(|end| text.find(end)).min();
    text[..ends.unwrap_or(text.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_asked_for_unless_help_is_written_out_before_the_commands_words() {
        for (line, want) in [
            ("longshore run -h", true),
            ("longshore", true),
            ("longshore run --help", false),
            ("longshore run --help -- gzip", false),
            ("longshore run -h -- gzip --help", true),
        ] {
            let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(is_short(&argv), want, "{line}");
        }
    }

    #[test]
    fn a_line_has_the_first_clause() {
        for (text, want) in [
            ("All of it", "All of it"),
            ("A share, or auto: measured [cores]", "A share, or auto: measured"),
            ("Start over. Then more; and more", "Start over"),
        ] {
            assert_eq!(first(text), want);
        }
    }
}
