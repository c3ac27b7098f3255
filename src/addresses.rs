//! Addresses on the internet, told from those of our own network: compute nodes, and agents that run elsewhere, are reached by
//! names and addresses that others chose.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::causes;

/// Where Azure's hosts answer their own machines, though it looks public.
const AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether this is an address on the internet rather than on this machine or in its network.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let special =
                a == 0 || a >= 240 || (a, b) == (192, 0) || (a == 198 && (18..20).contains(&b)) || ip == AZURE;
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_multicast() || shared || special)
        }
        IpAddr::V6(ip) => match (ip.to_ipv4_mapped(), ip.segments()) {
            (Some(ip), _) => is_public(IpAddr::V4(ip)),
            // 6to4 and Teredo lead to whichever IPv4 address is written into them.
            (None, [0x2002, ..] | [0x2001, 0, ..]) => false,
            // Global unicast is 2000::/3.
            (None, [first, ..]) => first & 0xe000 == 0x2000,
        },
    }
}

/// The address within a URL, which is not looked up: none where a name stands there.
pub fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A name that leads to this machine or its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its name leads to no address on the internet")]
pub struct NotOnInternet;

impl NotOnInternet {
    /// Whether that is why a request failed.
    pub fn is_behind(error: &(dyn Error + 'static)) -> bool {
        causes::of(error).any(|cause| cause.is::<Self>())
    }
}

/// Looks names up as the system does, and leaves out addresses that are not on the internet: a public name may lead to a
/// private address, and to another one every time that it is asked for.
pub struct Public;

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotOnInternet.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_on_the_internet_are_known() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "168.63.129.16",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "::ffff:168.63.129.16",
            "2002:a00:1::1",
            "2001:0:a00:1::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "168.63.129.17", "2a01:4f8::1", "2001:470::1", "2003::1", "::ffff:1.1.1.1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_resolved() {
        let found = Public.resolve("localhost".parse().unwrap()).await;
        let error = found.err().expect("no address");
        assert!(NotOnInternet::is_behind(&*error), "{error}");
    }
}
