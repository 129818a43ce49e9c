//! How many messages a server may send ahead: as many as the worker holds and would take now.

/// The largest window that the protocol has room for.
const MOST: usize = 60_000;

/// Returns the window that a channel needs: what the worker holds of it, and what the latest claim
/// has asked for.
pub(super) fn wanted(held: usize, room: usize) -> u16 {
    (held + room).clamp(1, MOST) as u16
}

/// Returns whether a window is to be changed. One that is too small holds up a claim that waits;
/// one that is too large takes what others could do, which is worth a frame where it is twice as
/// large.
pub(super) fn is_to_change(now: u16, wanted: u16, waits: bool) -> bool {
    (waits && wanted > now) || u32::from(wanted) * 2 < u32::from(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_grows_for_a_claim_that_waits_and_shrinks_by_half() {
        for (now, wanted, waits, changes) in
            [(10, 11, true, true), (10, 11, false, false), (10, 5, true, false), (10, 4, false, true), (1, 1, true, false)]
        {
            assert_eq!(is_to_change(now, wanted, waits), changes, "{now} {wanted} {waits}");
        }
        assert_eq!((wanted(0, 0), wanted(5, 3), wanted(100_000, 3)), (1, 8, 60_000));
    }
}
