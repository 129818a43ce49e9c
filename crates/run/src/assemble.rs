//! The second step of a run: intake, lanes, gate and sink put together, and the engine started.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use longshore_core::{
    LaneKind, RetryPolicy, Word,
    engine::{self, Engine, EngineConfig, Enough, Lanes},
    gate::GateConfig,
    lane::Outbox,
    source::thread::ThreadSource,
    watch::Hub,
};
use tokio::task::JoinHandle;

use crate::{
    auto::Auto,
    batch::Batching,
    call::Call,
    error::{RunError, RunErrorKind},
    event::{Resumed, RunEvent, Teller},
    heard::Heard,
    input::Input,
    intake::{Group, Intake, IntakeCounts},
    journal::{Begin, Index, Occurrences},
    last_output::LastOutputs,
    ledger::{Journaled, KeepOutput, Ledger, Tally},
    live::Live,
    machine,
    open::{Files, Opened, Reasons, Surroundings, unwritable},
    output::{Emit, save::SaveOutput},
    overdue::Overdue,
    plan::Plan,
    reply::Reply,
    spec::{Dups, StopSpec, Timeout},
    story::Storyteller,
    watch::Why,
    what::{Lanebuilder, What},
};

/// Longest time for which the start of a resumed job waits to say how long its input is.
const ESTIMATE_WAIT: Duration = Duration::from_millis(200);

/// A run whose engine has started.
pub(crate) struct Assembled {
    pub(crate) engine: engine::Running,
    pub(crate) name: String,
    pub(crate) counts: Arc<IntakeCounts>,
    pub(crate) tally: Arc<Tally>,
    /// The error of the input, in words, once it could not be read further.
    pub(crate) unread: Arc<Mutex<Option<String>>>,
    /// With a timeout that is a share of the median: the share, and who ends what runs already.
    pub(crate) median: Option<(f64, Arc<Overdue>)>,
    pub(crate) auto: Option<Auto>,
    pub(crate) estimate: JoinHandle<Option<u64>>,
    /// Ends the children that stay.
    pub(crate) end_children: Box<dyn FnOnce() + Send>,
    pub(crate) is_http: bool,
    pub(crate) story: Option<Storyteller>,
}

impl Assembled {
    /// Puts everything together on the current runtime, and starts.
    pub(crate) async fn start(
        opened: &mut Opened,
        files: &Files,
        around: &Surroundings,
        teller: &Teller,
        heard: &Arc<Heard>,
        tell: &Reasons,
    ) -> Result<Self, RunError> {
        let name = opened.name();
        // Begun first, since counting a large input takes a while, and runs beside the rest.
        let estimate = estimate(opened, &name, teller).await;
        let (counts, tally) = (Arc::new(IntakeCounts::default()), Arc::new(Tally::default()));
        let outbox = engine::outbox();
        let plan = &mut opened.plan;
        let (queue, results) = (plan.queue(), plan.result_queue());
        let input = plan.take_input()?;
        let what = Arc::new(std::mem::replace(&mut plan.what, What::Noop));
        let batching = plan.batching.take().map(Arc::new);
        let auto = plan.auto.take();
        // What of the input cannot be read ends the run, and is said at its end.
        let unread = Arc::new(Mutex::new(None));
        let noted = unread.clone();
        let source = ThreadSource::new(intake(opened, files, input, &what, &counts, batching.as_ref()).inspect(move |delivery| {
            if let Err(error) = delivery {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.message.clone());
            }
        }));
        // A share of the median is not known yet, so attempts cannot get it from the engine as a
        // limit.
        let median = match opened.plan.timeout {
            Some(Timeout::OfMedian(share)) => Some((share, Arc::new(Overdue::default()))),
            _ => None,
        };
        let last = Arc::new(LastOutputs::new(opened.plan.retry.clone()));
        let live = opened.plan.output.live.is_some().then(|| Live {
            feed: files.output.feed(),
            tag: opened.plan.output.tag,
            tell: teller.as_fn(),
        });
        let builder = Lanebuilder {
            live,
            heard: heard.clone(),
            spool: (opened.wanted.stdout || opened.wanted.stderr).then(|| opened.spool.clone()),
            last: last.clone(),
            overdue: median.as_ref().map(|(_, overdue)| overdue.clone()),
            outbox: outbox.clone(),
            children: opened.children.clone(),
            job: opened.id.clone(),
            cpu: opened.plan.lanes[LaneKind::Cpu as usize].max(1),
            concurrency: opened.plan.concurrency,
            batching,
            tell: teller.as_fn(),
        };
        let (lanes, end_children) = lanes(opened, files, builder, &what, &outbox, &counts, teller).await?;
        let hub = Hub::new();
        let story = storyteller(opened, &hub);
        let mut sink = sink(opened, files, around, teller, tell, &tally, last)?;
        sink.story.clone_from(&story);
        if what.has_one_program() {
            let tell = tell.clone();
            sink.no_program = Some(Box::new(move |why| drop(tell.send(Why::NoProgram(why)))));
        }
        let config = engine_config(&mut opened.plan, auto.as_ref(), (queue, results), &opened.index, tell.clone());
        let runtime = tokio::runtime::Handle::current();
        let engine = Engine::start(config, Arc::new(source), lanes, Box::new(sink), outbox, hub, &runtime);
        Ok(Self { engine, name, counts, tally, unread, median, auto, estimate, end_children, is_http: what.is_http(), story })
    }
}

/// Counts the input beside the run. Of a resumed job it says what is behind it, and how much is
/// left where that is known soon.
async fn estimate(opened: &Opened, name: &str, teller: &Teller) -> JoinHandle<Option<u64>> {
    let input = opened.plan.input.clone();
    let mut estimate = tokio::task::spawn_blocking(move || input.estimate());
    if !opened.before.as_ref().is_some_and(|before| before.resumed) {
        return estimate;
    }
    let total = tokio::time::timeout(ESTIMATE_WAIT, &mut estimate).await.ok().and_then(Result::ok);
    let index = &opened.index;
    teller.tell(&RunEvent::Resumed(Resumed {
        name: name.to_owned(),
        job: opened.id.clone(),
        retry: matches!(opened.plan.spec.journal.begin, Begin::RetryFailed(_)),
        counts: index.counts(),
        open: index.in_flight(),
        total: total.flatten(),
    }));
    match total {
        Some(total) => tokio::spawn(std::future::ready(total)),
        None => estimate,
    }
}

/// The records as deliveries.
fn intake(
    opened: &mut Opened,
    files: &Files,
    input: Input,
    what: &Arc<What>,
    counts: &Arc<IntakeCounts>,
    batching: Option<&Arc<Batching>>,
) -> Intake {
    let plan = &mut opened.plan;
    let counts_keys = opened.journaled || plan.rules.dups != Dups::Run;
    let (feed, ordered) = (files.output.feed(), plan.output.ordered_from.is_some());
    // A reader that waits for its input for ever must not keep the journal.
    let journal = Arc::downgrade(&files.journal);
    Intake {
        input,
        rules: std::mem::take(&mut plan.rules),
        what: what.clone(),
        index: opened.index.clone(),
        occurrences: counts_keys.then(Occurrences::default),
        window: opened.window.take(),
        skipped: Box::new(move |places| {
            if ordered {
                feed.skipped(places);
            }
        }),
        counts: counts.clone(),
        ended: Box::new(move |read| journal.upgrade().into_iter().for_each(|journal| journal.read(read, true))),
        gone: VecDeque::new(),
        held: None,
        batching: batching.cloned(),
        group: Group::default(),
        behind: None,
    }
}

type Built = (Lanes<Call, Reply>, Box<dyn FnOnce() + Send>);

/// The lanes, behind the journal and behind a limit that is shared.
async fn lanes(
    opened: &mut Opened,
    files: &Files,
    builder: Lanebuilder,
    what: &Arc<What>,
    outbox: &Outbox<Call, Reply>,
    counts: &Arc<IntakeCounts>,
    teller: &Teller,
) -> Result<Built, RunError> {
    let pacer = match opened.plan.shared.take() {
        Some(limit) => Some(limit.connect(what.clone(), outbox.clone(), teller.as_fn()).await?),
        None => None,
    };
    let (lanes, end_children) = builder.build(what).map_err(|message| RunError::new(RunErrorKind::Usage, message))?;
    let lanes = lanes.map(|lane| {
        lane.map(|lane| -> Arc<dyn longshore_core::lane::Lane<_, _>> {
            // A start line is written before its attempt starts, and its slot is waited for before
            // that.
            let lane = match opened.journaled {
                true => Arc::new(Journaled::new(lane, files.journal.clone(), outbox.clone(), counts.clone())),
                false => lane,
            };
            match &pacer {
                Some(pacer) => Arc::new(pacer.before(lane)),
                None => lane,
            }
        })
    });
    Ok((lanes, end_children))
}

fn sink(
    opened: &Opened,
    files: &Files,
    around: &Surroundings,
    teller: &Teller,
    tell: &Reasons,
    tally: &Arc<Tally>,
    last: Arc<LastOutputs>,
) -> Result<Ledger, RunError> {
    let spec = &opened.plan.spec.output;
    let raw = opened.plan.output.emit == Emit::Raw;
    let shown = opened.plan.output.open.is_some();
    let save = (spec.save.as_deref().map(SaveOutput::open).transpose())
        .map_err(|error| RunError::new(RunErrorKind::Unwritable, format!("--save-output: {error}")))?;
    Ok(Ledger {
        journal: files.journal.clone(),
        tally: tally.clone(),
        raw,
        keep: KeepOutput { save, stderr: around.stderr.clone().filter(|_| raw && shown) },
        last,
        unwritable: unwritable(tell),
        no_program: None,
        epoch: (Instant::now(), SystemTime::now()),
        teller: teller.clone(),
        story: None,
    })
}

/// Returns who notes how the run goes, if that was asked for.
fn storyteller(opened: &Opened, hub: &Hub<longshore_core::watch::Event>) -> Option<Storyteller> {
    let before = opened.before.as_ref().filter(|before| before.resumed);
    let spent = before.map_or(Duration::ZERO, |before| before.spent);
    let story = opened.plan.spec.output.story.then(|| Storyteller::new(opened.plan.job.what.clone(), spent))?;
    // Where nothing is tried again there is nothing to be heard, and hearing costs each task.
    story.listen(hub, opened.plan.retry.retries > 0);
    Some(story)
}

fn engine_config(
    plan: &mut Plan,
    auto: Option<&Auto>,
    (queue, results): (usize, usize),
    index: &Index,
    tell: Reasons,
) -> EngineConfig<Call> {
    let fixed = match plan.timeout {
        Some(Timeout::Fixed(limit)) => Some(limit),
        _ => None,
    };
    let mut gate = GateConfig::new(plan.lanes).results(results);
    gate.concurrency = Some(auto.map_or(plan.concurrency, Auto::start));
    if let Some(ramp) = plan.ramp() {
        let (most, rate) = ramp.at(Duration::ZERO);
        (gate.concurrency, plan.rate) = (Some(most), rate);
    }
    (gate.rate, gate.limits) = (plan.rate, std::mem::take(&mut plan.limits));
    let mut config = EngineConfig::new(gate, plan.lane);
    config.retry = Arc::new(std::mem::replace(&mut plan.retry, RetryPolicy::times(0)));
    (config.timeout, config.queue) = (fixed, queue);
    config.copy = Some(Arc::clone);
    config.keep_payloads = true;
    (config.seed, config.adaptive) = (fastrand::u64(..), plan.adaptive);
    let (loaded, low) = machine::is_full(&plan.spec.lanes);
    config.paused = loaded || low;
    config.enough = stop_rules(&plan.spec.stop, index, tell);
    config
}

/// Returns the rules by which it stops early, looked at when a task ends, so that not one more
/// starts.
fn stop_rules(spec: &StopSpec, index: &Index, tell: Reasons) -> Option<Enough<Call>> {
    let (max_fail, until_ok) = (spec.max_fail, spec.until_ok);
    if max_fail.is_none() && until_ok.is_none() {
        return None;
    }
    let (mut failed, mut ok) = (index.failed(), index.counts().ok);
    let mut told = false;
    Some(Box::new(move |task, word| {
        let count = task.payload.as_ref().map_or(1, |call| call.len() as u64);
        match word {
            Word::Ok => ok += count,
            Word::Cancelled | Word::Skipped => {}
            _ => failed += count,
        }
        if told {
            return true;
        }
        if let Some(rule) = max_fail.as_ref().filter(|rule| rule.tripped(failed, failed + ok)) {
            told = true;
            let _ = tell.send(Why::MaxFail { now: rule.now });
        } else if until_ok.is_some_and(|rule| rule.reached(ok)) {
            told = true;
            let _ = tell.send(Why::UntilOk);
        }
        told
    }))
}
