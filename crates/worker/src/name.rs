//! The name of a function's task: the last two words of its path, `shop::tasks::add` → `tasks.add`.
//! Generated code needs it as a constant.

/// Returns the length of the name of the task at this path.
pub const fn name_length(path: &str) -> usize {
    // `::` becomes `.`.
    path.len() - start(path.as_bytes()) - 1
}

/// Returns the name in bytes.
pub const fn name_bytes<const N: usize>(path: &str) -> [u8; N] {
    let path = path.as_bytes();
    let (mut bytes, mut from, mut to) = ([0; N], start(path), 0);
    while to < N {
        if path[from] == b':' {
            bytes[to] = b'.';
            from += 1;
        } else {
            bytes[to] = path[from];
        }
        from += 1;
        to += 1;
    }
    bytes
}

/// Returns `prefix.name` in bytes.
pub const fn prefixed<const N: usize>(prefix: &str, name: &str) -> [u8; N] {
    let (prefix, name) = (prefix.as_bytes(), name.as_bytes());
    let (mut bytes, mut to) = ([b'.'; N], 0);
    while to < N {
        if to < prefix.len() {
            bytes[to] = prefix[to];
        } else if to > prefix.len() {
            bytes[to] = name[to - prefix.len() - 1];
        }
        to += 1;
    }
    bytes
}

/// Returns the place at which the last word but one begins.
const fn start(path: &[u8]) -> usize {
    let (mut at, mut separators) = (path.len(), 0);
    while at > 0 {
        if path[at - 1] == b':' {
            separators += 1;
            if separators == 3 {
                return at;
            }
        }
        at -= 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_last_two_words() {
        const fn named<const N: usize>(path: &str) -> [u8; N] {
            name_bytes(path)
        }
        assert_eq!(&named::<{ name_length("shop::tasks::add") }>("shop::tasks::add"), b"tasks.add");
        assert_eq!(&prefixed::<8>("shop", "add"), b"shop.add");
        assert_eq!(&named::<{ name_length("shop::add") }>("shop::add"), b"shop.add");
    }
}
