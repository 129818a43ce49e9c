//! Searches and sums among remembered tasks: lines, failures, lost tasks, times.

use super::*;

#[tokio::test]
async fn a_search_line_finds_what_it_says_in_one_pass_page_by_page_and_in_any_order() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    let text = |text: &str| Some(text.to_owned());
    let tasks = [
        ("a1", "shop.price", "w1@h", Some("status 503 of x"), "(42, 'mail_1')", 3.0),
        ("a2", "shop.price", "w1@h", None, "(7,)", 1.0),
        ("b1", "shop[x].mail", "w2@h", Some("Timeout"), "('42%',)", 2.0),
        ("b2", "other", "w10@h", None, "()", 0.2),
    ];
    for (id, name, worker, error, args, took) in tasks {
        tell(&history, HeardEvent { args: text(args), queue: text("q"), ..received(id, name, worker, 1.0) });
        let kind = if error.is_some() { "task-failed" } else { "task-succeeded" };
        let end = HeardEvent { error: error.map(str::to_owned), runtime: Some(took), ..event(kind, id, worker, 2.0) };
        tell(&history, end);
    }
    stands(&history, "b2", "success").await;
    let find = async |line: &str, sort: Option<&str>, before: Option<i64>| {
        let matching = crate::search::line(line, false).unwrap();
        let sort = sort.and_then(PastSort::of);
        let page = history.find(PastQuery { matching, sort, before, ..all(2) }).await.unwrap();
        (page.tasks.iter().map(|task| task.id.clone()).collect::<Vec<_>>().join(" "), page.matched, page.next)
    };
    for (line, expected) in [
        ("503", "a1"),
        ("TIMEOUT", "b1"),
        ("w1", "b2 a2 (3)"),
        ("worker:w1", "a2 a1"),
        ("worker:w*", "b2 b1 (4)"),
        ("task:shop.*", "a2 a1"),
        ("task:*mail", "b1"),
        ("task:shop[x].mail", "b1"),
        ("task:shop[x]*", "b1"),
        ("task:shop[.]*", ""),
        ("args:42", "b1 a1"),
        ("args:42%", "b1"),
        ("args:mail_", "a1"),
        ("args:mail% OR id:b2", "b2"),
        ("state:failure runtime:>2s", "b1 a1"),
        ("runtime:<900ms", "b2"),
        ("state:failed -x", ""),
        ("since:1h (id:a OR error:timeout)", "b1 a2 (3)"),
        ("nothing", ""),
    ] {
        let (ids, matched, next) = find(line, None, None).await;
        let shown = if next.is_some() { format!("{ids} ({matched})") } else { ids };
        assert_eq!(shown, expected, "{line}");
    }
    // The next page of both orders, and one behind the last.
    let (_, _, next) = find("task:*", None, None).await;
    assert_eq!(find("task:*", None, next).await, ("a2 a1".to_owned(), 4, None));
    assert_eq!(find("task:*", Some("-took"), None).await, ("a1 b1".to_owned(), 4, Some(2)));
    assert_eq!(find("task:*", Some("-took"), Some(2)).await, ("a2 b2".to_owned(), 4, None));
    assert_eq!(find("task:*", Some("-took"), Some(9)).await, (String::new(), 4, None));
    let known = history.known().await.unwrap();
    assert_eq!((known.tasks.len(), known.queues, known.workers.len()), (3, vec!["q".to_owned()], 3));
    history.close().await;
}

#[tokio::test]
async fn failures_of_the_last_minutes_are_grouped_and_lost_workers_are_known_for_as_long_as_their_tasks() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    let fail = |id: &str, task: &str, error: &str, heard_ms: i64| {
        tell(&history, received(id, task, "w@h", 1.0));
        tell(&history, HeardEvent { error: Some(error.to_owned()), heard_ms, ..event("task-failed", id, "w@h", 2.0) });
    };
    let now = now_ms();
    for id in ["a", "b"] {
        fail(id, "shop.price", "status 503", now);
    }
    fail("c", "shop.price", "other", now);
    fail("old", "shop.price", "status 503", now - 400_000);
    let long_ago = now - 7_200_000;
    for id in ["d", "e"] {
        tell(&history, HeardEvent { heard_ms: long_ago, ..received(id, "t", "gone@h", 1.0) });
    }
    history.note(Note::Gone { node: "gone@h".to_owned(), said: false, heard: long_ago });
    stands(&history, "e", "lost").await;
    let troubles = history.troubled(Duration::from_secs(300)).await.unwrap();
    let failed = |task: &str, error: &str, count| FailedTasks { task: Some(task.to_owned()), error: error.to_owned(), count };
    assert_eq!(troubles.failed, [failed("shop.price", "status 503", 2), failed("shop.price", "other", 1)]);
    assert_eq!(troubles.lost, [LostTasks { worker: "gone@h".to_owned(), count: 2, heard: long_ago as f64 / 1e3 }]);
    // What another worker has taken over is lost no more.
    tell(&history, event("task-received", "d", "w@h", 3.0));
    stands(&history, "d", "held").await;
    assert_eq!(history.troubled(Duration::from_secs(300)).await.unwrap().lost[0].count, 1);
    history.close().await;
}

#[tokio::test]
async fn times_are_told_by_name_over_ten_minutes_and_a_day_and_names_are_bounded() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    let now = now_ms();
    let end = |id: &str, task: &str, kind: &str, took: Option<f64>, heard_ms: i64| {
        tell(&history, HeardEvent { heard_ms, ..received(id, task, "w@h", 1.0) });
        tell(&history, HeardEvent { heard_ms, runtime: took, ..event(kind, id, "w@h", 2.0) });
    };
    // An hour ago, and just now: 99 quick ones, and one that took long.
    end("old", "shop.old", "task-succeeded", Some(7.0), now - 3_600_000);
    for n in 0..100 {
        end(&format!("a{n}"), "shop.price", "task-succeeded", Some(if n == 0 { 30.0 } else { 0.1 }), now);
    }
    for n in 0..4 {
        end(&format!("b{n}"), "shop.mail", if n == 0 { "task-failed" } else { "task-retried" }, None, now);
    }
    for n in 0..201 {
        tell(&history, received(&format!("c{n}"), &format!("flood{n}"), "w@h", 1.0));
    }
    stands(&history, "c200", "held").await;
    let times = history.times(ChartSpan::TenMinutes).await.unwrap();
    assert_eq!((times.span_seconds, times.names.len(), times.more, times.known_seconds), (600, 200, 3, 600.0));
    let [price, mail] = &times.names[..2] else { panic!("{times:?}") };
    assert_eq!((price.task.as_str(), price.ended, price.failed, price.retried), ("shop.price", 100, 0, 0));
    let near = |time: Option<f64>, want: f64| time.is_some_and(|time| (time / want - 1.0).abs() < 0.08);
    assert!(near(price.p50, 0.1) && near(price.p90, 0.1) && near(price.p99, 0.1), "{price:?}");
    assert_eq!((mail.task.as_str(), mail.ended, mail.failed, mail.retried, mail.p50), ("shop.mail", 1, 1, 3, None));
    end("late", "shop.price", "task-succeeded", Some(30.0), now);
    stands(&history, "late", "success").await;
    assert!(near(history.times(ChartSpan::TenMinutes).await.unwrap().names[0].p99, 30.0));
    let day = history.times(ChartSpan::Day).await.unwrap();
    assert_eq!((day.span_seconds, day.more), (86_400, 4));
    assert!((3_600.0..3_700.0).contains(&day.known_seconds), "{}", day.known_seconds);
    history.close().await;
}
