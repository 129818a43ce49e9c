//! Hides secrets wherever something is shown or written down: settings, errors, banners, journals,
//! replies to remote control.
//!
//! There is one judgement of what a secret is, and it is generous: what only looks like one is
//! hidden, too. A secret is what stands before the `@` of a URL (also of one that is misspelled),
//! and what is given under a name that [sounds like one](is_secret).

use std::borrow::Cow;

/// Text that is shown in place of a secret.
pub const HIDDEN: &str = "***";

/// Returns a URL (or several, separated by `;`) with `***` in place of its secrets. All of the text
/// is taken for the URL, so that a password may hold anything; where that is not known,
/// [`mask_text`] is meant.
/// ```
/// use longshore_brokers::mask;
///
/// assert_eq!(mask("redis://me:p@ss/w@host:6379/0?password=x"), "redis://me:***@host:6379/0?password=***");
/// assert_eq!(mask("redis:/me:secret@host"), "redis:/***@host");
/// assert_eq!(mask("sqlite:a:b@c.db"), "sqlite:a:b@c.db");
/// ```
pub fn mask(url: &str) -> String {
    // A `;` parts URLs only where another one begins; it may stand in a password.
    let mut parts: Vec<String> = Vec::new();
    for part in url.split(';') {
        match parts.last_mut() {
            Some(before) if !part.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) => {
                before.push(';');
                before.push_str(part);
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts.iter().map(|part| pairs(&userinfo(part, true), true)).collect::<Vec<_>>().join(";")
}

/// Returns a text with `***` in place of the secrets in it: of URLs, which end at white space and
/// quotes, and of what is given as `name=value`, `name: value` or `"name": "value"`.
pub fn mask_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let ends = |c: char| c.is_whitespace() || "\"'`<>".contains(c);
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let (word, behind) = rest.split_at(at);
        out.push_str(&userinfo(word, false));
        let end = behind.chars().next().map_or(0, char::len_utf8);
        out.push_str(&behind[..end]);
        rest = &behind[end..];
    }
    out.push_str(&userinfo(rest, false));
    pairs(&out, false)
}

/// Returns what is given under a name, as a setting, a header or a variable is: hidden if the name
/// sounds like a secret's, else without the secrets in it.
pub fn mask_value(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    if is_secret(name) { HIDDEN.to_owned() } else { mask_word(value) }
}

/// Returns a command line with `***` in place of the secrets in it, word by word.
/// ```
/// use longshore_brokers::mask_words;
///
/// let words = ["curl", "-H", "Authorization: Bearer x", "--password", "y", "-u", "me:z", "https://t@host"].map(str::to_owned);
/// let shown = ["curl", "-H", "Authorization: ***", "--password", "***", "-u", "me:***", "https://***@host"];
/// assert_eq!(mask_words(&words), shown);
/// ```
pub fn mask_words(words: &[String]) -> Vec<String> {
    let mut before = "";
    let shown = words.iter().map(|word| {
        let flag = std::mem::replace(&mut before, word);
        let of_flag = flag.starts_with('-').then(|| flag.trim_start_matches('-')).filter(|name| !name.contains('='));
        match of_flag {
            Some("u" | "U" | "user" | "proxy-user") if !word.starts_with('-') => match word.split_once(':') {
                Some((user, _)) => format!("{user}:{HIDDEN}"),
                None => mask_word(word),
            },
            Some(name) if !word.starts_with("--") => mask_value(name, word),
            _ => mask_word(word),
        }
    });
    shown.collect()
}

/// Returns one word of a command line, or one value, without its secrets. Where it begins with the
/// name of a secret, all that follows is the secret.
fn mask_word(word: &str) -> String {
    if let Some((name, value)) = word.split_once('=')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return format!("{name}={}", mask_value(name.trim_start_matches('-'), value));
    }
    let begins_as_url = word.split_once(':').is_some_and(|(scheme, _)| is_known(scheme));
    if begins_as_url { mask(word) } else { mask_text(word) }
}

/// Returns whether a name sounds as if a secret was given under it: `sasl.password`, `GITHUB_PAT`,
/// `X-Api-Key`, `accessToken`.
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 24] = [
        "pass",
        "pasw",
        "psw",
        "pwd",
        "secret",
        "token",
        "credential",
        "cookie",
        "apikey",
        "api-key",
        "accesskey",
        "access-key",
        "privatekey",
        "private-key",
        "secretkey",
        "signature",
        "session-id",
        "sessionid",
        "bearer",
        "jwt",
        "jaas",
        "authoriz",
        "authentic",
        "connection-string",
    ];
    const WORDS: [&str; 8] = ["pat", "pw", "sig", "sid", "otp", "psk", "sas", "pem"];
    const PLACES: [&str; 6] = ["location", "file", "path", "dir", "type", "url"];
    // The shell's names of directories, which only sound like passwords.
    if matches!(name, "PWD" | "OLDPWD") {
        return false;
    }
    let name: String = decoded(name).chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    // `ssl.key.location` says where it is, not what.
    if words.last().is_some_and(|last| PLACES.contains(last)) {
        return false;
    }
    PARTS.iter().any(|part| name.contains(part))
        || words.iter().any(|word| WORDS.contains(word) || word.ends_with("auth"))
        || (words.len() > 1 && words.last() == Some(&"key"))
}

/// Returns the text with its `%XX` read, as far as they are ASCII.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
        out.push(code.map_or('%', char::from));
        rest = &rest[at + if code.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    out.into()
}

/// Returns whether a word may be a URL's scheme.
fn is_scheme(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
}

/// Returns whether a word is the scheme of a URL that may hold a password.
fn is_known(word: &str) -> bool {
    const KNOWN: [&str; 16] = [
        "amqp",
        "amqps",
        "ftp",
        "http",
        "https",
        "kafka",
        "mongodb",
        "mysql",
        "postgres",
        "postgresql",
        "redis",
        "rediss",
        "sentinel",
        "ssh",
        "valkey",
        "ws",
    ];
    KNOWN.contains(&word.to_ascii_lowercase().as_str())
}

/// Returns whether what stands behind a host's colon can be no port.
fn is_no_port(host: &str) -> bool {
    // Of an IPv6 address only what stands behind its bracket.
    let host = if host.starts_with('[') { host.rsplit_once(']').map_or(host, |(_, port)| port) } else { host };
    // What is filled in for each record may be a port.
    host.split_once(':').is_some_and(|(_, port)| !port.contains(['{', '$']) && !port.is_empty() && port.parse::<u16>().is_err())
}

/// Hides what stands before the host in a URL. `whole`: the text is a URL, if it is to mean
/// anything; else it is a word of a text.
fn userinfo(text: &str, whole: bool) -> String {
    if text.starts_with("sqlite:") || text.starts_with("memory:") || text.starts_with("mailto:") || (whole && crate::urls::is_file(text)) {
        return text.to_owned();
    }
    let Some(at) = text.find("://") else { return misspelled(text, whole) };
    let (before, rest) = text.split_at(at + 3);
    let scheme = before[..at].rsplit(|c: char| !(c.is_ascii_alphanumeric() || "+.-".contains(c))).next().unwrap_or_default();
    let is_web = matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https" | "ws" | "wss");
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let malformed = authority.split(',').any(|host| !host.contains('@') && is_no_port(host));
    let has_port = host.rsplit_once(':').is_some_and(|(name, _)| !name.contains(':') || name.ends_with(']'));
    // Where the host ends is clear only if all before it is well-formed: a password may hold `/`,
    // `?`, `#` and `@` that nobody encoded.
    let cut = match authority.rfind('@') {
        Some(cut) if is_web => Some(cut),
        None if is_web && !malformed && !has_port => None,
        _ => match rest.split_once('?') {
            Some((head, query)) if !query.contains('@') => head.rfind('@'),
            // In a query, or a password with a question mark.
            Some((_, query))
                if query
                    .split('@')
                    .next()
                    .unwrap_or_default()
                    .split('&')
                    .any(|pair| is_secret(pair.split('=').next().unwrap_or_default())) =>
            {
                return format!("{before}{HIDDEN}");
            }
            _ => rest.rfind('@'),
        },
    };
    let (shown, tail) = match cut {
        None if malformed => match authority.split_once(':') {
            Some((user, _)) => return format!("{before}{user}:{HIDDEN}"),
            None => (String::new(), rest),
        },
        None => (String::new(), rest),
        Some(cut) => match rest[..cut].split_once(':') {
            Some((user, _)) => (format!("{user}:{HIDDEN}@"), &rest[cut + 1..]),
            None => (format!("{HIDDEN}@"), &rest[cut + 1..]),
        },
    };
    let tail = if tail.contains("://") { userinfo(tail, false) } else { tail.to_owned() };
    format!("{before}{shown}{tail}")
}

/// Hides what stands before an `@` in what was meant as a URL: `redis:/me:secret@host`,
/// `redis//me:secret@host`, `me:secret@host`.
fn misspelled(text: &str, whole: bool) -> String {
    let Some((before, host)) = text.rsplit_once('@') else {
        // `redis:/:secret`
        let path = text.split_once(":/").filter(|(scheme, path)| is_known(scheme) && is_no_port(path.trim_start_matches('/')));
        return path.map_or_else(|| text.to_owned(), |(scheme, _)| format!("{scheme}:/{HIDDEN}"));
    };
    let word = before.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(before.len());
    let (scheme, rest) = before.split_at(word);
    let slashes = rest.len() - rest.trim_start_matches([':', '/', ';', ' ']).len();
    let meant = slashes > 0 && (is_known(scheme) || (is_scheme(scheme) && rest.starts_with(":/")));
    let is_userinfo = before.contains(':') && !before.contains('/');
    match (meant, whole || is_userinfo) {
        (true, _) => format!("{scheme}{}{HIDDEN}@{host}", &rest[..slashes]),
        (false, true) if before.contains(':') || before.contains('/') => format!("{HIDDEN}@{host}"),
        _ => text.to_owned(),
    }
}

/// Hides what is given under the name of a secret: `?token=…`, `password: …`,
/// `"secret": "…"`. In a text white space ends it, in a URL (`whole`) it does not.
fn pairs(text: &str, whole: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let ends = |c: char| c.is_whitespace() || "?&;,\"'`<>(){}=:/#@".contains(c);
    while let Some(at) = rest.find(['=', ':']) {
        let (before, sign, behind) = (&rest[..at], &rest[at..=at], &rest[at + 1..]);
        let quoted = before.trim_end().trim_end_matches(['"', '\'', '\\']);
        let from = quoted.rfind(ends).map_or(0, |at| at + quoted[at..].chars().next().map_or(1, char::len_utf8));
        let name = &quoted[from..];
        let in_query = sign == "=" && quoted[..from].ends_with(['?', '&']);
        let is_url = sign == ":" && behind.starts_with("//");
        out.push_str(before);
        out.push_str(sign);
        rest = behind;
        // A `key` is a secret in a query; elsewhere it is mostly a word.
        if name.is_empty() || is_url || !(is_secret(name) || (in_query && name.eq_ignore_ascii_case("key"))) {
            continue;
        }
        let value = behind.trim_start_matches([' ', '\t']);
        out.push_str(&behind[..behind.len() - value.len()]);
        // In JSON that is a string in JSON, backslashes stand before the quotes.
        let opening = value.len() - value.trim_start_matches('\\').len();
        let quote = value[opening..].chars().next().filter(|c| "\"'".contains(*c));
        let length = match (quote, sign) {
            (Some(quote), _) => {
                out.push_str(&value[..=opening]);
                rest = &value[opening + 1..];
                rest.find(quote).map_or(rest.len(), |end| end - rest[..end].bytes().rev().take_while(|byte| *byte == b'\\').count())
            }
            // A header is a line.
            (None, ":") => {
                rest = value;
                value.find(['\n', '\r', '"', '\'']).unwrap_or(value.len())
            }
            (None, _) => {
                rest = value;
                value.find(|c: char| c == '&' || (!whole && (c.is_whitespace() || "\"'".contains(c)))).unwrap_or(value.len())
            }
        };
        if length > 0 {
            out.push_str(HIDDEN);
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spellings of URLs and settings with `S3CRET` in them, none of which may show it; what is
    /// shown stands beside.
    const HOSTILE: &[(&str, &str)] = &[
        ("redis://:S3CRET@localhost/1", "redis://:***@localhost/1"),
        ("redis://me:S3:CRET@localhost", "redis://me:***@localhost"),
        ("redis://me:a/S3CRET@h:6379/0", "redis://me:***@h:6379/0"),
        ("redis://me:80/S3CRET@h", "redis://me:***@h"),
        ("redis://me:S3CRET?x@h", "redis://me:***@h"),
        ("redis://me:x#S3CRET@h", "redis://me:***@h"),
        ("redis://me:x;S3CRET@h", "redis://me:***@h"),
        ("redis://me:a S3CRET@h", "redis://me:***@h"),
        ("redis://S3CRET@localhost", "redis://***@localhost"),
        ("redis://:S3CRET", "redis://:***"),
        ("redis://h/0?password=S3CRET", "redis://h/0?password=***"),
        ("redis://h/0?password=x@S3CRET", "redis://***"),
        ("redis://h/0?pasword=S3CRET", "redis://h/0?pasword=***"),
        ("redis://h/0?PassWord=S3CRET&db=1", "redis://h/0?PassWord=***&db=1"),
        ("redis://h/0?password=a S3CRET", "redis://h/0?password=***"),
        ("redis://h/0?pass%77ord=S3CRET", "redis://h/0?pass%77ord=***"),
        ("unix:///tmp/r.sock?db=1&password=S3CRET", "unix:///tmp/r.sock?db=1&password=***"),
        (
            "sentinel://:S3CRET@a:1;sentinel://:S3CRET@b:2?sentinel_password=S3CRET&x=1",
            "sentinel://:***@a:1;sentinel://:***@b:2?sentinel_password=***&x=1",
        ),
        ("redis:/u:S3CRET@h", "redis:/***@h"),
        ("redis//u:S3CRET@h", "redis//***@h"),
        ("redis:u:S3CRET@h", "redis:***@h"),
        ("redis:/:S3CRET", "redis:/***"),
        ("redis;//u:S3CRET@h", "redis;//***@h"),
        ("redis: //u:S3CRET@h", "redis: //***@h"),
        ("rediss:///u:S3CRET@h", "rediss:///u:***@h"),
        ("rdis:/u:S3CRET@h", "rdis:/***@h"),
        ("u:S3CRET@h:6379", "***@h:6379"),
        (":S3CRET@h", "***@h"),
        ("amqp://me:S3CRET@host//", "amqp://me:***@host//"),
        ("https://u:S3@CRET@h/x?u=http://a:S3CRET@c", "https://u:***@h/x?u=http://a:***@c"),
        ("https://u:a/S3CRET@h", "https://u:***@h"),
        ("https://u:12/S3CRET@h", "https://u:***@h"),
        ("https://S3CRET@h/x", "https://***@h/x"),
        ("http//u:S3CRET@h", "http//***@h"),
        ("https://h/x?a=1&token=S3CRET", "https://h/x?a=1&token=***"),
        ("https://h/x?key=S3CRET", "https://h/x?key=***"),
        ("https://h/x?X-Amz-Signature=S3CRET&b=2", "https://h/x?X-Amz-Signature=***&b=2"),
        ("https://h/x#access_token=S3CRET", "https://h/x#access_token=***"),
        ("sasl.password=S3CRET", "sasl.password=***"),
        ("sasl.jaas.config=Module required password=\"S3CRET\";", "sasl.jaas.config=***"),
        ("GITHUB_PAT=S3CRET", "GITHUB_PAT=***"),
        ("AWS_SECRET_ACCESS_KEY=S3CRET", "AWS_SECRET_ACCESS_KEY=***"),
        ("AZURE_STORAGE_KEY=S3CRET", "AZURE_STORAGE_KEY=***"),
        ("DB_PWD=a S3CRET", "DB_PWD=***"),
        ("DATABASE_URL=postgres://u:S3CRET@h/d", "DATABASE_URL=postgres://u:***@h/d"),
        ("Authorization: Bearer S3CRET", "Authorization: ***"),
        ("Proxy-Authorization: Basic S3CRET", "Proxy-Authorization: ***"),
        ("X-Api-Key: S3CRET", "X-Api-Key: ***"),
        ("Cookie: a=S3CRET; b=S3CRET", "Cookie: ***"),
        ("{\"user\": \"a\", \"password\": \"S3CRET\", \"b\": 1}", "{\"user\": \"a\", \"password\": \"***\", \"b\": 1}"),
        ("{\\\"accessToken\\\": \\\"S3CRET\\\"}", "{\\\"accessToken\\\": \\\"***\\\"}"),
    ];

    #[test]
    fn no_secret_is_shown_however_it_is_spelled() {
        for (text, shown) in HOSTILE {
            assert_eq!(mask_word(text), *shown, "{text}");
            // As a URL, and as a word of a command line, behind a flag and alone.
            let words = [format!("--broker={text}"), (*text).to_owned()];
            for shown in [mask(text), mask_words(&words).concat()] {
                assert!(!shown.replace("SECRET", "").contains("CRET"), "{text}: {shown}");
            }
            assert_eq!(mask_word(shown), *shown, "what is hidden stays as it is");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for text in [
            "redis://localhost:6379/0",
            "redis://[::1]:6379/0",
            "kafka://a:9092,b:9092",
            "unix:///tmp/r.sock?db=1",
            "sqlite:a:b@c.db",
            "nonsense",
            "memory://x",
            "GET https://h/x?u=http://a/c&page=2",
            "GET http://127.0.0.1:8080/price/{id}",
            "http://127.0.0.1:{port}/x",
            "https://h/users/me@example.org",
            "mail me@example.org",
            "git@github.com:a/b.git",
            "host:5000/image@sha256:abc",
            "Accept: a/b",
            "author=me",
            "ssl.key.location=/x/client.pem",
            "key=5",
            "PWD=/home/me",
            "celery@host: gone",
            "echo {} | grep a=b",
        ] {
            assert_eq!(mask_word(text), text);
        }
        assert_eq!(mask("odd:name@x.db"), "odd:name@x.db", "a file");
    }

    #[test]
    fn names_of_secrets_are_known() {
        for (name, secret) in [
            ("sasl.password", true),
            ("GITHUB_PAT", true),
            ("path", false),
            ("patience", false),
            ("auth", true),
            ("author", false),
            ("X-Auth", true),
            ("oauth", true),
            ("key", false),
            ("api_key", true),
            ("compression", false),
            ("ssl.key.password", true),
            ("ssl.key.pem", true),
            ("secretFile", true),
            ("secret-file", false),
        ] {
            assert_eq!(is_secret(name), secret, "{name}");
        }
    }

    #[test]
    fn command_lines_are_shown_without_the_secrets_of_their_flags() {
        for (line, shown) in [
            ("run --broker redis://me:a/b@h -H Authorization:x ::: a", "run --broker redis://me:***@h -H Authorization:*** ::: a"),
            ("run -HAuthorization:x", "run -HAuthorization:***"),
            ("run --header=X-Token:x --env GITHUB_PAT=x", "run --header=X-Token:*** --env GITHUB_PAT=***"),
            ("kafka consume t --setting sasl.password=x", "kafka consume t --setting sasl.password=***"),
            ("run -- curl --user me:x --oauth2-bearer x http://h", "run -- curl --user me:*** --oauth2-bearer *** http://h"),
            ("run --key a --password --key b", "run --key a --password --key b"),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(mask_words(&words).join(" "), shown);
        }
    }
}
