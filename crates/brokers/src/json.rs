//! One member of a JSON document, without reading the rest into memory. Bytes come from outside:
//! nothing here panics or recurses.

/// Returns the value at this path of object members, as it is written. Of equal names the first
/// counts.
pub(crate) fn member<'a>(json: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    let mut value = json;
    for name in path {
        value = child(value, name)?;
    }
    let begin = blank(value, 0);
    let end = skip(value, begin)?;
    value.get(begin..end)
}

/// Returns the text at this path, if it is one without escapes.
pub(crate) fn text<'a>(json: &'a [u8], path: &[&str]) -> Option<&'a str> {
    let inner = member(json, path)?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(inner).ok().filter(|text| !text.contains('\\'))
}

fn child<'a>(json: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut at = blank(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    loop {
        let begin = blank(json, at);
        if json.get(begin) != Some(&b'"') {
            return None;
        }
        let end = skip(json, begin)?;
        let found = json.get(begin + 1..end - 1)? == name.as_bytes();
        at = blank(json, end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        at = blank(json, at + 1);
        if found {
            return json.get(at..);
        }
        at = blank(json, skip(json, at)?);
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
}

fn blank(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Returns the end of the value that begins here.
fn skip(json: &[u8], begin: usize) -> Option<usize> {
    let (mut at, mut depth) = (begin, 0_usize);
    loop {
        match *json.get(at)? {
            b'"' => {
                at += 1;
                loop {
                    match *json.get(at)? {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                at += 1;
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth > 0 => at += 1,
            _ => {
                let length = json[at..].iter().position(|byte| b",}] \t\r\n".contains(byte)).unwrap_or(json.len() - at);
                return (length > 0).then_some(at + length);
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Returns the task id that a message's headers give.
pub(crate) fn task_id(message: &[u8]) -> Option<&str> {
    text(message, &["headers", "id"])
}

/// Returns true if a result document says SUCCESS.
pub(crate) fn is_success(document: &[u8]) -> bool {
    text(document, &["status"]) == Some("SUCCESS")
}

#[cfg(test)]
mod tests {
    use super::{is_success, member, task_id, text};

    #[test]
    fn a_member_is_found_at_its_path_and_nowhere_else() {
        let json = br#" {"a": [1, {"b": "no"}], "c\"": "}", "h" : {"x": {"id": 1}, "id": "one"}, "n": -1.5e3 , "t": "a\\b"} "#;
        assert_eq!(text(json, &["h", "id"]), Some("one"));
        assert_eq!(member(json, &["h", "x"]), Some(&br#"{"id": 1}"#[..]));
        assert_eq!(member(json, &["n"]), Some(&b"-1.5e3"[..]));
        assert_eq!(member(json, &["b"]), None);
        assert_eq!(member(json, &["a", "b"]), None);
        assert_eq!(text(json, &["t"]), None, "escapes are not undone");
        assert_eq!(task_id(br#"{"body": "x", "headers": {"task": "t", "id": "7"}}"#), Some("7"));
    }

    #[test]
    fn a_result_is_a_success_by_its_own_status_alone() {
        assert!(is_success(br#"{"status": "SUCCESS", "result": 1}"#));
        assert!(is_success(br#"{"result":{"status":"FAILURE"},"status":"SUCCESS"}"#));
        assert!(!is_success(br#"{"status": "FAILURE", "result": {"status": "SUCCESS"}}"#));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = br#"{"a": {"b": "\"x\\", "c": [1, 2]}, "headers": {"id": "x"}}"#;
        for cut in 0..good.len() {
            let _ = (member(&good[..cut], &["headers", "id"]), member(&good[cut..], &["a", "c"]));
            for byte in *b"\"\\{}[],: \0" {
                let mut bad = good.to_vec();
                bad[cut] = byte;
                let _ = (member(&bad, &["headers", "id"]), is_success(&bad));
            }
        }
        assert_eq!(member(b"", &["a"]), None);
        assert_eq!(member(&b"[".repeat(100_000), &[]), None);
    }
}
