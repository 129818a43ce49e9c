//! From the input to deliveries: which records run, as which task, with which key, lane and limits.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use longshore_core::{Delivery, LaneKind, Options, SourceError, TaskError};

use crate::{
    batch::{Batching, Weight},
    call::{Call, Item},
    input::Input,
    journal::{Index, Occurrences, TaskState},
    record::Record,
    spec::Dups,
    template::{Condition, Expr, Vars},
    what::What,
};

/// Rule by which the lane of a task is found.
#[derive(Default)]
pub(crate) enum LaneRule {
    /// All tasks on the job's lane.
    #[default]
    Fixed,
    /// The value of an expression names it.
    Of(Expr),
}

/// The rules by which records become tasks.
#[derive(Default)]
pub(crate) struct Rules {
    /// `--where`.
    pub condition: Option<Condition>,
    /// `--key`.
    pub key: Option<Expr>,
    /// `--dups`.
    pub dups: Dups,
    /// `--order-by`.
    pub order_by: Option<Expr>,
    /// The values of the job's limits, in the limits' order.
    pub limits: Vec<Expr>,
    /// `--lane`.
    pub lane: LaneRule,
    /// An expression may ask for the request's host.
    pub host: bool,
    /// `--in-flight skip`: tasks that were running when the job died are not run again.
    pub skip_in_flight: bool,
}

/// Counts of the records that the intake has seen, for progress and the summary.
#[derive(Debug, Default)]
pub(crate) struct IntakeCounts {
    /// Records read.
    pub read: AtomicU64,
    /// Records that `--where` left out, or `--dups skip`.
    pub left_out: AtomicU64,
    /// Records that an earlier sitting finished.
    pub finished: AtomicU64,
    /// Tasks that were running when an earlier sitting died.
    pub in_flight: AtomicU64,
    /// Tasks taken in.
    pub taken: AtomicU64,
    /// The input is at its end.
    pub ended: std::sync::atomic::AtomicBool,
}

/// With `-k`: how far the intake may run ahead.
pub(crate) struct Window {
    lowest: Mutex<u64>,
    moved: Condvar,
    size: u64,
}

impl Window {
    /// A window of this many places, from the first one on.
    pub(crate) fn new(size: u64, first: u64) -> Self {
        Self { lowest: Mutex::new(first), moved: Condvar::new(), size }
    }

    /// The lowest unwritten place is this now.
    pub(crate) fn advance(&self, lowest: u64) {
        *self.lowest.lock().unwrap_or_else(PoisonError::into_inner) = lowest;
        self.moved.notify_all();
    }

    /// Returns true if this place may be taken in.
    fn is_open(&self, seq: u64) -> bool {
        seq < self.lowest.lock().unwrap_or_else(PoisonError::into_inner).saturating_add(self.size)
    }

    /// Waits until this place may be taken in.
    fn wait_for(&self, seq: u64) {
        let mut lowest = self.lowest.lock().unwrap_or_else(PoisonError::into_inner);
        while seq >= lowest.saturating_add(self.size) {
            lowest = self.moved.wait(lowest).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The records of a job as deliveries.
pub(crate) struct Intake {
    /// The input.
    pub input: Input,
    /// The rules.
    pub rules: Rules,
    /// The program, which knows the host and the weight of a record.
    pub what: Arc<What>,
    /// The results of earlier sittings.
    pub index: Arc<Index>,
    /// Counts by key of the records so far; not kept without a journal when nothing asks for it.
    pub occurrences: Option<Occurrences>,
    /// With `-k`.
    pub window: Option<Arc<Window>>,
    /// Told which places will not come: place, and where the result of an earlier sitting stands.
    pub skipped: Box<dyn Fn(Vec<(u64, Option<u64>)>) + Send>,
    /// Counts of the records that it has seen.
    pub counts: Arc<IntakeCounts>,
    /// Told how many records there were, at their end.
    pub ended: Box<dyn Fn(u64) + Send>,
    /// Places that will not come and that have not been told yet.
    pub gone: VecDeque<(u64, Option<u64>)>,
    /// A record that has to wait for the window.
    pub held: Option<Record>,
    /// With `--batch`.
    pub batching: Option<Arc<Batching>>,
    /// The records so far of the next call.
    pub group: Group,
    /// A delivery or error that has to come behind the call that was given last.
    pub behind: Option<Given>,
}

/// The next thing for the engine: a call, `Ok(None)` for a pause, or an error.
pub(crate) type Given = Result<Option<Delivery<Call>>, SourceError>;

/// The records of a call that is not full yet. Attempts are of the whole call, so all have the same
/// number of earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Group {
    items: Vec<Item>,
    attempts_made: u32,
    weight: Weight,
}

impl Group {
    fn take(&mut self) -> Option<Delivery<Call>> {
        let Self { items, attempts_made, .. } = std::mem::take(self);
        let first = items.first()?.record.seq();
        let options = (attempts_made > 0).then(|| Box::new(Options::default().attempts_made(attempts_made)));
        Some(Delivery { options, ..Delivery::new(first, items.into()) })
    }
}

/// Places that are told at once.
const TELL: usize = 256;

impl Intake {
    fn pass_over(&mut self, seq: u64, at: Option<u64>) {
        self.gone.push_back((seq, at));
        if self.gone.len() >= TELL {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if !self.gone.is_empty() {
            (self.skipped)(self.gone.drain(..).collect());
        }
    }

    /// The call of a record, or `None` if it does not run or waits for others.
    fn deliver(&mut self, record: Record) -> Given {
        let seq = record.seq();
        let mut refused: Option<TaskError> = None;
        if let Some(condition) = &self.rules.condition {
            match condition.holds(&record, &Vars::default()) {
                Ok(true) => {}
                Ok(false) => {
                    self.counts.left_out.fetch_add(1, Ordering::Relaxed);
                    self.pass_over(seq, None);
                    return Ok(None);
                }
                // A record that cannot be judged is not left out in silence: it becomes a task that
                // fails, with this error.
                Err(error) => refused = Some(error),
            }
        }
        let key = match &self.rules.key {
            None => record.key(),
            Some(expr) => match expr.eval_bytes(&record, &Vars::default()) {
                Ok(bytes) => crate::record::key_of(&bytes),
                Err(error) => {
                    // It needs some key all the same, to be found again when the job is resumed.
                    refused.get_or_insert(error);
                    record.key()
                }
            },
        };
        // Records with one key are told apart by their number, so each has a state of its own in
        // the journal.
        let nth = self.occurrences.as_mut().map_or(0, |occurrences| occurrences.next(key));
        if nth > 0 {
            match self.rules.dups {
                Dups::Run => {}
                Dups::Skip => {
                    self.counts.left_out.fetch_add(1, Ordering::Relaxed);
                    self.pass_over(seq, None);
                    return Ok(None);
                }
                Dups::Error => {
                    return Err(SourceError::fatal(format!("{}: its key came before (--dups error)", record.place())));
                }
            }
        }
        let mut attempts_made = 0;
        match self.index.state_of(key, nth) {
            TaskState::New => {}
            TaskState::InFlight { attempts } => {
                // Attempts go on counting over sittings, so that a kill does not give a task new
                // retries.
                attempts_made = attempts;
                self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
                if self.rules.skip_in_flight {
                    refused.get_or_insert_with(|| {
                        TaskError::new("in-flight", "it was running when the job died, and is not run again (--in-flight skip)")
                            .with_again(longshore_core::Again::Never)
                    });
                }
            }
            TaskState::Finished { at, .. } => {
                self.counts.finished.fetch_add(1, Ordering::Relaxed);
                // Its line may have to be shown again where the output is in the order of the
                // input.
                self.pass_over(seq, Some(at));
                return Ok(None);
            }
        }
        if let Err(error) = record.check() {
            refused.get_or_insert(error);
        }
        let mut weight = Weight::default();
        if self.batching.is_some() && refused.is_none() {
            // A record that cannot run must not fail those beside it.
            match self.what.weigh(&record) {
                Ok(sum) => weight = sum,
                Err(error) => refused = Some(error),
            }
        }
        // A refused record ends at once with its own error, and may not take others with it.
        let alone = self.batching.is_none() || refused.is_some();
        let options = self.options(&record, attempts_made, refused);
        self.counts.taken.fetch_add(1, Ordering::Relaxed);
        let item = Item { record, key, nth };
        if alone {
            return Ok(Some(Delivery { options, ..Delivery::new(seq, Arc::new([item]) as Call) }));
        }
        Ok(self.gather(item, attempts_made, weight))
    }

    /// Adds a record to the next call; gives one that is full.
    fn gather(&mut self, item: Item, attempts_made: u32, weight: Weight) -> Option<Delivery<Call>> {
        let batching = self.batching.as_ref()?;
        let fits = self.group.items.is_empty() || self.group.attempts_made == attempts_made && batching.has_room(self.group.weight, weight);
        let full = if fits { None } else { self.group.take() };
        self.group.attempts_made = attempts_made;
        self.group.weight = self.group.weight.with(weight);
        self.group.items.push(item);
        if full.is_none() && self.group.items.len() >= batching.size() { self.group.take() } else { full }
    }

    /// Gives what the next call has so far, and this behind it.
    fn last_before(&mut self, behind: Option<Given>) -> Option<Given> {
        match self.group.take() {
            None => behind,
            Some(call) => {
                self.behind = behind;
                Some(Ok(Some(call)))
            }
        }
    }

    /// Returns the options in which the task differs from its job: `None` for none, which costs
    /// nothing.
    fn options(&self, record: &Record, attempts_made: u32, mut refused: Option<TaskError>) -> Option<Box<Options>> {
        let rules = &self.rules;
        let plain = rules.order_by.is_none() && rules.limits.is_empty() && matches!(rules.lane, LaneRule::Fixed);
        if plain && attempts_made == 0 && refused.is_none() {
            return None;
        }
        let mut options = Options::default().attempts_made(attempts_made);
        if refused.is_none() && !plain {
            let host = if rules.host { self.what.host(record) } else { None };
            let extra: Vec<(&str, &str)> = host.as_deref().map(|host| ("host", host)).into_iter().collect();
            let vars = Vars { extra: &extra, ..Vars::default() };
            let filled = (|| {
                if let Some(expr) = &rules.order_by {
                    options.key = Some(expr.eval_text(record, &vars)?.into());
                }
                for (place, expr) in rules.limits.iter().enumerate() {
                    options.limits.push((place, expr.eval_text(record, &vars)?.into()));
                }
                if let LaneRule::Of(expr) = &rules.lane {
                    let name = expr.eval_text(record, &vars)?;
                    let lane = LaneKind::parse(&name).ok_or_else(|| {
                        record.invalid(format_args!("`{name}` is not a lane; there are async, blocking, cpu and process"))
                    })?;
                    options.lane = Some(lane);
                }
                Ok::<_, TaskError>(())
            })();
            refused = filled.err();
        }
        options.refused = refused;
        Some(Box::new(options))
    }
}

impl Iterator for Intake {
    type Item = Given;

    fn next(&mut self) -> Option<Self::Item> {
        // An error or a pause that had to let the call before it go first.
        if let Some(behind) = self.behind.take() {
            return Some(behind);
        }
        loop {
            let record = match self.held.take() {
                Some(record) => {
                    // Waiting is safe here: all that can move the window was delivered when the
                    // record was held.
                    if let Some(window) = &self.window {
                        window.wait_for(record.seq());
                    }
                    record
                }
                None => match self.input.next() {
                    None => {
                        // A call that is not full must not wait for records that never come.
                        if let Some(call) = self.last_before(None) {
                            return Some(call);
                        }
                        self.tell();
                        (self.ended)(self.counts.read.load(Ordering::Relaxed));
                        self.counts.ended.store(true, Ordering::Release);
                        return None;
                    }
                    // The records before an error are good, and run.
                    Some(Err(error)) => return self.last_before(Some(Err(SourceError::fatal(error.to_string())))),
                    Some(Ok(record)) => {
                        self.counts.read.fetch_add(1, Ordering::Relaxed);
                        if self.window.as_ref().is_some_and(|window| !window.is_open(record.seq())) {
                            // What was told late and what was delivered just now may be what moves
                            // the window.
                            self.tell();
                            self.held = Some(record);
                            return self.last_before(Some(Ok(None)));
                        }
                        record
                    }
                },
            };
            match self.deliver(record) {
                Ok(None) => {}
                Ok(Some(delivery)) => return Some(Ok(Some(delivery))),
                Err(error) => return self.last_before(Some(Err(error))),
            }
        }
    }
}
