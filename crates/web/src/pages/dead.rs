//! Dead letters, by task and error: put back, throw away.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use longshore_ops::{
    dead::{self, DeadInfo, DeadRequest, DroppedLetters},
    time_text,
};
use minijinja::{context, value::Serde};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    api::{Field, Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page},
    pages::{Asked, action, facts, orders, tasks::still_as_many},
};

/// Most groups of one page, and letters that are named in each.
const MOST_GROUPS: usize = 200;
const MOST_NAMED: usize = 20;
/// Longest reason of one letter, in characters.
const LONGEST: usize = 160;

/// Returns the page, its action, and the facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = Operation::get("/api/v1/dead", "Dead letters, with their messages")
        .query("queue", "letters of this queue")
        .query("task", "letters of the task of this name")
        .query("error", "letters with this text in their reason")
        .answers("[DeadLetter]")
        .asks();
    let meant = |operation: Operation| {
        operation
            .field(Field::texts("ids", "id", "ids of tasks, or keys of letters that cannot be read"))
            .field(Field::text("task", "in place of ids, with error: all letters of the task of this name"))
            .field(Field::text("error", "the first line of their reason, with … for each number"))
            .field(Field::text("queue", "of them, letters of this queue; without it, of all queues"))
            .field(Field::text("text", "of them, letters with this text in their reason"))
            .refuses(&[404])
    };
    let acts = [
        meant(Operation::act("/api/v1/dead/retry", "Puts dead letters back into their queues")),
        meant(Operation::act("/api/v1/dead/purge", "Throws dead letters away")),
    ];
    Routes::new()
        .route("/dead", asking_page(frame, deployment, list_page))
        .route("/dead/act", action(frame, deployment, do_it))
        .api(all, facts(frame, deployment, found))
        .merge(orders(frame, deployment, acts, do_it))
}

/// Dead letters of one task with one error.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct DeadGroup {
    task: String,
    error: String,
    queues: Vec<String>,
    count: usize,
    first: String,
    last: String,
    /// Name of it on the page, the same as long as it is there.
    key: String,
    letters: Vec<NamedLetter>,
}

/// A dead letter, as its group names it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct NamedLetter {
    id: String,
    at: String,
    queue: String,
    reason: String,
}

/// Returns what errors of one kind have in common: the reason without its numbers and quoted parts.
pub(super) fn signature(reason: &str) -> String {
    let line: Vec<char> = reason.lines().next().unwrap_or_default().chars().take(160).collect();
    let (mut shown, mut at) = (String::new(), 0);
    while let Some(letter) = line.get(at).copied() {
        // An apostrophe within a word opens nothing.
        let opens = matches!(letter, '\'' | '"') && !at.checked_sub(1).is_some_and(|before| line[before].is_alphanumeric());
        let closes = line[at + 1..].iter().position(|other| *other == letter).filter(|_| opens);
        let part = match closes {
            Some(length) => length + 2,
            None => line[at..].iter().take_while(|letter| letter.is_ascii_digit()).count(),
        };
        match (part, closes) {
            (0, _) => shown.push(letter),
            (_, Some(_)) => shown.extend([letter, '…', letter]),
            (_, None) => shown.push('…'),
        }
        at += part.max(1);
    }
    shown
}

fn named(letter: &DeadInfo) -> NamedLetter {
    let (at, queue) = (time_text(letter.letter.at), letter.letter.queue.clone());
    let reason = letter.letter.reason.lines().next().unwrap_or_default();
    NamedLetter { id: letter.id().to_owned(), at, queue, reason: longshore_ops::cut(reason, LONGEST) }
}

/// Puts letters together, the group with the latest letter first.
fn groups(letters: &[DeadInfo]) -> Vec<DeadGroup> {
    let mut found: BTreeMap<(String, String), (Vec<&DeadInfo>, SystemTime, SystemTime)> = BTreeMap::new();
    for letter in letters {
        let at = letter.letter.at;
        let key = (letter.message.task.clone(), signature(&letter.letter.reason));
        let (members, first, last) = found.entry(key).or_insert((Vec::new(), at, at));
        members.push(letter);
        (*first, *last) = ((*first).min(at), (*last).max(at));
    }
    let mut sorted: Vec<_> = found.into_iter().collect();
    sorted.sort_by_key(|(_, (_, _, last))| std::cmp::Reverse(*last));
    let group = |((task, error), (members, first, last)): ((String, String), (Vec<&DeadInfo>, SystemTime, SystemTime))| {
        let mut queues: Vec<String> = members.iter().map(|letter| letter.letter.queue.clone()).collect();
        queues.sort();
        queues.dedup();
        DeadGroup {
            count: members.len(),
            key: format!("{:016x}", xxh3_64(format!("{task}\n{error}").as_bytes())),
            letters: members.iter().take(MOST_NAMED).map(|letter| named(letter)).collect(),
            first: time_text(first),
            last: time_text(last),
            task,
            error,
            queues,
        }
    };
    sorted.into_iter().map(group).collect()
}

async fn found(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Vec<DeadInfo>, WebError> {
    let mut wanted = DeadRequest::default();
    let text = |name: &str| request.query(name).map(str::to_owned);
    (wanted.queue, wanted.task, wanted.error) = (text("queue"), text("task"), text("error"));
    Ok(dead::list(&deployment.client, &wanted).await?)
}

async fn list_page(deployment: Arc<Deployment>, request: Arc<PageRequest>) -> Result<Page, WebError> {
    let (letters, trouble) = match found(deployment.clone(), request.clone()).await {
        Ok(letters) => (letters, None),
        Err(error) => (Vec::new(), Some(error.message)),
    };
    let dropped: Vec<DroppedLetters> = dead::dropped(&deployment.client, &letters).await.unwrap_or_default();
    let mut groups = groups(&letters);
    let more = groups.len().saturating_sub(MOST_GROUPS);
    groups.truncate(MOST_GROUPS);
    Ok(Page::new(
        "dead.html",
        "Dead letters",
        context! {
            groups => Serde(groups), more, count => letters.len(), dropped => Serde(dropped), trouble,
            queue => request.query("queue"), text => request.query("error"),
        },
    ))
}

/// Returns the letters that a form means: those that are named, or a group, as far as its page
/// showed it.
async fn meant(deployment: &Deployment, asked: &Asked) -> Result<Vec<DeadInfo>, WebError> {
    let mut wanted = DeadRequest::default();
    wanted.ids = asked.form.all("id").map(str::to_owned).collect();
    wanted.queue = asked.form.get("queue").map(str::to_owned);
    wanted.error = asked.form.get("text").map(str::to_owned);
    let is_named = !wanted.ids.is_empty();
    let mut letters = dead::list(&deployment.client, &wanted).await?;
    if !is_named {
        // A letter that cannot be read has no task.
        let (task, error) = (asked.form.get("task").unwrap_or_default(), asked.form.get("error").unwrap_or_default());
        letters.retain(|letter| letter.message.task == task && signature(&letter.letter.reason) == error);
        still_as_many(asked.form.get("count"), letters.len())?;
    }
    Ok(letters)
}

async fn do_it(deployment: Arc<Deployment>, asked: Asked, mut noted: Action) -> (Action, Result<String, WebError>) {
    let words = ["task", "error", "queue", "text"].into_iter().filter_map(|name| Some(format!("{name}:{}", asked.form.get(name)?)));
    noted.to = words.chain(asked.form.all("id").take(20).map(str::to_owned)).collect::<Vec<_>>().join(" ");
    let done = async {
        let letters = meant(&deployment, &asked).await?;
        if letters.is_empty() {
            return Err(WebError::not_found("dead letter of this kind any more"));
        }
        let (done, what) = match asked.what() {
            "retry" => (dead::retry(&deployment.client, &letters).await?, "put back into their queues"),
            "purge" => (dead::purge(&deployment.client, &letters).await?, "thrown away"),
            _ => return Err(asked.unknown()),
        };
        Ok((done.count(), format!("{} {what}", done.count())))
    }
    .await;
    noted.count = done.as_ref().ok().map(|(count, _)| *count);
    (noted, done.map(|(_, said)| said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_one_kind_differ_by_numbers_and_quoted_parts_only() {
        assert_eq!(signature("timeout after 30s (attempt 12)\ntraceback"), signature("timeout after 5s (attempt 1)"));
        assert_ne!(signature("timeout after 30s"), signature("killed after 30s"));
        assert_eq!(signature("KeyError('a')"), signature("KeyError('b c')"));
        assert_ne!(signature("KeyError('a')"), signature("ValueError('a')"));
        assert_eq!(signature("it doesn't know \"x\", and won't"), "it doesn't know \"…\", and won't");
        assert_eq!(signature("an open 'quote"), "an open 'quote");
        assert_eq!(signature(""), "");
    }
}
