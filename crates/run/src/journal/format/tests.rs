//! Lines written and read back.

use super::*;
use std::time::{Duration, UNIX_EPOCH};

fn line() -> ResultLine {
    ResultLine {
        seq: 12,
        key: 0x9c1e,
        nth: 0,
        task: "{\"id\":\"42\"}".into(),
        outcome: Word::Ok,
        attempts: 2,
        wait_ms: 31,
        run_ms: 412,
        started: Some(UNIX_EPOCH + Duration::from_millis(1_795_262_467_412)),
        slot: Some(7),
        shared: None,
        value: Some("{\"status\":200}".into()),
        error: None,
        raw: None,
        rest: None,
    }
}

fn encode(mut line: ResultLine) -> String {
    let mut out = Vec::new();
    let piece = Encoder::new("7f3a").result(&mut out, &mut line);
    assert_eq!(piece.line, 0..out.len());
    let text = String::from_utf8(out).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    text
}

#[test]
fn a_result_line_has_its_members_in_the_documented_order() {
    assert_eq!(
        encode(line()),
        "{\"job\":\"7f3a\",\"seq\":12,\"key\":\"00000000000000000000000000009c1e\",\"task\":{\"id\":\"42\"},\"outcome\":\"ok\",\"attempts\":2,\
         \"wait_ms\":31,\"run_ms\":412,\"started\":\"2026-11-21T12:01:07.412Z\",\"slot\":7,\"value\":{\"status\":200}}\n"
    );
}

#[test]
fn an_error_is_written_with_what_it_has() {
    let error = ErrorLine { kind: "status".into(), code: Some(-503), message: "a \"b\"\n".into(), tail: Some("\u{1}é".into()) };
    let text = encode(ResultLine { nth: 3, outcome: Word::Failed, value: None, error: Some(Box::new(error)), ..line() });
    assert!(text.contains(",\"n\":3,"), "{text}");
    assert!(text.ends_with(",\"error\":{\"kind\":\"status\",\"code\":-503,\"message\":\"a \\\"b\\\"\\n\",\"tail\":\"\\u0001é\"}}\n"));
}

#[test]
fn line_breaks_inside_a_json_value_do_not_break_the_line() {
    let text = encode(ResultLine { value: Some("{\n \"a\":\r\n1}".into()), ..line() });
    assert_eq!(text.matches('\n').count(), 1);
    assert!(!text.contains('\r'));
}

#[test]
fn raw_bytes_come_back_as_they_were() {
    for bytes in [&b"plain \"text\"\n"[..], &[0, 255, 10, 34, 92, 128, 65], b""] {
        let text = encode(ResultLine { raw: Some(bytes.into()), ..line() });
        assert_eq!(raw_of(text.as_bytes()).as_deref(), Some(bytes));
    }
    assert_eq!(raw_of(encode(line()).as_bytes()), None);
}

#[test]
fn every_line_reads_back() {
    let start = Start { seq: 5, key: u128::MAX, nth: 2, attempt: 3 };
    let mut out = Vec::new();
    Encoder::new("ab").start(&mut out, &start);
    assert_eq!(String::from_utf8_lossy(&out), format!("{{\"start\":5,\"key\":\"{}\",\"n\":2,\"attempt\":3}}\n", "f".repeat(32)));
    assert!(matches!(parse(&out), Ok(Line::Start(read)) if read == start));
    let text = encode(line());
    let Ok(Line::Result(head)) = parse(text.as_bytes()) else { panic!("{text}") };
    assert_eq!((head.key, head.nth, head.outcome, head.attempts, &*head.job), (0x9c1e, 0, Word::Ok, 2, "7f3a"));
    for bad in ["", "{}", "[1]", "{\"start\":1}", "{\"job\":\"a\"}", "{\"start\":1,\"key\":\"12\",\"attempt\":1}", "{\"other\":1}"] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn no_input_makes_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        let _ = parse(&bytes);
        let _ = raw_of(&bytes);
    }
}
