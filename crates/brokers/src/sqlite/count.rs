//! Counts what waits in queues.
//!
//! SQLite keeps no counts. To count a queue is to walk over its part of an index: 60 ms for a
//! million messages. The entries of the whole index can be read off its pages in a quarter of that
//! time (`dbstat`, <https://sqlite.org/dbstat.html>), and the longest queue has what is left when
//! all others are taken away.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

/// Entries from which a queue counts as long: to count so many takes about a millisecond.
const LONG: u64 = 20_000;

/// Counts the messages of these queues that wait and were never held back, in their order. The
/// numbers belong to one moment where the connection is in a transaction.
pub(super) fn ready(conn: &Connection, names: &[Arc<str>]) -> rusqlite::Result<Vec<u64>> {
    ready_of(conn, names, LONG)
}

fn ready_of(conn: &Connection, names: &[Arc<str>], long: u64) -> rusqlite::Result<Vec<u64>> {
    let mut counts = names.iter().map(|name| up_to(conn, name, long)).collect::<rusqlite::Result<Vec<u64>>>()?;
    let mut unknown: Vec<usize> = (0..names.len()).filter(|place| counts[*place] == long).collect();
    let Some(longest) = unknown.pop() else { return Ok(counts) };
    // All of the index but one queue has to be counted: that is cheap where the others are short.
    let mut others = 0;
    for name in all_of(conn)?.iter().filter(|name| !names.iter().any(|asked| **asked == ***name)) {
        others += up_to(conn, name, long - others.min(long))?;
        if others >= long {
            unknown.push(longest);
            break;
        }
    }
    for place in &unknown {
        counts[*place] = up_to(conn, &names[*place], u64::MAX)?;
    }
    if !unknown.contains(&longest) {
        counts[longest] = 0;
        others += counts.iter().sum::<u64>();
        counts[longest] = entries(conn)?.saturating_sub(others);
    }
    Ok(counts)
}

/// Counts one queue, and stops there.
fn up_to(conn: &Connection, queue: &str, most: u64) -> rusqlite::Result<u64> {
    let mut counting = conn.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM messages INDEXED BY messages_waiting
             WHERE queue = ?1 AND owner IS NULL AND due IS NULL LIMIT ?2)",
    )?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    counting.query_row(params![queue, most], |row| row.get(0)).map(i64::unsigned_abs)
}

/// Returns the queues that the index has, each found by one step down its tree.
fn all_of(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut next = conn.prepare_cached(
        "SELECT queue FROM messages INDEXED BY messages_waiting
             WHERE queue > ?1 AND owner IS NULL AND due IS NULL ORDER BY queue LIMIT 1",
    )?;
    let mut found: Vec<String> = Vec::new();
    while let Some(queue) = next.query_row([found.last().map_or("", String::as_str)], |row| row.get(0)).optional()? {
        found.push(queue);
    }
    Ok(found)
}

/// Returns how many entries the index of all queues has.
fn entries(conn: &Connection) -> rusqlite::Result<u64> {
    let mut counting = conn.prepare_cached("SELECT ncell FROM dbstat('main', 1) WHERE name = 'messages_waiting'")?;
    counting.query_row([], |row| row.get(0)).map(i64::unsigned_abs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_a_walk_over_the_index_whatever_else_lies_there() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, queue TEXT NOT NULL, priority INTEGER NOT NULL, place INTEGER NOT NULL,
                 owner INTEGER, due INTEGER, raw BLOB);
             CREATE INDEX messages_waiting ON messages(queue, priority, place) WHERE owner IS NULL AND due IS NULL;",
        )
        .unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let names: Vec<Arc<str>> = ["a", "b", "c", "empty", ""].map(Arc::from).to_vec();
        for round in 0..60 {
            for _ in 0..random.usize(..80) {
                let queue = ["a", "a", "b", "c", "unasked"][random.usize(..5)];
                let queue = if round > 40 { "b" } else { queue };
                let [owner, due] = [random.u8(..8), random.u8(..8)].map(|chance| (chance == 0).then_some(1));
                conn.execute(
                    "INSERT INTO messages(queue, priority, place, owner, due, raw) VALUES (?1, ?2, 1, ?3, ?4, zeroblob(?5))",
                    params![queue, random.u8(..10), owner, due, random.u32(..2_000)],
                )
                .unwrap();
            }
            conn.execute("DELETE FROM messages WHERE id % 7 = ?1 AND queue != 'b'", [round % 7]).unwrap();
            let walked = |name: &Arc<str>| -> u64 {
                let sql = "SELECT count(*) FROM messages NOT INDEXED WHERE queue = ?1 AND owner IS NULL AND due IS NULL";
                conn.query_row(sql, [name], |row| row.get(0)).map(i64::unsigned_abs).unwrap()
            };
            for asked in [&names[..], &names[1..], &names[1..2], &names[3..4], &[]] {
                let expected: Vec<u64> = asked.iter().map(walked).collect();
                for long in [1, 30, 100, 500] {
                    assert_eq!(ready_of(&conn, asked, long).unwrap(), expected, "round {round}, {asked:?}, long from {long}");
                }
            }
        }
    }
}
