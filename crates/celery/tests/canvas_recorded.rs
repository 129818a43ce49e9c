//! Canvases of every shape, as Celery's own clients and its own tracer sent them
//! (`fixtures/record_canvas.py`): the same signature, the same message and the same return value
//! lead to the same messages, results and chord parts here. Fresh ids are compared up to their
//! names.

#![expect(clippy::unwrap_used, reason = "tests")]

mod replay;

use replay::Recording;

fn replay(name: &str) {
    let path = format!("{}/fixtures/canvas/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let (mut canvases, mut tasks, mut wrong) = (0, 0, Vec::new());
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let recording = Recording::parse(line);
        canvases += 1;
        tasks += recording.steps.len();
        for difference in recording.differences() {
            wrong.push(format!("{}: {difference}", recording.name));
        }
    }
    assert!(wrong.is_empty(), "{} differences in {canvases} canvases with {tasks} tasks:\n{}", wrong.len(), wrong.join("\n"));
    assert!(canvases >= 40, "only {canvases} canvases");
}

#[test]
fn every_shape_is_sent_as_celery_sends_it() {
    replay("shapes");
}

#[test]
fn any_shape_is_sent_as_celery_sends_it() {
    replay("random");
}
