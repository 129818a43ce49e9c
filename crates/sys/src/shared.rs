//! A piece of memory that two processes see, behind a file that one can send the other.

use rustix::{
    fs::{MemfdFlags, fstat, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use std::{
    ffi::CStr,
    io,
    marker::PhantomData,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

/// Types that such memory may hold.
///
/// # Safety
/// The type consists of atomics and arrays of them alone, so that every pattern of bits is valid
/// and the other process may write at any time.
pub(crate) unsafe trait Atomics {}

/// A mapping of the file, and the file. Zero at first.
#[derive(Debug)]
pub(crate) struct Shared<A> {
    start: NonNull<A>,
    file: OwnedFd,
    _holds: PhantomData<A>,
}

// SAFETY: the mapping belongs to this value until it is dropped, and is only ever seen as atomics.
unsafe impl<A: Atomics> Send for Shared<A> {}
// SAFETY: as above; atomics may be shared.
unsafe impl<A: Atomics> Sync for Shared<A> {}

impl<A: Atomics> Shared<A> {
    pub(crate) fn new(name: &CStr) -> io::Result<Self> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size_of::<A>() as u64)?;
        Self::open(file)
    }

    /// The memory behind a file that another process made.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        // A shorter file would end the process with SIGBUS at the first look beyond its end.
        if u64::try_from(fstat(&file)?.st_size).unwrap_or(0) < size_of::<A>() as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory is too short"));
        }
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), size_of::<A>(), ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, file, _holds: PhantomData })
    }

    /// The file, for the other process.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<A: Atomics> Deref for Shared<A> {
    type Target = A;

    fn deref(&self) -> &A {
        // SAFETY: the mapping is as long as an `A` (checked in `open`), aligned to a page, lives as
        // long as `self`, and all who map it touch it through atomics alone, for which every
        // pattern of bits is valid.
        unsafe { self.start.as_ref() }
    }
}

impl<A> Drop for Shared<A> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `open`, and no borrow of it outlives `self`. Should
        // it fail, the mapping stays until exit.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), size_of::<A>()) };
    }
}
