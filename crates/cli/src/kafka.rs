//! Commands of Kafka, and what they share.
//!
//! Layout: `link.rs`: where Kafka is; `consume.rs`: records in; `topics.rs`, `lag.rs`: tables;
//! `produce.rs`, `fake.rs`, `outgoing.rs`: records out

pub mod consume;
pub mod fake;
pub mod lag;
pub mod link;
pub mod outgoing;
pub mod produce;
pub mod topics;

use std::io::Write;

/// Columns of text, the last ones of numbers to the right; two spaces between.
fn table(head: &[&str], numbers_from: usize, rows: &[Vec<String>], out: &mut dyn Write) -> std::io::Result<()> {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).chain([head[at].len()]).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut line = |row: &[&str]| {
        let cell = |at: usize| {
            let fill = " ".repeat(widths[at] - row[at].chars().count());
            if at < numbers_from { format!("{}{fill}", row[at]) } else { format!("{fill}{}", row[at]) }
        };
        let line = (0..row.len()).map(cell).collect::<Vec<_>>().join("  ");
        writeln!(out, "{}", line.trim_end())
    };
    line(head)?;
    rows.iter().try_for_each(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()))
}
