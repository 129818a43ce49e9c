//! How a run goes: the blocks that the page of a run and that of a job share.

use longshore_charts::{HeatMap, HeatMapRow, OverTime, Ranking, Row, Series, Tone};
use longshore_core::Rate;
use longshore_run::{RunView, Steering, report::StoryView, units};
use minijinja::{Value, context, value::Serde};
use serde::Serialize;

use crate::{
    api::{Field, Operation},
    error::WebError,
    guard::FormFields,
};

/// Most running tasks that are named.
const MOST_RUNNING: usize = 100;
/// Most kinds of failures in the chart; all that are known stand below it.
const BARS: usize = 8;
/// Most that may run at once.
const MOST_AT_ONCE: usize = 100_000;

/// A run, seen at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Progress {
    /// Its numbers, and what runs.
    #[serde(flatten)]
    pub(crate) view: RunView,
    /// Its course, where that is known.
    pub(crate) story: Option<StoryView>,
}

impl Progress {
    /// Keeps what a page has room for. Records, and what tasks said, go where nobody may see them.
    pub(crate) fn shown(mut self, hide_args: bool) -> Self {
        self.view.running.truncate(MOST_RUNNING);
        self.view.engine = None;
        if hide_args {
            self.view.running.iter_mut().for_each(|task| task.last_line.clear());
            if let Some(story) = &mut self.story {
                story.slowest.iter_mut().for_each(|slow| slow.record.clear());
                for sample in story.failures.iter_mut().flat_map(|failure| &mut failure.samples) {
                    sample.record.clear();
                    sample.message.clear();
                }
            }
        }
        self
    }

    /// Returns what the template `progress.html` needs. `phase` is its state in a word.
    pub(crate) fn context(&self, phase: &str, is_running: bool) -> Value {
        let story = self.story.as_ref().filter(|story| story.seconds > 0.0);
        let charts = story.map(|story| charts(story, is_running)).unwrap_or_default();
        let charts: Vec<Value> = charts.into_iter().map(Value::from_safe_string).collect();
        let counts = &self.view.counts;
        context! {
            phase, is_running, view => Serde(&self.view), story => Serde(&self.story), charts,
            done => counts.finished(), failures => counts.failures(), skipped => counts.skipped,
        }
    }
}

fn charts(story: &StoryView, is_running: bool) -> Vec<String> {
    let heat = HeatMap {
        title: "Latency".to_owned(),
        axis: "attempts".to_owned(),
        column: story.heat.seconds,
        span: story.seconds,
        rows: story.heat.rows.iter().map(|row| HeatMapRow { from: row.from, to: row.to, counts: row.counts.clone() }).collect(),
    };
    let series = |name: &str, tone, values: &[f64]| Series { name: name.to_owned(), tone, values: values.to_vec() };
    let over_time = |title: &str, axis: &str, series: Vec<Series>| OverTime {
        title: title.to_owned(),
        axis: axis.to_owned(),
        series,
        bucket: story.stretch,
        span: story.seconds,
        ends_now: false,
        limit: None,
    };
    let ended = vec![series("ok", Tone::Good, &story.ok_per_s), series("failed", Tone::Bad, &story.failed_per_s)];
    let mut charts = vec![heat.svg(), over_time("Throughput", "tasks per second", ended).svg()];
    // What still runs is no part of it yet, and its end would seem to fall.
    if !is_running {
        let running = vec![series("running", Tone::Plain, &story.running)];
        charts.push(over_time("Slots in use", "attempts running, on average", running).svg());
    }
    if !story.failures.is_empty() {
        let rows = story.failures.iter().take(BARS).map(|kind| Row { name: kind.error.clone(), count: kind.count, tone: Tone::Bad });
        charts.push(Ranking { title: "Failures by kind (tasks)".to_owned(), rows: rows.collect() }.svg());
    }
    charts
}

/// Changes of a run that goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Most that run at once.
    concurrency: Option<usize>,
    /// Starts per time, or `none`.
    rate: Option<String>,
}

impl Changes {
    /// Reads what somebody asks for.
    pub(crate) fn of_form(form: &FormFields) -> Result<Self, WebError> {
        let concurrency = form.get("concurrency").map(|most| most.trim().parse()).transpose();
        let concurrency = concurrency.map_err(|_| WebError::unprocessable(AT_ONCE))?;
        Ok(Self { concurrency, rate: form.get("rate").map(|rate| rate.trim().to_owned()) })
    }

    fn steering(&self) -> Result<Vec<Steering>, WebError> {
        let mut steering = Vec::new();
        if let Some(most) = self.concurrency {
            if !(1..=MOST_AT_ONCE).contains(&most) {
                return Err(WebError::unprocessable(AT_ONCE));
            }
            steering.push(Steering::Concurrency { most });
        }
        if let Some(rate) = &self.rate {
            let rate = match rate.as_str() {
                "none" => None,
                rate => Some(units::rate(rate).map_err(WebError::unprocessable)?),
            };
            let Rate { per, .. } = rate.map_or(Rate::per_second(1.0), |rate| rate.with_burst(1));
            steering.push(Steering::Rate { count: rate.map(|rate| rate.count), per: per.as_secs_f64() });
        }
        if steering.is_empty() {
            return Err(WebError::unprocessable("say what is to change: concurrency (a number), or rate (100/s, 500/min, 10/h, none)"));
        }
        Ok(steering)
    }
}

const AT_ONCE: &str = "concurrency is a number from 1 to 100000";

/// Describes what programs may ask of a run, under these paths: pause, resume, drain, cancel, set.
pub(crate) fn operations(paths: [&'static str; 5]) -> [Operation; 5] {
    let [pause, resume, drain, cancel, set] = paths;
    [
        Operation::act(pause, "Pauses a run: nothing more starts, what runs goes on"),
        Operation::act(resume, "Lets a run go on after a pause"),
        Operation::act(drain, "Stops a run: nothing more starts, and what runs may end"),
        Operation::act(cancel, "Cancels a run: what runs is told to end"),
        Operation::act(set, "Sets how many run at once, and the pace")
            .field(Field::whole("concurrency", "the most that run at once"))
            .field(Field::text("rate", "starts per time: 100/s, 500/min, 10/h; none: no limit")),
    ]
}

/// Returns what a run is told, and what is said of it.
pub(crate) fn steering(what: &str, changes: &Changes) -> Result<(Vec<Steering>, String), WebError> {
    let one = |steering, said: &str| Ok((vec![steering], said.to_owned()));
    match what {
        "pause" => one(Steering::Pause, "paused: nothing more starts; what runs goes on"),
        "resume" => one(Steering::Resume, "it goes on"),
        "drain" => one(Steering::Drain, "it stops: nothing more starts, and what runs may end"),
        "cancel" => one(Steering::Cancel, "cancelled: what runs is told to end, and runs again when the job goes on"),
        "set" => {
            let steering = changes.steering()?;
            let most = changes.concurrency.map(|most| format!("at most {most} run at once"));
            let rate = changes.rate.as_ref().map(|rate| match rate.as_str() {
                "none" => "no pace is kept".to_owned(),
                rate => format!("the pace is {rate}"),
            });
            Ok((steering, most.into_iter().chain(rate).collect::<Vec<_>>().join("; ")))
        }
        _ => Err(WebError::not_found(format_args!("action {what} here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_is_told_is_what_was_asked_for_or_is_refused_with_a_sentence() {
        for (what, fields, want) in [
            ("pause", &[][..], r#"[{"command":"pause"}] paused: nothing more starts; what runs goes on"#),
            ("set", &[("concurrency", "8")], r#"[{"command":"concurrency","most":8}] at most 8 run at once"#),
            ("set", &[("rate", "90/min")], r#"[{"command":"rate","count":90.0,"per":60.0}] the pace is 90/min"#),
            (
                "set",
                &[("concurrency", "1"), ("rate", "none")],
                r#"[{"command":"concurrency","most":1},{"command":"rate","count":null,"per":1.0}] at most 1 run at once; no pace is kept"#,
            ),
            ("set", &[], "! say what is to change"),
            ("set", &[("concurrency", "0")], "! concurrency is a number from 1 to 100000"),
            ("set", &[("concurrency", "many")], "! concurrency is a number from 1 to 100000"),
            ("set", &[("rate", "fast")], "! `fast`"),
            ("explode", &[], "! there is no action explode here"),
        ] {
            let form = FormFields::new(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
            let got = match Changes::of_form(&form).and_then(|changes| steering(what, &changes)) {
                Ok((steering, said)) => format!("{} {said}", serde_json::to_string(&steering).unwrap()),
                Err(error) => format!("! {error}"),
            };
            assert!(if want.starts_with('!') { got.starts_with(want) } else { got == want }, "{what} {fields:?}: {got}");
        }
    }
}
