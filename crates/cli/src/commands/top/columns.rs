//! Tables that fit: which columns stand in so many columns of a terminal, and how wide.

/// Gap between two columns.
const GAP: usize = 2;
/// Narrowest that a column is made whose texts may be cut.
const NARROW: usize = 8;

/// Column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its heading.
    pub(super) head: &'static str,
    /// Its rank: where not all fit, those with a higher one go first.
    pub(super) rank: u8,
    /// True of text, which stands at the left and may be cut; false of a number.
    pub(super) is_text: bool,
}

/// Makes the lines of a table, its headings first, none wider than `width`. A column that has
/// nothing to say for want of room is left out.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let natural: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(column.head.len()))
        .collect();
    let widths = widths(columns, &natural, width);
    let head: Vec<String> = columns.iter().map(|column| column.head.to_owned()).collect();
    std::iter::once(&head).chain(rows).map(|row| line(columns, row, &widths)).collect()
}

/// Returns the width of each column; zero for one that has no room.
fn widths(columns: &[Column], natural: &[usize], width: usize) -> Vec<usize> {
    let least = |at: usize| if columns[at].is_text { natural[at].min(NARROW) } else { natural[at] };
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|at| columns[*at].rank);
    let mut widths = vec![0; columns.len()];
    let mut left = width;
    for at in &by_rank {
        let gap = if left == width { 0 } else { GAP };
        if least(*at) + gap > left {
            break;
        }
        widths[*at] = least(*at);
        left -= least(*at) + gap;
    }
    // What is left goes to texts that are cut.
    for at in by_rank {
        if widths[at] > 0 {
            let more = (natural[at] - widths[at]).min(left);
            widths[at] += more;
            left -= more;
        }
    }
    widths
}

fn line(columns: &[Column], row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for ((column, cell), wide) in columns.iter().zip(row).zip(widths).filter(|(_, wide)| **wide > 0) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        let cell = cut(cell, *wide);
        line.push_str(&if column.is_text { format!("{cell:<wide$}") } else { format!("{cell:>wide$}") });
    }
    line.truncate(line.trim_end().len());
    line
}

/// Returns a text in this many columns: what is longer ends with `…`.
pub(super) fn cut(text: &str, wide: usize) -> String {
    if text.chars().count() <= wide {
        return text.to_owned();
    }
    text.chars().take(wide.saturating_sub(1)).chain(std::iter::once('…').take(wide)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_by_rank_and_texts_are_cut_before_that() {
        let column = |head, rank, is_text| Column { head, rank, is_text };
        let columns = [column("QUEUE", 0, true), column("WAITING", 1, false), column("IN/s", 3, false), column("STATE", 2, true)];
        let rows = [["celery-of-the-shop", "1,234", "51.2", "paused by ops@laptop"], ["cpu", "0", "–", "running"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        for (width, want) in [
            (
                80,
                [
                    "QUEUE               WAITING  IN/s  STATE",
                    "celery-of-the-shop    1,234  51.2  paused by ops@laptop",
                    "cpu                       0     –  running",
                ],
            ),
            (
                40,
                [
                    "QUEUE            WAITING  IN/s  STATE",
                    "celery-of-the-…    1,234  51.2  paused …",
                    "cpu                    0     –  running",
                ],
            ),
            (30, ["QUEUE        WAITING  STATE", "celery-of-…    1,234  paused …", "cpu                0  running"]),
            (17, ["QUEUE     WAITING", "celery-…    1,234", "cpu             0"]),
            (8, ["QUEUE", "celery-…", "cpu"]),
            (3, ["", "", ""]),
        ] {
            let lines = table(&columns, &rows, width);
            assert_eq!(lines, want, "{width}");
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}");
        }
    }
}
