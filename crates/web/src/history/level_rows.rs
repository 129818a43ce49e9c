//! How long queues were over a day, and how old their oldest message.

use rusqlite::{Connection, params};

use super::{
    levels::{MOST_QUEUES, QueueLevel, place_of},
    traffic::{ChartSpan, POINTS},
};

/// A table that files of before do not have: the highest level of each queue in each span of a day.
pub(super) const LEVELS: &str = "
CREATE TABLE IF NOT EXISTS levels(
    at INTEGER NOT NULL, queue TEXT NOT NULL, waiting INTEGER NOT NULL, oldest REAL, PRIMARY KEY(at, queue)
) WITHOUT ROWID;
";

/// Most rows: as many as the points of so many queues.
const MOST_ROWS: i64 = POINTS * MOST_QUEUES as i64;

/// Writes how queues stand, and forgets what is older than the chart.
pub(super) fn write(conn: &Connection, queues: &[(String, QueueLevel)], now: i64) -> rusqlite::Result<()> {
    let place = place_of(ChartSpan::Day, now);
    let mut add = conn.prepare_cached(
        "INSERT INTO levels(at, queue, waiting, oldest) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(at, queue) DO UPDATE SET waiting = max(waiting, excluded.waiting),
             oldest = coalesce(max(oldest, excluded.oldest), oldest, excluded.oldest)",
    )?;
    for (queue, level) in queues.iter().take(MOST_QUEUES) {
        add.execute(params![place, queue, i64::try_from(level.waiting).unwrap_or(i64::MAX), level.oldest_seconds])?;
    }
    // A clock that was set back has left points that lie ahead.
    conn.prepare_cached("DELETE FROM levels WHERE at <= ?1 OR at > ?2")?.execute([place - POINTS, place + 1])?;
    // Names that come and go could be very many.
    let rows: i64 = conn.prepare_cached("SELECT count(*) FROM levels")?.query_row([], |row| row.get(0))?;
    if rows > MOST_ROWS {
        let oldest = "SELECT at, queue FROM levels ORDER BY at, waiting LIMIT ?1";
        conn.prepare_cached(&format!("DELETE FROM levels WHERE (at, queue) IN ({oldest})"))?.execute([rows - MOST_ROWS])?;
    }
    Ok(())
}

/// Reads the levels of a queue over the last day, each with its place among the points.
pub(super) fn read(conn: &Connection, queue: &str, now: i64) -> rusqlite::Result<Vec<(i64, QueueLevel)>> {
    let last = place_of(ChartSpan::Day, now);
    let mut find = conn.prepare_cached("SELECT waiting, oldest FROM levels WHERE at = ?1 AND queue = ?2")?;
    let mut levels = Vec::new();
    // Point by point: the rows of other queues lie between.
    for at in last - POINTS + 1..=last {
        let mut rows = find.query(params![at, queue])?;
        if let Some(row) = rows.next()? {
            let waiting = u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default();
            levels.push((at, QueueLevel { waiting, oldest_seconds: row.get(1)? }));
        }
    }
    Ok(levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(waiting: u64, oldest_seconds: Option<f64>) -> QueueLevel {
        QueueLevel { waiting, oldest_seconds }
    }

    #[test]
    fn the_highest_of_twelve_minutes_is_kept_for_a_day() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(LEVELS).unwrap();
        let now = 1_800_000_000_000;
        for (at, waiting, oldest) in
            [(now, 4, None), (now + 60_000, 9, Some(3.0)), (now + 120_000, 2, None), (now + 3_600_000, 1, Some(2.0))]
        {
            write(&conn, &[("q".to_owned(), level(waiting, oldest)), ("other".to_owned(), level(7, None))], at).unwrap();
        }
        let seen: Vec<QueueLevel> = read(&conn, "q", now + 3_600_000).unwrap().into_iter().map(|(_, level)| level).collect();
        assert_eq!(seen, [level(9, Some(3.0)), level(1, Some(2.0))]);
        assert_eq!(read(&conn, "none", now).unwrap(), []);
        // A day later, and with a clock that was set back by two.
        for at in [now + 90_000_000, now - 86_400_000] {
            write(&conn, &[], at).unwrap();
            assert_eq!(read(&conn, "q", at).unwrap(), []);
        }
    }

    #[test]
    fn names_that_come_and_go_are_bounded() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(LEVELS).unwrap();
        let now = 1_800_000_000_000;
        for minute in 0..130 {
            let queues: Vec<_> = (0..MOST_QUEUES + 7).map(|n| (format!("{minute}-{n}"), level(n as u64, None))).collect();
            write(&conn, &queues, now + minute * 60_000).unwrap();
        }
        let rows: i64 = conn.query_row("SELECT count(*) FROM levels", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, MOST_ROWS);
        assert_eq!(read(&conn, "129-499", now + 129 * 60_000).unwrap().len(), 1);
    }
}
