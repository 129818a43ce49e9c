use super::{
    Value,
    msgpack::{parse, write},
};

fn read(packed: &[u8]) -> Result<Value, String> {
    parse(packed, 128, 1000).map_err(|error| error.to_string())
}

#[test]
fn what_is_packed_is_unpacked() {
    let json = r#"[null, true, false, 0, 127, 128, 65536, 4294967296, 18446744073709551615, -1, -33, -129, -32769, -2147483649, -9223372036854775808,
        1.5, "", "ß", {"a": {"b": []}}, [[1], 2]]"#;
    let mut value = Value::parse(json.as_bytes(), 128).unwrap();
    if let Value::List(list) = &mut value {
        list.extend([Value::Text("x".repeat(70_000)), Value::List(vec![Value::Null; 300]), Value::Float(f64::INFINITY)]);
    }
    let mut packed = Vec::new();
    write(&value, &mut packed).unwrap();
    assert_eq!(read(&packed), Ok(value));
}

#[test]
fn what_has_no_form_is_an_error() {
    for json in ["99999999999999999999", "-9223372036854775809", r#"["\ud800"]"#] {
        let error = write(&Value::parse(json.as_bytes(), 9).unwrap(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("MessagePack has no form for"), "{error}");
    }
}

#[test]
fn what_lies_about_its_length_or_its_type_is_an_error() {
    for (packed, reason) in [
        (&[][..], "ends inside a value"),
        (&[0xdd, 0xff, 0xff, 0xff, 0xff], "ends inside a value"),
        (&[0xdf, 0xff, 0xff, 0xff, 0xff, 0xa1, b'a', 1], "ends inside a value"),
        (&[0xdb, 0xff, 0xff, 0xff, 0xff, b'a'], "ends inside a value"),
        (&[0xc6, 0xff, 0xff, 0xff, 0xff], "ends inside a value"),
        (&[0xc1], "no JSON form"),
        (&[0xd6, 0xff, 0, 0, 0, 0], "no JSON form"),
        (&[0xa1, 0xff], "not UTF-8"),
        (&[0x81, 0x90, 1], "a member's name is a list"),
        (&[1, 2], "1 bytes follow"),
        (&[0x91; 200], "nested more than 128 levels"),
        (&[&[0xdc, 0x10, 0][..], &[0xc0; 4096]].concat(), "more than 1000 values"),
    ] {
        let error = read(packed).unwrap_err();
        assert!(error.contains(reason), "{packed:?}: {error}");
    }
    assert_eq!(read(&[0x82, 1, 2, 0xc0, 3]).unwrap().to_string(), r#"{"1": 2, "null": 3}"#);
}
