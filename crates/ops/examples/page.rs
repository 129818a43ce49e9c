//! A page of the queues and workers of a broker, with nothing but what `ops` answers:
//! `cargo run -p longshore-ops --example page -- redis://127.0.0.1/0 127.0.0.1:7070`.
//! It keeps no state; each request asks anew.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{Html, Redirect},
    routing::{get, post},
};
use longshore_ops::{
    OpsError,
    queues::{self, QueueAction, QueuesRequest},
    workers::{self, WorkersRequest},
};
use longshore_worker::{Client, Settings};
use minijinja::{Environment, context, value::Serde};

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>queues</title><h1>Queues</h1>
<table><tr><th>queue<th>waiting<th>running<th>later<th>dead<th>oldest<th>
{% for queue in queues %}<tr><td>{{ queue.queue }}<td>{{ queue.waiting }}<td>{{ queue.running }}<td>{{ queue.eta }}
<td>{{ queue.dead }}<td>{{ queue.oldest_seconds }}<td><form method="post" action="/{{ queue.queue | urlencode }}/
{%- if queue.paused_by %}resume"><button>resume</button> paused by {{ queue.paused_by }}
{%- else %}pause"><button>pause</button>{% endif %}</form>
{% endfor %}</table><h1>Workers</h1>
{% for worker in workers %}<h2>{{ worker.node }}: {{ worker.view.phase }}</h2>
<p>{{ worker.view.counts.ok }} ok, {{ worker.view.counts.failed }} failed
{% for lane in worker.view.lanes %}<p>{{ lane.lane }}: {{ lane.running }} of {{ lane.slots }}{% endfor %}
{% endfor %}"#;

/// An error of a broker is the other side's, and told in words.
type Refused = (StatusCode, String);

fn refused(error: OpsError) -> Refused {
    (StatusCode::BAD_GATEWAY, error.to_string())
}

async fn page(State(client): State<Arc<Client>>) -> Result<Html<String>, Refused> {
    let queues = queues::list(&client, &QueuesRequest::default()).await.map_err(refused)?;
    let workers = workers::views(&client, &WorkersRequest::default()).await.map_err(refused)?;
    let mut pages = Environment::new();
    pages.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    let shown = context! { queues => Serde(queues), workers => Serde(workers) };
    pages.render_str(PAGE, shown).map(Html).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn act(State(client): State<Arc<Client>>, Path((queue, what)): Path<(String, String)>) -> Result<Redirect, Refused> {
    let action = match what.as_str() {
        "pause" => QueueAction::Pause { queue, by: "page".into() },
        "resume" => QueueAction::Resume { queue },
        _ => return Err((StatusCode::NOT_FOUND, format!("no such action: {what}"))),
    };
    queues::act(&client, &action).await.map_err(refused)?;
    Ok(Redirect::to("/"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let broker = args.next().unwrap_or_else(|| "sqlite:longshore.db".into());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7070".into());
    let client = Arc::new(Client::connect(&Settings::new(broker))?);
    let router = Router::new().route("/", get(page)).route("/{queue}/{what}", post(act)).with_state(client);
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
