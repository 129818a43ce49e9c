//! What a child writes where its parent can read it after the child has died: how far it has come,
//! and its short answers.

use std::{
    io,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

#[cfg(target_os = "linux")]
use crate::shared::Shared;

/// The sides of a board. A batch uses one, the next batch the other.
pub const SIDES: usize = 2;
/// The bytes of answers that fit on a side.
pub const AREA: usize = 64 * 1024;

/// Set in the claims when nothing more may be claimed.
const REVOKED: u32 = 1 << 31;

/// Memory that a parent shares with one child. It has two sides, so that there may be two batches
/// at once. Per batch of items the child claims one after the other ([`claim`](Self::claim)) and
/// publishes answers ([`write`](Self::write)); the parent sees both whenever it likes
/// ([`claimed`](Self::claimed), [`read`](Self::read)), also when the child is dead, and can take
/// back what is not claimed yet ([`revoke`](Self::revoke)). All of it costs a few stores and no
/// system call.
///
/// The child is not trusted: whatever it writes here, reading stays within the memory. What is read
/// means what a possibly broken child says.
#[derive(Debug)]
pub struct Board {
    #[cfg(target_os = "linux")]
    memory: Shared<Layout>,
    #[cfg(not(target_os = "linux"))]
    memory: Box<Layout>,
}

/// Layout of the memory, all of it valid as zeros. What one side writes has cache lines of its own.
#[derive(Debug)]
#[repr(C)]
struct Layout {
    cpu: AtomicU64,
    _apart: [AtomicU64; 7],
    sides: [Side; SIDES],
}

#[derive(Debug)]
#[repr(C)]
struct Side {
    claims: AtomicU32,
    _apart: [AtomicU32; 15],
    published: AtomicU32,
    _pad: [AtomicU32; 15],
    area: [AtomicU8; AREA],
}

impl Board {
    /// A new board, with nothing on it.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) or mmap(2) say; unsupported on other systems than Linux.
    pub fn new() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            Ok(Self { memory: Shared::new(c"longshore-board")? })
        }
        #[cfg(not(target_os = "linux"))]
        {
            Err(crate::unsupported("a child that runs functions of this program"))
        }
    }

    fn layout(&self) -> &Layout {
        &self.memory
    }

    fn side(&self, side: usize) -> &Side {
        &self.layout().sides[side % SIDES]
    }

    /// Parent, while the child has no batch there: wipes a side for the next one.
    pub fn reset(&self, side: usize) {
        let side = self.side(side);
        side.published.store(0, Ordering::Relaxed);
        side.claims.store(0, Ordering::Release);
    }

    /// Child: takes the next item of the batch, by its number from 0; `None` when they have been
    /// taken back.
    pub fn claim(&self, side: usize) -> Option<u32> {
        let next = self.side(side).claims.fetch_add(1, Ordering::AcqRel);
        (next & REVOKED == 0).then_some(next)
    }

    /// Parent: how many items were claimed. All but the last of them have ended.
    pub fn claimed(&self, side: usize) -> u32 {
        self.side(side).claims.load(Ordering::Acquire) & !REVOKED
    }

    /// Parent: takes back what is not claimed yet; how many items were.
    pub fn revoke(&self, side: usize) -> u32 {
        self.side(side).claims.fetch_or(REVOKED, Ordering::AcqRel) & !REVOKED
    }

    /// Child: writes behind what it wrote before (`at` bytes), and publishes both; the new end, or
    /// `None` if there is no room.
    pub fn write(&self, side: usize, at: usize, bytes: &[u8]) -> Option<usize> {
        let side = self.side(side);
        let end = at.checked_add(bytes.len())?;
        for (place, byte) in side.area.get(at..end)?.iter().zip(bytes) {
            place.store(*byte, Ordering::Relaxed);
        }
        side.published.store(end as u32, Ordering::Release);
        Some(end)
    }

    /// Parent: appends what was published behind the first `at` bytes to `into`; the new end.
    pub fn read(&self, side: usize, at: usize, into: &mut Vec<u8>) -> usize {
        let side = self.side(side);
        let end = (side.published.load(Ordering::Acquire) as usize).min(AREA);
        let fresh = side.area.get(at..end).unwrap_or_default();
        into.extend(fresh.iter().map(|byte| byte.load(Ordering::Relaxed)));
        at + fresh.len()
    }

    /// Child: the CPU time of its thread so far, in nanoseconds.
    pub fn set_cpu(&self, nanos: u64) {
        self.layout().cpu.store(nanos, Ordering::Relaxed);
    }

    /// Parent: what the child said last with [`set_cpu`](Self::set_cpu).
    pub fn cpu(&self) -> u64 {
        self.layout().cpu.load(Ordering::Relaxed)
    }
}

// SAFETY: nothing but atomics.
#[cfg(target_os = "linux")]
unsafe impl crate::shared::Atomics for Layout {}

#[cfg(target_os = "linux")]
impl Board {
    /// The file behind the board, for the child.
    pub(crate) fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        self.memory.file()
    }

    /// The board behind a file that another process made.
    pub(crate) fn open(file: std::os::fd::OwnedFd) -> io::Result<Self> {
        Ok(Self { memory: Shared::open(file)? })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_claims_and_writes_the_other_sees_and_can_take_back() {
        let parent = Board::new().unwrap();
        let child = Board::open(parent.file().try_clone_to_owned().unwrap()).unwrap();
        for side in [0, 1] {
            assert_eq!((child.claim(side), child.claim(side), parent.claimed(side)), (Some(0), Some(1), 2));
            let end = child.write(side, 0, b"one").unwrap();
            let end = child.write(side, end, b"two").unwrap();
            let mut seen = Vec::new();
            assert_eq!((parent.read(side, 0, &mut seen), seen.as_slice(), end), (6, b"onetwo".as_slice(), 6));
            assert_eq!(parent.read(side, 6, &mut seen), 6, "nothing new");
            assert_eq!((parent.revoke(side), child.claim(side), parent.claimed(side) >= 2), (2, None, true));
        }
        parent.reset(0);
        let mut seen = Vec::new();
        assert_eq!((child.claim(0), parent.read(0, 0, &mut seen)), (Some(0), 0));
        assert_eq!((child.claim(1), parent.read(1, 0, &mut seen)), (None, 6), "the other side is as it was");
        child.set_cpu(77);
        assert_eq!(parent.cpu(), 77);
    }

    #[test]
    fn what_does_not_fit_is_not_written_and_a_wrong_end_is_not_followed() {
        let board = Board::new().unwrap();
        assert_eq!(board.write(0, AREA - 2, b"abc"), None);
        assert_eq!(board.write(0, usize::MAX, b"abc"), None);
        assert_eq!(board.write(0, AREA - 3, b"abc"), Some(AREA));
        board.side(0).published.store(u32::MAX, Ordering::Relaxed);
        let mut seen = Vec::new();
        assert_eq!((board.read(0, 0, &mut seen), seen.len()), (AREA, AREA));
        assert_eq!(board.read(0, AREA + 5, &mut seen), AREA + 5, "an end before the start is nothing new");
    }
}
