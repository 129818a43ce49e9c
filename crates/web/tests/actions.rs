//! Actions of pages: to what they are done, what is said of them, and what is noted.
#![expect(clippy::unwrap_used, reason = "a test")]

mod http;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Answered, ask};
use longshore_brokers::{Consumer, End, Finish, OpenOptions};
use longshore_celery::Value;
use longshore_ops::{
    CallArguments,
    dead::{self, DeadRequest},
};
use longshore_web::{Auditor, Intake, IntakeOptions, Serving, Site, WebOptions, WebServer};
use longshore_worker::{App, Client, Settings, Signature, Worker, WorkerOptions};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

struct Dashboard {
    client: Client,
    serving: Serving,
    audit: Arc<Mutex<Vec<String>>>,
}

impl Dashboard {
    async fn over(broker: &str) -> Self {
        let client = Client::connect(&Settings::new(broker)).unwrap();
        let audit: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = audit.clone();
        let mut options = WebOptions::default();
        options.audit = Some(Auditor::new(move |action| noted.lock().unwrap().push(serde_json::to_string(action).unwrap())));
        let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
        let serving = server.serve(Site::of_deployment(options, client.clone(), &Intake::new(client.clone(), IntakeOptions::default())));
        Self { client, serving, audit }
    }

    async fn get(&self, path: &str) -> Answered {
        ask(self.serving.address(), "GET", path, "", "").await
    }

    /// Waits until this page says this: what it shows may be a second old.
    async fn until(&self, path: &str, want: &str) {
        let mut body = String::new();
        for _ in 0..200 {
            body = self.get(path).await.body;
            if body.contains(want) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never says {want}: {body}");
    }

    /// Sends a form, with the token that stands in a page. Returns what is said then.
    async fn submit(&self, page: &str, action: &str, fields: &str) -> String {
        let html = self.get(page).await.body;
        let token = html.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
        let answered = ask(self.serving.address(), "POST", action, FORM, &format!("_token={token}&back={page}&{fields}")).await;
        assert_eq!(answered.status, 303, "{}", answered.body);
        let page = self.get(answered.header("location").unwrap()).await.body;
        let said = page.split("class=\"said").nth(1).expect("something is said");
        said.split_once('>').unwrap().1.split('<').next().unwrap().to_owned()
    }

    fn noted(&self) -> Vec<String> {
        self.audit.lock().unwrap().clone()
    }

    /// Sends tasks to a queue, and makes dead letters of them.
    async fn bury(&self, queue: &str, ids: &[&str], reason: &str) {
        for id in ids {
            self.send(queue, id).await;
        }
        let consumer: Arc<dyn Consumer> = self.client.broker().open(OpenOptions::new("gravedigger@h", [queue])).await.unwrap();
        let mut claimed = Vec::new();
        while claimed.len() < ids.len() {
            consumer.claim(8, &mut claimed).await.unwrap();
        }
        let end = End::Dead { reason: reason.into() };
        let dead = claimed.iter().map(|claimed| Finish {
            receipt: claimed.receipt,
            publish: Vec::new(),
            results: Vec::new(),
            part: None,
            end: end.clone(),
        });
        consumer.finish(&dead.collect::<Vec<_>>()).await.unwrap();
        consumer.leave().await.unwrap();
    }

    async fn send(&self, queue: &str, id: &str) {
        let call: Signature = Signature::named("shop.add").arg(&1).task_id(id).queue(queue);
        self.client.send(call).await.unwrap();
    }

    async fn dead(&self) -> Vec<String> {
        let letters = dead::list(&self.client, &DeadRequest::default()).await.unwrap();
        let mut ids: Vec<String> = letters.iter().map(|letter| letter.id().to_owned()).collect();
        ids.sort();
        ids
    }
}

/// Returns the fields of the form with this button, as they are sent.
fn fields_of(html: &str, button: &str) -> String {
    let form = html.split("<form").find(|form| form.contains(&format!(">{button}</button>"))).expect("a form");
    let inputs = form.split("<input type=\"hidden\" name=\"").skip(1).filter_map(|input| {
        let (name, rest) = input.split_once("\" value=\"")?;
        let value = rest.split('"').next()?;
        (!["_token", "back"].contains(&name)).then(|| format!("{name}={}", value.replace(' ', "+")))
    });
    inputs.collect::<Vec<_>>().join("&")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_letter_of_a_group_is_put_back_or_thrown_away_alone() {
    let dashboard = Dashboard::over("memory://actions-dead-alone").await;
    dashboard.bury("a", &["a1", "a2", "a3"], "it died 3 times").await;
    let page = dashboard.get("/dead").await.body;
    assert!(page.contains("it died 3 times") && page.contains("<details id=\"letters-"), "{page}");
    assert_eq!(dashboard.submit("/dead", "/dead/act", &fields_of(&page, "Purge a2")).await, "1 thrown away");
    assert_eq!(dashboard.dead().await, ["a1", "a3"]);
    assert_eq!(dashboard.submit("/dead", "/dead/act", &fields_of(&page, "Retry a3")).await, "1 put back into their queues");
    assert_eq!(dashboard.dead().await, ["a1"]);
    // It has gone meanwhile.
    let said = dashboard.submit("/dead", "/dead/act", &fields_of(&page, "Retry a3")).await;
    assert!(said == "no dead letter of task a3", "{said}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_dead_letters_is_what_its_page_showed_and_no_letter_of_another_queue() {
    let dashboard = Dashboard::over("memory://actions-dead").await;
    dashboard.bury("a", &["a1", "a2"], "it died 3 times").await;
    dashboard.bury("a", &["a4"], "it died 4 times").await;
    dashboard.bury("b", &["b1", "b2"], "it died 3 times").await;
    let page = dashboard.get("/dead?queue=a&error=3+times").await.body;
    assert!(page.contains("2 letters of a") && page.contains("Throw away 2 letters?"), "{page}");
    assert_eq!(dashboard.submit("/dead", "/dead/act", &fields_of(&page, "Purge")).await, "2 thrown away");
    assert_eq!(dashboard.dead().await, ["a4", "b1", "b2"]);
    let page = dashboard.get("/dead?queue=b").await.body;
    assert_eq!(dashboard.submit("/dead", "/dead/act", &fields_of(&page, "Retry")).await, "2 put back into their queues");
    assert_eq!(dashboard.dead().await, ["a4"]);
    // Nothing is done to more letters than the page has said.
    let page = dashboard.get("/dead?queue=a").await.body;
    assert!(page.contains("Throw away 1 letters?"), "{page}");
    dashboard.bury("a", &["a5"], "it died 7 times").await;
    for button in ["Purge", "Retry"] {
        let said = dashboard.submit("/dead", "/dead/act", &fields_of(&page, button)).await;
        assert_eq!(said, "2 match by now, and it was wanted for 1: nothing was done; look again", "{button}");
    }
    assert_eq!(dashboard.dead().await, ["a4", "a5"]);
    // The same for programs.
    let body = r#"{"task":"shop.add","error":"it died … times","queue":"b"}"#;
    assert_eq!(ask(dashboard.serving.address(), "POST", "/api/v1/dead/purge", JSON, body).await.status, 404);
    let done = ask(dashboard.serving.address(), "POST", "/api/v1/dead/purge", JSON, &body.replace("\"b\"", "\"a\"")).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let noted = dashboard.noted();
    assert!(noted[0].contains("queue:a text:3 times") && noted[1].contains("queue:b"), "{noted:#?}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_sent_with_changed_arguments_is_noted_with_its_new_id() {
    let dashboard = Dashboard::over("memory://actions-edited").await;
    dashboard.send("celery", "old").await;
    let said = dashboard.submit("/tasks/old", "/tasks/act", "what=send&task=shop.add&args=%5B2%5D&kwargs=%7B%7D&queue=other").await;
    let id = said.strip_prefix("sent as ").expect("an id");
    let noted = dashboard.noted();
    assert!(noted[0].contains(&format!(r#""what":"send","to":"{id}","count":1"#)), "{noted:#?}");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_nobody_can_answer_is_refused_and_nothing_is_done_to_all_the_others() {
    let dashboard = Dashboard::over("memory://actions-filters").await;
    for id in ["a", "b"] {
        dashboard.send("celery", id).await;
    }
    for filter in ["worker=w%40h", "took=2s"] {
        let name = filter.split('=').next().unwrap();
        let page = dashboard.get(&format!("/tasks?{filter}")).await.body;
        assert!(page.contains(&format!("{name}: only what is remembered")) && !page.contains("href=\"/tasks/a\""), "{page}");
        assert_eq!(dashboard.get(&format!("/api/v1/tasks?{filter}")).await.status, 422);
        let said = dashboard.submit("/tasks", "/tasks/act", &format!("what=cancel&all=1&{filter}")).await;
        assert!(said.starts_with(&format!("{name}: only what is remembered")), "{said}");
        assert!(dashboard.submit("/tasks", "/tasks/act", &format!("what=cancel&all=1&past=1&{filter}")).await.contains("no history"));
    }
    assert_eq!(dashboard.submit("/tasks", "/tasks/act", "what=cancel&all=1").await, "2 called off");
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_a_slash_can_be_opened_from_every_page_that_links_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let broker = format!("sqlite:{}", folder.path().join("tasks.db").display());
    let dashboard = Dashboard::over(&broker).await;
    dashboard.send("a/b", "my/id 1").await;
    dashboard.bury("c/d?e", &["dead/1"], "it died").await;
    let mut options = WorkerOptions::new("w/1@h");
    options.queues = vec!["served/1".to_owned()];
    let mut app = App::new();
    *app.settings_mut() = Settings::new(&broker);
    let worker = Worker::start(app, options).await.unwrap();
    let rows = [
        ("/", "/queues/served%2F1", "w/1@h"),
        ("/queues", "/queues/served%2F1", "w/1@h"),
        ("/queues/a%2Fb", "/tasks/my%2Fid%201", "my/id 1"),
        ("/tasks", "/tasks/my%2Fid%201", "my/id 1"),
        ("/tasks/my%2Fid%201", "/queues/a%2Fb", "my/id 1"),
        ("/dead", "/tasks/dead%2F1", "dead/1"),
        ("/tasks/dead%2F1", "/queues/c%2Fd%3Fe", "c/d?e"),
        ("/", "/workers/w%2F1%40h", "w/1@h"),
        ("/workers", "/workers/w%2F1%40h", "w/1@h"),
    ];
    for (page, link, shows) in rows {
        dashboard.until(page, &format!("href=\"{link}\"")).await;
        let opened = dashboard.get(link).await;
        assert!(opened.status == 200 && opened.body.replace("&#x2f;", "/").contains(shows), "{link}: {} {}", opened.status, opened.body);
    }
    worker.stopper().warm();
    worker.join().await;
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_beyond_64_bits_are_shown_for_a_change_and_sent_as_they_were() {
    let dashboard = Dashboard::over("memory://actions-numbers").await;
    let number = "123456789012345678901234567890";
    let body = format!(r#"{{"args":[{number},"é"],"kwargs":{{"n":{{"m":{number}}}}},"id":"long","queue":"from"}}"#);
    assert_eq!(ask(dashboard.serving.address(), "POST", "/api/v1/tasks/shop.add", JSON, &body).await.status, 202);
    let page = dashboard.get("/tasks/long").await.body.replace("&quot;", "\"");
    assert!(page.contains(&format!("value=\"[{number}, \"é\"]\"")), "{page}");
    assert!(page.contains(&format!("value=\"{{\"n\": {{\"m\": {number}}}}}\"")), "{page}");
    let fields = format!("what=send&task=shop.add&args=[{number}]&kwargs={{\"n\":{number}}}&queue=to");
    assert!(dashboard.submit("/tasks/long", "/tasks/act", &fields).await.starts_with("sent as "));
    let sent = dashboard.client.connected().inspect().unwrap().peek("to", 1).await.unwrap().remove(0);
    let call = CallArguments::read(&sent).unwrap();
    let big = Value::Big(number.into());
    assert_eq!((call.args, call.kwargs.get("n")), (Value::List(vec![big.clone()]), Some(&big)));
    dashboard.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_this_server_has_said_stands_on_a_page_as_said() {
    let dashboard = Dashboard::over("memory://actions-said").await;
    for query in ["said=call+0800", "said=call+0800&refused=1", "said=call+0800&mark=00", "said=call+0800&mark="] {
        let page = dashboard.get(&format!("/queues?{query}")).await.body;
        assert!(!page.contains("class=\"said") && !page.contains("0800"), "{query}: {page}");
    }
    // The mark of one text is none of another, and a token of a form is no mark.
    dashboard.send("celery", "a").await;
    let html = dashboard.get("/queues/celery").await.body;
    let token = html.split("name=\"_token\" value=\"").nth(1).expect("a form").split('"').next().unwrap();
    let form = format!("_token={token}&back=/queues&what=pause&queue=celery");
    let answered = ask(dashboard.serving.address(), "POST", "/queues/act", FORM, &form).await;
    let location = answered.header("location").unwrap();
    assert!(dashboard.get(location).await.body.contains("is paused"));
    let mark = location.split("mark=").nth(1).unwrap();
    for mark in [mark, token] {
        assert!(!dashboard.get(&format!("/queues?said=call+0800&mark={mark}")).await.body.contains("0800"));
    }
    assert!(!dashboard.get(&format!("{location}&refused=1")).await.body.contains("class=\"said"), "its kind is marked, too");
    dashboard.serving.stop().await;
}
