//! Limits to what may be read now: pure, without a clock of its own and without a client.
//!
//! - [`IntakeGate`]: how many records may be in flight, with a lower mark at which it reopens
//! - [`KeyTable`]: which number a key has in the engine, how many of its records are in flight, and
//!   which of them back off
//! - [`Loans`]: the records that are with the engine, by receipt

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use longshore_core::Receipt;

use crate::view::GateState;

/// Limits of the intake.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Records that run or wait to run, at most.
    pub(crate) in_flight: usize,
    /// The part of it at which a closed gate reopens.
    pub(crate) reopen: f64,
    /// Records that back off, and those behind them, at most.
    pub(crate) parked: usize,
    /// Bytes of all records that are with the engine, at most; what passes this is one record, or a
    /// small batch.
    pub(crate) bytes: usize,
}

impl Limits {
    /// Returns how many may be in flight when a closed gate reopens.
    pub(crate) fn reopen_at(&self) -> usize {
        let at = (self.in_flight as f64 * self.reopen.clamp(0.0, 1.0)) as usize;
        at.min(self.in_flight.saturating_sub(1))
    }

    /// Returns how many bytes may be with the engine when a gate reopens that closed for them.
    fn bytes_again(&self) -> usize {
        let at = (self.bytes as f64 * self.reopen.clamp(0.0, 1.0)) as usize;
        at.min(self.bytes.saturating_sub(1))
    }

    /// Returns how many records of one key may be in flight; beyond, its partition waits.
    pub(crate) fn of_key(&self) -> usize {
        (self.in_flight / 4).max(1)
    }

    /// Returns how many of them may be in flight when the partition goes on.
    pub(crate) fn of_key_again(&self) -> usize {
        let at = (self.of_key() as f64 * self.reopen.clamp(0.0, 1.0)) as usize;
        at.min(self.of_key() - 1)
    }
}

/// Decides whether records are read, with hysteresis: it closes when all places are taken, and
/// reopens at a lower mark.
#[derive(Debug)]
pub(crate) struct IntakeGate {
    limits: Limits,
    /// Moment at which it closed, and the reason; `None` while it is open.
    closed: Option<(Instant, Closed)>,
    closings: u64,
    closed_for: Duration,
}

/// Reason why a gate is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// As many are in flight as may be.
    Full,
    /// Too many wait for another attempt.
    Parked,
    /// They have as many bytes as they may have.
    Bytes,
}

impl IntakeGate {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, closed: None, closings: 0, closed_for: Duration::ZERO }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Returns how many records may be read now. `in_flight` run or wait to run, `parked` back off
    /// or wait behind one that does; all of them take `bytes` of memory.
    pub(crate) fn room(&mut self, in_flight: usize, parked: usize, bytes: usize, now: Instant) -> usize {
        let Limits { in_flight: most, parked: most_parked, bytes: most_bytes, .. } = self.limits;
        let too_many = parked >= most_parked;
        match self.closed {
            None => {
                let why = match () {
                    () if in_flight >= most => Some(Closed::Full),
                    () if too_many => Some(Closed::Parked),
                    () if bytes >= most_bytes => Some(Closed::Bytes),
                    () => None,
                };
                self.closed = why.map(|why| (now, why));
                self.closings += u64::from(why.is_some());
            }
            Some((since, _)) if in_flight <= self.limits.reopen_at() && !too_many && bytes <= self.limits.bytes_again() => {
                self.closed = None;
                self.closed_for += now.saturating_duration_since(since);
            }
            Some(_) => {}
        }
        if self.closed.is_some() { 0 } else { most - in_flight }
    }

    /// Returns how many records must end before it can reopen; 0 while it is open.
    pub(crate) fn to_reopen(&self, in_flight: usize) -> usize {
        match self.closed {
            None => 0,
            // One may have them all.
            Some((_, Closed::Bytes)) => 1,
            Some(_) => in_flight.saturating_sub(self.limits.reopen_at()).max(1),
        }
    }

    pub(crate) fn closed_since(&self) -> Option<Instant> {
        self.closed.map(|(since, _)| since)
    }

    pub(crate) fn closings(&self) -> u64 {
        self.closings
    }

    pub(crate) fn closed_for(&self, now: Instant) -> Duration {
        self.closed_for + self.closed.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(since))
    }

    pub(crate) fn state(&self, now: Instant) -> GateState {
        match self.closed {
            None => GateState::Open,
            Some((since, why)) => {
                let since = now.saturating_duration_since(since);
                match why {
                    Closed::Full => GateState::Closed { since },
                    Closed::Parked => GateState::Parked { since },
                    Closed::Bytes => GateState::Bytes { since },
                }
            }
        }
    }
}

/// The numbers of keys: small, and used again once none of a key's records is in flight.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    /// By number; the first is nobody's.
    states: Vec<KeyState>,
    free: Vec<NonZeroU32>,
}

#[derive(Debug, Default)]
struct KeyState {
    in_flight: usize,
    /// Number of them that back off: one in truth, since the others wait for it.
    away: usize,
}

/// The keys of one partition that have numbers.
#[derive(Debug, Default)]
pub(crate) struct KeyNumbers {
    numbers: HashMap<Arc<[u8]>, NonZeroU32>,
    /// The count at which those without records are next forgotten.
    sweep_at: usize,
}

/// Keys without records that a partition remembers, since the next record of theirs may be near.
const REMEMBERED: usize = 1024;

impl KeyTable {
    /// Returns a number that nobody has.
    pub(crate) fn number(&mut self) -> NonZeroU32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        if self.states.is_empty() {
            self.states.push(KeyState::default());
        }
        self.states.push(KeyState::default());
        u32::try_from(self.states.len() - 1).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
    }

    /// Returns the number of a partition's key.
    pub(crate) fn number_of(&mut self, names: &mut KeyNumbers, key: &[u8]) -> NonZeroU32 {
        if let Some(number) = names.numbers.get(key) {
            return *number;
        }
        if names.numbers.len() >= names.sweep_at {
            names.numbers.retain(|_, number| {
                let used = self.states[number.get() as usize].in_flight > 0;
                if !used {
                    self.free.push(*number);
                }
                used
            });
            names.sweep_at = (names.numbers.len() * 2).max(REMEMBERED);
        }
        let number = self.number();
        names.numbers.insert(key.into(), number);
        number
    }

    /// Gives back a partition's numbers. None of its records is in flight any more.
    pub(crate) fn forget(&mut self, names: KeyNumbers, own: Option<NonZeroU32>) {
        for number in names.numbers.into_values().chain(own) {
            self.states[number.get() as usize] = KeyState::default();
            self.free.push(number);
        }
    }

    /// Counts a record of it as in flight; returns how many there are then.
    pub(crate) fn add(&mut self, number: NonZeroU32) -> usize {
        let state = &mut self.states[number.get() as usize];
        state.in_flight += 1;
        state.in_flight
    }

    pub(crate) fn in_flight(&self, number: NonZeroU32) -> usize {
        self.states[number.get() as usize].in_flight
    }

    /// Returns true if one of its records backs off.
    pub(crate) fn is_away(&self, number: NonZeroU32) -> bool {
        self.states[number.get() as usize].away > 0
    }
}

/// A record that is with the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    /// Index of its partition's seat.
    pub(crate) seat: u32,
    /// Its key's number, if it has to keep an order.
    pub(crate) key: Option<NonZeroU32>,
    pub(crate) offset: i64,
    /// Memory that it takes, in bytes.
    pub(crate) bytes: u32,
    /// It backs off.
    pub(crate) away: bool,
}

/// The records that are with the engine. A receipt whose record was called back is nobody's,
/// however late it comes.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    slots: Vec<(u32, Option<Loan>)>,
    free: Vec<u32>,
    /// Records that back off, and those in flight behind them.
    parked: usize,
    bytes: usize,
}

impl Loans {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns how many records back off, or wait behind one of their key that does.
    pub(crate) fn parked(&self) -> usize {
        self.parked
    }

    /// Returns how many records run or wait to run.
    pub(crate) fn in_flight(&self) -> usize {
        self.len() - self.parked
    }

    /// Returns the memory that all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lends a record, whose key has been [added](Keys::add).
    pub(crate) fn lend(&mut self, keys: &KeyTable, seat: u32, key: Option<NonZeroU32>, offset: i64, bytes: u32) -> Receipt {
        self.parked += usize::from(key.is_some_and(|key| keys.is_away(key)));
        self.bytes += bytes as usize;
        let loan = Some(Loan { seat, key, offset, bytes, away: false });
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].1 = loan;
            slot
        } else {
            self.slots.push((0, loan));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        };
        Receipt(u64::from(self.slots[slot as usize].0) << 32 | u64::from(slot))
    }

    pub(crate) fn get(&self, receipt: Receipt) -> Option<&Loan> {
        let (age, loan) = self.slots.get(receipt.0 as u32 as usize)?;
        loan.as_ref().filter(|_| u64::from(*age) == receipt.0 >> 32)
    }

    /// Takes a record back. `None`: it was called back before.
    pub(crate) fn end(&mut self, keys: &mut KeyTable, receipt: Receipt) -> Option<Loan> {
        let slot = receipt.0 as u32;
        let (age, loan) = self.slots.get_mut(slot as usize)?;
        if u64::from(*age) != receipt.0 >> 32 {
            return None;
        }
        let loan = loan.take()?;
        *age = age.wrapping_add(1);
        self.free.push(slot);
        self.bytes -= loan.bytes as usize;
        self.set_away(keys, &loan, false);
        self.parked -= usize::from(loan.key.is_some_and(|key| keys.is_away(key)));
        if let Some(key) = loan.key {
            keys.states[key.get() as usize].in_flight -= 1;
        }
        Some(loan)
    }

    /// Notes that a record backs off, or does so no more.
    pub(crate) fn back_off(&mut self, keys: &mut KeyTable, receipt: Receipt, away: bool) {
        let Some(before) = self.get(receipt).copied() else { return };
        self.set_away(keys, &before, away);
        if let Some(loan) = &mut self.slots[receipt.0 as u32 as usize].1 {
            loan.away = away;
        }
    }

    fn set_away(&mut self, keys: &mut KeyTable, loan: &Loan, away: bool) {
        if loan.away == away {
            return;
        }
        let held = match loan.key {
            None => 1,
            Some(key) => {
                let state = &mut keys.states[key.get() as usize];
                let before = state.away;
                state.away = if away { before + 1 } else { before - 1 };
                if before.min(state.away) == 0 { state.in_flight } else { 0 }
            }
        };
        self.parked = if away { self.parked + held } else { self.parked - held };
    }

    /// Returns the receipts of a seat's records.
    pub(crate) fn of_seat(&self, seat: u32) -> impl Iterator<Item = (Receipt, &Loan)> {
        self.slots.iter().enumerate().filter_map(move |(slot, (age, loan))| {
            let loan = loan.as_ref().filter(|loan| loan.seat == seat)?;
            Some((Receipt(u64::from(*age) << 32 | slot as u64), loan))
        })
    }
}

/// Returns how many records one of `open` partitions may bring in a turn, so that the first does
/// not take all the room.
pub(crate) fn share(room: usize, open: usize) -> usize {
    (room / open.max(1)).max(16).min(room)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(in_flight: usize) -> Limits {
        Limits { in_flight, reopen: 0.75, parked: 20, bytes: 1_000 }
    }

    #[test]
    fn the_gate_closes_when_all_places_are_taken_and_reopens_at_the_lower_mark() {
        let start = Instant::now();
        let mut gate = IntakeGate::new(limits(150));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((gate.limits().reopen_at(), gate.limits().of_key(), gate.limits().of_key_again()), (112, 37, 27));
        for (ms, in_flight, parked, bytes, room, to_reopen, closings) in [
            (0, 0, 0, 0, 150, 0, 0),
            (1, 149, 0, 999, 1, 0, 0),
            (2, 150, 0, 0, 0, 38, 1),
            (3, 149, 0, 0, 0, 37, 1),
            (4, 113, 0, 0, 0, 1, 1),
            (5, 112, 0, 0, 38, 0, 1),
            (6, 10, 20, 0, 0, 1, 2),
            (7, 10, 19, 0, 140, 0, 2),
            (8, 10, 0, 5_000, 0, 1, 3),
            (9, 9, 0, 751, 0, 1, 3),
            (10, 8, 0, 750, 142, 0, 3),
            (11, 200, 0, 0, 0, 88, 4),
        ] {
            assert_eq!(gate.room(in_flight, parked, bytes, at(ms)), room, "at {ms} ms");
            assert_eq!((gate.to_reopen(in_flight), gate.closings()), (to_reopen, closings), "at {ms} ms");
        }
        assert_eq!(gate.closed_for(at(13)), Duration::from_millis(3 + 1 + 2 + 2));
        assert_eq!(gate.state(at(13)), GateState::Closed { since: Duration::from_millis(2) });
        gate.set_limits(limits(1_000));
        assert_eq!(gate.room(200, 0, 0, at(14)), 800, "a higher limit opens it");
        gate.set_limits(limits(1));
        assert_eq!((gate.room(1, 0, 0, at(15)), gate.room(0, 0, 0, at(16))), (0, 1), "the smallest gate can reopen");
        gate.set_limits(Limits { bytes: 1, ..limits(1) });
        assert_eq!((gate.room(0, 0, 9, at(17)), gate.room(0, 0, 0, at(18))), (0, 1), "a record that is larger than all may pass alone");
    }

    #[test]
    fn keys_that_nobody_uses_give_their_numbers_back() {
        let (mut keys, mut names) = (KeyTable::default(), KeyNumbers::default());
        for key in 0..100_000u32 {
            let number = keys.number_of(&mut names, &key.to_be_bytes());
            assert_eq!(keys.number_of(&mut names, &key.to_be_bytes()), number);
        }
        assert!(keys.states.len() <= 2 * REMEMBERED + 2, "{}", keys.states.len());
        keys.forget(names, None);
        assert_eq!(keys.free.len(), keys.states.len() - 1);
    }

    proptest! {
        #[test]
        fn what_is_parked_is_always_what_a_recount_finds(steps in prop::collection::vec((0..4u8, 0..4u8, any::<prop::sample::Index>()), 0..200)) {
            let (mut keys, mut names, mut lent) = (KeyTable::default(), KeyNumbers::default(), Loans::default());
            let mut out: Vec<Receipt> = Vec::new();
            let mut stale = Vec::new();
            for (step, key, which) in steps {
                match step {
                    0 => {
                        let key = (key > 0).then(|| keys.number_of(&mut names, &[key]));
                        if let Some(key) = key {
                            keys.add(key);
                        }
                        out.push(lent.lend(&keys, 0, key, 0, u32::from(step) + 7));
                    }
                    1 if !out.is_empty() => {
                        let receipt = out.swap_remove(which.index(out.len()));
                        prop_assert!(lent.end(&mut keys, receipt).is_some());
                        stale.push(receipt);
                    }
                    2 | 3 if !out.is_empty() => lent.back_off(&mut keys, out[which.index(out.len())], step == 2),
                    _ => {}
                }
                let loans: Vec<&Loan> = out.iter().filter_map(|receipt| lent.get(*receipt)).collect();
                prop_assert_eq!(loans.len(), lent.len());
                let is_parked = |loan: &Loan| loan.away || loan.key.is_some_and(|key| loans.iter().any(|other| other.key == Some(key) && other.away));
                let parked = loans.iter().filter(|loan| is_parked(loan)).count();
                prop_assert_eq!(parked, lent.parked());
                prop_assert_eq!(loans.iter().map(|loan| loan.bytes as usize).sum::<usize>(), lent.bytes());
                prop_assert!(stale.iter().all(|receipt| lent.get(*receipt).is_none()), "a receipt that came back is nobody's");
            }
        }
    }
}
