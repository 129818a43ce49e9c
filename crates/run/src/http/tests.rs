//! The client against real servers on this machine.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method as AxumMethod, StatusCode, Uri},
    response::{IntoResponse, Redirect},
    routing::{any, get},
};
use longshore_core::{Again, TaskError, lane::child::Spill};
use reqwest::Method;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{client::retry_after, *};

const BIG: usize = 300_000;

async fn server() -> SocketAddr {
    let app = Router::new()
        .route("/json", get(|| async { ([("content-type", "application/json")], "{\n \"price\": 12.50\n}") }))
        .route("/text", get(|| async { "hello\n" }))
        .route("/binary", get(|| async { vec![0xffu8, 0, 1] }))
        .route("/big", get(|| async { "x".repeat(BIG) }))
        .route("/busy", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "come back\nlater\n") }))
        .route("/slow-down", get(|| async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "") }))
        .route("/teapot", get(|| async { (StatusCode::IM_A_TEAPOT, [("retry-after", "7")], "") }))
        .route("/late", get(|| async { tokio::time::sleep(Duration::from_secs(30)).await }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route("/moved", get(|| async { Redirect::temporary("/text") }))
        .route(
            "/echo",
            any(|method: AxumMethod, uri: Uri, headers: HeaderMap, body: Bytes| async move {
                let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
                let body = String::from_utf8_lossy(&body).into_owned();
                format!("{method} {uri} {} {} {body}", header("content-type"), header("x-id")).into_response()
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

fn options() -> HttpOptions {
    // The tests' requests must not go through a proxy of the machine that runs them.
    HttpOptions { proxy: Some("none".to_owned()), timeout: Some(Duration::from_secs(20)), ..HttpOptions::default() }
}

async fn fetch_with(options: HttpOptions, url: &str) -> Result<HttpReply, TaskError> {
    HttpClient::new(&options).unwrap().send(Request::new(Method::GET, url)).await
}

async fn get_path(options: HttpOptions, path: &str) -> Result<HttpReply, TaskError> {
    let addr = server().await;
    fetch_with(options, &format!("http://{addr}{path}")).await
}

fn json_of(reply: &HttpReply) -> String {
    let mut out = Vec::new();
    reply.to_json(&mut out);
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn an_answer_becomes_one_line_of_json() {
    for (path, want) in [
        ("/json", r#"{"status":200,"bytes":19,"body":{"price":12.50}}"#),
        ("/text", r#"{"status":200,"bytes":6,"body":"hello\n"}"#),
        ("/binary", r#"{"status":200,"bytes":3,"body":{"base64":"/wAB"}}"#),
        ("/moved", r#"{"status":200,"bytes":6,"body":"hello\n"}"#),
    ] {
        assert_eq!(json_of(&get_path(options(), path).await.unwrap()), want, "{path}");
    }
}

#[tokio::test]
async fn a_big_body_is_cut_and_marked() {
    for (max_body, bytes, cut) in [(1000, 1000, true), (BIG - 1, BIG - 1, true), (BIG, BIG, false), (BIG + 1, BIG, false)] {
        let reply = get_path(HttpOptions { max_body, ..options() }, "/big").await.unwrap();
        assert_eq!((reply.bytes, reply.cut, reply.raw().len()), (bytes as u64, cut, bytes), "limit {max_body}");
    }
}

#[tokio::test]
async fn what_is_not_kept_of_a_big_body_goes_to_a_file_where_it_is_wanted() {
    let addr = server().await;
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill { dir: dir.path().into(), name: "1-1".to_owned(), stdout: true, stderr: false, sync: false };
    for max_body in [1, 1000, BIG - 1, BIG] {
        let client = HttpClient::new(&HttpOptions { max_body, ..options() }).unwrap();
        let request = Request { spill: Some(spill.clone()), ..Request::new(Method::GET, format!("http://{addr}/big")) };
        let reply = client.send(request).await.unwrap();
        let rest = reply.rest.as_ref().map(|rest| std::fs::read(rest.path()).unwrap()).unwrap_or_default();
        assert_eq!((reply.bytes, reply.cut, reply.raw().len(), rest.len()), (BIG as u64, max_body < BIG, max_body, BIG - max_body));
        assert!(reply.raw().iter().chain(&rest).all(|byte| *byte == reply.raw()[0]), "limit {max_body}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    let spill = Spill { dir: dir.path().join("no/such").into(), ..spill };
    let client = HttpClient::new(&HttpOptions { max_body: 10, ..options() }).unwrap();
    let request = Request { spill: Some(spill), ..Request::new(Method::GET, format!("http://{addr}/big")) };
    assert_eq!(client.send(request).await.unwrap_err().kind(), SPOOL);
}

#[tokio::test]
async fn a_saved_body_goes_to_its_file_whole() {
    let addr = server().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.txt");
    let client = HttpClient::new(&HttpOptions { max_body: 10, ..options() }).unwrap();
    let reply = client.send(Request { save: Some(path.clone()), ..Request::new(Method::GET, format!("http://{addr}/big")) }).await.unwrap();
    assert_eq!((reply.bytes, reply.cut, reply.body), (BIG as u64, false, ReplyBody::Saved(path.clone())));
    assert_eq!(std::fs::read(&path).unwrap().len(), BIG);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no part is left");

    let missing = dir.path().join("no/such/dir.txt");
    let error = client.send(Request { save: Some(missing), ..Request::new(Method::GET, format!("http://{addr}/big")) }).await.unwrap_err();
    assert_eq!(error.kind(), "save");
    assert!(error.message().contains("no/such/dir.txt.part"), "{error}");
}

#[tokio::test]
async fn a_status_outside_the_wanted_ones_is_a_failure_with_its_code_and_the_end_of_its_body() {
    let error = get_path(options(), "/busy").await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.tail(), error.again()), ("status", Some(503), Some("come back\nlater"), Again::ByPolicy));
    assert!(error.message().starts_with("503 Service Unavailable from 127.0.0.1:"), "{error}");
    let ok = StatusRanges::parse("503").unwrap();
    assert_eq!(get_path(HttpOptions { ok, ..options() }, "/busy").await.unwrap().status, 503);
    assert_eq!(get_path(HttpOptions { redirects: 0, ..options() }, "/moved").await.unwrap_err().code(), Some(307));
}

#[tokio::test]
async fn retry_after_counts_for_429_and_503_alone_and_can_be_ignored() {
    for (path, honoured, want) in [
        ("/slow-down", true, Again::After(Duration::from_secs(7))),
        ("/slow-down", false, Again::ByPolicy),
        ("/teapot", true, Again::ByPolicy),
    ] {
        let error = get_path(HttpOptions { retry_after: honoured, ..options() }, path).await.unwrap_err();
        assert_eq!(error.again(), want, "{path}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
    for (value, want) in [
        ("0", Some(0)),
        (" 120 ", Some(120)),
        ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("99999999999999999999999999", Some(365 * 24 * 3600)),
        ("99999999999999999", Some(365 * 24 * 3600)),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ] {
        assert_eq!(retry_after(value, now).map(|wait| wait.as_secs()), want, "{value}");
    }
}

#[tokio::test]
async fn each_way_to_fail_has_its_kind() {
    let addr = server().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for (url, kind, again, part) in [
        (format!("http://{closed}/"), "connect", Again::ByPolicy, "refused"),
        ("http://no-such-host.invalid/".to_owned(), "connect", Again::ByPolicy, "no-such-host.invalid"),
        (format!("https://{addr}/text"), "connect", Again::ByPolicy, "does not speak TLS"),
        (format!("http://{addr}/loop"), "redirect", Again::ByPolicy, "more than 5 redirects"),
        (format!("http://{addr}/late"), "timeout", Again::ByPolicy, "within 300ms"),
        ("not a url".to_owned(), "invalid", Again::Never, "not a url"),
        ("ftp://host/x".to_owned(), "invalid", Again::Never, "ftp"),
        ("http://".to_owned(), "invalid", Again::Never, "host"),
    ] {
        let timeout = if kind == "timeout" { Duration::from_millis(300) } else { Duration::from_secs(20) };
        let error = fetch_with(HttpOptions { timeout: Some(timeout), ..options() }, &url).await.unwrap_err();
        assert_eq!((error.kind(), error.again()), (kind, again), "{url}: {error}");
        assert!(error.message().contains(part), "{url}: {error}");
    }
}

/// A server that answers one connection with these bytes and closes it.
fn raw_server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let _ = peer.read(&mut [0; 4096]);
        let _ = peer.write_all(answer);
    });
    addr
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_a_lost_connection() {
    for (answer, kind) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"[..], "body"),
        (b"", "connect"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhalf", "status"),
    ] {
        let addr = raw_server(answer);
        let error = fetch_with(options(), &format!("http://{addr}/")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn a_password_in_the_url_stays_out_of_the_message() {
    let error = fetch_with(options(), "http://me:s3cret@127.0.0.1:1/?token=s3cret").await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
}

#[tokio::test]
async fn bodies_and_headers_arrive_as_given() {
    let addr = server().await;
    let client = HttpClient::new(&options()).unwrap();
    let fields = vec![("a b".to_owned(), "1&2".to_owned()), ("c".to_owned(), "é".to_owned())];
    for (body, headers, want) in [
        (None, vec![("x-id", "7")], "POST /echo?q=1 - 7 "),
        (Some(Body::Json(b"{\"a\":1}".to_vec())), vec![], "POST /echo?q=1 application/json - {\"a\":1}"),
        (Some(Body::Text(b"hi".to_vec())), vec![], "POST /echo?q=1 text/plain; charset=utf-8 - hi"),
        (Some(Body::Text(b"hi".to_vec())), vec![("Content-Type", "text/csv")], "POST /echo?q=1 text/csv - hi"),
        (Some(Body::Form(fields)), vec![], "POST /echo?q=1 application/x-www-form-urlencoded - a+b=1%262&c=%C3%A9"),
    ] {
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let request = Request { headers, body, ..Request::new(Method::POST, format!("http://{addr}/echo?q=1")) };
        assert_eq!(client.send(request).await.unwrap().body, ReplyBody::Text(want.to_owned()));
    }
    for (headers, body, part) in [
        (vec![("X-A".to_owned(), "a\r\nb: c".to_owned())], None, "header `x-a`"),
        (vec![("X A".to_owned(), "a".to_owned())], None, "`X A`"),
        (vec![], Some(Body::Json(b"{a}".to_vec())), "not JSON"),
    ] {
        let request = Request { headers, body, ..Request::new(Method::POST, format!("http://{addr}/echo")) };
        let error = client.send(request).await.unwrap_err();
        assert_eq!((error.kind(), error.again()), ("invalid", Again::Never));
        assert!(error.message().contains(part), "{error}");
    }
}

/// A TLS server with a certificate that nobody signed; answers every connection with `hi`.
fn tls_server() -> SocketAddr {
    let cert = CertificateDer::from_pem_slice(include_bytes!("testdata/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::Stream::new(&mut session, &mut peer);
            // A client that refuses the certificate goes away in the middle of the handshake.
            if tls.read(&mut [0; 4096]).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
                session.send_close_notify();
                let _ = session.write_tls(&mut peer);
            }
        }
    });
    addr
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_with_its_reason_and_accepted_on_demand() {
    let url = format!("https://localhost:{}/", tls_server().port());
    let error = fetch_with(options(), &url).await.unwrap_err();
    assert_eq!(error.kind(), "connect");
    assert!(error.message().contains("UnknownIssuer") && error.message().contains("--insecure"), "{error}");
    let reply = fetch_with(HttpOptions { insecure: true, ..options() }, &url).await.unwrap();
    assert_eq!(reply.body, ReplyBody::Text("hi".to_owned()));
}

#[test]
fn a_proxy_that_is_no_url_is_an_error_at_the_start() {
    let error = HttpClient::new(&HttpOptions { proxy: Some("http://me:s3cret@".to_owned()), ..options() }).unwrap_err();
    assert!(error.contains("--proxy") && !error.contains("s3cret"), "{error}");
}
