//! What the OpenAPI document says of each operation, against what it answers.
#![allow(dead_code, reason = "not every test file needs everything")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde_json::Value;

use crate::http::{Answered, ask};

/// Refusals that take longer than a test, or that need what is not here; each has a test elsewhere:
/// `intake/tests.rs` (501), and `security.rs` (408).
const ELSEWHERE: [u16; 2] = [408, 501];

/// Answers with a test of their own in `history.rs`: of a stream, which has no end, and of a file
/// that cannot be read.
const IN_HISTORY: [(&str, u16); 7] = [
    ("get /api/v1/events", 200),
    ("get /api/v1/events", 503),
    ("get /api/v1/history", 503),
    ("get /api/v1/history/export", 503),
    ("get /api/v1/traffic", 503),
    ("get /api/v1/times", 503),
    ("get /api/v1/tasks/{task}/timeline", 503),
];

/// A request: the operation that is meant, and what is sent.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) operation: String,
    pub(crate) path: String,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn new(method: &str, operation: &str, path: &str, body: &str) -> Self {
        let headers = if method == "POST" { "Content-Type: application/json\r\n" } else { "" };
        Self {
            operation: format!("{} {operation}", method.to_lowercase()),
            path: path.to_owned(),
            headers: headers.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn get(operation: &str, path: &str) -> Self {
        Self::new("GET", operation, path, "")
    }

    pub(crate) fn post(operation: &str, path: &str, body: &str) -> Self {
        Self::new("POST", operation, path, body)
    }

    pub(crate) fn method(&self) -> &str {
        if self.operation.starts_with("post ") { "POST" } else { "GET" }
    }

    pub(crate) fn is_post(&self) -> bool {
        self.method() == "POST"
    }

    pub(crate) fn headers(&self, headers: &str) -> Self {
        Self { headers: headers.to_owned(), ..self.clone() }
    }

    pub(crate) fn body(&self, body: &str) -> Self {
        Self { body: body.to_owned(), ..self.clone() }
    }

    pub(crate) fn path(&self, path: String) -> Self {
        Self { path, ..self.clone() }
    }

    pub(crate) async fn send(&self, address: SocketAddr) -> Answered {
        ask(address, self.method(), &self.path, &self.headers, &self.body).await
    }
}

/// The document of a site, and what of it was seen.
pub(crate) struct Described {
    pub(crate) document: Value,
    pub(crate) seen: BTreeSet<(String, u16)>,
}

impl Described {
    pub(crate) async fn of(address: SocketAddr, headers: &str) -> Self {
        let answered = ask(address, "GET", "/api/v1/openapi.json", headers, "").await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        Self { document: serde_json::from_str(&answered.body).unwrap(), seen: BTreeSet::new() }
    }

    /// Returns all operations: `get /api/v1/queues`.
    pub(crate) fn operations(&self) -> BTreeMap<String, Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let of = |(path, item): (&String, &Value)| {
            let item = item.as_object().unwrap().clone();
            let path = path.clone();
            item.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        };
        paths.iter().flat_map(of).collect()
    }

    pub(crate) fn describes(&self, operation: &str, status: u16) -> bool {
        self.operations().get(operation).is_some_and(|operation| !operation["responses"][status.to_string()].is_null())
    }

    /// Holds an answer against what is said of it.
    pub(crate) fn check(&mut self, operation: &str, answered: &Answered) {
        let described = self.operations().remove(operation).unwrap_or_else(|| panic!("{operation} is not described"));
        let response = &described["responses"][answered.status.to_string()];
        assert!(!response.is_null(), "{operation} answers {} and does not say so: {}", answered.status, answered.body);
        let kind = answered.header("content-type").unwrap_or_default().split(';').next().unwrap();
        let content = &response["content"][kind];
        assert!(!content.is_null(), "{operation}: {} as {kind}", answered.status);
        let body = match kind {
            "application/json" => serde_json::from_str(&answered.body).unwrap_or_else(|error| panic!("{operation}: {error}")),
            _ => Value::String(answered.body.clone()),
        };
        let mut schema = content["schema"].clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&body).map(|error| format!("{error} at {}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{operation} {}: {wrong:#?}\n{body:#}", answered.status);
        if answered.status == 429 {
            assert!(answered.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        }
        self.seen.insert((operation.to_owned(), answered.status));
    }

    pub(crate) async fn ask(&mut self, address: SocketAddr, asked: &Asked, status: u16) {
        let answered = asked.send(address).await;
        assert_eq!(answered.status, status, "{asked:?}: {}", answered.body);
        self.check(&asked.operation, &answered);
    }

    /// Returns what was described and not seen.
    pub(crate) fn unseen(&self) -> Vec<(String, u16)> {
        let mut unseen = Vec::new();
        for (operation, described) in self.operations() {
            for status in described["responses"].as_object().unwrap().keys() {
                let status: u16 = status.parse().unwrap();
                let is_elsewhere = ELSEWHERE.contains(&status) || IN_HISTORY.contains(&(operation.as_str(), status));
                if !is_elsewhere && !self.seen.contains(&(operation.clone(), status)) {
                    unseen.push((operation.clone(), status));
                }
            }
        }
        unseen
    }
}

/// Brings about what every operation may be refused for, wherever it stands.
pub(crate) async fn refuse_each(described: &mut Described, address: SocketAddr, all: &[Asked]) {
    for asked in all {
        let operation = asked.operation.as_str();
        if described.describes(operation, 421) {
            described.ask(address, &asked.headers(&format!("{}Host: evil.example\r\n", asked.headers)), 421).await;
        }
        // What is read and refused has rows of its own.
        if described.describes(operation, 400) && (asked.is_post() || operation.contains('{')) {
            let template = operation.split(' ').nth(1).unwrap();
            let request = match template.contains('{') {
                true => {
                    let parts = template.split('/').map(|part| if part.starts_with('{') { "%00" } else { part });
                    asked.path(parts.collect::<Vec<_>>().join("/"))
                }
                false => asked.headers(&format!("{}Transfer-Encoding: chunked\r\n", asked.headers)).body("no chunk\r\n\r\n"),
            };
            described.ask(address, &request, 400).await;
        }
        if !asked.is_post() {
            continue;
        }
        described.ask(address, &asked.headers(&format!("{}Sec-Fetch-Site: cross-site\r\n", asked.headers)), 403).await;
        described.ask(address, &asked.headers("Content-Type: text/plain\r\n"), 415).await;
        if described.describes(operation, 413) {
            let long = format!("{{\"args\":[\"{}\"]}}", "x".repeat(300 << 10));
            described.ask(address, &asked.body(&long), 413).await;
            // What has no field of that name says so.
            described.ask(address, &asked.body(r#"{"nonsense":1}"#), 422).await;
        }
    }
}
