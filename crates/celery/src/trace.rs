//! A place in a trace: W3C's `traceparent` and `tracestate`. They travel among a message's headers,
//! where OpenTelemetry of Celery's workers puts and finds them, too.

use crate::value::{Map, Value};

/// Name of the header that names the trace, and the span that sends.
const PARENT: &str = "traceparent";
/// Name of the header with what tracing systems want to know beside it.
const STATE: &str = "tracestate";
/// Longest state that is carried, in bytes: as much as everybody has to carry.
const LONGEST_STATE: usize = 512;
/// Flags that are passed on: `sampled`, and that the trace's id is random. A reader of version 00
/// clears the others.
const KNOWN_FLAGS: u8 = 0b11;
/// Longest parent that is carried, in bytes. That of version 00 has 55.
const LONGEST_PARENT: usize = 200;

/// A place in a trace: what is sent from there belongs to it.
///
/// ```
/// use longshore_celery::TraceContext;
///
/// let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let trace = TraceContext::parse(parent, Some("vendor=1")).unwrap();
/// assert_eq!((trace.parent(), trace.state()), (parent, Some("vendor=1")));
/// assert!(TraceContext::parse("00-0-0-01", None).is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    parent: String,
    state: Option<String>,
}

impl TraceContext {
    /// Reads a `traceparent` and its `tracestate`; `None` if the first is none. A state that cannot
    /// be carried is left out.
    #[must_use]
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let parent = parent.trim();
        let is_state =
            |state: &&str| !state.is_empty() && state.len() <= LONGEST_STATE && state.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        let state = state.map(str::trim).filter(is_state).map(str::to_owned);
        is_parent(parent).then(|| Self { parent: parent.to_owned(), state })
    }

    /// Reads it from a message's headers.
    #[must_use]
    pub fn of(headers: &Map) -> Option<Self> {
        Self::parse(headers.get(PARENT)?.as_str()?, headers.get(STATE).and_then(Value::as_str))
    }

    /// Returns the trace and the span, as `traceparent` says it.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Returns what `tracestate` says.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Returns the place of a span that begins a trace. Neither id may be 0.
    #[must_use]
    pub fn begin(trace: u128, span: u64, is_recorded: bool) -> Self {
        Self { parent: format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(is_recorded)), state: None }
    }

    /// Returns the place of a span below this one, which is recorded where this one is. Its id may
    /// not be 0.
    #[must_use]
    pub fn below(&self, span: u64) -> Self {
        Self { parent: format!("00-{}-{span:016x}-{:02x}", &self.parent[3..35], self.flags() & KNOWN_FLAGS), state: self.state.clone() }
    }

    /// Returns the id of the trace.
    #[must_use]
    pub fn trace_id(&self) -> u128 {
        u128::from_str_radix(&self.parent[3..35], 16).unwrap_or_default()
    }

    /// Returns the id of the span.
    #[must_use]
    pub fn span_id(&self) -> u64 {
        u64::from_str_radix(&self.parent[36..52], 16).unwrap_or_default()
    }

    /// Returns whether somebody records the trace: its flag `sampled`.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.flags() & 1 == 1
    }

    fn flags(&self) -> u8 {
        u8::from_str_radix(&self.parent[53..55], 16).unwrap_or_default()
    }

    /// Puts it into a message's headers, in place of what they name.
    pub fn put(&self, headers: &mut Map) {
        headers.set(PARENT, self.parent.as_str());
        headers.remove(STATE);
        if let Some(state) = &self.state {
            headers.set(STATE, state.as_str());
        }
    }

    /// Puts it into a message's headers, unless they name a trace already.
    pub(crate) fn fill(&self, headers: &mut Map) {
        if headers.get(PARENT).is_none() {
            self.put(headers);
        }
    }
}

/// Returns whether this is a `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zeros; a
/// later version may say more behind it.
fn is_parent(text: &str) -> bool {
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |id: &str, digits: usize| hex(id, digits) && id.bytes().any(|byte| byte != b'0');
    let mut parts = text.splitn(5, '-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, span, flags, more) = (next(), next(), next(), next(), parts.next());
    let is_known = hex(version, 2) && version != "ff" && (version != "00" || more.is_none());
    let is_plain = text.len() <= LONGEST_PARENT && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_known && is_plain && is_id(trace, 32) && is_id(span, 16) && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_the_recommendation_allows_is_a_place_in_a_trace() {
        for (text, is_one) in [
            (PLACE, true),
            (&PLACE.replace("00-0", "cc-0"), true),
            (&format!("{}-what-comes", PLACE.replace("00-0", "cc-0")), true),
            (&format!("{PLACE}-more"), false),
            (&PLACE.replace("00-0", "ff-0"), false),
            (&PLACE.to_uppercase(), false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            (&PLACE[..54], false),
            (&format!("{}-{}", PLACE.replace("00-0", "cc-0"), "x".repeat(200)), false),
            ("", false),
        ] {
            assert_eq!(TraceContext::parse(text, None).is_some(), is_one, "{text}");
        }
        let state = |state: &str| TraceContext::parse(PLACE, Some(state)).and_then(|trace| trace.state);
        assert_eq!(state("a=1,b=2").as_deref(), Some("a=1,b=2"));
        for bad in ["", "a=\nb", "ä=1", &"a".repeat(513)] {
            assert_eq!(state(bad), None);
        }
    }

    #[test]
    fn a_place_below_another_is_of_the_same_trace() {
        let parent = TraceContext::parse(&PLACE.replace("00-0", "cc-0").replace("-01", "-ff-more"), Some("v=1")).unwrap();
        let below = parent.below(0xab);
        assert_eq!(below.parent(), "00-0af7651916cd43dd8448eb211c80319c-00000000000000ab-03");
        assert_eq!((below.trace_id(), below.span_id(), below.state()), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xab, Some("v=1")));
        assert!(below.is_recorded() && !TraceContext::begin(1, 2, false).is_recorded());
        assert_eq!(TraceContext::parse(TraceContext::begin(1, 2, true).parent(), None), Some(TraceContext::begin(1, 2, true)));
    }

    #[test]
    fn a_message_that_names_a_trace_keeps_it() {
        let trace = TraceContext::parse(PLACE, None).unwrap();
        let mut headers = Map::from_iter([("traceparent", "its own"), ("tracestate", "v=1")]);
        trace.fill(&mut headers);
        assert_eq!((headers.get("traceparent").and_then(Value::as_str), headers.0.len()), (Some("its own"), 2));
        let mut headers = Map::from_iter([("tracestate", "of another"), ("x", "y")]);
        trace.fill(&mut headers);
        assert_eq!(TraceContext::of(&headers), Some(trace));
        assert_eq!(headers.0.len(), 2);
    }
}
