use super::{Map, Value};

fn parse(json: &str) -> Value {
    Value::parse(json.as_bytes(), 128).expect(json)
}

fn json(value: &Value) -> String {
    String::from_utf8(value.to_json()).unwrap()
}

#[test]
fn what_python_writes_is_written_back_the_same() {
    let digits = "9".repeat(1000);
    for text in [
        "null",
        "true",
        "[]",
        "{}",
        "[1, -2, 0, 1.5, 1e+16, 1e-05, 0.0001, 123456789012345.0, -0.0, 5e-324, 1.7976931348623157e+308]",
        "[9223372036854775807, -9223372036854775808, 9223372036854775808]",
        "[NaN, Infinity, -Infinity]",
        r#"{"a": [{"b": "c"}], "__type__": "datetime"}"#,
        r#""\u00df \u20ac \ud83d\ude00 \" \\ \n\r\t\b\f \u0000 \u007f /""#,
        r#"["\ud800", "\udc00x", "\ud800\ud800"]"#,
        &digits,
    ] {
        assert_eq!(json(&parse(text)), text);
    }
}

#[test]
fn what_is_lenient_is_read() {
    assert_eq!(parse(r#" { "a" : 1 , "a" : 2 } "#).get("a"), Some(&Value::Int(2)), "the last one counts");
    assert_eq!(parse("-0"), Value::Int(0));
    assert_eq!(parse("1e999"), Value::Float(f64::INFINITY));
    assert_eq!(parse(r#""\ud83d\ude00\/""#), Value::Text("😀/".into()));
    assert_eq!(parse("\"ß\n\""), Value::Text("ß\n".into()));
    assert_eq!(parse(r#""\ud800\u0041""#), Value::Escaped(r"\ud800\u0041".into()));
    assert_eq!(parse(r#"{"\u0061": 1}"#).get("a"), Some(&Value::Int(1)));
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for (text, reason) in [
        ("", "it ends at byte 0 where a value was expected"),
        ("nul", "expected a value at byte 0, found 'n'"),
        ("[1,]", "expected a value at byte 3, found ']'"),
        ("[1 2]", "expected ',' or ']' at byte 3, found '2'"),
        ("{1: 2}", "expected a member's name at byte 1"),
        ("{\"a\" 2}", "expected ':' at byte 5"),
        ("{\"a\": 2", "it ends at byte 7 where ',' or '}' was expected"),
        ("01", "a number"),
        ("-", "a number"),
        ("1.", "nothing more at byte 1, found '.'"),
        ("1 ß", "nothing more at byte 2, found 'ß'"),
        ("\"a", "it ends at byte 2 where the end of a text"),
        ("\"a\\", "the end of a text"),
        (r#""ab\x""#, "a known escape at byte 3"),
        (r#""\u12""#, "a known escape"),
        (r#""\ud800\u12""#, "a known escape"),
        (r#"{"\ud800": 1}"#, "lone surrogate"),
        ("\u{feff}1", "a value at byte 0"),
    ] {
        let error = Value::parse(text.as_bytes(), 128).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let error = Value::parse(b"\"\xff\"", 128).unwrap_err().to_string();
    assert_eq!(error, "not UTF-8 at byte 1");
}

#[test]
fn deep_nesting_is_an_error_whatever_the_limit() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels)).into_bytes();
        assert!(Value::parse(&nested(100), 100).is_ok());
        assert!(Value::parse(&nested(101), 100).is_err());
        for levels in [10_000, 3_000_000] {
            let error = Value::parse(&nested(levels), usize::MAX).unwrap_err();
            assert_eq!(error.to_string(), "nested more than 512 levels deep");
        }
        let deepest = Value::parse(&nested(512), usize::MAX).unwrap();
        assert_eq!(deepest.clone(), deepest);
        assert_eq!(deepest.to_string().len(), deepest.to_json().len());
    }
}

#[test]
fn it_is_shown_as_it_reads_best() {
    assert_eq!(parse(r#"{"stra\u00dfe": ["\u20ac", null, "\n\u0001"]}"#).to_string(), r#"{"straße": ["€", null, "\n\u0001"]}"#);
}

#[test]
fn maps_set_get_and_remove_the_last_of_a_name() {
    let mut map = Map::from_iter([("a", 1), ("b", 2), ("a", 3)]);
    assert_eq!(map.get("a"), Some(&Value::Int(3)));
    map.set("b", 5);
    map.set("c", 6);
    assert_eq!(map.iter().map(|(name, _)| name).collect::<String>(), "abac");
    assert_eq!(map.remove("a"), Some(Value::Int(3)));
    assert_eq!(map.get("a"), Some(&Value::Int(1)));
    assert_eq!(map.remove("x"), None);
    assert_eq!(map.len(), 3);
}

#[test]
fn a_tagged_value_is_known_by_its_two_members() {
    assert_eq!(parse(r#"{"__type__": "decimal", "__value__": "1.50"}"#).tagged(), Some(("decimal", &Value::Text("1.50".into()))));
    assert_eq!(parse(r#"{"__type__": "decimal", "__value__": "1.50", "x": 1}"#).tagged(), None);
    assert_eq!(parse(r#"{"__type__": 1, "__value__": "1.50"}"#).tagged(), None);
}
