//! Who asks, and from where: every request passes here before anything else looks at it.
//!
//! 1. Without a token or password, the `Host` must be a loopback name: a page of another site whose
//!    name was pointed at this machine gets nothing.
//! 2. Who asks proves it, as [`Access`] says. After ten wrong proofs an address has to wait with
//!    further ones. A right proof that nobody finds by trying passes all the same: behind a proxy
//!    all have one address, and anybody could lock out the others.
//! 3. What changes something comes from our own pages (`Sec-Fetch-Site`, `Origin`, and a token in
//!    the form that no other site can read), or is a JSON body, which no form of another site can
//!    send. With `read_only` it is refused.
//!
//! `guard/session.rs`: the cookie of who has shown the token; `guard/tries.rs`: wrong proofs.

mod session;
mod tries;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use base64::Engine as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;
use tower_service::Service as _;

use self::tries::Tries;
use crate::{
    audit::ActionTail,
    error::WebError,
    options::{Access, Secret, WebOptions},
    templates::refusal,
};

/// Longest body of a form, in bytes.
const LONGEST_FORM: usize = 256 << 10;
/// Longest body of the form for the token, which anybody may send, in bytes.
const LONGEST_LOGIN: usize = 4 << 10;
/// Time for the body of a form.
const FORM_WITHIN: Duration = Duration::from_secs(30);
/// The field of a form that holds its token.
const TOKEN_FIELD: &str = "_token";
/// Kinds of bodies that programs send.
const JSON_KINDS: [&str; 4] = ["application/json", "application/x-ndjson", "application/jsonl", "application/jsonlines"];
/// Paths of which nothing is secret and nothing can be changed.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/healthcheck"];

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Name, as far as the access tells.
    pub(crate) name: Cow<'static, str>,
    /// The address that the request came from.
    pub(crate) from: IpAddr,
}

/// The address of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Fields of a form whose token was right, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct FormFields(Vec<(String, String)>);

impl FormFields {
    /// Takes fields that were read, in their order.
    pub(crate) fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// Returns the field of this name, if it is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns all fields of this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Decides who may do what.
pub(crate) struct Guard {
    pub(crate) options: WebOptions,
    /// Signs the tokens of forms; it is this process's own.
    forms: Secret,
    tries: Tries,
    /// Address on which the site is served, once it is.
    pub(crate) address: OnceLock<SocketAddr>,
    /// Last actions that were taken here.
    pub(crate) actions: ActionTail,
}

/// Fate of a request that is not admitted.
#[derive(Debug)]
enum Turned {
    /// It is refused.
    Away(WebError),
    /// The caller has to prove something first.
    Unknown,
}

impl Guard {
    pub(crate) fn new(options: WebOptions) -> Self {
        let mut key = [0; 32];
        // Without randomness of the system nothing can be kept secret.
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
            .unwrap_or_else(|_| panic!("the system gives no random bytes"));
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { options, forms: Secret::new(&key), tries: Tries::default(), address: OnceLock::new(), actions: ActionTail::default() }
    }

    /// Returns the token of forms for whoever has this name.
    pub(crate) fn form_token(&self, name: &str) -> String {
        self.forms.sign(name)
    }

    /// Returns the proof that a text is of this server. It is no token of a form: those are signed
    /// names, and no name has two lines.
    pub(crate) fn mark(&self, text: &str) -> String {
        self.forms.sign(&format!("said\n{text}"))
    }

    /// Returns whether this is the proof of a text.
    pub(crate) fn has_marked(&self, text: &str, mark: &str) -> bool {
        self.forms.has_signed(&format!("said\n{text}"), mark)
    }

    /// Returns who asks.
    fn caller(&self, parts: &Parts, peer: IpAddr, now: Instant) -> Result<Caller, Turned> {
        let known = |name: Cow<'static, str>| Ok(Caller { name, from: peer });
        let authorization = |scheme: &str| {
            let text = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            let (word, rest) = text.split_once(' ')?;
            word.eq_ignore_ascii_case(scheme).then(|| rest.trim().to_owned())
        };
        let prove = |right: bool, secret: &Secret| {
            if right && secret.passes_always() {
                return Ok(());
            }
            match self.tries.wait(peer, now) {
                Some(wait) => Err(Turned::Away(
                    WebError::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens or passwords from this address: wait")
                        .retry_after(wait),
                )),
                None if right => Ok(()),
                None => {
                    self.tries.wrong(peer, now);
                    Err(Turned::Unknown)
                }
            }
        };
        match &self.options.access {
            Access::Open if is_loopback_host(&parts.headers) => known("anybody on this machine".into()),
            Access::Open => Err(Turned::Away(WebError::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this page answers to localhost, 127.0.0.1 and [::1] only: for other names it needs a token (--web-token) or a password",
            ))),
            Access::Token(secret) => {
                if session::is_valid(secret, &parts.headers, SystemTime::now()) {
                    return known("whoever has the token".into());
                }
                let Some(token) = authorization("bearer") else { return Err(Turned::Unknown) };
                prove(secret.is(&token), secret)?;
                known("whoever has the token".into())
            }
            Access::Basic { user, password } => {
                let Some(encoded) = authorization("basic") else { return Err(Turned::Unknown) };
                let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
                let decoded = String::from_utf8_lossy(&decoded);
                let (given, proof) = decoded.split_once(':').unwrap_or_default();
                let is_right = password.is(proof);
                prove(is_right && given == user, password)?;
                known(user.clone().into())
            }
            Access::Proxy { header, from } => {
                if !from.contains(&peer) {
                    return Err(Turned::Away(WebError::forbidden(format!("requests come through the proxy only, not from {peer}"))));
                }
                let user = parts.headers.get(header.as_str()).and_then(|user| user.to_str().ok()).filter(|user| !user.trim().is_empty());
                match user {
                    Some(user) => known(user.trim().to_owned().into()),
                    None => Err(Turned::Away(WebError::forbidden(format!("the proxy named no user in {header}")))),
                }
            }
        }
    }

    /// Takes a token that was typed in. Returns the cookie for who has shown it.
    pub(crate) fn log_in(&self, token: &str, peer: IpAddr) -> Result<String, WebError> {
        let Access::Token(secret) = &self.options.access else { return Err(WebError::not_found("login here")) };
        let now = Instant::now();
        let is_right = secret.is(token);
        if let Some(wait) = self.tries.wait(peer, now).filter(|_| !(is_right && secret.passes_always())) {
            return Err(WebError::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens from this address: wait").retry_after(wait));
        }
        if !is_right {
            self.tries.wrong(peer, now);
            return Err(WebError::new(StatusCode::UNAUTHORIZED, "this is not the token"));
        }
        Ok(session::cookie(secret, SystemTime::now()))
    }

    /// Returns how who is unknown can become known.
    fn ask(&self, parts: &Parts) -> Response {
        let wants_page = parts.method == Method::GET && !is_for_programs(parts.uri.path());
        let (scheme, error) = match &self.options.access {
            Access::Basic { .. } => ("Basic realm=\"longshore\", charset=\"UTF-8\"", "a user and a password are needed"),
            _ if wants_page => {
                let next = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                let encoded: String = next.bytes().map(percent).collect();
                return Redirect::to(&format!("/login?next={encoded}")).into_response();
            }
            _ => ("Bearer realm=\"longshore\"", "a token is needed: Authorization: Bearer TOKEN"),
        };
        let mut response = WebError::new(StatusCode::UNAUTHORIZED, error).json();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        response
    }
}

fn percent(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// Returns whether a path is for programs, which want JSON.
pub(crate) fn is_for_programs(path: &str) -> bool {
    path.starts_with("/api/") || path == "/metrics"
}

/// Refuses a request for this path: programs are told JSON, people a page.
pub(crate) fn refuse(error: &WebError, path: &str) -> Response {
    if is_for_programs(path) { error.json() } else { refusal(error) }
}

/// Returns a path of this site to go on to, whatever was asked for. Browsers take `\` for `/`, and
/// leave out control characters.
pub(crate) fn own_path(path: &str) -> &str {
    let is_ours = path.starts_with('/') && !path.starts_with("//") && !path.contains(|c: char| c == '\\' || c.is_control());
    if is_ours { path } else { "/" }
}

/// Has a site answer a request, or answers it.
pub(crate) async fn guard(guard: Arc<Guard>, mut site: Router, request: Request) -> Response {
    let mut response = match admit(&guard, request).await {
        Ok(request) => match site.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(response) => response,
    };
    add_headers(response.headers_mut());
    response
}

/// Returns the request with whoever asks and the fields of its form, or the answer that refuses it.
async fn admit(guard: &Guard, request: Request) -> Result<Request, Response> {
    let (mut parts, body) = request.into_parts();
    let refused = |error: &WebError, parts: &Parts| refuse(error, parts.uri.path());
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::from([127, 0, 0, 1]), |peer| peer.0.ip());
    let path = parts.uri.path();
    if !is_readable(path) {
        let said = "this path cannot be read: it has a control character, or bytes that are no UTF-8";
        return Err(refused(&WebError::new(StatusCode::BAD_REQUEST, said), &parts));
    }
    let is_open = OPEN_PATHS.contains(&path) || path.starts_with("/assets/");
    if is_open && is_safe(&parts.method) {
        return Ok(Request::from_parts(parts, body));
    }
    let (is_login, is_for_programs) = (path == "/login", is_for_programs(path));
    let caller = if is_login {
        Caller { name: "login".into(), from: peer }
    } else {
        match guard.caller(&parts, peer.to_canonical(), Instant::now()) {
            Ok(caller) => caller,
            Err(Turned::Unknown) => return Err(guard.ask(&parts)),
            Err(Turned::Away(error)) => return Err(refused(&error, &parts)),
        }
    };
    parts.extensions.insert(caller.clone());
    if is_safe(&parts.method) {
        return Ok(Request::from_parts(parts, body));
    }
    if guard.options.read_only && !is_login {
        return Err(refused(&WebError::forbidden("this page is read-only: nothing can be changed here"), &parts));
    }
    if !is_same_origin(&parts.headers) {
        return Err(refused(&WebError::forbidden("this request comes from another site: nothing was changed"), &parts));
    }
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if is_for_programs {
        if JSON_KINDS.iter().any(|json| kind.eq_ignore_ascii_case(json)) {
            return Ok(Request::from_parts(parts, body));
        }
        let said = "send JSON: Content-Type: application/json (or application/x-ndjson for JSON Lines)";
        return Err(refused(&WebError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, said), &parts));
    }
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let said = "a form is expected: Content-Type: application/x-www-form-urlencoded";
        return Err(refused(&WebError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, said), &parts));
    }
    let fields = match read_form(body, if is_login { LONGEST_LOGIN } else { LONGEST_FORM }).await {
        Ok(fields) => fields,
        Err(error) => return Err(refused(&error, &parts)),
    };
    let is_ours = fields.get(TOKEN_FIELD).is_some_and(|token| guard.forms.has_signed(&caller.name, token));
    if !is_ours {
        let said = "this form is not of this page, or the server was started again since: load the page anew and try once more";
        return Err(refused(&WebError::forbidden(said), &parts));
    }
    parts.extensions.insert(fields);
    Ok(Request::from_parts(parts, Body::empty()))
}

async fn read_form(body: Body, longest: usize) -> Result<FormFields, WebError> {
    let bytes = read_within(body, longest).await?;
    let mut fields = Vec::new();
    for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let mut half = || decode(halves.next().unwrap_or_default());
        fields.push((half(), half()));
    }
    Ok(FormFields(fields))
}

/// Reads the body of an action, which is short.
pub(crate) async fn read_whole(body: Body) -> Result<Bytes, WebError> {
    read_within(body, LONGEST_FORM).await
}

async fn read_within(body: Body, longest: usize) -> Result<Bytes, WebError> {
    match timeout(FORM_WITHIN, Limited::new(body, longest).collect()).await {
        Ok(Ok(read)) => Ok(read.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(WebError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a form or an action has at most {longest} bytes here")))
        }
        Ok(Err(error)) => Err(WebError::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
        Err(_) => {
            let said = format!("the body did not come within {} s: nothing was done", FORM_WITHIN.as_secs());
            Err(WebError::new(StatusCode::REQUEST_TIMEOUT, said))
        }
    }
}

/// Decodes `%20` and `+`.
pub(crate) fn decode(text: &[u8]) -> String {
    String::from_utf8_lossy(&percent_decoded(text, true)).into_owned()
}

fn percent_decoded(text: &[u8], plus_is_blank: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(if *first == b'+' && plus_is_blank { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    decoded
}

/// Returns whether a path says something: text without control characters.
fn is_readable(path: &str) -> bool {
    if !path.contains('%') {
        return !path.chars().any(char::is_control);
    }
    let decoded = percent_decoded(path.as_bytes(), false);
    std::str::from_utf8(&decoded).is_ok_and(|path| !path.chars().any(char::is_control))
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Returns whether a request's `Host` is a name of this machine for itself.
fn is_loopback_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.');
    let above = name.rfind('.').map_or(name, |dot| &name[dot + 1..]);
    above.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Returns whether a request that changes something comes from a page of ours, or from a program.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    // Browsers of before say only this; programs say neither.
    match (text("origin"), text("host")) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host)),
        (Some(_), None) => false,
    }
}

/// Adds what browsers must know of every answer.
fn add_headers(headers: &mut HeaderMap) {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    );
    const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
    const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
    const RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    const NO_GUESS: HeaderValue = HeaderValue::from_static("nosniff");
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    headers.reserve(6);
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_GUESS);
    headers.insert(header::REFERRER_POLICY, SAME_ORIGIN);
    headers.insert(OPENER, SAME_ORIGIN);
    headers.insert(RESOURCE, SAME_ORIGIN);
    headers.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
}

#[cfg(test)]
mod tests;
