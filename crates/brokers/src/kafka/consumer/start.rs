//! The start of a consumer: everything that can be wrong is found here, in plain words, before the group is joined.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_core::{
    Clock, ErrorKind,
    engine::{self, Engine, EngineConfig, Lanes},
    gate::GateConfig,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode as Code,
};
use tokio::{runtime::Handle as Runtime, sync::oneshot};

use super::{Consumer, ConsumerHandle, DeadLetter, Outcomes, RunningConsumer};
use crate::{
    broker::BrokerError,
    kafka::{
        client::{Desk, Hooks, Rules, serve},
        dead::{Dead, Exhausted},
        handler::Handler,
        heard::{Heard, plain},
        intake::Gate,
        metadata::MOST_CHARACTERS,
        record::Record,
        source::Exchange,
    },
};

/// A broker has to answer within this time.
const ANSWER: Duration = Duration::from_secs(10);

fn refused(message: String) -> BrokerError {
    BrokerError { kind: ErrorKind::Refused, message }
}

impl Consumer {
    /// Connects, joins the group and begins. Runs on the current tokio runtime, with a thread of its own for the client.
    ///
    /// # Errors
    /// No broker can be reached, it refuses us, a topic does not exist, or the dead-letter topic can be neither found nor created.
    pub async fn start<R: Send + 'static>(self, handler: Handler<R>) -> Result<RunningConsumer, BrokerError> {
        let runtime = Runtime::current();
        if self.topics.is_empty() {
            return Err(refused(format!("group `{}` reads no topic; name one", self.group)));
        }
        let consumer = Arc::new(self);
        let asking = consumer.clone();
        let partitions = runtime
            .spawn_blocking(move || asking.look())
            .await
            .unwrap_or_else(|_| Err(refused("the look at the topics panicked".into())))?;
        let graves = consumer.graves(&partitions).await?;

        let exchange = Arc::new(Exchange::default());
        let client = consumer.client(partitions.iter().map(|(_, count)| count).sum(), &exchange)?;
        let dead = match graves {
            None => None,
            Some(topics) => {
                let mut config = consumer.settings.config();
                // What was read may be written, whatever this side's limit; the topic's own counts.
                config.set("enable.idempotence", "true").set("message.max.bytes", "1000000000").set("linger.ms", "5");
                let dead = Dead::new(&config, consumer.group.clone(), topics);
                Some(dead.map_err(|error| refused(format!("no producer for dead letters: {error}")))?)
            }
        };
        let rules = Rules {
            group: consumer.group.clone(),
            order: consumer.order,
            start: consumer.start,
            until_end: consumer.until_end,
            commit_every: consumer.commit_every,
            pause_interval: consumer.pause_interval,
            drain: consumer.drain.min(consumer.session() / 2),
            exhausted: match consumer.dead_letter {
                DeadLetter::Suffix(_) | DeadLetter::Topic(_) => Exhausted::Bury,
                DeadLetter::Skip => Exhausted::Skip,
                DeadLetter::Stop => Exhausted::Stop,
            },
        };
        let gate = Gate::new(consumer.limits(consumer.max_threads));
        let desk = Desk::new(rules, exchange.clone(), client.clone(), gate, dead, MOST_CHARACTERS);
        *client.context().desk() = Some(desk);
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
            .map_err(|error| refused(format!("no thread for Kafka's client: {error}")))?;

        let Handler { lane, make, on_end } = handler;
        let outbox = engine::outbox();
        let clock = Clock::default();
        let threads = consumer.max_threads;
        let mut lanes: Lanes<Record, R> = [None, None, None, None];
        lanes[lane as usize] = Some(make(&outbox, clock, &runtime, threads));
        let mut sizes = [0; 4];
        sizes[lane as usize] = threads;
        let config = EngineConfig {
            gate: GateConfig {
                concurrency: None,
                lanes: sizes,
                rate: consumer.rate,
                limits: Vec::new(),
                // The intake bounds what is in flight, and how much of it has one key.
                parking: usize::MAX,
                results: (2 * threads).max(1_024),
            },
            lane,
            retry: Arc::new(consumer.retry.clone()),
            timeout: consumer.timeout,
            queue: threads.max(64),
            copy: Some(Record::clone),
            keep_payloads: true,
            clock,
            seed: fastrand::u64(..),
            adaptive: None,
            enough: None,
        };
        let sink = Outcomes { exchange: exchange.clone(), failed: Vec::new(), on_end };
        let running = Engine::start(config, exchange.clone(), lanes, Box::new(sink), outbox, None, &runtime);
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

    /// Asks how many partitions each topic has. Finds out on the way whether anybody is there and knows us.
    fn look(&self) -> Result<Vec<(String, usize)>, BrokerError> {
        let mut config = self.settings.config();
        self.settings.finish(&mut config);
        let client: BaseConsumer<Hooks> =
            config.create_with_context(Hooks::new()).map_err(|error| refused(format!("Kafka's client cannot be made: {error}")))?;
        let mut found = Vec::new();
        for topic in &self.topics {
            let doing = format!("read topic `{topic}`");
            let metadata = client.fetch_metadata(Some(topic), ANSWER).map_err(|error| {
                // What the client complained of waits to be polled.
                (0..20).for_each(|_| drop(client.poll(Duration::ZERO)));
                client.context().heard.explain(&error, &doing)
            })?;
            let told = metadata.topics().iter().find(|told| told.name() == topic);
            if let Some(code) = told.and_then(|told| told.error()) {
                return Err(refused(format!("cannot {doing}: {}", plain(code.into()))));
            }
            match told.map_or(0, |told| told.partitions().len()) {
                0 => return Err(refused(format!("cannot {doing}: {}", plain(Code::UnknownTopicOrPartition)))),
                partitions => found.push((topic.clone(), partitions)),
            }
        }
        Ok(found)
    }

    /// The dead-letter topic of each topic and its partitions, created where it is missing.
    async fn graves(&self, topics: &[(String, usize)]) -> Result<Option<HashMap<String, (String, i32)>>, BrokerError> {
        let name = |topic: &str| match &self.dead_letter {
            DeadLetter::Suffix(suffix) => Some(format!("{topic}{suffix}")),
            DeadLetter::Topic(name) => Some(name.clone()),
            DeadLetter::Skip | DeadLetter::Stop => None,
        };
        let mut graves = HashMap::new();
        let mut config = self.settings.config();
        self.settings.finish(&mut config);
        let admin: AdminClient<Heard> =
            config.create_with_context(Heard::default()).map_err(|error| refused(format!("Kafka's client cannot be made: {error}")))?;
        let admin = Arc::new(admin);
        for (topic, partitions) in topics {
            let Some(grave) = name(topic) else { return Ok(None) };
            let partitions = i32::try_from(*partitions).unwrap_or(i32::MAX);
            let doing = format!("create dead-letter topic `{grave}` (another one, skipping and stopping are the alternatives)");
            let asking = (admin.clone(), grave.clone());
            let known = tokio::task::spawn_blocking(move || {
                let (admin, grave) = asking;
                let metadata = admin.inner().fetch_metadata(Some(&grave), ANSWER).ok()?;
                let told = metadata.topics().iter().find(|told| told.name() == grave && told.error().is_none())?;
                Some(told.partitions().len()).filter(|count| *count > 0)
            });
            if let Ok(Some(count)) = known.await {
                graves.insert(topic.clone(), (grave, i32::try_from(count).unwrap_or(i32::MAX)));
                continue;
            }
            let new = NewTopic::new(&grave, partitions, TopicReplication::Fixed(-1));
            let made = admin.create_topics(&[new], &AdminOptions::new().operation_timeout(Some(ANSWER))).await;
            let made = made.map_err(|error| admin.inner().context().explain(&error, &doing))?;
            for result in made {
                match result {
                    Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                    Err((_, code)) => return Err(refused(format!("cannot {doing}: {}", plain(code)))),
                }
            }
            graves.insert(topic.clone(), (grave, partitions));
        }
        Ok(Some(graves))
    }

    fn config(&self, partitions: usize) -> ClientConfig {
        let mut config = self.settings.config();
        let ahead = (4 * self.in_flight(self.max_threads)).clamp(1_000, 100_000);
        // With queues of their own, this is for each partition.
        let kilobytes = (self.buffers / 1024 / partitions.max(1)).clamp(64, 1 << 20);
        let fetch = (kilobytes * 1024 / 4).clamp(16 << 10, 1 << 20);
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // Where a group starts that has committed nothing is told it; this is for offsets that are no more.
            .set("auto.offset.reset", "earliest")
            .set("statistics.interval.ms", "1000")
            .set("queued.min.messages", ahead.to_string())
            .set("queued.max.messages.kbytes", kilobytes.to_string())
            .set("fetch.message.max.bytes", fetch.to_string())
            // A full queue otherwise makes the fetcher sleep for a second.
            .set("fetch.queue.backoff.ms", "5");
        if !self.settings.has("group.protocol") {
            config.set("partition.assignment.strategy", "cooperative-sticky");
        }
        if let Some(member) = &self.member {
            config.set("group.instance.id", member);
        }
        self.settings.finish(&mut config);
        config
    }

    fn client(&self, partitions: usize, exchange: &Arc<Exchange>) -> Result<Arc<BaseConsumer<Hooks>>, BrokerError> {
        let hooks = Hooks::new();
        let (events, woken) = (hooks.events.clone(), exchange.clone());
        let mut client: BaseConsumer<Hooks> = self
            .config(partitions)
            .create_with_context(hooks)
            .map_err(|error| refused(format!("group `{}`: Kafka's client cannot be made: {error}", self.group)))?;
        client.set_nonempty_callback(move || {
            events.store(true, Ordering::Release);
            woken.wake();
        });
        Ok(Arc::new(client))
    }

    fn session(&self) -> Duration {
        let told = self.config(1).get("session.timeout.ms").and_then(|told| told.parse().ok());
        Duration::from_millis(told.unwrap_or(45_000))
    }
}
