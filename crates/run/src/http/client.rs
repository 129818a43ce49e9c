//! Sends one request, reads its answer within bounds, and sorts what goes wrong into kinds.

use std::{
    error::Error as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::{Duration, SystemTime},
};

use longshore_brokers::mask;
use longshore_core::{
    Again, TaskError,
    lane::child::{Rest, Spill},
};
use longshore_sys::files::{cause, output_in_directory};
use reqwest::{
    Method, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};

use super::{
    guard::{Guard, Resolver},
    reply::{HttpReply, ReplyBody},
    spec::StatusRanges,
};

/// Settings by which requests are sent and answers judged; one set for a whole run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpOptions {
    /// The statuses that count as success.
    pub ok: StatusRanges,
    /// From the start of the request to the last byte of its answer; no limit when absent.
    pub timeout: Option<Duration>,
    /// For name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Most redirects that are followed. With 0 the redirect itself is the answer.
    pub redirects: u32,
    /// HTTP/2 whatever the server says. Otherwise TLS servers are asked which version they speak,
    /// and plain ones get HTTP/1.1.
    pub http2: bool,
    /// Accept any certificate.
    pub insecure: bool,
    /// The proxy's URL, or `none` for none; the usual variables (`HTTPS_PROXY`, `NO_PROXY`, …)
    /// decide when absent.
    pub proxy: Option<String>,
    /// Bytes of a body that are kept; more is cut and marked.
    pub max_body: usize,
    /// Wait as long as `Retry-After` of a 429 or 503 says.
    pub retry_after: bool,
    /// Rules that say which hosts requests may go to, if their URLs are not the user's own words.
    pub guard: Option<Arc<Guard>>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            ok: StatusRanges::default(),
            timeout: Some(Duration::from_secs(30)),
            connect_timeout: Duration::from_secs(5),
            redirects: 5,
            http2: false,
            insecure: false,
            proxy: None,
            max_body: 16 << 20,
            retry_after: true,
            guard: None,
        }
    }
}

/// One request, all texts final.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL.
    pub url: String,
    /// Names and values; a name may occur more than once.
    pub headers: Vec<(String, String)>,
    /// The body to send.
    pub body: Option<Body>,
    /// File for a successful answer's body, whole and unbounded, instead of the reply. The
    /// directory must exist; a file of that name is replaced once the body is complete.
    pub save: Option<PathBuf>,
    /// Limit of the time until the complete answer is there, where it is not the one in the
    /// client's options.
    pub timeout: Option<Duration>,
    /// Place for the rest of a successful answer's body, beyond what is kept; the rest is not read
    /// if `None`.
    pub spill: Option<Spill>,
}

/// The kind of the error when that could not be written.
pub const SPOOL: &str = "spool";

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: None, save: None, timeout: None, spill: None }
    }
}

/// Body of a request.
#[derive(Clone, Debug)]
pub enum Body {
    /// Must be valid JSON.
    Json(Vec<u8>),
    /// Any bytes; `text/plain` unless a header says otherwise.
    Text(Vec<u8>),
    /// Form fields, encoded here.
    Form(Vec<(String, String)>),
}

impl Body {
    /// Content type and bytes.
    fn encode(self) -> Result<(&'static str, Vec<u8>), TaskError> {
        Ok(match self {
            Body::Text(bytes) => ("text/plain; charset=utf-8", bytes),
            Body::Json(bytes) => {
                // Checked here because the server's complaint would be a puzzle, and one for each
                // retry.
                serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|error| {
                    TaskError::invalid(format!("the body is not JSON ({error}); quote strings with `{{{{ x | tojson }}}}`"))
                })?;
                ("application/json", bytes)
            }
            Body::Form(fields) => {
                // A URL's query has the encoding of forms; its host is never used.
                let mut url = Url::parse("http://form").map_err(|error| TaskError::invalid(error.to_string()))?;
                url.query_pairs_mut().extend_pairs(fields);
                ("application/x-www-form-urlencoded", url.query().unwrap_or_default().as_bytes().to_vec())
            }
        })
    }
}

/// Sends requests over one pool of kept-alive connections. Clones share the pool.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: reqwest::Client,
    options: HttpOptions,
    /// This machine has no root certificates: https can only fail, and should say why.
    no_roots: bool,
}

/// Both reqwest and our other clients take rustls' process-wide provider. With two providers
/// compiled in and none chosen rustls panics at its first use, so one is chosen before any client
/// is made. A provider that stands already stays.
fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl HttpClient {
    /// A client with these options. Certificates are checked against the system's roots
    /// (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace them). On a machine without any, plain http
    /// works and https fails with that reason.
    ///
    /// # Errors
    /// A sentence when the proxy's URL or the TLS settings are not usable.
    pub fn new(options: &HttpOptions) -> Result<Self, String> {
        install_tls_provider();
        let built = builder(options)?.build();
        let (client, no_roots) = match built {
            Ok(client) => (client, false),
            // The usual reason is a container image without `ca-certificates`. A store without
            // roots trusts nobody, so nothing is weakened.
            Err(error) if !options.insecure => match builder(options)?.tls_certs_only([]).build() {
                Ok(client) => (client, true),
                Err(_) => return Err(format!("the HTTP client cannot start: {}", causes(&error))),
            },
            Err(error) => return Err(format!("the HTTP client cannot start: {}", causes(&error))),
        };
        Ok(Self { client, options: options.clone(), no_roots })
    }

    /// Sends the request and reads the answer.
    ///
    /// Dropping the future ends the request and closes its connection (HTTP/1.1) or stream
    /// (HTTP/2); a file that was being saved is left as `NAME.part`.
    ///
    /// # Errors
    /// A [`TaskError`] of one of the kinds in the [module's table](super).
    pub async fn send(&self, request: Request) -> Result<HttpReply, TaskError> {
        let url = parse_url(&request.url)?;
        if let Some(guard) = &self.options.guard {
            guard.check(&url).map_err(forbidden)?;
        }
        let target = authority(&url);
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 1);
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| TaskError::invalid(format!("`{name}` is not a header name")))?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| TaskError::invalid(format!("the value of header `{name}` holds a character that headers cannot carry")))?;
            headers.append(name, value);
        }
        let mut builder = self.client.request(request.method, url);
        if let Some(body) = request.body {
            let (content_type, bytes) = body.encode()?;
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
            builder = builder.body(bytes);
        }
        if let Some(timeout) = request.timeout {
            builder = builder.timeout(timeout);
        }
        let response = builder.headers(headers).send().await.map_err(|error| self.classify(&error, &target))?;
        let status = response.status().as_u16();
        if !self.options.ok.contains(status) {
            return Err(self.refusal(response, &target).await);
        }
        match request.save {
            Some(path) => self.save(response, path, &target).await,
            None => self.keep(response, request.spill, &target).await,
        }
    }

    /// Reads the body into memory, up to the limit; what comes behind it goes to a file, if it is
    /// wanted.
    async fn keep(&self, mut response: Response, spill: Option<Spill>, target: &str) -> Result<HttpReply, TaskError> {
        let status = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Content-Length is a claim: it sizes the buffer, but only up to a modest amount.
        let claimed = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let mut body = Vec::with_capacity(claimed.min(self.options.max_body).min(1 << 20));
        let more = read_up_to(&mut response, &mut body, self.options.max_body).await.map_err(|error| self.classify(&error, target))?;
        let cut = more.is_some();
        let rest = match (more, spill) {
            (Some(more), Some(spill)) => {
                // What is kept ends with a whole character, so that all bytes are in one of the
                // two.
                let mut first = body.split_off(whole_characters(&body));
                first.extend(more);
                Some(self.spill(response, spill, first, target).await?)
            }
            _ => None,
        };
        let bytes = body.len() as u64 + rest.as_ref().map_or(0, |rest| rest.len());
        Ok(HttpReply { status, bytes, cut, body: ReplyBody::of(content_type.as_deref(), body, cut), rest })
    }

    /// Writes the rest of a body to a file, as it arrives.
    async fn spill(&self, mut response: Response, spill: Spill, first: Vec<u8>, target: &str) -> Result<Arc<Rest>, TaskError> {
        let (mut batch, mut file, mut open) = (first, None, true);
        while open {
            match response.chunk().await.map_err(|error| self.classify(&error, target))? {
                Some(chunk) => batch.extend_from_slice(&chunk),
                None => open = false,
            }
            if batch.len() >= BATCH || !open {
                let (spill, begun) = (spill.clone(), file.take());
                let done = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
                    let mut rest: Rest = begun.map_or_else(|| spill.open("out"), Ok)?;
                    rest.write(&batch)?;
                    if !open {
                        rest.finish()?;
                    }
                    batch.clear();
                    Ok((rest, batch))
                });
                let (rest, emptied) =
                    done.await.map_err(std::io::Error::other).flatten().map_err(|error| TaskError::new(SPOOL, error.to_string()))?;
                (file, batch) = (Some(rest), emptied);
            }
        }
        file.map(Arc::new).ok_or_else(|| TaskError::new(SPOOL, "nothing was written"))
    }

    /// Writes the body to a file as it arrives. Written beside its name and renamed, so that a file
    /// of that name is always a whole body.
    async fn save(&self, mut response: Response, path: PathBuf, target: &str) -> Result<HttpReply, TaskError> {
        let status = response.status().as_u16();
        let part = PathBuf::from({
            let mut name = path.clone().into_os_string();
            name.push(".part");
            name
        });
        let failed =
            |what: &Path, error: &std::io::Error| TaskError::new("save", format!("cannot write {}: {}", what.display(), cause(error)));
        let mut file = output_in_directory(&part).map_err(|error| failed(&part, &error))?;
        let (mut batch, mut bytes, mut open) = (Vec::new(), 0u64, true);
        while open {
            match response.chunk().await.map_err(|error| self.classify(&error, target))? {
                Some(chunk) => batch.extend_from_slice(&chunk),
                None => open = false,
            }
            if batch.len() >= BATCH || !open {
                bytes += batch.len() as u64;
                // Disks stall, and a runtime's thread must not stall with them.
                let done = tokio::task::spawn_blocking(move || {
                    let result = file.write_all(&batch);
                    batch.clear();
                    (file, batch, result)
                });
                let (back, emptied, result) = done.await.map_err(|error| failed(&part, &error.into()))?;
                (file, batch) = (back, emptied);
                result.map_err(|error| failed(&part, &error))?;
            }
        }
        drop(file);
        fs::rename(&part, &path).map_err(|error| failed(&path, &error))?;
        Ok(HttpReply { status, bytes, cut: false, body: ReplyBody::Saved(path), rest: None })
    }

    /// The error for an answer that is not wanted, with the end of its body.
    async fn refusal(&self, mut response: Response, target: &str) -> TaskError {
        /// Read so much: it holds any reasonable error page, and a connection whose answer was read
        /// whole can be used again.
        const READ: usize = 64 << 10;
        const TAIL: usize = 2 << 10;
        let status = response.status();
        let again = match (self.options.retry_after && matches!(status.as_u16(), 429 | 503), response.headers().get(RETRY_AFTER)) {
            (true, Some(value)) => value.to_str().ok().and_then(|value| retry_after(value, SystemTime::now())).map(Again::After),
            _ => None,
        };
        let mut body = Vec::new();
        // The status is the news; a body that breaks off takes nothing from it.
        let _ = read_up_to(&mut response, &mut body, READ).await;
        let tail = String::from_utf8_lossy(&body[body.len().saturating_sub(TAIL)..]);
        let tail = tail.trim_matches(|c: char| c.is_whitespace() || c == char::REPLACEMENT_CHARACTER);
        let reason = status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
        let mut error = TaskError::new("status", format!("{}{reason} from {target}", status.as_u16()))
            .with_code(i64::from(status.as_u16()))
            .with_again(again.unwrap_or_default());
        if !tail.is_empty() {
            error = error.with_tail(tail);
        }
        error
    }

    fn classify(&self, error: &reqwest::Error, target: &str) -> TaskError {
        let cause = causes(error);
        if error.is_timeout() {
            let message = match (error.is_connect(), self.options.timeout) {
                (true, _) => format!("no connection to {target} within {:?}", self.options.connect_timeout),
                (false, Some(timeout)) => format!("no complete answer from {target} within {timeout:?}"),
                (false, None) => format!("no answer from {target}: {cause}"),
            };
            TaskError::new("timeout", message)
        } else if self.options.guard.is_some() && cause.contains("of a private network") {
            forbidden(cause)
        } else if error.is_connect() {
            let hint = match cause.contains("certificate") {
                true if self.no_roots => " (no root certificates on this machine: install ca-certificates, or set SSL_CERT_FILE)",
                true => " (--insecure accepts any certificate)",
                false if cause.contains("InvalidContentType") => " (it does not speak TLS; is the URL http:// rather than https://?)",
                false => "",
            };
            TaskError::new("connect", format!("cannot connect to {target}: {cause}{hint}"))
        } else if error.is_redirect() && self.options.guard.is_some() {
            forbidden(cause)
        } else if error.is_redirect() {
            TaskError::new("redirect", format!("more than {} redirects from {target} (--redirects)", self.options.redirects))
        } else if error.is_builder() {
            TaskError::invalid(format!("not a valid request: {cause}"))
        } else if error.is_body() || error.is_decode() {
            TaskError::new("body", format!("the answer of {target} broke off: {cause}"))
        } else {
            TaskError::new("connect", format!("the connection to {target} was lost before an answer: {cause}"))
        }
    }
}

/// Bytes that are written to a file at once.
const BATCH: usize = 256 << 10;

fn builder(options: &HttpOptions) -> Result<reqwest::ClientBuilder, String> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout)
        .redirect(match (options.redirects, &options.guard) {
            (0, _) => redirect::Policy::none(),
            (most, None) => redirect::Policy::limited(most as usize),
            (most, Some(guard)) => guarded(most as usize, guard.clone()),
        })
        .tls_danger_accept_invalid_certs(options.insecure);
    if let Some(timeout) = options.timeout {
        builder = builder.timeout(timeout);
    }
    if options.http2 {
        builder = builder.http2_prior_knowledge();
    }
    if let Some(guard) = &options.guard {
        builder = builder.dns_resolver(Arc::new(Resolver(guard.clone())));
    }
    match options.proxy.as_deref() {
        // A proxy looks names up by itself, behind the guard's back.
        None if options.guard.is_some() => builder = builder.no_proxy(),
        None => {}
        Some("none") => builder = builder.no_proxy(),
        // The URL is not repeated: it may hold a password.
        Some(url) => match reqwest::Proxy::all(url) {
            Ok(proxy) => builder = builder.proxy(proxy),
            Err(error) => return Err(format!("--proxy is not a usable URL ({}); write http://host:port, or none", causes(&error))),
        },
    }
    Ok(builder)
}

/// Follows so many redirects, to where the guard allows.
fn guarded(most: usize, guard: Arc<Guard>) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| match guard.check(attempt.url()) {
        Err(why) => attempt.error(Forbidden(why)),
        Ok(()) if attempt.previous().len() > most => attempt.error(Forbidden(format!("more than {most} redirects"))),
        Ok(()) => attempt.follow(),
    })
}

/// A redirect that is not followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Forbidden(String);

/// A request that is not sent, and would not be if it were tried again.
fn forbidden(why: String) -> TaskError {
    TaskError::new("forbidden", why).with_again(Again::Never)
}

fn parse_url(text: &str) -> Result<Url, TaskError> {
    let url = Url::parse(text).map_err(|error| TaskError::invalid(format!("`{}` is not a URL: {error}", shorten(&mask(text)))))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(TaskError::invalid(format!("`{scheme}` in `{}` is not supported; only http and https are", shorten(&mask(text))))),
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Host and port, for messages: never the user or the password, nor a query with a token in it.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Appends the body to `out` until it ends or `limit` bytes are there; what was read beyond those,
/// if there is more.
async fn read_up_to(response: &mut Response, out: &mut Vec<u8>, limit: usize) -> reqwest::Result<Option<Vec<u8>>> {
    while let Some(chunk) = response.chunk().await? {
        let room = limit - out.len();
        out.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Some(chunk[room..].to_vec()));
        }
    }
    Ok(None)
}

/// Returns how many bytes of a text that was cut are whole characters; all of what is no text.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

/// The causes of an error, outermost first, without the layer of reqwest (it repeats the URL, which
/// may hold a secret) and without repetitions.
fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Layers love to print the layer beneath them; the lower one is enough.
        parts.retain(|part| !part.contains(&text));
        if !matches!(text.as_str(), "client error (Connect)" | "client error (SendRequest)") {
            parts.push(text);
        }
        source = cause.source();
    }
    match parts.is_empty() {
        true => "no further reason given".to_owned(),
        false => parts.join(": "),
    }
}

/// The wait that a `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3; the two
/// obsolete date forms are not read). A date that has passed is no wait at all. More than a year is
/// a mistake or an attack on somebody's clock arithmetic, and counts as a year.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map(Duration::from_secs).unwrap_or(YEAR)
    } else {
        let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
        SystemTime::from(at).duration_since(now).unwrap_or_default()
    };
    Some(wait.min(YEAR))
}
