//! Workers and queues, as Flower tells them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::StatusCode;
use futures_util::future::join_all;
use longshore_celery::control::Request;
use longshore_ops::workers::{WorkersRequest, inspect};
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{FlowerDoor, Refused, Told, argument, flag};
use crate::{error::WebError, frame::PageRequest, pages::without_args};

/// Questions to all workers, and those further ones to a worker that is asked alone.
const QUESTIONS: [&str; 8] = ["stats", "active_queues", "registered", "conf", "scheduled", "active", "reserved", "revoked"];
const OF_ALL: usize = 4;
/// Time for which answers count as now, however often somebody asks.
const NOW: Duration = Duration::from_secs(1);
/// Time after which workers are asked again by whoever does not want it.
const FRESH: Duration = Duration::from_secs(30);
/// Time of silence after which a worker counts as away. Its heartbeats come every two seconds.
const SILENT: Duration = Duration::from_secs(6);
/// Most workers that are remembered.
const MOST: usize = 5_000;

/// Workers' answers, by their names.
#[derive(Default)]
pub(super) struct Inspected {
    answers: Mutex<Answers>,
    /// Whether each worker that was ever seen is there.
    seen: StdMutex<BTreeMap<String, bool>>,
}

#[derive(Default)]
struct Answers {
    workers: BTreeMap<String, Value>,
    /// Time of the last question to all, and to each one that was asked alone.
    all_at: Option<Instant>,
    one_at: BTreeMap<String, Instant>,
}

impl Answers {
    async fn ask(&mut self, door: &FlowerDoor, node: Option<&str>) -> Result<(), WebError> {
        let mut whom = WorkersRequest::default();
        whom.nodes = node.into_iter().map(str::to_owned).collect();
        let questions = if node.is_some() { &QUESTIONS[..] } else { &QUESTIONS[..OF_ALL] };
        let asked = join_all(questions.iter().map(async |question| {
            let request = Request::new(*question);
            let request = if *question == "active" { request.argument("safe", true) } else { request };
            inspect(&door.deployment.client, request, &whom).await
        }));
        let replies = asked.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        if node.is_none() {
            // Who is gone answers nothing any more.
            self.workers.clear();
            self.one_at.clear();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        for (question, replies) in questions.iter().zip(replies) {
            for reply in replies {
                let mut said: Value = serde_json::from_slice(&reply.reply.to_json()).unwrap_or_default();
                if *question == "stats"
                    && let Some(broker) = said.get_mut("broker").and_then(Value::as_object_mut)
                {
                    broker.remove("alternates");
                }
                if self.workers.len() < MOST || self.workers.contains_key(&reply.node) {
                    let worker = self.workers.entry(reply.node).or_insert_with(|| json!({}));
                    worker[*question] = said;
                    worker["timestamp"] = now.into();
                }
            }
        }
        Ok(())
    }
}

impl Inspected {
    /// Asks workers, unless they were asked just now.
    async fn workers(&self, door: &FlowerDoor, node: Option<&str>, refresh: bool) -> Result<BTreeMap<String, Value>, WebError> {
        let mut answers = self.answers.lock().await;
        let is_within = |at: Option<&Instant>, time: Duration| at.is_some_and(|at| at.elapsed() < time);
        match node.filter(|_| refresh) {
            Some(node) => {
                if !is_within(answers.one_at.get(node), NOW) {
                    answers.ask(door, Some(node)).await?;
                    if answers.workers.contains_key(node) {
                        answers.one_at.insert(node.to_owned(), Instant::now());
                    }
                }
            }
            None => {
                let fresh = if refresh { NOW } else { FRESH };
                if !is_within(answers.all_at.as_ref(), fresh) {
                    answers.ask(door, None).await?;
                    answers.all_at = Some(Instant::now());
                }
            }
        }
        Ok(answers.workers.clone())
    }

    /// Notes who is there, and returns it with those who were.
    fn status(&self, there: impl IntoIterator<Item = String>) -> BTreeMap<String, bool> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values_mut().for_each(|is_there| *is_there = false);
        for node in there {
            if seen.len() >= MOST && !seen.contains_key(&node) {
                let gone = seen.iter().find(|(_, is_there)| !**is_there).map(|(node, _)| node.clone());
                gone.and_then(|gone| seen.remove(&gone));
            }
            if seen.len() < MOST || seen.contains_key(&node) {
                seen.insert(node, true);
            }
        }
        seen.clone()
    }
}

/// Answers workers by their names.
pub(super) async fn list(door: Arc<FlowerDoor>, request: Arc<PageRequest>) -> Result<Told<Value>, Refused> {
    let (refresh, status) = (flag(&request, "refresh")?, flag(&request, "status")?);
    let node = argument(&request, "workername").filter(|node| !node.is_empty());
    if status {
        if refresh {
            door.deployment.nudge();
        }
        let overview = door.deployment.look().await?;
        let there = overview.workers.iter().filter(|worker| worker.silent.is_none_or(|silent| silent < SILENT));
        let status = door.inspected.status(there.map(|worker| worker.node.clone()));
        return Ok(json!(status).into());
    }
    let mut workers = door.inspected.workers(&door, node, refresh).await?;
    if let Some(node) = node {
        let unknown = || WebError::new(StatusCode::NOT_FOUND, format!("Unknown worker '{node}'"));
        let worker = workers.remove(node).ok_or_else(unknown)?;
        workers = BTreeMap::from([(node.to_owned(), worker)]);
    }
    let mut facts: Value = Map::from_iter(workers).into();
    if door.hide_args {
        without_args(&mut facts);
    }
    Ok(facts.into())
}

/// Answers how many messages wait in each queue.
pub(super) async fn lengths(door: Arc<FlowerDoor>, _request: Arc<PageRequest>) -> Result<Told<Value>, Refused> {
    let overview = door.deployment.look().await?;
    let queues: Vec<Value> = overview.queues.iter().map(|queue| json!({"name": queue.name, "messages": queue.waiting})).collect();
    Ok(json!({"active_queues": queues}).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_was_there_is_told_as_away_and_no_more_than_the_most_are_remembered() {
        let inspected = Inspected::default();
        inspected.status(["a@h".to_owned(), "b@h".to_owned()]);
        let status = inspected.status(["b@h".to_owned()]);
        assert_eq!(status, BTreeMap::from([("a@h".to_owned(), false), ("b@h".to_owned(), true)]));
        let status = inspected.status((0..MOST + 10).map(|number| format!("{number}@h")));
        assert_eq!((status.len(), status.contains_key("a@h")), (MOST, false));
    }
}
