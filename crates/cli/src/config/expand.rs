//! `${VAR}` in values, and what is hidden when values are shown.

use super::Value;

/// Replaces every `${VAR}` and `${VAR:-default}`. `$${` stands for `${` itself; any other `$` is left alone, so that shell text keeps working.
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

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// The value with its secrets replaced by `***`: passwords in URLs, and what stands behind a header or variable name that sounds like one.
/// Variables are not expanded where values are shown, so a secret that comes from `${VAR}` does not appear at all.
pub(super) fn masked(key: &str, value: &Value) -> Value {
    let one = |text: &str| match key {
        "header" => mask_pair(text, ':', ": ***"),
        "env" | "form" => mask_pair(text, '=', "=***"),
        _ => mask_urls(text),
    };
    match value {
        Value::Bool(value) => Value::Bool(*value),
        Value::Text(text) => Value::Text(one(text)),
        Value::List(list) => Value::List(list.iter().map(|text| one(text)).collect()),
    }
}

fn mask_pair(text: &str, separator: char, hidden: &str) -> String {
    const SECRET: [&str; 8] = ["auth", "token", "secret", "password", "passwd", "cookie", "api-key", "apikey"];
    match text.split_once(separator) {
        Some((name, _)) if SECRET.iter().any(|word| name.to_ascii_lowercase().replace('_', "-").contains(word)) => {
            format!("{name}{hidden}")
        }
        _ => mask_urls(text),
    }
}

/// `redis://me:secret@host` as `redis://me:***@host`, wherever URLs stand in the text.
pub fn mask_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (scheme, behind) = rest.split_at(at + 3);
        out.push_str(scheme);
        let end = behind.find(|c: char| c.is_whitespace() || "/?#\"'".contains(c)).unwrap_or(behind.len());
        let authority = &behind[..end];
        // A password may hold an @ that nobody encoded: the last one ends it.
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => {
                out.push_str(user);
                out.push_str(":***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = &behind[end..];
    }
    out.push_str(rest);
    out
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
            ("proxy", "http://me@h", "http://me@h"),
            ("http", "GET https://u:p@ss@h/x?u=http://a:b@c", "GET https://u:***@h/x?u=http://a:***@c"),
            ("http", "GET http://h:80/a:b@c", "GET http://h:80/a:b@c"),
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
