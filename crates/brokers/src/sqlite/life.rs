//! Life signs: processes of this machine, and heartbeats as we saw them. No clock of another
//! process is believed.

use std::{
    collections::HashMap,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Identity of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Space in which its pid means something; empty: none into which we can look.
    pub(crate) space: String,
    pub(crate) pid: i64,
    pub(crate) started: i64,
}

/// Returns our own identity.
pub(crate) fn me() -> &'static Identity {
    static ME: OnceLock<Identity> = OnceLock::new();
    ME.get_or_init(|| {
        let pid = std::process::id();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        // Containers that share a file may each have their own pids.
        let names = std::fs::read_link("/proc/self/ns/pid").ok();
        let started = started(pid.into());
        let space = match (boot, names, started) {
            (Some(boot), Some(names), Some(_)) => format!("{} {}", boot.trim(), names.display()),
            _ => String::new(),
        };
        Identity { space, pid: pid.into(), started: started.unwrap_or(0) }
    })
}

/// Returns when a living process started; `None` for one that is not there, or a zombie.
fn started(pid: i64) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut rest = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = rest.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    rest.nth(18)?.parse().ok()
}

/// Returns true if this process is surely dead. A process that we may not look at is not.
pub(crate) fn surely_dead(who: &Identity) -> bool {
    let here = me();
    if who.space.is_empty() || who.space != here.space {
        return false;
    }
    match started(who.pid) {
        Some(started) => started != who.started,
        None => gone(who.pid),
    }
}

#[cfg(target_os = "linux")]
fn gone(pid: i64) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    match rustix::process::test_kill_process(number) {
        Err(rustix::io::Errno::SRCH) => true,
        Err(_) => false,
        // There, but not to be read (hidden) or a zombie.
        Ok(()) => std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| started(pid).is_none() && stat.contains(") Z ")),
    }
}

#[cfg(not(target_os = "linux"))]
fn gone(_: i64) -> bool {
    false
}

/// Heartbeats as we saw them.
#[derive(Default)]
pub(crate) struct OwnerWatch {
    seen: HashMap<i64, (i64, Instant)>,
    last: Option<Instant>,
}

impl OwnerWatch {
    /// Forgets all: we were not looking, or could not have seen.
    pub(crate) fn reset(&mut self) {
        self.seen.clear();
    }

    /// Looks at all owners: number, heartbeat, lease. Those whose heartbeat has not changed for
    /// their lease, while we looked all the time, are dead. A pause in our looking longer than
    /// `most_gap` (we were stopped, maybe the whole machine was) starts all leases anew.
    pub(crate) fn look(&mut self, owners: &[(i64, i64, Duration)], now: Instant, most_gap: Duration) -> Vec<i64> {
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > most_gap) {
            self.reset();
        }
        self.last = Some(now);
        self.seen.retain(|number, _| owners.iter().any(|(owner, ..)| owner == number));
        let mut dead = Vec::new();
        for &(number, beat, lease) in owners {
            let seen = self.seen.entry(number).or_insert((beat, now));
            if seen.0 != beat {
                *seen = (beat, now);
            } else if now.saturating_duration_since(seen.1) >= lease {
                dead.push(number);
            }
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Identity, OwnerWatch, me, surely_dead};

    #[test]
    fn a_heartbeat_that_stands_still_for_the_lease_is_dead_and_one_that_changes_is_not() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut watch = OwnerWatch::default();
        for at in 0..5_u32 {
            let owners = [(1, i64::from(at), 5 * second), (2, 7, 5 * second)];
            assert_eq!(watch.look(&owners, start + second * at, 2 * second), [] as [i64; 0], "after {at} s");
        }
        assert_eq!(watch.look(&[(1, 5, 5 * second), (2, 7, 5 * second)], start + 5 * second, 2 * second), [2]);
    }

    #[test]
    fn who_did_not_look_for_a_while_judges_nobody() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut watch = OwnerWatch::default();
        let owners = [(2, 7, 5 * second)];
        assert!(watch.look(&owners, start, 2 * second).is_empty());
        assert!(watch.look(&owners, start + 60 * second, 2 * second).is_empty(), "we were stopped, and so may it have been");
        assert!(watch.look(&owners, start + 62 * second, 2 * second).is_empty());
        assert!(watch.look(&owners, start + 64 * second, 2 * second).is_empty());
        assert_eq!(watch.look(&owners, start + 65 * second, 2 * second), [2]);
        watch.reset();
        assert!(watch.look(&owners, start + 66 * second, 2 * second).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_ended_is_surely_dead_at_once_and_one_elsewhere_never() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i64::from(child.id());
        let who = Identity { pid, started: super::started(pid).unwrap(), space: me().space.clone() };
        assert!(!surely_dead(me()) && !surely_dead(&who));
        assert!(surely_dead(&Identity { started: who.started - 1, ..who.clone() }), "its number belongs to another one now");
        child.kill().unwrap();
        let begun = Instant::now();
        while !surely_dead(&who) {
            assert!(begun.elapsed() < Duration::from_secs(10), "a zombie is dead");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(surely_dead(&who));
        assert!(!surely_dead(&Identity { space: "elsewhere".to_owned(), ..who.clone() }));
        assert!(!surely_dead(&Identity { space: String::new(), ..who }));
    }
}
