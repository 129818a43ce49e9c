//! Marks that are read of a message, and written into it, while it is handed on.

use std::{sync::LazyLock, time::SystemTime};

use longshore_celery::{Limits, Message};
use memchr::memmem::Finder;

use crate::json;

/// Returns true if it was taken and put back before.
pub(super) fn is_redelivered(raw: &[u8]) -> bool {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("redelivered"));
    NAME.find(raw).is_some()
        && [&["headers", "redelivered"][..], &["properties", "delivery_info", "redelivered"]]
            .iter()
            .any(|path| json::member(raw, path) == Some(b"true"))
}

/// Returns the same message, marked as kombu marks what it puts back, with this count of crashes.
/// What is no message stays as it is.
pub(super) fn mark_redelivered(raw: &[u8], crashes: u32) -> Vec<u8> {
    longshore_celery::mark_redelivered(raw, Some(crashes)).unwrap_or_else(|_| raw.to_vec())
}

/// Returns its priority; 0 where it says none.
pub(super) fn priority_of(raw: &[u8]) -> u8 {
    json::member(raw, &["properties", "priority"]).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// Returns true if its time has not come.
pub(super) fn lies_ahead(raw: &[u8], now: SystemTime) -> bool {
    Message::decode(raw, &Limits::default()).ok().and_then(|message| message.eta).is_some_and(|eta| eta > now)
}
