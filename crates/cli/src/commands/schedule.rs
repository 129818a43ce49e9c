//! `longshore schedule`: tasks that are sent at their times: list, show, add, pause, resume, run,
//! remove; `schedule/import.rs`: those of a Celery application.

mod import;

use std::{io::Write, time::SystemTime};

use clap::{Args, Subcommand};
use longshore_ops::schedules::{ScheduleAction, ScheduleInfo, SchedulesInfo, SchedulesRequest, act, list};
use longshore_worker::{MissedPolicy, Schedule, ScheduleOrigin, Signature};

use self::import::ImportArgs;
use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place, send,
        show::{cut, json_line, plain, time, until, who},
    },
    schedules::{self, TimingWords},
    units::show_duration,
};

/// `longshore schedule …`
#[derive(Subcommand, Clone, Debug)]
pub enum ScheduleCommand {
    /// All of them, with their next times, and who sends what is due (the default)
    List,
    /// One, with its task
    Show {
        /// The schedule
        name: String,
    },
    /// Have a task sent at its times, in place of a schedule of the same name
    Add(Box<AddArgs>),
    /// Send nothing of it until it is resumed
    Pause {
        /// The schedules
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Send what is due from now on
    Resume {
        /// The schedules
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Send its task now, beside what is due
    Run {
        /// The schedules
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Forget it
    Remove {
        /// The schedules
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Take over the beat_schedule of a Celery application
    Import(ImportArgs),
}

/// `longshore schedule add`.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// Its name
    name: String,
    /// The task
    task: String,
    /// Five fields: minute, hour, day of month, month, day of week; or @hourly, @daily, …
    #[arg(long, value_name = "FIELDS", required_unless_present = "every")]
    cron: Option<String>,
    /// An interval, counted from now: 30s, 10m
    #[arg(long, value_name = "DUR", conflicts_with = "cron")]
    every: Option<String>,
    /// The time zone of cron's fields, such as Europe/Berlin [UTC]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Where the day of the month and the day of the week are named, both must match, as in Celery
    /// [one is enough, as in cron]
    #[arg(long)]
    both_days: bool,
    /// Put each run off by chance, up to this
    #[arg(long, value_name = "DUR")]
    jitter: Option<String>,
    /// What is sent of due times at which no scheduler was there: skip, once (the latest; the
    /// default), all
    #[arg(long, value_name = "WHAT", value_parser = ["skip", "once", "all"])]
    missed: Option<String>,
    /// With --missed all: only the latest N [100]
    #[arg(long, value_name = "N")]
    most: Option<String>,
    /// Its arguments, as a JSON array
    #[arg(short = 'a', long, value_name = "JSON", default_value = "[]")]
    args: String,
    /// Its keyword arguments, as a JSON object
    #[arg(short = 'k', long, value_name = "JSON", default_value = "{}")]
    kwargs: String,
    /// The queue [the task's own, else celery]
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// 0 to 9; on Redis and SQLite 0 goes first, on RabbitMQ the largest, up to 255
    #[arg(long, value_name = "N")]
    priority: Option<u8>,
    /// Not started later than this after it was sent
    #[arg(long, value_name = "DUR")]
    expires: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The store's, and those of `out`; there is no schedule of this name (2).
pub async fn run(command: Option<ScheduleCommand>, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    match command.unwrap_or(ScheduleCommand::List) {
        ScheduleCommand::List => {
            let info = list(&place.client, &SchedulesRequest::default()).await?;
            if place.json {
                json_line(out, &info)?
            } else {
                table(&info, out)?
            }
            Ok(Exit::Done)
        }
        ScheduleCommand::Show { name } => {
            let info = list(&place.client, &SchedulesRequest::names([name])).await?;
            for schedule in &info.schedules {
                if place.json { json_line(out, schedule)? } else { show(schedule, out)? }
            }
            Ok(Exit::Done)
        }
        ScheduleCommand::Add(args) => {
            let action = ScheduleAction::Put(Box::new(args.schedule()?));
            done(&[action], place, out).await
        }
        ScheduleCommand::Pause { names } => {
            let by = who();
            each(names, |name| ScheduleAction::Pause { name, by: by.clone() }, place, out).await
        }
        ScheduleCommand::Resume { names } => each(names, |name| ScheduleAction::Resume { name }, place, out).await,
        ScheduleCommand::Run { names } => each(names, |name| ScheduleAction::Run { name }, place, out).await,
        ScheduleCommand::Remove { names } => each(names, |name| ScheduleAction::Remove { name }, place, out).await,
        ScheduleCommand::Import(args) => import::run(&args, place, out).await,
    }
}

async fn each(names: Vec<String>, action: impl Fn(String) -> ScheduleAction, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let actions: Vec<_> = names.into_iter().map(action).collect();
    done(&actions, place, out).await
}

/// Does them one after the other, and says what was done.
async fn done(actions: &[ScheduleAction], place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    for action in actions {
        let done = act(&place.client, action).await?;
        if place.json {
            json_line(out, &done)?;
            continue;
        }
        let name = plain(&done.name);
        match (&done.id, done.done) {
            (Some(id), _) => writeln!(out, "{id}")?,
            (None, "put") => writeln!(out, "{name}: kept; `longshore beat`, or a worker with -B, sends it when it is due")?,
            (None, what) => writeln!(out, "{name}: {what}")?,
        }
    }
    Ok(Exit::Done)
}

impl AddArgs {
    fn schedule(&self) -> Result<Schedule, Fault> {
        let words = TimingWords {
            cron: self.cron.as_deref(),
            every: self.every.as_deref(),
            zone: self.zone.as_deref(),
            both_days: self.both_days,
            jitter: self.jitter.as_deref(),
            missed: self.missed.as_deref(),
            most: self.most.as_deref(),
        };
        let spec = words.spec().map_err(|(key, why)| Fault::usage(format!("--{}: {why}", key.replace('_', "-"))))?;
        let mut call: Signature = Signature::named(&self.task).args(&send::args(&self.args)?);
        for (name, value) in send::kwargs(&self.kwargs)?.iter() {
            call = call.kwarg(name, value);
        }
        if let Some(queue) = &self.queue {
            call = call.queue(queue);
        }
        if let Some(priority) = self.priority {
            call = call.priority(priority);
        }
        if let Some(expires) = &self.expires {
            call = call.expires_in(schedules::seconds(expires).map_err(|why| Fault::usage(format!("--expires: {why}")))?);
        }
        schedules::schedule(&self.name, call, spec, ScheduleOrigin::Command).map_err(Fault::usage)
    }
}

fn table(info: &SchedulesInfo, out: &mut dyn Write) -> std::io::Result<()> {
    if info.schedules.is_empty() {
        return writeln!(out, "no schedules: longshore schedule add, or a [schedules.NAME] and longshore beat");
    }
    let now = SystemTime::now();
    let rows: Vec<[String; 5]> = info.schedules.iter().map(|schedule| row(schedule, now)).collect();
    let titles = ["NAME", "WHEN", "NEXT", "LAST", "TASK"].map(str::to_owned);
    let wide = |column: usize| rows.iter().chain([&titles]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [name, when, next, last] = [0, 1, 2, 3].map(wide);
    for [a, b, c, d, e] in std::iter::once(&titles).chain(&rows) {
        writeln!(out, "{a:<name$}  {b:<when$}  {c:<next$}  {d:<last$}  {e}")?;
    }
    match &info.leader {
        Some(leader) => writeln!(out, "sent by {}", plain(leader)),
        None => writeln!(out, "no scheduler runs: `longshore beat`, or `longshore worker -B`"),
    }
}

fn row(info: &ScheduleInfo, now: SystemTime) -> [String; 5] {
    let (when, task) = match &info.schedule {
        Ok(schedule) => (schedule.spec.timing.to_string(), schedule.call.task.clone()),
        Err(why) => ("?".to_owned(), format!("cannot be read: {why}")),
    };
    let next = match (&info.paused, info.next) {
        (Some((by, _)), _) => format!("paused by {by}"),
        (None, Some(next)) => until(next, now),
        (None, None) => "never".to_owned(),
    };
    let ago = |at: SystemTime| now.duration_since(at).map_or_else(|_| until(at, now), |ago| format!("{} ago", show_duration(ago)));
    let last = info.last.map_or_else(|| "never".to_owned(), ago);
    [info.name.clone(), when, next, last, task].map(|text| plain(&cut(&text, 120)))
}

fn show(info: &ScheduleInfo, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", plain(&info.name))?;
    let never = || "never".to_owned();
    match &info.schedule {
        Ok(schedule) => {
            let spec = &schedule.spec;
            let missed = match spec.missed {
                MissedPolicy::Skip => "skip".to_owned(),
                MissedPolicy::Once => "once".to_owned(),
                MissedPolicy::All(most) => format!("all, the latest {most}"),
            };
            let jitter = if spec.jitter.is_zero() { String::new() } else { format!("   jitter {}", show_duration(spec.jitter)) };
            let call = &schedule.call;
            let json = |bytes: Vec<u8>| plain(&cut(&String::from_utf8_lossy(&bytes), 4000));
            writeln!(out, "  when     {}{jitter}   missed {missed}", plain(&spec.timing.to_string()))?;
            writeln!(out, "  task     {}", plain(&call.task))?;
            writeln!(out, "  args     {}", json(longshore_celery::Value::List(call.args.clone()).to_json()))?;
            writeln!(out, "  kwargs   {}", json(longshore_celery::Value::Map(call.kwargs.clone()).to_json()))?;
            writeln!(out, "  options  {}", json(longshore_celery::Value::Map(call.options.clone()).to_json()))?;
            writeln!(out, "  from     {}", schedule.origin)?;
        }
        Err(why) => writeln!(out, "  cannot be read: {}", plain(why))?,
    }
    writeln!(out, "  next     {}", info.next.map_or_else(never, time))?;
    writeln!(out, "  last     {}   sent {} times", info.last.map_or_else(never, time), info.fired)?;
    match &info.paused {
        Some((by, since)) => writeln!(out, "  paused   by {} since {}", plain(by), time(*since)),
        None => Ok(()),
    }
}
