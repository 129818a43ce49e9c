//! Other ways to a server: a Unix socket, TLS, through sentinels.

use std::{path::Path, process::Command, sync::Arc};

use longshore_testkit::servers::Redis;

use crate::{
    broker::Broker,
    redis::{broker, broker_with},
};

async fn serves(broker: &dyn Broker) {
    let (name, _) = broker.ping().await.unwrap();
    assert!(name.starts_with("redis ") || name.starts_with("valkey "), "{name}");
    broker.publish(&[super::kit::message("a")]).await.unwrap();
    assert_eq!(broker.peek("q", 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_unix_socket_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock").display().to_string();
    let Some(_server) = Redis::start(&["--unixsocket", &path]) else { return };
    serves(&*broker(&format!("redis+socket://{path}?virtual_host=3")).unwrap()).await;
    serves(&*broker(&format!("unix://{path}?db=4")).unwrap()).await;
}

#[tokio::test]
async fn sentinels_name_the_server() {
    let Some(server) = Redis::start(&[]) else { return };
    let sentinel = server.sentinel("tasks");
    let url = format!("sentinel://127.0.0.1:1/2;sentinel://127.0.0.1:{}/2", sentinel.port());
    serves(&*broker(&format!("{url}?master_name=tasks")).unwrap()).await;
    let error = broker(&format!("{url}?master_name=others&patience=0.3")).unwrap().ping().await.unwrap_err();
    assert!(error.message.contains("knows no master `others`"), "{error}");
}

/// A certificate of its own authority for `localhost`; `None` where there is no openssl.
fn certificate(directory: &Path) -> Option<()> {
    let run = |arguments: &str| {
        let status =
            Command::new("openssl").args(arguments.split(' ')).current_dir(directory).stderr(std::process::Stdio::null()).status().ok()?;
        status.success().then_some(())
    };
    std::fs::write(directory.join("ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE").unwrap();
    run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority")?;
    run("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost")?;
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile ext")
}

#[tokio::test]
async fn tls_is_checked_unless_it_is_said_loudly_that_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    if certificate(directory.path()).is_none() {
        return println!("skipped: openssl is missing: install it (the package `openssl`)");
    }
    let file = |name: &str| directory.path().join(name).display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tls = port.to_string();
    let (certificate, key, authority) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let arguments = [
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
    ];
    let Some(_server) = Redis::start(&arguments) else { return };
    serves(&*broker(&format!("rediss://localhost:{port}/1?ssl_ca_certs={authority}&ssl_cert_reqs=CERT_REQUIRED")).unwrap()).await;
    // Nobody vouches for it; it is another host's; it is not looked at.
    for (host, query) in [("localhost", "patience=2".to_owned()), ("127.0.0.1", format!("ssl_ca_certs={authority}"))] {
        let error = broker(&format!("rediss://{host}:{port}/0?{query}")).unwrap().ping().await.unwrap_err();
        assert!(error.message.contains("TLS") && error.message.contains("certificate"), "{error}");
        assert_eq!(error.kind, longshore_core::ErrorKind::Refused);
    }
    let said = Arc::new(std::sync::Mutex::new(String::new()));
    let hear = Arc::clone(&said);
    let notice = Arc::new(move |text: &str| hear.lock().unwrap().push_str(text));
    serves(&*broker_with(&format!("rediss://127.0.0.1:{port}/2?insecure"), notice).unwrap()).await;
    assert!(said.lock().unwrap().contains("NOT looked at"));
}
