//! HTTPS for the agents' stub, as agents' machines have it: a certificate of an authority that only the program trusts.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use axum::serve::Listener;
use baal::install::authority;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Every agent is a host of its own below this name, so that none shares another's connection.
pub const DOMAIN: &str = "agents.localhost";
/// Names the file of the stub's certificate and key, where it is to have one.
pub const CERTIFICATE: &str = "BAAL_BENCH_CERTIFICATE";

/// Files of an authority.
pub struct Authority {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// A certificate for all names below [`DOMAIN`] and its key, in one file.
    pub server: PathBuf,
}

/// Makes an authority and a certificate of it.
pub fn authority(directory: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = authority::create(directory)?;
    let signing = KeyPair::from_pem(&std::fs::read_to_string(&key)?)?;
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(&certificate)?, signing)?;
    let own = KeyPair::generate()?;
    let signed = CertificateParams::new([format!("*.{DOMAIN}")])?.signed_by(&own, &issuer)?;
    let server = directory.join("server.pem");
    std::fs::write(&server, signed.pem() + &own.serialize_pem())?;
    Ok(Authority { certificate, key, server })
}

/// Connections whose handshake is done; handshakes go on side by side.
pub struct Tls {
    address: SocketAddr,
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl Tls {
    /// Listens with the certificate and key in this file.
    pub fn listen(listener: TcpListener, file: &Path) -> anyhow::Result<Self> {
        let chain = CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(file).context("no key")?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        // As Caddy does, which is before an agent.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = listener.local_addr()?;
        let (into, accepted) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let (acceptor, into) = (acceptor.clone(), into.clone());
                tokio::spawn(async move {
                    if stream.set_nodelay(true).is_ok()
                        && let Ok(stream) = acceptor.accept(stream).await
                    {
                        // silent-ok: the server has ended.
                        let _ = into.send((stream, from)).await;
                    }
                });
            }
        });
        Ok(Self { address, accepted })
    }
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // Nobody can connect any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
