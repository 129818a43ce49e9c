//! The settings that every worker of Celery's tells.

use super::super::value::{Map, Value};

/// The reply of a worker of Celery 5.7 on which nothing was set (`fixtures/record_settings.py`):
/// `set` is told without defaults, too.
const RECORDED: &str = include_str!("settings.json");

/// Told without defaults, too: programs that look at a worker's settings look for them.
const TOLD: [&str; 3] = ["broker_heartbeat", "worker_hijack_root_logger", "worker_log_color"];

/// Returns the reply to `conf`: all settings of Celery's that a worker tells, with this one's own
/// in their places, and its others behind them.
pub fn settings(own: Map, with_defaults: bool) -> Value {
    // It is in this program, and a test reads it.
    let recorded = Value::parse(RECORDED.as_bytes(), 9).unwrap_or_default();
    let members = |name: &str| recorded.get(name).and_then(Value::as_map).into_iter().flat_map(Map::iter);
    let told = members("defaults").filter(|(name, _)| with_defaults || TOLD.contains(name));
    let mut settings: Map = members("set").chain(told).map(|(name, value)| (name, value.clone())).collect();
    own.0.into_iter().for_each(|(name, value)| settings.set(name, value));
    Value::Map(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_tells_all_settings_that_celerys_tells_and_its_own_in_their_places() {
        let own = Map::from_iter([("task_serializer", "msgpack"), ("longshore_lease", "5s")]);
        for (with_defaults, name, value) in [
            (false, "include", None),
            (false, "deprecated_settings", Some(Value::Null)),
            (false, "worker_disable_prefetch", Some(false.into())),
            (false, "broker_heartbeat", Some(120.into())),
            (false, "worker_hijack_root_logger", Some(true.into())),
            (false, "worker_log_color", Some(Value::Null)),
            (false, "worker_pool", None),
            (true, "worker_pool", Some("prefork".into())),
            (true, "task_serializer", Some("msgpack".into())),
            (true, "longshore_lease", Some("5s".into())),
        ] {
            assert_eq!(settings(own.clone(), with_defaults).get(name), value.as_ref(), "{name}");
        }
    }
}
