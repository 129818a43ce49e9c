//! What the allocator keeps.

/// From now on blocks of 4 MiB and more go back to the system when they are freed, and a heap keeps
/// at most 8 MiB at its end. Left alone, glibc raises both with the largest block that was ever
/// freed: after one message of 30 MB a process keeps up to 64 MB for good. For a program, at its
/// start; does nothing with other allocators.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes two numbers, and may be called at any time. A value that it does not like it
    // leaves as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}
