//! The process groups that live, one entry a slot, in memory that outlives the process that writes
//! it.

use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

#[cfg(target_os = "linux")]
use crate::shared::Shared;

/// Number of slots that a table has room for; memory is taken a page at a time as slots are used
/// (256 KiB if all are).
pub const CAPACITY: usize = 65_536;

/// One process group id per slot, 0 for none, in shared memory: when the process that wrote it has
/// died, the [guardian](crate::guardian) still reads which groups to kill. Writing is one store, so
/// that a command costs nothing by it.
#[derive(Debug)]
pub struct SlotTable {
    #[cfg(target_os = "linux")]
    memory: Shared<Entries>,
    #[cfg(not(target_os = "linux"))]
    memory: Box<[AtomicI32]>,
}

impl SlotTable {
    /// An empty table.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) or mmap(2) say.
    pub fn new() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            Ok(Self { memory: Shared::new(c"longshore-slots")? })
        }
        #[cfg(not(target_os = "linux"))]
        {
            Ok(Self { memory: (0..CAPACITY).map(|_| AtomicI32::new(0)).collect() })
        }
    }

    /// Enters the group that runs in a slot. Slots beyond [`CAPACITY`] are not kept: the marker in
    /// their environment has to do for them.
    pub fn set(&self, slot: u32, pgid: i32) {
        if let Some(entry) = self.entries().get(slot as usize) {
            entry.store(pgid, Ordering::SeqCst);
        }
    }

    /// Takes out the group of a slot; done before its leader is reaped, because afterwards the
    /// number may be another's.
    pub fn clear(&self, slot: u32) {
        self.set(slot, 0);
    }

    /// The groups that are in the table now.
    pub fn groups(&self) -> Vec<i32> {
        self.entries().iter().map(|entry| entry.load(Ordering::SeqCst)).filter(|pgid| *pgid > 1).collect()
    }

    fn entries(&self) -> &[AtomicI32] {
        #[cfg(target_os = "linux")]
        {
            &self.memory.0
        }
        #[cfg(not(target_os = "linux"))]
        {
            &self.memory
        }
    }
}

/// Layout of the memory.
#[derive(Debug)]
#[repr(transparent)]
#[cfg(target_os = "linux")]
struct Entries([AtomicI32; CAPACITY]);

// SAFETY: nothing but atomics.
#[cfg(target_os = "linux")]
unsafe impl crate::shared::Atomics for Entries {}

#[cfg(target_os = "linux")]
impl SlotTable {
    /// The file behind the table, for the guardian.
    pub(crate) fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        self.memory.file()
    }

    /// The table behind a file that another process made.
    pub(crate) fn open(file: std::os::fd::OwnedFd) -> io::Result<Self> {
        Ok(Self { memory: Shared::open(file)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_one_group_a_slot_and_forgets_it_when_cleared() {
        let table = SlotTable::new().unwrap();
        assert_eq!(table.groups(), [0; 0]);
        table.set(0, 500);
        table.set(65_535, 700);
        table.set(65_536, 900); // beyond the end: not kept, and no panic
        table.set(3, 600);
        table.clear(3);
        assert_eq!(table.groups(), [500, 700]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_second_mapping_of_the_file_sees_what_the_first_wrote() {
        let table = SlotTable::new().unwrap();
        let other = SlotTable::open(table.file().try_clone_to_owned().unwrap()).unwrap();
        table.set(9, 1234);
        assert_eq!(other.groups(), [1234]);
        let short = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert!(SlotTable::open(short).is_err());
    }
}
