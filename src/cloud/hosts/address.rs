//! What an operator types to name a machine.

use std::net::{IpAddr, Ipv6Addr};

use crate::ssh::Address;

/// A text that names no machine. The text is the whole sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address; examples: 192.0.2.7, vm7.example.org:2222, [2001:db8::7]:22")]
pub struct Unusable(String);

/// `ADDRESS[:PORT]`: an IPv4 address, a host name, or an IPv6 address, which stands in brackets if a port follows. Port 22
/// where none is given.
pub fn parse_address(text: &str) -> Result<Address, Unusable> {
    let wrong = || Unusable(text.to_owned());
    let address = |host: String, port: &str| parse_port(port).map(|port| Address { host, port }).ok_or_else(wrong);
    if let Ok(bare) = text.parse::<Ipv6Addr>() {
        return address(bare.to_string(), "22");
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        let host: Ipv6Addr = host.parse().map_err(|_| wrong())?;
        return match rest.strip_prefix(':') {
            Some(port) => address(host.to_string(), port),
            None if rest.is_empty() => address(host.to_string(), "22"),
            None => Err(wrong()),
        };
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "22"));
    if host.parse::<IpAddr>().is_err() && !is_host_name(host) {
        return Err(wrong());
    }
    address(host.to_ascii_lowercase(), port)
}

/// A name under which an agent is reached: a host name, perhaps with a port.
pub fn parse_public_name(text: &str) -> Result<String, Unusable> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if !is_host_name(host) || port.is_some_and(|port| parse_port(port).is_none()) {
        return Err(Unusable(text.to_owned()));
    }
    Ok(text.to_ascii_lowercase())
}

/// 1 to 65535, in digits alone: `parse` takes a sign as well.
fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// RFC 1123: labels of letters, digits and inner hyphens. The last has a letter, else it is a mistyped IPv4 address.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 253
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_type_them() {
        for (text, host, port) in [
            ("192.0.2.7", "192.0.2.7", 22),
            ("192.0.2.7:2222", "192.0.2.7", 2222),
            ("VM7.example.org", "vm7.example.org", 22),
            ("localhost:1", "localhost", 1),
            ("2001:db8::7", "2001:db8::7", 22),
            ("[2001:DB8::7]:65535", "2001:db8::7", 65535),
            ("[::1]", "::1", 22),
        ] {
            assert_eq!(parse_address(text), Ok(Address { host: host.into(), port }), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":22",
            "a b",
            "a;reboot",
            "$(id)",
            "-oProxyCommand=x",
            "host:0",
            "host:65536",
            "host:+22",
            "host:22:22",
            "[::1",
            "[::1]22",
            "[host]:22",
            "1.2.3",
            "1.2.3.4.5",
            "root@host",
            "ä.example",
            "a..b",
            "host:\n22",
        ] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_public_name_is_a_host_name_perhaps_with_a_port() {
        assert_eq!(parse_public_name("Agent.Example.org:8443").as_deref(), Ok("agent.example.org:8443"));
        for text in ["", "192.0.2.7", "a/b", "https://a.b", "a.b:", "a.b:0", "a b", "a.b\n"] {
            assert!(parse_public_name(text).is_err(), "{text}");
        }
    }
}
