//! One line for one moment, for logs and for machines.

use std::time::Duration;

use longshore_run::units::round;
use serde_json::{Value, json};

use super::{
    text,
    view::{Snapshot, State},
};

/// `longshore job=a81c done=6214/10000 ok=6180 failed=22 active=48 rate=98.7/s p50=412ms p99=1.9s
/// eta=38s`: what is unknown is left out; retries, gates and the state stand behind it when there
/// is something to say. Numbers have no commas, values no spaces.
pub fn line(snapshot: &Snapshot) -> String {
    let mut out = format!("longshore job={} done={}", snapshot.job, snapshot.counts.finished());
    if let Some(total) = snapshot.total {
        out += &format!("/{total}");
    }
    out += &format!(
        " ok={} failed={} active={} rate={}",
        snapshot.counts.ok,
        snapshot.counts.failures(),
        snapshot.active,
        text::rate(snapshot.rate_per_s).replace(',', "")
    );
    for (key, value) in [("p50", snapshot.p50), ("p99", snapshot.p99)] {
        if let Some(value) = value {
            out += &format!(" {key}={}", text::short(value));
        }
    }
    if let Some(eta) = snapshot.eta {
        out += &format!(" eta={}", text::long(eta));
    }
    if snapshot.retrying > 0 {
        out += &format!(" retrying={}", snapshot.retrying);
    }
    if snapshot.cut > 0 {
        out += &format!(" cut={}", snapshot.cut);
    }
    for (reason, waiting) in snapshot.gate.iter().filter(|(_, waiting)| *waiting > 0) {
        out += &format!(" waiting[{}]={waiting}", reason.replace(char::is_whitespace, "_"));
    }
    if let Some(slow) = snapshot.slow {
        out += &format!(" slow=#{}:{}", slow.seq, text::short(slow.age));
    }
    if snapshot.state != State::Running {
        out += &format!(" state={}", snapshot.state.as_str());
    }
    out
}

/// The same as one JSON object. Times are in milliseconds (`eta_s` in seconds), unknown values are
/// `null`.
pub fn json(snapshot: &Snapshot) -> String {
    let millis = |time: Option<Duration>| time.map_or(Value::Null, |time| json!(round(time.as_secs_f64() * 1e3)));
    let gate: Vec<Value> = snapshot.gate.iter().map(|(reason, waiting)| json!({ "reason": reason, "waiting": waiting })).collect();
    json!({
        "job": snapshot.job,
        "name": snapshot.name,
        "state": snapshot.state.as_str(),
        "done": snapshot.counts.finished(),
        "total": snapshot.total,
        "ok": snapshot.counts.ok,
        "failed": snapshot.counts.failures(),
        "cut": snapshot.cut,
        "retrying": snapshot.retrying,
        "active": snapshot.active,
        "rate_per_s": round(snapshot.rate_per_s),
        "p50_ms": millis(snapshot.p50),
        "p99_ms": millis(snapshot.p99),
        "eta_s": snapshot.eta.map(|eta| round(eta.as_secs_f64())),
        "gate": gate,
        "slow": snapshot.slow.map(|slow| json!({ "seq": slow.seq, "age_ms": slow.age.as_millis() as u64, "attempt": slow.attempt })),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::sample, *};

    #[test]
    fn a_plain_line_has_what_is_known() {
        let snapshot = Snapshot { retrying: 0, gate: Vec::new(), slow: None, ..sample() };
        assert_eq!(
            line(&snapshot),
            "longshore job=a81c done=6214/10000 ok=6180 failed=22 active=48 rate=98.7/s p50=412ms p99=1.9s eta=38s"
        );
        let early = Snapshot { job: "a81c".to_owned(), rate_per_s: 1234.0, state: State::Paused, ..Snapshot::default() };
        assert_eq!(line(&early), "longshore job=a81c done=0 ok=0 failed=0 active=0 rate=1234/s state=paused");
        assert!(line(&Snapshot { cut: 3, ..early }).ends_with(" rate=1234/s cut=3 state=paused"));
        assert!(line(&sample()).ends_with(" eta=38s retrying=12 waiting[pace_100/s]=36 slow=#5990:61s"), "{}", line(&sample()));
    }

    #[test]
    fn a_json_line_is_one_object_with_numbers() {
        let text = json(&sample());
        assert!(!text.contains('\n'));
        let value: Value = serde_json::from_str(&text).unwrap();
        for (pointer, want) in [
            ("/done", json!(6214)),
            ("/total", json!(10_000)),
            ("/rate_per_s", json!(98.7)),
            ("/p50_ms", json!(412.0)),
            ("/eta_s", json!(38.0)),
            ("/gate/0", json!({ "reason": "pace 100/s", "waiting": 36 })),
            ("/slow", json!({ "seq": 5990, "age_ms": 61_000, "attempt": 2 })),
            ("/state", json!("running")),
        ] {
            assert_eq!(value.pointer(pointer), Some(&want), "{pointer}");
        }
        let early: Value = serde_json::from_str(&json(&Snapshot::default())).unwrap();
        assert_eq!(
            (&early["total"], &early["p50_ms"], &early["eta_s"], &early["slow"]),
            (&Value::Null, &Value::Null, &Value::Null, &Value::Null)
        );
    }
}
