//! `${VAR}` in values, and what is hidden when values are shown.

use longshore_brokers::{mask, mask_value, mask_words};

use super::Value;

/// Replaces every `${VAR}` and `${VAR:-default}`. `$${` stands for `${` itself; any other `$` is
/// left alone, so that shell text keeps working.
///
/// # Errors
/// The name of a variable that is not set and has no default.
pub(super) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, behind) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = behind;
            continue;
        }
        out.push_str(before);
        let inner = behind.find('}').map(|end| (&behind[..end], &behind[end + 1..]));
        let variable = inner.map(|(inner, after)| match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default), after),
            None => (inner, None, after),
        });
        match variable.filter(|(name, ..)| is_name(name)) {
            // Not a variable of ours: `${x%.png}` is the shell's.
            None => {
                out.push_str("${");
                rest = behind;
            }
            Some((name, default, after)) => {
                let value = lookup(name).or_else(|| default.map(str::to_owned));
                out.push_str(&value.ok_or_else(|| name.to_owned())?);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Returns whether a text has a `${VAR}` in it, be it set or not.
pub(super) fn reads_variables(text: &str) -> bool {
    let asked = std::cell::Cell::new(false);
    let none = |_: &str| {
        asked.set(true);
        Some(String::new())
    };
    let _ = expand(text, &none);
    asked.get()
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// Returns the value without its secrets: what is given under a name that sounds like one, of a
/// setting, a header or a variable, and passwords in URLs. Variables are not expanded where values
/// are shown, so a secret that comes from `${VAR}` does not appear at all.
pub(super) fn masked(key: &str, value: &Value) -> Value {
    let url = matches!(key, "broker" | "results" | "proxy" | "bootstrap");
    let one = |text: &str| match is_reference(text) {
        true => text.to_owned(),
        false if url => mask(text),
        false => mask_value(key, text),
    };
    match value {
        Value::Bool(value) => Value::Bool(*value),
        Value::Text(text) => Value::Text(one(text)),
        Value::List(list) => Value::List(mask_words(list)),
    }
}

/// Returns whether all of a text is one `${VAR}`.
fn is_reference(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_shell_text_is_not() {
        let lookup = |name: &str| (name == "TOKEN").then(|| "t0k".to_owned());
        for (text, want) in [
            ("Bearer ${TOKEN}", Ok("Bearer t0k")),
            ("${TOKEN}${TOKEN}", Ok("t0kt0k")),
            ("${NONE:-x}/${NONE:-}", Ok("x/")),
            ("${NONE}", Err("NONE")),
            ("$${TOKEN} $TOKEN $", Ok("${TOKEN} $TOKEN $")),
            ("${x%.png} ${} ${1a} ${open", Ok("${x%.png} ${} ${1a} ${open")),
        ] {
            assert_eq!(expand(text, &lookup), want.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for (key, text, want) in [
            ("proxy", "http://me:s3cret@h:3128", "http://me:***@h:3128"),
            ("proxy", "http://me@h", "http://***@h"),
            ("broker", "${BROKER}", "${BROKER}"),
            ("broker", "redis://:a/b c@h", "redis://:***@h"),
            ("setting", "sasl.password=x", "sasl.password=***"),
            ("http", "GET https://u:p@ss@h/x?u=http://a:b@c", "GET https://u:***@h/x?u=http://a:***@c"),
            ("http", "GET http://h:80/a?token=b", "GET http://h:80/a?token=***"),
            ("header", "Authorization: Bearer x", "Authorization: ***"),
            ("header", "X-Api-Key: x", "X-Api-Key: ***"),
            ("header", "Accept: a/b", "Accept: a/b"),
            ("env", "DB_PASSWORD=x", "DB_PASSWORD=***"),
            ("env", "DB=redis://:pw@h", "DB=redis://:***@h"),
        ] {
            assert_eq!(masked(key, &Value::Text(text.to_owned())), Value::Text(want.to_owned()), "{text}");
        }
    }
}
