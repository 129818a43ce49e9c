//! The calls that a run would make, without making them: for a dry run.

use longshore_core::LaneKind;

use crate::{
    RunError, RunErrorKind,
    batch::{Batching, Weight},
    plan::Plan,
    record::{Record, key_hex, key_of},
};

/// A call that a run would make.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallPreview {
    /// The numbers of its records.
    pub records: Vec<u64>,
    /// The key of the first record, in hexadecimal, and what would run; or why nothing can.
    pub call: Result<(String, String), String>,
    /// The lane of a task whose record names none.
    pub lane: LaneKind,
}

impl Plan {
    /// Shows the first `most` calls that the run would make, in the order of the input and grouped
    /// as the run would group them, until `show` returns false. Returns whether all could be made.
    /// The input is read for it: this plan cannot be started any more.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn preview(&mut self, most: u64, mut show: impl FnMut(&CallPreview) -> bool) -> Result<bool, RunError> {
        let input = self.take_input()?;
        let (mut shown, mut all_good) = (0, true);
        let mut group: Vec<Record> = Vec::new();
        let mut weight = Weight::default();
        let mut go_on = most > 0;
        let mut give = |group: &mut Vec<Record>| {
            let call = self.call(group);
            group.clear();
            shown += 1;
            all_good &= call.call.is_ok();
            show(&call) && shown < most
        };
        for record in input {
            if !go_on {
                break;
            }
            let record = record.map_err(|error| RunError::new(RunErrorKind::Input, error.to_string()))?;
            // One that cannot be judged is shown, as the run would make a failed task of it.
            if let Some(condition) = &self.rules.condition
                && matches!(condition.holds(&record, &Default::default()), Ok(false))
            {
                continue;
            }
            // As the intake groups them: what does not fit into the call begins the next one.
            let more = self.what.weigh(&record);
            let batching = self.batching.as_ref().filter(|_| more.is_ok());
            let fits = batching.is_some_and(|batching| more.as_ref().is_ok_and(|more| batching.has_room(weight, *more)));
            if !fits && !group.is_empty() {
                go_on = give(&mut group);
                weight = Weight::default();
            }
            if go_on {
                group.push(record);
                weight = weight.with(more.unwrap_or_default());
                if group.len() >= batching.map_or(1, Batching::size) {
                    go_on = give(&mut group);
                    weight = Weight::default();
                }
            }
        }
        if go_on && !group.is_empty() {
            give(&mut group);
        }
        Ok(all_good)
    }

    fn call(&self, group: &[Record]) -> CallPreview {
        let records: Vec<&Record> = group.iter().collect();
        let key = match (&self.rules.key, records.first()) {
            (Some(expr), Some(first)) => expr.eval_bytes(first, &Default::default()).map(|bytes| key_of(&bytes)),
            (_, first) => Ok(first.map(|first| first.key()).unwrap_or_default()),
        };
        let call = key.and_then(|key| Ok((key_hex(key), self.what.show(&records, 0)?)));
        CallPreview {
            records: group.iter().map(Record::seq).collect(),
            call: call.map_err(|error| error.message().to_owned()),
            lane: self.lane,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Program, Run, RunSpec, input::Format};

    /// Returns the records of each call that is shown, with whether it can be made; and whether all
    /// can.
    fn shown(most: u64, stop_after: usize) -> (Vec<(Vec<u64>, bool)>, bool) {
        let spec = RunSpec::new(Program::command(["echo", "{n}"]));
        let records = (1..=5).map(|n| if n == 4 { "{}".to_owned() } else { format!("{{\"n\":{n}}}") });
        let mut spec = spec.records(records);
        spec.input.format = Format::Jsonl;
        let mut plan = Run::plan(spec).unwrap();
        let mut calls = Vec::new();
        let good = plan.preview(most, |call| {
            calls.push((call.records.clone(), call.call.is_ok()));
            calls.len() < stop_after
        });
        (calls, good.unwrap())
    }

    #[test]
    fn calls_are_shown_until_there_are_enough_and_one_that_cannot_be_made_is_said() {
        let each = |seqs: &[u64]| seqs.iter().map(|seq| (vec![*seq], *seq != 4)).collect::<Vec<_>>();
        for (most, stop_after, want) in
            [(0, 9, (each(&[]), true)), (2, 9, (each(&[1, 2]), true)), (9, 1, (each(&[1]), true)), (9, 9, (each(&[1, 2, 3, 4, 5]), false))]
        {
            assert_eq!(shown(most, stop_after), want, "{most} {stop_after}");
        }
    }
}
