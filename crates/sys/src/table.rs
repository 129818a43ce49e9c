//! The process groups that live, one entry a slot, in memory that outlives the process that writes it.

use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

/// How many slots a table has room for; memory is taken a page at a time as slots are used (256 KiB if all are).
pub const CAPACITY: usize = 65_536;

/// One process group id per slot, 0 for none, in shared memory: when the process that wrote it has died, the [guardian](crate::guardian) still
/// reads which groups to kill. Writing is one store, so that a command costs nothing by it.
#[derive(Debug)]
pub struct SlotTable {
    #[cfg(target_os = "linux")]
    memory: linux::Shared,
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
            Ok(Self { memory: linux::Shared::new()? })
        }
        #[cfg(not(target_os = "linux"))]
        {
            Ok(Self { memory: (0..CAPACITY).map(|_| AtomicI32::new(0)).collect() })
        }
    }

    /// Enters the group that runs in a slot. Slots beyond [`CAPACITY`] are not kept: the marker in their environment has to do for them.
    pub fn set(&self, slot: u32, pgid: i32) {
        if let Some(entry) = self.entries().get(slot as usize) {
            entry.store(pgid, Ordering::SeqCst);
        }
    }

    /// Takes out the group of a slot; done before its leader is reaped, because afterwards the number may be another's.
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
            self.memory.entries()
        }
        #[cfg(not(target_os = "linux"))]
        {
            &self.memory
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) mod linux {
    use super::{CAPACITY, SlotTable};
    use rustix::{
        fs::{MemfdFlags, fstat, ftruncate, memfd_create},
        mm::{MapFlags, ProtFlags, mmap, munmap},
    };
    use std::{
        io,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
        ptr::NonNull,
        sync::atomic::AtomicI32,
    };

    const BYTES: usize = CAPACITY * size_of::<AtomicI32>();

    /// A mapping of the file, and the file.
    #[derive(Debug)]
    pub(crate) struct Shared {
        start: NonNull<AtomicI32>,
        file: OwnedFd,
    }

    // SAFETY: the mapping belongs to this value until it is dropped, and is only ever seen as atomics.
    unsafe impl Send for Shared {}
    // SAFETY: as above; atomics may be shared.
    unsafe impl Sync for Shared {}

    impl Shared {
        pub(super) fn new() -> io::Result<Self> {
            let file = memfd_create("longshore-slots", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, BYTES as u64)?;
            Self::map(file)
        }

        fn map(file: OwnedFd) -> io::Result<Self> {
            // A shorter file would end the process with SIGBUS at the first look beyond its end.
            if u64::try_from(fstat(&file)?.st_size).unwrap_or(0) < BYTES as u64 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the table of slots is too short"));
            }
            // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing of ours.
            let start = unsafe { mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { start, file })
        }

        pub(super) fn entries(&self) -> &[AtomicI32] {
            // SAFETY: the mapping is CAPACITY entries long (checked in `map`), aligned to a page, zero-filled, lives as long as `self`, and both
            // processes touch it through atomics alone.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), CAPACITY) }
        }
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            // SAFETY: this is the mapping made in `map`, and no borrow of it outlives `self`. Should it fail, the mapping stays until exit.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), BYTES) };
        }
    }

    impl SlotTable {
        /// The file behind the table, for the guardian.
        pub(crate) fn file(&self) -> BorrowedFd<'_> {
            self.memory.file.as_fd()
        }

        /// The table behind a file that another process made.
        pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
            Ok(Self { memory: Shared::map(file)? })
        }
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
