//! The rates that workers say they keep: `inspect registered` of longshore's workers and of Celery's.

use longshore_celery::Value;
use longshore_core::Rate;

use crate::units;

/// What one worker keeps of one task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) task: String,
    pub(super) node: String,
    /// `None`: it holds nothing back.
    pub(super) rate: Option<Rate>,
}

/// Reads what the workers have replied, the tasks in the order of their names.
pub(super) fn rates(replies: &[(String, Value)]) -> Vec<Told> {
    let of = |(node, value): &(String, Value)| -> Vec<Told> {
        let entries = value.as_list().unwrap_or_default();
        let read = |entry: &Value| {
            let (task, rate) = entry_of(entry.as_str()?);
            Some(Told { task: task.to_owned(), node: node.clone(), rate })
        };
        entries.iter().filter_map(read).collect()
    };
    let mut told: Vec<Told> = replies.iter().flat_map(of).collect();
    told.sort_by(|a, b| (&a.task, &a.node).cmp(&(&b.task, &b.node)));
    told
}

/// `tasks.add [exchange=x rate_limit=10/m]`.
fn entry_of(text: &str) -> (&str, Option<Rate>) {
    let (task, items) = text.strip_suffix(']').and_then(|text| text.split_once(" [")).unwrap_or((text, ""));
    let rate = items.split(' ').find_map(|item| item.strip_prefix("rate_limit="));
    (task, rate.and_then(rate_of))
}

/// Celery's `10/m`, or a number: so many a second. Nothing above 0 is no limit.
fn rate_of(text: &str) -> Option<Rate> {
    let per_second = match text.parse::<f64>() {
        Ok(number) => number,
        Err(_) => units::rate(text).ok()?.per_second(),
    };
    (per_second.is_finite() && per_second > 0.0).then(|| Rate::per_second(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_for_its_rates_are_read() {
        for (text, task, rate) in [
            ("tasks.add", "tasks.add", None),
            ("tasks.add [rate_limit=10/s]", "tasks.add", Some(10.0)),
            ("tasks.add [exchange=x rate_limit=30/m]", "tasks.add", Some(0.5)),
            ("tasks.add [rate_limit=4]", "tasks.add", Some(4.0)),
            ("tasks.add [rate_limit=0]", "tasks.add", None),
            ("tasks.add [rate_limit=None]", "tasks.add", None),
            ("odd [", "odd [", None),
        ] {
            assert_eq!(entry_of(text), (task, rate.map(Rate::per_second)), "{text}");
        }
        let value = |json: &str| Value::parse(json.as_bytes(), 16).unwrap();
        let replies =
            [("b".to_owned(), value(r#"["t [rate_limit=2/s]"]"#)), ("a".to_owned(), value(r#"["t", 5]"#)), ("c".to_owned(), value("null"))];
        let told: Vec<_> = rates(&replies).into_iter().map(|told| (told.task, told.node, told.rate.is_some())).collect();
        assert_eq!(told, [("t".to_owned(), "a".to_owned(), false), ("t".to_owned(), "b".to_owned(), true)]);
    }
}
