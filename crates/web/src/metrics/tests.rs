use std::time::Duration;

use longshore_core::{
    LaneKind, Reason, Word,
    watch::{Connection, Labels, LaneView, OTHER, ViewKind, Waiting},
};

use super::*;

/// A worker that has ended one task of each of these names, and one of each of these queues.
fn worker(tasks: &[String], queues: &[String]) -> View {
    let mut view = View::new(ViewKind::Worker, "shore@vm");
    let mut labels = Labels::new(&["queue", "task"]);
    for queue in queues {
        labels.add(0, queue, Word::Ok, Duration::from_millis(3), Duration::from_millis(20));
    }
    for task in tasks {
        labels.add(1, task, Word::Ok, Duration::from_millis(3), Duration::from_secs(7200));
    }
    view.labels = labels.labelled();
    view.lanes.push(LaneView::new(LaneKind::Async, 200, 3, 1));
    view.waiting.push(Waiting::new(Reason::Limit { name: "a".into(), value: "x".into() }, 2));
    view.waiting.push(Waiting::new(Reason::Limit { name: "a".into(), value: "y".into() }, 3));
    view.connections.push(Connection::up("broker", "redis://h"));
    view
}

fn of(views: &[View]) -> String {
    text(&Told { views, ..Told::default() })
}

/// The rows of a family that begin so.
fn rows<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn a_worker_tells_its_tasks_lanes_and_connections() {
    let text = of(&[worker(&["shop.add".into()], &["celery".into()])]);
    for line in [
        "# TYPE longshore_tasks counter",
        "longshore_tasks_total{worker=\"shore@vm\",task=\"shop.add\",outcome=\"ok\"} 1",
        "longshore_tasks_total{worker=\"shore@vm\",task=\"shop.add\",outcome=\"failed\"} 0",
        "longshore_queue_tasks_total{worker=\"shore@vm\",queue=\"celery\",outcome=\"ok\"} 1",
        "longshore_lane_active{worker=\"shore@vm\",lane=\"async\"} 3",
        "longshore_lane_size{worker=\"shore@vm\",lane=\"async\"} 200",
        "longshore_gate_waiting{worker=\"shore@vm\",reason=\"limit\"} 5",
        "longshore_broker_connected{worker=\"shore@vm\",connection=\"broker\"} 1",
        "# UNIT longshore_task_run_seconds seconds",
        "longshore_task_run_seconds_bucket{le=\"0.0025\",worker=\"shore@vm\",task=\"shop.add\"} 0",
        "longshore_task_run_seconds_bucket{le=\"0.005\",worker=\"shore@vm\",task=\"shop.add\"} 1",
        "longshore_task_run_seconds_bucket{le=\"3600.0\",worker=\"shore@vm\",task=\"shop.add\"} 1",
        // Beyond the last bound is only the count of all.
        "longshore_task_wait_seconds_bucket{le=\"3600.0\",worker=\"shore@vm\",task=\"shop.add\"} 0",
        "longshore_task_wait_seconds_bucket{le=\"+Inf\",worker=\"shore@vm\",task=\"shop.add\"} 1",
        "longshore_task_wait_seconds_sum{worker=\"shore@vm\",task=\"shop.add\"} 7200.0",
        concat!("longshore_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n in\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
}

#[test]
fn names_that_were_chosen_to_break_the_text_stay_inside_their_label() {
    let hostile = ["a\"} 1\nlongshore_evil 1", "back\\slash", "größe 🚢", "nul\0bell\u{7}", "\r\n# EOF\n"];
    let text = of(&[worker(&hostile.map(str::to_owned), &[])]);
    assert_eq!(rows(&text, "longshore_evil"), [""; 0]);
    assert_eq!(rows(&text, "# EOF"), ["# EOF"]);
    for told in ["task=\"a\\\"} 1\\nlongshore_evil 1\"", "task=\"back\\\\slash\"", "task=\"größe 🚢\"", "task=\"nul\u{fffd}bell\u{fffd}\""]
    {
        assert!(text.contains(told), "{told}");
    }
}

#[test]
fn a_flood_of_names_counts_as_other_and_nothing_is_left_out_of_the_sum() {
    let names: Vec<String> = (0..1000).map(|n| format!("task{n}")).collect();
    let sum = |text: &str| -> u64 {
        let counts = rows(text, "longshore_tasks_total{").into_iter().filter(|row| row.contains("outcome=\"ok\""));
        counts.map(|row| row.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count")).sum()
    };
    for (workers, named) in [(1, MOST_LABELS), (11, 20), (101, 2)] {
        let views: Vec<View> = (0..workers)
            .map(|n| {
                let mut view = worker(&names, &[]);
                view.name = format!("w{n}");
                view
            })
            .collect();
        let text = of(&views);
        assert_eq!(sum(&text), 1000 * workers as u64);
        let first = rows(&text, "longshore_tasks_total{worker=\"w0\"").into_iter().filter(|row| row.contains("outcome=\"ok\""));
        assert_eq!(first.count(), named + 1);
        assert!(text.contains(&format!("task=\"{OTHER}\"")));
        assert_eq!(rows(&text, "longshore_rows_left_out"), ["longshore_rows_left_out 0"]);
    }
}

#[test]
fn a_run_without_labels_tells_all_its_tasks_together() {
    let mut view = View::new(ViewKind::Run, "prices");
    view.counts.add(Word::Ok, 7);
    view.counts.add(Word::Timeout, 2);
    let text = of(&[view]);
    assert_eq!(
        rows(&text, "longshore_tasks_total"),
        [
            "longshore_tasks_total{run=\"prices\",outcome=\"failed\"} 0",
            "longshore_tasks_total{run=\"prices\",outcome=\"ok\"} 7",
            "longshore_tasks_total{run=\"prices\",outcome=\"timeout\"} 2"
        ]
    );
    assert_eq!(rows(&text, "longshore_task_run_seconds_count"), ["longshore_task_run_seconds_count{run=\"prices\"} 0"]);
}

#[test]
fn a_products_own_numbers_are_told_unless_they_would_break_the_text() {
    let mut view = View::new(ViewKind::Consumer, "billing");
    view.gauge("kafka_lag_records", &[("topic", "orders"), ("partition", "3"), ("consumer", "twice")], 17.0);
    view.gauge("redelivered_total", &[], 4.0);
    view.gauge("process_resident_memory_bytes", &[], 1024.0);
    for (name, value) in [("tasks_total", 1.0), ("tasks", 1.0), ("queue_oldest_age_seconds", 1.0), ("x_bucket", 1.0), ("back", f64::NAN)] {
        view.gauge(name, &[], value);
    }
    let text = of(&[view]);
    assert!(text.contains("longshore_kafka_lag_records{consumer=\"billing\",partition=\"3\",topic=\"orders\"} 17.0\n"), "{text}");
    assert!(text.contains("# TYPE longshore_redelivered counter\nlongshore_redelivered_total{consumer=\"billing\"} 4.0\n"));
    assert!(text.contains("\nprocess_resident_memory_bytes{consumer=\"billing\"} 1024.0\n"));
    assert!(text.contains("longshore_rows_left_out 5\n"), "{text}");
}

#[test]
fn views_that_were_cut_on_their_way_keep_their_sums() {
    let mut view = worker(&["a".into()], &[]);
    for label in &mut view.labels {
        label.run.buckets.clear();
        label.wait.buckets = vec![(1.0, 5), (0.5, 9)];
    }
    let text = of(&[view]);
    for family in ["longshore_task_run_seconds", "longshore_task_wait_seconds"] {
        let buckets = rows(&text, &format!("{family}_bucket"));
        assert_eq!(buckets, [format!("{family}_bucket{{le=\"+Inf\",worker=\"shore@vm\",task=\"a\"}} 1")]);
    }
}

#[test]
fn a_broker_tells_its_queues_workers_and_limits() {
    let mut queue = QueueInfo::default();
    (queue.name, queue.waiting, queue.oldest, queue.dead) = ("celery".into(), 689, Some(Duration::from_secs(192)), 3);
    let mut empty = QueueInfo::default();
    (empty.name, empty.paused_by) = ("cpu".into(), Some("ops".into()));
    let mut worker = WorkerGlance::default();
    (worker.node, worker.slots, worker.silent) = ("w@h".into(), Some(4), Some(Duration::from_secs(9)));
    let mut limit = LimitInfo::default();
    (limit.limit, limit.bucket, limit.ahead) = (Some("api".into()), Some("a.example".into()), Duration::from_secs(2));
    let told = Told { queues: &[queue, empty], workers: &[worker], limits: &[limit], broker: Some(true), ..Told::default() };
    let text = text(&told);
    for line in [
        "longshore_broker_connected{connection=\"broker\"} 1",
        "longshore_queue_depth{queue=\"celery\"} 689",
        "longshore_queue_oldest_age_seconds{queue=\"celery\"} 192.0",
        "longshore_queue_oldest_age_seconds{queue=\"cpu\"} 0.0",
        "longshore_queue_dead{queue=\"celery\"} 3",
        "longshore_queue_paused{queue=\"cpu\"} 1",
        "longshore_worker_up{worker=\"w@h\"} 0",
        "longshore_worker_slots{worker=\"w@h\"} 4",
        "longshore_limit_ahead_seconds{limit=\"api\",bucket=\"a.example\"} 2.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n in\n{text}");
    }
    assert_eq!(rows(&text, "longshore_worker_running"), [""; 0], "nobody knows");
}

#[tokio::test]
async fn a_scrape_says_its_type_and_waits_for_nobody_who_does_not_run() {
    assert_eq!(answer(String::new()).headers()[header::CONTENT_TYPE], CONTENT_TYPE);
    assert_eq!(of_one(State(Readiness::starting())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn an_intake_tells_what_was_let_in_and_what_was_not() {
    let intake = Some(IntakeCounts { sent: 7, refused: 2, ..IntakeCounts::default() });
    let text = text(&Told { intake, ..Told::default() });
    let counted = rows(&text, "longshore_intake_tasks_total");
    assert_eq!(counted, ["longshore_intake_tasks_total{outcome=\"admitted\"} 7", "longshore_intake_tasks_total{outcome=\"refused\"} 2"]);
    assert!(!of(&[]).contains("longshore_intake"), "who takes none says nothing of it");
}
