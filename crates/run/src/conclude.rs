//! The fourth step of a run: its engine has ended, and what it wrote reaches the output and the
//! disk.

mod sum_up;

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use longshore_core::{Stop, lane::child::Children, watch::Counts};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
};

use self::sum_up::{SumUp, failures_before, story_before, sum_up};
use crate::{
    checks,
    ending::Brought,
    event::{RunEvent, Teller},
    input::Source,
    intake::IntakeCounts,
    journal::{End, Feed, JobError, Journal},
    open::Opened,
    output::{self, Output, OutputError},
    report::Report,
    steer::{Order, Steering},
    story::Storyteller,
    view::RunView,
    watch::{Left, PATIENCE, sleep_or_never},
};

/// The last work of a run whose tasks have all ended, for which nobody has to wait who does not
/// want to: the first order to end kills the children and leaves the reader of results a moment,
/// the second leaves it none.
pub(crate) struct LastWait<'a> {
    pub(crate) orders: &'a mut mpsc::UnboundedReceiver<Order>,
    pub(crate) views: &'a watch::Sender<Arc<RunView>>,
    pub(crate) children: Children,
    pub(crate) feed: Feed,
    pub(crate) signal: Option<u8>,
    /// Moment at which the reader has had enough time.
    pub(crate) give_up: Option<Instant>,
}

impl LastWait<'_> {
    /// Waits for work that ends when the children have ended and nothing waits for the reader.
    async fn wait<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let mut work = spawn_blocking(work);
        if let Some(done) = self.turn(&mut work).await {
            return done;
        }
        self.feed.close();
        // Now nothing waits for the reader any more, so this ends, and then the output is given up
        // at once.
        work.await.ok()
    }

    /// Waits for the output, as long as anybody wants to.
    async fn unless_given_up(&mut self, mut work: JoinHandle<Result<u64, OutputError>>) -> Result<u64, OutputError> {
        self.turn(&mut work).await.flatten().unwrap_or(Err(OutputError::Stalled))
    }

    /// Returns what the work returned (nothing if it panicked), or `None` when it is time to give
    /// up.
    async fn turn<T>(&mut self, work: &mut JoinHandle<T>) -> Option<Option<T>> {
        loop {
            let rest = self.give_up.map(|at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                done = &mut *work => return Some(done.ok()),
                () = sleep_or_never(rest) => return None,
                Some(order) = self.orders.recv() => self.obey(order),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let signal = match order {
            Order::Look(answer) => {
                let _ = answer.send((**self.views.borrow()).clone());
                return;
            }
            Order::Hold(hold, done) => {
                self.children.hold(hold);
                let _ = done.send(());
                return;
            }
            Order::Signal(signal) => Some(signal),
            Order::Stop(_) | Order::Steer(Steering::Cancel) => None,
            Order::Rate(_) | Order::Steer(_) => return,
        };
        let first = self.signal.is_none() && self.give_up.is_none();
        self.signal = signal.or(self.signal);
        self.children.stop(Stop::Hard);
        self.give_up = Some(Instant::now() + if first { PATIENCE } else { Duration::ZERO });
    }
}

/// A run whose engine has ended, with all that is still to be closed.
pub(crate) struct Ended {
    pub(crate) opened: Opened,
    /// Until it is closed.
    pub(crate) journal: Option<Arc<Journal>>,
    /// Until it is finished.
    pub(crate) output: Option<Output>,
    pub(crate) left: Left,
    pub(crate) name: String,
    pub(crate) counts: Arc<IntakeCounts>,
    pub(crate) tally: Arc<crate::ledger::Tally>,
    pub(crate) unread: Arc<std::sync::Mutex<Option<String>>>,
    pub(crate) end_children: Box<dyn FnOnce() + Send>,
    pub(crate) is_http: bool,
    pub(crate) teller: Teller,
    pub(crate) story: Option<Storyteller>,
}

impl Ended {
    /// Writes what is left, ends the journal, and reports.
    pub(crate) async fn conclude(mut self, orders: &mut mpsc::UnboundedReceiver<Order>, views: &watch::Sender<Arc<RunView>>) -> Report {
        let children = self.opened.children.clone();
        let feed = self.output.as_ref().map(Output::feed).unwrap_or_default();
        let mut wait = LastWait { orders, views, children: children.clone(), feed, signal: self.left.facts.signal, give_up: None };
        let (regular, shown) = self.write_the_rest(&mut wait).await;
        self.note_what_broke();
        let counts = Totals::of(&self);
        let (remaining, brought) = self.remaining(&counts);
        let complete = self.judge(remaining, &counts);
        let earlier = failures_before(self.opened.before.as_ref(), &self.opened.index).await;
        let story = story_before(self.story.as_ref(), self.opened.before.as_ref(), &self.opened.index).await;
        let at_least = self.at_least(&counts, &brought);
        let mut report = sum_up(SumUp { ended: &self, totals: &counts, remaining, at_least, regular, earlier });
        report.story = story;
        report.nothing_left = complete && counts.mine.done() == 0 && self.opened.before.as_ref().is_some_and(|before| before.resumed);
        for failure in checks::evaluate(&self.opened.plan.spec.stop.checks, &report) {
            self.left.facts.check_failed = true;
            self.left.words.push(failure);
        }
        report.exit_code = self.left.facts.code();
        if self.opened.plan.spec.stop.exit_count && matches!(report.exit_code, 0 | 1) {
            report.exit_code = u8::try_from(self.left.facts.failed.min(101)).unwrap_or(101);
        }
        self.close_journal(&mut report, complete, &counts, remaining, shown && regular).await;
        self.opened.spool.close();
        // No child is left. A guardian that is told so goes at once, and the job is free with the
        // end of this process and not a moment later.
        let _ = spawn_blocking(move || children.finish()).await;
        drop(self.opened.lock.take());
        report.facts = self.left.facts;
        report.words = self.left.words;
        report
    }

    /// Ends the children that stay, and waits for journal and output. Returns whether the output is
    /// a file, and whether it has all.
    async fn write_the_rest(&mut self, wait: &mut LastWait<'_>) -> (bool, bool) {
        wait.wait(std::mem::replace(&mut self.end_children, Box::new(|| ()))).await;
        let left = &mut self.left;
        if left.facts.signal.is_some() || left.facts.reader_gone {
            wait.give_up = Some(Instant::now() + PATIENCE);
        }
        if let Some(journal) = self.journal.clone()
            && let Some(Err(error)) = wait.wait(move || journal.flush()).await
        {
            left.unwritable(error.to_string());
        }
        let Some(output) = self.output.take() else { return (false, false) };
        let (regular, missing) = (output.is_file(), output.missing());
        let mut shown = false;
        match wait.unless_given_up(spawn_blocking(move || output.finish(None))).await {
            Ok(_) => shown = true,
            Err(OutputError::ReaderGone) => left.facts.reader_gone = true,
            Err(error) => left.unwritable(error.to_string()),
        }
        left.facts.signal = wait.signal;
        let missing = missing.load(Ordering::Relaxed);
        if missing > 0 {
            left.words.push(format!(
                "{missing} results of earlier sittings could not be written anew: the journal does not have their raw bytes"
            ));
        }
        (regular, shown)
    }

    /// Notes an input that could not be read to its end, or an engine that broke.
    fn note_what_broke(&mut self) {
        let left = &mut self.left;
        if let Some(error) = self.unread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            left.facts.unreadable = true;
            left.words.push(error);
        } else if let Some(error) = left.engine.error.take().filter(|_| !left.facts.unwritable) {
            // Not the input, not the disk: the engine itself.
            left.facts.bug = true;
            left.words.push(error);
        }
    }

    /// Returns how many tasks have not run, as far as is known, and what was brought of those of
    /// earlier sittings.
    fn remaining(&mut self, totals: &Totals) -> (u64, Brought) {
        let mut remaining = totals.not_run(&self.counts, self.left.total);
        let index = &self.opened.index;
        let resumed = self.opened.before.as_ref().filter(|before| before.resumed && totals.ended);
        let brought = resumed.map_or(Brought::default(), |before| Brought {
            had_read: before.read.read,
            had_ended: before.read.ended || before.complete,
            had_finished: index.finished(),
            had_begun: index.in_flight(),
            read: self.counts.read.load(Ordering::Relaxed),
            met: self.counts.in_flight.load(Ordering::Relaxed),
            met_finished: self.counts.finished.load(Ordering::Relaxed),
        });
        match brought.lacks() {
            Some(why) if self.reads_stdin() => {
                self.left.facts.lacking = true;
                remaining = remaining.max(brought.had_read.saturating_sub(totals.all.finished())).max(brought.lost());
                self.left.words.push(JobError::Lacking { job: self.name.clone(), why }.to_string());
            }
            _ if brought.lost() > 0 => self.teller.tell(&RunEvent::Lost { name: self.name.clone(), tasks: brought.lost() }),
            _ => {}
        }
        (remaining, brought)
    }

    /// Settles which of all that happened counts, and returns whether nothing is left to do.
    fn judge(&mut self, remaining: u64, totals: &Totals) -> bool {
        let left = &mut self.left;
        let complete = remaining == 0 && totals.ended && !left.facts.bug && !left.facts.unwritable && !left.facts.lacking;
        left.facts.stopped_early &= !complete;
        left.facts.no_program &= !complete;
        if let Some(why) = left.early.take().filter(|_| !complete) {
            left.words.insert(0, why);
        }
        if complete {
            left.facts.signal = None;
        }
        left.facts.failed = totals.all.failures();
        complete
    }

    async fn close_journal(&mut self, report: &mut Report, complete: bool, totals: &Totals, remaining: u64, has_all: bool) {
        let Some(journal) = self.journal.take() else { return };
        let Some(journal) = unshared(journal).await else { return };
        let end = End::now(complete, report.exit_code, totals.all, remaining);
        let closed = spawn_blocking(move || journal.close(Some(end))).await;
        if let Ok(Err(error)) = closed
            && !self.left.facts.unwritable
        {
            self.left.unwritable(error.to_string());
            report.exit_code = self.left.facts.code();
        } else if let Some(path) = self.opened.plan.output.file.as_deref().filter(|_| has_all) {
            output::forget_aside(path, &self.opened.id);
        }
    }

    pub(crate) fn reads_stdin(&self) -> bool {
        self.opened.plan.input.sources.contains(&Source::Stdin)
    }

    fn at_least(&self, totals: &Totals, brought: &Brought) -> bool {
        (!totals.ended && self.left.total.is_none()) || (self.left.facts.lacking && !brought.had_ended)
    }
}

/// Counts at the end, those of earlier sittings included.
pub(crate) struct Totals {
    /// Tasks of this sitting by outcome.
    pub(crate) mine: Counts,
    /// Tasks of all sittings by outcome.
    pub(crate) all: Counts,
    /// The input was read to its end.
    pub(crate) ended: bool,
    /// Records that were read and not left out.
    pub(crate) read: u64,
}

impl Totals {
    fn of(ended: &Ended) -> Self {
        let mine = ended.tally.sums().counts;
        let counts = &ended.counts;
        Self {
            mine,
            all: [mine, ended.opened.index.counts()].into_iter().sum(),
            ended: counts.ended.load(Ordering::Acquire),
            read: counts.read.load(Ordering::Relaxed) - counts.left_out.load(Ordering::Relaxed),
        }
    }

    /// Returns how many tasks have not run, as far as is known: those handed back, and the part of
    /// the input that was not read.
    fn not_run(&self, counts: &IntakeCounts, total: Option<u64>) -> u64 {
        let (done_here, finished) = (self.mine.finished(), counts.finished.load(Ordering::Relaxed));
        let known = self.read.saturating_sub(finished).saturating_sub(done_here);
        if self.ended {
            return known;
        }
        // What was not read is known from the estimate alone.
        let left_out = counts.left_out.load(Ordering::Relaxed);
        let rest = total.map_or(0, |total| total.saturating_sub(left_out + finished + done_here));
        known.max(rest).max(1)
    }
}

/// Returns the journal, once all others have let go of it.
async fn unshared(mut journal: Arc<Journal>) -> Option<Journal> {
    for _ in 0..100 {
        match Arc::try_unwrap(journal) {
            Ok(journal) => return Some(journal),
            Err(shared) => journal = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}
