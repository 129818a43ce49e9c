//! Earlier measurements: lines of JSON as `bench --json` writes them.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use longshore_sys::files;
use serde_json::Value;

use super::Row;
use crate::exit::Exit;
use crate::fault::Fault;

/// Share by which a number has to be worse to be told.
const TOLERANCE: f64 = 0.1;

/// Change of a number against the one that was kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    /// Share by which it is larger.
    pub(super) share: f64,
    pub(super) is_worse: bool,
}

/// Compares a row with what it was; `None` where nothing is better or worse.
pub(super) fn change(row: &Row, was: f64) -> Option<Change> {
    let higher_is_better = match (row.what, row.unit) {
        // What was asked for, and what follows from it.
        ("asked" | "ideal in 100 ms" | "most in any 100 ms", _) => return None,
        (_, "/s") => true,
        _ => false,
    };
    if was <= 0.0 || !was.is_finite() {
        return None;
    }
    let share = row.value / was - 1.0;
    // As times: a rate that has halved takes twice as long.
    let is_worse = if higher_is_better { was / row.value.max(f64::MIN_POSITIVE) - 1.0 } else { share } > TOLERANCE;
    Some(Change { share, is_worse })
}

fn parse(text: &str) -> BTreeMap<String, f64> {
    let line = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        Some((row.get("what")?.as_str()?.to_owned(), row.get("value")?.as_f64()?))
    };
    text.lines().filter_map(line).collect()
}

/// Reads the numbers of a file; where it `may_be_absent`, none of a file that is not there.
pub(super) fn read(path: &Path, may_be_absent: bool) -> Result<BTreeMap<String, f64>, Fault> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let rows = parse(&text);
            if rows.is_empty() && !may_be_absent {
                let message = format!("{}: no measurements in it; `longshore bench --json > FILE` writes them", path.display());
                return Err(Fault::new(Exit::Input, message));
            }
            Ok(rows)
        }
        Err(error) if error.kind() == ErrorKind::NotFound && may_be_absent => Ok(BTreeMap::new()),
        Err(error) => Err(Fault::new(Exit::Input, format!("{}: {error}", path.display()))),
    }
}

/// Keeps these rows beside those of other parts that were kept before.
pub(super) fn keep(path: &Path, rows: &[Row]) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::new(Exit::Unwritable, format!("{}: {}", path.display(), files::cause(&error)));
    // Looked at first, so that reading it does not hang.
    if let Ok(meta) = path.metadata() {
        files::regular(&meta).map_err(failed)?;
    }
    let old = fs::read_to_string(path).unwrap_or_default();
    let is_old = |line: &&str| parse(line).keys().all(|what| !rows.iter().any(|row| row.what == what));
    let mut text: String = old.lines().filter(is_old).flat_map(|line| [line, "\n"]).collect();
    for row in rows {
        text.push_str(&serde_json::to_string(row).unwrap_or_default());
        text.push('\n');
    }
    files::write_output(path, text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_worse_when_it_is_lower_and_a_time_when_it_is_longer() {
        let row = |what, value, unit| Row { what, value, unit };
        for (row, was, worse) in [
            (row("x", 89.0, "/s"), 100.0, Some(true)),
            (row("x", 92.0, "/s"), 100.0, Some(false)),
            (row("x", 200.0, "/s"), 100.0, Some(false)),
            (row("x", 111.0, "ms"), 100.0, Some(true)),
            (row("x", 109.0, "ms"), 100.0, Some(false)),
            (row("asked", 5.0, "/s"), 100.0, None),
            (row("x", 5.0, "/s"), 0.0, None),
        ] {
            assert_eq!(change(&row, was).map(|change| change.is_worse), worse, "{row:?} {was}");
        }
    }

    #[test]
    fn what_other_parts_measured_stays() {
        let path = std::env::temp_dir().join(format!("longshore-baseline-{}", std::process::id()));
        let row = |what, value| Row { what, value, unit: "/s" };
        keep(&path, &[row("a", 1.0), row("b", 2.0)]).unwrap();
        keep(&path, &[row("b", 3.0)]).unwrap();
        let kept = read(&path, true).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 1.0), ("b".to_owned(), 3.0)]);
        assert_eq!(read(&path, false).unwrap_err().exit, Exit::Input);
    }
}
