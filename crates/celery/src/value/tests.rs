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

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Order {
    id: u32,
    price: f64,
    tags: Vec<String>,
    note: Option<String>,
    how: How,
    #[serde(default)]
    rest: Value,
    by_number: std::collections::BTreeMap<i32, bool>,
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum How {
    Fast,
    Weight(f32),
    Between(i64, i64),
    By { name: String },
}

#[test]
fn rust_types_become_values_and_values_rust_types() {
    let rest = parse(r#"[123456789012345678901234567890123456789012345, 18446744073709551615, "\ud800", NaN]"#);
    for how in [How::Fast, How::Weight(1.5), How::Between(-1, i64::MAX), How::By { name: "ß".into() }] {
        let order = Order { id: 7, price: 1.0, tags: vec!["a".into()], note: None, how, rest: Value::Null, by_number: [(-3, true)].into() };
        let value = Value::from_serialize(&order).unwrap();
        assert_eq!(value, parse(&serde_json::to_string(&order).unwrap()), "as JSON has it");
        assert_eq!(value.to::<Order>().unwrap(), order);
    }
    // What JSON cannot say goes through both as it is (NaN is equal to nothing, so its text is
    // compared).
    let again: Value = Value::from_serialize(&rest).unwrap().to().unwrap();
    assert_eq!(json(&again), json(&rest));
    assert_eq!(Value::from_serialize(&u128::MAX).unwrap().to::<u128>().unwrap(), u128::MAX);
    assert!(parse("NaN").to::<f64>().unwrap().is_nan());
    assert_eq!(parse("3").to::<f64>().unwrap(), 3.0);
    assert_eq!(parse("[1, \"a\", null]").to::<(u8, String, ())>().unwrap(), (1, "a".into(), ()));
    let foreign: Value = serde_json::from_str(r#"{"a": [1, -2.5, null, true, 18446744073709551615]}"#).unwrap();
    assert_eq!(serde_json::to_string(&foreign).unwrap(), r#"{"a":[1,-2.5,null,true,18446744073709551615]}"#);
}

#[test]
fn a_name_that_comes_twice_counts_once_for_a_type() {
    #[derive(serde::Deserialize)]
    struct One {
        a: i64,
    }
    assert_eq!(parse(r#"{"a": 1, "b": 0, "a": 2}"#).to::<One>().unwrap().a, 2);
    let many = format!("{{{}\"a\": 2}}", "\"a\": 1, ".repeat(20));
    assert_eq!(parse(&many).to::<One>().unwrap().a, 2);
}

#[test]
fn bytes_travel_as_kombu_tags_them() {
    struct Bytes(Vec<u8>);
    impl serde::Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }
    impl<'de> serde::Deserialize<'de> for Bytes {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Take;
            impl serde::de::Visitor<'_> for Take {
                type Value = Bytes;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("bytes")
                }
                fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                    Ok(Bytes(bytes))
                }
            }
            deserializer.deserialize_byte_buf(Take)
        }
    }
    for (bytes, tagged) in [
        (b"abc".to_vec(), r#"{"__type__": "bytes", "__value__": "abc"}"#),
        (vec![0xff, 0], r#"{"__type__": "base64", "__value__": "/wA="}"#),
    ] {
        let value = Value::from_serialize(&Bytes(bytes.clone())).unwrap();
        assert_eq!(json(&value), tagged);
        assert_eq!(value.to::<Bytes>().unwrap().0, bytes);
    }
    assert!(parse("7").to::<Bytes>().is_err());
}

#[test]
fn what_does_not_fit_a_type_is_an_error_with_its_place() {
    let order = r#"{"id": 1, "price": 2, "tags": [], "how": "Fast", "by_number": {}}"#;
    assert!(parse(order).to::<Order>().is_ok());
    for (from, to, reason) in [
        (r#""id": 1"#, r#""id": -1"#, "at id: invalid value: integer `-1`, expected u32"),
        (r#""tags": []"#, r#""tags": ["a", 7]"#, "at tags[1]: invalid type: integer `7`, expected a string"),
        (r#""tags": []"#, r#""tags": ["\ud800"]"#, "at tags[0]: expected a string, found a text with lone surrogates"),
        (r#""how": "Fast""#, r#""how": "Slow""#, "at how: unknown variant `Slow`"),
        (r#""how": "Fast""#, r#""how": {"Weight": "x"}"#, "at how.Weight: invalid type: string"),
        (r#""how": "Fast""#, r#""how": 7"#, "at how: expected a variant"),
        (r#""how": "Fast""#, r#""how": "By""#, "at how: expected an object under the variant \"By\""),
        (r#""price": 2, "#, "", "missing field `price`"),
        (r#""by_number": {}"#, r#""by_number": {"x": true}"#, "at by_number: invalid type: string \"x\", expected i32"),
        (r#""id": 1"#, r#""id": 1e0"#, "at id: invalid type: floating point `1.0`, expected u32"),
    ] {
        let error = parse(&order.replace(from, to)).to::<Order>().unwrap_err().to_string();
        assert!(error.starts_with(reason), "{to}: {error}");
    }
    assert_eq!(parse("[1, 2, 3]").to::<(u8, u8)>().unwrap_err().to_string(), "expected a list of 2, found 3");
    assert_eq!(parse(&"9".repeat(60)).to::<i64>().unwrap_err().to_string(), "expected i64, found an integer of 60 digits");
    let keys = std::collections::BTreeMap::from([(vec![1], 2)]);
    assert!(Value::from_serialize(&[keys]).unwrap_err().to_string().contains("[0]: a map whose keys"));
}

#[test]
fn a_type_that_nests_without_end_is_an_error() {
    struct Endless;
    impl serde::Serialize for Endless {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq([Endless])
        }
    }
    let error = Value::from_serialize(&Endless).unwrap_err();
    assert_eq!(error.reason, "nested more than 512 levels deep");
}
