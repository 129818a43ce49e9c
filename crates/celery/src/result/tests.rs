use std::io::Write;

use super::{Exception, GroupResult, ResultTree, State, TaskResult};
use crate::Value;

const LIMIT: usize = 1 << 20;

#[test]
fn a_document_is_read_leniently() {
    let result = TaskResult::decode(br#"{"status": "SUCCESS"}"#, LIMIT).unwrap();
    assert_eq!(result, TaskResult { state: State::Success, ..TaskResult::default() });
    let odd = br#"{"status": "DONE", "status": "MINE", "task_id": 7, "traceback": [], "date_done": "yesterday", "children": 1, "retries": "x", "x": 1}"#;
    let result = TaskResult::decode(odd, LIMIT).unwrap();
    assert_eq!(result.state, State::Other("MINE".into()));
    assert_eq!((result.task_id.as_str(), result.date_done, result.extended), ("", None, None));
    assert_eq!(result.rest.get("x"), Some(&Value::Int(1)));
    assert_eq!(result.rest.get("retries"), Some(&Value::from("x")));
}

#[test]
fn what_is_no_document_is_refused() {
    for (document, reason) in [
        (&b""[..], "not JSON"),
        (b"[]", "an object"),
        (b"{}", "without a status"),
        (br#"{"status": 1}"#, "without a status"),
        (b"\0celery-compressed\0application/zstd", "does not say how"),
        (b"\0celery-compressed\0application/x-bz2\0abc", "application/x-bz2"),
        (b"\0celery-compressed\0application/zstd\0abc", "application/zstd says"),
        (b"\0celery-compressed\0application/x-gzip\0abc", "application/x-gzip says"),
    ] {
        let error = TaskResult::decode(document, LIMIT).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut bomb = b"\0celery-compressed\0application/x-gzip\0".to_vec();
    let mut packer = flate2::write::ZlibEncoder::new(&mut bomb, flate2::Compression::fast());
    packer.write_all(&vec![b' '; LIMIT + 1]).unwrap();
    packer.finish().unwrap();
    let error = TaskResult::decode(&bomb, LIMIT).unwrap_err().to_string();
    assert!(error.contains("more than the 1048576 bytes"), "{error}");
    assert!(TaskResult::decode(&vec![b' '; LIMIT + 1], LIMIT).is_err());
}

#[test]
fn states_are_words_and_words_states() {
    for state in ["PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED", "REJECTED", "IGNORED", "PROGRESS"] {
        assert_eq!(State::from(state).to_string(), state);
        assert_eq!(State::from(state).is_ready(), matches!(state, "SUCCESS" | "FAILURE" | "REVOKED"), "{state}");
        assert_eq!(State::from(state).is_exception(), matches!(state, "RETRY" | "FAILURE" | "REVOKED"), "{state}");
        assert_eq!(matches!(State::from(state), State::Other(_)), state == "PROGRESS");
    }
}

#[test]
fn an_exception_is_read_leniently() {
    let of = |json: &str| Exception::from_value(&Value::parse(json.as_bytes(), 9).unwrap());
    assert_eq!(of(r#"{"exc_type": "E", "exc_message": "x"}"#), Some(Exception::new("", "E", vec!["x".into()])));
    assert_eq!(of(r#"{"exc_type": "E", "exc_message": null, "exc_module": 1}"#), Some(Exception::new("", "E", vec![])));
    assert_eq!(of(r#"{"exc_message": []}"#), None);
    assert_eq!(of("17"), None);
    assert_eq!(Exception::new("m", "Outer.Inner", vec![]).to_string(), "Inner()");
    assert_eq!(Exception::builtin("ValueError", "kaboom").to_string(), "ValueError('kaboom')");
}

#[test]
fn a_tree_is_read_in_both_forms_and_nothing_else() {
    let of = |json: &str| ResultTree::from_value(&Value::parse(json.as_bytes(), 99).unwrap());
    assert_eq!(of(r#"["a", null]"#), Ok(ResultTree::task("a")));
    assert_eq!(of(r#"[["a"], []]"#), Ok(ResultTree::group("a", vec![])));
    for (json, reason) in [
        ("7", "expected a node of results"),
        (r#"["a"]"#, "expected a node of results"),
        ("[7, null]", "the id of a result, found an integer"),
        (r#"[["a", null, null], null]"#, "the id of a result and its parent"),
        (r#"[["a", 7], null]"#, "at [0][1]: expected a node"),
        (r#"["a", 7]"#, "at [1]: expected children"),
        (r#"["a", [["b", null], 7]]"#, "at [1][1]: expected a node"),
    ] {
        let error = of(json).unwrap_err().to_string();
        assert!(error.contains(reason), "{json}: {error}");
    }
    assert_eq!(
        GroupResult::decode(br#"{"result": 7}"#, LIMIT).unwrap_err().to_string(),
        "at result: expected a node of results: [[id, parent], children]"
    );
    assert!(GroupResult::decode(b"{}", LIMIT).is_err());
}
