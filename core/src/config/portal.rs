//! The chat page that the hub serves: where its REST is, and whose pages may show it.

use super::Env;

/// What the chat page is told, and what browsers are told about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portal {
    /// The origin of REST where that is not the page's own: `https://api.example`.
    pub rest_url: Option<String>,
    /// Exact origins of the pages that may show the chat in a frame and hand it tokens. None: nobody may.
    pub hosts: Vec<String>,
}

impl Portal {
    /// Reads `PORTAL_REST_URL` and `PORTAL_HOSTS` (separated by commas or spaces).
    pub fn read(env: &mut Env<'_>) -> Self {
        let rest_url = env.optional("PORTAL_REST_URL");
        if rest_url.as_deref().is_some_and(|url| !is_origin(url)) {
            env.faults
                .push("PORTAL_REST_URL must be http(s)://host[:port], in lower case and without a path".to_owned());
        }
        let hosts = env.optional("PORTAL_HOSTS").unwrap_or_default();
        let parted = hosts.split(|c: char| c == ',' || c.is_whitespace()).filter(|host| !host.is_empty());
        let hosts: Vec<String> = parted.map(str::to_owned).collect();
        if !hosts.iter().all(|host| is_origin(host)) {
            let what = "http(s)://host[:port], in lower case and without a path, separated by commas or spaces";
            env.faults.push(format!("PORTAL_HOSTS must be {what}"));
        }
        Self { rest_url, hosts }
    }
}

/// Whether this is an origin of a web page as browsers write it: it is compared to the letter, and stands in a header whose
/// own signs it must not hold.
fn is_origin(text: &str) -> bool {
    let (host, usual) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(host), _) => (host, ":443"),
        (_, Some(host)) => (host, ":80"),
        (None, None) => return false,
    };
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let good = match name.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| {
            address.parse::<std::net::Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address)
        }),
        None => {
            !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))
        }
    };
    let number = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
    good && port.is_none_or(number) && !host.ends_with(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str, hosts: &str) -> (Portal, Vec<String>) {
        let lookup = |name: &str| match name {
            "PORTAL_REST_URL" => Some(rest.to_owned()),
            "PORTAL_HOSTS" => Some(hosts.to_owned()),
            _ => None,
        };
        let mut env = Env::new(&lookup);
        (Portal::read(&mut env), env.faults)
    }

    #[test]
    fn hosts_are_parted_by_commas_and_spaces() {
        let (portal, faults) =
            read("https://api.example", " https://a.example,http://127.0.0.1:8787  https://[::1]:8443,");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(portal.rest_url.as_deref(), Some("https://api.example"));
        assert_eq!(portal.hosts, ["https://a.example", "http://127.0.0.1:8787", "https://[::1]:8443"]);
        assert_eq!(read("", "").0, Portal::default());
    }

    #[test]
    fn what_no_browser_would_send_or_would_end_the_header_is_a_fault() {
        for bad in [
            "hunter2",
            "*",
            "null",
            "'self'",
            "https://",
            "https://*",
            "https://*.example",
            "https://a.example/",
            "https://a.example/chat",
            "https://a.example?q",
            "https://me@a.example",
            "https://a.example;script-src",
            "https://a.example'",
            "https://a.example:443",
            "http://a.example:80",
            "https://a.example:",
            "https://a.example:08443",
            "https://a.example:70000",
            "https://A.example",
            "HTTPS://a.example",
            "ftp://a.example",
            "wss://a.example",
            "https://[::1",
            "https://[0:0::1]",
            "https://\u{e4}.example",
        ] {
            let (_, faults) = read(bad, &format!("https://b.example {bad}"));
            assert_eq!(faults.len(), 2, "{bad}: {faults:?}");
            assert!(faults[0].starts_with("PORTAL_REST_URL ") && faults[1].starts_with("PORTAL_HOSTS "), "{faults:?}");
            assert!(!faults.concat().contains(bad) || bad == "https://" || bad == "*", "{bad}: {faults:?}");
        }
    }
}
