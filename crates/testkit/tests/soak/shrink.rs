//! What is told of a broken promise: the fewest faults that break it, and what happened then.

use std::fmt::Write;

use crate::{
    drive::{Violation, simulate},
    plan,
};

/// Drops faults one by one while the same promise is broken; what is left, and what happened then.
pub(crate) fn shrink(violation: &Violation) -> String {
    let again = simulate(&violation.plan, violation.sabotage, true);
    let mut least = again.map_or_else(|found| *found, |_| violation.clone());
    let mut place = 0;
    while place < least.plan.troubles.len() {
        let mut plan = least.plan.clone();
        plan.troubles.remove(place);
        match simulate(&plan, least.sabotage, true) {
            Err(smaller) if smaller.invariant == least.invariant => least = *smaller,
            _ => place += 1,
        }
    }
    let Violation { plan, invariant, what, trace, .. } = &least;
    let stores = if plan.one_store { "one store" } else { "two stores" };
    let mut text =
        format!("seed {}: {invariant:?}: {what}\n  replay: LONGSHORE_SOAK_SEED={}; {stores}, {} slots\n", plan.seed, plan.seed, plan.slots);
    for trouble in &plan.troubles {
        let _ = writeln!(text, "  fault {trouble:?}");
    }
    // Of the tasks that the blame is about, and of nodes.
    let named = what.split(|c: char| !c.is_alphanumeric()).filter_map(plan::place).take(5);
    let places: Vec<usize> = named
        .flat_map(|place| [place].into_iter().chain(plan.tasks.get(place).map(|task| task.parts.clone()).unwrap_or_default()))
        .collect();
    let concerns = |line: &str| {
        let about = line.split(|c: char| !c.is_alphanumeric()).filter_map(plan::place).any(|place| places.contains(&place));
        about
            || line.contains("strikes")
            || line.contains("begins")
            || line.contains("gone")
            || line.contains("goes on")
            || line.contains("stopped")
    };
    for (at, line) in trace.iter().filter(|(_, line)| concerns(line)) {
        let _ = writeln!(text, "  {:>8.3} s  {line}", *at as f64 / 1000.0);
    }
    for place in places {
        let _ = writeln!(text, "  {}: {:?}", plan::id(place), plan.tasks.get(place));
    }
    text
}
