//! Where requests may go whose URL comes from a message: whoever may put a message into a queue
//! must not reach through this process what only it can reach.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Rules that say which hosts requests may go to. They are asked before a request, after each
/// redirect, and for each address that a name turns out to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The only hosts there are (`api.example`, `*.example`), wherever they lie; any public one
    /// where empty.
    pub hosts: Vec<String>,
    /// Hosts that are allowed beside those: they do not come from a message.
    pub own: Vec<String>,
    /// Addresses of this machine and of private networks are allowed.
    pub private: bool,
}

impl Guard {
    /// Checks that a request may go to this URL, as far as the URL tells.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        let Some(host) = url.host_str() else { return Err("a URL without a host".to_owned()) };
        if self.is_listed(host) {
            return Ok(());
        }
        if !self.hosts.is_empty() {
            return Err(format!("`{host}` is not one of the hosts that this task may ask: add it to its `hosts`"));
        }
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) if !self.private && !is_public(address) => Err(refused(host, address)),
            _ => Ok(()),
        }
    }

    /// Returns true for a host that is allowed wherever it lies.
    fn is_listed(&self, host: &str) -> bool {
        let matches = |listed: &String| match listed.strip_prefix("*.") {
            Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
            None => listed.eq_ignore_ascii_case(host),
        };
        self.hosts.iter().chain(&self.own).any(matches)
    }
}

fn refused(host: &str, address: IpAddr) -> String {
    format!(
        "`{host}` is {address}, an address of this machine or of a private network: add the host to the task's `hosts`, or set `private = true`"
    )
}

/// Returns true for an address that belongs to nobody's private network, this machine's least of
/// all.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match inner(v6) {
            Some(v4) => is_public_v4(v4),
            None => {
                let [first, second, ..] = v6.segments();
                // Unspecified, loopback, unique local, link and site local, multicast, and
                // 2001:db8::/32, which is for books.
                !(v6.is_unspecified()
                    || v6.is_loopback()
                    || first & 0xfe00 == 0xfc00
                    || first & 0xff80 == 0xfe80
                    || v6.is_multicast()
                    || (first, second) == (0x2001, 0xdb8))
            }
        },
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64, 6to4.
fn inner(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) => Some(v4(g, h)),
        (0, 0, 0, 0, 0, 0) if (g, h) != (0, 0) && (g, h) != (0, 1) => Some(v4(g, h)),
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(v4(g, h)),
        (0x2002, ..) => Some(v4(b, c)),
        _ => None,
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_unspecified()
        || v4.is_loopback()
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_multicast()
        || v4.is_documentation()
        || a == 0
        || a >= 240
        // Of providers, of protocols, of benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (18..20).contains(&b)))
}

/// Looks names up, and lets no address through that the guard forbids: what a name meant a moment
/// ago does not count.
pub(super) struct Resolver(pub(super) Arc<Guard>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let asked = host.clone();
            let found =
                tokio::task::spawn_blocking(move || (asked.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>)).await;
            let found = found.map_err(|error| Box::new(error) as Box<dyn Error + Send + Sync>)??;
            let free = guard.private || guard.is_listed(&host);
            let allowed: Vec<SocketAddr> = found.iter().copied().filter(|address| free || is_public(address.ip())).collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(address)) => Err(refused(&host, address.ip()).into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_machine_can_reach_is_refused_however_it_is_written() {
        let guard = Guard { own: vec!["inside.example".to_owned()], ..Guard::default() };
        for (url, allowed) in [
            ("http://93.184.216.34/", true),
            ("http://example.com/", true),
            ("http://[2606:2800:220:1::1]/", true),
            ("http://inside.example/", true),
            ("http://127.0.0.1/", false),
            ("http://2130706433/", false),
            ("http://0x7f.1/", false),
            ("http://0177.0.0.1/", false),
            ("http://127.1/", false),
            ("http://0/", false),
            ("http://10.1.2.3/", false),
            ("http://172.16.0.1/", false),
            ("http://192.168.1.1/", false),
            ("http://169.254.169.254/latest/meta-data", false),
            ("http://100.64.0.1/", false),
            ("http://198.18.0.1/", false),
            ("http://224.0.0.1/", false),
            ("http://255.255.255.255/", false),
            ("http://[::1]/", false),
            ("http://[::]/", false),
            ("http://[::ffff:127.0.0.1]/", false),
            ("http://[::ffff:a00:1]/", false),
            ("http://[64:ff9b::7f00:1]/", false),
            ("http://[2002:7f00:1::]/", false),
            ("http://[fd00::1]/", false),
            ("http://[fe80::1]/", false),
            ("http://[ff02::1]/", false),
            ("http://user:pw@127.0.0.1/", false),
            ("http://\u{ff11}27.0.0.1/", false),
        ] {
            assert_eq!(guard.check(&Url::parse(url).unwrap()).is_ok(), allowed, "{url}");
        }
    }

    #[test]
    fn with_a_list_of_hosts_there_are_no_others() {
        let guard = Guard { hosts: vec!["api.example".into(), "*.cdn.example".into(), "127.0.0.1".into()], ..Guard::default() };
        for (url, allowed) in [
            ("http://api.example/x", true),
            ("http://API.example/x", true),
            ("http://a.cdn.example/", true),
            ("http://cdn.example/", false),
            ("http://evilcdn.example/", false),
            ("http://127.0.0.1:8080/", true),
            ("http://api.example.evil.org/", false),
            ("http://api.example@evil.org/", false),
        ] {
            assert_eq!(guard.check(&Url::parse(url).unwrap()).is_ok(), allowed, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_turns_out_to_be_this_machine_is_refused() {
        let resolve = |guard: Guard| Resolver(Arc::new(guard)).resolve("localhost".parse().unwrap());
        let error = resolve(Guard::default()).await.err().expect("it is refused").to_string();
        assert!(error.contains("`localhost` is"), "{error}");
        assert!(resolve(Guard { private: true, ..Guard::default() }).await.is_ok());
        assert!(resolve(Guard { own: vec!["localhost".into()], ..Guard::default() }).await.is_ok());
    }
}
