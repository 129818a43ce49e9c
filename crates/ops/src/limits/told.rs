//! The rates that workers say they keep: `inspect registered` of longshore's workers and of
//! Celery's.

use longshore_celery::{
    Value,
    control::{self, RegisteredTask, read_registered},
};
use longshore_core::Rate;

/// The rate that one worker keeps of one task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToldRate {
    pub(super) task: String,
    pub(super) node: String,
    /// `None`: it holds nothing back.
    pub(super) rate: Option<Rate>,
}

/// Reads what the workers have replied, the tasks in the order of their names.
pub(super) fn rates(replies: &[(String, Value)]) -> Vec<ToldRate> {
    let of = |(node, value): &(String, Value)| -> Vec<ToldRate> {
        let told = |task: RegisteredTask| ToldRate { rate: task.item("rate_limit").and_then(rate_of), task: task.task, node: node.clone() };
        read_registered(value).into_iter().map(told).collect()
    };
    let mut told: Vec<ToldRate> = replies.iter().flat_map(of).collect();
    told.sort_by(|a, b| (&a.task, &a.node).cmp(&(&b.task, &b.node)));
    told
}

/// Reads Celery's `10/m`, or a number: so many a second. Nothing above 0 is no limit.
fn rate_of(text: &str) -> Option<Rate> {
    let per_second = control::Rate::read(&text.into()).ok()?.per_second;
    (per_second.is_finite() && per_second > 0.0).then(|| Rate::per_second(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_for_its_rates_are_read() {
        for (text, rate) in [
            ("tasks.add", None),
            ("tasks.add [rate_limit=10/s]", Some(10.0)),
            ("tasks.add [exchange=x rate_limit=30/m]", Some(0.5)),
            ("tasks.add [rate_limit=4]", Some(4.0)),
            ("tasks.add [rate_limit=0]", None),
            ("tasks.add [rate_limit=None]", None),
        ] {
            let told = rates(&[("n".to_owned(), Value::List(vec![text.into()]))]);
            let want = ToldRate { task: "tasks.add".into(), node: "n".into(), rate: rate.map(Rate::per_second) };
            assert_eq!(told, [want], "{text}");
        }
        let value = |json: &str| Value::parse(json.as_bytes(), 16).unwrap();
        let replies =
            [("b".to_owned(), value(r#"["t [rate_limit=2/s]"]"#)), ("a".to_owned(), value(r#"["t", 5]"#)), ("c".to_owned(), value("null"))];
        let told: Vec<_> = rates(&replies).into_iter().map(|told| (told.task, told.node, told.rate.is_some())).collect();
        assert_eq!(told, [("t".to_owned(), "a".to_owned(), false), ("t".to_owned(), "b".to_owned(), true)]);
    }
}
