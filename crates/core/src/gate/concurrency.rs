//! Slots: how many may run at once, and who runs in which.

/// The slots of one lane. No two running tasks share one; numbers stay below the largest size there
/// was, so that they can name a worker, a child or a place on a screen.
#[derive(Debug, Default)]
pub struct Slots {
    size: u32,
    running: u32,
    /// Slots that were used and given back; the last one first, because its worker is warm.
    free: Vec<u32>,
    /// Free slots that were met beyond a size that has shrunk; they come back when it grows.
    beyond: Vec<u32>,
    /// The first slot that was never used.
    fresh: u32,
}

impl Slots {
    /// This many slots.
    pub fn new(size: usize) -> Self {
        Self { size: clamp(size), ..Self::default() }
    }

    /// Returns how many there are.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Returns how many are taken.
    pub fn running(&self) -> usize {
        self.running as usize
    }

    /// Returns how many are free.
    #[inline]
    pub fn free(&self) -> usize {
        self.size.saturating_sub(self.running) as usize
    }

    /// Returns true if one is free.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.running < self.size
    }

    /// Takes a free slot.
    #[inline]
    pub fn take(&mut self) -> Option<u32> {
        self.has_room().then(|| self.take_one())
    }

    /// Takes a slot, where there is room.
    #[inline]
    pub(super) fn take_one(&mut self) -> u32 {
        debug_assert!(self.has_room(), "no slot is free");
        let slot = loop {
            match self.free.pop() {
                Some(slot) if slot < self.size => break slot,
                // Put aside, not looked at again and again: the cpu lane changes its size all the
                // time.
                Some(slot) => self.beyond.push(slot),
                None => {
                    self.fresh += 1;
                    break self.fresh - 1;
                }
            }
        };
        self.running += 1;
        slot
    }

    /// Gives a slot back.
    #[inline]
    pub fn give(&mut self, slot: u32) {
        debug_assert!(self.running > 0, "a slot was given back twice");
        self.running -= 1;
        self.free.push(slot);
    }

    /// Gives slots back.
    #[inline]
    pub(super) fn give_all(&mut self, slots: impl ExactSizeIterator<Item = u32>) {
        let given = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        debug_assert!(self.running >= given, "a slot was given back twice");
        self.running -= given;
        self.free.extend(slots);
    }

    /// Returns, for each slot that was ever used, true if it is taken.
    pub(crate) fn taken(&self) -> Vec<bool> {
        let mut taken = vec![true; self.fresh as usize];
        for slot in self.free.iter().chain(&self.beyond) {
            taken[*slot as usize] = false;
        }
        taken
    }

    /// Changes the number of slots. Tasks in slots beyond a smaller size run to their end.
    pub fn resize(&mut self, size: usize) {
        let size = clamp(size);
        if size > self.size {
            self.free.append(&mut self.beyond);
        }
        self.size = size;
    }
}

fn clamp(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_are_the_slots_that_were_not_given_back_whatever_became_of_the_size() {
        let mut slots = Slots::new(4);
        let all: Vec<u32> = (0..4).filter_map(|_| slots.take()).collect();
        assert_eq!((all, slots.take()), (vec![0, 1, 2, 3], None));
        slots.give_all([1, 3].into_iter());
        assert_eq!((slots.running(), slots.taken()), (2, vec![true, false, true, false]));
        // Slot 3 is beyond the size, and is put aside by whoever meets it.
        slots.resize(3);
        assert_eq!((slots.take(), slots.take()), (Some(1), None));
        assert_eq!(slots.taken(), [true, true, true, false]);
        slots.give(1);
        slots.resize(5);
        let again: Vec<u32> = (0..3).filter_map(|_| slots.take()).collect();
        assert_eq!(again.len(), 3, "{again:?}");
        assert_eq!(slots.taken(), [true; 5]);
    }
}
