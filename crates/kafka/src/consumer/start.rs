//! The start of a consumer: everything that can be wrong is found here, in plain words, before the
//! group is joined.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_brokers::BrokerError;
use longshore_core::{
    Clock, ErrorKind,
    engine::{self, Engine, EngineConfig, Lanes},
    gate::GateConfig,
    watch::Hub,
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode as Code,
};
use tokio::{runtime::Handle as Runtime, sync::oneshot};

use super::{Consumer, ConsumerHandle, DeadLetter, OutcomeSink, RunningConsumer};
use crate::{
    admin::Admin,
    client::{
        ClientHooks,
        commit::{CommitThread, plainly},
        dead_letters::{DeadLetters, Exhausted},
        serve,
        state::{ClientState, Rules},
        transactor::Transactor,
    },
    exactly_once::Output,
    handler::Handler,
    heard::plain,
    intake::IntakeGate,
    metadata::MOST_CHARACTERS,
    record::Record,
    source::Exchange,
};

/// Bytes that a record costs the client beside its own, about.
const OVERHEAD: usize = 512;

/// By topic: its dead-letter topic and how many partitions that has.
type LetterTopics = HashMap<String, (String, i32)>;

/// The transactional id, and what of a result is written.
type ExactlyOnce<R> = (String, fn(R) -> Vec<Output>);

/// Time between two transactions, unless less was asked for: readers of outputs wait for it.
const TRANSACTION: Duration = Duration::from_millis(100);

/// Time within which a broker has to answer.
const ANSWER: Duration = Duration::from_secs(10);

fn refused(message: String) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message }
}

impl Consumer {
    /// Connects, joins the group and begins. Runs on the current tokio runtime, with a thread of
    /// its own for the client.
    ///
    /// # Errors
    /// No broker can be reached, it refuses us, a topic does not exist, or the dead-letter topic
    /// can be neither found nor created.
    pub async fn start<R: Send + 'static>(self, handler: Handler<R>) -> Result<RunningConsumer, BrokerError> {
        self.launch(handler, None).await
    }

    /// Starts with transactions: what the handler returns for a record is written exactly once,
    /// together with the commit that says that the record is done. A reader of those topics has to
    /// read what is committed alone (`isolation.level=read_committed`, which is librdkafka's
    /// default).
    ///
    /// `id` is the transactional id: one for each member, and the same again after a restart, so
    /// that what a dead member left open is ended at once. A transaction is made every 100 ms
    /// unless [`commit_every`](Consumer::commit_every) says less. Dead letters are outputs like any
    /// other.
    ///
    /// What handlers do elsewhere (a request, a file) is done at least once, as ever: no
    /// transaction of Kafka holds it.
    ///
    /// # Errors
    /// As of `start`; and no permission for this transactional id.
    pub async fn start_exactly_once(mut self, id: &str, handler: Handler<Vec<Output>>) -> Result<RunningConsumer, BrokerError> {
        self.commit_every = self.commit_every.min(TRANSACTION);
        self.launch(handler, Some((id.to_owned(), |outputs| outputs))).await
    }

    async fn launch<R: Send + 'static>(self, handler: Handler<R>, exactly: Option<ExactlyOnce<R>>) -> Result<RunningConsumer, BrokerError> {
        let runtime = Runtime::current();
        if self.topics.is_empty() {
            return Err(refused(format!("group `{}` reads no topic; name one", self.group)));
        }
        let consumer = Arc::new(self);
        // Brokers are asked on a thread that may block, and before anything is started that would
        // have to be undone.
        let asking = consumer.clone();
        let look = runtime.spawn_blocking(move || asking.look()).await;
        let (partitions, letters) = look.unwrap_or_else(|_| Err(refused("the look at the topics panicked".into())))?;

        let exchange = Arc::new(Exchange::default());
        let client = consumer.client(partitions, &exchange)?;
        let dead = letters.map(|topics| consumer.dead_letters(topics)).transpose()?;
        let rules = consumer.rules(exactly.is_some());
        let gate = IntakeGate::new(consumer.limits(consumer.max_threads));
        let no_thread = |error: std::io::Error| refused(format!("no thread for Kafka's client: {error}"));
        let take = exactly.as_ref().map(|(_, take)| *take);
        let make = match exactly {
            None => plainly(client.clone()),
            Some((id, _)) => {
                // Opening ends what a dead member left open, and waits for the broker meanwhile.
                let (mut config, client) = (consumer.settings.config(), client.clone());
                consumer.settings.finish(&mut config);
                let opened = runtime.spawn_blocking(move || Transactor::open(&mut config, &id, client)).await;
                opened.unwrap_or_else(|_| Err(refused("the begin of transactions panicked".into())))?.into_make()
            }
        };
        let committer = CommitThread::new(make, exchange.clone()).map_err(no_thread)?;
        let state = ClientState::new(rules, exchange.clone(), client.clone(), gate, dead, MOST_CHARACTERS, committer);
        // In place before the first poll, which may call back with partitions.
        *client.context().own.state() = Some(state);
        let topics: Vec<&str> = consumer.topics.iter().map(String::as_str).collect();
        client.subscribe(&topics).map_err(|error| refused(format!("group `{}`: {error}", consumer.group)))?;

        let (closed, counts) = oneshot::channel();
        let own = exchange.clone();
        std::thread::Builder::new()
            .name("kafka".to_owned())
            .spawn(move || {
                own.served_by(std::thread::current());
                let _ = closed.send(serve(client, &own));
            })
            .map_err(no_thread)?;

        let Handler { lane, make, on_end } = handler;
        let outbox = engine::outbox();
        let clock = Clock::default();
        let threads = consumer.max_threads;
        // All records run in the same way, so there is one lane.
        let mut lanes: Lanes<Record, R> = [None, None, None, None];
        lanes[lane as usize] = Some(make(&outbox, clock, &runtime, threads));
        let mut sizes = [0; 4];
        sizes[lane as usize] = threads;
        // The intake bounds what is in flight, and how much of it has one key.
        let mut gate = GateConfig::new(sizes).parking(usize::MAX).results((2 * threads).max(1_024));
        gate.rate = consumer.rate;
        let mut config = EngineConfig::new(gate, lane);
        config.retry = Arc::new(consumer.retry.clone());
        (config.timeout, config.queue) = (consumer.timeout, threads.max(64));
        // The sink needs a failed record for its dead letter; a clone of one is a pointer.
        config.copy = Some(Record::clone);
        config.keep_payloads = true;
        (config.clock, config.seed) = (clock, fastrand::u64(..));
        let sink = OutcomeSink { exchange: exchange.clone(), failed: Vec::new(), outputs: Vec::new(), on_end, take };
        let running = Engine::start(config, exchange.clone(), lanes, Box::new(sink), outbox, Hub::new(), &runtime);
        let handle = ConsumerHandle {
            lane,
            engine: running.handle(),
            exchange,
            runtime,
            max_threads: Arc::new(AtomicUsize::new(threads)),
            max_in_flight: Arc::new(AtomicUsize::new(consumer.max_in_flight.unwrap_or(0))),
            consumer,
        };
        Ok(RunningConsumer { handle, running, client: counts })
    }

    /// Returns what sends letters to these topics.
    fn dead_letters(&self, topics: LetterTopics) -> Result<DeadLetters, BrokerError> {
        let mut config = self.settings.config();
        // What was read may be written, whatever this side's limit; the topic's own counts. Each
        // alone: a topic that finds one too large refuses its whole batch, and the others would
        // lose their values with it.
        config.set("enable.idempotence", "true").set("message.max.bytes", "1000000000").set("batch.num.messages", "1");
        self.settings.finish(&mut config);
        let dead = DeadLetters::new(&config, self.group.clone(), topics);
        dead.map_err(|error| refused(format!("no producer for dead letters: {error}")))
    }

    /// Returns what the client's thread goes by.
    fn rules(&self, transactional: bool) -> Rules {
        Rules {
            group: self.group.clone(),
            topics: self.topics.clone(),
            order: self.order,
            start: self.start,
            until_end: self.until_end,
            commit_every: self.commit_every,
            pause_interval: self.pause_interval,
            drain: self.drain.min(self.session() / 2),
            exhausted: match self.dead_letter {
                DeadLetter::Suffix(_) | DeadLetter::Topic(_) => Exhausted::Bury,
                DeadLetter::Skip => Exhausted::Skip,
                DeadLetter::Stop => Exhausted::Stop,
            },
            without_permission: self.without_permission,
            transactional,
        }
    }

    /// Asks how many partitions each topic has, and sees to the dead-letter topics, which are
    /// created where they are missing. Finds out on the way whether anybody is there and knows us.
    fn look(&self) -> Result<(usize, Option<LetterTopics>), BrokerError> {
        let admin = Admin::open(&self.settings, ANSWER)?;
        let (mut total, mut graves) = (0, LetterTopics::new());
        for topic in &self.topics {
            let found =
                admin.topic(topic)?.ok_or_else(|| refused(format!("cannot read topic `{topic}`: {}", plain(Code::UnknownTopic))))?;
            total += found.partitions;
            let grave = match &self.dead_letter {
                DeadLetter::Suffix(suffix) => format!("{topic}{suffix}"),
                DeadLetter::Topic(name) => name.clone(),
                DeadLetter::Skip | DeadLetter::Stop => continue,
            };
            let partitions = match admin.topic(&grave)? {
                Some(grave) => grave.partitions,
                None => {
                    let made = admin.create_topic(&grave, found.partitions, None, &[]);
                    // Another member may have been quicker.
                    match (made, admin.topic(&grave)) {
                        (_, Ok(Some(grave))) => grave.partitions,
                        (Err(error), _) => {
                            let advice =
                                "records that fail for good need another dead-letter topic, or are to be skipped, or to stop the consumer";
                            return Err(BrokerError { message: format!("{}; {advice}", error.message), ..error });
                        }
                        (Ok(()), _) => found.partitions,
                    }
                }
            };
            graves.insert(topic.clone(), (grave, i32::try_from(partitions).unwrap_or(i32::MAX)));
        }
        Ok((total, Some(graves).filter(|graves| !graves.is_empty())))
    }

    fn config(&self, partitions: usize) -> ClientConfig {
        let mut config = self.settings.config();
        let partitions = partitions.max(1);
        // What follows is for each partition, since they have queues of their own. Small records
        // cost the client more than their bytes.
        let ahead = (4 * self.in_flight(self.max_threads)).max(1_000).min(self.buffers / 2 / OVERHEAD / partitions).clamp(100, 100_000);
        let kilobytes = (self.buffers / 2 / 1024 / partitions).clamp(64, 1 << 20);
        let fetch = (kilobytes * 1024 / 4).clamp(16 << 10, 1 << 20);
        config
            .set("group.id", &self.group)
            // What others see of a member: they are to be told apart.
            .set("client.id", client_id())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // Where a group starts that has committed nothing is told it; this is for offsets that
            // are no more.
            .set("auto.offset.reset", "earliest")
            .set("statistics.interval.ms", "1000")
            .set("queued.min.messages", ahead.to_string())
            .set("queued.max.messages.kbytes", kilobytes.to_string())
            .set("fetch.message.max.bytes", fetch.to_string())
            // A full queue otherwise makes the fetcher sleep for a second.
            .set("fetch.queue.backoff.ms", "5")
            // A broker is asked one thing at a time. A request that only asks for partitions with
            // nothing new, since the queues of the others were full just then, keeps those waiting
            // for so long: half a second where it is left alone.
            .set("fetch.wait.max.ms", "50");
        if !self.settings.has("group.protocol") {
            config.set("partition.assignment.strategy", "cooperative-sticky");
        }
        if let Some(member) = &self.member {
            config.set("group.instance.id", member);
        }
        self.settings.finish(&mut config);
        config
    }

    fn client(&self, partitions: usize, exchange: &Arc<Exchange>) -> Result<Arc<BaseConsumer<ClientHooks>>, BrokerError> {
        let hooks = ClientHooks::default();
        let (events, woken) = (hooks.own.events.clone(), exchange.clone());
        let mut client: BaseConsumer<ClientHooks> = self
            .config(partitions)
            .create_with_context(hooks)
            .map_err(|error| refused(format!("group `{}`: Kafka's client cannot be made: {error}", self.group)))?;
        client.set_nonempty_callback(move || {
            events.store(true, Ordering::Release);
            woken.wake();
        });
        Ok(Arc::new(client))
    }

    /// Returns the name that brokers and others see of it.
    pub(super) fn client_id(&self) -> String {
        self.config(1).get("client.id").unwrap_or_default().to_owned()
    }

    fn session(&self) -> Duration {
        let told = self.config(1).get("session.timeout.ms").and_then(|told| told.parse().ok());
        Duration::from_millis(told.unwrap_or(45_000))
    }
}

/// Returns the name of this process among clients: `longshore-MACHINE-PID`, of letters that every
/// broker takes.
fn client_id() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '_' };
    let machine: String = machine.trim().chars().take(100).map(plain).collect();
    format!("longshore-{machine}-{}", std::process::id())
}
