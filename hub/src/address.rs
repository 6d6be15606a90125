//! Whose address a connection has, and how many connections of it nobody has authenticated on.
//!
//! An address says nothing of who somebody is; it only keeps one machine from taking the places of all others before it
//! has shown a token.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::HeaderMap;

/// The header to which each proxy appends the address of whoever came to it. What its left end says, anybody may have
/// written there.
const FORWARDED: &str = "x-forwarded-for";

/// The addresses that have connections without an owner. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Addresses(Arc<Shared>);

struct Shared {
    /// How many each has that has any. A plain mutex: held for a look-up, never across an await.
    strangers: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
    trusted_proxies: usize,
}

/// A connection on which nobody has authenticated yet; counted until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Stranger {
    _counted: Arc<Counted>,
}

struct Counted {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Addresses {
    /// Of which none has any.
    pub(crate) fn new(most: usize, trusted_proxies: usize) -> Self {
        Self(Arc::new(Shared { strangers: Mutex::default(), most, trusted_proxies }))
    }

    /// Whether those who connect are the clients themselves.
    pub(crate) fn direct(&self) -> bool {
        self.0.trusted_proxies == 0
    }

    /// Counts one more connection of an address, if it may have one more.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Stranger> {
        let address = network(address);
        let mut strangers = self.0.lock();
        let count = strangers.entry(address).or_default();
        if *count >= self.0.most {
            return None;
        }
        *count += 1;
        Some(Stranger { _counted: Arc::new(Counted { shared: Arc::clone(&self.0), address }) })
    }

    /// The client's address: the peer's, or with proxies in front the one that the outermost of them has written down.
    /// Where nothing legible stands there the peer has to answer for it.
    pub(crate) fn of_client(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        let Some(from_right) = self.0.trusted_proxies.checked_sub(1) else { return peer.ip() };
        let lines = headers.get_all(FORWARDED).iter().rev();
        let mut hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        hops.nth(from_right).and_then(|hop| parse(hop.trim())).unwrap_or(peer.ip())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut strangers = self.shared.lock();
        let Some(count) = strangers.get_mut(&self.address) else { return };
        *count -= 1;
        if *count == 0 {
            strangers.remove(&self.address);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address, with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// What one customer of a provider has: a whole /64 of IPv6 (RFC 6177), one address of IPv4.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of_client(proxies: usize, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED, HeaderValue::from_str(line).unwrap());
        }
        let peer = "192.0.2.1:4711".parse().unwrap();
        Addresses::new(1, proxies).of_client(&headers, peer).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_wrote_down_is_believed() {
        for (proxies, lines, address) in [
            (0, &["203.0.113.9"][..], "192.0.2.1"),
            (0, &[], "192.0.2.1"),
            (1, &["203.0.113.9"], "203.0.113.9"),
            (1, &["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
            (1, &["198.51.100.7", "203.0.113.9"], "203.0.113.9"),
            (2, &["198.51.100.7, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
            (2, &["198.51.100.7,203.0.113.9", "10.0.0.1"], "203.0.113.9"),
            (2, &["203.0.113.9"], "192.0.2.1"),
            (1, &[], "192.0.2.1"),
            (1, &["localhost"], "192.0.2.1"),
            (1, &["203.0.113.9, unknown"], "192.0.2.1"),
            (1, &["203.0.113.9,"], "192.0.2.1"),
            (1, &["203.0.113.9:50000"], "203.0.113.9"),
            (1, &["[2001:db8::1]:50000"], "2001:db8::1"),
            (1, &["2001:db8::1"], "2001:db8::1"),
        ] {
            assert_eq!(of_client(proxies, lines), address, "{proxies} {lines:?}");
        }
    }

    #[test]
    fn an_address_has_so_many_connections_and_its_neighbours_in_a_64_share_them() {
        let addresses = Addresses::new(2, 0);
        let admit = |address: &str| addresses.admit(address.parse().unwrap());
        let (one, two) = (admit("2001:db8::1").unwrap(), admit("2001:db8::ffff:2").unwrap());
        assert!(admit("2001:db8::3").is_none());
        assert!(admit("2001:db8:0:1::1").is_some(), "another network");
        let also_one = one.clone();
        drop(one);
        assert!(admit("2001:db8::3").is_none(), "counted until the last clone is gone");
        drop(also_one);
        assert!(admit("2001:db8::3").is_some());
        drop(two);
        let _mapped = admit("::ffff:192.0.2.1").unwrap();
        let _plain = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none() && admit("192.0.2.2").is_some());
        drop((_mapped, _plain));
        assert!(addresses.0.lock().is_empty(), "nobody is remembered who has none");
    }
}
