//! Search for tasks among messages in the queues, dead letters and stored results, put together by
//! id.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use longshore_brokers::{DeadLetter, Doing, Found};
use longshore_celery::{State, TaskResult, args_repr, kwargs_repr, repr};
use longshore_worker::Client;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{kept, standing::TaskStanding};
use crate::{
    error::OpsError,
    message::{MessageBrief, SHOWN, cut},
    remote::{TaskAtWorker, tasks_at_workers},
    results::LONGEST,
    wire::{json_of, time_text},
};

/// Most messages of each queue and kind that are looked at: a queue may hold millions.
pub const LOOKED_AT: usize = 10_000;

/// Asks for tasks: those for which all of it is true.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TasksRequest {
    /// Ids of tasks; each is looked up by itself, however many there are.
    pub ids: Vec<String>,
    /// Tasks that stand so.
    pub standing: Vec<TaskStanding>,
    /// Tasks of this name; `shop.*` is all that begin so.
    pub task: Option<String>,
    /// Tasks of this queue; with `*` at its end, all that begin so.
    pub queue: Option<String>,
    /// Tasks with this text in the error, or in the reason of a dead letter.
    pub error: Option<String>,
    /// Tasks with news not older than this; what only waits has none.
    pub since: Option<Duration>,
    /// The most tasks that are answered with (100); those beyond are counted.
    pub most: usize,
}

impl Default for TasksRequest {
    fn default() -> Self {
        Self { ids: Vec::new(), standing: Vec::new(), task: None, queue: None, error: None, since: None, most: 100 }
    }
}

/// A task, as far as anybody knows it. Serialised without `stored`, `found`, `letter` and
/// `at_worker`, but with `result` where it has succeeded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its id; empty where its message cannot be read.
    pub id: String,
    /// Its standing, such as waiting, held or failed.
    pub standing: TaskStanding,
    /// Its name, where anybody says it.
    pub task: Option<String>,
    /// Its queue, where anybody says it.
    pub queue: Option<String>,
    /// The worker that has it, or had it.
    pub worker: Option<String>,
    /// The last news of it.
    pub at: Option<SystemTime>,
    /// Its arguments as Python shows them, if they are known, at most 128 characters.
    pub args: Option<String>,
    /// Reason that it failed, or is dead.
    pub error: Option<String>,
    /// Its stored result.
    pub stored: Option<TaskResult>,
    /// Its message and what that does, if a broker has it.
    pub found: Option<Found>,
    /// Its dead letter.
    pub letter: Option<DeadLetter>,
    /// An account of the worker that has it, if nobody else knows it.
    pub at_worker: Option<TaskAtWorker>,
}

impl Serialize for TaskInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("state", self.standing.word())?;
        map.serialize_entry("task", &self.task)?;
        map.serialize_entry("queue", &self.queue)?;
        map.serialize_entry("worker", &self.worker)?;
        map.serialize_entry("at", &self.at.map(time_text))?;
        map.serialize_entry("args", &self.args)?;
        map.serialize_entry("error", &self.error)?;
        if let Some(stored) = self.stored.as_ref().filter(|stored| stored.state == State::Success) {
            map.serialize_entry("result", &json_of(&stored.result))?;
        }
        map.end()
    }
}

/// A part of the tasks that were asked for, and what is beyond it.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct TaskList {
    /// Tasks by their standing, those with news the latest first.
    pub tasks: Vec<TaskInfo>,
    /// Number of tasks that match, answered with or not.
    pub matched: usize,
    /// Results that do not name their task or queue, so that nobody knows whether they are meant.
    pub nameless: usize,
    /// Results that cannot be read.
    pub unreadable: usize,
    /// Queues of which only the first [`LOOKED_AT`] messages of a kind were looked at.
    pub cut: Vec<String>,
}

impl TaskInfo {
    fn of_message(queue: String, raw: &[u8], standing: TaskStanding) -> Self {
        let brief = MessageBrief::read(raw);
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: brief.id,
            standing,
            task: known(brief.task),
            queue: Some(queue),
            worker: None,
            at: None,
            args: known(brief.args),
            error: brief.unreadable.map(|reason| format!("unreadable: {reason}")),
            stored: None,
            found: None,
            letter: None,
            at_worker: None,
        }
    }

    fn found(found: Found) -> Self {
        let standing = match &found.doing {
            Doing::Waiting { .. } => TaskStanding::Waiting,
            Doing::Later { .. } => TaskStanding::Later,
            Doing::Held { .. } => TaskStanding::Held,
            Doing::Dead { .. } => TaskStanding::Dead,
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
        let mut row = Self::of_message(letter.queue.clone(), &letter.raw, TaskStanding::Dead);
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
            standing: TaskStanding::of(&stored.state),
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

    /// Describes a task that was acknowledged before it began: its message is nowhere any more, and
    /// nothing is stored yet.
    fn at_worker(id: String, at: TaskAtWorker) -> Self {
        Self {
            id,
            standing: if at.is_running() { TaskStanding::Started } else { TaskStanding::Held },
            task: at.task.clone(),
            queue: at.queue.clone(),
            worker: Some(at.node.clone()),
            at: at.since,
            args: at.args.clone(),
            error: None,
            stored: None,
            found: None,
            letter: None,
            at_worker: Some(at),
        }
    }

    /// Adds a stored result to what a message says.
    fn add(&mut self, stored: TaskResult) {
        let says = Self::stored(self.id.clone(), stored);
        match (self.standing, says.standing) {
            (TaskStanding::Held, TaskStanding::Started) => self.standing = TaskStanding::Started,
            (TaskStanding::Waiting | TaskStanding::Later, TaskStanding::Retry) => self.standing = TaskStanding::Retry,
            // It is dropped when its turn or its time comes.
            (TaskStanding::Waiting | TaskStanding::Later | TaskStanding::Held, TaskStanding::Revoked) => {
                self.standing = TaskStanding::Revoked
            }
            _ => {}
        }
        self.error = self.error.take().or(says.error);
        self.worker = self.worker.take().or(says.worker);
        self.at = self.at.or(says.at);
        self.stored = says.stored;
    }

    /// Adds what a kept message says and nothing else has said.
    pub(super) fn describe(&mut self, brief: MessageBrief) {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        self.task = self.task.take().or(known(brief.task));
        self.args = self.args.take().or(known(brief.args));
    }

    /// Returns its error, or its result, or its arguments: one line of at most 128 characters.
    pub fn what(&self) -> String {
        let result = || self.stored.as_ref().filter(|stored| stored.state == State::Success).map(|stored| repr(&stored.result));
        let text = self.error.clone().or_else(result).or_else(|| self.args.clone()).unwrap_or_default();
        cut(text.lines().next().unwrap_or_default(), SHOWN)
    }
}

impl TasksRequest {
    /// Asks for these tasks.
    pub fn ids(ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { ids: ids.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Returns whether nothing says which: all tasks are meant.
    pub fn is_all(&self) -> bool {
        let Self { ids, standing, task, queue, error, since, most: _ } = self;
        ids.is_empty() && standing.is_empty() && task.is_none() && queue.is_none() && error.is_none() && since.is_none()
    }

    /// Returns whether this one is meant; `None`: nobody knows. Pure.
    fn means(&self, row: &TaskInfo, now: SystemTime) -> Option<bool> {
        let is_named = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        let surely = (self.ids.is_empty() || self.ids.contains(&row.id))
            && (self.standing.is_empty() || self.standing.contains(&row.standing))
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
}

/// Looks for tasks in the queues, among the dead letters and in the results.
///
/// Memory is bounded: of each queue and kind [`LOOKED_AT`] messages are looked at, results are read
/// page by page, and only the latest are kept. It costs the number of results that are stored.
///
/// # Errors
/// A store cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &TasksRequest) -> Result<TaskList, OpsError> {
    if !request.ids.is_empty() {
        return look_up(client, request).await;
    }
    let (mut seen, now) = (TaskList::default(), SystemTime::now());
    let most = request.most;
    let mut rows: HashMap<String, TaskInfo> = HashMap::new();
    let mut unnamed = Vec::new();
    let queue = request.queue.as_deref().filter(|queue| !queue.ends_with('*'));
    let mut counts: HashMap<(String, TaskStanding), usize> = HashMap::new();
    for row in client.connected().inspect()?.list(queue, LOOKED_AT).await?.into_iter().map(TaskInfo::found) {
        let count = counts.entry((row.queue.clone().unwrap_or_default(), row.standing)).or_default();
        *count += 1;
        // There may be more, so the answer names the queue.
        if *count == LOOKED_AT {
            seen.cut.extend(row.queue.clone());
        }
        // Messages that cannot be read share the empty id, and each is a row.
        if row.id.is_empty() { unnamed.push(row) } else { drop(rows.insert(row.id.clone(), row)) }
    }
    for row in client.connected().letters()?.dead(queue).await?.into_iter().map(TaskInfo::letter) {
        drop(rows.insert(row.id.clone(), row));
    }
    let mut ended: Vec<TaskInfo> = Vec::new();
    let mut from = None;
    loop {
        let page = client.results().page(from.as_deref()).await?;
        for (id, doc) in page.results {
            let Ok(stored) = TaskResult::decode(&doc, LONGEST) else {
                seen.unreadable += 1;
                continue;
            };
            // A task that has a message and a result is one row.
            if let Some(row) = rows.get_mut(&id) {
                row.add(stored);
                continue;
            }
            let row = TaskInfo::stored(id, stored);
            match request.means(&row, now) {
                Some(true) => {
                    seen.matched += 1;
                    ended.push(row);
                }
                Some(false) => {}
                None => seen.nameless += 1,
            }
            // Cutting now and then bounds memory, without sorting for each result.
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
    let mut queued: Vec<TaskInfo> = rows.into_values().chain(unnamed).filter(|row| request.means(row, now) == Some(true)).collect();
    seen.matched += queued.len();
    queued.sort_by(|a, b| (a.standing, &a.queue, line(a)).cmp(&(b.standing, &b.queue, line(b))).then(b.at.cmp(&a.at)));
    kept::describe(client, &mut ended).await?;
    // Results come last: where only some rows are shown, what a broker still has matters more.
    queued.extend(ended);
    queued.truncate(most);
    seen.tasks = queued;
    Ok(seen)
}

/// Looks each up by its id.
async fn look_up(client: &Client, request: &TasksRequest) -> Result<TaskList, OpsError> {
    let (mut seen, now) = (TaskList::default(), SystemTime::now());
    let mut tasks = each(client, &request.ids).await?;
    kept::describe(client, &mut tasks).await?;
    seen.tasks = tasks.into_iter().filter(|task| request.means(task, now) == Some(true)).collect();
    seen.matched = seen.tasks.len();
    Ok(seen)
}

/// Looks up all that is known of each of these tasks, in their order, without those that nobody
/// knows. Workers are asked for those that no store knows.
///
/// # Errors
/// A store cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn each(client: &Client, ids: &[String]) -> Result<Vec<TaskInfo>, OpsError> {
    let (mut rows, mut letters) = (Vec::new(), SeenLetters::new());
    for id in ids {
        rows.push(one(client, id, &mut letters).await?);
    }
    let missing: Vec<&str> = ids.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(id, _)| id.as_str()).collect();
    // All are asked for at once: where nobody answers, that takes its time.
    // What nobody can be asked is unknown; the rest is shown.
    let mut at = tasks_at_workers(client, &missing).await.unwrap_or_default();
    letters.clear();
    for (id, row) in ids.iter().zip(&mut rows).filter(|(_, row)| row.is_none()) {
        // What has ended since, or went back, is known by now.
        *row = one(client, id, &mut letters).await?.or_else(|| at.remove(id).map(|at| TaskInfo::at_worker(id.clone(), at)));
    }
    Ok(rows.into_iter().flatten().collect())
}

/// Dead letters that were read, by queue: several tasks are looked for among the same.
type SeenLetters = HashMap<Option<String>, Vec<DeadLetter>>;

/// Looks up what the broker and the results know of one task. One that has ended lies in no queue,
/// and costs no look through all that waits.
async fn one(client: &Client, id: &str, seen: &mut SeenLetters) -> Result<Option<TaskInfo>, OpsError> {
    let connected = client.connected();
    let ended = client.result(id).stored().await?.filter(|stored| stored.state.is_ready());
    if let Some(stored) = &ended
        && stored.state == State::Success
    {
        return Ok(ended.map(|stored| TaskInfo::stored(id.to_owned(), stored)));
    }
    // Where the broker lets nobody look, the results and the workers know what they know.
    let mut row = match connected.inspect.as_ref().filter(|_| ended.is_none()) {
        Some(inspect) => inspect.find(id).await?.into_iter().map(TaskInfo::found).min_by_key(|row| row.standing),
        None => None,
    };
    if let Some(letters) = connected.letters.as_ref().filter(|_| row.as_ref().is_none_or(|row| row.standing == TaskStanding::Dead)) {
        let of_result = || ended.as_ref()?.extended.as_ref()?.queue.clone();
        let queue = row.as_ref().and_then(|row| row.queue.clone()).or_else(of_result);
        if !seen.contains_key(&queue) {
            seen.insert(queue.clone(), letters.dead(queue.as_deref()).await?);
        }
        let is_its = |letter: &&DeadLetter| letter.key == id || MessageBrief::read(&letter.raw).id == id;
        let letter = seen.get(&queue).and_then(|letters| letters.iter().find(is_its)).cloned().map(TaskInfo::letter);
        row = letter.or(row);
    }
    // What was finished between the looks has a result.
    let stored = match ended {
        Some(ended) => Some(ended),
        None => client.result(id).stored().await?,
    };
    Ok(match (stored, row) {
        (Some(stored), Some(mut row)) => {
            row.add(stored);
            Some(row)
        }
        (Some(stored), None) => Some(TaskInfo::stored(id.to_owned(), stored)),
        (None, row) => row,
    })
}

fn line(row: &TaskInfo) -> u64 {
    match row.found.as_ref().map(|found| &found.doing) {
        Some(Doing::Waiting { place, .. }) => *place,
        _ => 0,
    }
}

/// Keeps the latest.
fn latest(rows: &mut Vec<TaskInfo>, most: usize) {
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
        let which = |task: Option<&str>, state: &[TaskStanding]| TasksRequest {
            task: task.map(str::to_owned),
            standing: state.to_vec(),
            ..TasksRequest::default()
        };
        let row = |state, name| TaskInfo::stored("i".to_owned(), result(state, name));
        for (which, row, want) in [
            (which(None, &[]), row(State::Success, None), Some(true)),
            (which(Some("shop.*"), &[]), row(State::Success, Some("shop.add")), Some(true)),
            (which(Some("shop.add"), &[]), row(State::Success, Some("shop.added")), Some(false)),
            (which(Some("shop.*"), &[]), row(State::Success, None), None),
            (which(Some("shop.*"), &[TaskStanding::Failure]), row(State::Success, None), Some(false)),
            (which(None, &[TaskStanding::Failure, TaskStanding::Success]), row(State::Success, None), Some(true)),
            (TasksRequest { since: Some(Duration::from_secs(60)), ..TasksRequest::default() }, row(State::Success, None), Some(true)),
            (TasksRequest { error: Some("x".to_owned()), ..TasksRequest::default() }, row(State::Failure, None), Some(false)),
            (TasksRequest { ids: vec!["j".to_owned()], ..TasksRequest::default() }, row(State::Failure, None), Some(false)),
        ] {
            assert_eq!(which.means(&row, SystemTime::now()), want, "{which:?} {row:?}");
        }
    }

    #[test]
    fn a_message_stands_as_its_result_says_more_precisely() {
        let raw = Message { id: "i".into(), task: "t".into(), ..Message::default() }.encode(Encoding::Json);
        let row = |doing| TaskInfo::found(Found { queue: "q".into(), doing, raw: raw.clone() });
        for (doing, state, want) in [
            (Doing::Held { by: None, since: None }, State::Started, TaskStanding::Started),
            (Doing::Waiting { place: 1, of: 1, since: None }, State::Retry, TaskStanding::Retry),
            (Doing::Later { due: SystemTime::now() }, State::Retry, TaskStanding::Retry),
            (Doing::Waiting { place: 1, of: 1, since: None }, State::Failure, TaskStanding::Waiting),
            (Doing::Waiting { place: 1, of: 1, since: None }, State::Revoked, TaskStanding::Revoked),
            (Doing::Held { by: None, since: None }, State::Success, TaskStanding::Held),
        ] {
            let mut row = row(doing);
            row.add(result(state.clone(), None));
            assert_eq!(row.standing, want, "{state}");
        }
    }
}
