//! The thread that hands records to the client.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use longshore_core::gate::pace::Pace;
use longshore_kafka::{NewRecord, Producer, produce::NotTaken};

use super::{args::ProduceArgs, tally::Tally};
use crate::kafka::{
    fake::{Fake, Made},
    outgoing::{Outgoing, RecordPlan, padded},
};
use longshore_run::{
    input::Input,
    record::{self, Record},
};

/// Source of the records.
pub(super) enum Records {
    Fake(Box<Fake>),
    Input(Box<Input>),
}

/// Reads or makes records and sends them.
pub(super) struct Feed {
    topic: String,
    records: Records,
    plan: RecordPlan,
    pace: Option<Pace>,
    partition: Option<i32>,
    count: u64,
    size: usize,
    producer: Producer,
    tally: Arc<Tally>,
    stopped: Arc<Mutex<bool>>,
}

/// Stops a feed: when [`now`](Self::now) has returned, nothing more is handed over.
pub(super) struct StopFeed(Arc<Mutex<bool>>);

impl StopFeed {
    pub(super) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Longest sleep before it looks whether it has to stop.
const NAP: Duration = Duration::from_millis(50);

impl Feed {
    pub(super) fn new(args: &ProduceArgs, records: Records, plan: RecordPlan, producer: Producer, tally: Arc<Tally>) -> Self {
        let pace = args.pace.bucket().map(Pace::new);
        Self {
            topic: args.topic.clone(),
            records,
            plan,
            pace,
            partition: args.partition,
            count: args.count.unwrap_or(u64::MAX),
            size: usize::try_from(args.size.unwrap_or(0)).unwrap_or(usize::MAX),
            producer,
            tally,
            stopped: Arc::default(),
        }
    }

    pub(super) fn stop(&self) -> StopFeed {
        StopFeed(self.stopped.clone())
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all there is. Returns early when it is stopped.
    ///
    /// # Errors
    /// The input could not be read to its end.
    pub(super) fn run(mut self) -> Result<(), String> {
        let origin = record::named("fake");
        for at in 0..self.count {
            if self.is_stopped() {
                break;
            }
            let (place, outgoing) = match &mut self.records {
                Records::Fake(fake) => {
                    let made = fake.make();
                    (format!("fake record {at}"), self.made_up(made, &origin))
                }
                Records::Input(input) => match input.next() {
                    None => break,
                    Some(Err(error)) => return Err(error.to_string()),
                    Some(Ok(record)) => (record.place().to_string(), self.plan.of(&record).map_err(|error| error.message().to_owned())),
                },
            };
            match outgoing {
                Err(why) => self.tally.bad(&why),
                Ok(outgoing) => {
                    if !self.wait_for_slot() || !self.send(place, &outgoing) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn made_up(&self, made: Made, origin: &Arc<record::Origin>) -> Result<Outgoing, String> {
        let mut outgoing = Outgoing::default();
        if self.plan.looks_inside() {
            let record =
                Record::json(record::Place { seq: made.number + 1, line: made.number, origin: origin.clone() }, made.numbered().as_bytes());
            outgoing = self.plan.of(&record).map_err(|error| error.message().to_owned())?;
        }
        if !self.plan.has_value() {
            outgoing.value = padded(made.json(), self.size).into_bytes();
        }
        if outgoing.key.is_none() {
            outgoing.key = Some(made.key.into_bytes());
        }
        Ok(outgoing)
    }

    /// Waits for the next slot of the leaky bucket; `false`: it was stopped meanwhile.
    fn wait_for_slot(&mut self) -> bool {
        loop {
            let now = Instant::now();
            let Some(pace) = &mut self.pace else { return true };
            let slot = pace.slot(now);
            if slot <= now {
                pace.take(now);
                return true;
            }
            pace.wait();
            thread::sleep((slot - now).min(NAP));
            if self.is_stopped() {
                return false;
            }
        }
    }

    /// Hands a record over, when there is room; `false`: it was stopped before.
    fn send(&self, place: String, outgoing: &Outgoing) -> bool {
        let headers: Vec<_> = outgoing.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice()))).collect();
        let record = NewRecord {
            topic: &self.topic,
            partition: self.partition,
            key: outgoing.key.as_deref(),
            value: Some(&outgoing.value),
            headers: &headers,
            timestamp: None,
        };
        let (tally, begun) = (self.tally.clone(), Instant::now());
        let bytes = outgoing.value.len() + outgoing.key.as_ref().map_or(0, Vec::len);
        let of_done = place.clone();
        let mut done: longshore_kafka::produce::Done = Box::new(move |result| tally.delivered(&of_done, result, bytes, begun));
        loop {
            // Held while it is handed over, so that whoever stops us knows that nothing comes
            // behind.
            let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            if *stopped {
                return false;
            }
            match self.producer.send(&record, done) {
                Ok(()) => {
                    self.tally.taken();
                    return true;
                }
                Err(NotTaken::Refused(error)) => {
                    self.tally.refused(&place, &error);
                    return true;
                }
                Err(NotTaken::Full(back)) => {
                    drop(stopped);
                    done = back;
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}
