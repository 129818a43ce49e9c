//! Looks up what this worker has, and how it stands.

use std::sync::Arc;

use longshore_celery::Message;
use longshore_core::{Rate, Receipt};

use super::{
    RemoteControl,
    answer::{HeldTask, KnownTask, ScaleFacts, StatsFacts, WaitsFor},
};
use crate::worker::{held::HeldEntry, work::ClaimedTask};

/// The most held tasks that a reply tells of; it says so when there are more.
const TOLD: usize = 1000;
/// The most held tasks that are looked through for those that somebody asks for.
const LOOKED_THROUGH: usize = 10 * TOLD;

impl RemoteControl {
    /// Returns the claimed tasks that run, or those that wait for a slot.
    pub(super) fn claimed(&self, running: bool) -> Vec<Arc<ClaimedTask>> {
        let mut works = self.shared.works();
        works.retain(|work| work.started().is_some() == running);
        works
    }

    /// Returns the tasks that are served, each with the rate that it keeps.
    pub(super) fn served(&self, builtins: bool) -> Vec<(Arc<str>, Option<Rate>)> {
        let tasks = self.shared.app.tasks().into_iter().filter(|task| builtins || !task.name.starts_with("celery."));
        tasks.map(|task| (task.name.clone(), self.shared.rate_of(task))).collect()
    }

    /// Finds the messages that wait for their time: they are not kept in memory, so the broker is
    /// asked. Those that it holds back itself are nobody's yet: each worker that serves their queue
    /// tells of them.
    pub(super) async fn held_messages(&self) -> Vec<HeldTask> {
        let entries: Vec<HeldEntry> = self.intake.held().into_iter().take(TOLD).collect();
        let mut held = self.load(&entries).await;
        held.extend(self.held_back(TOLD - entries.len()).await);
        held
    }

    /// Returns what the broker holds back of the queues that are served here.
    async fn held_back(&self, most: usize) -> impl Iterator<Item = HeldTask> + use<'_> {
        let raws = match self.shared.connected.inspect() {
            Ok(inspect) => inspect.later(&self.shared.consumer.serving(), most).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let limits = &self.shared.limits;
        raws.into_iter().filter_map(move |raw| Message::decode(&raw, limits).ok()).map(|message| HeldTask {
            message,
            due: None,
            paced: None,
        })
    }

    /// Loads the messages of what is held here.
    async fn load(&self, entries: &[HeldEntry]) -> Vec<HeldTask> {
        if entries.is_empty() {
            return Vec::new();
        }
        let receipts: Vec<Receipt> = entries.iter().map(HeldEntry::receipt).collect();
        let raws = self.shared.consumer.load(&receipts).await.unwrap_or_default();
        let read = |(entry, raw): (&HeldEntry, Option<Vec<u8>>)| {
            let message = Message::decode(&raw?, &self.shared.limits).ok()?;
            Some(HeldTask { message, due: Some(entry.due), paced: entry.paced.clone() })
        };
        entries.iter().zip(raws).filter_map(read).collect()
    }

    /// Lets what is held here of these tasks be read at once: it was called off, and ends before
    /// its time.
    pub(super) async fn end_held(&self, ids: &[String]) {
        let entries: Vec<HeldEntry> = self.intake.held().into_iter().take(LOOKED_THROUGH).collect();
        for some in entries.chunks(TOLD) {
            let receipts: Vec<Receipt> = some.iter().map(HeldEntry::receipt).collect();
            let raws = self.shared.consumer.load(&receipts).await.unwrap_or_default();
            let is_meant = |raw: Vec<u8>| Message::decode(&raw, &self.shared.limits).is_ok_and(|message| ids.contains(&message.id));
            let meant: Vec<Receipt> =
                receipts.into_iter().zip(raws).filter_map(|(receipt, raw)| is_meant(raw?).then_some(receipt)).collect();
            if !meant.is_empty() {
                self.intake.make_due(&meant);
            }
        }
    }

    /// Finds those of these tasks that are held here, or by the broker.
    async fn held_of(&self, ids: &[String]) -> Vec<HeldTask> {
        let entries: Vec<HeldEntry> = self.intake.held().into_iter().take(LOOKED_THROUGH).collect();
        let mut found: Vec<HeldTask> = self.held_back(TOLD).await.filter(|later| ids.contains(&later.message.id)).collect();
        for some in entries.chunks(TOLD) {
            if found.len() >= ids.len() {
                break;
            }
            found.extend(self.load(some).await.into_iter().filter(|later| ids.contains(&later.message.id)));
        }
        found
    }

    /// Finds those of these tasks that this worker has, and what each waits for.
    pub(super) async fn query(&self, ids: &[String]) -> Vec<KnownTask> {
        let works: Vec<Arc<ClaimedTask>> = self.shared.works().into_iter().filter(|work| ids.contains(&work.message.id)).collect();
        let held = if works.len() < ids.len() { self.held_of(ids).await } else { Vec::new() };
        let suspects = self.intake.waiting_suspects();
        let claimed = works.into_iter().map(|work| {
            let waits = work.started().is_none().then(|| self.waits(&work, suspects.contains(&work.receipt)));
            KnownTask::Claimed { work, waits }
        });
        let later = held.into_iter().map(|task| KnownTask::Held { waits: self.waits_for_time(&task), task: Box::new(task) });
        claimed.chain(later).collect()
    }

    /// Returns what a claimed task waits for that has not started.
    fn waits(&self, work: &ClaimedTask, suspect: bool) -> WaitsFor {
        if suspect {
            return WaitsFor::Alone { crashes: work.crashes };
        }
        let lane = work.task.lane;
        WaitsFor::Slot { lane, slots: self.slots.sizes()[lane as usize], running: self.shared.running_tasks().lanes[lane as usize] }
    }

    /// Returns what a task waits for that is held for its time.
    fn waits_for_time(&self, held: &HeldTask) -> WaitsFor {
        let until = held.due.or(held.message.eta);
        match &held.paced {
            None => WaitsFor::Eta { until },
            Some(task) => {
                let task = self.shared.app.task_named(task);
                WaitsFor::Rate { rate: task.and_then(|task| self.shared.rate_of(task)), until }
            }
        }
    }

    pub(super) fn stats(&self) -> StatsFacts {
        let shared = &self.shared;
        let slots = self.slots.sizes();
        let most = slots.iter().sum::<usize>().saturating_add(self.parking) as u64;
        let of_scale = |(scale, current): (crate::worker::slots::Autoscale, usize)| ScaleFacts {
            max: scale.max,
            min: scale.min,
            current,
            claimed: shared.live().len(),
        };
        let running = shared.running_tasks();
        StatsFacts {
            by_task: shared.counts.by_task(),
            by_queue: shared.counts.by_queue(),
            uptime: shared.environment.now().duration_since(shared.started).as_secs(),
            slots,
            running: running.lanes,
            running_by_queue: running.queues,
            held: self.intake.held_count(),
            prefetch: most.min(self.prefetch.map_or(u64::MAX, |most| most as u64)),
            scale: self.slots.scale().map(of_scale),
        }
    }
}
