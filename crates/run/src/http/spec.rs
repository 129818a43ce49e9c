//! What the command line says about a request: method and URL, headers, body, and the statuses that
//! count as success.

use std::{borrow::Cow, fmt};

use reqwest::{
    Method,
    header::{HeaderName, HeaderValue},
};

/// One kind of request, its texts still templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSpec {
    /// The method, when one was given.
    pub method: Option<Method>,
    /// The URL's template.
    pub url: String,
    /// Header names and the templates of their values.
    pub headers: Vec<(String, String)>,
    /// The body to send.
    pub body: Option<BodySpec>,
}

/// The template of a body. It also decides the content type, unless a header does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodySpec {
    /// `--body-json`: sent as `application/json`, refused when it is not JSON.
    Json(String),
    /// `--body`: sent as `text/plain`.
    Text(String),
    /// `--form`: names and the templates of their values, sent as
    /// `application/x-www-form-urlencoded`.
    Form(Vec<(String, String)>),
}

impl HttpSpec {
    /// Parses `POST https://h/x/{id}`: an optional method and the template of a URL.
    ///
    /// A first word of letters alone is a method; everything behind it is the URL, which may hold
    /// spaces (inside `{{ … }}`).
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (method, url) = match text.split_once(char::is_whitespace) {
            Some((word, rest)) if is_method(word) => (Some(word), rest.trim_start()),
            _ if is_method(text) => return Err(format!("`{text}` is a method without a URL; write '{text} https://host/path'")),
            _ => (None, text),
        };
        let method = match method {
            None => None,
            // The letters were checked, so this cannot fail; the error path costs nothing.
            Some(word) => {
                Some(Method::from_bytes(word.to_ascii_uppercase().as_bytes()).map_err(|_| format!("`{word}` is not an HTTP method"))?)
            }
        };
        if url.is_empty() {
            return Err("a URL is missing; write 'GET https://host/path/{}'".to_owned());
        }
        // A template that begins with a placeholder gets its scheme from the record.
        if !url.starts_with('{') && !has_http_scheme(url) {
            let url = longshore_brokers::mask(url);
            return Err(match url.split_once("://") {
                Some((scheme, _)) => format!("`{scheme}` in `{url}` is not supported; write http:// or https://"),
                None => format!("`{url}` has no scheme; write http://{url} or https://{url}"),
            });
        }
        Ok(Self { method, url: url.to_owned(), headers: Vec::new(), body: None })
    }

    /// The method that is used: the one given, else POST when there is a body, else GET (as curl
    /// has it).
    pub fn effective_method(&self) -> Method {
        match (&self.method, &self.body) {
            (Some(method), _) => method.clone(),
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        }
    }
}

fn is_method(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic())
}

fn has_http_scheme(url: &str) -> bool {
    let scheme = |prefix: &str| url.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    scheme("http://") || scheme("https://")
}

/// Parses `Name: value` into its two halves. The value may be a template, so only the name is
/// checked, and the value when it holds no brace.
///
/// # Errors
/// A sentence that says what is wrong with the text and what to write.
pub fn parse_header(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once(':') else {
        // Whatever stands behind the first word may be a secret.
        let (word, more) = text.split_once(char::is_whitespace).map_or((text, ""), |(word, _)| (word, " …"));
        return Err(format!("`{}{more}` is not a header; write 'Name: value'", longshore_brokers::mask_text(word)));
    };
    let (name, value) = (name.trim(), value.trim());
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a header name; write 'Name: value'"))?;
    if !value.contains('{') && HeaderValue::from_bytes(value.as_bytes()).is_err() {
        return Err(format!("the value of header `{name}` holds a character that headers cannot carry"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A value as one part of a URL: everything but letters, digits and `-._~` becomes `%XX` (RFC 3986,
/// section 2.3).
///
/// Meant for placeholders behind the start of a URL template, so that a value with `/`, `?` or a
/// space stays one path segment or query value.
pub fn encode_component(value: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if value.bytes().all(plain) {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(out)
}

/// The statuses that count as success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    /// Parses `200-299,304`; a class such as `2xx` is a range too.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=999).contains(status));
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim) {
            let range = match (part.split_once('-'), part.strip_suffix("xx")) {
                (Some((from, to)), _) => status(from).zip(status(to)).filter(|(from, to)| from <= to),
                (None, Some(hundreds)) => hundreds.parse().ok().filter(|class| (1u16..=9).contains(class)).map(|c| (c * 100, c * 100 + 99)),
                (None, None) => status(part).map(|status| (status, status)),
            };
            ranges
                .push(range.ok_or_else(|| format!("`{part}` is not an HTTP status or a range of them; write `200-299`, `304` or `2xx`"))?);
        }
        Ok(Self(ranges))
    }

    /// Returns true if this status counts as success.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

impl Default for StatusRanges {
    /// 200 to 299.
    fn default() -> Self {
        Self(vec![(200, 299)])
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_a_url() {
        for (text, method, url) in [
            ("POST https://h/x/{id}", "POST", "https://h/x/{id}"),
            ("http://h/{}", "GET", "http://h/{}"),
            ("GET {}", "GET", "{}"),
            ("{}", "GET", "{}"),
            ("{{ base | trim }}/x", "GET", "{{ base | trim }}/x"),
            ("get   HTTP://h", "GET", "HTTP://h"),
            (" PURGE http://h/{{ a }}/b ", "PURGE", "http://h/{{ a }}/b"),
        ] {
            let spec = HttpSpec::parse(text).unwrap();
            assert_eq!((spec.effective_method().as_str(), spec.url.as_str()), (method, url), "{text}");
        }
        for (text, part) in [
            ("", "missing"),
            ("GET", "method without a URL"),
            ("h/x", "write http://h/x"),
            ("GET ftp://h/x", "`ftp`"),
            ("example.com/{id}", "no scheme"),
        ] {
            let error = HttpSpec::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_body_without_a_method_is_posted() {
        let mut spec = HttpSpec::parse("http://h").unwrap();
        spec.body = Some(BodySpec::Text("x".to_owned()));
        assert_eq!(spec.effective_method(), Method::POST);
        spec.method = Some(Method::PUT);
        assert_eq!(spec.effective_method(), Method::PUT);
    }

    #[test]
    fn statuses_are_numbers_ranges_and_classes() {
        let ranges = StatusRanges::parse("200-299, 304,4xx").unwrap();
        for (status, want) in [(199, false), (200, true), (299, true), (300, false), (304, true), (404, true), (500, false)] {
            assert_eq!(ranges.contains(status), want, "{status}");
        }
        assert_eq!(ranges.to_string(), "200-299,304,400-499");
        for bad in ["", "2", "200-", "299-200", "abc", "0xx", "200,,300", "99999"] {
            assert!(StatusRanges::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_is_a_name_a_colon_and_a_value() {
        assert_eq!(parse_header("Authorization: Bearer a:b"), Ok(("Authorization".to_owned(), "Bearer a:b".to_owned())));
        assert_eq!(parse_header("X-Id:{id}"), Ok(("X-Id".to_owned(), "{id}".to_owned())));
        for bad in ["no colon", "sp ace: x", ": x", "X: a\nb"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_component_keeps_unreserved_characters_only() {
        for (value, want) in [("abc-1._~", "abc-1._~"), ("a b/c?d&e", "a%20b%2Fc%3Fd%26e"), ("é", "%C3%A9"), ("100%", "100%25")] {
            assert_eq!(encode_component(value), want);
        }
    }
}
