//! A pace in a description: "at most 5 requests per second", "100/min".

use std::time::Duration;

use serde::Serialize;

/// A number in a time: a pace that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// The number.
    pub count: f64,
    /// The unit of time: `s`, `min` or `h`.
    pub unit: &'static str,
}

impl Pace {
    /// Returns how many a second that is.
    pub fn per_second(&self) -> f64 {
        let seconds = match self.unit {
            "s" => 1.0,
            "min" => 60.0,
            _ => 3_600.0,
        };
        self.count / seconds
    }

    /// Returns the time in which so many start; the first starts at once.
    pub(super) fn time_of(&self, count: u64) -> Duration {
        Duration::try_from_secs_f64(count.saturating_sub(1) as f64 / self.per_second()).unwrap_or(Duration::MAX)
    }
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.count, self.unit)
    }
}

/// Words that may stand between a number and its unit of time: `5 API requests per second`.
const BETWEEN: usize = 3;

/// Returns the first pace in a text: `5/s`, `100 per minute`, `5 requests a second`.
pub(super) fn pace_in(text: &str) -> Option<Pace> {
    let text = text.to_lowercase().replace('/', " per ");
    let words: Vec<&str> =
        text.split(|each: char| !each.is_alphanumeric() && each != '.' && each != ',').filter(|word| !word.is_empty()).collect();
    (0..words.len()).find_map(|at| {
        let number = words[at].trim_end_matches(['.', ',']).replace(',', "");
        let number = number.parse().ok().filter(|count: &f64| *count > 0.0 && count.is_finite())?;
        let rest = &words[at + 1..];
        let per = rest.iter().take(BETWEEN + 1).position(|word| matches!(*word, "per" | "a" | "an" | "each" | "every"))?;
        let unit = match rest.get(per + 1)?.trim_end_matches(['.', ',']) {
            "s" | "sec" | "second" => "s",
            "m" | "min" | "minute" => "min",
            "h" | "hour" => "h",
            _ => return None,
        };
        Some(Pace { count: number, unit })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_found_however_it_is_written() {
        for (text, want) in [
            ("Call an API, 5/s", "5/s"),
            ("at most 5 requests per second", "5/s"),
            ("1,000 API calls a minute.", "1000/min"),
            ("2.5 per hour", "2.5/h"),
            ("Fetch 300 pages, no more than 10 per sec", "10/s"),
            ("Resize 1000 images", ""),
            ("0 per second", ""),
            ("50 images per page", ""),
            ("take 5 seconds", ""),
            ("", ""),
        ] {
            assert_eq!(pace_in(text).map_or_else(String::new, |pace| pace.to_string()), want, "{text}");
        }
        assert_eq!(pace_in("6/min").map(|pace| pace.time_of(11)), Some(Duration::from_secs(100)));
    }
}
