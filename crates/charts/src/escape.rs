//! Text that can do nothing in HTML or SVG.

/// Escapes a text, for content and for attributes in quotes. What no document may hold (control
/// characters) and what turns text round becomes U+FFFD.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(each),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ if each.is_control() => out.push('\u{fffd}'),
            _ => out.push(each),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        for (text, want) in [
            ("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            ("a\" onload=\"b", "a&quot; onload=&quot;b"),
            ("&lt;", "&amp;lt;"),
            ("a\u{0}\u{1b}[2J\u{202e}b\n", "a\u{fffd}\u{fffd}[2J\u{fffd}b\n"),
        ] {
            assert_eq!(escape(text), want);
        }
    }
}
