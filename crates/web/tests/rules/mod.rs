//! The table of rules: what each refuses, and what it allows beside that.

pub(crate) const TOKEN: &str = "a token of some length";
/// `ann:a password`, and the same user with another password.
pub(crate) const ANN: &str = "Authorization: Basic YW5uOmEgcGFzc3dvcmQ=\r\n";
pub(crate) const NOT_ANN: &str = "Authorization: Basic YW5uOmFub3RoZXI=\r\n";
pub(crate) const BEARER: &str = "Authorization: Bearer a token of some length\r\n";
pub(crate) const JSON: &str = "Content-Type: application/json\r\n";
pub(crate) const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
/// Pauses and resumes are harmless, and change something.
pub(crate) const PAUSE: &str = "/api/v1/queues/q/pause";
pub(crate) const PAUSE_FORM: &str = "what=pause&queue=q";

/// A request. `{form}` in its body stands for a form's token, `{cookie}` in its headers for the
/// session of who has logged in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) headers: &'static str,
    pub(crate) body: &'static str,
    pub(crate) status: u16,
    /// Text that stands in the answer, head or body.
    pub(crate) says: &'static str,
}

const fn get(path: &'static str, headers: &'static str, status: u16, says: &'static str) -> Asked {
    Asked { method: "GET", path, headers, body: "", status, says }
}

pub(crate) const fn post(path: &'static str, headers: &'static str, body: &'static str, status: u16, says: &'static str) -> Asked {
    Asked { method: "POST", path, headers, body, status, says }
}

/// A rule on a site: what it refuses, and what it allows beside that.
pub(crate) struct Rule {
    pub(crate) rule: &'static str,
    pub(crate) site: &'static str,
    pub(crate) refused: &'static [Asked],
    pub(crate) allowed: &'static [Asked],
}

pub(crate) const RULES: &[Rule] = &[
    Rule {
        rule: "without a token only names of this machine are answered to",
        site: "open",
        refused: &[
            get("/", "Host: evil.example\r\n", 421, "localhost, 127.0.0.1 and [::1] only"),
            get("/queues", "Host: localhost.evil.example\r\n", 421, ""),
            get("/api/v1/queues", "Host: 10.0.0.1:7070\r\n", 421, "\"status\":421"),
            get("/metrics", "Host: evil.example\r\n", 421, ""),
            post(PAUSE, "Host: evil.example\r\nContent-Type: application/json\r\n", "{}", 421, ""),
        ],
        allowed: &[
            get("/", "Host: localhost:7070\r\n", 200, "<h1"),
            get("/queues", "Host: [::1]:7070\r\n", 200, ""),
            get("/api/v1/queues", "Host: 127.0.0.1\r\n", 200, ""),
            get("/healthz", "Host: evil.example\r\n", 200, ""),
        ],
    },
    Rule {
        rule: "a token is asked for, and a wrong one is none",
        site: "token",
        refused: &[
            get("/api/v1/queues", "", 401, "www-authenticate: bearer"),
            get("/api/v1/queues", "Authorization: Bearer another token entirely\r\n", 401, "a token is needed"),
            get("/metrics", "", 401, ""),
            get("/queues?a=1", "", 303, "location: /login?next=/queues%3fa%3d1"),
            post(PAUSE, JSON, "{}", 401, ""),
            get("/api/tasks", "", 401, ""),
        ],
        allowed: &[
            get("/api/v1/queues", BEARER, 200, ""),
            get("/metrics", BEARER, 200, ""),
            get("/queues?a=1", BEARER, 200, ""),
            post(PAUSE, "Authorization: bearer a token of some length\r\nContent-Type: application/json\r\n", "{}", 200, ""),
            get("/healthz", "", 200, ""),
            get("/healthcheck", "", 200, "OK"),
            get("/login", "", 200, "<form"),
        ],
    },
    Rule {
        rule: "a cookie is of who has shown the token",
        site: "token",
        refused: &[
            get("/api/v1/queues", "Cookie: longshore_session=99999999999.00\r\n", 401, ""),
            get("/queues", "Cookie: longshore_session=99999999999.00\r\n", 303, "location: /login"),
            post("/login", FORM, "_token={form}&token=not+the+token", 401, "this is not the token"),
            post("/login", FORM, "_token=none&token=a+token+of+some+length", 403, "this form is not of this page"),
        ],
        allowed: &[
            post("/login", FORM, "_token={form}&token=a+token+of+some+length", 303, "httponly; samesite=strict"),
            get("/queues", "Cookie: theme=dark; {cookie}\r\n", 200, ""),
            get("/api/v1/queues", "Cookie: {cookie}\r\n", 200, ""),
        ],
    },
    Rule {
        rule: "a login leads to no other site",
        site: "token",
        refused: &[
            post("/login", FORM, "_token={form}&token=a+token+of+some+length&next=//evil.example", 303, "location: /\r\n"),
            post("/login", FORM, "_token={form}&token=a+token+of+some+length&next=/%09/evil.example", 303, "location: /\r\n"),
            post("/login", FORM, "_token={form}&token=a+token+of+some+length&next=/%5Cevil.example", 303, "location: /\r\n"),
            get("/login?next=%2F%09%2Fevil.example", "", 200, "value=\"&#x2f;\""),
        ],
        allowed: &[post("/login", FORM, "_token={form}&token=a+token+of+some+length&next=/queues", 303, "location: /queues\r\n")],
    },
    Rule {
        rule: "a form leads back to no other site",
        site: "open",
        refused: &[
            post("/queues/act", FORM, "_token={form}&back=//evil.example&what=pause&queue=q", 303, "location: /?said="),
            post("/queues/act", FORM, "_token={form}&back=/%5Cevil.example&what=pause&queue=q", 303, "location: /?said="),
            post("/queues/act", FORM, "_token={form}&back=/%09/evil.example&what=pause&queue=q", 303, "location: /?said="),
        ],
        allowed: &[post("/queues/act", FORM, "_token={form}&back=/queues&what=pause&queue=q", 303, "location: /queues?said=")],
    },
    Rule {
        rule: "a user and a password are asked for",
        site: "basic",
        refused: &[
            get("/", "", 401, "www-authenticate: basic"),
            get("/", NOT_ANN, 401, ""),
            get("/api/v1/queues", "Authorization: Basic Ym9iOmEgcGFzc3dvcmQ=\r\n", 401, ""),
            get("/api/v1/queues", "Authorization: Basic no-base64\r\n", 401, ""),
        ],
        allowed: &[get("/", ANN, 200, "ann"), get("/api/v1/queues", ANN, 200, ""), get("/readyz", "", 200, "")],
    },
    Rule {
        rule: "a form's token is its user's",
        site: "basic",
        refused: &[post(
            "/queues/act",
            "Authorization: Basic YW5uOmEgcGFzc3dvcmQ=\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            "_token=0000&what=pause&queue=q",
            403,
            "this form is not of this page",
        )],
        allowed: &[post(
            "/queues/act",
            "Authorization: Basic YW5uOmEgcGFzc3dvcmQ=\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            "_token={form}&what=pause&queue=q",
            303,
            "location: /?said=",
        )],
    },
    Rule {
        rule: "nothing is changed where that was forbidden",
        site: "read-only",
        refused: &[
            post(PAUSE, JSON, "{}", 403, "read-only"),
            post("/api/v1/tasks/shop.add", JSON, "{}", 403, "read-only"),
            post("/api/v1/tasks", "Content-Type: application/x-ndjson\r\n", "{}", 403, "read-only"),
            post("/queues/act", FORM, PAUSE_FORM, 403, "read-only"),
            Asked { method: "DELETE", path: "/api/v1/queues/q/pause", headers: JSON, body: "", status: 403, says: "read-only" },
        ],
        allowed: &[get("/queues", "", 200, ""), get("/api/v1/queues", "", 200, ""), get("/metrics", "", 200, "")],
    },
    Rule {
        rule: "a page of another site changes nothing, whatever it sends",
        site: "open",
        refused: &[
            post(PAUSE, "Sec-Fetch-Site: cross-site\r\nContent-Type: application/json\r\n", "{}", 403, "another site"),
            post(PAUSE, "Sec-Fetch-Site: same-site\r\nContent-Type: application/json\r\n", "{}", 403, "another site"),
            post(PAUSE, "Origin: http://evil.example\r\nContent-Type: application/json\r\n", "{}", 403, "another site"),
            post(PAUSE, "Origin: null\r\nContent-Type: application/json\r\n", "{}", 403, "another site"),
            post(
                "/queues/act",
                "Sec-Fetch-Site: cross-site\r\nContent-Type: application/x-www-form-urlencoded\r\n",
                "_token={form}&what=pause&queue=q",
                403,
                "another site",
            ),
            post("/api/v1/tasks/shop.add", "Sec-Fetch-Site: cross-site\r\nContent-Type: application/json\r\n", "{}", 403, "another site"),
        ],
        allowed: &[
            post(PAUSE, "Sec-Fetch-Site: same-origin\r\nContent-Type: application/json\r\n", "{}", 200, ""),
            post(PAUSE, "Sec-Fetch-Site: none\r\nContent-Type: application/json\r\n", "{}", 200, ""),
            post(PAUSE, "Origin: http://localhost\r\nContent-Type: application/json\r\n", "{}", 200, ""),
            post(PAUSE, JSON, "{}", 200, ""),
        ],
    },
    Rule {
        rule: "a form has its token",
        site: "open",
        refused: &[
            post("/queues/act", FORM, PAUSE_FORM, 403, "this form is not of this page"),
            post("/queues/act", FORM, "_token=0123&what=pause&queue=q", 403, "this form is not of this page"),
        ],
        allowed: &[post("/queues/act", FORM, "_token={form}&what=pause&queue=q", 303, "location: /?said=")],
    },
    Rule {
        rule: "programs send JSON, which no form of another site can",
        site: "open",
        refused: &[
            post(PAUSE, "Content-Type: text/plain\r\n", "{}", 415, "send JSON"),
            post(PAUSE, FORM, "{}", 415, "send JSON"),
            post(PAUSE, "Content-Type: multipart/form-data; boundary=x\r\n", "{}", 415, "send JSON"),
            post(PAUSE, "", "{}", 415, "send JSON"),
            post("/queues/act", JSON, "{}", 415, "a form is expected"),
        ],
        allowed: &[post(PAUSE, "Content-Type: application/json; charset=utf-8\r\n", "{}", 200, "")],
    },
    Rule {
        rule: "paths lead nowhere but to what is there",
        site: "open",
        refused: &[
            get("/assets/../Cargo.toml", "", 404, ""),
            get("/assets/x/..%2f..%2fCargo.toml", "", 404, ""),
            get("/assets/%2e%2e/%2e%2e", "", 404, ""),
            get("//evil.example/queues", "", 404, ""),
            get("/queues/%00", "", 400, "cannot be read"),
            get("/queues/%ff", "", 400, "cannot be read"),
            get("/queues/a%0d%0aSet-Cookie:x", "", 400, "cannot be read"),
            get("/api/v1/queues/%00/next", "", 400, "\"status\":400"),
            get("/API/v1/queues", "", 404, ""),
            get("/api/v1/queues/", "", 404, ""),
            Asked { method: "PUT", path: "/api/v1/queues", headers: JSON, body: "{}", status: 405, says: "another method" },
        ],
        allowed: &[get("/api/v1/queues/a%20b/next", "", 200, "[]"), get("/tasks?find=../../etc/passwd", "", 200, "")],
    },
];
