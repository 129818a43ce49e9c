//! Wrong tokens and passwords, by address: a leaky bucket each, as a meter. Of IPv6 addresses the
//! first 64 bits count, since whoever has one has all that begin so.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
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

/// Returns the address by which somebody is known.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.into(),
            None => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

impl Tries {
    /// Returns how long this address has to wait; `None`: it may try.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = level(*tries.get(&network(address))?, now) - (MOST - 1.0);
        (over > 0.0).then(|| EACH.mul_f64(over))
    }

    /// Notes that this address was wrong.
    pub(super) fn wrong(&self, address: IpAddr, now: Instant) {
        let address = network(address);
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
    fn addresses_of_one_network_are_one_and_those_of_others_are_not() {
        let (tries, now) = (Tries::default(), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for n in 0..10 {
            tries.wrong(address(&format!("2001:db8:0:1::{n}")), now);
            tries.wrong(address("::ffff:10.0.0.1"), now);
        }
        let rows = [
            ("2001:db8:0:1:ffff::1", true),
            ("2001:db8:0:2::1", false),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("::ffff:10.0.0.2", false),
        ];
        for (text, waits) in rows {
            assert_eq!(tries.wait(address(text), now).is_some(), waits, "{text}");
        }
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
