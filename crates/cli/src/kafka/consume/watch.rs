//! A consumer while it runs: shown, and steered by keys and signals.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_core::{Phase, Stop, lane::child::Children};
use longshore_kafka::{self as kafka, ConsumerHandle, ConsumerSummary, RunningConsumer};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{args::ConsumeArgs, fates::Fates, knob::Knob, machine::Machine, screen::Screen, view::Moment};
use crate::{
    keys::KeyPresses,
    progress::{RateMeter, text::short, view::State},
    signals::{Signals, hear},
    units::show_duration,
};

/// Time between two looks at the consumer.
const LOOK: Duration = Duration::from_millis(200);

/// Remains of a consumer that has ended, for its summary.
pub(super) struct Watched {
    pub(super) summary: ConsumerSummary,
    pub(super) wall: Duration,
    /// The signal that ended it.
    pub(super) signal: Option<u8>,
    /// The last moment that was seen.
    pub(super) last: Option<Moment>,
    /// The most that ran at once, as far as it was seen.
    pub(super) most_active: usize,
}

/// Watches a consumer.
pub(super) struct ConsumerWatch<'a> {
    pub(super) args: &'a ConsumeArgs,
    pub(super) handle: ConsumerHandle,
    pub(super) children: &'a Children,
    pub(super) fates: &'a Fates,
    pub(super) screen: Screen,
    /// Keys are not listened to.
    pub(super) deaf: bool,
    /// The sleep, if that is what runs.
    pub(super) knob: Option<Arc<Knob>>,
    pub(super) seen: Seen,
}

/// Everything that was seen and asked for so far.
pub(super) struct Seen {
    meter: RateMeter,
    machine: Machine,
    state: State,
    interrupts: u32,
    signal: Option<u8>,
    last: Option<Moment>,
    question: Question<kafka::View>,
    /// Moment of the last answer.
    answered: Instant,
    most_active: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            meter: RateMeter::over(Duration::from_secs(3)),
            machine: Machine::default(),
            state: State::Running,
            interrupts: 0,
            signal: None,
            last: None,
            question: Question(None),
            answered: Instant::now(),
            most_active: 0,
        }
    }
}

/// A question whose answer may take longer than a look does.
struct Question<T>(Option<Pin<Box<dyn Future<Output = Option<T>> + Send>>>);

impl<T> Question<T> {
    /// Asks, unless an answer is still to come, and waits for so long. A question without an answer
    /// stays: who is slow each time is heard all the same.
    async fn ask<F>(&mut self, ask: impl FnOnce() -> F, patience: Duration) -> Option<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let pending = self.0.get_or_insert_with(|| Box::pin(ask()));
        let answer = timeout(patience, pending).await.ok()?;
        self.0 = None;
        answer
    }
}

impl ConsumerWatch<'_> {
    /// Watches until nothing is left to do, and returns what is left of the consumer.
    pub(super) async fn until_end(mut self, running: RunningConsumer) -> Watched {
        let begun = Instant::now();
        let Signals { mut int, mut term, mut hup, mut usr1 } = Signals::listen();
        let (press, mut pressed) = mpsc::unbounded_channel();
        let keys = if self.screen.bar().is_some() && !self.deaf { KeyPresses::start(press) } else { None };
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut joined = pin!(running.join());
        let summary = loop {
            tokio::select! {
                summary = &mut joined => break summary,
                Some(()) = hear(&mut int) => self.interrupt(),
                Some(()) = hear(&mut term) => self.terminate(),
                Some(()) = hear(&mut hup) => self.terminate(),
                Some(()) = hear(&mut usr1) => self.list().await,
                Some(key) = pressed.recv() => self.key(key).await,
                _ = tick.tick() => self.look().await,
            }
        };
        drop(keys);
        self.tell();
        let Seen { signal, last, most_active, .. } = self.seen;
        self.screen.finish(last.as_ref());
        Watched { summary, wall: begun.elapsed(), signal, last, most_active }
    }

    fn tell(&self) {
        self.fates.told().iter().for_each(|line| self.screen.note(line));
        self.fates.firsts().iter().for_each(|failures| self.screen.failure(failures));
        let place = format!("{}, group {}", self.args.topics.join(" "), self.args.group());
        for trouble in self.handle.news() {
            self.screen.trouble(&place, &trouble, self.handle.complaint().as_deref());
        }
    }

    async fn look(&mut self) {
        self.tell();
        let handle = self.handle.clone();
        let view = self.seen.question.ask(|| async move { handle.snapshot().await }, LOOK).await;
        let now = Instant::now();
        let state = self.seen.state;
        let moment = match (view, self.seen.last.take()) {
            (Some(view), _) => {
                self.seen.answered = now;
                // A page may have paused or stopped it.
                self.seen.state = match (self.seen.state, view.engine.phase) {
                    (State::Stopping, _) | (_, Phase::Draining | Phase::Cancelling | Phase::Done) => State::Stopping,
                    (_, Phase::Paused) => State::Paused,
                    (_, _) => State::Running,
                };
                let state = self.seen.state;
                // What is left of a rate after a minute without records is none.
                let rate = Some(self.seen.meter.update(now, view.counts.done)).filter(|rate| *rate >= 0.01).unwrap_or(0.0);
                self.seen.most_active = self.seen.most_active.max(view.engine.active);
                let (name, group) = (self.args.topics.join(" "), self.args.group());
                let sleep = self.knob.as_ref().map(|knob| knob.get());
                Moment { name, group, view, rate, sleep, cost: self.seen.machine.look(now), late: None, state }
            }
            // The client waits for a broker: what can be said without it is said.
            (None, Some(last)) => {
                let late = Some(now.duration_since(self.seen.answered));
                let view = kafka::View { counts: self.handle.counts(), troubles: self.handle.troubles(), ..last.view };
                Moment { view, late, cost: self.seen.machine.look(now), state, ..last }
            }
            (None, None) => return,
        };
        self.screen.update(&moment, now);
        self.seen.last = Some(moment);
    }

    fn interrupt(&mut self) {
        self.seen.interrupts += 1;
        self.seen.signal.get_or_insert(2);
        match self.seen.interrupts {
            1 => {
                self.stop();
                let grace = show_duration(self.args.grace);
                self.screen.note(&format!(" stopping: nothing more is read; what is in work has {grace} (Ctrl-C again to end it)"));
            }
            2 => {
                self.handle.stop_now();
                self.children.stop(Stop::Soft);
                self.screen.note(" ending what is in work (Ctrl-C again to kill)");
            }
            _ => {
                self.handle.engine().stop(Stop::Hard);
                self.children.stop(Stop::Hard);
            }
        }
    }

    fn terminate(&mut self) {
        self.seen.signal.get_or_insert(15);
        self.stop();
        self.screen.note(&format!(" stopping: nothing more is read; what is in work has {}", show_duration(self.args.grace)));
    }

    fn stop(&mut self) {
        self.seen.state = State::Stopping;
        self.handle.stop();
    }

    async fn key(&mut self, key: char) {
        let Some(view) = self.seen.last.as_ref().map(|moment| &moment.view) else { return };
        let tenth = |number: usize, up: bool| {
            let step = (number / 10).max(1);
            if up { number + step } else { number.saturating_sub(step).max(1) }
        };
        match key {
            '+' | '-' => {
                let most = tenth(view.max_threads, key == '+');
                self.handle.set_max_threads(most);
                self.look().await;
            }
            '>' | '<' => {
                let most = tenth(view.max_in_flight, key == '>');
                self.handle.set_max_in_flight(most);
                self.look().await;
            }
            ']' | '[' => {
                if let Some(knob) = &self.knob {
                    knob.turn(key == ']');
                    self.look().await;
                }
            }
            'p' if self.seen.state == State::Running => {
                self.seen.state = State::Paused;
                self.handle.engine().pause();
            }
            'p' if self.seen.state == State::Paused => {
                self.seen.state = State::Running;
                self.handle.engine().resume();
            }
            's' => self.list().await,
            'q' => self.interrupt(),
            _ => {}
        }
    }

    /// Lists the records in work, the oldest first.
    async fn list(&self) {
        const MOST: usize = 20;
        let Some(view) = self.handle.snapshot().await else { return };
        let Some(running) = self.handle.running(MOST).await else { return };
        let children = self.children.running();
        self.screen.note(&format!(" {} in work, {} waiting for another attempt", view.engine.active, view.engine.retrying));
        for (task, record) in running {
            let last = children.iter().find(|child| child.slot == task.slot).map_or("", |child| &child.last_line);
            let place = record.map_or_else(|| "just ended".to_owned(), |record| place(&record));
            self.screen.note(&format!("   {} {place}  attempt {}  {last}", short(task.age), task.attempt));
        }
    }
}

/// `orders[3]@17 key "a-5"`: which record it is.
fn place(record: &kafka::Record) -> String {
    const MOST: usize = 60;
    match record.key() {
        None => record.to_string(),
        Some(key) => {
            let key = String::from_utf8_lossy(key);
            let shown: String = key.chars().take(MOST).collect();
            let more = if shown.len() < key.len() { "…" } else { "" };
            format!("{record} key {shown:?}{more}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LOOK, Question};

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_always_takes_longer_than_a_look_is_heard_all_the_same() {
        let (mut question, mut heard) = (Question(None), Vec::new());
        for look in 0..9 {
            let slow = || async move {
                tokio::time::sleep(LOOK * 5 / 2).await;
                Some(look)
            };
            heard.extend(question.ask(slow, LOOK).await);
        }
        assert_eq!(heard, [0, 3, 6]);
        // Who has ended answers nothing, and is asked anew.
        assert_eq!(question.ask(|| async { None }, Duration::ZERO).await, None);
        assert_eq!(question.ask(|| async { Some(9) }, Duration::ZERO).await, Some(9));
    }
}
