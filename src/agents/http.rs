//! HTTP to agents: to those that this program set up, and to those that run elsewhere.
//!
//! What somebody else names (the address of an agent that runs elsewhere, what a compute node's gateway makes of a name) must
//! not lead into this server's own network. So unless AGENT_ALLOW_PRIVATE is set, such agents are asked over https alone and
//! at addresses on the internet alone: names are looked up by [`Public`] at every connect, addresses within URLs are looked at
//! with every request, and no redirect is followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;

use crate::addresses::{Public, is_public, literal};
use crate::config::{AgentTls, CloudKind, Config};

/// Why a request is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// No URL of http or https.
    #[error("its address is not one")]
    NotAnAddress,
    /// Secrets and people's words would be for anybody to read.
    #[error("its address is not https")]
    NotHttps,
    /// An address of this machine or its network.
    #[error("its address is not on the internet")]
    NotPublic,
}

/// HTTP to all agents; cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentsHttp {
    plain: reqwest::Client,
    ours: AgentHttp,
    elsewhere: AgentHttp,
}

impl AgentsHttp {
    /// By AGENT_TLS, AGENT_CA_FILE, AGENT_ALLOW_PRIVATE and CLOUD: agents on Aleph Cloud are reached over names that strangers'
    /// gateways serve; the operator's own hosts and processes may be anywhere.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let client = |tls, authorities, guarded| -> anyhow::Result<_> {
            Ok(AgentHttp { client: client(tls, authorities, guarded)?, guarded })
        };
        let (own, guarded) = (config.agent_ca_file.as_deref(), !config.agent_allow_private);
        // An authority of one's own vouches for one's own machines; those of others have certificates of public ones.
        let elsewhere = client(AgentTls::Acme, None, guarded)?;
        let ours = client(config.agent_tls, own, guarded && config.cloud == CloudKind::Aleph)?;
        let plain = client(config.agent_tls, own, false)?.client;
        Ok(Self { plain, ours, elsewhere })
    }

    /// To an agent; `external` is what its row says.
    pub fn of(&self, external: bool) -> &AgentHttp {
        if external { &self.elsewhere } else { &self.ours }
    }

    /// To servers that the operator named.
    pub fn to_operators(&self) -> &reqwest::Client {
        &self.plain
    }
}

/// HTTP to an agent.
#[derive(Debug, Clone)]
pub struct AgentHttp {
    client: reqwest::Client,
    guarded: bool,
}

impl AgentHttp {
    /// A request, if one may be made there.
    pub fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, Barred> {
        let url = Url::parse(url).map_err(|_| Barred::NotAnAddress)?;
        self.check(&url)?;
        Ok(self.client.request(method, url))
    }

    /// `GET`, if that may be made there.
    pub fn get(&self, url: &str) -> Result<RequestBuilder, Barred> {
        self.request(Method::GET, url)
    }

    /// Whether requests may go there, as far as can be told without looking its name up.
    pub fn check(&self, url: &Url) -> Result<(), Barred> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(Barred::NotAnAddress);
        }
        match literal(url) {
            _ if !self.guarded => Ok(()),
            _ if url.scheme() != "https" => Err(Barred::NotHttps),
            Some(ip) if !is_public(ip) => Err(Barred::NotPublic),
            None if url.host_str().is_some_and(is_localhost) => Err(Barred::NotPublic),
            _ => Ok(()),
        }
    }
}

/// A client without an overall time-out, because answers stream for minutes. Names under `localhost` are this host.
///
/// With [`AgentTls::Internal`] it trusts the `authorities` (PEM) and nobody else: agents' secrets go over it, and no public
/// authority has any say about machines of a closed network. With [`AgentTls::Acme`] they are trusted beside the public ones.
/// `guarded`: it connects to no address that a name leads to unless that is on the internet.
fn client(tls: AgentTls, authorities: Option<&Path>, guarded: bool) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .https_only(guarded);
    builder = if guarded { builder.dns_resolver(Arc::new(Public)) } else { builder.dns_resolver(Arc::new(Resolver)) };
    if let Some(path) = authorities {
        let pem = std::fs::read(path).with_context(|| format!("AGENT_CA_FILE: {} cannot be read", path.display()))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|certificates| !certificates.is_empty());
        let certificates = certificates.with_context(|| {
            format!("AGENT_CA_FILE: {} holds no certificate in PEM (`baal ca` makes one)", path.display())
        })?;
        builder = match tls {
            AgentTls::Internal => builder.tls_certs_only(certificates),
            AgentTls::Acme => builder.tls_certs_merge(certificates),
        };
    } else if tls == AgentTls::Internal {
        anyhow::bail!("AGENT_CA_FILE is needed for AGENT_TLS=internal (`baal ca` makes one)");
    }
    Ok(builder.build()?)
}

/// The longest answer that is read as a whole, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A short answer in JSON; machines may say anything, for as long as they like.
pub async fn read_json<T: DeserializeOwned>(mut answer: reqwest::Response) -> anyhow::Result<T> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        ensure!(body.len() + chunk.len() <= LONGEST_ANSWER, "its answer is longer than {LONGEST_ANSWER} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body)?)
}

/// The system's resolver, except for names under `localhost`: they are loopback addresses and are not asked for
/// (RFC 6761, 6.3), which not every system's resolver does.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            if is_localhost(name.as_str()) {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                return Ok(Box::new(loopback.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs);
            }
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::str::FromStr as _;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use secrecy::ExposeSecret as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::addresses::NotOnInternet;
    use crate::install::authority::{self, Authority};

    async fn resolved(name: &str) -> Vec<IpAddr> {
        Resolver.resolve(Name::from_str(name).unwrap()).await.unwrap().map(|address| address.ip()).collect()
    }

    #[tokio::test]
    async fn names_under_localhost_are_this_host_and_others_are_asked_for() {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        for name in ["localhost", "one-two-three-four.vm.localhost", "A.LocalHost."] {
            assert_eq!(resolved(name).await, loopback, "{name}");
        }
        for name in ["localhost.invalid", "notlocalhost.invalid", "xlocalhost.invalid"] {
            assert!(Resolver.resolve(Name::from_str(name).unwrap()).await.is_err(), "{name}");
        }
    }

    /// A server of 204s at `one.vm.localhost`; its address, and the file of the authority that vouches for it.
    async fn served(directory: &Path) -> (String, PathBuf) {
        drop(rustls::crypto::ring::default_provider().install_default());
        let (cert, key) = authority::create(directory).unwrap();
        let leaf = Authority::load(&cert, &key).unwrap().sign("one.vm.localhost").unwrap();
        let chain = CertificateDer::pem_slice_iter(leaf.cert_chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.expose_secret().as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://one.vm.localhost:{}/", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let request = stream.read(&mut [0; 4096]).await.unwrap();
                assert!(request > 0);
                stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (url, cert)
    }

    #[tokio::test]
    async fn an_authority_of_ones_own_is_trusted_only_where_it_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (url, cert) = served(directory.path()).await;
        for tls in [AgentTls::Acme, AgentTls::Internal] {
            assert_eq!(
                client(tls, Some(&cert), false).unwrap().get(&url).send().await.unwrap().status(),
                204,
                "{tls:?}"
            );
        }
        assert!(client(AgentTls::Acme, None, false).unwrap().get(&url).send().await.unwrap_err().is_connect());
    }

    #[tokio::test]
    async fn a_guarded_client_does_not_connect_to_our_own_network_whatever_it_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let (url, cert) = served(directory.path()).await;
        let http = |guarded| AgentHttp { client: client(AgentTls::Acme, Some(&cert), guarded).unwrap(), guarded };
        assert_eq!(http(false).get(&url).unwrap().send().await.unwrap().status(), 204);
        let guarded = http(true);
        let barred = |url: &str| guarded.get(url).err();
        assert_eq!(barred(&url), Some(Barred::NotPublic));
        assert_eq!(barred("http://agent.example.org"), Some(Barred::NotHttps));
        for url in ["ftp://agent.example.org", "agent.example.org", "", "https://"] {
            assert_eq!(barred(url), Some(Barred::NotAnAddress), "{url}");
        }
        for host in ["127.0.0.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]", "169.254.169.254", "10.1.2.3."] {
            assert_eq!(barred(&format!("https://{host}/health")), Some(Barred::NotPublic), "{host}");
        }
        assert_eq!(barred("https://agent.example.org:8443/below"), None);
        // Of a name nobody knows where it leads until it is looked up, so where it does is looked at there too.
        let sent = guarded.client.get(url.replace("one.vm.localhost", "localhost")).send().await;
        assert!(NotOnInternet::is_behind(&sent.unwrap_err()));
        let plain = guarded.client.get(url.replace("https", "http")).send().await;
        assert!(plain.unwrap_err().is_builder());
    }

    /// What the system trusts is said by its environment, so the client is tried in a process with another idea of it.
    #[test]
    fn with_internal_certificates_public_authorities_have_no_say() {
        let name = "agents::http::tests::with_internal_certificates_public_authorities_have_no_say";
        let Some(public) = std::env::var_os("BAAL_PUBLIC_AUTHORITY").map(PathBuf::from) else {
            let public = tempfile::tempdir().unwrap();
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let child = child.args(["--exact", name]).env("BAAL_PUBLIC_AUTHORITY", public.path());
            let ended = child.env("SSL_CERT_FILE", public.path().join("ca.pem")).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && said.contains("1 passed"), "{said}");
            return;
        };
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (url, _) = served(&public).await;
            let own = tempfile::tempdir().unwrap();
            let (cert, _) = authority::create(own.path()).unwrap();
            let said = |tls| client(tls, Some(&cert), false).unwrap().get(&url).send();
            assert_eq!(said(AgentTls::Acme).await.unwrap().status(), 204, "the system's authority is trusted");
            assert!(said(AgentTls::Internal).await.unwrap_err().is_connect());
        });
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        assert!(client(AgentTls::Acme, Some(&path), false).unwrap_err().to_string().contains("ca.pem cannot be read"));
        std::fs::write(&path, "nothing").unwrap();
        assert!(
            client(AgentTls::Internal, Some(&path), false).unwrap_err().to_string().contains("holds no certificate")
        );
        assert!(client(AgentTls::Internal, None, false).unwrap_err().to_string().contains("AGENT_CA_FILE is needed"));
    }
}
