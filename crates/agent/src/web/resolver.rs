//! Names to addresses, in this process: a static binary has no NSS to ask, and an address that was checked must be the
//! one that is connected to.
//!
//! Reads `/etc/resolv.conf` and `/etc/hosts` at the first name that needs them, so an agent that was never asked anything
//! pays nothing, and again after name servers did not answer.

use super::guard::{Policy, Refusal};
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name as DnsName, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver, system_conf};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::warn;

/// Names whose addresses are remembered, for as long as their servers say.
const CACHED_NAMES: u64 = 64;
/// Longest wait for one answer of one name server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a name that are looked at.
const ADDRESSES: usize = 8;

/// Why a name has no address. Said to the model or in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name servers know no address of it.
    #[error("the host {0:?} does not exist or has no address")]
    NoAddress(String),
    /// The name servers do not answer.
    #[error("the name servers did not answer for {name:?}: {reason}")]
    NoAnswer {
        /// What was asked for.
        name: String,
        /// Why.
        reason: String,
    },
    /// This machine names no usable name server.
    #[error("{path} cannot be used: {reason}; it needs a line such as: nameserver 9.9.9.9")]
    Unconfigured {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Where the name servers are known from.
#[derive(Debug)]
enum Source {
    Files { resolv_conf: PathBuf, hosts: PathBuf },
    Servers(Vec<SocketAddr>),
}

/// What is there once a name was asked for.
struct Running {
    hosts: Hosts,
    servers: Result<TokioResolver, DnsError>,
}

/// Looks names up. Cheap to make; shared by all clients of the agent.
pub struct Dns {
    source: Source,
    running: Mutex<Option<Arc<Running>>>,
}

impl Dns {
    /// The name servers and hosts of this machine.
    pub fn system() -> Arc<Self> {
        Self::from_files("/etc/resolv.conf".into(), "/etc/hosts".into())
    }

    /// The name servers and hosts of files in the form of `resolv.conf(5)` and `hosts(5)`.
    pub fn from_files(resolv_conf: PathBuf, hosts: PathBuf) -> Arc<Self> {
        Arc::new(Self { source: Source::Files { resolv_conf, hosts }, running: Mutex::default() })
    }

    /// These name servers and no hosts file.
    pub fn with_servers(servers: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self { source: Source::Servers(servers), running: Mutex::default() })
    }

    /// All addresses of a host, IPv4 first: a host without IPv6 finds out at once that there is no route, one without
    /// IPv4 too.
    ///
    /// # Errors
    /// There are none, or nobody could be asked.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let bare = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if bare == "localhost" || bare.ends_with(".localhost") {
            // RFC 6761, 6.3: never asked of anybody.
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let Ok(as_dns) = DnsName::from_utf8(&bare) else {
            // Such as with a label of more than 63 bytes.
            return Err(DnsError::NoAddress(name.to_owned()));
        };
        let running = self.running();
        let listed = listed(&running.hosts, &as_dns);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let servers = match &running.servers {
            Ok(servers) => servers,
            Err(error) => {
                // Whoever repairs the file need not restart the agent.
                self.forget();
                return Err(error.clone());
            }
        };
        match servers.lookup_ip(name).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = found.iter().collect();
                addresses.sort_by_key(IpAddr::is_ipv6);
                Ok(addresses)
            }
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Err(DnsError::NoAddress(name.to_owned()))
            }
            Err(error) => {
                warn!(error = %error, "the name servers do not answer");
                // They may have changed with the network; the next name reads the files again.
                self.forget();
                Err(DnsError::NoAnswer { name: name.to_owned(), reason: error.to_string() })
            }
        }
    }

    fn running(&self) -> Arc<Running> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get_or_insert_with(|| Arc::new(self.source.start())).clone()
    }

    fn forget(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Source {
    fn start(&self) -> Running {
        let (servers, hosts) = match self {
            Self::Files { resolv_conf, hosts } => {
                let unconfigured =
                    |reason: String| DnsError::Unconfigured { path: resolv_conf.display().to_string(), reason };
                let read = std::fs::read(resolv_conf).map_err(|e| unconfigured(e.to_string()));
                let parsed =
                    read.and_then(|text| system_conf::parse_resolv_conf(text).map_err(|e| unconfigured(e.to_string())));
                (parsed, read_hosts(hosts))
            }
            Self::Servers(addresses) => (
                Ok((ResolverConfig::from_name_servers(name_servers(addresses)), ResolverOpts::default())),
                Hosts::default(),
            ),
        };
        let servers = servers.and_then(|(config, options)| start(config, options));
        Running { hosts, servers }
    }
}

fn start(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, DnsError> {
    options.cache_size = CACHED_NAMES;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(TIMEOUT);
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|e| DnsError::Unconfigured { path: "the name servers' configuration".into(), reason: e.to_string() })
}

fn name_servers(addresses: &[SocketAddr]) -> Vec<NameServerConfig> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    addresses.iter().map(server).collect()
}

fn read_hosts(path: &PathBuf) -> Hosts {
    let mut hosts = Hosts::default();
    if let Err(error) = std::fs::File::open(path).and_then(|file| hosts.read_hosts_conf(file)) {
        warn!(path = %path.display(), error = %error, "the hosts file is not used");
    }
    hosts
}

fn listed(hosts: &Hosts, name: &DnsName) -> Vec<IpAddr> {
    let of = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(of)
        .flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        .collect()
}

/// Resolves whatever it is asked: for hosts that the configuration names.
pub struct Unfiltered(pub Arc<Dns>);

impl Resolve for Unfiltered {
    fn resolve(&self, name: Name) -> Resolving {
        let dns = self.0.clone();
        Box::pin(async move { Ok(connectable(dns.lookup(name.as_str()).await?)) })
    }
}

/// Resolves to addresses that may be visited, so that no other one can be connected to: there is no second look-up that
/// could answer differently.
pub struct Guarded {
    /// Who is asked.
    pub dns: Arc<Dns>,
    /// What may be visited.
    pub policy: Arc<Policy>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (dns, policy) = (self.dns.clone(), self.policy.clone());
        Box::pin(async move {
            let mut addresses = dns.lookup(name.as_str()).await?;
            // Each is tried in turn: a name must not have the agent knock at thousands of doors.
            addresses.truncate(ADDRESSES);
            if !policy.trusts(name.as_str()) {
                addresses.retain(|&address| may_visit(&policy, address));
            }
            if addresses.is_empty() {
                return Err(Refusal::Closed(name.as_str().to_owned()).into());
            }
            Ok(connectable(addresses))
        })
    }
}

fn connectable(addresses: Vec<IpAddr>) -> Addrs {
    // Port 0: the URL's.
    Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)))
}

/// Whether an address may be visited: by the policy, and because it is not one of this very machine, whose public
/// address may be firewalled from outside but not from here.
pub fn may_visit(policy: &Policy, address: IpAddr) -> bool {
    policy.lists(address) || (policy.permits(address) && !is_own(address))
}

/// Whether an address is of this machine: then one may bind it, or the kernel chooses it as the source for packets to it
/// (which it does not for a second address of a network). Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    // silent-ok: what cannot be bound is not of this machine
    if UdpSocket::bind((address, 0)).is_ok() && !binds_anything(address) {
        return true;
    }
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    // silent-ok: an address without a route is not one of this machine
    source.is_ok_and(|source| source.ip() == address)
}

/// Whether this machine lets anybody bind any address (`ip_nonlocal_bind`): then that says nothing.
fn binds_anything(address: IpAddr) -> bool {
    // From the networks for documentation: nobody's.
    let nobodys: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 253).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xfdfd, 0, 0, 0, 0, 1).into(),
    };
    UdpSocket::bind((nobodys, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_known_as_such() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        // Packets to it have another source.
        assert!(is_own(Ipv4Addr::new(127, 3, 2, 1).into()));
        assert!(is_own(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()));
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 1).into()));
    }
}
