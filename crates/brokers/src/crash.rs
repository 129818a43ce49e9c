//! What a dead worker's messages are held to, the same with every broker.

/// After so many dead workers a message is not run any more: whoever claims it next makes a dead letter of it and tells whoever waits for its result, in
/// one step. A broker that buried it by itself could not tell anybody.
pub const MOST_CRASHES: u32 = 3;

/// How many workers have died, as far as a message that a dead worker held is to blame. The first crash makes a suspect of everything that the worker held,
/// but for what it could not have begun (its ETA lay ahead). From then on only the count of those goes up that had been accused, so that the innocent finish and
/// the guilty is found. A worker runs whom the next death would bury only when it has lived for a while itself, so that kills from outside seldom meet it.
pub fn after_crash(crashes: u32, accused: bool, lies_ahead: bool) -> u32 {
    let counts = if crashes == 0 { !lies_ahead } else { accused };
    crashes.saturating_add(counts.into())
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
