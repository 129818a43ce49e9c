//! `longshore advise`: which lane and how many workers, from words or by measuring.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use clap::Args;
use longshore_advise::{
    Advice, Bound, MeasureError, Place, SpeedUp,
    command::{CommandMeasurement, CommandSample},
    words::{DataSize, Guess, Hit, Question, choose_concurrency_approach, concurrency_decision_helper, guess},
};
use longshore_core::{
    LaneKind,
    lane::child::{Children, Command},
};
use serde_json::json;

use crate::units::{self, show_count, show_duration, show_size};
use crate::{exit::Exit, fault::Fault, progress::Voice};

/// Time below which a command is mostly its own start.
const SHORT: Duration = Duration::from_millis(20);

/// Arguments of `longshore advise`: the work in words, or a command to measure.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "longshore advise [OPTIONS] <WORDS>...\n       longshore advise [OPTIONS] --measure -- <CMD>...")]
pub struct AdviseArgs {
    /// What the work is, in words: "Resize 1000 images"
    #[arg(value_name = "WORDS", required_unless_present = "measure", conflicts_with = "measure")]
    words: Vec<String>,
    /// What one item takes
    #[arg(long, value_name = "DUR", value_parser = units::duration, conflicts_with = "measure")]
    each: Option<Duration>,
    /// How many items there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How much data an item has: a size, or tiny, small, medium, large
    #[arg(long, value_name = "SIZE", value_parser = data, conflicts_with = "measure")]
    data: Option<DataSize>,
    /// Run the command several times, alone and at once, and advise from what it takes
    #[arg(long, requires = "command")]
    measure: bool,
    /// How often it is run alone
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..), requires = "measure")]
    samples: u16,
    /// How long measuring may take; what has begun is not cut off
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = units::duration, requires = "measure")]
    budget: Duration,
    /// The most at once that is tried
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..), requires = "measure")]
    most: u16,
    /// The command to measure: a program and its arguments, no shell
    #[arg(last = true, value_name = "CMD", requires = "measure")]
    command: Vec<OsString>,
}

fn data(text: &str) -> Result<DataSize, String> {
    DataSize::parse(text)
        .map_or_else(|| units::size(text).map(DataSize::Bytes).map_err(|error| format!("{error}; or tiny, small, medium, large")), Ok)
}

/// Advises.
///
/// # Errors
/// The command to measure cannot be started or fails, the system does not let it be measured, or
/// stdout cannot be written.
pub fn advise(args: &AdviseArgs, json: bool, voice: Voice, out: &mut impl Write) -> Result<Exit, Fault> {
    let printed = match args.command.split_first() {
        Some((program, rest)) if args.measure => {
            let command = Command { program: program.clone(), args: rest.to_vec(), ..Command::default() };
            let sample =
                CommandSample { command, samples: args.samples.into(), budget: args.budget, most: args.most.into(), count: args.count };
            let note = |line: String| voice.note(&line).into_iter().for_each(|line| eprintln!("{line}"));
            note(format!(
                " measure  `{}` really runs: {} alone, then several at once, for about {}",
                program.to_string_lossy(),
                if args.samples == 1 { "once".to_owned() } else { format!("{} times", args.samples) },
                show_duration(args.budget)
            ));
            let children = Children::guarded(&[])
                .map_err(|error| Fault::new(Exit::of_system(&error, Exit::System), format!("no children can be started: {error}")))?;
            let measured = sample.measure(&children).map_err(refused)?;
            let _ = children.finish();
            note(format!(" measure  it ran {} times", show_count(measured.measurement.runs)));
            if json { measured_json(&measured, args, out) } else { print_measured(&measured, args, out) }
        }
        _ => {
            if args.words.iter().all(|word| word.trim().is_empty()) {
                return Err(Fault::usage("nothing to advise on: say what the work is, as in longshore advise \"Resize 1000 images\""));
            }
            let question = Question { text: args.words.join(" "), each: args.each, count: args.count, data: args.data, cores: None };
            let guess = guess(&question);
            if json { guess_json(&question, &guess, out) } else { print_guess(&guess, out) }
        }
    };
    printed?;
    Ok(Exit::Done)
}

fn refused(error: MeasureError) -> Fault {
    Fault::new(if matches!(error, MeasureError::Command(_)) { Exit::Failed } else { Exit::System }, error)
}

fn print_guess(guess: &Guess, out: &mut impl Write) -> io::Result<()> {
    let advice = &guess.advice;
    writeln!(out, " words   {}", words_line(guess))?;
    writeln!(out, " advice  {}", advice_line(guess))?;
    for reason in advice.reasons.iter().filter(|_| advice.place != Place::Sequential) {
        writeln!(out, "         {reason}")?;
    }
    let (run, measure) = examples(guess);
    writeln!(out, " run     {run}")?;
    writeln!(out, " guess only; measure: {measure}")
}

fn words_line(guess: &Guess) -> String {
    if guess.words.is_empty() {
        return "none that says what the work does".into();
    }
    let quoted = |words: &mut dyn Iterator<Item = &Hit>| words.map(|hit| format!("\"{}\"", hit.word)).collect::<Vec<_>>().join(", ");
    let known = quoted(&mut guess.words.iter().filter(|hit| hit.lesson));
    let lesson = match (guess.words.iter().filter(|hit| hit.lesson).count(), guess.words.len()) {
        (0, 1) => "; our list: the lesson's does not know the word".to_owned(),
        (0, 2) => "; our list: the lesson's knows neither word".to_owned(),
        (0, _) => "; our list: the lesson's knows none of the words".to_owned(),
        (some, all) if some == all => String::new(),
        _ => format!("; our list: the lesson's knows {known}"),
    };
    let all = quoted(&mut guess.words.iter());
    format!("{all} → {} (compute {}, I/O {}{lesson})", guess.advice.bound, guess.compute, guess.io)
}

fn advice_line(guess: &Guess) -> String {
    let advice = &guess.advice;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Place::Lane(lane) = advice.place else {
        return format!("stay sequential: {}", advice.reasons.first().map_or("", String::as_str));
    };
    let mut line = format!("lane {lane}, {} ({})", count(advice.workers, "worker"), count(cores, "core"));
    if let (Some(work), Some(predicted)) = (advice.sequential, advice.predicted) {
        line += &format!("   {} of work → about {}", show_duration(work), show_duration(predicted));
    }
    line += &format!("   expect ×{:.1} at best", advice.speed_up.likely);
    if advice.bound == Bound::Cpu && guess.pace.is_none() {
        line += "; threads in Python would give ×1.0";
    }
    line
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A command line that follows the guess, and one that measures.
fn examples(guess: &Guess) -> (String, &'static str) {
    let rate = guess.pace.map_or_else(String::new, |pace| format!(" --rate {pace}"));
    let workers = format!("{}{rate}", guess.advice.workers);
    let any = |words: &[&str]| guess.words.iter().any(|hit| words.iter().any(|word| hit.word.starts_with(word)));
    if guess.data.is_some_and(|data| data.class() == DataSize::Large) && guess.advice.place != Place::Sequential {
        return (
            format!("longshore run big.csv --split 64MiB -j {workers} -- CMD   (each piece on stdin)"),
            "longshore advise --measure -- CMD PIECE",
        );
    }
    if guess.advice.bound == Bound::Cpu && any(&["imag", "resiz", "thumbnail", "photo", "picture"]) {
        return (
            format!("longshore run imgs.txt -j {workers} -- convert {{}} -resize 50% out/{{/}}"),
            "longshore advise --measure -- convert a.png -resize 50% out.png",
        );
    }
    if guess.advice.bound == Bound::Io && guess.http {
        return (format!("longshore run urls.txt --http 'GET {{}}' -j {workers}"), "longshore advise --measure -- curl -s URL");
    }
    (format!("longshore run items.txt -j {workers} -- CMD {{}}"), "longshore advise --measure -- CMD ITEM")
}

fn print_measured(measured: &CommandMeasurement, args: &AdviseArgs, out: &mut impl Write) -> io::Result<()> {
    let (item, advice) = (&measured.measurement.measured.item, &measured.measurement.advice);
    writeln!(
        out,
        " {} {}: wall {}, on CPU {} ({}) → waiting {}: {}",
        measured.alone,
        if measured.alone == 1 { "run" } else { "runs" },
        show_duration(item.wall),
        show_duration(item.cpu),
        percent(item.share()),
        percent(1.0 - item.share()),
        advice.bound
    )?;
    writeln!(
        out,
        " each    {}{} of memory, gave up the CPU {:.0} times, lost it {:.0} times",
        if measured.max_rss <= measured.least_rss { "less than " } else { "" },
        show_size(measured.max_rss),
        item.voluntary,
        item.forced
    )?;
    let run = if advice.place == Place::Sequential { "-j 1".to_owned() } else { format!("-j {}", advice.workers) };
    write!(out, " advice  {run}   expect {}", expected(advice.speed_up))?;
    if let (Some(work), Some(predicted)) = (advice.sequential, advice.predicted) {
        write!(out, "   {} of work → about {}", show_duration(work), show_duration(predicted))?;
    }
    writeln!(out)?;
    for reason in advice.reasons.iter().skip(1) {
        writeln!(out, "         {reason}")?;
    }
    if let Some(spawn) = measured.spawn {
        write!(out, " start   starting a program takes {} of CPU (measured with `true`)", show_duration(spawn))?;
        writeln!(out, "{}", instead(measured, args, spawn).map(|hint| format!("; {hint}")).unwrap_or_default())?;
    }
    Ok(())
}

fn expected(speed_up: SpeedUp) -> String {
    let SpeedUp { low, likely, high } = speed_up;
    if low == high { format!("×{likely:.1}") } else { format!("×{likely:.1} (×{low:.1} to ×{high:.1})") }
}

/// Returns the advice that is cheaper than a command for each item, if there is one.
fn instead(measured: &CommandMeasurement, args: &AdviseArgs, spawn: Duration) -> Option<String> {
    let item = &measured.measurement.measured.item;
    let program = Path::new(args.command.first()?).file_name()?.to_string_lossy().into_owned();
    if matches!(&*program, "curl" | "wget") {
        return Some(format!("--http instead of {program} starts none and saves up to {} of CPU each", show_duration(item.cpu)));
    }
    (item.wall < SHORT && item.cpu < 3 * spawn)
        .then(|| format!("much of what `{program}` takes is that: --pipe keeps children that answer line by line alive"))
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if (percent - percent.round()).abs() < 0.05 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

fn guess_json(question: &Question, guess: &Guess, out: &mut impl Write) -> io::Result<()> {
    let (run, measure) = examples(guess);
    let seconds = question.each.map_or(f64::INFINITY, |each| each.as_secs_f64());
    let lesson = json!({
        "helper": concurrency_decision_helper(&question.text),
        "approach": choose_concurrency_approach(&question.text, seconds, guess.data.unwrap_or(DataSize::Medium).class()).as_str(),
    });
    line(&json!({ "guess": guess, "lesson": lesson, "run": run, "measure": measure }), out)
}

fn measured_json(measured: &CommandMeasurement, args: &AdviseArgs, out: &mut impl Write) -> io::Result<()> {
    let (taken, item) = (&measured.measurement.measured, &measured.measurement.measured.item);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let runs: Vec<_> = taken
        .runs
        .iter()
        .map(|run| json!({ "lane": run.lane.as_str(), "at_once": run.workers, "per_second": run.rates, "p99_ms": ms(run.p99) }))
        .collect();
    let value = json!({
        "alone": measured.alone,
        "ran": measured.measurement.runs,
        "wall_ms": ms(item.wall),
        "cpu_ms": ms(item.cpu),
        "of_which_ours_ms": ms(measured.ours),
        "cpu_share": item.share(),
        "spread": item.spread,
        "voluntary_switches": item.voluntary,
        "forced_switches": item.forced,
        "max_rss": measured.max_rss,
        "start_cpu_ms": measured.spawn.map(ms),
        "instead": measured.spawn.and_then(|spawn| instead(measured, args, spawn)),
        "runs": runs,
        "lane": LaneKind::Process.as_str(),
        "advice": advice_of(&measured.measurement.advice),
    });
    line(&value, out)
}

fn advice_of(advice: &Advice) -> serde_json::Value {
    serde_json::to_value(advice).unwrap_or_default()
}

fn line(value: &serde_json::Value, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_line_says_what_the_lessons_list_knows() {
        for (text, want) in [
            ("Resize 1000 images", "\"resize\", \"images\" → CPU-bound (compute 2, I/O 0; our list: the lesson's knows neither word)"),
            (
                "Download 100 web pages",
                "\"download\", \"web\", \"pages\" → I/O-bound (compute 0, I/O 3; our list: the lesson's knows \"download\", \"web\")",
            ),
            ("Compute it", "\"compute\" → CPU-bound (compute 1, I/O 0)"),
            ("Scrape it", "\"scrape\" → I/O-bound (compute 0, I/O 1; our list: the lesson's does not know the word)"),
            ("Do the thing", "none that says what the work does"),
        ] {
            assert_eq!(words_line(&guess(&Question { text: text.into(), ..Question::default() })), want, "{text}");
        }
    }

    #[test]
    fn sizes_of_data_are_names_or_bytes() {
        assert_eq!((data("large"), data("2MiB")), (Ok(DataSize::Large), Ok(DataSize::Bytes(2 << 20))));
        assert!(data("huge").unwrap_err().contains("or tiny, small, medium, large"));
    }
}
