//! The HTTP server that transcripts talk to, one for each of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};

/// A server on a port of 127.0.0.1; it ends when it is dropped.
pub(crate) struct Server {
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct Shared {
    tries: Mutex<HashMap<String, usize>>,
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Shared {
    /// How often this was asked before.
    fn before(&self, what: String) -> usize {
        let mut tries = self.tries.lock().unwrap();
        let count = tries.entry(what).or_default();
        *count += 1;
        *count - 1
    }
}

impl Server {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new()
            .route("/echo/{x}", any(echo))
            .route("/pages/{x}", any(echo))
            .route("/status/{code}", any(status))
            .route("/slow/{ms}", any(slow))
            .route("/most", get(most))
            .route("/flaky/{n}", any(flaky))
            .route("/retry-after/{n}", any(retry_after))
            .route("/moved/{n}", get(moved))
            .with_state(Arc::new(Shared::default()));
        runtime.spawn(async move { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), app).await });
        Self { port, _runtime: runtime }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// What was asked, as JSON: method and path, `x-` headers and the body as far as there are any.
async fn echo(Path(x): Path<String>, method: Method, uri: Uri, headers: HeaderMap, request: Request) -> Response {
    let mut answer = serde_json::Map::new();
    answer.insert("x".to_owned(), x.into());
    if method != Method::GET {
        answer.insert("method".to_owned(), method.as_str().into());
    }
    if let Some(query) = uri.query() {
        answer.insert("query".to_owned(), query.into());
    }
    for (name, value) in &headers {
        if name.as_str().starts_with("x-") || name == header::CONTENT_TYPE {
            answer.insert(name.to_string(), value.to_str().unwrap().into());
        }
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    if !body.is_empty() {
        answer.insert("body".to_owned(), String::from_utf8_lossy(&body).into_owned().into());
    }
    axum::Json(answer).into_response()
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

/// Answers after a while, and counts how many do so at the same time.
async fn slow(State(shared): State<Arc<Shared>>, Path(ms): Path<u64>) -> &'static str {
    shared.most.fetch_max(shared.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    // Also when the client goes away first.
    let _open = Open(shared);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "done"
}

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The most requests to `/slow` that were open at once.
async fn most(State(shared): State<Arc<Shared>>) -> String {
    shared.most.swap(0, Ordering::SeqCst).to_string()
}

/// Fails twice, then answers.
async fn flaky(State(shared): State<Arc<Shared>>, Path(n): Path<String>) -> Response {
    match shared.before(n) {
        0 | 1 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => "at last".into_response(),
    }
}

/// Asks for a second of patience, then answers.
async fn retry_after(State(shared): State<Arc<Shared>>, Path(n): Path<String>) -> Response {
    match shared.before(format!("retry-after {n}")) {
        0 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response(),
        _ => "thank you".into_response(),
    }
}

/// Sends on to the next lower number, and from 0 to an answer.
async fn moved(Path(n): Path<u32>) -> Response {
    match n {
        0 => "here".into_response(),
        n => (StatusCode::FOUND, [(header::LOCATION, format!("/moved/{}", n - 1))]).into_response(),
    }
}
