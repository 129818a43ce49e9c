//! Tasks: find them, one with all that is known of it, send again, call off.

mod act;
mod tree;

use std::sync::Arc;

use axum::http::StatusCode;
use longshore_celery::Value;
use longshore_ops::{
    WaitReason,
    tasks::{self, TaskInfo, TaskList, TaskStanding, TasksRequest},
    time_text,
    why::{self, WhyAnswer, WhyRequest},
};
use minijinja::{context, value::Serde};

use self::tree::{ShownTree, is_container};
use crate::{
    api::{Field, Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page, in_query},
    guard::{FormFields, Guard},
    history::{KnownNames, PastPage, PastState, Timeline},
    options::WebOptions,
    pages::{
        Asked, action,
        copies::{Copied, Copy},
        facts, orders, past,
    },
    search::{self, duration},
};

/// Most tasks of one page.
const MOST: usize = 200;
const MOST_PAST: usize = 100;
/// Most tasks to which one action is done.
const MOST_ACTED: usize = 10_000;
/// Longest message or result of which a page shows all, in bytes.
const SHOWN: usize = 64 << 10;

/// Returns the pages, their action, and the facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let filtered = |operation: Operation| {
        operation
            .query("q", "the same in one line: state:failure task:shop.* error:\"bad address\"")
            .query("state", "tasks that stand so: waiting, held, failure, …")
            .query("task", "tasks of this name; shop.* is all that begin so")
            .query("queue", "tasks of this queue")
            .query("error", "tasks with this text in their error")
            .query("since", "tasks with news not older than this: 30s, 15m, 2h, 1d")
            .query("id", "tasks of these ids, with blanks between them")
    };
    let all = filtered(Operation::get("/api/v1/tasks", "Tasks, as far as anybody knows them"))
        .query("most", "how many are answered with, at most 10000 (200)")
        .answers("TaskList");
    let one = Operation::get("/api/v1/tasks/{task}/detail", "One task with its result and its message").answers("TaskDetail");
    let why = Operation::get("/api/v1/tasks/{task}/why", "Where a task is, and what it waits for").answers("[WhyAnswer]");
    let acts = [
        Operation::act("/api/v1/tasks/{task}/retry", "Sends a task again that has ended, by its stored message or its arguments"),
        Operation::act("/api/v1/tasks/{task}/cancel", "Calls a task off: nobody starts it any more"),
        Operation::act("/api/v1/tasks/{task}/terminate", "Calls a task off, and ends it where it runs"),
        Operation::act("/api/v1/tasks/{task}/abort", "Asks a task that runs to end by itself (Celery's AbortableTask)"),
    ];
    let acts = acts.map(|operation| operation.refuses(&[404]));
    let many = [
        Operation::act("/api/v1/bulk/retry", "Sends tasks again that have ended"),
        Operation::act("/api/v1/bulk/cancel", "Calls tasks off"),
        Operation::act("/api/v1/bulk/terminate", "Calls tasks off, and ends those that run"),
    ];
    let many = many.map(|operation| {
        operation
            .field(Field::texts("ids", "id", "their ids"))
            .field(Field::flag("all", "in place of ids: all for which what follows is true"))
            .field(Field::flag("past", "of all, those that are remembered, and not those in queues and results"))
            .field(Field::text("q", "a search line; of queues and results: state:failure task:shop.* queue: error: since: id:"))
            .field(Field::text("state", "they stand so: waiting, held, failure, …"))
            .field(Field::text("task", "they have this name; shop.* is all that begin so"))
            .field(Field::text("queue", "they are of this queue"))
            .field(Field::text("error", "this text is in their error"))
            .field(Field::text("since", "their news are not older than this: 30s, 15m, 2h, 1d"))
            .refuses(&[404])
    });
    let guard = frame.guard.clone();
    let one_page = move |deployment, request| task_page(deployment, request, guard.clone());
    Routes::new()
        .route("/tasks", asking_page(frame, deployment, list_page))
        .route("/tasks/act", action(frame, deployment, do_it))
        .route("/tasks/{id}", asking_page(frame, deployment, one_page))
        .api(all.asks().refuses(&[422]), facts(frame, deployment, found))
        .api(one.asks().refuses(&[404]), facts(frame, deployment, detail))
        .api(why.asks().refuses(&[404]), facts(frame, deployment, reasons))
        .merge(orders(frame, deployment, acts, one_of_many))
        .merge(orders(frame, deployment, many, do_it))
}

/// Reads what is looked for; words behind each other all have to be true.
fn request(field: impl Fn(&str) -> Option<String>, most: usize) -> Result<TasksRequest, WebError> {
    let line = field("q").map(|line| search::fields(&line).map_err(WebError::unprocessable)).transpose()?.unwrap_or_default();
    if let Some((name, _)) = line.iter().find(|(name, _)| field(name).is_some()) {
        return Err(WebError::unprocessable(format!("{name} stands in the search line and in a field: leave one of them empty")));
    }
    let get = |name: &str| field(name).or_else(|| line.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()));
    // A filter that is left out unsaid would show, and act on, all the others.
    if let Some(name) = ["worker", "took"].into_iter().find(|name| get(name).is_some()) {
        let said = "only what is remembered can be searched by it, and queues and results are asked here";
        return Err(WebError::unprocessable(format!("{name}: {said} (a dashboard with --no-history has nothing else)")));
    }
    let mut request = TasksRequest::default();
    request.most = most;
    if let Some(word) = get("state") {
        let standing = TaskStanding::ALL.into_iter().find(|standing| standing.word() == word);
        request.standing = vec![standing.ok_or_else(|| WebError::unprocessable(format!("{word} is no state of a task")))?];
    }
    (request.task, request.queue, request.error) = (get("task"), get("queue"), get("error"));
    request.ids = get("id").map(|ids| ids.split_whitespace().map(str::to_owned).collect()).unwrap_or_default();
    if let Some(since) = get("since") {
        request.since =
            Some(duration(&since).ok_or_else(|| WebError::unprocessable(format!("{since}: write a time such as 30s, 15m, 2h or 1d")))?);
    }
    Ok(request)
}

async fn found(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<TaskList, WebError> {
    let most = request.number("most")?.unwrap_or(MOST).min(MOST_ACTED);
    let wanted = self::request(|name| request.query(name).map(str::to_owned), most)?;
    Ok(tasks::list(&deployment.client, &wanted).await?)
}

async fn detail(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<tasks::TaskDetail, WebError> {
    Ok(tasks::show(&deployment.client, request.param("task")).await?)
}

async fn reasons(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Vec<WhyAnswer>, WebError> {
    Ok(why::why(&deployment.client, &WhyRequest::new(request.param("task"))).await?)
}

/// A tab of the page: its label, its state, and whether the broker is asked and not the history.
type Tab = (&'static str, &'static str, bool);

/// Tabs of the page: the broker tells what waits and what is dead, the history what has happened.
const TABS: [Tab; 11] = [
    ("All", "", false),
    ("Waiting", "waiting", true),
    ("At workers", "held", false),
    ("Running", "started", false),
    ("Retrying", "retry", false),
    ("Done", "success", false),
    ("Failed", "failure", false),
    ("Called off", "revoked", false),
    ("Lost", "lost", false),
    ("Dead", "dead", true),
    ("Queues and results", "", true),
];

/// Columns of remembered tasks: label, order, and whether people want the largest first.
const COLUMNS: [(&str, &str, bool); 9] = [
    ("Task", "task", false),
    ("Id", "id", false),
    ("State", "state", false),
    ("Queue", "queue", false),
    ("Worker", "worker", false),
    ("Heard", "heard", true),
    ("Took", "took", true),
    ("Starts", "starts", true),
    ("Error", "error", false),
];

/// Returns terms of search lines that somebody may want to write.
fn suggestions(known: &KnownNames) -> Vec<String> {
    let states = PastState::ALL.into_iter().map(|state| search::term_of("state", state.word()));
    let each = |field: &'static str, names: &[String]| names.iter().map(|name| search::term_of(field, name)).collect::<Vec<_>>();
    states.chain(each("task", &known.tasks)).chain(each("queue", &known.queues)).chain(each("worker", &known.workers)).collect()
}

async fn list_page(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let asks_broker = request.query("from") == Some("broker") || deployment.feed.history.is_none();
    let fields: std::collections::BTreeMap<&str, String> =
        past::FIELDS.into_iter().map(|name| (name, request.query(name).unwrap_or_default().to_owned())).collect();
    let mut states: Vec<(&str, &str)> = TaskStanding::ALL.into_iter().map(|standing| (standing.word(), standing.meaning())).collect();
    if !asks_broker {
        states = PastState::ALL.into_iter().map(|state| (state.word(), state.meaning())).collect();
    }
    // What is wrong with the file is said elsewhere.
    let known = match deployment.feed.history.as_ref().filter(|_| !asks_broker) {
        Some(history) => suggestions(&history.known().await.unwrap_or_default()),
        None => states.iter().map(|(word, _)| search::term_of("state", word)).collect(),
    };
    let sort = request.query("sort").unwrap_or_default().to_owned();
    let again: String =
        fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("&{name}={}", in_query(value))).collect();
    let around = context! { fields, states, known, again, sort, columns => COLUMNS, asks_broker, tabs => TABS, has_history => deployment.feed.history.is_some() };
    // What was typed wrongly is said above the form that holds it.
    let list = if asks_broker {
        match found(deployment, request).await {
            Ok(found) => context! { found => Serde(found) },
            Err(error) => context! { found => Serde(TaskList::default()), trouble => error.message },
        }
    } else {
        match past::find(&deployment, |name| request.query(name).map(str::to_owned), MOST_PAST).await {
            Ok(page) => context! { past => Serde(page) },
            Err(error) => context! { past => Serde(PastPage::default()), trouble => error.message },
        }
    };
    Ok(Page::new("tasks.html", "Tasks", context! { ..list, ..around }))
}

/// Returns a text, cut where it is too long for a page, and whether it was.
fn cut(text: &str) -> (&str, bool) {
    if text.len() <= SHOWN {
        return (text, false);
    }
    let end = (0..=SHOWN).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    (&text[..end], true)
}

/// Returns a value as JSON that people can change: letters are not escaped.
fn readable(value: &Value) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    match value {
        Value::Text(letters) => text(letters),
        Value::List(items) => format!("[{}]", items.iter().map(readable).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let members = map.iter().map(|(name, value)| format!("{}: {}", text(name), readable(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Returns why a task waits, in words.
fn because(reason: &WaitReason) -> String {
    match reason {
        WaitReason::Paused { by, .. } => format!("its queue is paused by {by}"),
        WaitReason::Unserved => "no worker that answers serves its queue".to_owned(),
        WaitReason::Slots { taken } => {
            let taken: Vec<String> =
                taken.iter().map(|lane| format!("{} at {}: {} of {}", lane.lane, lane.node, lane.running, lane.slots)).collect();
            if taken.is_empty() {
                "every slot is taken".to_owned()
            } else {
                format!("every slot of its lane is taken ({})", taken.join("; "))
            }
        }
        WaitReason::Turn => "others are in front of it".to_owned(),
        WaitReason::Eta { due } => match due {
            Some(due) => format!("it is not to be started before {}", time_text(*due)),
            None => "its time has not come".to_owned(),
        },
        WaitReason::Rate { rate, due } => {
            let rate = rate.as_ref().map(|rate| format!(" of {rate}")).unwrap_or_default();
            let due = due.map(|due| format!("; its turn comes at {}", time_text(due))).unwrap_or_default();
            format!("its task has a rate{rate}{due}")
        }
        WaitReason::Alone { crashes } => format!("{crashes} workers that ran it have died: it waits until it may run alone"),
        other => other.word().to_owned(),
    }
}

/// Returns ways to send a task once more from somewhere else.
fn copies(detail: &tasks::TaskDetail, request: &PageRequest, options: &WebOptions) -> Vec<Copy> {
    if options.hide_args {
        return Vec::new();
    }
    // What only shows takes no tasks.
    let address = request.own_address.as_deref().filter(|_| !options.read_only);
    let door = address.map(|address| (address, &options.access));
    Copied::of(detail).map(|copied| copied.ways(door)).unwrap_or_default()
}

async fn task_page(deployment: Arc<Deployment>, request: Arc<PageRequest>, guard: Arc<Guard>) -> Result<Page, WebError> {
    let id = request.param("id");
    let (known, past) = tokio::join!(tasks::show(&deployment.client, id), async {
        match &deployment.feed.history {
            Some(history) => history.timeline(id).await,
            None => Ok(None),
        }
    });
    let (past, past_trouble) = match past {
        Ok(past) => (past, None),
        Err(error) => (None, Some(error.message)),
    };
    // What only the history knows is shown, and so is what it knows while the broker is away.
    let (detail, trouble) = match (known, &past) {
        (Ok(detail), _) => (Some(detail), None),
        (Err(error), Some(_)) => (None, Some(error.to_string())),
        (Err(error), None) => {
            let mut error = WebError::from(error);
            error.message.extend(past_trouble.iter().flat_map(|trouble| ["; ", trouble]));
            return Err(error);
        }
    };
    let reasons = match &detail {
        Some(_) => why::why(&deployment.client, &WhyRequest::new(id)).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let waits = reasons.iter().find_map(|answer| answer.reason.as_ref()).map(because);
    let message = detail.as_ref().and_then(|detail| detail.message.as_deref());
    let edit = detail.as_ref().and_then(tasks::TaskDetail::arguments);
    let trees = trees(edit.as_ref().map(|call| (&call.args, &call.kwargs)), past.as_ref());
    let edit = edit.map(|call| (readable(&call.args), readable(&call.kwargs)));
    let (message, is_cut) = message.map(cut).unwrap_or_default();
    let stored = detail.as_ref().and_then(|detail| detail.stored.as_ref());
    let result = stored.map(|stored| ShownTree::of_json("result", &stored.result.to_string()));
    let told = past.as_ref().and_then(|past| ShownTree::of_text("result", past.result.as_deref()?));
    let has_ended = detail.as_ref().is_some_and(|detail| detail.info.standing.has_ended() || detail.info.standing == TaskStanding::Dead);
    let stage = reasons.first().map(WhyAnswer::state);
    let facts = task_facts(detail.as_ref(), past.as_ref(), stage);
    let copies = detail.as_ref().map(|detail| copies(detail, &request, &guard.options)).unwrap_or_default();
    let title = facts.0.clone().unwrap_or_else(|| id.to_owned());
    let context = context! {
        id, waits, message, is_cut, edit, trees => Serde(trees),
        result => result.as_ref().map(Serde), told => told.as_ref().map(Serde), has_ended, trouble, copies => Serde(copies),
        detail => detail.as_ref().map(Serde), stage, past => past.as_ref().map(Serde),
        has_history => deployment.feed.history.is_some(), past_trouble, ..facts.1,
    };
    Ok(Page::new("task.html", title, context))
}

/// Returns the arguments that are JSON and more than one value, as trees: those of the message or
/// the result, or those that the history has.
fn trees(call: Option<(&Value, &Value)>, past: Option<&Timeline>) -> Vec<ShownTree> {
    let found = match (call, past) {
        (Some((args, kwargs)), _) => {
            [("args", args), ("kwargs", kwargs)].map(|(label, value)| is_container(value).then(|| ShownTree::of(label, value)))
        }
        (None, Some(past)) => [("args", &past.args), ("kwargs", &past.kwargs)]
            .map(|(label, text)| text.as_deref().and_then(|text| ShownTree::of_text(label, text))),
        (None, None) => [None, None],
    };
    found.into_iter().flatten().collect()
}

/// Returns a task's name, and what is known of it best: the broker and the results say how it
/// stands now, the history what they have forgotten.
fn task_facts(detail: Option<&tasks::TaskDetail>, past: Option<&Timeline>, stage: Option<&str>) -> (Option<String>, minijinja::Value) {
    let info = detail.map(|detail| &detail.info);
    let of = |now: Option<&Option<String>>, then: Option<&Option<String>>| now.cloned().flatten().or_else(|| then.cloned().flatten());
    let task = of(info.map(|info| &info.task), past.map(|past| &past.task.task));
    let args = past.map(|past| {
        format!("{}{}", past.args.as_deref().unwrap_or_default(), past.kwargs.as_ref().map(|k| format!(" {k}")).unwrap_or_default())
    });
    let heard = past.map(|past| past.task.heard);
    // A broker says that a worker has it until its lease is over, also of one that is gone.
    let is_held = info.is_some_and(|info| matches!(info.standing, TaskStanding::Held | TaskStanding::Started));
    let answers = matches!(stage, Some("active" | "reserved" | "scheduled" | "ended"));
    let lost = past.map(|past| past.task.state).filter(|state| is_held && !answers && matches!(*state, "lost" | "unheard"));
    let facts = context! {
        task => task.clone(),
        state_word => lost.or(info.map(|info| info.standing.word()).or(past.map(|past| past.task.state))),
        queue => of(info.map(|info| &info.queue), past.map(|past| &past.task.queue)),
        worker => of(info.map(|info| &info.worker), past.map(|past| &past.task.worker)),
        at => info.and_then(|info| info.at).map(time_text), heard,
        args => of(info.map(|info| &info.args), Some(&args.filter(|args| !args.is_empty()))),
        error => of(info.map(|info| &info.error), past.map(|past| &past.error_text)),
    };
    (task, facts)
}

/// Tasks that a form means, and how many of them nobody knows any more but the history.
struct Meant {
    tasks: Vec<TaskInfo>,
    gone: usize,
}

/// Returns the tasks that a form means: those that are ticked, or all that match its filter.
async fn meant(deployment: &Deployment, asked: &Asked) -> Result<Meant, WebError> {
    // The ids of the filter, which are not those that are ticked.
    let field = |name: &str| asked.form.get(if name == "id" { "find" } else { name }).map(str::to_owned);
    let too_many = |count: i64| WebError::unprocessable(format!("{count} tasks match: at most {MOST_ACTED} at once; narrow the filter"));
    let wanted = match (asked.form.get("all").is_some(), asked.form.get("past").is_some()) {
        (true, false) => request(field, MOST_ACTED)?,
        (true, true) => {
            let page = past::find(deployment, field, MOST_ACTED).await?;
            if page.matched > page.tasks.len() as i64 {
                return Err(too_many(page.matched));
            }
            TasksRequest::ids(page.tasks.into_iter().map(|task| task.id))
        }
        (false, _) => TasksRequest::ids(asked.form.all("id")),
    };
    if asked.form.get("all").is_none() && wanted.ids.is_empty() {
        return Err(WebError::unprocessable("no task is ticked"));
    }
    if asked.form.get("past").is_some() && wanted.ids.is_empty() {
        return Err(WebError::unprocessable("no task matches"));
    }
    let list = tasks::list(&deployment.client, &wanted).await?;
    if list.matched > list.tasks.len() {
        return Err(too_many(i64::try_from(list.matched).unwrap_or(i64::MAX)));
    }
    let gone = wanted.ids.len().saturating_sub(list.tasks.len());
    if list.tasks.is_empty() && gone > 0 {
        let said = match &wanted.ids[..] {
            [id] => format!("task {id}: not in results, queues, dead letters or at a worker"),
            _ => format!("{gone} tasks: neither message nor result of one of them is kept any more"),
        };
        return Err(WebError::new(StatusCode::NOT_FOUND, said));
    }
    still_as_many(asked.form.get("count"), list.tasks.len() + gone)?;
    Ok(Meant { tasks: list.tasks, gone })
}

/// Refuses to do to all that match what somebody has wanted for fewer of them.
pub(super) fn still_as_many(wanted: Option<&str>, found: usize) -> Result<(), WebError> {
    match wanted.map(str::parse::<usize>) {
        Some(Ok(wanted)) if found > wanted => {
            let said = format!("{found} match by now, and it was wanted for {wanted}: nothing was done; look again");
            Err(WebError::new(StatusCode::CONFLICT, said))
        }
        Some(Err(_)) => Err(WebError::unprocessable("count is a whole number")),
        _ => Ok(()),
    }
}

/// Says how many of those that were meant nobody knows any more.
fn with_gone(said: String, gone: usize) -> String {
    if gone == 0 { said } else { format!("{said}; {gone} are known to the history alone") }
}

/// Does it to the task that the path names.
async fn one_of_many(deployment: Arc<Deployment>, asked: Asked, noted: Action) -> (Action, Result<String, WebError>) {
    let id = asked.form.get("task").unwrap_or_default().to_owned();
    let form = FormFields::new(vec![("what".to_owned(), asked.what().to_owned()), ("id".to_owned(), id)]);
    let (noted, done) = do_it(deployment, Asked { form, ..asked }, noted).await;
    match (noted.count, &done) {
        (Some(0), Ok(_)) => {
            let unknown = WebError::not_found(format_args!("task {}: not in results, queues, dead letters or at a worker", noted.to));
            (noted, Err(unknown))
        }
        _ => (noted, done),
    }
}

async fn do_it(deployment: Arc<Deployment>, asked: Asked, mut noted: Action) -> (Action, Result<String, WebError>) {
    let filter = ["q", "state", "task", "queue", "worker", "error", "since", "took", "find"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}:{}", asked.form.get(name)?)));
    noted.to = match asked.form.get("all") {
        Some(_) => filter.collect::<Vec<_>>().join(" "),
        None => asked.form.all("id").take(20).collect::<Vec<_>>().join(" "),
    };
    let done = act(&deployment, &asked, &mut noted).await;
    (noted, done)
}

/// Does what is asked for, and notes to how many, also where it ended early.
async fn act(deployment: &Deployment, asked: &Asked, noted: &mut Action) -> Result<String, WebError> {
    match asked.what() {
        "retry" => {
            let Meant { tasks, gone } = meant(deployment, asked).await?;
            let (count, said) = act::retry(deployment, &tasks).await;
            noted.count = count;
            Ok(with_gone(said?, gone))
        }
        what @ ("cancel" | "terminate") => {
            let Meant { tasks, gone } = meant(deployment, asked).await?;
            let (count, said) = act::cancel(deployment, tasks, (what == "terminate").then_some("SIGTERM")).await?;
            noted.count = Some(count);
            Ok(with_gone(said, gone))
        }
        "abort" => {
            let Meant { tasks, gone } = meant(deployment, asked).await?;
            let (count, said) = act::abort(deployment, &tasks).await?;
            noted.count = Some(count);
            Ok(with_gone(said, gone))
        }
        "send" => {
            noted.to = asked.form.get("task").unwrap_or_default().to_owned();
            let id = act::send_edited(deployment, asked).await?;
            (noted.count, noted.to) = (Some(1), id);
            Ok(format!("sent as {}", noted.to))
        }
        _ => Err(asked.unknown()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_filter_is_read_or_refused_in_words() {
        let of = |pairs: &[(&str, &str)]| {
            request(|name| pairs.iter().find(|(field, _)| *field == name).map(|(_, value)| (*value).to_owned()), 7)
        };
        let read = of(&[("state", "failure"), ("task", "shop.*"), ("since", "2h"), ("id", "a  b")]).unwrap();
        assert_eq!(
            (read.standing, read.task.as_deref(), read.since),
            (vec![TaskStanding::Failure], Some("shop.*"), Some(Duration::from_secs(7_200)))
        );
        assert_eq!((read.ids, read.most), (vec!["a".to_owned(), "b".to_owned()], 7));
        for (name, value) in [("state", "broken"), ("since", "2"), ("since", "h"), ("since", "2é"), ("since", "99999999999999999999d")] {
            assert!(of(&[(name, value)]).unwrap_err().message.contains(value), "{name}={value}");
        }
        let line = of(&[("q", "state:dead error:\"bad address\""), ("task", "shop.*")]).unwrap();
        assert_eq!((line.standing, line.error.as_deref()), (vec![TaskStanding::Dead], Some("bad address")));
        for line in ["a word", "worker:w1", "task:a"] {
            assert!(of(&[("q", line), ("task", "b")]).is_err(), "{line}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), ("short", false));
        let long = "é".repeat(SHOWN);
        let (text, is_cut) = cut(&long);
        assert!(is_cut && text.len() <= SHOWN && text.chars().all(|c| c == 'é'));
    }
}
