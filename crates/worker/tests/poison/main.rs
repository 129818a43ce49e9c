//! Poison: one task among 400 whose end a store refuses fails with the reason, and is no concern of
//! the others; a store that takes nothing is waited for. Every kind of effect (result, link, group,
//! part of a chord, dead letter) on every kind of store.
#![expect(clippy::unwrap_used, reason = "a test")]

mod bench;
mod disk;
mod troubles;

use std::time::Duration;

use longshore_brokers::Key;
use longshore_celery::{Exception, Message, State, TaskResult};
use longshore_testkit::servers::Redis;

use self::bench::{BAD, Bench, GOOD, SOON, Store, bad, just_short_enough, with_group, with_large_link, with_link, with_part, with_saved};

/// A kind of effect, and how it is refused.
struct Row {
    what: &'static str,
    /// The store, spoilt so.
    spoil: &'static str,
    message: fn(&str) -> Message,
    /// Its argument.
    queue: &'static str,
    /// Words of the reason.
    reason: &'static str,
    /// Its FAILURE can be stored, and its dead letter.
    result: bool,
    letter: bool,
}

async fn one_bad_one_is_no_concern_of_the_others(store: impl Fn() -> Option<Store>, rows: &[Row]) {
    for Row { what, spoil, message, queue, reason, result, letter } in rows {
        let Some(store) = store() else { return };
        let bench = Bench::new(&store);
        if !spoil.is_empty() {
            store.spoil(spoil);
        }
        bench.send(Some(message(queue))).await;
        let worker = bench.worker(false, Duration::ZERO).await;
        bench.all_is_well(what).await;
        let letters = bench.connected.letters().unwrap().dead(Some("celery")).await.unwrap();
        assert_eq!(letters.len(), usize::from(*letter), "{what}: {letters:?}");
        if *letter {
            assert!(letters[0].reason.contains(reason), "{what}: {}", letters[0].reason);
        }
        let doc = bench.results.get(&[Key::Task(BAD.to_owned())]).await.unwrap().remove(0);
        assert_eq!(doc.is_some(), *result, "{what}");
        if let Some(doc) = doc {
            let doc = TaskResult::decode(&doc, 1 << 20).unwrap();
            assert_eq!(doc.state, State::Failure, "{what}");
            let exception = Exception::from_value(&doc.result).unwrap().to_string();
            assert!(exception.contains(reason), "{what}: {exception}");
        }
        assert!(
            bench.connected.inspect().unwrap().peek("elsewhere", 9).await.unwrap().is_empty(),
            "{what}: nothing of what is refused is done"
        );
        bench.connected.inspect().unwrap().find(BAD).await.unwrap_or_else(|error| panic!("{what}: why: {error}"));
        bench.broker.queues(&[]).await.unwrap_or_else(|error| panic!("{what}: queues: {error}"));
        bench.connected.inspect().unwrap().list(None, 10).await.unwrap_or_else(|error| panic!("{what}: tasks list: {error}"));
        worker.stopper().warm();
        let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
        let dead = u64::from(summary.counts.dead == 1);
        assert_eq!((summary.counts.ok, summary.counts.failed, dead, summary.error), (2 * GOOD as u64, 1, 1, None), "{what}");
    }
}

const LISTS: &str = "WRONGTYPE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_whatever_is_refused_of_one_task_fails_it_alone() {
    let rows = [
        Row {
            what: "a result",
            spoil: "LPUSH celery-task-meta-bad x",
            message: |_| bad("plain"),
            queue: "",
            reason: LISTS,
            result: false,
            letter: true,
        },
        Row {
            what: "a large result",
            spoil: "CONFIG SET proto-max-bulk-len 1mb",
            message: |_| bad("large"),
            queue: "",
            reason: "proto-max-bulk-len",
            result: true,
            letter: true,
        },
        Row { what: "a link", spoil: "SET wrong x", message: with_link, queue: "wrong", reason: LISTS, result: true, letter: true },
        Row { what: "a group", spoil: "SADD wrong x", message: with_group, queue: "wrong", reason: LISTS, result: true, letter: true },
        Row {
            what: "a link to what is held",
            spoil: "",
            message: with_link,
            queue: "unacked",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "a link to bindings",
            spoil: "",
            message: with_link,
            queue: "_kombu.binding.celery",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "a link to a result",
            spoil: "",
            message: with_link,
            queue: "celery-task-meta-x",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "the parts of a chord",
            spoil: "SET celery-taskset-meta-g.j x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "the size of a chord",
            spoil: "LPUSH celery-taskset-meta-g.s x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "the counted of a chord",
            spoil: "SET celery-taskset-meta-g.d x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "the claim of a chord",
            spoil: "LPUSH celery-taskset-meta-g.c x",
            message: with_part,
            queue: "",
            reason: LISTS,
            result: true,
            letter: true,
        },
        Row {
            what: "its next attempt",
            spoil: "CONFIG SET proto-max-bulk-len 1mb",
            message: just_short_enough,
            queue: "",
            reason: "proto-max-bulk-len",
            result: true,
            letter: false,
        },
        Row {
            what: "a dead letter",
            spoil: "SET longshore:dead:celery x",
            message: |_| bad("rejects"),
            queue: "",
            reason: "I do not like it",
            result: true,
            letter: true,
        },
    ];
    one_bad_one_is_no_concern_of_the_others(|| Redis::start(&[]).map(Store::Redis), &rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_whatever_is_refused_of_one_task_fails_it_alone() {
    let rows = [
        Row {
            what: "a result",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON results WHEN NEW.key = 'celery-task-meta-bad' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: |_| bad("plain"),
            queue: "",
            reason: "poison",
            result: false,
            letter: true,
        },
        Row {
            what: "a link",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON messages WHEN NEW.queue = 'wrong' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_link,
            queue: "wrong",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a group",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON messages WHEN NEW.queue = 'wrong' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_group,
            queue: "wrong",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a reserved name",
            spoil: "",
            message: with_link,
            queue: "unacked_index",
            reason: "no queue may be named",
            result: true,
            letter: true,
        },
        Row {
            what: "the part of a chord",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON chord_parts BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_part,
            queue: "",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a group's saved header",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON results WHEN NEW.key LIKE 'celery-taskset-meta-%' BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: with_saved,
            queue: "elsewhere",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "its next attempt",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON messages WHEN instr(CAST(NEW.raw AS TEXT), '\"retries\": 1') BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: |_| bad("retries"),
            queue: "",
            reason: "poison",
            result: true,
            letter: true,
        },
        Row {
            what: "a dead letter",
            spoil: "CREATE TRIGGER t BEFORE INSERT ON dead BEGIN SELECT RAISE(ABORT, 'poison'); END",
            message: |_| bad("rejects"),
            queue: "",
            reason: "I do not like it",
            result: true,
            letter: false,
        },
    ];
    one_bad_one_is_no_concern_of_the_others(|| Some(Store::file("")), &rows).await;
    let large = [Row {
        what: "a large result",
        spoil: "",
        message: |_| bad("large"),
        queue: "",
        reason: "more than it can hold",
        result: true,
        letter: true,
    }];
    one_bad_one_is_no_concern_of_the_others(|| Some(Store::file("&max_size=2000000")), &large).await;
}

/// Acknowledged early, a task has no message that could be a dead letter: its result says what is
/// refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_of_a_task_that_is_acknowledged_early_fails_it_alone() {
    let rows = [
        ("SET wrong x", with_link("wrong"), LISTS),
        ("CONFIG SET proto-max-bulk-len 1mb", with_large_link(), "proto-max-bulk-len"),
        // The connection ends without a word.
        ("CONFIG SET client-query-buffer-limit 1mb", with_large_link(), "client-query-buffer-limit"),
    ];
    for (spoil, message, reason) in rows {
        let Some(server) = Redis::start(&[]) else { return };
        let store = Store::Redis(server);
        let bench = Bench::new(&store);
        bench.send(Some(message)).await;
        store.spoil(spoil);
        let worker = bench.worker(true, Duration::ZERO).await;
        bench.all_is_well(spoil).await;
        bench.until("its failure", async || bench.results.get(&[Key::Task(BAD.to_owned())]).await.unwrap()[0].is_some()).await;
        let doc = bench.results.get(&[Key::Task(BAD.to_owned())]).await.unwrap().remove(0).unwrap();
        let exception = Exception::from_value(&TaskResult::decode(&doc, 1 << 20).unwrap().result).unwrap().to_string();
        assert!(exception.contains(reason), "{spoil}: {exception}");
        worker.stopper().warm();
        let summary = tokio::time::timeout(SOON, worker.join()).await.unwrap();
        assert_eq!((summary.counts.ok, summary.counts.failed, summary.error), (2 * GOOD as u64, 1, None), "{spoil}");
    }
}
