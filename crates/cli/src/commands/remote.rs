//! `longshore status`, `inspect`, `control`, `workers`: what running workers say, longshore's and
//! Celery's alike, in Celery's words.

use std::{io::Write, time::Duration};

use clap::{Args, Subcommand};
use longshore_celery::{Exception, Map, Value, control::Request, repr};
use longshore_ops::{
    OpsError,
    workers::{self, Stores, WorkerAction, WorkerDone, WorkerInfo, WorkerReply, WorkersRequest},
};

use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Absent, Place,
        show::{cut, json_line, plain},
    },
    units::{self, show_count, show_duration},
};

/// The workers that are asked, and the time for their replies.
#[derive(Args, Clone, Debug)]
pub struct Whom {
    /// Wait so long for replies
    #[arg(short = 't', long, value_name = "DUR", default_value = "1s", value_parser = seconds)]
    pub timeout: Duration,
    /// Only these nodes
    #[arg(short = 'd', long, value_name = "NODES", value_delimiter = ',')]
    pub destination: Vec<String>,
}

impl Whom {
    fn request(&self) -> WorkersRequest {
        let mut request = WorkersRequest::default();
        (request.nodes, request.patience) = (self.destination.clone(), self.timeout);
        request
    }
}

/// A duration; a bare number is seconds, as Celery has it.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(number) => Duration::try_from_secs_f64(number).map_err(|_| format!("`{text}` is no time")),
        Err(_) => units::duration(text),
    }
}

/// `inspect` and `control`.
#[derive(Args, Clone, Debug)]
pub struct RemoteArgs {
    /// The command, and its arguments
    #[arg(required = true, value_name = "COMMAND [ARG]")]
    pub words: Vec<String>,
    /// The workers that are asked.
    #[command(flatten)]
    pub whom: Whom,
}

/// `longshore workers …`
#[derive(Subcommand, Clone, Debug)]
pub enum WorkersCommand {
    /// All that reply (the default)
    List,
    /// One, with all that it says of itself
    Show {
        /// Its node name
        node: String,
    },
}

/// A command of the remote control, with the arguments that it takes.
struct Known {
    name: &'static str,
    /// Names of arguments; `*` collects the rest in a list, `?` may be left out, `#` is a number.
    args: &'static [&'static str],
    help: &'static str,
}

const fn known(name: &'static str, args: &'static [&'static str], help: &'static str) -> Known {
    Known { name, args, help }
}

const INSPECT: &[Known] = &[
    known("active", &[], "tasks that run"),
    known("active_queues", &[], "queues that are served"),
    known("clock", &[], "the logical clock"),
    known("conf", &["?with_defaults"], "settings"),
    known("ping", &[], "who is there"),
    known("query_task", &["*ids"], "where tasks are: ID…"),
    known("registered", &["*taskinfoitems"], "tasks that are served"),
    known("report", &[], "versions, for bug reports"),
    known("reserved", &[], "tasks that wait at the worker"),
    known("revoked", &[], "ids that were called off"),
    known("scheduled", &[], "tasks that wait for their time"),
    known("stats", &[], "numbers"),
];

const CONTROL: &[Known] = &[
    known("add_consumer", &["queue", "?exchange", "?exchange_type", "?routing_key"], "serve a queue too: QUEUE"),
    known("autoscale", &["?#max", "?#min"], "slots: MAX [MIN]"),
    known("cancel_consumer", &["queue"], "serve a queue no more: QUEUE"),
    known("disable_events", &[], "send no events of tasks"),
    known("enable_events", &[], "send events of tasks"),
    known("heartbeat", &[], "send a heartbeat now"),
    known("pool_grow", &["?#n"], "more slots: [N]"),
    known("pool_restart", &[], "start children anew"),
    known("pool_shrink", &["?#n"], "fewer slots: [N]"),
    known("rate_limit", &["task_name", "rate_limit"], "starts per time of a task: TASK RATE (0: no limit)"),
    known("revoke", &["*task_id"], "call tasks off that have not started: ID…"),
    known("revoke_by_stamped_headers", &["*headers"], "the same by stamp: KEY=VALUE…"),
    known("shutdown", &[], "stop, warmly"),
    known("terminate", &["signal", "*task_id"], "call tasks off that run, too: SIGNAL ID…"),
    known("time_limit", &["task_name", "#soft", "?#hard"], "limits of a task: TASK SOFT [HARD]"),
];

/// `longshore status`.
///
/// # Errors
/// 69: nobody has replied; the broker's, and those of `out`.
pub async fn status(whom: &Whom, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let stores = stores(place).await?;
    if !place.json {
        for (what, store) in [("broker", &stores.broker), ("results", &stores.results)] {
            let trip = if store.version == NO_FILE { String::new() } else { format!("  round trip {:.2} ms", store.round_trip_ms) };
            writeln!(out, "{what:<8} {}  {}{trip}", store.url, store.version)?;
        }
    }
    let replies = workers::inspect(&place.client, Request::new("ping"), &whom.request()).await?;
    if place.json {
        let nodes = replies.iter().map(|reply| (reply.node.clone(), serde_json::from_slice(&reply.reply.to_json()).unwrap_or_default()));
        let nodes: serde_json::Map<String, serde_json::Value> = nodes.collect();
        json_line(out, &serde_json::json!({ "broker": stores.broker, "results": stores.results, "nodes": nodes }))?;
        // Also where nobody is there: the stores have answered.
        return if replies.is_empty() { Err(nobody()) } else { Ok(Exit::Done) };
    }
    say(&replies, place, false, true, out)?;
    Ok(Exit::Done)
}

/// The version of a store whose file is not there.
const NO_FILE: &str = "no file yet";

/// Calls both stores. Of one that is not there it says so, and not which empty one stands for it.
async fn stores(place: &Place) -> Result<Stores, Fault> {
    let mut stores = workers::stores(&place.client).await?;
    let Absent { broker, results, .. } = &place.absent;
    // Results are with the broker where nothing else is said.
    let is_one = stores.broker.url == stores.results.url;
    let results = results.as_ref().or(broker.as_ref().filter(|_| is_one));
    for (store, url) in [(&mut stores.broker, broker.as_ref()), (&mut stores.results, results)] {
        if let Some(url) = url {
            (store.url, store.version, store.round_trip_ms) = (url.clone(), NO_FILE.to_owned(), 0.0);
        }
    }
    Ok(stores)
}

/// `longshore inspect COMMAND`.
///
/// # Errors
/// As [`status`].
pub async fn inspect(args: &RemoteArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let request = request(args, INSPECT, "inspect")?;
    let replies = workers::inspect(&place.client, request, &args.whom.request()).await?;
    say(&replies, place, true, true, out)?;
    Ok(Exit::Done)
}

/// `longshore control COMMAND`.
///
/// # Errors
/// As [`status`].
pub async fn control(args: &RemoteArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    match request(args, CONTROL, "control") {
        Ok(request) => told(&WorkerAction::of(request), &args.whom.request(), place, out).await,
        Err(unknown) => {
            // A program's own, which its workers alone know.
            let Some(request) = own_request(args)? else { return Err(unknown) };
            let nobodys = Exception::builtin("KeyError", request.method.as_str()).to_string();
            let mut replies = workers::inspect(&place.client, request, &args.whom.request()).await?;
            replies.retain(|reply| reply.reply.get("error").and_then(Value::as_str) != Some(&nobodys));
            if replies.is_empty() {
                return Err(unknown);
            }
            say(&replies, place, true, false, out)?;
            Ok(Exit::Done)
        }
    }
}

/// The request of a command that is not known here; `None` where it has arguments without a name.
///
/// # Errors
/// Behind a `:=` stands no JSON.
fn own_request(args: &RemoteArgs) -> Result<Option<Request>, Fault> {
    let Some((name, rest)) = args.words.split_first() else { return Ok(None) };
    if CONTROL.iter().any(|known| known.name == name) {
        return Ok(None);
    }
    let mut request = Request::new(name);
    for word in rest {
        let Some((name, value)) = own_argument(word)? else { return Ok(None) };
        request = request.argument(name, value);
    }
    Ok(Some(request))
}

/// Reads an argument: `name=value`, which is a number, true, false, null, a list or an object where
/// it reads as one, else a text; or `name:=json`, which is JSON or a mistake.
fn own_argument(word: &str) -> Result<Option<(&str, Value)>, Fault> {
    let Some((name, value)) = word.split_once('=') else { return Ok(None) };
    let read = Value::parse(value.as_bytes(), 64);
    let (name, value) = match name.strip_suffix(':') {
        Some(name) => {
            let why = |error| Fault::usage(format!("{word}: behind `:=` stands JSON, such as {name}:=3 or {name}:='\"3\"': {error}"));
            (name, read.map_err(why)?)
        }
        None => (name, read.unwrap_or_else(|_| value.into())),
    };
    Ok((!name.is_empty()).then_some((name, value)))
}

/// Tells workers to do something, and says what they reply.
///
/// # Errors
/// As [`status`].
pub(super) async fn told(action: &WorkerAction, whom: &WorkersRequest, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    match workers::act(&place.client, action, whom).await? {
        WorkerDone::Replied(replies) => say(&replies, place, true, false, out)?,
        WorkerDone::Told(nodes) => {
            for node in nodes {
                match place.json {
                    true => json_line(out, &serde_json::json!({ "node": node, "told": "shutdown" }))?,
                    false => writeln!(out, "->  {}: told to shut down", plain(&node))?,
                }
            }
        }
        _ => {}
    }
    Ok(Exit::Done)
}

/// No worker has replied.
fn nobody() -> Fault {
    OpsError::NoWorkers.into()
}

/// The request that the words mean.
fn request(args: &RemoteArgs, known: &[Known], verb: &str) -> Result<Request, Fault> {
    let (name, rest) = args.words.split_first().ok_or_else(|| Fault::usage(format!("{verb} what?")))?;
    let Some(command) = known.iter().find(|command| command.name == name) else {
        let names: Vec<String> = known.iter().map(|command| format!("  {:<26} {}", command.name, command.help)).collect();
        return Err(Fault::usage(format!("`{name}` is no command of {verb}; there are\n{}", names.join("\n"))));
    };
    let wrong = || Fault::usage(format!("{verb} {name}: {}", command.help));
    // `terminate` is `revoke` with a signal.
    let mut request = Request::new(if command.name == "terminate" { "revoke" } else { command.name });
    let mut rest = rest.iter();
    for arg in command.args {
        let (optional, arg) = arg.strip_prefix('?').map_or((false, *arg), |arg| (true, arg));
        if let Some(list) = arg.strip_prefix('*') {
            let words: Vec<Value> = rest.by_ref().map(|word| Value::from(word.as_str())).collect();
            // `registered` answers without words too.
            if words.is_empty() && list != "taskinfoitems" {
                return Err(wrong());
            }
            if !words.is_empty() {
                request = request.argument(list, Value::List(words));
            }
            continue;
        }
        let (number, arg) = arg.strip_prefix('#').map_or((false, arg), |arg| (true, arg));
        match rest.next() {
            None if optional => {}
            None => return Err(wrong()),
            Some(word) if number => {
                let value = word.parse::<i64>().map(Value::Int).or_else(|_| word.parse::<f64>().map(Value::Float)).map_err(|_| wrong())?;
                request = request.argument(arg, value);
            }
            Some(word) => request = request.argument(arg, word.as_str()),
        }
    }
    // A word too many may be a mistyped list, of which only a part would be acted upon.
    if rest.next().is_some() {
        return Err(wrong());
    }
    if command.name == "terminate" {
        request = request.argument("terminate", true);
    }
    Ok(request)
}

/// Writes replies as Celery does.
fn say(replies: &[WorkerReply], place: &Place, bodies: bool, count: bool, out: &mut dyn Write) -> Result<(), Fault> {
    if replies.is_empty() {
        return Err(nobody());
    }
    if place.json {
        let all: Map = replies.iter().map(|reply| (reply.node.as_str(), reply.reply.clone())).collect();
        out.write_all(&Value::Map(all).to_json())?;
        writeln!(out)?;
        return Ok(());
    }
    for reply in replies {
        let (word, body) = pretty(&reply.reply);
        writeln!(out, "->  {}: {word}", plain(&reply.node))?;
        if bodies {
            indented(&body, 4).lines().try_for_each(|line| writeln!(out, "{}", plain(line)))?;
        }
    }
    if count {
        writeln!(out, "\n{} {} online.", replies.len(), if replies.len() == 1 { "node" } else { "nodes" })?;
    }
    Ok(())
}

/// A reply's word and text, as Celery has them.
fn pretty(value: &Value) -> (&'static str, String) {
    match value {
        Value::List(list) if list.is_empty() => ("OK", "- empty -".to_owned()),
        Value::List(list) => ("OK", list.iter().map(|item| format!("* {}", python(item))).collect::<Vec<_>>().join("\n")),
        Value::Map(map) => match (map.get("ok"), map.get("error")) {
            (Some(ok), _) => ("OK", indented(&pretty(ok).1, 4)),
            (None, Some(error)) => ("ERROR", indented(&pretty(error).1, 4)),
            (None, None) => ("OK", document(value)),
        },
        Value::Text(text) => ("OK", text.clone()),
        other => ("OK", repr(other)),
    }
}

/// An item of a list: text as it is, all else as Python shows it.
fn python(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => repr(other),
    }
}

/// JSON over several lines, its keys in order.
fn document(value: &Value) -> String {
    let mut json: serde_json::Value = serde_json::from_slice(&value.to_json()).unwrap_or_default();
    json.sort_all_objects();
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    let written = serde::Serialize::serialize(&json, &mut serializer);
    if written.is_err() { String::new() } else { String::from_utf8_lossy(&text).into_owned() }
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}", "")).collect::<Vec<_>>().join("\n")
}

/// `longshore workers`.
///
/// # Errors
/// As [`status`].
pub async fn workers(command: Option<WorkersCommand>, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    match command.unwrap_or(WorkersCommand::List) {
        WorkersCommand::Show { node } => {
            let said = workers::show(&place.client, &node).await?.said;
            if place.json {
                out.write_all(&Value::Map(said).to_json())?;
                writeln!(out)?;
            } else {
                writeln!(out, "{}", plain(&node))?;
                for (method, value) in said.iter() {
                    writeln!(out, "{method}")?;
                    indented(&pretty(value).1, 4).lines().try_for_each(|line| writeln!(out, "{}", plain(line)))?;
                }
            }
        }
        WorkersCommand::List => {
            let found = workers::list(&place.client, &WorkersRequest::default()).await?;
            match place.json {
                true => found.iter().try_for_each(|worker| json_line(out, worker))?,
                false => table(&found, out)?,
            }
        }
    }
    Ok(Exit::Done)
}

fn table(workers: &[WorkerInfo], out: &mut dyn Write) -> std::io::Result<()> {
    let wide = workers.iter().map(|worker| worker.node.chars().count()).max().unwrap_or(0).max(6);
    writeln!(out, "{:<wide$}  {:>7}  {:>6} {:>10}  {:>8}  QUEUES", "WORKER", "PID", "SLOTS", "PROCESSED", "UPTIME")?;
    for worker in workers {
        let (total, uptime) = (show_count(u64::try_from(worker.processed).unwrap_or_default()), show_duration(worker.uptime));
        let names = cut(&plain(&worker.queues.join(", ")), 60);
        let (node, pid, slots) = (plain(&worker.node), worker.pid, worker.slots);
        writeln!(out, "{node:<wide$}  {pid:>7}  {slots:>6} {total:>10}  {uptime:>8}  {names}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &str) -> RemoteArgs {
        let whom = Whom { timeout: Duration::from_secs(1), destination: Vec::new() };
        RemoteArgs { words: words.split_whitespace().map(str::to_owned).collect(), whom }
    }

    #[test]
    fn words_become_the_arguments_that_workers_know() {
        for (known, words, method, want) in [
            (INSPECT, "ping", "ping", "{}"),
            (INSPECT, "query_task a b", "query_task", r#"{"ids": ["a", "b"]}"#),
            (INSPECT, "registered", "registered", "{}"),
            (CONTROL, "rate_limit tasks.add 10/m", "rate_limit", r#"{"task_name": "tasks.add", "rate_limit": "10/m"}"#),
            (CONTROL, "pool_grow 3", "pool_grow", r#"{"n": 3}"#),
            (CONTROL, "time_limit t 1.5", "time_limit", r#"{"task_name": "t", "soft": 1.5}"#),
            (CONTROL, "revoke a", "revoke", r#"{"task_id": ["a"]}"#),
            (CONTROL, "terminate KILL a", "revoke", r#"{"signal": "KILL", "task_id": ["a"], "terminate": true}"#),
        ] {
            let request = request(&args(words), known, "x").unwrap();
            let got = String::from_utf8(Value::Map(request.arguments).to_json()).unwrap();
            assert_eq!((request.method.as_str(), got.as_str()), (method, want), "{words}");
        }
        for words in ["rate_limit t", "pool_grow x", "pool_grow 1 2", "revoke", "nosuch"] {
            assert_eq!(request(&args(words), CONTROL, "control").unwrap_err().exit, Exit::Usage, "{words}");
        }
    }

    #[test]
    fn an_argument_of_a_programs_own_command_has_the_type_that_it_is_written_with() {
        for (word, want) in [
            ("n=3", r#"{"n": 3}"#),
            ("n=3.5", r#"{"n": 3.5}"#),
            ("n=true", r#"{"n": true}"#),
            ("n=three", r#"{"n": "three"}"#),
            ("n=", r#"{"n": ""}"#),
            ("n=a=b", r#"{"n": "a=b"}"#),
            ("n=[1, \"a\"]", r#"{"n": [1, "a"]}"#),
            ("n:=3", r#"{"n": 3}"#),
            // A text that reads as a number, in both ways.
            ("n:=\"3\"", r#"{"n": "3"}"#),
            ("n=\"3\"", r#"{"n": "3"}"#),
        ] {
            let mut words = args("reindex");
            words.words.push(word.to_owned());
            let request = own_request(&words).unwrap().unwrap();
            assert_eq!(String::from_utf8(Value::Map(request.arguments).to_json()).unwrap(), want, "{word}");
        }
        for word in ["n:=three", "n:="] {
            let mistake = own_argument(word).unwrap_err();
            assert!(mistake.exit == Exit::Usage && mistake.message.contains("stands JSON"), "{word}: {}", mistake.message);
        }
        for word in ["n", "=3", ":=3"] {
            assert_eq!(own_argument(word).unwrap(), None, "{word}");
        }
        assert!(own_request(&args("revoke n=3")).unwrap().is_none(), "a command of Celery's has arguments by place");
    }

    #[test]
    fn replies_are_shown_as_celery_shows_them() {
        let value = |json: &str| Value::parse(json.as_bytes(), 16).unwrap();
        for (json, want) in [
            (r#"{"ok": "pong"}"#, ("OK", "    pong")),
            (r#"{"error": "unknown task"}"#, ("ERROR", "    unknown task")),
            ("[]", ("OK", "- empty -")),
            (r#"["tasks.add"]"#, ("OK", "* tasks.add")),
            (r#"[{"id": "x", "args": [60], "t": null, "b": true}]"#, ("OK", "* {'id': 'x', 'args': [60], 't': None, 'b': True}")),
            (r#"{"clock": 53}"#, ("OK", "{\n    \"clock\": 53\n}")),
        ] {
            let (word, text) = pretty(&value(json));
            assert_eq!((word, text.as_str()), want);
        }
    }
}
