//! Which addresses the agent may visit on somebody's word: global unicast ones, and what the operator lists.
//!
//! Pure: nothing here asks a name server or opens a socket. Networks after IANA's special-purpose address registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, <https://www.iana.org/assignments/iana-ipv6-special-registry>).

use ipnet::IpNet;
use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::Host;

/// Longest URL that is visited, in bytes.
const MAX_URL: usize = 8 * 1024;

/// IPv4 networks that are nobody's public address.
const CLOSED_V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),          // this network; Linux takes 0.0.0.0 for loopback
    (Ipv4Addr::new(10, 0, 0, 0), 8),         // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),      // carrier-grade NAT, and metadata of some clouds (100.100.100.200)
    (Ipv4Addr::new(127, 0, 0, 0), 8),        // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's host agent: answers on every VM there, though the address looks public
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local, and metadata of most clouds (169.254.169.254)
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments, and metadata of one cloud (192.0.0.192)
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // relays of 6to4, withdrawn
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved
    (Ipv4Addr::new(255, 255, 255, 255), 32), // broadcast
];

/// What IANA gives out as global unicast: everything else of IPv6 is closed without being named.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Networks inside [`GLOBAL_V6`] that are no one's public address, or lead to IPv4 addresses that a relay decides on.
const CLOSED_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments: Teredo, ORCHID, benchmarking
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, withdrawn
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// NAT64's well-known prefix: the last 32 bits are an IPv4 address, which IPv6-only hosts reach public servers by.
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Ports from 1024 up that no web page is served on: the rest of the Fetch standard's "bad ports", and two stores
/// whose line protocols take an HTTP request for commands.
const CLOSED_PORTS: [u16; 23] = [
    1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697,
    10080, 11211, 11212, 11213,
];

/// Why a URL is not visited. Said to the model, so it names what was asked for and no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a URL, or one without a host.
    #[error("that is not a URL with a host; give one such as https://example.com/page")]
    NoUrl,
    /// Longer than 8 KiB.
    #[error("the URL is longer than 8,192 bytes")]
    TooLong,
    /// Neither http nor https.
    #[error("only http and https can be fetched, not {0}")]
    Scheme(String),
    /// A user name or a password before the host.
    #[error("a URL with a user name or a password before its host is not fetched; leave that part out")]
    UserInfo,
    /// See [`is_web_port`].
    #[error("port {0} is not one that web pages are served on")]
    Port(u16),
    /// The host is a closed address, or its name leads to closed ones only.
    #[error("{0} is not on the public internet, so it is not fetched")]
    Closed(String),
}

/// What may be visited. The default is the public internet and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    networks: Vec<IpNet>,
    hosts: Vec<String>,
}

impl Policy {
    /// A policy that also lets through what `entries` name, private or not: networks (`10.1.0.0/16`), addresses or host
    /// names (`wiki.corp`, that very name only).
    ///
    /// # Errors
    /// All entries that are none of these, each with what is wrong.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<String>> {
        let mut policy = Self::default();
        let mut problems = Vec::new();
        for entry in entries.iter().map(AsRef::as_ref) {
            if let Ok(network) = entry.parse::<IpNet>() {
                policy.networks.push(network.trunc());
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                policy.networks.push(address.into());
            } else if let Ok(Host::Domain(host)) = Host::parse(entry)
                && !entry.contains('/')
            {
                policy.hosts.push(without_dot(&host).to_owned());
            } else {
                problems.push(format!(
                    "{entry:?} is neither a network, an address nor a host name, such as \"10.1.0.0/16\" or \"wiki.corp\""
                ));
            }
        }
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
    }

    /// Whether a connection to this address may be made.
    pub fn permits(&self, address: IpAddr) -> bool {
        is_public(address) || self.lists(address)
    }

    /// Whether the operator listed this address.
    pub fn lists(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether the operator listed this name, so that any address it leads to may be visited.
    pub fn trusts(&self, host: &str) -> bool {
        self.hosts.iter().any(|trusted| trusted.eq_ignore_ascii_case(without_dot(host)))
    }

    /// Everything that can be said of a URL before its host's name is resolved. The parser of URLs has already made
    /// addresses of `2130706433`, `0x7f.1` and `127.1`.
    ///
    /// # Errors
    /// It must not be visited.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        if url.as_str().len() > MAX_URL {
            return Err(Refusal::TooLong);
        }
        if !["http", "https"].contains(&url.scheme()) {
            return Err(Refusal::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let port = url.port_or_known_default().ok_or(Refusal::NoUrl)?;
        if !is_web_port(port) {
            return Err(Refusal::Port(port));
        }
        match literal(url) {
            Some(address) if !self.permits(address) => Err(Refusal::Closed(address.to_string())),
            Some(_) => Ok(()),
            None => url.host().map(|_| ()).ok_or(Refusal::NoUrl),
        }
    }
}

/// The address that a URL names without needing a name server.
pub fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Whether web pages may be served on a port: 80, 443, and those that need no privileges, without the ones that belong
/// to other protocols. Below 1024 are mail, shells and files of other people, who must not be knocked at from here.
pub fn is_web_port(port: u16) -> bool {
    matches!(port, 80 | 443) || (port >= 1024 && !CLOSED_PORTS.contains(&port))
}

/// Whether an address is global unicast: of some host on the internet, not of this machine or its neighbours.
pub fn is_public(address: IpAddr) -> bool {
    // An IPv4 address inside IPv6 (`::ffff:a.b.c.d`) is connected to as that IPv4 address.
    match address.to_canonical() {
        IpAddr::V4(address) => CLOSED_V4.iter().all(|&network| !within_v4(address, network)),
        IpAddr::V6(address) if within_v6(address, NAT64) => {
            let [.., high, low] = address.segments();
            is_public(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into())
        }
        IpAddr::V6(address) => {
            within_v6(address, GLOBAL_V6) && CLOSED_V6.iter().all(|&network| !within_v6(address, network))
        }
    }
}

fn within_v4(address: Ipv4Addr, (network, length): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
}

fn within_v6(address: Ipv6Addr, (network, length): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
}

fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_global_unicast_addresses_are_public() {
        let closed = "127.0.0.1 127.255.255.255 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 \
            192.168.255.255 100.64.0.1 100.127.255.255 100.100.100.200 169.254.0.1 169.254.169.254 0.0.0.0 0.1.2.3 \
            255.255.255.255 224.0.0.1 239.255.255.255 192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 \
            240.0.0.1 254.1.2.3 192.0.0.1 192.0.0.192 192.88.99.1 168.63.129.16 \
            :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0 \
            64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::1 64:ff9b:1::8.8.8.8 \
            2002:7f00:1::1 2002:a00:1::1 2002:808:808::1 2001::1 2001:0:4136:e378:8000:63bf:f5ff:fffe 2001:10::1 \
            2001:20::1 2001:2::1 2001:db8::1 3fff::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1 feff::1 \
            ff02::1 ff0e::1 100::1 5f00::1 4000::1 ::ffff:0:127.0.0.1";
        let public = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 \
            169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 192.0.1.1 192.167.255.255 192.169.0.1 198.17.255.255 \
            198.20.0.1 223.255.255.255 168.63.129.17 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2606:4700::1111 \
            2001:4860:4860::8888 2001:200::1 2a00:1450::1 3ffe::1";
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        for text in closed.split_whitespace() {
            assert!(!is_public(address(text)), "{text} must be closed");
        }
        for text in public.split_whitespace() {
            assert!(is_public(address(text)), "{text} is public");
        }
    }

    fn check(policy: &Policy, url: &str) -> Result<(), Refusal> {
        policy.check(&Url::parse(url).map_err(|_| Refusal::NoUrl)?)
    }

    #[test]
    fn an_address_is_seen_through_every_way_of_writing_it() {
        for host in [
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "0x7f000001",
            "017700000001",
            "127.0.0.1.",
            "0",
            "[::1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "2852039166",
            "0xa9fea9fe",
            "169.254.43518",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "①②⑦.0.0.1",
            "[fd00:ec2::254]",
            "[::ffff:a9fe:a9fe]",
        ] {
            let refused = check(&Policy::default(), &format!("http://{host}/"));
            assert!(matches!(refused, Err(Refusal::Closed(_))), "{host}: {refused:?}");
        }
    }

    #[test]
    fn only_web_urls_without_credentials_on_web_ports_are_visited() {
        let check = |url: &str| check(&Policy::default(), url);
        for url in ["http://example.com", "https://example.com:8443/x?y#z", "https://8.8.8.8:3000/", "http://a.b:80"] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        assert_eq!(check("file:///etc/passwd"), Err(Refusal::Scheme("file".into())));
        assert_eq!(check("gopher://example.com/x"), Err(Refusal::Scheme("gopher".into())));
        assert_eq!(check("data:text/html,x"), Err(Refusal::Scheme("data".into())));
        assert_eq!(check("http://me:pw@example.com/"), Err(Refusal::UserInfo));
        assert_eq!(check("http://example.com@127.0.0.1/"), Err(Refusal::UserInfo));
        assert_eq!(check("http://"), Err(Refusal::NoUrl));
        assert_eq!(check(&format!("http://example.com/{}", "x".repeat(MAX_URL))), Err(Refusal::TooLong));
        for port in [0, 22, 25, 53, 81, 587, 993, 1023, 6379, 11211, 6667] {
            assert_eq!(check(&format!("http://example.com:{port}/")), Err(Refusal::Port(port)));
        }
    }

    #[test]
    fn what_the_operator_lists_may_be_visited_and_nothing_beside_it() {
        let policy = Policy::parse(&["127.0.0.2", "10.1.9.9/16", "fd12::/32", "Wiki.Corp."]).expect("good");
        for url in ["http://127.0.0.2/", "http://[::ffff:127.0.0.2]/", "http://10.1.255.1/", "http://[fd12::1]/"] {
            assert_eq!(check(&policy, url), Ok(()), "{url}");
        }
        for url in ["http://127.0.0.1/", "http://10.2.0.1/", "http://[fd13::1]/"] {
            assert!(matches!(check(&policy, url), Err(Refusal::Closed(_))), "{url}");
        }
        assert!(policy.trusts("wiki.corp") && policy.trusts("WIKI.corp.") && !policy.trusts("a.wiki.corp"));
        assert_eq!(check(&policy, "http://10.1.0.1:22/"), Err(Refusal::Port(22)));
    }

    #[test]
    fn every_bad_entry_is_told() {
        let problems = Policy::parse(&["10.0.0.0/8", "10.0.0.0/33", "http://x/", "", "a b"]).expect_err("bad");
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
