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
