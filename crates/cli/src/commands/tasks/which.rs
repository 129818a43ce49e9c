//! Which tasks are meant, and where they are: messages in the queues, dead letters, stored results, put together by id.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use longshore_brokers::{DeadLetter, Doing, Found};
use longshore_celery::{State, TaskResult, Value, args_repr, kwargs_repr, repr};

use crate::{
    queue::{
        Fault, Place,
        remote::{AtWorker, at_workers},
        show::{Brief, cut},
    },
    units,
};

/// So many messages of each queue and kind are looked at.
const LOOK: usize = 10_000;
/// The longest stored result that is read, unpacked.
pub(super) const LONGEST: usize = 64 << 20;
/// So much of arguments and results is shown.
const SHOWN: usize = 128;

/// Which tasks: those for which all of it is true.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Ids of tasks
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// In these states
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub state: Vec<Standing>,
    /// Of this task; `shop.*` is all that begin so
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Of this queue
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// With this text in the error, or in the reason of a dead letter
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// Whose last news is not older than this; of what only waits there is none
    #[arg(long, value_name = "DUR", value_parser = units::duration)]
    pub since: Option<Duration>,
}

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Standing {
    /// A worker has said that it runs (only tasks that track their start say so)
    Started,
    /// A worker has it: it runs, or waits there for a free slot or its time
    Held,
    /// It waits in its queue
    Waiting,
    /// It waits in its queue for another attempt
    Retry,
    /// The broker holds it back until its time
    Later,
    /// It is a dead letter
    Dead,
    /// It has failed
    Failure,
    /// It was called off, or its time had passed
    Revoked,
    /// It is done
    Success,
    /// A result in another state
    Other,
}

impl Standing {
    pub(super) fn word(self) -> &'static str {
        match self {
            Standing::Started => "started",
            Standing::Held => "held",
            Standing::Waiting => "waiting",
            Standing::Retry => "retry",
            Standing::Later => "later",
            Standing::Dead => "dead",
            Standing::Failure => "failure",
            Standing::Revoked => "revoked",
            Standing::Success => "success",
            Standing::Other => "other",
        }
    }

    /// Whether there is nothing more to come.
    pub(super) fn has_ended(self) -> bool {
        matches!(self, Standing::Failure | Standing::Revoked | Standing::Success)
    }

    fn of(state: &State) -> Self {
        match state {
            State::Started => Standing::Started,
            State::Retry => Standing::Retry,
            State::Success => Standing::Success,
            State::Failure => Standing::Failure,
            State::Revoked => Standing::Revoked,
            _ => Standing::Other,
        }
    }
}

/// A task, as far as anybody knows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) standing: Standing,
    pub(super) task: Option<String>,
    pub(super) queue: Option<String>,
    pub(super) worker: Option<String>,
    /// The last news of it.
    pub(super) at: Option<SystemTime>,
    /// Its arguments, if they are known, as far as they are shown.
    pub(super) args: Option<String>,
    /// What it failed of, or why it is dead.
    pub(super) error: Option<String>,
    pub(super) stored: Option<TaskResult>,
    pub(super) found: Option<Found>,
    pub(super) letter: Option<DeadLetter>,
    /// What a worker says of it, if nobody else knows it.
    pub(super) at_worker: Option<AtWorker>,
}

/// What a look has brought.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By how they stand, those with news the latest first.
    pub(super) rows: Vec<Row>,
    /// How many there were, shown or not.
    pub(super) matched: usize,
    /// Results that do not name their task or queue, so that nobody knows whether they are meant.
    pub(super) nameless: usize,
    /// Results that cannot be read.
    pub(super) unreadable: usize,
    /// Queues of which not all was looked at.
    pub(super) cut: Vec<String>,
}

impl Seen {
    /// What was not looked at, for people.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let count = |count: usize| units::show_count(count as u64);
        if self.nameless > 0 {
            notes.push(format!(
                "{} results name neither task nor queue, so they were passed over (`worker --result-extended` stores both)",
                count(self.nameless)
            ));
        }
        if self.unreadable > 0 {
            notes.push(format!("{} results cannot be read", count(self.unreadable)));
        }
        for queue in &self.cut {
            notes.push(format!("of queue {queue} only the first {} were looked at", count(LOOK)));
        }
        notes
    }
}

impl Row {
    fn of_message(queue: String, raw: &[u8], standing: Standing) -> Self {
        let brief = Brief::of(raw);
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: brief.id,
            standing,
            task: known(brief.task),
            queue: Some(queue),
            worker: None,
            at: None,
            args: known(brief.args),
            error: brief.bad.map(|reason| format!("unreadable: {reason}")),
            stored: None,
            found: None,
            letter: None,
            at_worker: None,
        }
    }

    fn found(found: Found) -> Self {
        let standing = match &found.doing {
            Doing::Waiting { .. } => Standing::Waiting,
            Doing::Later { .. } => Standing::Later,
            Doing::Held { .. } => Standing::Held,
            Doing::Dead { .. } => Standing::Dead,
        };
        let mut row = Self::of_message(found.queue.clone(), &found.raw, standing);
        if let Doing::Held { by, since } = &found.doing {
            // What lies ahead is until when others leave it alone.
            (row.worker, row.at) = (by.clone(), since.filter(|since| *since <= SystemTime::now()));
        }
        row.found = Some(found);
        row
    }

    fn letter(letter: DeadLetter) -> Self {
        let mut row = Self::of_message(letter.queue.clone(), &letter.raw, Standing::Dead);
        (row.at, row.error) = (Some(letter.at), Some(letter.reason.clone()));
        if row.id.is_empty() {
            row.id.clone_from(&letter.key);
        }
        row.letter = Some(letter);
        row
    }

    fn stored(id: String, stored: TaskResult) -> Self {
        let extended = stored.extended.clone().unwrap_or_default();
        let args = extended.args.as_list().map(|args| {
            let kwargs = extended.kwargs.as_map().filter(|kwargs| !kwargs.0.is_empty());
            let kwargs = kwargs.map(|kwargs| format!(" {}", kwargs_repr(kwargs, SHOWN))).unwrap_or_default();
            cut(&format!("{}{kwargs}", args_repr(args, SHOWN)), SHOWN)
        });
        Self {
            id,
            standing: Standing::of(&stored.state),
            task: extended.name,
            queue: extended.queue,
            worker: extended.worker,
            at: stored.date_done,
            args,
            error: stored.exception().map(|error| error.to_string()),
            found: None,
            letter: None,
            at_worker: None,
            stored: Some(stored),
        }
    }

    /// What was acknowledged before it began: its message is nowhere any more, and nothing is stored yet.
    fn at_worker(id: String, at: AtWorker) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned).filter(|text| !text.is_empty());
        let args = at.info.get("args").and_then(Value::as_list).map(|args| args_repr(args, SHOWN));
        let kwargs = at.info.get("kwargs").and_then(Value::as_map).filter(|kwargs| !kwargs.0.is_empty());
        let kwargs = kwargs.map(|kwargs| format!(" {}", kwargs_repr(kwargs, SHOWN))).unwrap_or_default();
        Self {
            id,
            standing: if at.is_running() { Standing::Started } else { Standing::Held },
            task: text(at.info.get("type")).or_else(|| text(at.info.get("name"))),
            queue: text(at.info.get("delivery_info").and_then(|info| info.get("routing_key"))),
            worker: Some(at.node.clone()),
            at: at.since,
            args: args.map(|args| cut(&format!("{args}{kwargs}"), SHOWN)),
            error: None,
            stored: None,
            found: None,
            letter: None,
            at_worker: Some(at),
        }
    }

    /// What a stored result says beside a message.
    fn add(&mut self, stored: TaskResult) {
        let says = Self::stored(self.id.clone(), stored);
        match (self.standing, says.standing) {
            (Standing::Held, Standing::Started) => self.standing = Standing::Started,
            (Standing::Waiting | Standing::Later, Standing::Retry) => self.standing = Standing::Retry,
            // It is dropped when its turn or its time comes.
            (Standing::Waiting | Standing::Later | Standing::Held, Standing::Revoked) => self.standing = Standing::Revoked,
            _ => {}
        }
        self.error = self.error.take().or(says.error);
        self.worker = self.worker.take().or(says.worker);
        self.at = self.at.or(says.at);
        self.stored = says.stored;
    }

    /// What it returned, or failed of, or what it is called with.
    pub(super) fn what(&self) -> String {
        let result = || self.stored.as_ref().filter(|stored| stored.state == State::Success).map(|stored| repr(&stored.result));
        let text = self.error.clone().or_else(result).or_else(|| self.args.clone()).unwrap_or_default();
        cut(text.lines().next().unwrap_or_default(), SHOWN)
    }
}

impl Which {
    /// Whether nothing says which.
    pub(super) fn is_all(&self) -> bool {
        let Self { ids, state, task, queue, error, since } = self;
        ids.is_empty() && state.is_empty() && task.is_none() && queue.is_none() && error.is_none() && since.is_none()
    }

    /// Whether this one is meant; `None`: nobody knows.
    fn means(&self, row: &Row, now: SystemTime) -> Option<bool> {
        let is_named = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        let surely = (self.ids.is_empty() || self.ids.contains(&row.id))
            && (self.state.is_empty() || self.state.contains(&row.standing))
            && self.error.as_ref().is_none_or(|text| row.error.as_ref().is_some_and(|error| error.contains(text.as_str())))
            && self.since.is_none_or(|since| row.at.is_some_and(|at| now.duration_since(at).unwrap_or_default() <= since));
        if !surely {
            return Some(false);
        }
        let mut known = true;
        for (wanted, own) in [(&self.task, &row.task), (&self.queue, &row.queue)] {
            match (wanted, own) {
                (Some(wanted), Some(own)) if !is_named(wanted, own) => return Some(false),
                (Some(_), None) => known = false,
                _ => {}
            }
        }
        known.then_some(true)
    }

    /// Looks for them; at most so many are kept.
    pub(super) async fn look(&self, place: &Place, most: usize) -> Result<Seen, Fault> {
        if !self.ids.is_empty() {
            return self.look_up(place).await;
        }
        let (mut seen, now) = (Seen::default(), SystemTime::now());
        let mut rows: HashMap<String, Row> = HashMap::new();
        let mut unnamed = Vec::new();
        let queue = self.queue.as_deref().filter(|queue| !queue.ends_with('*'));
        let mut counts: HashMap<(String, Standing), usize> = HashMap::new();
        for row in place.broker().list(queue, LOOK).await?.into_iter().map(Row::found) {
            let count = counts.entry((row.queue.clone().unwrap_or_default(), row.standing)).or_default();
            *count += 1;
            if *count == LOOK {
                seen.cut.extend(row.queue.clone());
            }
            if row.id.is_empty() { unnamed.push(row) } else { drop(rows.insert(row.id.clone(), row)) }
        }
        for row in place.broker().dead(queue).await?.into_iter().map(Row::letter) {
            drop(rows.insert(row.id.clone(), row));
        }
        let mut ended: Vec<Row> = Vec::new();
        let mut from = None;
        loop {
            let page = place.client.results().page(from.as_deref()).await?;
            for (id, doc) in page.results {
                let Ok(stored) = TaskResult::decode(&doc, LONGEST) else {
                    seen.unreadable += 1;
                    continue;
                };
                if let Some(row) = rows.get_mut(&id) {
                    row.add(stored);
                    continue;
                }
                let row = Row::stored(id, stored);
                match self.means(&row, now) {
                    Some(true) => {
                        seen.matched += 1;
                        ended.push(row);
                    }
                    Some(false) => {}
                    None => seen.nameless += 1,
                }
                if ended.len() >= 2 * most.max(500) {
                    latest(&mut ended, most);
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        latest(&mut ended, most);
        let mut queued: Vec<Row> = rows.into_values().chain(unnamed).filter(|row| self.means(row, now) == Some(true)).collect();
        seen.matched += queued.len();
        queued.sort_by(|a, b| (a.standing, &a.queue, line(a)).cmp(&(b.standing, &b.queue, line(b))).then(b.at.cmp(&a.at)));
        queued.extend(ended);
        queued.truncate(most);
        seen.rows = queued;
        Ok(seen)
    }

    /// Each by its id.
    async fn look_up(&self, place: &Place) -> Result<Seen, Fault> {
        let (mut seen, now) = (Seen::default(), SystemTime::now());
        let rows = each(&self.ids, place).await?;
        seen.rows = rows.into_iter().filter(|row| self.means(row, now) == Some(true)).collect();
        seen.matched = seen.rows.len();
        Ok(seen)
    }
}

/// Everything that is known of each, in their order, without those that nobody knows.
pub(super) async fn each(ids: &[String], place: &Place) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for id in ids {
        rows.push(one(id, place).await?);
    }
    let missing: Vec<&str> = ids.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(id, _)| id.as_str()).collect();
    // All are asked for at once: where nobody answers, that takes its time.
    // What nobody can be asked is unknown; the rest is shown.
    let mut at = at_workers(place.broker(), &missing).await.unwrap_or_default();
    for (id, row) in ids.iter().zip(&mut rows).filter(|(_, row)| row.is_none()) {
        // What has ended since, or went back, is known by now.
        *row = one(id, place).await?.or_else(|| at.remove(id).map(|at| Row::at_worker(id.clone(), at)));
    }
    Ok(rows.into_iter().flatten().collect())
}

/// What the broker and the results know of one task.
async fn one(id: &str, place: &Place) -> Result<Option<Row>, Fault> {
    let mut row = place.broker().find(id).await?.into_iter().map(Row::found).min_by_key(|row| row.standing);
    if row.as_ref().is_none_or(|row| row.standing == Standing::Dead) {
        let letters = place.broker().dead(row.as_ref().and_then(|row| row.queue.as_deref())).await?;
        let letter = letters.into_iter().map(Row::letter).find(|letter| letter.id == id);
        row = letter.or(row);
    }
    // What was finished between the looks has a result.
    Ok(match (place.client.result(id).stored().await?, row) {
        (Some(stored), Some(mut row)) => {
            row.add(stored);
            Some(row)
        }
        (Some(stored), None) => Some(Row::stored(id.to_owned(), stored)),
        (None, row) => row,
    })
}

fn line(row: &Row) -> u64 {
    match row.found.as_ref().map(|found| &found.doing) {
        Some(Doing::Waiting { place, .. }) => *place,
        _ => 0,
    }
}

/// Keeps the latest.
fn latest(rows: &mut Vec<Row>, most: usize) {
    rows.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
    rows.truncate(most);
}

#[cfg(test)]
mod tests {
    use longshore_celery::{Encoding, Extended, Message};

    use super::*;

    fn result(state: State, name: Option<&str>) -> TaskResult {
        let extended = name.map(|name| Extended { name: Some(name.to_owned()), queue: Some("q".to_owned()), ..Extended::default() });
        TaskResult { state, extended, date_done: Some(SystemTime::now()), ..TaskResult::default() }
    }

    #[test]
    fn a_filter_says_yes_no_or_that_nobody_knows() {
        let which =
            |task: Option<&str>, state: &[Standing]| Which { task: task.map(str::to_owned), state: state.to_vec(), ..Which::default() };
        let row = |state, name| Row::stored("i".to_owned(), result(state, name));
        for (which, row, want) in [
            (which(None, &[]), row(State::Success, None), Some(true)),
            (which(Some("shop.*"), &[]), row(State::Success, Some("shop.add")), Some(true)),
            (which(Some("shop.add"), &[]), row(State::Success, Some("shop.added")), Some(false)),
            (which(Some("shop.*"), &[]), row(State::Success, None), None),
            (which(Some("shop.*"), &[Standing::Failure]), row(State::Success, None), Some(false)),
            (which(None, &[Standing::Failure, Standing::Success]), row(State::Success, None), Some(true)),
            (Which { since: Some(Duration::from_secs(60)), ..Which::default() }, row(State::Success, None), Some(true)),
            (Which { error: Some("x".to_owned()), ..Which::default() }, row(State::Failure, None), Some(false)),
            (Which { ids: vec!["j".to_owned()], ..Which::default() }, row(State::Failure, None), Some(false)),
        ] {
            assert_eq!(which.means(&row, SystemTime::now()), want, "{which:?} {row:?}");
        }
    }

    #[test]
    fn a_message_stands_as_its_result_says_more_precisely() {
        let raw = Message { id: "i".into(), task: "t".into(), ..Message::default() }.encode(Encoding::Json);
        let row = |doing| Row::found(Found { queue: "q".into(), doing, raw: raw.clone() });
        for (doing, state, want) in [
            (Doing::Held { by: None, since: None }, State::Started, Standing::Started),
            (Doing::Waiting { place: 1, of: 1, since: None }, State::Retry, Standing::Retry),
            (Doing::Later { due: SystemTime::now() }, State::Retry, Standing::Retry),
            (Doing::Waiting { place: 1, of: 1, since: None }, State::Failure, Standing::Waiting),
            (Doing::Waiting { place: 1, of: 1, since: None }, State::Revoked, Standing::Revoked),
            (Doing::Held { by: None, since: None }, State::Success, Standing::Held),
        ] {
            let mut row = row(doing);
            row.add(result(state.clone(), None));
            assert_eq!(row.standing, want, "{state}");
        }
    }
}
