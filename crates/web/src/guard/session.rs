//! The cookie of who has shown the token: a time, signed by the token. It needs no memory here,
//! outlives a restart, and ends with the token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, header};

use crate::options::Secret;

const NAME: &str = "longshore_session";
/// Time for which a cookie is taken.
const LASTS: Duration = Duration::from_secs(12 * 3600);

fn until(seconds: u64) -> String {
    format!("longshore session until {seconds}")
}

/// Returns the cookie, as a header's value.
pub(crate) fn cookie(secret: &Secret, now: SystemTime) -> String {
    let end = now.duration_since(UNIX_EPOCH).unwrap_or_default() + LASTS;
    let (end, lasts) = (end.as_secs(), LASTS.as_secs());
    let proof = secret.sign(&until(end));
    format!("{NAME}={end}.{proof}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts}")
}

/// Returns whether a request has such a cookie whose time has not passed.
pub(crate) fn is_valid(secret: &Secret, headers: &HeaderMap, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies.flat_map(|cookies| cookies.split(';')).any(|cookie| {
        let session = || {
            let (end, proof) = cookie.trim().strip_prefix(NAME)?.strip_prefix('=')?.split_once('.')?;
            let end: u64 = end.parse().ok()?;
            Some(end > now && end - now <= LASTS.as_secs() && secret.has_signed(&until(end), proof))
        };
        session().unwrap_or(false)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_cookie_ends_with_its_time_and_with_its_token() {
        let (secret, now) = (Secret::new("the token of today"), UNIX_EPOCH + Duration::from_secs(1_000_000));
        let made = cookie(&secret, now);
        let value = made.split(';').next().expect("a value");
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(&format!("theme=dark; {value}")).expect("a header"));
        assert!(is_valid(&secret, &headers, now) && is_valid(&secret, &headers, now + LASTS - Duration::from_secs(1)));
        assert!(!is_valid(&secret, &headers, now + LASTS), "its time has passed");
        assert!(!is_valid(&secret, &headers, now - LASTS), "it was made in the future");
        assert!(!is_valid(&Secret::new("the token of tomorrow"), &headers, now));
    }
}
