//! Traffic of queues, in, out and running: measured over a window, from the workers that answer.
//! What cannot be known is said to be unknown.
//!
//! A worker of longshore says how many messages of each queue it has ended. The sum of all workers
//! of a queue is what went out; that, and how much more lies there than before, is what came in. A
//! worker that does not say it (Celery's), or none at all while something is held, makes both
//! unknown. What runs it says in the same reply; of one that does not, the tasks are counted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_brokers::{BrokerError, Connected, QueueState};
use longshore_celery::{Value, control::Request};
use longshore_worker::{
    Client,
    remote::{PATIENCE, ask},
};

use crate::{
    error::OpsError,
    workers::{ended_of, names_of, running_of},
};

/// Traffic of one queue, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Flow {
    /// Messages a second.
    pub(crate) incoming: Option<f64>,
    /// Messages a second that have come to their end.
    pub(crate) outgoing: Option<f64>,
    /// Tasks that run now.
    pub(crate) running: Option<u64>,
    /// Workers that serve it, and answer.
    pub(crate) workers: Option<u64>,
}

/// The traffic of queues by name.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Time over which it was measured.
    pub(super) window: Duration,
    queues: BTreeMap<String, Flow>,
}

impl Flows {
    pub(super) fn of(&self, queue: &str) -> Flow {
        self.queues.get(queue).copied().unwrap_or_default()
    }
}

/// One look at everything.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) states: Vec<QueueState>,
    /// The messages that each worker has ended by queue; `None` for one that does not count so.
    pub(crate) ended: BTreeMap<String, Option<BTreeMap<String, u64>>>,
}

/// Numbers of tasks that run, by worker and queue.
pub(crate) type RunningTasks = BTreeMap<String, BTreeMap<String, u64>>;

/// Returns the states of queues as they are after the window, and what came and went in it.
pub(super) async fn measure(client: &Client, names: &[Arc<str>], window: Duration) -> Result<(Vec<QueueState>, Flows), OpsError> {
    let Connected { broker, .. } = client.connected();
    let at = Instant::now();
    let states = broker.queues(names).await?;
    if window.is_zero() {
        return Ok((states, Flows::default()));
    }
    // Who is there is found out while it is measured. Where all have answered, that takes no longer
    // than the window.
    let patience = window.max(PATIENCE);
    let (stats, queues, ()) = tokio::join!(
        ask(client.connected(), Request::new("stats"), patience),
        ask(client.connected(), Request::new("active_queues"), patience),
        tokio::time::sleep(window)
    );
    // What lies there is known all the same.
    let (Ok(stats), Ok(queues)) = (stats, queues) else { return Ok((states, Flows::default())) };
    let before = Sample { at, states, ended: ended(&stats) };
    // A broker that cannot list its queues (RabbitMQ) knows of those that workers serve.
    let served: Vec<Arc<str>> = if names.is_empty() && before.states.is_empty() { all_served(&queues) } else { names.to_vec() };
    let at = Instant::now();
    let states = broker.queues(&served).await?;
    let nodes: Vec<String> = before.ended.keys().cloned().collect();
    let mute = mute(&stats);
    let (stats, active) = tokio::join!(ask_some(client, "stats", nodes, patience), ask_some(client, "active", mute, patience));
    let (stats, active) = (stats.unwrap_or_default(), active.unwrap_or_default());
    let after = Sample { at, states, ended: ended(&stats) };
    let (served, running) = (serving(&queues), running(&stats, &active));
    let (was, is) = (IndexedSample::of(&before), IndexedSample::of(&after));
    let flows = after.states.iter().map(|state| (state.name.clone(), flow(&state.name, &was, &is, &served, &running))).collect();
    Ok((after.states, Flows { window: after.at - before.at, queues: flows }))
}

/// Replies by node.
type Replies = Vec<(String, Value)>;

/// Asks these nodes; nobody where there are none.
pub(crate) async fn ask_some(client: &Client, command: &str, nodes: Vec<String>, within: Duration) -> Result<Replies, BrokerError> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let request = Request::new(command).to(nodes);
    // Arguments as text: nothing of theirs is read.
    let request = if command == "active" { request.argument("safe", true) } else { request };
    ask(client.connected(), request, within).await
}

/// Returns which of those that replied do not say how many tasks of each queue they run.
pub(crate) fn mute(stats: &[(String, Value)]) -> Vec<String> {
    stats.iter().filter(|(_, stats)| running_of(stats).is_none()).map(|(node, _)| node.clone()).collect()
}

pub(crate) fn ended(stats: &[(String, Value)]) -> BTreeMap<String, Option<BTreeMap<String, u64>>> {
    stats.iter().map(|(node, value)| (node.clone(), ended_of(value))).collect()
}

/// Asks for the queues that workers serve.
pub(crate) async fn served(client: &Client) -> Result<Vec<Arc<str>>, BrokerError> {
    ask(client.connected(), Request::new("active_queues"), PATIENCE).await.map(|replies| all_served(&replies))
}

/// Returns the queues that anybody serves.
fn all_served(replies: &[(String, Value)]) -> Vec<Arc<str>> {
    let names: BTreeSet<String> = replies.iter().flat_map(|(_, value)| names_of(value)).collect();
    names.into_iter().map(Arc::from).collect()
}

/// Returns which queues each worker serves.
fn serving(replies: &[(String, Value)]) -> BTreeMap<String, Vec<String>> {
    replies.iter().map(|(node, value)| (node.clone(), names_of(value))).collect()
}

/// Returns how many tasks of each queue each worker runs: as its `stats` say, or else counted from
/// its reply to `active`. Workers of ours say there which queue a task came from; Celery's say the
/// routing key, which is mostly the same.
pub(crate) fn running(stats: &[(String, Value)], active: &[(String, Value)]) -> RunningTasks {
    let count = |value: &Value| {
        let mut counts = BTreeMap::new();
        for task in value.as_list().unwrap_or_default() {
            let queue = task.get("queue").or_else(|| task.get("delivery_info")?.get("routing_key"));
            if let Some(queue) = queue.and_then(Value::as_str) {
                *counts.entry(queue.to_owned()).or_default() += 1;
            }
        }
        counts
    };
    let counted = active.iter().map(|(node, value)| (node.clone(), count(value)));
    counted.chain(stats.iter().filter_map(|(node, stats)| Some((node.clone(), running_of(stats)?)))).collect()
}

/// A look, with its queues by their names: brokers have tens of thousands.
pub(crate) struct IndexedSample<'a> {
    sample: &'a Sample,
    states: HashMap<&'a str, &'a QueueState>,
}

impl<'a> IndexedSample<'a> {
    /// Indexes a look.
    pub(crate) fn of(sample: &'a Sample) -> Self {
        Self { sample, states: sample.states.iter().map(|state| (state.name.as_str(), state)).collect() }
    }

    fn state(&self, queue: &str) -> QueueState {
        self.states.get(queue).copied().cloned().unwrap_or_default()
    }
}

/// Returns the traffic of one queue between two looks. Pure.
pub(crate) fn flow(
    queue: &str,
    before: &IndexedSample<'_>,
    after: &IndexedSample<'_>,
    served: &BTreeMap<String, Vec<String>>,
    running: &RunningTasks,
) -> Flow {
    let (was, is) = (before.state(queue), after.state(queue));
    let (before, after) = (before.sample, after.sample);
    let seconds = (after.at - before.at).as_secs_f64();
    let nodes: Vec<&String> = served.iter().filter(|(_, queues)| queues.iter().any(|name| name == queue)).map(|(node, _)| node).collect();
    // Who serves it and does not answer may have ended something.
    let unseen = nodes.is_empty() && (was.held > 0 || is.held > 0);
    let count = |sample: &Sample, node: &String| Some(sample.ended.get(node)?.as_ref()?.get(queue).copied().unwrap_or(0));
    let ended = |node: &&String| count(after, node)?.checked_sub(count(before, node)?);
    let out = if unseen { None } else { nodes.iter().map(ended).sum::<Option<u64>>() };
    let depth = |state: &QueueState| (state.waiting + state.held + state.later) as f64;
    Flow {
        incoming: out.map(|out| ((out as f64 + depth(&is) - depth(&was)) / seconds).max(0.0)),
        outgoing: out.map(|out| out as f64 / seconds),
        // One that serves it no more may still run what it had.
        running: if unseen || nodes.iter().any(|node| !running.contains_key(*node)) {
            None
        } else {
            Some(running.values().filter_map(|queues| queues.get(queue)).sum())
        },
        workers: Some(nodes.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, waiting: u64, held: u64, ended: &[(&str, Option<u64>)]) -> Sample {
        let counts = |count: &Option<u64>| count.map(|count| BTreeMap::from([("q".to_owned(), count)]));
        Sample {
            at,
            states: vec![QueueState { name: "q".to_owned(), waiting, held, ..QueueState::default() }],
            ended: ended.iter().map(|(node, count)| ((*node).to_owned(), counts(count))).collect(),
        }
    }

    #[test]
    fn what_came_in_is_what_went_out_and_what_lies_there_beyond() {
        let (then, window) = (Instant::now(), Duration::from_secs(2));
        let now = then + window;
        let serve = |nodes: &[&str]| nodes.iter().map(|node| ((*node).to_owned(), vec!["q".to_owned()])).collect::<BTreeMap<_, _>>();
        let (two, none) = (serve(&["a", "b"]), serve(&[]));
        let flow = |before: &Sample, after: &Sample, served| {
            let flow = flow("q", &IndexedSample::of(before), &IndexedSample::of(after), served, &BTreeMap::new());
            (flow.incoming, flow.outgoing, flow.workers)
        };
        let before = sample(then, 10, 5, &[("a", Some(100)), ("b", Some(0))]);
        let after = sample(now, 14, 5, &[("a", Some(108)), ("b", Some(2))]);
        assert_eq!(flow(&before, &after, &two), (Some(7.0), Some(5.0), Some(2)));
        // One that does not count, and one that has begun anew.
        let after = sample(now, 14, 5, &[("a", Some(108)), ("b", None)]);
        assert_eq!(flow(&before, &after, &two), (None, None, Some(2)));
        let after = sample(now, 14, 5, &[("a", Some(3)), ("b", Some(2))]);
        assert_eq!(flow(&before, &after, &two), (None, None, Some(2)));
        // Nobody answers: somebody holds something, or nobody does.
        assert_eq!(flow(&before, &after, &none), (None, None, Some(0)));
        let (before, after) = (sample(then, 10, 0, &[]), sample(now, 14, 0, &[]));
        assert_eq!(flow(&before, &after, &none), (Some(2.0), Some(0.0), Some(0)));
    }

    #[test]
    fn replies_are_read_as_far_as_they_can_be() {
        let value = |json: &str| Value::parse(json.as_bytes(), 16).unwrap();
        let stats = vec![("a".to_owned(), value(r#"{"queues": {"q": 3}}"#)), ("celery".to_owned(), value(r#"{"total": {}}"#))];
        let ended = ended(&stats);
        assert_eq!((ended["a"].as_ref().unwrap()["q"], &ended["celery"]), (3, &None));
        let replies = vec![("a".to_owned(), value(r#"[{"name": "q"}, {"name": "r"}]"#)), ("b".to_owned(), value("null"))];
        assert_eq!(serving(&replies)["a"], ["q", "r"]);
        let task = r#"{"id": "1", "delivery_info": {"exchange": "", "routing_key": "q"}}"#;
        let moved = r#"{"id": "2", "queue": "q", "delivery_info": {"exchange": "", "routing_key": "before"}}"#;
        let replies = vec![("a".to_owned(), value(&format!("[{task}, {moved}, {{}}]"))), ("b".to_owned(), value("null"))];
        // One of ours, that says it without being asked for the tasks.
        let stats = vec![("c".to_owned(), value(r#"{"running_by_queue": {"q": 4}}"#)), ("b".to_owned(), value("{}"))];
        assert_eq!(mute(&stats), ["b"]);
        assert_eq!(running(&stats, &replies)["c"], BTreeMap::from([("q".to_owned(), 4)]));
        let running = running(&[], &replies);
        assert_eq!((&running["a"], running["b"].len()), (&BTreeMap::from([("q".to_owned(), 2)]), 0));
        let (now, serve) = (Instant::now(), |nodes: &[&str]| nodes.iter().map(|node| ((*node).to_owned(), vec!["q".to_owned()])).collect());
        let runs = |nodes: &[&str], held| {
            let look = sample(now, 0, held, &[]);
            flow("q", &IndexedSample::of(&look), &IndexedSample::of(&look), &serve(nodes), &running).running
        };
        assert_eq!((runs(&["a", "b"], 3), runs(&["b"], 3), runs(&[], 0)), (Some(2), Some(2), Some(2)));
        // Somebody who does not answer holds something; and one that serves did not say what runs.
        assert_eq!((runs(&[], 3), runs(&["a", "silent"], 3)), (None, None));
    }
}
