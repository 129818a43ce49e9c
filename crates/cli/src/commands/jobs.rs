//! `longshore jobs`: what the state directory knows, for people (text) and programs (JSON Lines).

pub mod reach;

use std::io::{self, Write};

use longshore_run::jobs::{Details, JobRow};
use serde::Serialize;

/// Prints one JSON object a line.
///
/// # Errors
/// When `out` cannot be written.
pub fn print_json(values: &[impl Serialize], out: &mut impl Write) -> io::Result<()> {
    for value in values {
        serde_json::to_writer(&mut *out, value)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Prints the table of `jobs list`.
///
/// # Errors
/// When `out` cannot be written.
pub fn print_list(rows: &[JobRow], out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no jobs yet: `longshore run` begins one");
    }
    let name = |row: &JobRow| plain(row.name.as_deref().unwrap_or("–"));
    let wide = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:<6} {:<wide$} {:<10} {:>9} {:>7} {:>8}  {:<20}  WHAT",
        "JOB", "NAME", "STATE", "OK", "FAILED", "IN-FLIGHT", "CHANGED"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:<6} {:<wide$} {:<10} {:>9} {:>7} {:>9}  {:<20}  {}",
            row.job,
            name(row),
            row.state,
            row.ok,
            row.failed,
            row.in_flight,
            row.changed,
            plain(row.broken.as_deref().unwrap_or(&row.what)),
        )?;
    }
    Ok(())
}

/// Prints what `jobs show` says.
///
/// # Errors
/// When `out` cannot be written.
pub fn print_details(details: &Details, out: &mut impl Write) -> io::Result<()> {
    let Details { row, .. } = details;
    let title = row.name.as_deref().map_or_else(|| row.job.clone(), |name| format!("{} {}", plain(name), row.job));
    let exit = row.exit.map_or(String::new(), |exit| format!(", last exit {exit}"));
    writeln!(out, "{title}  {}{exit}", row.state)?;
    let mut line = |label: &str, text: String| if text.is_empty() { Ok(()) } else { writeln!(out, "  {label:<9} {}", plain(&text)) };
    line("what", row.what.clone())?;
    line("inputs", details.inputs.join(" "))?;
    line("tasks", format!("ok {}   failed {}   skipped {}   in flight {}", row.ok, row.failed, row.skipped, row.in_flight))?;
    let failures: Vec<String> = details.failures.iter().take(10).map(|(class, count)| format!("{count} {class}")).collect();
    line("failed by", failures.join("   "))?;
    line("started", format!("{}   changed {}   sittings {}", row.started, row.changed, details.sittings))?;
    line("output", details.outputs.join(" "))?;
    line("journal", details.journal.clone())?;
    line("in", details.cwd.clone())
}

/// Text that can do nothing to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|each| if each.is_control() { '\u{fffd}' } else { each }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_line_and_nothing_in_it_reaches_the_terminal() {
        let row = JobRow {
            job: "7f3a".to_owned(),
            name: Some("prices".to_owned()),
            state: "unfinished",
            pid: None,
            ok: 2,
            failed: 1,
            skipped: 0,
            in_flight: 0,
            exit: None,
            started: String::new(),
            changed: String::new(),
            what: "\u{1b}[2J".to_owned(),
            broken: None,
        };
        let mut text = Vec::new();
        print_list(&[row], &mut text).unwrap();
        assert!(!text.contains(&0x1b));
        assert!(String::from_utf8(text).unwrap().contains(" prices unfinished         2       1         0  "));
    }
}
