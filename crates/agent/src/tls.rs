//! Whom TLS trusts: Mozilla's certificate authorities, as they are compiled in.
//!
//! Reading the system's took 20 ms and some megabytes for every client, and a machine may have none.

use rustls::{ClientConfig, RootCertStore};
use std::sync::LazyLock;

static CONFIG: LazyLock<ClientConfig> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
});

/// For [`reqwest::ClientBuilder::tls_backend_preconfigured`]; clients share what is in it.
///
/// # Panics
/// No default provider of cryptography is installed.
pub fn client_config() -> ClientConfig {
    CONFIG.clone()
}
