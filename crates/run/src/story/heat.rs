//! Attempts by when they ended and how long they ran: columns of time, rows of run time.

use std::time::Duration;

use super::{BINS, edge, micros};

/// Most columns. They become twice as long when there would be more.
const COLUMNS: usize = 60;
/// The shortest column, in microseconds.
const SHORTEST: u64 = 10_000;
/// Rows of each doubling of the run time.
const FINENESS: i32 = 4;
/// The first row, which has all that is shorter, too: 2⁻²⁰ s, a microsecond.
const LOWEST: i32 = -20 * FINENESS;
/// Rows up to 2¹⁶ s, 18 hours; the last one has all that is longer, too.
const ROWS: usize = 36 * FINENESS as usize;
/// Most rows that are shown.
const SHOWN: usize = 20;

/// Number of attempts in each cell. It takes 35 KB at most, however many there are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heat {
    /// Microseconds that a column is long.
    column: u64,
    columns: Vec<[u32; ROWS]>,
}

impl Default for Heat {
    fn default() -> Self {
        Self { column: SHORTEST, columns: Vec::new() }
    }
}

/// Row of run times, with how many ended in it in each stretch of time.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct HeatRow {
    /// The shortest run time, in seconds.
    pub from: f64,
    /// The longest.
    pub to: f64,
    /// Attempts by the stretch in which they ended.
    pub counts: Vec<u64>,
}

/// Run times over time.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct StoryHeat {
    /// Seconds that each stretch is long.
    pub seconds: f64,
    /// The rows, from the shortest run times, without gaps.
    pub rows: Vec<HeatRow>,
}

impl Heat {
    /// Adds an attempt whose run time is in this bin.
    pub(super) fn add(&mut self, ended: Duration, bin: i32) {
        let at = micros(ended);
        while at / self.column >= COLUMNS as u64 {
            self.column *= 2;
            self.columns = self.columns.chunks(2).map(|pair| pair.iter().copied().fold([0; ROWS], sum)).collect();
        }
        let place = (at / self.column) as usize;
        if place >= self.columns.len() {
            self.columns.resize(place + 1, [0; ROWS]);
        }
        let row = bin.div_euclid(BINS as i32 / FINENESS) - LOWEST;
        let cell = &mut self.columns[place][row.clamp(0, ROWS as i32 - 1) as usize];
        *cell = cell.saturating_add(1);
    }

    /// Returns the rows in which something is, and those between them.
    pub(super) fn shown(&self) -> StoryHeat {
        let seconds = self.column as f64 / 1e6;
        let is_used = |row: &usize| self.columns.iter().any(|column| column[*row] > 0);
        let (Some(first), Some(last)) = ((0..ROWS).find(is_used), (0..ROWS).rfind(is_used)) else {
            return StoryHeat { seconds, rows: Vec::new() };
        };
        let together = (last - first + 1).div_ceil(SHOWN);
        let time = |row: usize| edge((row as i32 + LOWEST) * (BINS as i32 / FINENESS));
        let row = |from: usize| {
            let to = (from + together).min(ROWS);
            let counts = self.columns.iter().map(|column| column[from..to].iter().map(|count| u64::from(*count)).sum()).collect();
            HeatRow { from: time(from), to: time(to), counts }
        };
        StoryHeat { seconds, rows: (first..=last).step_by(together).map(row).collect() }
    }
}

fn sum(mut to: [u32; ROWS], from: [u32; ROWS]) -> [u32; ROWS] {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = to.saturating_add(from));
    to
}

#[cfg(test)]
mod tests {
    use super::{super::bin_of, *};

    #[test]
    fn a_million_attempts_take_no_more_room_than_a_thousand_and_none_is_lost() {
        let mut heat = Heat::default();
        for task in 0..1_000_000_u64 {
            heat.add(Duration::from_millis(task * 10), bin_of(Duration::from_millis(1 + task % 100)));
        }
        assert!(heat.columns.len() <= COLUMNS);
        let shown = heat.shown();
        assert!(shown.rows.len() <= SHOWN && shown.rows[0].from <= 0.001 && shown.rows.last().unwrap().to > 0.1, "{shown:?}");
        assert!(shown.rows.windows(2).all(|pair| pair[0].to == pair[1].from), "{shown:?}");
        assert_eq!(shown.rows.iter().flat_map(|row| &row.counts).sum::<u64>(), 1_000_000);
    }

    #[test]
    fn times_beyond_all_rows_stand_in_the_first_and_the_last() {
        let mut heat = Heat::default();
        heat.add(Duration::ZERO, bin_of(Duration::ZERO));
        heat.add(Duration::from_secs(1 << 40), bin_of(Duration::from_secs(1 << 40)));
        let counts: Vec<u64> = heat.shown().rows.iter().map(|row| row.counts.iter().sum()).collect();
        assert_eq!((counts.first(), counts.last(), counts.iter().sum::<u64>()), (Some(&1), Some(&1), 2));
        assert_eq!(Heat::default().shown().rows, []);
    }
}
