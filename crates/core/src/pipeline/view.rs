//! What a pipeline looks like while it runs: a part for each stage.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    meter::{Kind, Meter},
    run::{Halt, PipelineRun, RunningPipeline},
};
use crate::{
    event::{Event, Phase},
    watch::{Command, Detail, Events, Handle, LaneView, Steer, Unsupported, View, ViewKind},
};

impl RunningPipeline {
    /// Returns what it looks like now: one part for each stage. [`report`](super::Report) has more.
    pub fn view(&self) -> View {
        self.0.view()
    }

    /// Listens to what happens from now on: a pipeline tells its phases, and nothing of single
    /// items. Keeps at most `capacity` events that are not read.
    pub fn events(&self, capacity: usize) -> Events<Event> {
        self.0.events.listen(Detail::Tasks, capacity)
    }

    /// Steers and asks it: `drain` lets what runs end, `stop` drops what is pending too.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::new(Steered(self.0.clone())))
    }
}

impl PipelineRun {
    fn view(&self) -> View {
        let report = self.report();
        let mut view = View::new(ViewKind::Pipeline, "");
        view.age = report.wall;
        view.phase = self.phase();
        view.error = report.failure.as_ref().map(ToString::to_string);
        for (meter, left) in self.meters() {
            let stage = meter.view(left, &view);
            view.parts.push(stage);
        }
        // What went through all of it, and what did not.
        view.parts.iter().for_each(|stage| view.counts += stage.counts);
        view.counts.ok = report.outputs;
        view.events_missed = self.events.missed();
        view
    }

    fn phase(&self) -> Phase {
        match (self.has_ended(), self.halt()) {
            (true, _) => Phase::Done,
            (false, Halt::No) => Phase::Running,
            (false, Halt::Soft) => Phase::Draining,
            (false, Halt::Hard) => Phase::Cancelling,
        }
    }
}

impl Meter {
    fn view(&self, left: u64, whole: &View) -> View {
        let tally = self.tally.lock();
        let mut view = View::new(ViewKind::Stage, self.name.clone());
        (view.at, view.age, view.phase) = (whole.at, whole.age, whole.phase);
        view.counts = tally.counts;
        view.run = tally.run.timing();
        if let Kind::Lane(lane) = self.kind {
            let waiting = usize::try_from(left).unwrap_or(usize::MAX);
            view.lanes = vec![LaneView::new(lane, self.workers, tally.running, waiting)];
        }
        // Where its workers' time went: which of them grows says what it waits for.
        let times = [
            ("busy", tally.times.busy),
            ("waiting", tally.times.waiting),
            ("blocked", tally.times.blocked),
            ("paused", tally.times.paused),
        ];
        for (state, time) in times {
            view.gauge("stage_seconds", &[("state", state)], time.as_secs_f64());
        }
        view.gauge("stage_items", &[("way", "in")], tally.taken as f64);
        view.gauge("stage_items", &[("way", "out")], self.given() as f64);
        view
    }
}

struct Steered(Arc<PipelineRun>);

impl Steer for Steered {
    fn steer(&self, command: Command) -> Result<(), Unsupported> {
        match command {
            _ if self.0.has_ended() => Ok(()),
            Command::Drain => {
                self.0.stop(Halt::Soft);
                Ok(())
            }
            Command::Stop { .. } => {
                self.0.stop(Halt::Hard);
                Ok(())
            }
            command => Err(Unsupported::new(&command, "a pipeline's stages have numbers of their own, set when it is made")),
        }
    }

    fn view(&self) -> BoxFuture<'static, Option<View>> {
        let view = (!self.0.has_ended()).then(|| self.0.view());
        std::future::ready(view).boxed()
    }
}
