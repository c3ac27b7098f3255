//! HTTP to agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::de::DeserializeOwned;

use crate::config::AgentTls;

/// A client without an overall time-out, because answers stream for minutes. Names under `localhost` are this host.
///
/// With [`AgentTls::Internal`] it trusts the `authorities` (PEM) and nobody else: agents' secrets go over it, and no public
/// authority has any say about machines of a closed network. With [`AgentTls::Acme`] they are trusted beside the public ones.
pub fn client(tls: AgentTls, authorities: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .dns_resolver(Arc::new(Resolver));
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
            assert_eq!(client(tls, Some(&cert)).unwrap().get(&url).send().await.unwrap().status(), 204, "{tls:?}");
        }
        assert!(client(AgentTls::Acme, None).unwrap().get(&url).send().await.unwrap_err().is_connect());
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
            let said = |tls| client(tls, Some(&cert)).unwrap().get(&url).send();
            assert_eq!(said(AgentTls::Acme).await.unwrap().status(), 204, "the system's authority is trusted");
            assert!(said(AgentTls::Internal).await.unwrap_err().is_connect());
        });
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        assert!(client(AgentTls::Acme, Some(&path)).unwrap_err().to_string().contains("ca.pem cannot be read"));
        std::fs::write(&path, "nothing").unwrap();
        assert!(client(AgentTls::Internal, Some(&path)).unwrap_err().to_string().contains("holds no certificate"));
        assert!(client(AgentTls::Internal, None).unwrap_err().to_string().contains("AGENT_CA_FILE is needed"));
    }
}
