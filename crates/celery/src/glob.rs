//! Patterns as Python's `fnmatch` has them.

/// Python's `fnmatch`, for whole names. Each `*` is tried once from where the last one stood, so
/// that no pattern takes more than steps in the square.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, name[n]) {
            (p, n) = (next, n + 1);
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (p, n) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Returns where the pattern goes on, if what stands at `p` matches this one character.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => {
            let from = p + 1 + usize::from(pattern.get(p + 1) == Some(&'!'));
            // A bracket right behind the opening one is a member of the set.
            let Some(end) = (from + 1..pattern.len()).find(|at| pattern[*at] == ']') else { return (c == '[').then_some(p + 1) };
            let (mut at, mut found) = (from, false);
            while at < end {
                if at + 2 < end && pattern[at + 1] == '-' {
                    found |= (pattern[at]..=pattern[at + 2]).contains(&c);
                    at += 3;
                } else {
                    found |= pattern[at] == c;
                    at += 1;
                }
            }
            (found != (from > p + 1)).then_some(end + 1)
        }
        same => (*same == c).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_python() {
        let rows = [
            ("w*@lab", "w1@lab", true),
            ("w*@lab", "w1@lab2", false),
            ("*", "", true),
            ("w?@*", "w1@lab", true),
            ("w?@*", "w12@lab", false),
            ("w[0-9]@lab", "w1@lab", true),
            ("w[!0-9]@lab", "w1@lab", false),
            ("w[]x]", "w]", true),
            ("w[", "w[", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("", "w", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }
}
