use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Made {
    directory: tempfile::TempDir,
    authority: Authority,
}

fn made() -> Made {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = create(directory.path()).unwrap();
    Made { authority: Authority::load(&cert, &key).unwrap(), directory }
}

/// A web server that shows the leaf; its port.
async fn serve(listener: TcpListener, leaf: &Leaf) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(leaf.cert_chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.expose_secret().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                if stream.read(&mut [0; 4096]).await? == 0 {
                    return Ok(());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await?;
                stream.shutdown().await
            });
        }
    });
}

fn client(made: &Made) -> reqwest::ClientBuilder {
    drop(rustls::crypto::ring::default_provider().install_default());
    let root = fs::read(made.directory.path().join("ca.pem")).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
}

#[tokio::test]
async fn a_server_with_a_signed_certificate_is_trusted_under_its_name_and_no_other() {
    let made = made();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, &made.authority.sign("one-two.vm.localhost").unwrap()).await;
    let client = client(&made)
        .resolve("one-two.vm.localhost", address)
        .resolve("three-four.vm.localhost", address)
        .build()
        .unwrap();
    let url = |name: &str| format!("https://{name}:{}/", address.port());
    assert_eq!(client.get(url("one-two.vm.localhost")).send().await.unwrap().text().await.unwrap(), "hi");
    for other in ["three-four.vm.localhost", "127.0.0.1"] {
        let error = format!("{:?}", client.get(url(other)).send().await.unwrap_err());
        assert!(error.contains("NotValidForName"), "{error}");
    }
}

#[tokio::test]
async fn addresses_of_both_kinds_can_be_named() {
    let made = made();
    for address in ["127.0.0.1", "::1"] {
        let ip: IpAddr = address.parse().unwrap();
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        serve(listener, &made.authority.sign(address).unwrap()).await;
        let answer = client(&made).build().unwrap().get(format!("https://{at}/")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn another_authority_with_the_same_purpose_is_not_trusted() {
    let (ours, others) = (made(), made());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    serve(listener, &others.authority.sign("127.0.0.1").unwrap()).await;
    let error = client(&ours).build().unwrap().get(format!("https://{at}/")).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
}

#[test]
fn certificates_are_for_servers_and_last_as_long_as_said() {
    let made = made();
    let leaf = made.authority.sign("a.example").unwrap();
    let ders: Vec<_> =
        CertificateDer::pem_slice_iter(leaf.cert_chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(ders.len(), 2);
    let (_, leaf) = X509Certificate::from_der(&ders[0]).unwrap();
    let (_, root) = X509Certificate::from_der(&ders[1]).unwrap();
    let seconds =
        |cert: &X509Certificate<'_>| cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
    assert_eq!(seconds(&leaf), 397 * 86_400);
    assert_eq!(seconds(&root), 3_650 * 86_400);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    assert!(!leaf.is_ca());
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert!(root.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_ne!(leaf.raw_serial(), root.raw_serial());
}

#[test]
fn names_that_are_none_are_refused() {
    let made = made();
    for name in ["", "a b", "*.example", "a.example:443", "[::1]", "a/../b", "x\n"] {
        assert!(matches!(made.authority.sign(name), Err(InstallError::Certificate { .. })), "{name:?}");
    }
}

#[test]
fn the_key_is_for_its_owner_only_and_nothing_is_overwritten() {
    let made = made();
    let mode = |name: &str| fs::metadata(made.directory.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ca-key.pem"), 0o600);
    assert_eq!(mode("ca.pem") & 0o600, 0o600);
    let read = || ["ca.pem", "ca-key.pem"].map(|name| fs::read(made.directory.path().join(name)).unwrap());
    let before = read();
    let error = create(made.directory.path()).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem is there already"), "{error}");
    assert_eq!(read(), before);
    // A certificate without its key is somebody's as well, and no key is left beside it.
    fs::remove_file(made.directory.path().join("ca-key.pem")).unwrap();
    assert!(create(made.directory.path()).unwrap_err().to_string().contains("ca.pem is there already"));
    assert!(!made.directory.path().join("ca-key.pem").exists());
}

#[test]
fn files_that_do_not_fit_are_refused_in_plain_words() {
    let (one, two) = (made(), made());
    let file = |made: &Made, name: &str| made.directory.path().join(name);
    let load = |cert: &Path, key: &Path| Authority::load(cert, key).unwrap_err().to_string();
    let of_another = load(&file(&one, "ca.pem"), &file(&two, "ca-key.pem"));
    assert!(of_another.contains("is not the key of"), "{of_another}");
    let swapped = load(&file(&one, "ca-key.pem"), &file(&one, "ca.pem"));
    assert!(swapped.contains("is not a certificate"), "{swapped}");
    let missing = load(&file(&one, "none.pem"), &file(&one, "ca-key.pem"));
    assert!(missing.contains("none.pem cannot be read"), "{missing}");
    let leaf = one.authority.sign("a.example").unwrap();
    fs::write(file(&one, "leaf.pem"), &leaf.cert_chain_pem).unwrap();
    fs::write(file(&one, "leaf-key.pem"), leaf.key_pem.expose_secret()).unwrap();
    let no_authority = load(&file(&one, "leaf.pem"), &file(&one, "leaf-key.pem"));
    assert!(no_authority.contains("not a certificate authority's"), "{no_authority}");
    assert!(!format!("{:?} {leaf:?}", one.authority).contains("PRIVATE"));
}
