//! Every rule about who may see and do what, over a real socket: each is refused once and allowed
//! once. The table is [`RULES`]; what does not fit into a row has a test of its own here.
#![expect(clippy::unwrap_used, reason = "a test")]

mod http;
mod rules;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Answered, ask, ask_from, head_of, raw};
use longshore_web::{Access, Auditor, Intake, IntakeOptions, Secret, Serving, Site, WebOptions, WebServer};
use longshore_worker::{App, Client, Failure, Settings, Signature, Task, Worker, WorkerOptions};
use rules::{ANN, Asked, BEARER, FORM, JSON, NOT_ANN, PAUSE, RULES, TOKEN, post};

struct Sites {
    servings: BTreeMap<&'static str, Serving>,
    clients: BTreeMap<&'static str, Client>,
    noted: Arc<Mutex<Vec<String>>>,
}

impl Sites {
    async fn start(name: &str) -> Self {
        let noted: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut sites = Self { servings: BTreeMap::new(), clients: BTreeMap::new(), noted };
        for site in ["open", "token", "basic", "proxy", "read-only", "hidden"] {
            sites.add(name, site).await;
        }
        sites
    }

    async fn add(&mut self, name: &str, site: &'static str) {
        let mut options = WebOptions::default();
        match site {
            "token" => options.access = Access::Token(Secret::new(TOKEN)),
            "basic" => options.access = Access::Basic { user: "ann".to_owned(), password: Secret::new("a password") },
            "proxy" => {
                let from = vec![IpAddr::from([127, 0, 0, 2])];
                options.access = Access::Proxy { header: "X-Forwarded-User".to_owned(), from };
            }
            "read-only" => options.read_only = true,
            "hidden" => options.hide_args = true,
            _ => {}
        }
        let noted = self.noted.clone();
        options.audit = Some(Auditor::new(move |action| noted.lock().unwrap().push(serde_json::to_string(action).unwrap())));
        let client = Client::connect(&Settings::new(format!("memory://{name}-{site}"))).unwrap();
        let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
        let intake = Intake::new(client.clone(), IntakeOptions::default());
        self.servings.insert(site, server.serve(Site::of_deployment(options, client.clone(), &intake)));
        self.clients.insert(site, client);
    }

    fn address(&self, site: &str) -> SocketAddr {
        self.servings[site].address()
    }

    /// Sends a request, with what stands for something filled in.
    async fn send(&self, site: &str, asked: &Asked) -> Answered {
        let address = self.address(site);
        let (mut headers, mut body) = (asked.headers.to_owned(), asked.body.to_owned());
        if body.contains("{form}") {
            let page = if asked.path == "/login" { "/login" } else { "/queues/q" };
            let proof = headers.split_inclusive("\r\n").find(|line| line.starts_with("Authorization")).unwrap_or_default();
            body = body.replace("{form}", &form_token(&ask(address, "GET", page, proof, "").await.body));
        }
        if headers.contains("{cookie}") {
            let login = post("/login", FORM, "_token={form}&token=a+token+of+some+length", 303, "");
            let answered = Box::pin(self.send(site, &login)).await;
            let cookie = answered.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
            headers = headers.replace("{cookie}", &cookie);
        }
        ask(address, asked.method, asked.path, &headers, &body).await
    }

    async fn stop(self) {
        for (_, serving) in self.servings {
            serving.stop().await;
        }
    }
}

fn form_token(html: &str) -> String {
    html.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap().to_owned()
}

/// Headers that every answer has.
fn assert_safe(what: &str, answered: &Answered) {
    let policy = answered.header("content-security-policy").unwrap_or_else(|| panic!("{what}: no policy in {}", answered.head));
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{what}: {policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"), "{what}: {policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answered.header(name), Some(value), "{what}: {name}");
    }
    assert!(answered.header("cache-control").is_some(), "{what}");
    assert!(answered.header("access-control-allow-origin").is_none(), "{what}: another site may read it");
}

/// A queue that has a page, where forms stand.
async fn fill(client: &Client) {
    let call: Signature = Signature::named("shop.add").queue("q").task_id("waits");
    client.send(call).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_refuses_once_and_allows_once() {
    let sites = Sites::start("security").await;
    for client in sites.clients.values() {
        fill(client).await;
    }
    let mut wrong = Vec::new();
    for rule in RULES {
        assert!(!rule.refused.is_empty() && !rule.allowed.is_empty(), "{}", rule.rule);
        for asked in rule.refused.iter().chain(rule.allowed) {
            let answered = sites.send(rule.site, asked).await;
            let has_said = answered.head.contains(asked.says) || answered.body.contains(asked.says);
            if answered.status != asked.status || !has_said {
                wrong.push(format!("{}: {asked:?}: {} {}\n{}", rule.rule, answered.status, answered.head, answered.body));
            }
            assert_safe(rule.rule, &answered);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    sites.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_listened_on_only_with_a_proof() {
    let access = |access| {
        let mut options = WebOptions::default();
        options.access = access;
        options
    };
    let basic = |password: &str| Access::Basic { user: "ann".to_owned(), password: Secret::new(password) };
    let proxy = |from| Access::Proxy { header: "X-Forwarded-User".to_owned(), from };
    let refused = [
        ("0.0.0.0:0", access(Access::Open), "needs a token"),
        ("[::]:0", access(Access::Open), "needs a token"),
        ("0.0.0.0:0", access(Access::Token(Secret::new("too short"))), "can be guessed"),
        ("127.0.0.1:0", access(basic("")), "the password is empty"),
        ("127.0.0.1:0", access(proxy(Vec::new())), "no proxy is named"),
    ];
    for (address, options, says) in refused {
        let error = WebServer::bind(address, &options).await.unwrap_err();
        assert!(error.message.contains(says), "{address}: {error}");
    }
    let allowed = [
        ("127.0.0.1:0", access(Access::Open)),
        ("localhost:0", access(Access::Open)),
        // Nothing is served there: it is let go at once.
        ("0.0.0.0:0", access(Access::Token(Secret::new(TOKEN)))),
        ("0.0.0.0:0", access(basic("a password"))),
        ("0.0.0.0:0", access(proxy(vec![IpAddr::from([10, 0, 0, 9])]))),
    ];
    for (address, options) in allowed {
        WebServer::bind(address, &options).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_believed_at_its_own_address_only() {
    let sites = Sites::start("proxy").await;
    let address = sites.address("proxy");
    let user = "X-Forwarded-User: ann\r\n";
    let refused = ask(address, "GET", "/api/v1/queues", user, "").await;
    assert!(refused.status == 403 && refused.body.contains("through the proxy only"), "{}", refused.body);
    let proxy = IpAddr::from([127, 0, 0, 2]);
    for nobody in ["", "X-Forwarded-User:  \r\n"] {
        let refused = ask_from(proxy, address, "GET", "/api/v1/queues", nobody, "").await;
        assert!(refused.status == 403 && refused.body.contains("named no user"), "{}", refused.body);
    }
    assert_eq!(ask_from(proxy, address, "GET", "/api/v1/queues", user, "").await.status, 200);
    let headers = format!("{user}{JSON}");
    assert_eq!(ask_from(proxy, address, "POST", PAUSE, &headers, "{}").await.status, 200);
    let noted = sites.noted.lock().unwrap().clone();
    assert!(noted.len() == 1 && noted[0].contains(r#""who":"ann","from":"127.0.0.2","what":"pause","to":"q""#), "{noted:?}");
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_has_the_headers() {
    let sites = Sites::start("headers").await;
    let (open, token) = (sites.address("open"), sites.address("token"));
    let page = ask(open, "GET", "/", "", "").await;
    let html = page.body.replace("&#x2f;", "/");
    let links: Vec<&str> = html.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert!(links.len() >= 3, "{}", page.body);
    assert!(!page.body.contains("<style") && !page.body.contains(" style=") && !page.body.contains("onclick"), "the policy forbids it");
    let mut answers = vec![("a page", 200, page.clone())];
    for link in links {
        answers.push(("an asset", 200, ask(open, "GET", link, "", "").await));
    }
    for (what, status, method, path, headers) in [
        ("JSON", 200, "GET", "/api/v1/queues", ""),
        ("text", 200, "GET", "/healthz", ""),
        ("metrics", 200, "GET", "/metrics", ""),
        ("the head alone", 200, "HEAD", "/queues", ""),
        ("no page", 404, "GET", "/nothing", ""),
        ("no JSON", 404, "GET", "/api/v1/nothing", ""),
        ("Flower's refusal", 404, "GET", "/api/task/info/none", ""),
        ("another method", 405, "POST", "/api/v1/queues", JSON),
        ("another method of a page", 415, "POST", "/queues", JSON),
        ("another name", 421, "GET", "/", "Host: evil.example\r\n"),
        ("a page that fails", 404, "GET", "/queues/none", ""),
        ("nonsense", 422, "POST", "/api/v1/bulk/retry", JSON),
    ] {
        answers.push((what, status, ask(open, method, path, headers, "").await));
    }
    answers.push(("too long", 413, ask(open, "POST", PAUSE, JSON, &"x".repeat(300 << 10)).await));
    answers.push(("a way to the login", 303, ask(token, "GET", "/queues", "", "").await));
    answers.push(("unknown", 401, ask(token, "GET", "/api/v1/queues", "", "").await));
    // Streams have no end: their heads are enough.
    for path in ["/queues", "/events", "/api/v1/events"] {
        let head = head_of(open, path, "Accept: text/event-stream\r\n").await;
        assert!(head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")), "{path}: {}", head.head);
        answers.push(("a stream", 200, head));
    }
    for (what, status, answered) in &answers {
        assert_eq!(answered.status, *status, "{what}: {}", answered.body);
        assert_safe(what, answered);
    }
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_proofs_slow_their_address_down_and_no_other_and_never_the_right_token() {
    let sites = Sites::start("tries").await;
    let other = IpAddr::from([127, 0, 0, 3]);
    for (site, wrong, right) in [("token", "Authorization: Bearer wrong\r\n", BEARER), ("basic", NOT_ANN, ANN)] {
        let address = sites.address(site);
        let mut statuses = Vec::new();
        for _ in 0..13 {
            statuses.push(ask(address, "GET", "/api/v1/queues", wrong, "").await.status);
        }
        assert!(statuses[..10].iter().all(|status| *status == 401) && statuses.contains(&429), "{site}: {statuses:?}");
        // A short password has to wait, too, or it could be found by trying; one more is let
        // through every six seconds. A token cannot be found.
        let late = ask(address, "GET", "/api/v1/queues", right, "").await;
        if late.status != 200 {
            assert_eq!(site, "basic", "{}", late.body);
            assert_eq!(late.status, 429, "{site}: {}", late.body);
            let wait: u64 = late.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&wait), "{site}: {wait}");
        }
        assert_eq!(ask_from(other, address, "GET", "/api/v1/queues", right, "").await.status, 200, "{site}: another address");
    }
    // The login page counts with the rest.
    let login = ask_from(other, sites.address("token"), "GET", "/login", "", "").await;
    let body = format!("_token={}&token=wrong", form_token(&login.body));
    let mut statuses = Vec::new();
    for _ in 0..13 {
        statuses.push(ask_from(other, sites.address("token"), "POST", "/login", FORM, &body).await.status);
    }
    assert!(statuses[..10].iter().all(|status| *status == 401) && statuses.contains(&429), "{statuses:?}");
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_says_is_shown_and_never_run_and_hidden_where_that_was_asked_for() {
    let sites = Sites::start("content").await;
    let (evil, secret) = ("<script>alert(1)</script>", "<script>alert('secret')</script>");
    for site in ["open", "hidden"] {
        let name = format!("memory://content-{site}");
        let fail =
            Task::plain(evil, |_, _| Err::<longshore_celery::Value, _>(Failure::error("ValueError", "<img src=x onerror=alert(1)>")));
        let give = Task::plain("shop.give", |_, _| Ok(longshore_celery::Value::from("<script>alert('secret')</script>")));
        let mut app = App::new().task(fail).task(give);
        *app.settings_mut() = Settings::new(&name);
        let worker = Worker::start(app, WorkerOptions::new("<w>@h")).await.unwrap();
        let client = &sites.clients[site];
        for (task, id) in [(evil, "bad"), ("shop.give", "good")] {
            let call: Signature = Signature::named(task).arg(&secret).kwarg("n", &secret).task_id(id);
            client.send(call).await.unwrap();
            let _ = tokio::time::timeout(Duration::from_secs(30), client.result(id).get()).await.expect("it ends");
        }
        let call: Signature = Signature::named(evil).arg(&secret).queue("<b>q").task_id("<i>waits");
        client.send(call).await.unwrap();
        let address = sites.address(site);
        for path in [
            "/",
            "/tasks",
            "/tasks/bad",
            "/tasks/good",
            "/tasks/%3Ci%3Ewaits",
            "/queues",
            "/queues/%3Cb%3Eq",
            "/workers",
            "/workers/%3Cw%3E@h",
            "/dead",
        ] {
            let page = ask(address, "GET", path, "", "").await;
            assert_eq!(page.status, 200, "{site} {path}: {}", page.body);
            assert!(site == "open" || !page.body.contains("secret"), "{path}: {}", page.body);
            for part in ["<script>alert", "<img src=x", "<b>q", "<i>waits", "<w>@"] {
                assert!(!page.body.contains(part), "{site} {path} has {part}: {}", page.body);
            }
        }
        let api = [
            "/api/v1/tasks",
            "/api/v1/tasks/good",
            "/api/v1/tasks/good/detail",
            "/api/v1/tasks/%3Ci%3Ewaits/detail",
            "/api/v1/queues/%3Cb%3Eq/next",
            "/api/task/result/good",
            "/api/task/info/good",
            "/api/tasks",
        ];
        for path in api {
            let facts = ask(address, "GET", path, "", "").await;
            assert_eq!(facts.status, 200, "{site} {path}: {}", facts.body);
            assert_eq!(facts.body.contains("secret"), site == "open", "{site} {path}: {}", facts.body);
        }
        worker.stopper().warm();
        worker.join().await;
    }
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_is_a_line_done_or_refused_by_page_or_program() {
    let sites = Sites::start("audit").await;
    fill(&sites.clients["basic"]).await;
    let ann = |rest: &str| format!("{ANN}{rest}");
    let address = sites.address("basic");
    let token = form_token(&ask(address, "GET", "/queues/q", ANN, "").await.body);
    let form = format!("_token={token}&what=pause&queue=q");
    assert_eq!(ask(address, "POST", "/queues/act", &ann(FORM), &form).await.status, 303);
    assert_eq!(ask(address, "POST", "/api/v1/queues/q/resume", &ann(JSON), "").await.status, 200);
    assert_eq!(ask(address, "POST", "/api/v1/tasks/none/cancel", &ann(JSON), "").await.status, 404);
    // Who was not let in has done nothing.
    assert_eq!(ask(address, "POST", "/api/v1/queues/q/purge", JSON, "").await.status, 401);
    let noted = sites.noted.lock().unwrap().clone();
    let rows = [r#""what":"pause","to":"q"}"#, r#""what":"resume","to":"q"}"#, r#""what":"cancel","to":"none","#];
    assert_eq!(noted.len(), rows.len(), "{noted:#?}");
    for (line, row) in noted.iter().zip(rows) {
        assert!(line.contains(row) && line.contains(r#""who":"ann","from":"127.0.0.1""#), "{row}: {line}");
    }
    assert!(noted[2].contains("\"refused\":") && !noted[0].contains("\"refused\":"), "{noted:#?}");
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_heads_have_a_largest_size() {
    let sites = Sites::start("sizes").await;
    let address = sites.address("open");
    let (fits, long) = (" ".repeat(200 << 10), " ".repeat(300 << 10));
    let rows = [
        (PAUSE, JSON, fits.clone(), 200),
        (PAUSE, JSON, long.clone(), 413),
        ("/queues/act", FORM, long.clone(), 413),
        ("/api/v1/tasks/shop.add", JSON, format!("{{\"args\":[\"{long}\"]}}"), 202),
        ("/api/v1/tasks/shop.add", JSON, format!("{{\"args\":[\"{}\"]}}", " ".repeat(2 << 20)), 413),
    ];
    for (path, kind, body, status) in rows {
        let answered = ask(address, "POST", path, kind, &body).await;
        assert_eq!(answered.status, status, "{path} with {} bytes: {}", body.len(), answered.body);
    }
    let headers =
        |count: usize, bytes: usize| (0..count).map(|number| format!("X-{number}: {}\r\n", "a".repeat(bytes))).collect::<String>();
    for (count, bytes, status) in [(90, 10, 200), (10, 2_000, 200), (200, 10, 431), (1, 64 << 10, 431)] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n", headers(count, bytes));
        let answered = raw(address, request.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {count} headers of {bytes} bytes"));
        assert_eq!(answered.status, status, "{count} headers of {bytes} bytes");
    }
    sites.stop().await;
}

/// The clock stands still but where nothing else is to be done: half a minute takes no time.
#[tokio::test(start_paused = true)]
async fn whoever_takes_too_long_with_a_body_or_a_head_is_not_waited_for() {
    let sites = Sites::start("times").await;
    let address = sites.address("open");
    let begin = |path: &str, kind: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nConnection: close\r\n{kind}\r\n{{}}")
    };
    for (path, kind) in [(PAUSE, JSON), ("/queues/act", FORM), ("/api/v1/tasks/shop.add", JSON)] {
        let answered = raw(address, begin(path, kind).as_bytes()).await.unwrap();
        assert!(
            answered.status == 408 && answered.body.contains("did not come within 30 s"),
            "{path}: {} {}",
            answered.status,
            answered.body
        );
        assert_safe(path, &answered);
    }
    assert!(raw(address, b"GET /healthz HTTP/1.1\r\nHost: local").await.is_none_or(|answered| answered.status == 408), "half a head");
    assert_eq!(ask(address, "GET", "/healthz", "", "").await.status, 200);
    sites.stop().await;
}
