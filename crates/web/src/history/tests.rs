//! The history over its file: what events leave there, and what becomes of it on bad days.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use tempfile::TempDir;

use super::*;
use crate::heard::HeardEvent;

mod looked_for;

/// Waits until this is true, for as long as a busy machine may take.
async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn options(dir: &TempDir) -> HistoryOptions {
    HistoryOptions::new(dir.path().join("history.db"))
}

fn event(kind: &str, id: &str, worker: &str, at: f64) -> HeardEvent {
    HeardEvent {
        kind: kind.to_owned(),
        id: Some(id.to_owned()),
        worker: worker.to_owned(),
        pid: Some(1),
        timestamp: at,
        heard_ms: now_ms(),
        ..HeardEvent::default()
    }
}

fn received(id: &str, task: &str, worker: &str, at: f64) -> HeardEvent {
    HeardEvent { task: Some(task.to_owned()), queue: Some("q".to_owned()), ..event("task-received", id, worker, at) }
}

fn tell(history: &History, event: HeardEvent) {
    history.note(Note::Task(Arc::new(event)));
}

fn beat(history: &History, node: &str, pid: i64, active: i64, heard: i64) {
    history.note(Note::Beat { node: node.to_owned(), pid: Some(pid), active: Some(active), heard });
}

async fn state(history: &Arc<History>, id: &str) -> String {
    history.timeline(id).await.ok().flatten().map(|timeline| timeline.task.state.to_owned()).unwrap_or_default()
}

async fn stands(history: &Arc<History>, id: &str, want: &str) {
    eventually(&format!("{id} is {want}"), async || state(history, id).await == want).await;
}

fn all(most: usize) -> PastQuery {
    PastQuery { most, ..PastQuery::default() }
}

#[tokio::test]
async fn a_task_is_remembered_with_its_steps_over_a_restart() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    tell(&history, HeardEvent { queue: Some("q".to_owned()), task: Some("shop.add".to_owned()), ..event("task-sent", "a", "client", 1.0) });
    tell(
        &history,
        HeardEvent {
            parent: Some("p".to_owned()),
            root: Some("p".to_owned()),
            args: Some("(1,)".to_owned()),
            ..received("a", "shop.add", "w@h", 4.2)
        },
    );
    tell(&history, event("task-started", "a", "w@h", 4.3));
    let (error, traceback) = (Some("ValueError('<b>')\nmore".to_owned()), Some("Traceback: …".to_owned()));
    tell(&history, HeardEvent { error, traceback, ..event("task-retried", "a", "w@h", 4.7) });
    tell(&history, event("task-received", "a", "v@h", 6.7));
    tell(&history, event("task-started", "a", "v@h", 6.8));
    tell(&history, HeardEvent { result: Some("2".to_owned()), runtime: Some(0.4), ..event("task-succeeded", "a", "v@h", 7.2) });
    tell(&history, received("p", "shop.all", "w@h", 0.5));
    history.close().await;
    let again = History::start(options(&dir));
    stands(&again, "a", "success").await;
    let timeline = again.timeline("a").await.unwrap().unwrap();
    let words: Vec<&str> = timeline.steps.iter().map(|step| step.word.as_str()).collect();
    assert_eq!(words, ["sent", "received", "started", "retried", "received", "started (2)", "succeeded"]);
    assert_eq!(timeline.steps[1].after_seconds, Some(4.2 - 1.0));
    assert_eq!((timeline.task.attempts, timeline.task.took_seconds, timeline.task.error.clone()), (2, Some(0.4), None));
    assert_eq!((timeline.args.as_deref(), timeline.result.as_deref()), (Some("(1,)"), Some("2")));
    assert_eq!((&timeline.error_text, &timeline.traceback), (&None, &None), "it succeeded after all");
    assert_eq!(timeline.parent.as_ref().unwrap().task.as_deref(), Some("shop.all"));
    assert_eq!(again.timeline("p").await.unwrap().unwrap().children[0].id, "a");
    assert!(again.timeline("nobody").await.unwrap().is_none());
    let points = again.points(ChartSpan::Day).await.unwrap();
    let sum = |of: fn(&TrafficPoint) -> i64| points.iter().flatten().map(of).sum::<i64>();
    assert_eq!((points.len(), sum(|p| p.sent), sum(|p| p.received), sum(|p| p.ok), sum(|p| p.retried)), (120, 1, 3, 1, 1));
}

#[tokio::test]
async fn what_a_killed_worker_held_is_lost_and_then_taken_over_and_never_runs_for_ever() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    let now = now_ms();
    beat(&history, "w@h", 1, 2, now);
    for id in ["runs", "held", "comes-back"] {
        tell(&history, received(id, "t", "w@h", 1.0));
    }
    tell(&history, event("task-started", "runs", "w@h", 1.1));
    stands(&history, "runs", "started").await;
    history.note(Note::Gone { node: "w@h".to_owned(), said: false, heard: now });
    stands(&history, "held", "lost").await;
    assert_eq!(state(&history, "runs").await, "lost");
    tell(&history, event("task-received", "runs", "v@h", 9.0));
    tell(&history, event("task-started", "runs", "v@h", 9.1));
    stands(&history, "runs", "started").await;
    let steps = history.timeline("runs").await.unwrap().unwrap().steps;
    let told: Vec<(&str, &str)> = steps.iter().map(|step| (step.word.as_str(), step.worker.as_deref().unwrap_or_default())).collect();
    let want =
        [("received", "w@h"), ("started", "w@h"), ("lost", "w@h"), ("taken over", "v@h"), ("received", "v@h"), ("started (2)", "v@h")];
    assert_eq!(told, want);
    // The same process is heard again: it had them all the time, but for what another one has.
    beat(&history, "w@h", 1, 1, now);
    stands(&history, "held", "held").await;
    assert_eq!((state(&history, "runs").await.as_str(), state(&history, "comes-back").await.as_str()), ("started", "held"));
    // Another process under the same name knows nothing of them.
    beat(&history, "w@h", 2, 0, now);
    stands(&history, "held", "lost").await;
    // A worker that goes says so, and hands back what it has not begun.
    tell(&history, received("handed", "t", "v@h", 10.0));
    history.note(Note::Gone { node: "v@h".to_owned(), said: true, heard: now });
    stands(&history, "handed", "waiting").await;
    assert_eq!(state(&history, "runs").await, "lost");
}

#[tokio::test]
async fn a_task_whose_end_was_missed_does_not_run_when_its_worker_runs_nothing() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    let now = now_ms();
    beat(&history, "w@h", 1, 1, now);
    tell(&history, event("task-started", "a", "w@h", 1.0));
    beat(&history, "w@h", 1, 0, now + 9_000);
    beat(&history, "w@h", 1, 1, now + 20_000);
    beat(&history, "w@h", 1, 0, now + 22_000);
    tell(&history, event("task-started", "b", "w@h", 1.0));
    stands(&history, "b", "started").await;
    assert_eq!(state(&history, "a").await, "started");
    beat(&history, "w@h", 1, 0, now + 24_000);
    stands(&history, "a", "unheard").await;
}

#[tokio::test]
async fn workers_that_held_tasks_are_known_when_the_file_is_opened_again() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    tell(&history, event("task-started", "a", "w@h", 1.0));
    history.close().await;
    let again = History::start(options(&dir));
    stands(&again, "a", "started").await;
    assert_eq!(again.take_holders(), ["w@h"]);
    assert!(again.take_holders().is_empty());
}

#[tokio::test]
async fn the_ring_forgets_the_oldest_by_tasks_and_by_bytes() {
    let dir = TempDir::new().unwrap();
    let history = History::start(HistoryOptions { most_tasks: 30, ..options(&dir) });
    for number in 0..100 {
        tell(&history, received(&format!("t{number}"), "t", "w@h", 1.0));
    }
    stands(&history, "t99", "held").await;
    let page = history.find(all(100)).await.unwrap();
    let ids: Vec<&str> = page.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!((ids.len(), ids[0], ids[29], page.matched), (30, "t99", "t70", 30));
    history.close().await;

    let small = 512 << 10;
    let path = dir.path().join("small.db");
    let history = History::start(HistoryOptions { most_bytes: small, ..HistoryOptions::new(&path) });
    let long = "x".repeat(1_000);
    for number in 0..3_000 {
        tell(&history, HeardEvent { args: Some(long.clone()), ..received(&format!("t{number}"), "t", "w@h", 1.0) });
        if number % 100 == 99 {
            let id = format!("t{number}");
            stands(&history, &id, "held").await;
        }
    }
    let page = history.find(all(1)).await.unwrap();
    assert!(page.matched > 100 && page.matched < 600, "{}", page.matched);
    history.close().await;
    assert!(path.metadata().unwrap().len() <= small && history.left_out() == 0, "{:?}", path.metadata());
}

#[tokio::test]
async fn a_task_of_many_attempts_keeps_its_first_step_and_the_last_ones() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    tell(&history, received("a", "t", "w@h", 1.0));
    for number in 0..200 {
        tell(&history, event("task-started", "a", "w@h", f64::from(number)));
    }
    tell(&history, event("task-succeeded", "a", "w@h", 300.0));
    stands(&history, "a", "success").await;
    let timeline = history.timeline("a").await.unwrap().unwrap();
    assert_eq!((timeline.steps.len(), timeline.steps_left_out, timeline.task.attempts), (100, 102, 200));
    assert_eq!((timeline.steps[0].word.as_str(), timeline.steps[1].at, timeline.steps[99].word.as_str()), ("received", 102.0, "succeeded"));
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
    let dir = TempDir::new().unwrap();
    let own = || HistoryOptions { is_own_place: true, ..options(&dir) };
    let history = History::start(own());
    for number in 0..500 {
        tell(&history, received(&format!("t{number}"), "t", "w@h", 1.0));
    }
    history.close().await;
    let path = own().path;
    let whole = std::fs::read(&path).unwrap();
    for (what, bytes) in [
        ("pages", [&whole[..4096], &vec![0x5a; whole.len() - 4096]].concat()),
        ("all", b"no file of SQLite, but as long as one".repeat(40)),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = told.clone();
        let tells = HistoryTeller::new(move |text| heard.lock().unwrap().push(text.to_owned()));
        let history = History::start(HistoryOptions { tell: Some(tells), ..own() });
        tell(&history, received("new", "t", "w@h", 1.0));
        stands(&history, "new", "held").await;
        assert_eq!(history.find(all(9)).await.unwrap().matched, 1, "{what}");
        let notices = history.troubles();
        assert!(notices[0].contains("is damaged") && notices[0].contains(".damaged-"), "{what}: {notices:?}");
        assert_eq!(*told.lock().unwrap(), notices);
        history.close().await;
    }
    let aside =
        std::fs::read_dir(dir.path()).unwrap().filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-"));
    assert_eq!(aside.count(), 2);
}

#[tokio::test]
async fn files_of_others_are_left_alone_and_the_page_goes_on_without() {
    let dir = TempDir::new().unwrap();
    let notes = dir.path().join("notes.txt");
    std::fs::write(&notes, "these are my notes, and they are no database of anybody's\n".repeat(30)).unwrap();
    let strange = dir.path().join("strange.db");
    Connection::open(&strange).unwrap().execute_batch("CREATE TABLE a(b)").unwrap();
    let kept = options(&dir);
    let first = History::start(kept.clone());
    stands_open(&first).await;
    let missing = dir.path().join("no/such/history.db");
    for (path, want) in [
        (notes.as_path(), "no SQLite file"),
        (&strange, "another program"),
        (&kept.path, "another dashboard"),
        (&missing, "cannot be made there"),
    ] {
        let before = std::fs::read(path).ok();
        let history = History::start(HistoryOptions::new(path));
        eventually(want, async || history.troubles().iter().any(|text| text.contains(want))).await;
        tell(&history, received("a", "t", "w@h", 1.0));
        eventually("it is counted", async || history.left_out() == 1).await;
        assert!(history.find(all(1)).await.is_err());
        history.close().await;
        assert_eq!(std::fs::read(path).ok(), before, "{}", path.display());
    }
}

async fn stands_open(history: &Arc<History>) {
    eventually("it is open", async || history.find(all(1)).await.is_ok()).await;
}

#[tokio::test]
async fn a_file_that_was_not_to_be_written_is_used_again_when_it_is() {
    if !goes_on_as_nobody("history::tests::a_file_that_was_not_to_be_written_is_used_again_when_it_is") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let kept = options(&dir);
    History::start(kept.clone()).close().await;
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&kept.path, 0o400);
    let history = History::start(kept.clone());
    eventually("it says so", async || history.troubles().iter().any(|text| text.contains("must be writable"))).await;
    mode(&kept.path, 0o600);
    eventually("it is well again", async || history.troubles().is_empty()).await;
    tell(&history, received("a", "t", "w@h", 1.0));
    stands(&history, "a", "held").await;
}

#[tokio::test]
async fn one_dashboard_keeps_a_history_and_the_next_one_goes_on_with_it() {
    let dir = TempDir::new().unwrap();
    let kept = options(&dir);
    let first = History::start(kept.clone());
    tell(&first, received("a", "t", "w@h", 1.0));
    stands(&first, "a", "held").await;
    let second = History::start(kept);
    eventually("it says so", async || second.troubles().iter().any(|text| text.contains("another dashboard"))).await;
    first.close().await;
    eventually("it is its own now", async || second.troubles().is_empty()).await;
    tell(&second, event("task-started", "a", "w@h", 2.0));
    stands(&second, "a", "started").await;
    assert_eq!(second.timeline("a").await.unwrap().unwrap().steps.len(), 2);
}

/// Returns whether the test that asks is to go on. For root, whom no permissions hold, the test is
/// run again as nobody, and is then over.
fn goes_on_as_nobody(test: &str) -> bool {
    if is_refused_by_modes() {
        return true;
    }
    // Nobody may read a copy wherever the target directory lies.
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    match std::process::Command::new("setpriv").args(nobody).arg(&program).args(["--exact", test]).current_dir("/").output() {
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
        }
        Err(_) => longshore_testkit::left_out::missing("setpriv is missing: install it (Debian and Ubuntu: the package `util-linux`)"),
    }
    false
}

/// Returns whether permissions mean anything here: they do not to root.
fn is_refused_by_modes() -> bool {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    std::fs::OpenOptions::new().write(true).open(&file).is_err()
}

#[tokio::test]
async fn events_that_come_faster_than_they_are_written_are_bounded_and_counted() {
    let dir = TempDir::new().unwrap();
    let kept = options(&dir);
    let history = History::start(kept.clone());
    stands_open(&history).await;
    // Another program has the file locked: nothing is written meanwhile.
    let other = Connection::open(&kept.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let long = "x".repeat(1_000);
    let sent = 60_000;
    for number in 0..sent {
        tell(&history, HeardEvent { args: Some(long.clone()), ..received(&format!("t{number}"), "t", "w@h", 1.0) });
    }
    let waiting = history.shared.waiting_bytes.load(Ordering::Relaxed);
    assert!(waiting <= MOST_WAITING && history.left_out() > 0, "{waiting} bytes, {} left out", history.left_out());
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    let seen = async || history.find(all(1)).await.map_or(0, |page| page.matched) as u64;
    eventually("all are seen or counted", async || seen().await + history.left_out() == sent).await;
    let points = history.points(ChartSpan::Day).await.unwrap();
    let told = || points.iter().flatten().map(|point| point.left_out).sum::<i64>();
    assert!(told() <= history.left_out().cast_signed());
}

#[tokio::test]
async fn what_a_sender_tells_is_kept_and_a_file_of_before_gets_room_for_it() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    tell(&history, received("old", "shop.add", "w@h", 1.0));
    stands(&history, "old", "held").await;
    history.close().await;
    let file = rusqlite::Connection::open(dir.path().join("history.db")).unwrap();
    for (table, column) in [("tasks", "clock"), ("texts", "expires"), ("texts", "exchange"), ("texts", "routing_key")] {
        file.execute_batch(&format!("ALTER TABLE {table} DROP COLUMN {column}")).unwrap();
    }
    drop(file);
    let history = History::start(options(&dir));
    let text = |text: &str| Some(text.to_owned());
    let (exchange, routing_key, expires) = (text(""), text("mail"), text("2026-01-01T00:00:00+00:00"));
    tell(&history, HeardEvent { exchange, routing_key, expires: expires.clone(), clock: 7, ..event("task-sent", "new", "client", 1.0) });
    tell(&history, HeardEvent { clock: 9, ..received("new", "mail.send", "w@h", 2.0) });
    stands(&history, "new", "held").await;
    let [old, new] = [history.timeline("old").await.unwrap().unwrap(), history.timeline("new").await.unwrap().unwrap()];
    assert_eq!((new.exchange.as_deref(), new.routing_key.as_deref(), new.expires, new.clock), (Some(""), Some("mail"), expires, Some(9)));
    assert_eq!((old.task.task.as_deref(), old.exchange, old.expires, old.clock), (Some("shop.add"), None, None, None));
}

#[tokio::test]
async fn tasks_stand_in_the_order_that_is_asked_for_from_page_to_page() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    for (id, runtime) in [("a", 2.0), ("b", 0.5), ("c", 7.0), ("e", 2.0)] {
        tell(&history, received(id, "shop.add", "w@h", 1.0));
        tell(&history, HeardEvent { runtime: Some(runtime), ..event("task-succeeded", id, "w@h", 2.0) });
    }
    tell(&history, received("d", "mail.send", "w@h", 1.0));
    stands(&history, "d", "held").await;
    for (word, order) in [("took", "beacd"), ("-took", "ceabd"), ("-id", "edcba"), ("task", "decba"), ("-starts", "decba")] {
        let sort = PastSort::of(word);
        let (mut ids, mut before) = (String::new(), None);
        loop {
            let page = history.find(PastQuery { sort, before, ..all(2) }).await.unwrap();
            page.tasks.iter().for_each(|task| ids.push_str(&task.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(ids, order, "{word}");
    }
    assert_eq!((PastSort::of("colour"), PastSort::of("--took"), PastSort::of("-")), (None, None, None));
}

#[tokio::test]
async fn a_search_finds_by_everything_and_goes_from_page_to_page() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    for number in 0..25 {
        tell(&history, received(&format!("id-{number:02}"), if number % 2 == 0 { "shop.add" } else { "mail.send" }, "w@h", 1.0));
    }
    tell(&history, event("task-started", "id-03", "other@h", 2.0));
    let error = "OSError('100%_of \\ it <script>')".to_owned();
    tell(&history, HeardEvent { error: Some(error), ..event("task-failed", "id-03", "other@h", 7.5) });
    stands(&history, "id-03", "failure").await;
    let find = async |change: fn(&mut PastQuery)| {
        let mut query = all(100);
        change(&mut query);
        history.find(query).await.unwrap().tasks.iter().map(|task| task.n).collect::<Vec<_>>()
    };
    assert_eq!(find(|_| {}).await.len(), 25);
    assert_eq!(find(|query| query.states = vec![PastState::Failure, PastState::Lost]).await, [4]);
    assert_eq!(find(|query| query.task = Some("shop.*".to_owned())).await.len(), 13);
    assert_eq!(find(|query| query.task = Some("shop".to_owned())).await.len(), 0);
    assert_eq!(find(|query| query.worker = Some("other@*".to_owned())).await, [4]);
    assert_eq!(find(|query| query.queue = Some("q".to_owned())).await.len(), 25);
    assert_eq!(find(|query| query.ids = vec!["id-03".to_owned(), "id-2".to_owned()]).await, [25, 24, 23, 22, 21, 4]);
    for text in ["100%_of", "\\ it", "<SCRIPT>"] {
        let found = history.find(PastQuery { error: Some(text.to_owned()), ..all(9) }).await.unwrap();
        assert_eq!((found.tasks.len(), found.matched), (1, 1), "{text}");
    }
    assert_eq!(find(|query| query.error = Some("%".repeat(2))).await.len(), 0);
    assert_eq!(find(|query| query.took = Some(5.0)).await, [4]);
    assert_eq!((find(|query| query.since = Some(3_600)).await.len(), find(|query| query.since = Some(-60)).await.len()), (25, 0));
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = history.find(PastQuery { before, ..all(10) }).await.unwrap();
        assert_eq!(page.matched, 25);
        seen.extend(page.tasks.iter().map(|task| task.n));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<i64>>());
}

#[tokio::test]
async fn tasks_are_told_in_the_words_of_celerys_events_and_found_by_them() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    let text = |text: &str| Some(text.to_owned());
    tell(&history, HeardEvent { task: text("shop.pay"), queue: text("q"), ..event("task-sent", "a", "client@h", 1.0) });
    tell(&history, HeardEvent { args: text("(1,)"), kwargs: text("{'card': '4111', 'n': 2}"), ..received("a", "shop.pay", "w@h", 2.0) });
    tell(&history, event("task-started", "a", "w@h", 3.0));
    tell(&history, HeardEvent { error: text("KeyError('again')"), ..event("task-retried", "a", "w@h", 4.0) });
    tell(&history, received("a", "shop.pay", "w@h", 5.0));
    tell(&history, event("task-started", "a", "w@h", 6.0));
    tell(&history, HeardEvent { result: text("'paid 100%'"), runtime: Some(0.5), ..event("task-succeeded", "a", "w@h", 7.0) });
    tell(&history, received("b", "shop.mail", "v@h", 8.0));
    tell(&history, HeardEvent { parent: text("a"), ..received("c", "Shop.pay", "w@h", 9.0) });
    stands(&history, "c", "held").await;

    let told = history.told_one("a", false).await.unwrap().unwrap();
    let times = (told.sent, told.received, told.started, told.retried, told.succeeded, told.failed, told.timestamp);
    assert_eq!(times, (Some(1.0), Some(5.0), Some(6.0), Some(4.0), Some(7.0), None, Some(7.0)));
    assert_eq!((told.state.as_str(), told.retries, told.runtime), ("SUCCESS", 1, Some(0.5)));
    assert_eq!(
        (told.client.as_deref(), told.routing_key.as_deref(), told.children.as_slice()),
        (Some("client@h"), Some("q"), &["c".to_owned()][..])
    );
    let hidden = history.told_one("a", true).await.unwrap().unwrap();
    assert_eq!((hidden.args, hidden.kwargs, hidden.result, hidden.name.as_deref()), (None, None, None, Some("shop.pay")));
    assert_eq!((history.told_one("none", false).await.unwrap(), history.names().await.unwrap().len()), (None, 3));

    let find = async |query: ToldQuery| {
        let (tasks, rest) = history.told(ToldQuery { limit: if query.limit == 0 { 9 } else { query.limit }, ..query }).await.unwrap();
        (tasks.iter().map(|task| task.uuid.as_str()).collect::<Vec<_>>().join(""), rest)
    };
    let any = ToldQuery::default;
    let word = |field, text: &str| Some(Matching::Word(field, text.to_owned()));
    let kwarg = |name: &str, value: &str| Some(Matching::Kwarg(name.to_owned(), value.to_owned()));
    let rows = [
        (ToldQuery { sort: Some((SortKey::Started, false)), ..any() }, "bca"),
        (ToldQuery { sort: Some((SortKey::Name, true)), ..any() }, "cab"),
        (ToldQuery { sort: Some((SortKey::State, false)), limit: 2, offset: 1, ..any() }, "ca"),
        (ToldQuery { task: text("shop.PAY"), sort: Some((SortKey::Received, false)), ..any() }, "ac"),
        (ToldQuery { state: text("success"), ..any() }, "a"),
        (ToldQuery { worker: text("v@h"), ..any() }, "b"),
        (ToldQuery { received: [text("2020-01-01 00:00"), None], ..any() }, ""),
        (ToldQuery { received: [None, text("2020-01-01 00:00")], sort: Some((SortKey::Received, true)), ..any() }, "cba"),
        (ToldQuery { matching: word(None, "100%"), ..any() }, "a"),
        (ToldQuery { matching: word(None, "1_0"), ..any() }, ""),
        (ToldQuery { matching: word(None, "succ"), ..any() }, "a"),
        (ToldQuery { matching: kwarg("card", "4111"), ..any() }, "a"),
        (ToldQuery { matching: kwarg("n", "2"), ..any() }, "a"),
        (ToldQuery { matching: kwarg("card", "41"), ..any() }, ""),
        (
            ToldQuery {
                matching: Some(Matching::All(vec![
                    Matching::State("received".to_owned()),
                    Matching::Any(vec![Matching::Word(Some(MatchField::Worker), "v@".to_owned())]),
                ])),
                ..any()
            },
            "b",
        ),
        // What is hidden is not found either.
        (ToldQuery { matching: word(None, "4111"), hide_args: true, ..any() }, ""),
        (ToldQuery { matching: kwarg("n", "2"), hide_args: true, ..any() }, ""),
        (ToldQuery { matching: word(Some(MatchField::Result), "paid"), hide_args: true, ..any() }, ""),
    ];
    for (query, expected) in rows {
        assert_eq!(find(query.clone()).await.0, expected, "{query:?}");
    }
    assert_eq!(find(ToldQuery { limit: 1, offset: 1, sort: Some((SortKey::Name, false)), ..any() }).await, ("a".to_owned(), 1));
    history.close().await;
}

#[tokio::test]
async fn questions_whose_askers_have_gone_keep_their_places_until_they_end() {
    let dir = TempDir::new().unwrap();
    let history = History::start(options(&dir));
    eventually("the file is open", async || history.names().await.is_ok()).await;
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let mut goes_on = Vec::new();
    for _ in 0..READERS {
        let ((go, waits), began, own) = (mpsc::channel::<()>(), began.clone(), history.clone());
        let asked = tokio::spawn(async move {
            let question = move |_: &Connection| {
                let _ = began.send(());
                let _ = waits.recv();
                Ok(())
            };
            own.ask(question).await
        });
        begins.recv().await.unwrap();
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        goes_on.push(go);
    }
    assert_eq!(history.readers.available_permits(), 0, "their threads still read");
    drop(goes_on);
    assert!(history.names().await.is_ok(), "a place comes free when one has ended");
    let _all = history.readers.acquire_many(READERS as u32).await.unwrap();
    assert!(history.idle.lock().unwrap().len() <= READERS);
    history.close().await;
}
