//! Two inputs side by side, whose lengths must agree.

use std::fmt;

use crate::error::TaskError;

/// Two inputs are not of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthsDiffer {
    /// Number that the first gave, as far as it is known.
    pub first: usize,
    /// Number that the second gave, as far as it is known.
    pub second: usize,
    /// Both numbers are the whole length; otherwise the longer one was not read to its end.
    pub exact: bool,
}

impl fmt::Display for LengthsDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = if self.exact { "" } else { "at least " };
        let (first, second) = (self.first, self.second);
        let (of_first, of_second) = if first > second { (least, "") } else { ("", least) };
        write!(f, "the inputs differ in length: the first has {of_first}{first}, the second {of_second}{second}")
    }
}

impl std::error::Error for LengthsDiffer {}

impl From<LengthsDiffer> for TaskError {
    fn from(differ: LengthsDiffer) -> Self {
        TaskError::invalid(differ.to_string())
    }
}

/// Two inputs side by side; the last item is an error if they differ in length, and the only one if
/// both know that beforehand.
///
/// ```
/// use longshore_core::pairs;
///
/// let all: Result<Vec<_>, _> = pairs([1, 2, 3], ["one", "two", "three"]).collect();
/// assert_eq!(all.unwrap(), [(1, "one"), (2, "two"), (3, "three")]);
/// let differ = pairs([1, 2, 3], ["one"]).next().unwrap().unwrap_err();
/// assert_eq!(differ.to_string(), "the inputs differ in length: the first has 3, the second 1");
/// ```
pub fn pairs<A: IntoIterator, B: IntoIterator>(first: A, second: B) -> Pairs<A::IntoIter, B::IntoIter> {
    Pairs { first: first.into_iter(), second: second.into_iter(), given: 0, over: false }
}

/// See [`pairs`].
#[derive(Clone, Debug)]
pub struct Pairs<A, B> {
    first: A,
    second: B,
    given: usize,
    over: bool,
}

fn exact(hint: (usize, Option<usize>)) -> Option<usize> {
    (Some(hint.0) == hint.1).then_some(hint.0)
}

impl<A: Iterator, B: Iterator> Pairs<A, B> {
    fn lengths(&self) -> Option<(usize, usize)> {
        Some((exact(self.first.size_hint())?, exact(self.second.size_hint())?))
    }
}

impl<A: Iterator, B: Iterator> Iterator for Pairs<A, B> {
    type Item = Result<(A::Item, B::Item), LengthsDiffer>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if self.given == 0
            && let Some((first, second)) = self.lengths()
            && first != second
        {
            self.over = true;
            return Some(Err(LengthsDiffer { first, second, exact: true }));
        }
        let given = self.given;
        let ended = match (self.first.next(), self.second.next()) {
            (Some(first), Some(second)) => {
                self.given += 1;
                return Some(Ok((first, second)));
            }
            (None, None) => None,
            (Some(_), None) => Some(Err(LengthsDiffer { first: given + 1, second: given, exact: false })),
            (None, Some(_)) => Some(Err(LengthsDiffer { first: given, second: given + 1, exact: false })),
        };
        self.over = true;
        ended
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self.lengths() {
            _ if self.over => (0, Some(0)),
            Some((first, second)) if first == second => (first, Some(first)),
            _ => (0, None),
        }
    }
}
