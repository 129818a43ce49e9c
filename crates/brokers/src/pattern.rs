//! Patterns of the routing keys that a subscription wants.

/// Returns true if a routing key matches: `#` is everything, `worker.#` what begins with `worker.`,
/// anything else is itself.
pub(crate) fn matches(pattern: &str, key: &str) -> bool {
    match pattern.strip_suffix('#') {
        Some(begin) => key.starts_with(begin) || begin.strip_suffix('.') == Some(key),
        None => pattern == key,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pattern_is_everything_a_beginning_or_itself() {
        let rows = [
            ("#", "", true),
            ("#", "task.sent", true),
            ("worker.#", "worker.online", true),
            ("worker.#", "worker", true),
            ("worker.#", "workers.online", false),
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("", "", true),
        ];
        for (pattern, key, expected) in rows {
            assert_eq!(super::matches(pattern, key), expected, "{pattern} {key}");
        }
    }
}
