//! Families of numbers: each row stands once, what falls together is added up.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use longshore_core::{
    Rate,
    watch::{BOUNDS, Histogram},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode_eof, text::encode_registry},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};

use super::names::{self, Meta};

/// Most rows of a family.
const MOST_ROWS: usize = 20_000;
/// Longest value of a label, in characters.
const LONGEST: usize = 200;

/// Labels of a row: names and values.
pub(super) type RowLabels = Vec<(Cow<'static, str>, String)>;

/// One number, or many.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Number {
    Count(u64),
    Value(f64),
    Times(Spread),
}

/// Times by bucket, which can be added up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spread {
    /// For each of [`BOUNDS`], the times that are in this bucket alone; none where they are not
    /// known.
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl From<&Histogram> for Spread {
    fn from(times: &Histogram) -> Self {
        let is_known = times.buckets.iter().map(|(bound, _)| *bound).eq(BOUNDS) && times.buckets.is_sorted_by_key(|(_, count)| *count);
        let is_known = is_known && times.buckets.last().is_some_and(|(_, count)| *count <= times.count);
        let before = std::iter::once(0).chain(times.buckets.iter().map(|(_, count)| *count));
        let buckets = times.buckets.iter().zip(before).map(|((_, count), before)| count.saturating_sub(before)).collect();
        Self { buckets: if is_known { buckets } else { Vec::new() }, count: times.count, sum: times.sum.as_secs_f64() }
    }
}

impl Number {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Count(sum), Self::Count(other)) => *sum = sum.saturating_add(other),
            (Self::Value(sum), Self::Value(other)) => *sum += other,
            (Self::Times(sum), Self::Times(other)) => {
                // Where the buckets of one are not known, those of the sum are not.
                sum.buckets = sum.buckets.iter().zip(&other.buckets).map(|(a, b)| a.saturating_add(*b)).collect();
                sum.count = sum.count.saturating_add(other.count);
                sum.sum += other.sum;
            }
            _ => {}
        }
    }

    fn encode(&self, encoder: &mut MetricEncoder<'_>, kind: MetricType) -> fmt::Result {
        const NONE: Option<&Exemplar<NoLabelSet, f64>> = None;
        match (kind, self) {
            (MetricType::Counter, Self::Count(count)) => encoder.encode_counter(count, NONE),
            (MetricType::Counter, Self::Value(value)) => encoder.encode_counter(value, NONE),
            (MetricType::Gauge, Self::Count(count)) => encoder.encode_gauge(count),
            (MetricType::Gauge, Self::Value(value)) => encoder.encode_gauge(value),
            (MetricType::Histogram, Self::Times(times)) => {
                let mut buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(times.buckets.iter().copied()).collect();
                buckets.push((f64::INFINITY, times.count - times.buckets.iter().sum::<u64>()));
                encoder.encode_histogram::<NoLabelSet>(times.sum, times.count, &buckets, None)
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Family {
    unit: Option<Unit>,
    kind: MetricType,
    help: &'static str,
    rows: BTreeMap<RowLabels, Number>,
}

/// All families, by name.
#[derive(Debug, Default)]
pub(super) struct Families {
    known: BTreeMap<Cow<'static, str>, Family>,
    left_out: u64,
}

impl Families {
    /// Says which version this is.
    pub(super) fn build(&mut self) {
        self.add(&names::BUILD, vec![("version".into(), env!("CARGO_PKG_VERSION").to_owned())], Number::Count(1));
    }

    /// Adds a row, to the one with the same labels where there is one.
    pub(super) fn add(&mut self, meta: &Meta, labels: RowLabels, number: Number) {
        let empty = || Family { unit: meta.unit.clone(), kind: meta.kind, help: meta.help, rows: BTreeMap::new() };
        let family = self.known.entry(meta.name.into()).or_insert_with(empty);
        self.left_out += u64::from(!family.add(labels, number));
    }

    /// Adds a count.
    pub(super) fn count(&mut self, meta: &Meta, labels: RowLabels, count: u64) {
        self.add(meta, labels, Number::Count(count));
    }

    /// Adds a value.
    pub(super) fn value(&mut self, meta: &Meta, labels: RowLabels, value: f64) {
        self.add(meta, labels, Number::Value(value));
    }

    /// Adds times.
    pub(super) fn times(&mut self, meta: &Meta, labels: RowLabels, times: &Histogram) {
        self.add(meta, labels, Number::Times(times.into()));
    }

    /// Adds a number that only its product knows. One whose name ends in `_total` is a counter.
    pub(super) fn own(&mut self, name: &str, labels: RowLabels, value: f64) {
        const HELP: &str = "A number of this product.";
        let name = if name.starts_with("process_") { word(name) } else { format!("longshore_{}", word(name)) };
        let (name, kind) = match name.strip_suffix("_total") {
            Some(name) => (name.to_owned(), MetricType::Counter),
            None => (name, MetricType::Gauge),
        };
        let is_ours = |meta: &Meta| match &meta.unit {
            Some(unit) => name.strip_prefix(meta.name).is_some_and(|rest| rest.strip_prefix('_') == Some(unit.as_str())),
            None => name == meta.name,
        };
        let is_taken =
            names::ALL.iter().any(is_ours) || self.known.get(name.as_str()).is_some_and(|family| family.kind.as_str() != kind.as_str());
        let is_number = value.is_finite() && (value >= 0.0 || matches!(kind, MetricType::Gauge));
        // Suffixes that mean another kind of family would make the text unreadable.
        let is_other = ["_bucket", "_count", "_sum", "_info", "_created", "_total"].iter().any(|suffix| name.ends_with(suffix));
        if is_taken || is_other || !is_number {
            self.left_out += 1;
            return;
        }
        let empty = || Family { unit: None, kind, help: HELP, rows: BTreeMap::new() };
        let added = self.known.entry(name.into()).or_insert_with(empty).add(labels, Number::Value(value));
        self.left_out += u64::from(!added);
    }

    /// Returns them as text.
    pub(super) fn text(mut self) -> String {
        let left_out = self.left_out;
        self.count(&names::LEFT_OUT, Vec::new(), left_out);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing into memory does not fail, and nothing above says that it has.
        let _ = encode_registry(&mut text, &registry).and_then(|()| encode_eof(&mut text));
        text
    }
}

impl Family {
    /// Returns whether there was room.
    fn add(&mut self, labels: RowLabels, number: Number) -> bool {
        let is_full = self.rows.len() >= MOST_ROWS;
        match self.rows.entry(labels) {
            Entry::Occupied(mut row) => row.get_mut().add(number),
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(row) => drop(row.insert(number)),
        }
        true
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, family) in &self.known {
            let mut encoder = encoder.encode_descriptor(name, family.help, family.unit.as_ref(), family.kind)?;
            for (labels, number) in &family.rows {
                if matches!(family.kind, MetricType::Info) {
                    encoder.encode_info(labels)?;
                } else if labels.is_empty() {
                    number.encode(&mut encoder, family.kind)?;
                } else {
                    number.encode(&mut encoder.encode_family(labels)?, family.kind)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns how many may start in a second.
pub(super) fn per_second(rate: &Rate) -> f64 {
    if rate.per.is_zero() { 0.0 } else { rate.count / rate.per.as_secs_f64() }
}

/// Returns these labels and one more.
pub(super) fn with(labels: &RowLabels, name: impl Into<Cow<'static, str>>, value: &str) -> RowLabels {
    let mut labels = labels.clone();
    labels.push((name.into(), label(value)));
    labels
}

/// Returns a value as a label can have it: bounded, and without what readers of text stumble over.
fn label(value: &str) -> String {
    let plain = |sign: char| if sign.is_control() && sign != '\n' { char::REPLACEMENT_CHARACTER } else { sign };
    value.chars().take(LONGEST).map(plain).collect()
}

/// Returns a name as families and labels can have it.
pub(super) fn word(name: &str) -> String {
    let plain = |sign: char| if sign.is_ascii_alphanumeric() { sign.to_ascii_lowercase() } else { '_' };
    let word: String = name.chars().take(LONGEST).map(plain).collect();
    if word.starts_with(|sign: char| sign.is_ascii_digit()) || word.is_empty() || word.starts_with("__") {
        format!("x{word}")
    } else {
        word
    }
}
