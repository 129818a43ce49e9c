//! Other ways to a server: a Unix socket, TLS, through sentinels.

use std::{path::Path, process::Command, sync::Arc};

use longshore_testkit::servers::Redis;

use crate::{
    connected::Connected,
    redis::{both, both_with, broker},
};

async fn serves(url: &str) {
    serves_as(both(url).unwrap()).await;
}

async fn serves_as(connected: Connected) {
    let broker = &connected.broker;
    let (name, _) = broker.ping().await.unwrap();
    assert!(name.starts_with("redis ") || name.starts_with("valkey "), "{name}");
    broker.publish(&[super::kit::message("a")]).await.unwrap();
    assert_eq!(connected.inspect().unwrap().peek("q", 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_unix_socket_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock").display().to_string();
    let Some(_server) = Redis::start(&["--unixsocket", &path]) else { return };
    serves(&format!("redis+socket://{path}?virtual_host=3")).await;
    serves(&format!("unix://{path}?db=4")).await;
}

#[tokio::test]
async fn sentinels_name_the_server() {
    let Some(server) = Redis::start(&[]) else { return };
    let sentinel = server.sentinel("tasks");
    let url = format!("sentinel://127.0.0.1:1/2;sentinel://127.0.0.1:{}/2", sentinel.port());
    serves(&format!("{url}?master_name=tasks")).await;
    let error = broker(&format!("{url}?master_name=others&patience=0.3")).unwrap().ping().await.unwrap_err();
    assert!(error.message.contains("knows no master `others`"), "{error}");
}

/// A certificate of its own authority for `localhost`, and one for a client; `None` where there is
/// no openssl.
fn certificate(directory: &Path) -> Option<()> {
    let run = |arguments: &str| {
        let status =
            Command::new("openssl").args(arguments.split(' ')).current_dir(directory).stderr(std::process::Stdio::null()).status().ok()?;
        status.success().then_some(())
    };
    std::fs::write(directory.join("ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE").unwrap();
    run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority")?;
    run("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost")?;
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile ext")?;
    run("req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj /CN=worker")?;
    run("x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem -days 2 -extfile ext")
}

/// A server with TLS, and its port. `clients`: whether it wants to know them, as its option says
/// it.
fn secure(directory: &Path, clients: &str) -> Option<(Redis, u16)> {
    let file = |name: &str| directory.join(name).display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (certificate, key, authority) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let server = Redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        clients,
    ])?;
    Some((server, port))
}

#[tokio::test]
async fn tls_is_checked_unless_it_is_said_loudly_that_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    if certificate(directory.path()).is_none() {
        return println!("skipped: openssl is missing: install it (the package `openssl`)");
    }
    let file = |name: &str| directory.path().join(name).display().to_string();
    let authority = file("ca.pem");
    let Some((_server, port)) = secure(directory.path(), "no") else { return };
    serves(&format!("rediss://localhost:{port}/1?ssl_ca_certs={authority}&ssl_cert_reqs=CERT_REQUIRED")).await;
    // Nobody vouches for it; it is another host's; it is not looked at.
    for (host, query) in [("localhost", "patience=2".to_owned()), ("127.0.0.1", format!("ssl_ca_certs={authority}"))] {
        let error = broker(&format!("rediss://{host}:{port}/0?{query}")).unwrap().ping().await.unwrap_err();
        assert!(error.message.contains("TLS") && error.message.contains("certificate"), "{error}");
        assert_eq!(error.kind, longshore_core::ErrorKind::Refused);
    }
    let said = Arc::new(std::sync::Mutex::new(String::new()));
    let hear = Arc::clone(&said);
    let notice = Arc::new(move |news: &crate::News| hear.lock().unwrap().push_str(&news.to_string()));
    serves_as(both_with(&format!("rediss://127.0.0.1:{port}/2?insecure"), notice).unwrap()).await;
    assert!(said.lock().unwrap().contains("NOT looked at"));
}

#[tokio::test]
async fn a_server_that_wants_to_know_its_clients_is_told_who_we_are() {
    let directory = tempfile::tempdir().unwrap();
    if certificate(directory.path()).is_none() {
        return println!("skipped: openssl is missing: install it (the package `openssl`)");
    }
    let file = |name: &str| directory.path().join(name).display().to_string();
    let Some((_server, port)) = secure(directory.path(), "yes") else { return };
    let url = |query: &str| format!("rediss://localhost:{port}/1?ssl_ca_certs={}{query}", file("ca.pem"));
    let us = format!("&ssl_certfile={}&ssl_keyfile={}", file("client.pem"), file("client.key"));
    serves(&url(&us)).await;
    // The server is not looked at; we are all the same.
    serves(&format!("rediss://localhost:{port}/2?insecure{us}")).await;
    for (query, words) in [
        (String::new(), &["TLS", "ssl_certfile"][..]),
        (format!("&ssl_certfile={}&ssl_keyfile={}", file("none.pem"), file("client.key")), &["none.pem", "No such file"]),
        (format!("&ssl_certfile={}&ssl_keyfile={}", file("client.pem"), file("none.key")), &["none.key", "No such file"]),
        (format!("&ssl_certfile={}&ssl_keyfile={}", file("ext"), file("client.key")), &["ext", "no certificate"]),
        (format!("&ssl_certfile={}&ssl_keyfile={}", file("client.pem"), file("server.key")), &["client.pem and its key"]),
    ] {
        let error = broker(&url(&format!("{query}&patience=2"))).unwrap().ping().await.unwrap_err();
        assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        assert_eq!(error.kind, longshore_core::ErrorKind::Refused, "{error}");
    }
}
