//! Where tenants' webhooks may go: to public addresses by https, unless the operator allows others. A name is checked
//! where it is resolved for the very connection, so it cannot be another address by then.

use std::{
    error, fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// A name that leads nowhere public.
#[derive(Debug)]
pub(super) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address is not public")
    }
}

impl error::Error for NotPublic {}

/// Resolves names as the system does, and leaves out what is not public.
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() { Err(NotPublic.into()) } else { Ok(Box::new(public.into_iter()) as Addrs) }
        })
    }
}

/// Reads a webhook's address.
///
/// # Errors
/// Why nothing may be sent there; without the address itself.
pub(super) fn webhook(url: &str, allow_private: bool) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "the address is no URL")?;
    if url.scheme() != "https" && !(allow_private && url.scheme() == "http") {
        return Err("the address is not https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address has a user");
    }
    // Who writes a number is not resolved.
    let host = url.host_str().unwrap_or_default();
    let number: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    match number {
        Some(number) if !allow_private && !is_public(number) => Err("the address is not public"),
        Some(_) | None => Ok(url),
    }
}

/// Whether an address is one of the public internet's.
/// Source: IANA's registries of special-purpose addresses,
/// <https://www.iana.org/assignments/iana-ipv4-special-registry> and
/// <https://www.iana.org/assignments/iana-ipv6-special-registry>.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224.., ..)
    )
}

/// Of IPv6 only what is assigned for global unicast, 2000::/3, and of that nothing that carries an IPv4 address or is
/// for protocols or documents. Mapped, translated and local addresses are outside it.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global = (0x2000..0x4000).contains(&a);
    global && !matches!((a, b), (0x2001, 0..=0x01ff | 0x0db8) | (0x2002, _) | (0x3fff, 0..=0x0fff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for (address, public) in [
            ("1.1.1.1", true),
            ("172.15.0.1", true),
            ("172.32.0.1", true),
            ("100.128.0.1", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("192.168.1.1", false),
            ("198.18.0.1", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700:4700::1111", true),
            ("::", false),
            ("::1", false),
            ("::ffff:1.1.1.1", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::", false),
            ("3fff::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn a_webhook_goes_to_a_public_place_by_https() {
        for (url, fine, fine_where_allowed) in [
            ("https://hooks.example/a?b=c", true, true),
            ("https://1.1.1.1/", true, true),
            ("https://[2606:4700:4700::1111]:8443/", true, true),
            ("http://hooks.example/", false, true),
            ("https://127.0.0.1/", false, true),
            ("https://2130706433/", false, true),
            ("https://0x7f.1/", false, true),
            ("https://[::1]/", false, true),
            ("https://[::ffff:169.254.169.254]/", false, true),
            ("https://user@hooks.example/", false, false),
            ("https://:secret@hooks.example/", false, false),
            ("ftp://hooks.example/", false, false),
            ("file:///etc/passwd", false, false),
            ("hooks.example", false, false),
        ] {
            assert_eq!(webhook(url, false).is_ok(), fine, "{url}");
            assert_eq!(webhook(url, true).is_ok(), fine_where_allowed, "{url} where allowed");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_here_is_not_resolved() {
        let refused = PublicOnly.resolve("localhost".parse().unwrap()).await.err().expect("localhost is not public");
        assert!(refused.is::<NotPublic>(), "{refused}");
    }
}
