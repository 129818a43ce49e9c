//! Queues with so many messages that nobody would send them one by one.
#![allow(dead_code, reason = "not everybody who fills needs everything")]

use std::path::Path;

use longshore_testkit::servers::Redis;
use longshore_worker::{Client, Signature};

/// The queue that is filled.
pub(crate) const QUEUE: &str = "long";
/// The message that is sent, and has its id changed in all others.
const FIRST: &str = "task-0000000";
/// Most messages that one script adds: a server does nothing else meanwhile.
const AT_ONCE: usize = 50_000;

async fn send_first(client: &Client) {
    let call: Signature = Signature::named("shop.price").arg(&1).arg(&"two").kwarg("three", &3).task_id(FIRST).queue(QUEUE);
    client.send(call).await.unwrap();
}

/// Lets so many messages wait in the queue.
pub(crate) async fn fill_redis(redis: &Redis, client: &Client, messages: usize) {
    send_first(client).await;
    let script = "local first = redis.call('LINDEX', KEYS[1], -1)
        for number = ARGV[1], ARGV[2] do
            redis.call('LPUSH', KEYS[1], (string.gsub(first, 'task%-0000000', string.format('task-%07d', number))))
        end
        return redis.call('LLEN', KEYS[1])";
    for from in (1..messages).step_by(AT_ONCE) {
        let (from, to) = (from.to_string(), (from + AT_ONCE).min(messages) - 1);
        let answer = redis.command(&["EVAL", script, "1", QUEUE, &from, &to.to_string()]);
        assert_eq!(answer.trim(), format!(":{}", to + 1));
    }
}

/// The same in a file that a broker of SQLite has made.
pub(crate) async fn fill_sqlite(path: &Path, client: &Client, messages: usize) {
    send_first(client).await;
    let file = rusqlite::Connection::open(path).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    let fill = "WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1 - 1),
            first AS MATERIALIZED (SELECT * FROM messages WHERE queue = ?2 ORDER BY id LIMIT 1)
        INSERT INTO messages(queue, priority, sent, raw)
            SELECT queue, priority, sent, CAST(replace(CAST(raw AS TEXT), ?3, printf('task-%07d', number)) AS BLOB) FROM numbers, first";
    let count = i64::try_from(messages).unwrap();
    assert_eq!(file.execute(fill, rusqlite::params![count, QUEUE, FIRST]).unwrap(), messages - 1);
}
