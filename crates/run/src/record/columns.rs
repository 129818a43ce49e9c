//! The header of a table.

use std::{borrow::Cow, collections::HashMap};

/// The columns of a CSV or TSV input: how many, and their names if there is a header.
#[derive(Debug, PartialEq, Eq)]
pub struct Columns {
    count: usize,
    names: Option<Names>,
}

#[derive(Debug, PartialEq, Eq)]
struct Names {
    listed: Vec<String>,
    by_name: HashMap<String, Found>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    At(usize),
    Twice,
}

impl Columns {
    /// Columns with a header. Spaces around a name are dropped.
    pub fn named(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let listed: Vec<String> = names.into_iter().map(|name| name.as_ref().trim().to_string()).collect();
        let mut by_name = HashMap::with_capacity(listed.len());
        for (at, name) in listed.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            by_name.entry(name.clone()).and_modify(|found| *found = Found::Twice).or_insert(Found::At(at));
        }
        Self { count: listed.len(), names: Some(Names { listed, by_name }) }
    }

    /// Makes columns without a header, so many of them.
    pub fn unnamed(count: usize) -> Self {
        Self { count, names: None }
    }

    /// Returns the number of columns.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there is not one column.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True if there is a header.
    pub fn is_named(&self) -> bool {
        self.names.is_some()
    }

    /// The names in order; empty without a header.
    pub fn names(&self) -> &[String] {
        self.names.as_ref().map_or(&[], |names| &names.listed)
    }

    /// The place of a column, from 0, by its number from 1 (`2`) or by its name. A number that is
    /// no column's may be a name (`2020`). A name that stands in the header twice finds nothing.
    pub fn position(&self, column: &str) -> Option<usize> {
        let by_number = column.parse::<usize>().ok().filter(|number| (1..=self.count).contains(number));
        by_number.map(|number| number - 1).or_else(|| match self.names.as_ref()?.by_name.get(column)? {
            Found::At(at) => Some(*at),
            Found::Twice => None,
        })
    }

    /// True if this name stands in the header more than once.
    pub fn is_ambiguous(&self, name: &str) -> bool {
        self.names.as_ref().is_some_and(|names| names.by_name.get(name) == Some(&Found::Twice))
    }

    /// The name of the column at this place (from 0) in a JSON object: its own, or its number if
    /// that is empty or taken by one before.
    pub(crate) fn key(&self, at: usize) -> Cow<'_, str> {
        match self.names().get(at) {
            Some(name) if !name.is_empty() && !self.names()[..at].contains(name) => Cow::Borrowed(name),
            _ => Cow::Owned((at + 1).to_string()),
        }
    }

    /// The names for a message: ` (id, make, …)`, or nothing.
    pub(crate) fn listed(&self) -> String {
        const MOST: usize = 12;
        match self.names() {
            [] => String::new(),
            names if names.len() > MOST => format!(" ({}, …)", names[..MOST].join(", ")),
            names => format!(" ({})", names.join(", ")),
        }
    }
}

/// The candidate that the name was probably meant to be: at most a third of its letters away.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let bound = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= bound && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Counts the letters that must be put in, taken out or changed to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut costs: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.chars().enumerate() {
        let mut diagonal = costs[0];
        costs[0] = row + 1;
        for (column, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = costs[column + 1];
            costs[column + 1] = changed.min(diagonal + 1).min(costs[column] + 1);
        }
    }
    costs[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_found_by_name_or_number() {
        let columns = Columns::named(["id", " make ", "2020", "x", "x", "", "a.b"]);
        let rows = [
            ("id", Some(0)),
            ("make", Some(1)),
            ("2", Some(1)),
            ("2020", Some(2)),
            ("x", None),
            ("", None),
            ("0", None),
            ("8", None),
            ("a.b", Some(6)),
        ];
        for (name, expected) in rows {
            assert_eq!(columns.position(name), expected, "{name}");
        }
        assert!(columns.is_ambiguous("x"));
        assert_eq!(Columns::unnamed(2).position("2"), Some(1));
        assert_eq!(Columns::unnamed(2).position("id"), None);
    }

    #[test]
    fn the_nearest_name_is_near() {
        let rows =
            [("prise", Some("price")), ("Price", Some("price")), ("mke", Some("make")), ("zzz", None), ("q", None), ("idd", Some("id"))];
        for (name, expected) in rows {
            assert_eq!(nearest(name, ["id", "make", "price"]), expected, "{name}");
        }
    }
}
