//! Rules for a dead worker's messages, the same with every broker.

/// Number of dead workers after which a message is not run any more: whoever claims it next makes a
/// dead letter of it and tells whoever waits for its result, in one step. A broker that buried it
/// by itself could not tell anybody.
pub const MOST_CRASHES: u32 = 3;

/// The same for what runs apart from its worker, in a child of its own: it can kill its worker
/// (`kill -9 $PPID`, all of the memory), but hardly ever has, and may run for hours and meet many a
/// kill from outside. One whose every second run meets a kill is buried for nothing in one case of
/// a million after so many, and in one of eight after [`MOST_CRASHES`].
pub const MOST_CRASHES_APART: u32 = 20;

/// Returns how many workers have died, as far as a message that a dead worker held is to blame. The
/// first crash makes a suspect of everything that the worker held, but for what it could not have
/// begun (its ETA lay ahead). From then on only the count of those goes up that had been accused,
/// so that the innocent finish and the guilty is found. A worker runs a message that the next death
/// would bury only when it has lived for a while itself, so that kills from outside seldom meet it.
pub fn after_crash(crashes: u32, accused: bool, lies_ahead: bool) -> u32 {
    let counts = if crashes == 0 { !lies_ahead } else { accused };
    crashes.saturating_add(counts.into())
}

/// Returns a dead letter's message as it goes back to its queue: nothing is held against it any
/// more. What is no message stays as it is.
pub(crate) fn forgiven(raw: &[u8]) -> Vec<u8> {
    longshore_celery::mark_crashed(raw, 0, 0).unwrap_or_else(|_| raw.to_vec())
}

#[cfg(test)]
mod tests {
    use super::after_crash;

    #[test]
    fn the_first_crash_makes_suspects_and_further_ones_count_for_the_accused_alone() {
        let rows = [
            // crashes, accused, its ETA lies ahead
            (0, false, false, 1),
            (0, true, false, 1),
            (0, false, true, 0),
            (1, false, false, 1),
            (1, true, false, 2),
            (2, false, false, 2),
            (2, true, false, 3),
            (u32::MAX, true, false, u32::MAX),
        ];
        for (crashes, accused, ahead, expected) in rows {
            assert_eq!(after_crash(crashes, accused, ahead), expected, "{crashes} {accused} {ahead}");
        }
    }
}
