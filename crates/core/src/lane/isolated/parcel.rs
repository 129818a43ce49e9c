//! Payloads as a child sees them: one item, or several that the engine carries as one task, each
//! with an outcome of its own.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

use super::wire::{self, Batch};
use crate::{error::TaskError, outcome::Outcome};

/// Functions that make payloads items of a batch, and the ends of items outcomes of attempts.
pub(super) struct Items<T, R> {
    /// Returns how many items a payload is.
    pub(super) count: fn(&T) -> usize,
    /// Appends one of them to a batch; `false` if it has ended already.
    pub(super) give: fn(&T, usize, &mut Batch) -> Result<bool, TaskError>,
    /// Takes the end of one of them. What is said of one that has ended already changes nothing.
    pub(super) end: fn(&mut T, usize, Said<'_>) -> Ends<R>,
    /// Takes off those from this one on, for another child; and whether what stays has ended by
    /// that.
    pub(super) split: fn(&mut T, usize) -> (T, Ends<R>),
}

/// Message about the end of an item: the answer, or the reason why there is none.
pub(super) enum Said<'a> {
    /// The child's answer, as it came.
    Answer(&'a [u8]),
    /// Outcome in place of an answer: the reason why there is none.
    Nothing(Outcome<Infallible>),
}

/// Meaning of an item's end for the attempt that it belongs to.
#[derive(Debug)]
pub(super) enum Ends<R> {
    /// Others have not ended.
    Open,
    /// All that is here has, but what was taken off has not: that will bring the outcome.
    Part,
    /// That is the outcome.
    All(Outcome<R>),
}

impl<T, R> Items<T, R> {
    /// A payload that is one item.
    pub(super) fn single(give: fn(&T, usize, &mut Batch) -> Result<bool, TaskError>, end: fn(&mut T, usize, Said<'_>) -> Ends<R>) -> Self {
        Self { count: |_| 1, give, end, split: |_, _| unreachable!("one item is not taken apart") }
    }
}

impl<'a> Said<'a> {
    pub(super) fn outcome<R: DeserializeOwned>(self) -> Outcome<R> {
        match self {
            Said::Answer(bytes) => wire::outcome(bytes),
            Said::Nothing(outcome) => outcome.map(|never| match never {}),
        }
    }
}

/// Items that travel through the engine as one task; its result is their outcomes, in their order.
/// Attempts that end for another reason than its items (nobody started it) have no such result.
pub(crate) struct Parcel<T, R> {
    items: Vec<T>,
    outcomes: Vec<Option<Outcome<R>>>,
    /// Items without an outcome.
    open: usize,
    /// Place of the outcomes, if this is part of a parcel that was taken apart: behind so many of
    /// the whole.
    whole: Option<(usize, Arc<Mutex<Whole<R>>>)>,
}

struct Whole<R> {
    outcomes: Vec<Option<Outcome<R>>>,
    open: usize,
}

impl<T, R> Parcel<T, R> {
    pub(crate) fn new(items: Vec<T>) -> Self {
        let (outcomes, open) = (items.iter().map(|_| None).collect(), items.len());
        Self { items, outcomes, open, whole: None }
    }

    pub(super) fn items() -> Items<Self, Vec<Outcome<R>>>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        Items {
            count: |parcel| parcel.items.len(),
            give: Self::give,
            end: |parcel, place, said| parcel.end(place, said.outcome()),
            split: Self::split,
        }
    }

    fn give(&self, place: usize, batch: &mut Batch) -> Result<bool, TaskError>
    where
        T: Serialize,
    {
        match self.outcomes[place] {
            None => batch.push(&self.items[place]).map(|()| true),
            Some(_) => Ok(false),
        }
    }

    fn end(&mut self, place: usize, outcome: Outcome<R>) -> Ends<Vec<Outcome<R>>> {
        match &mut self.outcomes[place] {
            Some(_) => return Ends::Open,
            none => *none = Some(outcome),
        }
        self.open -= 1;
        self.ends()
    }

    fn ends(&mut self) -> Ends<Vec<Outcome<R>>> {
        if self.open > 0 {
            return Ends::Open;
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        let Some((first, whole)) = &self.whole else { return Ends::All(Outcome::Ok(outcomes.into_iter().flatten().collect())) };
        let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.open -= outcomes.len();
        for (place, outcome) in whole.outcomes[*first..].iter_mut().zip(outcomes) {
            *place = outcome;
        }
        match whole.open {
            0 => Ends::All(Outcome::Ok(std::mem::take(&mut whole.outcomes).into_iter().flatten().collect())),
            _ => Ends::Part,
        }
    }

    fn split(&mut self, place: usize) -> (Self, Ends<Vec<Outcome<R>>>) {
        let all = self.items.len();
        let (first, whole) = self.whole.get_or_insert_with(|| {
            let outcomes = std::iter::repeat_with(|| None).take(all).collect();
            (0, Arc::new(Mutex::new(Whole { outcomes, open: all })))
        });
        let rest_whole = Some((*first + place, whole.clone()));
        let (items, outcomes) = (self.items.split_off(place), self.outcomes.split_off(place));
        let open = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        self.open -= open;
        let rest = Self { items, outcomes, open, whole: rest_whole };
        (rest, self.ends())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Parcel<u32, u32>;

    fn ends(ends: Ends<Vec<Outcome<u32>>>) -> Option<Vec<u32>> {
        match ends {
            Ends::All(Outcome::Ok(outcomes)) => Some(outcomes.into_iter().map(|outcome| outcome.ok().unwrap_or(99)).collect()),
            Ends::All(other) => panic!("{other:?}"),
            Ends::Open | Ends::Part => None,
        }
    }

    #[test]
    fn a_parcel_has_its_outcomes_in_order_in_whatever_order_and_pieces_they_came() {
        let mut first = Numbers::new((0..6).collect());
        assert_eq!(ends(first.end(4, Outcome::Ok(4))), None);
        let (mut last, told) = first.split(3);
        assert!(matches!(told, Ends::Open) && first.items == [0, 1, 2] && last.items == [3, 4, 5]);
        let (mut middle, _) = last.split(2);
        std::mem::swap(&mut middle, &mut last);
        assert_eq!((&middle.items[..], &last.items[..]), (&[3, 4][..], &[5][..]));
        assert_eq!(ends(last.end(0, Outcome::Ok(5))), None);
        for place in [2, 0, 1] {
            assert_eq!(ends(first.end(place, Outcome::Ok(place as u32))), None);
        }
        // What has ended stays as it was.
        assert_eq!(ends(middle.end(1, Outcome::Cancelled)), None);
        assert_eq!(ends(middle.end(0, Outcome::Cancelled)), Some(vec![0, 1, 2, 99, 4, 5]));
    }

    #[test]
    fn a_part_whose_items_have_all_ended_when_the_rest_is_taken_off_has_ended() {
        let mut parcel = Numbers::new(vec![1, 2]);
        assert_eq!(ends(parcel.end(0, Outcome::Ok(1))), None);
        let (mut rest, told) = parcel.split(1);
        assert!(matches!(told, Ends::Part), "{told:?}");
        assert_eq!(ends(rest.end(0, Outcome::Ok(2))), Some(vec![1, 2]));
    }

    #[test]
    fn what_has_ended_is_not_given_again() {
        let mut parcel = Numbers::new(vec![1, 2]);
        let _ = parcel.end(0, Outcome::Cancelled);
        let mut batch = Batch::new();
        assert_eq!((0..2).map(|place| parcel.give(place, &mut batch).unwrap()).collect::<Vec<_>>(), [false, true]);
    }
}
