//! Counts by name: level bars.

use crate::{
    frame::{Frame, RIGHT, Tone, WIDTH},
    scale::show_number,
};

/// Counts by name, as they come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Its title.
    pub title: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// One count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The number.
    pub count: u64,
    /// Its colour.
    pub tone: Tone,
}

/// Height of a row.
const ROW: f64 = 38.0;
/// Longest name that fits.
const LETTERS: usize = 54;

impl Ranking {
    /// Draws it.
    pub fn svg(&self) -> String {
        let most = self.rows.iter().map(|row| row.count).max().unwrap_or(0).max(1);
        let says: Vec<String> = self.rows.iter().map(|row| format!("{} {}", row.name, row.count)).collect();
        let mut frame = Frame::new(26.0 + ROW * self.rows.len() as f64, &self.title, &says.join(", "));
        for (place, row) in self.rows.iter().enumerate() {
            let y = 26.0 + ROW * place as f64;
            let name = match row.name.char_indices().nth(LETTERS) {
                Some((at, _)) => format!("{}…", &row.name[..at]),
                None => row.name.clone(),
            };
            frame.text(0.0, y + 13.0, "", "start", &name);
            frame.text(RIGHT, y + 13.0, "", "end", &show_number(row.count as f64));
            let width = (WIDTH - 14.0) * row.count as f64 / most as f64;
            frame.bar(row.tone, (0.0, y + 18.0), (width.max(1.0), 11.0), &format!("{}: {}", row.name, row.count));
        }
        frame.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_highest_count_and_a_long_name_is_cut() {
        let row = |name: &str, count| Row { name: name.to_owned(), count, tone: Tone::Bad };
        let svg = Ranking { title: "Failures".to_owned(), rows: vec![row(&"é".repeat(80), 4), row("exit 1", 1)] }.svg();
        assert!(svg.contains(&format!(">{}…</text>", "é".repeat(54))), "{svg}");
        assert!(svg.contains("width=\"426\" height=\"11\"") && svg.contains("width=\"106.5\" height=\"11\""), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 440 102\""), "{svg}");
    }
}
