//! The OpenAPI document of a site.

use serde_json::{Map, Value, json};

use super::Operation;
use crate::options::{Access, WebOptions};

/// Schemas of answers and bodies.
const SCHEMAS: &str = include_str!("schemas.json");

/// Statuses of refusals, and what they mean.
const REFUSALS: [(u16, &str); 15] = [
    (400, "The path or the body cannot be read."),
    (401, "Whoever asks has not proved who that is."),
    (403, "Nothing may be changed here (read-only), the request comes from a page of another site, or not through the proxy."),
    (404, "There is no such thing."),
    (408, "The body did not come in time."),
    (409, "It is not as it was when this was asked for."),
    (413, "The body is too long."),
    (415, "The body is of another type."),
    (421, "Without a token or password only localhost, 127.0.0.1 and [::1] are answered to."),
    (422, "What was asked for cannot be done, or makes no sense; the message says why."),
    (429, "Too much at once; `Retry-After` says when there is room again."),
    (500, "This server failed."),
    (501, "What is configured cannot do this."),
    (502, "The broker refuses it; the message is the broker's."),
    (503, "The broker, or what is asked about, is away."),
];

/// Parts of paths, and what they name.
const NAMES: [(&str, &str); 7] = [
    ("task", "The task's id; where a task is sent, its name."),
    ("queue", "The queue's name."),
    ("node", "The worker's node name, such as `celery@host`."),
    ("limit", "The limit's name."),
    ("group", "The group's name."),
    ("name", "The schedule's name."),
    ("id", "The task's id; of a job the job's."),
];

/// Returns the document.
pub(super) fn of(operations: &[Operation], options: &WebOptions) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let method = if operation.is_post { "post" } else { "get" };
        let item = paths.entry(operation.path()).or_insert_with(|| json!({}));
        item[method] = described(operation, options);
    }
    let (schemes, security) = schemes(options);
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_else(|error| unreachable!("schemas.json: {error}"));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "longshore",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tasks, queues, workers and runs. What is refused is answered with a sentence that says why.",
        },
        "security": security,
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    })
}

/// Returns how whoever asks proves who that is, and that it is needed.
fn schemes(options: &WebOptions) -> (Value, Value) {
    match &options.access {
        Access::Open | Access::Proxy { .. } => (json!({}), json!([])),
        Access::Token(_) => (json!({"token": {"type": "http", "scheme": "bearer"}}), json!([{"token": []}])),
        Access::Basic { .. } => (json!({"password": {"type": "http", "scheme": "basic"}}), json!([{"password": []}])),
    }
}

/// Returns how the guard of a site may refuse any request.
fn refused_by_guard(operation: &Operation, options: &WebOptions) -> &'static [u16] {
    let is_open = matches!(operation.path(), "/healthz" | "/readyz" | "/healthcheck");
    match &options.access {
        _ if is_open => &[],
        Access::Open => &[421],
        Access::Token(_) | Access::Basic { .. } => &[401, 429],
        Access::Proxy { .. } => &[403],
    }
}

fn described(operation: &Operation, options: &WebOptions) -> Value {
    let mut responses = Map::new();
    let (kind, schema) = operation.answer;
    let answered = json!({"description": operation.summary, "content": {kind: {"schema": reference(schema)}}});
    responses.insert(operation.status.to_string(), answered);
    let mut statuses = [&operation.refusals, refused_by_guard(operation, options)].concat();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let about = REFUSALS.iter().find(|(known, _)| *known == status).map_or("Refused.", |(_, about)| *about);
        let mut refused = json!({"description": about, "content": refusal(operation, status)});
        if status == 429 {
            let seconds = json!({"description": "Seconds after which it may be tried again.", "schema": {"type": "integer", "minimum": 1}});
            refused["headers"] = json!({"Retry-After": seconds});
        }
        responses.insert(status.to_string(), refused);
    }
    let mut described = json!({
        "operationId": id(operation),
        "summary": operation.summary,
        "tags": [tag(operation.path())],
        "parameters": parameters(operation),
        "responses": responses,
    });
    if let Some(body) = body(operation) {
        described["requestBody"] = body;
    }
    described
}

/// Returns the types of a refusal, with their schemas.
fn refusal(operation: &Operation, status: u16) -> Value {
    let content = |kind: &str, schema: &str| json!({kind: {"schema": reference(schema)}});
    let is_flowers = tag(operation.path()) == "flower" && operation.refusals.contains(&status);
    if operation.answer.0 == "text/plain" && status == 503 || is_flowers && status != 400 {
        return content("text/plain", "Text");
    }
    if !is_flowers {
        return content("application/json", "Refusal");
    }
    // Flower's routes refuse in its way what they have read, the guard in ours what cannot be.
    let mut refusal = content("application/json", "FlowerRefusal");
    refusal["text/plain"] = json!({"schema": reference("Text")});
    refusal
}

fn reference(schema: &str) -> Value {
    match schema.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(items) => json!({"type": "array", "items": reference(items)}),
        None => json!({"$ref": format!("#/components/schemas/{schema}")}),
    }
}

/// Returns a name for functions: `getQueuesNext`, `postQueuesPause`.
fn id(operation: &Operation) -> String {
    let mut id = if operation.is_post { "post" } else { "get" }.to_owned();
    let path = operation.path();
    // Flower's paths are the same without the version.
    let path = path.strip_prefix("/api/v1/").map_or_else(|| path.replacen("/api/", "flower/", 1), str::to_owned);
    for part in path.split(['/', '.', '-', '_', '{', '}']).filter(|part| !part.is_empty()) {
        let (first, rest) = part.split_at(part.chars().next().map_or(0, char::len_utf8));
        id.push_str(&first.to_uppercase());
        id.push_str(rest);
    }
    id
}

fn tag(path: &str) -> &str {
    match path.strip_prefix("/api/v1/") {
        Some(rest) => rest.split(['/', '.']).next().unwrap_or_default(),
        None if path.starts_with("/api/") || path == "/healthcheck" => "flower",
        None => "server",
    }
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let named = operation.path().split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let named = named.map(|name| {
        let about = NAMES.iter().find(|(known, _)| *known == name).map_or("", |(_, about)| *about);
        json!({"name": name, "in": "path", "required": true, "description": about, "schema": {"type": "string"}})
    });
    let others = operation.parameters.iter().map(
        |parameter| json!({"name": parameter.name, "in": parameter.place, "description": parameter.about, "schema": {"type": "string"}}),
    );
    named.chain(others).collect()
}

fn body(operation: &Operation) -> Option<Value> {
    if !operation.is_post {
        return None;
    }
    if let Some((kind, schema)) = operation.body {
        return Some(json!({"content": {kind: {"schema": reference(schema)}}}));
    }
    let properties: Map<String, Value> = operation.fields.iter().map(|field| (field.name.to_owned(), field.schema())).collect();
    let required: Vec<&str> = operation.fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    let schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    Some(json!({"required": !required.is_empty(), "content": {"application/json": {"schema": schema}}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_names_for_functions() {
        let rows = [
            (Operation::get("/api/v1/queues/{queue}/next", ""), "getQueuesQueueNext", "queues"),
            (Operation::post("/api/v1/queues/{queue}/pause", ""), "postQueuesQueuePause", "queues"),
            (Operation::get("/api/task/info/{id}", ""), "getFlowerTaskInfoId", "flower"),
            (Operation::get("/metrics", ""), "getMetrics", "server"),
        ];
        for (operation, name, group) in rows {
            assert_eq!((id(&operation).as_str(), tag(operation.path())), (name, group));
        }
    }
}
