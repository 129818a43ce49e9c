//! Parts of a URL that are read before anybody knows what it names.

/// The schemes of all URLs that name a broker or a result backend.
pub(crate) const SCHEMES: [&str; 11] =
    ["sqlite", "redis", "rediss", "unix", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp", "rpc", "memory"];

/// Returns true for a plain path to a database file.
pub(crate) fn is_file(url: &str) -> bool {
    let path = url.split('?').next().unwrap_or(url);
    let ends = [".db", ".sqlite", ".sqlite3"].iter().any(|end| path.ends_with(end));
    ends && !path.contains("://") && !SCHEMES.iter().any(|scheme| path.split_once(':').is_some_and(|(name, _)| name == *scheme))
}

/// Returns a part of a URL with its `%XX` read.
///
/// # Errors
/// A sentence about what does not belong there.
pub fn decode_url(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (hex(rest.next()), hex(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("a `%` that is not followed by two hexadecimal digits (write `%25`)".into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "bytes that are no UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::is_file;

    #[test]
    fn a_path_is_a_file_by_its_end() {
        for path in ["tasks.db", "./a/b.sqlite", "/x/y.sqlite3", "tasks.db?sync=normal", "odd:name.db"] {
            assert!(is_file(path), "{path}");
        }
        for url in ["tasks.txt", "redis://host/x.db", "sqlite:x.db", "memory:x.db"] {
            assert!(!is_file(url), "{url}");
        }
    }
}
