//! A certificate authority of the installation's own, for machines that no public authority can reach (AGENT_TLS=internal).
//! Its key never leaves this host: machines get finished certificates.

use std::fmt;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, DnsName};
use secrecy::{ExposeSecret as _, SecretString};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::InstallError;
use crate::private_file::{self, warn_if_shared};

/// How long the authority is valid.
const AUTHORITY_DAYS: i64 = 3_650;

/// How long a machine's certificate is valid: no more than browsers accept of any authority (398 days), see
/// <https://support.apple.com/en-us/102028>. And no less: `web.sh` takes a new one when fewer than 30 days are left, but only
/// where a machine is prepared again, as by a repair; nothing does that by itself.
const LEAF_DAYS: i64 = 397;

/// Clocks of machines that have just booted may be behind.
const BACKDATED: Duration = Duration::hours(1);

/// A certificate authority; `Debug` shows nothing of its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

/// What a web server needs.
#[derive(Debug)]
pub struct Leaf {
    /// The server's certificate and then the authority's, in PEM.
    pub cert_chain_pem: String,
    /// The server's private key, PKCS#8 in PEM.
    pub key_pem: SecretString,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

impl Authority {
    /// Reads a certificate (PEM) and its private key (PKCS#8 in PEM), as [`create`] makes them. A certificate that is no
    /// authority's, is out of date or belongs to another key is an error: machines with its certificates would be set up and
    /// then not be trusted.
    pub fn load(cert_pem_path: &Path, key_pem_path: &Path) -> Result<Self, InstallError> {
        let cert_pem = read(cert_pem_path)?;
        let wrong = |path: &Path, problem: &str| {
            InstallError::Own(format!("{} {problem}; `baal ca --out DIR` makes a new authority", path.display()))
        };
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|_| wrong(cert_pem_path, "is not a certificate in PEM"))?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(|_| wrong(cert_pem_path, "is not a certificate"))?;
        if !cert.is_ca() {
            return Err(wrong(cert_pem_path, "is not a certificate authority's certificate"));
        }
        if !cert.validity().is_valid() {
            return Err(wrong(cert_pem_path, "is not valid at this time"));
        }
        let key_pem = SecretString::from(read(key_pem_path)?);
        warn_if_shared(key_pem_path, "the certificate authority's key, with which one can pose as every agent");
        // The cause is left out: it might quote the file.
        let key = KeyPair::from_pem(key_pem.expose_secret()).map_err(|_| {
            InstallError::Own(format!(
                "{} is not a private key in PKCS#8 (`openssl pkcs8 -topk8 -nocrypt` converts others)",
                key_pem_path.display()
            ))
        })?;
        if cert.public_key().raw != key.subject_public_key_info() {
            return Err(wrong(key_pem_path, &format!("is not the key of {}", cert_pem_path.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| wrong(cert_pem_path, &error.to_string()))?;
        Ok(Self { issuer, cert_pem })
    }

    /// A new key and a certificate for `name`: a DNS name (no wildcard), or an IPv4 or IPv6 address, without a port.
    pub fn sign(&self, name: &str) -> Result<Leaf, InstallError> {
        let cannot = |cause: String| InstallError::Certificate { name: name.to_owned(), cause };
        let subject = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                let name = DnsName::try_from(name).map_err(|_| cannot("it is no host name and no address".into()))?;
                SanType::DnsName(name.as_ref().try_into().map_err(|error: rcgen::Error| cannot(error.to_string()))?)
            }
        };
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = validity(LEAF_DAYS);
        params.subject_alt_names = vec![subject];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Baal agent");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let made = KeyPair::generate().and_then(|key| Ok((params.signed_by(&key, &self.issuer)?, key)));
        let (cert, key) = made.map_err(|error| cannot(error.to_string()))?;
        Ok(Leaf { cert_chain_pem: cert.pem() + &self.cert_pem, key_pem: key.serialize_pem().into() })
    }
}

/// Makes an authority, valid for ten years, that signs servers' certificates only (no authorities below it): `ca.pem` and
/// `ca-key.pem` in `directory`, which is made too. Files that are there are never overwritten.
pub fn create(directory: &Path) -> Result<(PathBuf, PathBuf), InstallError> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = validity(AUTHORITY_DAYS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Authorities that follow each other have different names, so that one is not taken for the other.
    params.distinguished_name.push(DnType::CommonName, format!("Baal authority {:08x}", rand::random::<u32>()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let made = KeyPair::generate().and_then(|key| Ok((params.self_signed(&key)?, key)));
    let (cert, key) = made.map_err(|error| InstallError::Own(format!("the authority cannot be made: {error}")))?;

    let cert_path = directory.join("ca.pem");
    let key_path = directory.join("ca-key.pem");
    let key_pem = SecretString::from(key.serialize_pem());
    write_new(&key_path, key_pem.expose_secret())?;
    if let Err(error) = write_new(&cert_path, &cert.pem()).and_then(|()| publish(&cert_path)) {
        // Ours, made a moment ago: a key without its certificate is in the way of the next attempt.
        // silent-ok: the first error says more.
        let _ = fs::remove_file(&key_path);
        return Err(error);
    }
    Ok((cert_path, key_path))
}

fn validity(days: i64) -> (OffsetDateTime, OffsetDateTime) {
    let from = OffsetDateTime::from(SystemTime::now()) - BACKDATED;
    (from, from + Duration::days(days))
}

fn read(path: &Path) -> Result<String, InstallError> {
    fs::read_to_string(path).map_err(|error| InstallError::Own(format!("{} cannot be read: {error}", path.display())))
}

fn write_new(path: &Path, text: &str) -> Result<(), InstallError> {
    private_file::create_new(path, text.as_bytes()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => InstallError::Own(format!(
            "{} is there already and stays as it is; name another directory, or move it away first",
            path.display()
        )),
        _ => InstallError::Own(format!("{} cannot be written: {error}", path.display())),
    })
}

/// Lets everybody read a certificate, who is to check others against it.
fn publish(path: &Path) -> Result<(), InstallError> {
    let published = fs::set_permissions(path, Permissions::from_mode(0o644));
    published.map_err(|error| InstallError::Own(format!("{} cannot be opened to others: {error}", path.display())))
}

#[cfg(test)]
mod tests;
