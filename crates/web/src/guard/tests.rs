use axum::routing::get;

use super::*;

const TOKEN: &str = "a token that is long";

/// Routes behind a guard.
#[derive(Clone)]
struct GuardedRouter {
    guard: Arc<Guard>,
    router: Router,
}

fn router(options: WebOptions) -> (GuardedRouter, Arc<Guard>) {
    let guard = Arc::new(Guard::new(options));
    let all = || get(|| async { "seen" }).post(|| async { "done" });
    let router = Router::new().route("/page", all()).route("/api/v1/x", all()).route("/healthz", get(|| async { "ok" }));
    (GuardedRouter { guard: guard.clone(), router }, guard)
}

/// A request: method, path, headers, body.
type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], String);

async fn ask(router: &GuardedRouter, (method, path, headers, body): Asked<'_>, peer: &str) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body)).unwrap();
    request.extensions_mut().insert(Peer(SocketAddr::new(peer.parse().unwrap(), 999)));
    guard(router.guard.clone(), router.router.clone(), request).await
}

async fn status(router: &GuardedRouter, asked: Asked<'_>) -> u16 {
    ask(router, asked, "127.0.0.1").await.status().as_u16()
}

#[tokio::test]
async fn without_a_token_only_names_of_this_machine_are_answered() {
    let (router, _) = router(WebOptions::default());
    let rows = [
        ("localhost:7070", 200),
        ("127.0.0.1:7070", 200),
        ("127.9.9.9", 200),
        ("[::1]:7070", 200),
        ("shop.localhost", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:7070", 421),
        ("10.0.0.1:7070", 421),
    ];
    for (host, expected) in rows {
        assert_eq!(status(&router, ("GET", "/page", &[("host", host)], String::new())).await, expected, "{host}");
    }
    assert_eq!(status(&router, ("GET", "/page", &[], String::new())).await, 421, "no host");
    assert_eq!(status(&router, ("GET", "/healthz", &[("host", "10.1.2.3")], String::new())).await, 200, "probes ask by address");
}

#[tokio::test]
async fn what_changes_something_comes_from_a_page_of_ours_or_is_json() {
    let (router, guard) = router(WebOptions::default());
    let form = |token: &str| format!("a=b&_token={token}");
    let token = guard.form_token("anybody on this machine");
    let own = [("host", "localhost"), ("content-type", "application/x-www-form-urlencoded")];
    let json = [("host", "localhost"), ("content-type", "application/json; charset=utf-8")];
    let site = |base: [(&'static str, &'static str); 2], more: (&'static str, &'static str)| [base[0], base[1], more];
    let same = ("sec-fetch-site", "same-origin");
    let (cross, sibling) = (("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"));
    assert_eq!(status(&router, ("POST", "/page", &site(own, same), form(&token))).await, 200);
    assert_eq!(status(&router, ("POST", "/page", &own, form(&token))).await, 200, "a script with the token");
    assert_eq!(status(&router, ("POST", "/page", &own, form(""))).await, 403);
    assert_eq!(status(&router, ("POST", "/page", &own, form(&guard.form_token("somebody else")))).await, 403);
    assert_eq!(status(&router, ("POST", "/page", &own, "a=b".into())).await, 403);
    assert_eq!(status(&router, ("POST", "/page", &site(own, cross), form(&token))).await, 403);
    assert_eq!(status(&router, ("POST", "/page", &site(own, sibling), form(&token))).await, 403);
    assert_eq!(status(&router, ("POST", "/page", &site(own, ("origin", "http://evil")), form(&token))).await, 403);
    assert_eq!(status(&router, ("POST", "/page", &site(own, ("origin", "http://localhost")), form(&token))).await, 200);
    assert_eq!(status(&router, ("POST", "/page", &json, "{}".into())).await, 415);
    assert_eq!(status(&router, ("POST", "/page", &own, format!("{}&x={}", form(&token), "y".repeat(LONGEST_FORM)))).await, 413);
    assert_eq!(status(&router, ("POST", "/api/v1/x", &json, "{}".into())).await, 200);
    assert_eq!(status(&router, ("POST", "/api/v1/x", &site(json, cross), "{}".into())).await, 403);
    assert_eq!(status(&router, ("POST", "/api/v1/x", &own, form(&token))).await, 415, "what a form of another site can send");
    assert_eq!(status(&router, ("POST", "/api/v1/x", &[("host", "localhost")], String::new())).await, 415);
    assert_eq!(status(&router, ("POST", "/api/v1/x", &[("host", "localhost"), ("content-type", "text/plain")], "{}".into())).await, 415);
}

#[tokio::test]
async fn read_only_sites_refuse_every_change() {
    let (router, guard) = router(WebOptions { read_only: true, ..WebOptions::default() });
    let host = ("host", "localhost");
    let token = format!("_token={}", guard.form_token("anybody on this machine"));
    assert_eq!(status(&router, ("GET", "/page", &[host], String::new())).await, 200);
    assert_eq!(status(&router, ("POST", "/page", &[host, ("content-type", "application/x-www-form-urlencoded")], token)).await, 403);
    assert_eq!(status(&router, ("POST", "/api/v1/x", &[host, ("content-type", "application/json")], "{}".into())).await, 403);
    assert_eq!(status(&router, ("DELETE", "/api/v1/x", &[host, ("content-type", "application/json")], "{}".into())).await, 403);
}

#[tokio::test]
async fn each_access_admits_who_proves_it_and_nobody_else() {
    let of = |access| router(WebOptions { access, ..WebOptions::default() }).0;
    let token = of(Access::Token(Secret::new(TOKEN)));
    let right = format!("Bearer {TOKEN}");
    assert_eq!(status(&token, ("GET", "/api/v1/x", &[("authorization", &right)], String::new())).await, 200);
    assert_eq!(status(&token, ("GET", "/api/v1/x", &[("authorization", &right), ("host", "any.example")], String::new())).await, 200);
    let refused = ask(&token, ("GET", "/api/v1/x", &[], String::new()), "127.0.0.1").await;
    assert_eq!(refused.status(), 401);
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    let page = ask(&token, ("GET", "/page?a=b", &[], String::new()), "127.0.0.1").await;
    assert_eq!((page.status().as_u16(), page.headers()["location"].to_str().unwrap()), (303, "/login?next=/page%3Fa%3Db"));
    assert_eq!(status(&token, ("GET", "/healthz", &[], String::new())).await, 200);

    let basic = of(Access::Basic { user: "ops".into(), password: Secret::new("correct horse") });
    let proof = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    for (text, expected) in [("ops:correct horse", 200), ("ops:wrong", 401), ("root:correct horse", 401), ("ops", 401)] {
        assert_eq!(status(&basic, ("GET", "/page", &[("authorization", &proof(text))], String::new())).await, expected, "{text}");
    }
    assert!(
        ask(&basic, ("GET", "/page", &[], String::new()), "127.0.0.1").await.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Basic")
    );

    let proxy = of(Access::Proxy { header: "X-Forwarded-User".into(), from: vec!["10.0.0.9".parse().unwrap()] });
    let user = [("x-forwarded-user", "ann")];
    assert_eq!(ask(&proxy, ("GET", "/page", &user, String::new()), "10.0.0.9").await.status(), 200);
    assert_eq!(ask(&proxy, ("GET", "/page", &user, String::new()), "::ffff:10.0.0.9").await.status(), 200);
    assert_eq!(ask(&proxy, ("GET", "/page", &user, String::new()), "10.0.0.8").await.status(), 403);
    assert_eq!(ask(&proxy, ("GET", "/page", &[], String::new()), "10.0.0.9").await.status(), 403);
}

#[tokio::test]
async fn a_thousand_wrong_tokens_are_slowed_down_and_the_right_one_is_not() {
    let (router, guard) = router(WebOptions { access: Access::Token(Secret::new(TOKEN)), ..WebOptions::default() });
    let mut statuses = std::collections::BTreeMap::new();
    for n in 0..1_000 {
        let wrong = format!("Bearer wrong token number {n}");
        let response = ask(&router, ("GET", "/api/v1/x", &[("authorization", &wrong)], String::new()), "10.0.0.1").await;
        if response.status() == 429 {
            let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=6).contains(&wait), "{wait}");
        }
        *statuses.entry(response.status().as_u16()).or_insert(0) += 1;
    }
    assert!((10..=12).contains(&statuses[&401]), "{statuses:?}");
    assert_eq!(statuses[&401] + statuses[&429], 1_000);
    let right = format!("Bearer {TOKEN}");
    for address in ["10.0.0.1", "10.0.0.2"] {
        assert_eq!(ask(&router, ("GET", "/api/v1/x", &[("authorization", &right)], String::new()), address).await.status(), 200);
    }
    // Who has shown it before is not locked out by a neighbour.
    let cookie = guard.log_in(TOKEN, "10.0.0.2".parse().unwrap()).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(ask(&router, ("GET", "/api/v1/x", &[("cookie", cookie)], String::new()), "10.0.0.1").await.status(), 200);
    assert_eq!(guard.log_in("wrong", "10.0.0.3".parse().unwrap()).unwrap_err().status, 401);
    assert_eq!(guard.log_in("wrong", "10.0.0.1".parse().unwrap()).unwrap_err().status, 429);
    assert!(guard.log_in(TOKEN, "10.0.0.1".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn a_right_password_waits_after_wrong_ones_only_where_it_could_be_found_by_trying() {
    for (password, expected) in [("twelve chars", 200), ("eleven char", 429)] {
        let access = Access::Basic { user: "ops".into(), password: Secret::new(password) };
        let (router, _) = router(WebOptions { access, ..WebOptions::default() });
        let proof = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        let ask_with = async |text: String| status(&router, ("GET", "/page", &[("authorization", &proof(&text))], String::new())).await;
        for number in 0..10 {
            assert_eq!(ask_with(format!("ops:wrong {number}")).await, 401);
        }
        assert_eq!(ask_with("ops:wrong".to_owned()).await, 429);
        assert_eq!(ask_with(format!("root:{password}")).await, 429, "another user is nobody");
        assert_eq!(ask_with(format!("ops:{password}")).await, expected, "{password}");
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_that_browsers_need() {
    let (router, _) = router(WebOptions::default());
    for host in ["localhost", "evil.example"] {
        let response = ask(&router, ("GET", "/page", &[("host", host)], String::new()), "127.0.0.1").await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn a_path_that_nobody_can_read_is_refused() {
    let (router, _) = router(WebOptions::default());
    let own = [("host", "localhost")];
    let rows = [("/page", 200), ("/pag%65", 404), ("/page%00", 400), ("/%ff", 400), ("/a%0d%0ab", 400), ("/%c3%a9", 404), ("/%zz", 404)];
    for (path, expected) in rows {
        assert_eq!(status(&router, ("GET", path, &own, String::new())).await, expected, "{path}");
    }
    let refused = ask(&router, ("GET", "/api/v1/%00", &own, String::new()), "127.0.0.1").await;
    assert_eq!(refused.headers()["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_waited_for_a_while() {
    let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>());
    let refused = read_whole(silent).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(read_whole(Body::from("x".repeat(LONGEST_FORM + 1))).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(read_whole(Body::from("x")).await.unwrap(), "x");
}

#[tokio::test]
async fn the_form_for_the_token_which_anybody_may_send_is_short() {
    let (router, guard) = router(WebOptions { access: Access::Token(Secret::new(TOKEN)), ..WebOptions::default() });
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let token = format!("_token={}&token=", guard.form_token("login"));
    for (longer, expected) in [(100, 404), (LONGEST_LOGIN, 413)] {
        assert_eq!(status(&router, ("POST", "/login", &form, format!("{token}{}", "x".repeat(longer)))).await, expected, "{longer}");
    }
}

#[test]
fn a_form_leads_back_to_this_site_only() {
    let rows = [
        ("/queues?a=1", "/queues?a=1"),
        ("//evil", "/"),
        ("https://evil", "/"),
        ("/\\evil", "/"),
        ("/\t/evil", "/"),
        ("", "/"),
        ("/a\r\nb", "/"),
    ];
    for (asked, led) in rows {
        assert_eq!(own_path(asked), led, "{asked}");
    }
}
