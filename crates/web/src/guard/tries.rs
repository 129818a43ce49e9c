//! Wrong tokens and passwords, by address: a leaky bucket each, as a meter.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Wrong proofs that an address may bring at once.
const MOST: f64 = 10.0;
/// Time in which one of them is forgotten.
const EACH: Duration = Duration::from_secs(6);
/// Most addresses that are remembered; the one that was wrong longest ago is forgotten first.
const MOST_ADDRESSES: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<HashMap<IpAddr, (f64, Instant)>>);

/// Returns how full a bucket is.
fn level((level, at): (f64, Instant), now: Instant) -> f64 {
    (level - now.saturating_duration_since(at).as_secs_f64() / EACH.as_secs_f64()).max(0.0)
}

impl Tries {
    /// Returns how long this address has to wait; `None`: it may try.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = level(*tries.get(&address)?, now) - (MOST - 1.0);
        (over > 0.0).then(|| EACH.mul_f64(over))
    }

    /// Notes that this address was wrong.
    pub(super) fn wrong(&self, address: IpAddr, now: Instant) {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= MOST_ADDRESSES && !tries.contains_key(&address) {
            tries.retain(|_, bucket| level(*bucket, now) > 0.0);
            let oldest = tries.iter().min_by_key(|(_, (_, at))| *at).map(|(address, _)| *address);
            if let Some(oldest) = oldest.filter(|_| tries.len() >= MOST_ADDRESSES) {
                tries.remove(&oldest);
            }
        }
        let bucket = tries.entry(address).or_insert((0.0, now));
        *bucket = (level(*bucket, now) + 1.0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_wrong_tokens_get_ten_answers_and_then_one_each_six_seconds() {
        let (tries, start) = (Tries::default(), Instant::now());
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut taken = 0;
        for n in 0..1_000_u32 {
            let now = start + Duration::from_millis(60) * n;
            if tries.wait(one, now).is_none() {
                tries.wrong(one, now);
                taken += 1;
            }
        }
        assert!((19..=20).contains(&taken), "ten at once, ten more in a minute: {taken}");
        assert!(tries.wait(other, start).is_none());
        assert!(tries.wait(one, start + Duration::from_secs(200)).is_none());
    }

    #[test]
    fn addresses_are_forgotten_and_never_more_than_a_thousand() {
        let (tries, start) = (Tries::default(), Instant::now());
        for n in 0..5_000_u32 {
            tries.wrong(IpAddr::from(n.to_be_bytes()), start + Duration::from_micros(n.into()));
        }
        assert_eq!(tries.0.lock().unwrap().len(), MOST_ADDRESSES);
    }
}
