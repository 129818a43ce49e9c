//! Memory that work adds to the most that this process holds, and what the machine has left.

use std::fs;

/// A look at the peak that begins now.
pub(super) struct Peak(u64);

impl Peak {
    /// Forgets the peak so far (for the whole process, in what the system tells of it). `None`
    /// where that cannot be done.
    pub(super) fn begin() -> Option<Self> {
        // "5" resets the peak, and nothing else.
        fs::write("/proc/self/clear_refs", "5").ok()?;
        status("VmRSS:").map(Self)
    }

    /// Returns how far the peak has risen above what was held at the beginning, in bytes.
    pub(super) fn end(self) -> u64 {
        status("VmHWM:").unwrap_or(0).saturating_sub(self.0)
    }
}

/// Memory that programs can still have, in bytes, where the system tells it.
pub(crate) fn free() -> Option<u64> {
    value(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn status(name: &str) -> Option<u64> {
    value(&fs::read_to_string("/proc/self/status").ok()?, name)
}

fn value(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_what_the_kernel_writes() {
        assert_eq!(value("MemTotal:  16 kB\nMemAvailable:    2048 kB\n", "MemAvailable:"), Some(2 << 20));
        assert_eq!(value("MemTotal:  16 kB\n", "MemAvailable:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_is_touched_and_given_back_is_in_the_peak() {
        let Some(peak) = Peak::begin() else { return };
        let much = vec![1_u8; 64 << 20];
        drop(std::hint::black_box(much));
        let grown = peak.end();
        assert!(grown >= 60 << 20, "{grown}");
    }
}
