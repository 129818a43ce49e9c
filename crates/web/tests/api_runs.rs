//! The OpenAPI document of runs and jobs against the handlers: each operation is asked, and each
//! refusal that the document names is brought about.
#![expect(clippy::unwrap_used, reason = "a test")]

mod described;
mod http;

use std::{net::SocketAddr, time::Duration};

use described::{Asked, Described, refuse_each};
use longshore_run::{Program, Run, RunSpec, jobs::StateDir};
use longshore_web::{Intake, IntakeOptions, Serving, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};

/// Returns a request for each thing that a run can be told, under this path; the last one ends it.
fn steering(operation: &str, path: &str) -> Vec<Asked> {
    let post = |what: &str, body: &str| Asked::post(&format!("{operation}/{what}"), &format!("{path}/{what}"), body);
    vec![
        post("pause", ""),
        post("resume", "{}"),
        post("set", r#"{"concurrency":3,"rate":"1000/s"}"#),
        post("set", r#"{"rate":"none"}"#),
        post("drain", ""),
        post("cancel", ""),
    ]
}

async fn until(address: SocketAddr, asked: &Asked, what: impl Fn(u16, &str) -> bool) {
    for _ in 0..600 {
        let answered = asked.send(address).await;
        if what(answered.status, &answered.body) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{asked:?}: {:?}", asked.send(address).await);
}

/// A run that fails now and then, and takes long; its story is told.
fn spec() -> RunSpec {
    let mut spec = RunSpec::new(Program::shell("sleep 0.01; test {} -lt 3 || sleep 30")).records((1..100).map(|n| n.to_string()));
    spec.output.story = true;
    spec.concurrency(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_answers_and_refuses_as_its_document_says() {
    let running = Run::start(Run::plan(spec()).unwrap()).await.unwrap();
    let options = WebOptions::default();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let serving = server.serve(Site::of_run(options, running.handle()));
    let address = serving.address();
    let mut described = Described::of(address, "").await;
    let mut all = vec![
        Asked::get("/healthz", "/healthz"),
        Asked::get("/readyz", "/readyz"),
        Asked::get("/metrics", "/metrics"),
        Asked::get("/api/v1/openapi.json", "/api/v1/openapi.json"),
        Asked::get("/api/v1/run", "/api/v1/run"),
    ];
    until(address, &all[4], |_, body| body.contains("\"ok\":2")).await;
    all.extend(steering("/api/v1/run", "/api/v1/run"));
    refuse_each(&mut described, address, &all).await;
    let wrong = [("set", "{}"), ("set", r#"{"concurrency":0}"#), ("set", r#"{"rate":"fast"}"#), ("pause", r#"{"rate":"1/s"}"#)];
    for (what, body) in wrong {
        let asked = Asked::post(&format!("/api/v1/run/{what}"), &format!("/api/v1/run/{what}"), body);
        described.ask(address, &asked, 422).await;
    }
    for asked in &all {
        described.ask(address, asked, 200).await;
    }
    running.await;
    for path in ["/readyz", "/metrics", "/api/v1/run"] {
        let asked = Asked::get(path, path);
        until(address, &asked, |status, _| status == 503).await;
        described.ask(address, &asked, 503).await;
    }
    assert_eq!(described.unseen(), [], "described, and never brought about");
    serving.stop().await;
}

async fn dashboard(state: StateDir) -> Serving {
    let client = Client::connect(&Settings::new("memory://api-jobs")).unwrap();
    let mut options = WebOptions::default();
    options.jobs = Some(state);
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    let intake = Intake::new(client.clone(), IntakeOptions::default());
    server.serve(Site::of_deployment(options, client, &intake))
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_answer_and_refuse_as_their_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec().name("long").state_dir(folder.path());
    spec.journal.reachable = true;
    let running = Run::start(Run::plan(spec).unwrap()).await.unwrap();
    let over = RunSpec::new(Program::command(["false"])).records(["1", "2"]).name("over").state_dir(folder.path());
    Run::start(Run::plan(over).unwrap()).await.unwrap().await;
    let serving = dashboard(StateDir::open(Some(folder.path())).unwrap()).await;
    let address = serving.address();
    let mut described = Described::of(address, "").await;
    let (one, path) = ("/api/v1/jobs/{job}", "/api/v1/jobs/long");
    let mut all = vec![Asked::get("/api/v1/jobs", "/api/v1/jobs"), Asked::get(one, "/api/v1/jobs/over"), Asked::get(one, path)];
    until(address, &all[2], |_, body| body.contains("\"ok\":2")).await;
    all.extend(steering(one, path));
    refuse_each(&mut described, address, &all).await;
    for asked in all.iter().filter(|asked| asked.path.contains("/long")) {
        described.ask(address, &asked.path(asked.path.replace("/long", "/none")), 404).await;
        if asked.is_post() {
            described.ask(address, &asked.path(asked.path.replace("/long", "/over")), 409).await;
        }
    }
    described.ask(address, &Asked::post(&format!("{one}/set"), &format!("{path}/set"), "{}"), 422).await;
    for asked in &all {
        described.ask(address, asked, 200).await;
    }
    running.await;
    serving.stop().await;

    // What is no directory any more cannot be read.
    let place = folder.path().join("place");
    let state = StateDir::open(Some(&place)).unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, "").unwrap();
    let broken = dashboard(state).await;
    for asked in &all[..3] {
        described.ask(broken.address(), asked, 500).await;
    }
    broken.stop().await;
    let unseen: Vec<_> = described.unseen().into_iter().filter(|(operation, _)| operation.contains("/jobs")).collect();
    assert_eq!(unseen, [], "described, and never brought about");
}
