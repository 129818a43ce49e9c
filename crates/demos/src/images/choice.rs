//! Which way the times of all speak for, and why: pure functions.

use std::time::Duration;

use super::BUSY;

/// A way may be slower by this factor than the fastest, and be as good.
const SAME: f64 = 1.05;
/// Rounds of which the slower way may have won one, and be told apart all the same: one in so many.
const LUCK: usize = 4;
/// A way that is slower by more than this factor is not taken, however the rounds are spread.
const FAR: f64 = 1.25;
/// Order in which ways of equal speed are taken, by the beginnings of their names: none at once is
/// simplest; the cpu lane leaves others their time; what needs two kinds of threads, or children,
/// comes last.
const SIMPLE: [&str; 5] = ["A", "   cpu", "B", "D", "C"];
/// Share of an item's time on a CPU from which on it computes.
const COMPUTES: f64 = 0.9;

/// What the rounds of one way took.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) name: String,
    pub(super) rounds: Vec<Duration>,
}

impl Taken {
    /// Returns the time of all rounds, if each had taken as long as the median one.
    pub(super) fn whole(&self) -> Duration {
        let mut rounds = self.rounds.clone();
        rounds.sort();
        let middle = rounds.get(rounds.len() / 2).copied().unwrap_or_default();
        middle * u32::try_from(rounds.len()).unwrap_or(u32::MAX)
    }

    /// Returns the rounds in which it was faster than another way.
    fn won(&self, other: &Self) -> usize {
        self.rounds.iter().zip(&other.rounds).filter(|(own, others)| own < others).count()
    }

    fn is_told_from(&self, slower: &Self) -> bool {
        let rounds = self.rounds.len();
        rounds > 1 && self.won(slower) >= rounds - rounds / LUCK
    }
}

/// The way to be taken, and the fastest one; places in the list of ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    taken: usize,
    fastest: usize,
}

/// Takes the simplest of the ways that are as fast as the fastest, or that the rounds do not tell
/// from it while it is not far behind; one after another only if it is as fast.
pub(super) fn choose(ways: &[Taken]) -> Choice {
    let fastest = (0..ways.len()).min_by_key(|way| ways[*way].whole()).unwrap_or(0);
    let least = ways.get(fastest).map_or(0.0, |way| way.whole().as_secs_f64());
    let good = |way: &usize| {
        let took = ways[*way].whole().as_secs_f64();
        took <= least * SAME || *way > 0 && took <= least * FAR && !ways[fastest].is_told_from(&ways[*way])
    };
    let simple = |way: &usize| SIMPLE.iter().position(|name| ways[*way].name.starts_with(name)).unwrap_or(SIMPLE.len());
    Choice { taken: (0..ways.len()).filter(good).min_by_key(simple).unwrap_or(fastest), fastest }
}

impl Choice {
    /// Says which one it is, and how far it is from the fastest.
    pub(super) fn told(self, ways: &[Taken]) -> String {
        let (Some(taken), Some(fastest)) = (ways.get(self.taken), ways.get(self.fastest)) else { return String::new() };
        let name = taken.name.trim();
        if self.taken == self.fastest {
            return format!("{name}, the fastest");
        }
        let more = (taken.whole().as_secs_f64() / fastest.whole().as_secs_f64().max(1e-9) - 1.0) * 100.0;
        let (than, won, rounds) = (fastest.name.trim(), fastest.won(taken), fastest.rounds.len());
        if fastest.is_told_from(taken) {
            return format!(
                "{name}, {more:.0} % more than the fastest, {than}: no more than the {:.0} % that count as the same",
                (SAME - 1.0) * 100.0
            );
        }
        format!("{name}, {more:.0} % more than the fastest, {than}, which won {won} of {rounds} rounds: they do not tell the two apart")
    }
}

/// Says what follows from the times, from the share of an item's time on a CPU, and from what
/// others had of the machine; the first way is one after another.
pub(super) fn why(ways: &[Taken], choice: &Choice, share: f64, others: f64) -> String {
    let (Some(alone), Some(taken)) = (ways.first(), ways.get(choice.taken)) else { return String::new() };
    let times = alone.whole().as_secs_f64() / taken.whole().as_secs_f64().max(1e-9);
    let percent = share * 100.0;
    let mut why = if share >= COMPUTES {
        format!("an image is on a CPU for {percent:.0} % of its time, so cores decide")
    } else {
        format!("an image is on a CPU for {percent:.0} % of its time, and waits for the rest")
    };
    if choice.taken == 0 {
        why += ": one after another was as fast as any, so there is one core for it here";
    } else {
        why += &format!(": {} did it ×{times:.1} as fast as one after another", taken.name.trim());
        if taken.name.trim().starts_with("cpu lane") {
            why += ". The lesson answers with processes, which Python needs to use two cores; threads here share memory and no lock, so they \
                    need not start, nor send anything";
        }
    }
    if others > BUSY {
        why += &format!(
            ". Others had {:.0} % of the machine: the ways, as many at once and as nice, shared what was left, and differ less surely",
            others * 100.0
        );
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ways by their names, with what each round took, in milliseconds.
    fn ways(rounds: &[(&str, [u64; 8])]) -> Vec<Taken> {
        rounds.iter().map(|(name, rounds)| Taken { name: (*name).to_owned(), rounds: rounds.map(Duration::from_millis).into() }).collect()
    }

    #[test]
    fn the_simplest_of_those_that_are_not_slower_is_taken_and_told_with_its_figures() {
        let noisy = [50, 80, 52, 79, 51, 81, 50, 80];
        for (alone, cpu, blocking, want) in [
            ([100; 8], [50; 8], [51; 8], "cpu lane, the fastest"),
            ([100; 8], [52; 8], [50; 8], "cpu lane, 4 % more than the fastest, B  blocking: no more than the 5 % that count as the same"),
            ([100; 8], [80; 8], [50; 8], "B  blocking, the fastest"),
            ([100; 8], [70; 8], noisy, "cpu lane, the fastest"),
            (
                [100; 8],
                [74; 8],
                [90, 60, 90, 60, 60, 60, 60, 90],
                "cpu lane, 23 % more than the fastest, B  blocking, which won 5 of 8 rounds: they do",
            ),
            ([100; 8], [90; 8], [100, 60, 100, 60, 60, 60, 60, 100], "B  blocking, the fastest"),
            ([101; 8], [100; 8], [100; 8], "A  alone, 1 % more than the fastest, B  blocking: no more"),
        ] {
            let ways = ways(&[("A  alone", alone), ("B  blocking", blocking), ("   cpu lane", cpu)]);
            let told = choose(&ways).told(&ways);
            assert!(told.starts_with(want), "{alone:?} {cpu:?} {blocking:?}: {told}");
        }
        assert_eq!(choose(&[]), Choice { taken: 0, fastest: 0 });
    }

    #[test]
    fn the_reason_follows_from_the_figures() {
        for (alone, cpu, share, others, want) in [
            (
                100,
                50,
                0.99,
                0.0,
                "on a CPU for 99 % of its time, so cores decide: cpu lane did it ×2.0 as fast as one after another. The lesson",
            ),
            (100, 40, 0.4, 0.0, "on a CPU for 40 % of its time, and waits for the rest: cpu lane did it ×2.5 as fast"),
            (100, 100, 1.0, 0.0, "so cores decide: one after another was as fast as any"),
            (100, 50, 1.0, 0.6, ". Others had 60 % of the machine"),
        ] {
            let ways = ways(&[("A  alone", [alone; 8]), ("   cpu lane", [cpu; 8])]);
            let said = why(&ways, &choose(&ways), share, others);
            assert!(said.contains(want) && (others > BUSY) == said.contains("Others"), "{alone} {cpu} {share} {others}: {said}");
        }
    }
}
