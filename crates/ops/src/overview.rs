//! Workers and queues at one glance, again and again: what `longshore top` shows, and a page may.
//!
//! A round of questions is one request to all workers (`stats`), the lengths of the queues, and
//! now and then which queues are served; of workers that do not say how many tasks of each queue
//! they run, Celery's, the tasks are asked for (`active`). There is at most one round a second,
//! however often it is looked. Heartbeats are listened to: they say the machine's load, and who is
//! there and does not reply.
//!
//! A reader that [spares](OverviewReader::sparing) the broker asks our workers nothing after the
//! first round, since their heartbeats say the same, and Celery's every ten seconds; it looks at
//! queues as often as some commands a second allow.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use longshore_brokers::{BrokerError, QueueState, Subscription, mask};
use longshore_celery::{
    Value,
    control::Request,
    events::{self, EventKind},
};
use longshore_core::ErrorKind;
use longshore_worker::{Client, remote::ask};
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    error::OpsError,
    message::cut,
    queues::{
        QueueInfo,
        flow::{Flow, IndexedSample, RunningTasks, Sample, ask_some, ended, flow, mute, running},
    },
    reason::LaneUse,
    wire,
    workers::{WorkerInfo, info, lanes_of, names_of},
};

/// Time between the beginnings of two rounds, at the least.
const EVERY: Duration = Duration::from_secs(1);
/// Time for replies. Whoever takes longer is there, and busy.
const REPLIES: Duration = Duration::from_millis(800);
/// Longest time that a round takes; then the broker is away. Brokers give up a little earlier, and
/// say why.
const PATIENCE: Duration = Duration::from_secs(6);
/// Time over which traffic is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// Rounds from one question which queues are served to the next.
const SERVED_EVERY: u64 = 10;
/// Time from one question to workers that say nothing in their heartbeats to the next, for a reader
/// that spares the broker; so much more for each of them.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_EACH: Duration = Duration::from_millis(500);
/// The same for which queues there are, beside those that are served; and so many times as long as
/// the answer took.
const NAMES_EVERY: Duration = Duration::from_secs(20);
const NAMES_TIMES: u32 = 100;
/// Time from one look at queues to the next, as so many times that which the answer took.
const STATES_TIMES: u32 = 50;
/// Time for which what a heartbeat said counts as now.
const SAID_WITHIN: Duration = Duration::from_secs(6);
/// Time over which traffic is measured where it is heard of every two seconds.
const LONG_WINDOW: Duration = Duration::from_secs(12);
/// Time after which a worker is forgotten that neither replies nor beats.
const GONE: Duration = Duration::from_secs(60);
/// Most workers that are known; further ones are left out until others are forgotten.
const MOST_WORKERS: usize = 10_000;
/// Longest name of a program with its version, in characters.
const LONGEST_VERSION: usize = 60;
/// Longest event that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// All workers and queues of a broker, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Overview {
    /// URL of the broker, without its password.
    pub broker: String,
    /// Time over which traffic was measured, in seconds when serialised; zero: not yet.
    #[serde(rename = "window_seconds", serialize_with = "wire::seconds")]
    pub window: Duration,
    /// The workers, in the order of their names.
    pub workers: Vec<WorkerGlance>,
    /// The queues, in the order of their names.
    pub queues: Vec<QueueInfo>,
}

/// One worker at a glance. Whatever nobody can say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerGlance {
    /// Its node name.
    #[serde(rename = "worker")]
    pub node: String,
    /// Number of tasks that it can run at once, on all lanes together.
    pub slots: Option<u64>,
    /// Tasks that it runs now.
    pub running: Option<u64>,
    /// Tasks that came to their end there (that began, at Celery's workers), a second.
    pub done_per_second: Option<f64>,
    /// Load of its machine over the last minute.
    pub load: Option<f64>,
    /// Time since it started, in seconds when serialised.
    #[serde(rename = "uptime_seconds", serialize_with = "wire::some_seconds")]
    pub uptime: Option<Duration>,
    /// Its program with its version, as its heartbeats name them: `longshore 0.1.0`, `py-celery
    /// 5.6.0`.
    pub version: Option<String>,
    /// Queues that it serves.
    pub queues: Vec<String>,
    /// Its lanes with what runs on each; empty (and not serialised) for one of Celery's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<LaneUse>,
    /// What it holds, and uses of its machine.
    #[serde(flatten)]
    pub used: WorkerUse,
    /// Time since it was last heard, where it has not replied; in seconds when serialised.
    #[serde(rename = "silent_seconds", serialize_with = "wire::some_seconds")]
    pub silent: Option<Duration>,
}

/// Messages that a worker holds, and its use of its machine. Ours say it in their heartbeats;
/// Celery's tell some of it in their replies to `stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerUse {
    /// Its process.
    pub pid: Option<i64>,
    /// Messages that it has claimed and not finished, those that wait for their time not counted.
    pub claimed: Option<u64>,
    /// Messages that it holds until their time.
    pub held: Option<u64>,
    /// Most messages that it claims at once, where that is set.
    pub prefetch: Option<u64>,
    /// Bytes of memory that its process has; of one of Celery's, those of its parent process at
    /// most.
    pub memory_bytes: Option<u64>,
    /// Processors that it kept busy since the heartbeat before: 1.0 is one, all of the time.
    pub processors: Option<f64>,
    /// Times that a task held up its async lane.
    pub stalls: Option<u64>,
}

impl WorkerUse {
    /// Reads a heartbeat's account, and where that says nothing a reply to `stats`.
    fn of(account: Option<&Value>, stats: Option<&Value>, pid: Option<i64>) -> Self {
        let whole = |value: Option<&Value>| value.and_then(Value::as_i64).and_then(|number| u64::try_from(number).ok());
        let of = |name: &str| account.and_then(|account| account.get(name)).or_else(|| stats?.get(name));
        // The system tells it in units of 1024 bytes.
        let peak = || whole(stats?.get("rusage")?.get("maxrss")).map(|units| units.saturating_mul(1024));
        Self {
            pid: of("pid").and_then(Value::as_i64).or(pid),
            claimed: whole(of("claimed")),
            held: whole(of("held")),
            // Celery's word for none is 0.
            prefetch: whole(of("prefetch_count")).filter(|most| *most > 0 && *most < 1 << 60),
            memory_bytes: whole(of("rss")).or_else(peak),
            processors: of("cpu").and_then(Value::as_f64).filter(|share| share.is_finite()),
            stalls: whole(of("stalls")),
        }
    }
}

/// Looks at all workers and queues of a broker, round after round.
pub struct OverviewReader {
    client: Client,
    /// Heartbeats, once they are listened to.
    beats: Option<Subscription>,
    heard: BTreeMap<String, Heard>,
    served: BTreeMap<String, Vec<String>>,
    looks: VecDeque<Look>,
    rounds: u64,
    next: Option<Instant>,
    spare: Option<Spare>,
}

/// Memory of a reader that spares the broker.
#[derive(Default)]
struct Spare {
    /// Most commands a second for looks at queues.
    commands: f64,
    /// Replies of workers that do not say it in their heartbeats, and when they are asked
    /// again.
    replies: Vec<(String, Value)>,
    active: Vec<(String, Value)>,
    ask_at: Option<Instant>,
    /// Queues that were found, beside those that are served, and when they are looked for again.
    names: BTreeSet<String>,
    names_at: Option<Instant>,
    /// States that were seen of queues, and when they are looked at again.
    states: Vec<QueueState>,
    states_at: Option<Instant>,
}

/// Facts about a worker, from whatever came of it.
#[derive(Clone, Debug)]
struct Heard {
    at: Instant,
    running: Option<u64>,
    load: Option<f64>,
    version: Option<String>,
    pid: Option<i64>,
    /// Account of its heartbeats, in the words of its reply to `stats`.
    account: Option<(Value, Instant)>,
}

impl Heard {
    fn at(at: Instant) -> Self {
        Self { at, running: None, load: None, version: None, pid: None, account: None }
    }
}

/// The counts of one round.
#[derive(Debug)]
struct Look {
    sample: Sample,
    /// Tasks that each worker has ended, or begun (Celery's).
    done: BTreeMap<String, u64>,
}

/// Replies of workers in one round.
struct Told {
    stats: Vec<(String, Value)>,
    running: RunningTasks,
}

impl Heard {
    /// Returns what its heartbeats say, if the last one was just now.
    fn said(&self, now: Instant) -> Option<Value> {
        self.account.as_ref().filter(|(_, at)| now - *at < SAID_WITHIN).map(|(account, _)| account.clone())
    }
}

impl Spare {
    /// Notes the states of queues, which were asked for then, and when it is time for the next
    /// look: a broker that counts for long is asked more seldom.
    fn saw(&mut self, client: &Client, states: Vec<QueueState>, asked: Instant) {
        let cost = client.broker().look_cost(states.len()) as f64;
        let least = Duration::from_secs_f64((cost / self.commands).clamp(0.0, 60.0)).max(EVERY);
        self.states_at = Some(asked + least.max(asked.elapsed() * STATES_TIMES));
        self.states = states;
    }
}

/// Waits for what a broker has to say; one that says nothing in time is away.
async fn in_time<T>(url: &str, said: impl Future<Output = Result<T, OpsError>>) -> Result<T, OpsError> {
    timeout(PATIENCE, said).await.unwrap_or_else(|_| {
        let message = format!("{url}: no answer within {PATIENCE:?}");
        Err(BrokerError { kind: ErrorKind::Transient, message }.into())
    })
}

/// Returns the queues that a worker's account says it serves.
fn serves(account: &Value) -> Option<Vec<String>> {
    let names = account.get("serves")?.as_list()?;
    Some(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

impl OverviewReader {
    /// Reads over this client. Nothing is asked before the first look.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            beats: None,
            heard: BTreeMap::new(),
            served: BTreeMap::new(),
            looks: VecDeque::new(),
            rounds: 0,
            next: None,
            spare: None,
        }
    }

    /// Spares the broker: after the first round it is sent about this many commands a second for
    /// looks at queues, and workers that tell of themselves in their heartbeats are asked nothing.
    /// Figures are then as old as a heartbeat, and of many queues some seconds older.
    #[must_use]
    pub fn sparing(self, commands_per_second: f64) -> Self {
        let spare = Spare { commands: commands_per_second.max(0.1), ..Spare::default() };
        Self { spare: Some(spare), ..self }
    }

    /// Looks at the queues alone, for whoever wants to see something before workers have replied:
    /// nobody knows then what runs and who serves. `None`: the broker names no queue.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed.
    pub async fn look_at_queues(&self) -> Result<Option<Overview>, OpsError> {
        let broker = self.client.broker();
        let states = in_time(&mask(broker.url()), async { Ok(broker.queues(&[]).await?) }).await?;
        let mut queues: Vec<QueueInfo> = states.into_iter().map(|state| QueueInfo::of(state, Flow::default(), Duration::ZERO)).collect();
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        let overview = Overview { broker: mask(broker.url()), queues, ..Overview::default() };
        Ok(Some(overview).filter(|overview| !overview.queues.is_empty()))
    }

    /// Looks at everything. The first look knows no traffic; another one waits until a second has
    /// passed since the one before.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses. The next look tries again.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by asking.
    pub async fn look(&mut self) -> Result<Overview, OpsError> {
        if let Some(next) = self.next {
            sleep_until(next).await;
        }
        self.next = Some(Instant::now() + EVERY);
        let url = mask(self.client.broker().url());
        in_time(&url, self.round()).await
    }

    /// Lets the next look ask anew, at once: something was changed since the last one.
    pub fn renew(&mut self) {
        self.next = None;
        if let Some(spare) = &mut self.spare {
            (spare.states_at, spare.names_at) = (None, None);
        }
    }

    /// Takes what heartbeats have said meanwhile, and asks nothing: for whoever looks only while
    /// somebody watches, and wants to know then who was there.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn keep_up(&mut self) -> Result<(), OpsError> {
        self.hear().await?;
        self.note(&Told { stats: Vec::new(), running: RunningTasks::new() }, Instant::now());
        Ok(())
    }

    async fn round(&mut self) -> Result<Overview, OpsError> {
        self.hear().await?;
        if self.rounds > 0 && self.spare.is_some() {
            return self.spared_round().await;
        }
        let client = self.client.clone();
        let at = std::time::Instant::now();
        let (states, stats) = tokio::join!(client.broker().queues(&[]), async {
            if client.connected().bus().is_ok() { ask(client.connected(), Request::new("stats"), REPLIES).await } else { Ok(Vec::new()) }
        });
        let (states, stats) = (states?, stats?);
        let is_new = |node: &String| self.rounds.is_multiple_of(SERVED_EVERY) || !self.served.contains_key(node);
        let asked = stats.iter().map(|(node, _)| node.clone()).filter(is_new).collect();
        let (served, active) =
            tokio::join!(ask_some(&client, "active_queues", asked, REPLIES), ask_some(&client, "active", mute(&stats), REPLIES));
        self.rounds += 1;
        self.served.extend(served?.iter().map(|(node, queues)| (node.clone(), names_of(queues))));
        let states = if states.is_empty() {
            // A broker that cannot list its queues (RabbitMQ) knows of those that workers serve.
            let served: BTreeSet<&String> = self.served.values().flatten().collect();
            let served: Vec<Arc<str>> = served.into_iter().map(|name| Arc::from(name.as_str())).collect();
            if served.is_empty() { states } else { client.broker().queues(&served).await? }
        } else {
            states
        };
        let (active, now) = (active?, Instant::now());
        if let Some(spare) = &mut self.spare {
            (spare.replies, spare.active, spare.ask_at) = (stats.clone(), active.clone(), Some(now + ASK_EVERY));
            (spare.names, spare.names_at) = (states.iter().map(|state| state.name.clone()).collect(), Some(now + NAMES_EVERY));
            spare.saw(&client, states.clone(), now);
        }
        let told = Told { running: running(&stats, &active), stats };
        self.note(&told, now);
        let sample = Sample { at, states, ended: ended(&told.stats) };
        Ok(self.overview(sample, &told))
    }

    /// Puts together what heartbeats say, and asks for what they do not, now and then.
    async fn spared_round(&mut self) -> Result<Overview, OpsError> {
        let Some(mut spare) = self.spare.take() else { return Ok(Overview::default()) };
        let looked = self.ask_sparingly(&mut spare).await;
        let now = Instant::now();
        let said: Vec<(String, Value)> = self.heard.iter().filter_map(|(node, heard)| Some((node.clone(), heard.said(now)?))).collect();
        let served = said.iter().filter_map(|(node, account)| Some((node.clone(), serves(account)?)));
        self.served.extend(served);
        let mut stats = said;
        // A reply counts until the next one is due, of whoever is still heard.
        let is_there = |heard: &Heard| heard.account.is_none() && now - heard.at < ASK_EVERY + SAID_WITHIN;
        let rest = spare.replies.iter().filter(|(node, _)| self.heard.get(node).is_some_and(is_there));
        stats.extend(rest.cloned());
        let active: Vec<(String, Value)> = spare.active.iter().filter(|(node, _)| self.heard.contains_key(node)).cloned().collect();
        let told = Told { running: running(&stats, &active), stats };
        self.rounds += 1;
        self.note(&Told { running: RunningTasks::new(), stats: Vec::new() }, now);
        let sample = Sample { at: std::time::Instant::now(), states: spare.states.clone(), ended: ended(&told.stats) };
        self.spare = Some(spare);
        looked?;
        Ok(self.overview(sample, &told))
    }

    /// Asks the broker and the workers what it is time for.
    async fn ask_sparingly(&mut self, spare: &mut Spare) -> Result<(), OpsError> {
        let (client, now) = (self.client.clone(), Instant::now());
        let is_due = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        let mute: Vec<String> = self.heard.iter().filter(|(_, heard)| heard.account.is_none()).map(|(node, _)| node.clone()).collect();
        // One that has just come is asked at once.
        let has_new = mute.iter().any(|node| !spare.replies.iter().any(|(known, _)| known == node));
        if !mute.is_empty() && (is_due(spare.ask_at) || has_new && is_due(spare.ask_at.map(|at| at - ASK_EVERY + EVERY))) {
            spare.ask_at = Some(now + ASK_EVERY + ASK_EACH * u32::try_from(mute.len()).unwrap_or(u32::MAX));
            let ask = |command, within| ask_some(&client, command, mute.clone(), within);
            let (stats, served, active) = tokio::join!(ask("stats", REPLIES), ask("active_queues", REPLIES), ask("active", REPLIES));
            (spare.replies, spare.active) = (stats?, active?);
            self.served.extend(served?.iter().map(|(node, queues)| (node.clone(), names_of(queues))));
            for (node, _) in &spare.replies {
                self.heard.entry(node.clone()).or_insert_with(|| Heard::at(now)).at = now;
            }
        }
        let served: BTreeSet<&String> = self.served.values().flatten().collect();
        let seen: BTreeSet<&str> = spare.states.iter().map(|state| state.name.as_str()).collect();
        let is_new = served.iter().any(|name| !seen.contains(name.as_str()));
        if is_due(spare.states_at) || is_new {
            let (mut states, asked) = (Vec::new(), Instant::now());
            if is_due(spare.names_at) {
                spare.names_at = Some(now + NAMES_EVERY);
                states = client.broker().queues(&[]).await?;
                spare.names = states.iter().map(|state| state.name.clone()).collect();
                spare.names_at = Some(asked + NAMES_EVERY.max(asked.elapsed() * NAMES_TIMES));
            }
            // Those that it has just told of are not asked for again.
            let told: BTreeSet<&str> = states.iter().map(|state| state.name.as_str()).collect();
            let names: BTreeSet<&String> = served.into_iter().chain(&spare.names).filter(|name| !told.contains(name.as_str())).collect();
            let names: Vec<Arc<str>> = names.into_iter().map(|name| Arc::from(name.as_str())).collect();
            if !names.is_empty() {
                states.extend(client.broker().queues(&names).await?);
            }
            spare.saw(&client, states, asked);
        }
        Ok(())
    }

    /// Takes the heartbeats that have come.
    async fn hear(&mut self) -> Result<(), OpsError> {
        if self.beats.is_none()
            && let Ok(bus) = self.client.connected().bus()
        {
            self.beats = Some(bus.subscribe(events::EXCHANGE, "worker.#").await?);
        }
        let now = Instant::now();
        while let Some(beats) = &mut self.beats {
            match beats.messages.try_recv() {
                Ok((_, raw)) => {
                    for event in events::decode(&raw, LONGEST).unwrap_or_default() {
                        self.hear_one(event.hostname, event.pid, &event.what, now);
                    }
                }
                Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
                // The connection has ended on which they came; the next round listens again.
                Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => self.beats = None,
            }
        }
        Ok(())
    }

    fn hear_one(&mut self, node: String, pid: Option<i64>, what: &EventKind, now: Instant) {
        match what {
            EventKind::WorkerOffline(_) => {
                self.heard.remove(&node);
                self.served.remove(&node);
            }
            // Names are anybody's who can send an event: what is kept of them is bounded.
            _ if self.heard.len() >= MOST_WORKERS && !self.heard.contains_key(&node) => {}
            EventKind::WorkerHeartbeat(beat) | EventKind::WorkerOnline(beat) => {
                let heard = self.heard.entry(node).or_insert_with(|| Heard::at(now));
                (heard.at, heard.pid) = (now, pid.or(heard.pid));
                if let Some(account) = &beat.account {
                    heard.account = Some((Value::Map(account.clone()), now));
                }
                heard.running = beat.active.and_then(|count| u64::try_from(count).ok()).or(heard.running);
                if !beat.sw_ident.is_empty() {
                    let told = format!("{} {}", beat.sw_ident, beat.sw_ver);
                    heard.version = Some(cut(told.trim_end(), LONGEST_VERSION));
                }
                heard.load = beat.loadavg.map(|loads| loads[0]).or(heard.load);
            }
            _ => {}
        }
    }

    /// Notes who has replied, and forgets who has not been heard for long.
    fn note(&mut self, told: &Told, now: Instant) {
        for (node, _) in &told.stats {
            self.heard.entry(node.clone()).or_insert_with(|| Heard::at(now)).at = now;
        }
        self.heard.retain(|_, heard| now - heard.at < GONE);
        self.served.retain(|node, _| self.heard.contains_key(node));
    }

    /// Puts together what this round and those before have found.
    fn overview(&mut self, sample: Sample, told: &Told) -> Overview {
        let infos: BTreeMap<&str, WorkerInfo> = told
            .stats
            .iter()
            .map(|(node, stats)| (node.as_str(), info(node, stats, self.served.get(node).cloned().unwrap_or_default())))
            .collect();
        let stats_of: BTreeMap<&str, &Value> = told.stats.iter().map(|(node, stats)| (node.as_str(), stats)).collect();
        let done = |info: &WorkerInfo| match &info.ended {
            Some(ended) => ended.values().sum(),
            None => u64::try_from(info.processed).unwrap_or_default(),
        };
        let look = Look { sample, done: infos.iter().map(|(node, info)| ((*node).to_owned(), done(info))).collect() };
        // Who has come or gone makes sums of before and now sums of different things.
        if self.looks.back().is_some_and(|before| !before.done.keys().eq(look.done.keys())) {
            self.looks.clear();
        }
        let longest = if self.spare.is_some() { LONG_WINDOW } else { WINDOW };
        while self.looks.len() > 1 && look.sample.at - self.looks[0].sample.at > longest {
            self.looks.pop_front();
        }
        let before = self.looks.front();
        let window = before.map(|before| look.sample.at - before.sample.at).unwrap_or_default();
        let now = Instant::now();
        let of = |(node, heard): (&String, &Heard)| {
            let base = WorkerGlance { node: node.clone(), load: heard.load, version: heard.version.clone(), ..WorkerGlance::default() };
            let Some(info) = infos.get(node.as_str()) else {
                let queues = self.served.get(node).cloned().unwrap_or_default();
                return WorkerGlance { running: heard.running, queues, silent: Some(now - heard.at), ..base };
            };
            let ended = before.and_then(|before| look.done[node].checked_sub(*before.done.get(node)?));
            // Its heartbeats say more than its reply.
            let account = heard.said(now);
            let lanes = account.as_ref().map(|account| lanes_of(node, account)).filter(|lanes| !lanes.is_empty());
            let by_queue = told.running.get(node).map(|queues| queues.values().sum());
            WorkerGlance {
                slots: u64::try_from(info.slots).ok(),
                running: if info.lanes.is_empty() {
                    by_queue.or(heard.running)
                } else {
                    Some(info.lanes.iter().map(|lane| lane.running).sum())
                },
                done_per_second: ended.map(|ended| ended as f64 / window.as_secs_f64()),
                queues: info.queues.clone(),
                lanes: lanes.unwrap_or_else(|| info.lanes.clone()),
                used: WorkerUse::of(account.as_ref(), stats_of.get(node.as_str()).copied(), heard.pid),
                // Workers of before did not say it.
                uptime: Some(info.uptime).filter(|uptime| !uptime.is_zero()),
                ..base
            }
        };
        let workers = self.heard.iter().map(of).collect();
        // Without a look before there is no traffic, but who serves it and what runs.
        let (was, is) = (before.map(|before| IndexedSample::of(&before.sample)), IndexedSample::of(&look.sample));
        let flow_of = |queue: &str| match &was {
            Some(was) => flow(queue, was, &is, &self.served, &told.running),
            None => Flow { incoming: None, outgoing: None, ..flow(queue, &is, &is, &self.served, &told.running) },
        };
        let states = look.sample.states.iter().cloned();
        let mut queues: Vec<QueueInfo> =
            states.map(|state| (flow_of(&state.name), state)).map(|(flow, state)| QueueInfo::of(state, flow, window)).collect();
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        let broker = mask(self.client.broker().url());
        self.looks.push_back(look);
        Overview { broker, window, workers, queues }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_uses_is_read_as_far_as_it_says_so() {
        let value = |json: &str| Value::parse(json.as_bytes(), 16).unwrap();
        assert_eq!(WorkerUse::of(None, None, None), WorkerUse::default());
        let account = value(r#"{"claimed": 5, "held": 2, "prefetch_count": 8, "rss": 2097152, "cpu": 0.25, "stalls": 3}"#);
        let stats = value(r#"{"pid": 7, "prefetch_count": 16, "held": 9, "rusage": {"maxrss": 1024, "utime": 3.0}}"#);
        let ours = WorkerUse::of(Some(&account), Some(&stats), Some(7));
        let want = WorkerUse {
            pid: Some(7),
            claimed: Some(5),
            held: Some(2),
            prefetch: Some(8),
            memory_bytes: Some(2 << 20),
            processors: Some(0.25),
            stalls: Some(3),
        };
        assert_eq!(ours, want);
        let celerys = WorkerUse::of(None, Some(&stats), None);
        let want = WorkerUse { pid: Some(7), held: Some(9), prefetch: Some(16), memory_bytes: Some(1 << 20), ..WorkerUse::default() };
        assert_eq!(celerys, want);
        // What makes no sense is unknown.
        let odd = value(r#"{"claimed": -1, "rss": "much", "cpu": "inf", "prefetch_count": 0, "rusage": "?"}"#);
        assert_eq!(WorkerUse::of(Some(&odd), None, None), WorkerUse::default());
    }
}
