//! What a dead worker's messages are held to, the same with every broker.

/// After so many dead workers a message is a dead letter.
pub const MOST_CRASHES: u32 = 3;

/// What becomes of a message that a dead worker held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCrash {
    /// It goes back to the front of its queue, with this many crashes.
    Back(u32),
    /// It becomes a dead letter, with this many crashes.
    Dead(u32),
}

/// Judges a message that a dead worker held. The first crash makes a suspect of everything that the worker held, but for what it could not have begun
/// (its ETA lay ahead). From then on only the accused one's count goes up, so that the innocent finish and the guilty is found.
pub fn after_crash(crashes: u32, accused: bool, lies_ahead: bool) -> AfterCrash {
    let counts = if crashes == 0 { !lies_ahead } else { accused };
    let crashes = crashes.saturating_add(counts.into());
    if counts && crashes >= MOST_CRASHES { AfterCrash::Dead(crashes) } else { AfterCrash::Back(crashes) }
}

/// Why such a message is dead, for people.
pub fn crash_reason(crashes: u32) -> String {
    format!("{crashes} workers died while it ran")
}

#[cfg(test)]
mod tests {
    use super::{AfterCrash::*, after_crash};

    #[test]
    fn the_first_crash_makes_suspects_and_the_third_of_an_accused_one_a_dead_letter() {
        let rows = [
            // crashes, accused, its ETA lies ahead
            (0, false, false, Back(1)),
            (0, true, false, Back(1)),
            (0, false, true, Back(0)),
            (1, false, false, Back(1)),
            (1, true, false, Back(2)),
            (2, false, false, Back(2)),
            (2, true, false, Dead(3)),
            (u32::MAX, true, false, Dead(u32::MAX)),
        ];
        for (crashes, accused, ahead, expected) in rows {
            assert_eq!(after_crash(crashes, accused, ahead), expected, "{crashes} {accused} {ahead}");
        }
    }
}
