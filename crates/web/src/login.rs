//! Login page: a form for the token, and what becomes of what is typed in.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
};

use crate::{
    frame::{Frame, Page},
    guard::{FormFields, Peer, decode, own_path},
    templates::refusal,
};

fn next_of(query: Option<&str>) -> String {
    let next = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("next="));
    own_path(&decode(next.unwrap_or("/").as_bytes())).to_owned()
}

/// Shows the form.
pub(crate) async fn show(State(frame): State<Arc<Frame>>, RawQuery(query): RawQuery) -> Response {
    let context = minijinja::context! { next => next_of(query.as_deref()), form_token => frame.guard.form_token("login") };
    frame.bare(Page::new("login.html", "Log in", context))
}

/// Takes the token.
pub(crate) async fn take(
    State(frame): State<Arc<Frame>>,
    peer: Option<Extension<Peer>>,
    Extension(form): Extension<FormFields>,
) -> Response {
    let ip = peer.map_or(std::net::IpAddr::from([127, 0, 0, 1]), |peer| peer.0.0.ip()).to_canonical();
    match frame.guard.log_in(form.get("token").unwrap_or_default().trim(), ip) {
        Ok(cookie) => {
            let mut response = Redirect::to(own_path(form.get("next").unwrap_or("/"))).into_response();
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(error) => refusal(&error),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_way_back_is_read_from_the_query() {
        assert_eq!(super::next_of(Some("a=b&next=%2Fqueues%3Fx%3D1")), "/queues?x=1");
        assert_eq!(super::next_of(Some("next=%2F%2Fevil")), "/");
    }
}
