//! Results of tasks that were sent.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use longshore_brokers::{Key, Watch};
use longshore_celery::{Exception, GroupResult, ResultTree, State, TaskResult, Value};
use serde::de::DeserializeOwned;

use crate::{
    connections::{Connections, unserved},
    error::{ClientError, RemoteError},
};

/// Longest stored result that is read, unpacked, in bytes.
pub(crate) const LONGEST: usize = 64 << 20;

/// The answer of a task that was sent: its state, and its result of type `R` once it has one. Of a
/// group, the list of its members' results.
///
/// Cheap to clone. Nothing is subscribed to before a result is waited for: what was stored before
/// is found all the same, as long as it is kept.
pub struct Answer<R = Value> {
    connections: Arc<Connections>,
    tree: ResultTree,
    /// Queue to which it was sent (of several, the first), if this client has sent it.
    queue: Option<Arc<str>>,
    result: PhantomData<fn() -> R>,
}

impl<R> Answer<R> {
    pub(crate) fn new(connections: Arc<Connections>, tree: ResultTree) -> Self {
        Self { connections, tree, queue: None, result: PhantomData }
    }

    /// Notes the queue to which it was sent.
    pub(crate) fn sent_to(self, queue: Option<Arc<str>>) -> Self {
        Self { queue, ..self }
    }

    /// Returns the task's id, or the group's.
    pub fn id(&self) -> &str {
        &self.tree.id
    }

    /// Sets the type of the result.
    pub fn returns<T>(self) -> Answer<T> {
        Answer::new(self.connections, self.tree).sent_to(self.queue)
    }

    /// Returns the answer of what went before it in a chain; none for anything else.
    pub fn parent(&self) -> Option<Answer<Value>> {
        self.tree.parent.as_ref().map(|parent| Answer::new(self.connections.clone(), (**parent).clone()))
    }

    /// Returns the id with what stands around it: the members of a group, what went before in a
    /// chain.
    pub fn tree(&self) -> &ResultTree {
        &self.tree
    }

    /// Returns what is stored of it now; `None` while nothing is (it waits, or there is no such
    /// task, or its result is kept no longer). Of a group, nothing ever.
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no result.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by asking.
    pub async fn stored(&self) -> Result<Option<TaskResult>, ClientError> {
        let documents = self.connections.connected.results.get(&[Key::Task(self.tree.id.clone())]).await?;
        documents.into_iter().next().flatten().map(|document| read(self.id(), &document)).transpose()
    }

    /// Returns its state now. Of a group: `FAILURE` as soon as a member has failed or was revoked,
    /// `SUCCESS` when all have succeeded, `PENDING` until then.
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no result.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by asking.
    pub async fn state(&self) -> Result<State, ClientError> {
        if self.tree.children.is_none() {
            return Ok(self.stored().await?.map_or(State::Pending, |stored| stored.state));
        }
        let ids = leaves(&self.tree);
        let documents = self.connections.connected.results.get(&keys(&ids)).await?;
        let mut all = true;
        for (id, document) in ids.iter().zip(documents) {
            match document.map(|document| read(id, &document)).transpose()?.map(|stored| stored.state) {
                Some(State::Success) => {}
                Some(State::Failure | State::Revoked) => return Ok(State::Failure),
                _ => all = false,
            }
        }
        Ok(if all { State::Success } else { State::Pending })
    }

    /// Returns what the task has sent while it ran, and what was sent with its result. Empty while
    /// it runs.
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no result.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by asking.
    pub async fn children(&self) -> Result<Vec<Answer<Value>>, ClientError> {
        let Some(stored) = self.stored().await? else { return Ok(Vec::new()) };
        let trees = stored.children.as_list().unwrap_or_default().iter().map(ResultTree::from_value);
        trees
            .map(|tree| match tree {
                Ok(tree) => Ok(Answer::new(self.connections.clone(), tree)),
                Err(error) => Err(unreadable(self.id(), &error)),
            })
            .collect()
    }

    /// Waits until it has ended, well or not.
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no result.
    ///
    /// # Cancel safety
    /// Cancel safe: it may be waited for again.
    pub async fn ended(&self) -> Result<(), ClientError> {
        let mut waiting = AwaitedTasks::begin(&self.connections, &self.tree, false).await?;
        while waiting.next().await?.is_some() {}
        Ok(())
    }

    /// Forgets its result; of a group, those of all members. Whoever waits for one then waits for
    /// ever.
    ///
    /// # Errors
    /// The result backend cannot be reached.
    ///
    /// # Cancel safety
    /// Of a dropped future nobody knows whether the result is forgotten; it may be asked again.
    pub async fn forget(&self) -> Result<(), ClientError> {
        let mut keys = keys(&leaves(&self.tree));
        if self.tree.children.is_some() {
            keys.push(Key::Group(self.tree.id.clone()));
        }
        self.connections.connected.results.forget(&keys).await?;
        Ok(())
    }
}

impl<R: DeserializeOwned> Answer<R> {
    /// Waits for the result.
    ///
    /// A result is waited for, not asked for again and again. There is no limit: a task that nobody
    /// runs is waited for for ever ([`get_within`](Self::get_within) has one). When there is none
    /// after two seconds, and no worker that answers serves the queue that this client has sent it
    /// to, that is [told](crate::App::told), on stderr unless the app says otherwise.
    ///
    /// # Errors
    /// [`ClientError::Remote`] as soon as the task has failed or was revoked, or a member of the
    /// group has, or what went before it in the chain; the result backend cannot be reached; the
    /// result is not an `R`.
    ///
    /// # Cancel safety
    /// Cancel safe: it may be asked for again.
    pub async fn get(&self) -> Result<R, ClientError> {
        tokio::select! {
            biased;
            result = self.wait() => result,
            never = unserved::tell_unserved(&self.connections, self.queue.as_ref(), self.id()) => match never {},
        }
    }

    async fn wait(&self) -> Result<R, ClientError> {
        let mut waiting = AwaitedTasks::begin(&self.connections, &self.tree, true).await?;
        while let Some((id, _)) = waiting.next().await? {
            waiting.fail_on(&id)?;
        }
        waiting.value(&self.tree)?.to().map_err(|error| unreadable(self.id(), &error))
    }

    /// Waits as [`get`](Self::get) does, no longer than `limit`.
    ///
    /// # Errors
    /// As `get`, and [`ClientError::TimedOut`].
    ///
    /// # Cancel safety
    /// As `get`.
    pub async fn get_within(&self, limit: Duration) -> Result<R, ClientError> {
        match tokio::time::timeout(limit, self.get()).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { id: self.tree.id.clone(), waited: limit }),
        }
    }
}

/// Methods of groups. Anything else has no members.
impl<T> Answer<Vec<T>> {
    /// Returns the members of the group, in order.
    pub fn members(&self) -> Vec<Answer<T>> {
        self.tree.children.iter().flatten().map(|tree| Answer::new(self.connections.clone(), tree.clone())).collect()
    }

    /// Stores the ids of which the group is made, so that any client, Celery's too, can
    /// [restore](crate::Client::restore) it by its id.
    ///
    /// # Errors
    /// The result backend cannot be reached.
    ///
    /// # Cancel safety
    /// Of a dropped future nobody knows whether the group is saved; it may be saved again.
    pub async fn save(&self) -> Result<(), ClientError> {
        Ok(self.connections.save(&self.tree.id, GroupResult { tree: self.tree.clone() }.encode()).await?)
    }

    /// Begins to wait for the members' results, which come in any order.
    ///
    /// # Errors
    /// The result backend cannot be reached, or what is stored is no result.
    ///
    /// # Cancel safety
    /// Cancel safe: it may be asked for again.
    pub async fn as_completed(&self) -> Result<AsCompletedAnswers<T>, ClientError> {
        let members: Vec<ResultTree> = self.tree.children.iter().flatten().cloned().collect();
        let waiting = AwaitedTasks::begin(&self.connections, &self.tree, false).await?;
        let open = (0..members.len()).collect();
        Ok(AsCompletedAnswers { members, open, waiting, result: PhantomData })
    }
}

/// The results of a group's members, in the order in which they come.
pub struct AsCompletedAnswers<T> {
    members: Vec<ResultTree>,
    /// Places of the members that have not come.
    open: Vec<usize>,
    waiting: AwaitedTasks,
    result: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> AsCompletedAnswers<T> {
    /// The next result with its place in the group, or how its member failed; `None` when all have
    /// come.
    ///
    /// # Errors
    /// The result backend cannot be reached (any more), or what is stored is no result.
    ///
    /// # Cancel safety
    /// Cancel safe: no result is skipped.
    pub async fn next(&mut self) -> Result<Option<(usize, Result<T, ClientError>)>, ClientError> {
        loop {
            let waiting = &self.waiting;
            let members = &self.members;
            if let Some(found) = self.open.iter().position(|&place| waiting.is_over(&members[place])) {
                let place = self.open.remove(found);
                let member = &self.members[place];
                let result = self.waiting.value(member).and_then(|value| value.to().map_err(|error| unreadable(&member.id, &error)));
                return Ok(Some((place, result)));
            }
            if self.open.is_empty() || self.waiting.next().await?.is_none() {
                return Ok(None);
            }
        }
    }
}

/// Tasks whose ends are waited for.
struct AwaitedTasks {
    watch: Watch,
    /// Ids of those that have not ended.
    open: HashSet<String>,
    ended: HashMap<String, TaskResult>,
    /// Ids of those that had ended before, to be told one by one.
    early: Vec<String>,
    /// Ids that went before them in a chain: only its failure matters.
    before: BTreeSet<String>,
}

impl AwaitedTasks {
    async fn begin(connections: &Connections, tree: &ResultTree, with_parents: bool) -> Result<Self, ClientError> {
        let open = leaves(tree);
        let mut before = BTreeSet::new();
        if with_parents {
            parents(tree, &mut before);
        }
        let ids: Vec<String> = open.iter().cloned().chain(before.iter().cloned()).collect();
        let mut watch = connections.connected.results.watch(&ids).await?;
        let documents = std::mem::take(&mut watch.stored);
        let mut this = Self { watch, open: open.into_iter().collect(), ended: HashMap::new(), early: Vec::new(), before };
        for (id, document) in ids.into_iter().zip(documents) {
            if let Some(document) = document
                && this.take(&id, &document)?
            {
                this.early.push(id);
            }
        }
        Ok(this)
    }

    /// Waits for the next one to end; `None` when all have that are waited for. Cancel safe.
    async fn next(&mut self) -> Result<Option<(String, &TaskResult)>, ClientError> {
        let id = loop {
            if let Some(id) = self.early.pop() {
                break id;
            }
            if self.open.is_empty() {
                return Ok(None);
            }
            let Some((id, document)) = self.watch.results.recv().await else {
                let message = "the connection on which results were awaited has ended; ask again".to_owned();
                return Err(longshore_brokers::BrokerError { kind: longshore_core::ErrorKind::Transient, message }.into());
            };
            if self.take(&id, &document)? {
                break id;
            }
        };
        Ok(self.ended.get(&id).map(|result| (id, result)))
    }

    /// Notes a document. Returns whether it is one that is waited for, and the first one that is
    /// final.
    fn take(&mut self, id: &str, document: &[u8]) -> Result<bool, ClientError> {
        if !self.open.contains(id) && !self.before.contains(id) {
            return Ok(false);
        }
        let result = read(id, document)?;
        if !result.state.is_ready() {
            return Ok(false);
        }
        let news = self.open.remove(id) | self.before.remove(id);
        self.ended.insert(id.to_owned(), result);
        Ok(news)
    }

    /// Returns whether all of it has ended.
    fn is_over(&self, tree: &ResultTree) -> bool {
        leaves(tree).iter().all(|id| self.ended.contains_key(id))
    }

    fn fail_on(&self, id: &str) -> Result<(), ClientError> {
        self.ended.get(id).map_or(Ok(()), |result| failure(id, result))
    }

    /// Returns the result of a task, or the list of a group's.
    fn value(&self, tree: &ResultTree) -> Result<Value, ClientError> {
        match &tree.children {
            Some(children) => children.iter().map(|child| self.value(child)).collect::<Result<_, _>>().map(Value::List),
            None => {
                self.fail_on(&tree.id)?;
                Ok(self.ended.get(&tree.id).map(|result| result.result.clone()).unwrap_or_default())
            }
        }
    }
}

/// Returns its failure as an error, if it failed.
fn failure(id: &str, result: &TaskResult) -> Result<(), ClientError> {
    if !matches!(result.state, State::Failure | State::Revoked) {
        return Ok(());
    }
    let exception = result.exception().unwrap_or_else(|| Exception::builtin("Exception", result.result.clone()));
    let (id, state, traceback) = (id.to_owned(), result.state.clone(), result.traceback.clone());
    Err(ClientError::Remote(Box::new(RemoteError { id, state, exception, traceback })))
}

/// The tasks whose results make up this one's.
fn leaves(tree: &ResultTree) -> Vec<String> {
    match &tree.children {
        Some(children) => children.iter().flat_map(leaves).collect(),
        None => vec![tree.id.clone()],
    }
}

/// The tasks that went before it, and before its members.
fn parents(tree: &ResultTree, into: &mut BTreeSet<String>) {
    if let Some(parent) = &tree.parent {
        into.extend(leaves(parent));
        parents(parent, into);
    }
    for child in tree.children.iter().flatten() {
        parents(child, into);
    }
}

fn keys(ids: &[String]) -> Vec<Key> {
    ids.iter().cloned().map(Key::Task).collect()
}

fn read(id: &str, document: &[u8]) -> Result<TaskResult, ClientError> {
    TaskResult::decode(document, LONGEST).map_err(|error| unreadable(id, &error))
}

fn unreadable(id: &str, reason: &impl fmt::Display) -> ClientError {
    ClientError::Unreadable { id: id.to_owned(), reason: reason.to_string() }
}

impl<R> Clone for Answer<R> {
    fn clone(&self) -> Self {
        Self::new(self.connections.clone(), self.tree.clone()).sent_to(self.queue.clone())
    }
}

impl<R> fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.tree).finish()
    }
}
