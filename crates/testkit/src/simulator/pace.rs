//! Whether starts kept to the pace.

use std::{collections::HashMap, sync::Arc, time::Instant};

use longshore_core::Rate;

use super::{Invariant, plan::Plan, world::Ledger};

/// The lateness that a leaky bucket forgives.
const LATENESS: f64 = 0.010;

/// Blames the engine if some window holds more starts than its pace and its limits allow.
pub(super) fn check_pace(ledger: &mut Ledger, plan: &Plan, starts: &[(Instant, u64)]) {
    let rates = ledger.rates.clone();
    for (nth, (from, rate)) in rates.iter().enumerate() {
        let until = rates.get(nth + 1).map(|(at, _)| *at);
        let Some(rate) = rate else { continue };
        // A start at the very moment of a change may belong to either side.
        let inside = starts.iter().map(|(at, _)| *at).filter(|at| at > from && until.is_none_or(|until| *at < until));
        if let Some(what) = crowded(*rate, inside) {
            ledger.blame(Invariant::Pace, || format!("{what}, at {rate:?}"));
        }
    }
    for (rule, limit) in plan.limits.iter().enumerate() {
        let Some(rate) = limit.rate else { continue };
        let mut by_value: HashMap<Arc<str>, Vec<Instant>> = HashMap::new();
        for (at, id) in starts {
            for (_, value) in ledger.values_of(*id).into_iter().filter(|(of, _)| *of == rule) {
                by_value.entry(value).or_default().push(*at);
            }
        }
        for (value, starts) in by_value {
            if let Some(what) = crowded(rate, starts.into_iter()) {
                ledger.blame(Invariant::Pace, || format!("{what}, value {value} at {rate:?}"));
            }
        }
    }
}

/// Whether some window holds more than `burst + rate × (window + 10 ms)` starts: a bucket of that
/// size overflows.
fn crowded(rate: Rate, starts: impl Iterator<Item = Instant>) -> Option<String> {
    let per_second = rate.count / rate.per.as_secs_f64();
    let most = f64::from(rate.burst) + LATENESS * per_second + 1e-6;
    let (mut level, mut last): (f64, Option<Instant>) = (0.0, None);
    for at in starts {
        let leaked = last.map_or(0.0, |last| at.duration_since(last).as_secs_f64() * per_second);
        level = (level - leaked).max(0.0) + 1.0;
        last = Some(at);
        if level > most {
            return Some(format!("{level} starts in a bucket of {most}"));
        }
    }
    None
}
