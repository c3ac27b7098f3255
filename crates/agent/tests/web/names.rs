use super::dns::NameServer;
use super::*;
use baal_agent::web::resolver::Unfiltered;
use baal_agent::web::{DnsError, FetchError};
use baal_protocol::Role;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

fn files(resolv_conf: &str, hosts: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = ["resolv.conf", "hosts"].map(|name| directory.path().join(name));
    for (path, text) in paths.iter().zip([resolv_conf, hosts]) {
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }
    let [resolv_conf, hosts] = paths;
    (directory, resolv_conf, hosts)
}

#[tokio::test]
async fn names_are_asked_of_the_name_servers_and_unknown_ones_told() {
    let names = NameServer::start(&[("a.example", &[&["2001:db8::1", "192.0.2.7"]])]).await;
    let dns = Dns::with_servers(vec![names.address]);
    let expected: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    assert_eq!(dns.lookup("a.example").await.unwrap(), expected);
    assert_eq!(dns.lookup("b.example").await.unwrap_err(), DnsError::NoAddress("b.example".into()));
    let long = format!("{}.example", "x".repeat(64));
    assert_eq!(dns.lookup(&long).await.unwrap_err(), DnsError::NoAddress(long));
    let error = fetcher_with(dns, small_limits()).fetch("http://b.example/", Role::Visitor).await.unwrap_err();
    assert_eq!(error, FetchError::Name(DnsError::NoAddress("b.example".into())));
}

#[tokio::test]
async fn localhost_addresses_and_the_hosts_file_need_no_name_server() {
    let (_directory, resolv_conf, hosts) = files("", "192.0.2.9 printer Printer2 # mine\n2001:db8::9 printer\n");
    let dns = Dns::from_files(resolv_conf, hosts);
    let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    assert_eq!(dns.lookup("localhost").await.unwrap(), localhost);
    assert_eq!(dns.lookup("x.LOCALHOST.").await.unwrap(), localhost);
    assert_eq!(dns.lookup("10.1.2.3").await.unwrap(), ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(dns.lookup("Printer").await.unwrap().len(), 2);
    assert_eq!(dns.lookup("printer2").await.unwrap(), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn a_configuration_without_usable_name_servers_is_a_clear_error() {
    for text in ["", "nameserver\n", "nameserver not-an-address\n", "\u{0}\u{1}garbage", "search example.com\n"] {
        let (_directory, resolv_conf, hosts) = files(text, "");
        let error = Dns::from_files(resolv_conf, hosts).lookup("a.example").await.unwrap_err();
        assert!(error.to_string().contains("it needs a line such as: nameserver"), "{text:?}: {error}");
    }
    let missing = Dns::from_files("/nonexistent/resolv.conf".into(), "/nonexistent/hosts".into());
    assert!(matches!(missing.lookup("a.example").await, Err(DnsError::Unconfigured { .. })));
    assert!(missing.lookup("localhost").await.is_ok());
}

#[tokio::test]
async fn name_servers_that_do_not_answer_are_a_clear_error() {
    // IPv6 only, and an address that nobody has.
    for server in ["nameserver 2001:db8::53\n", "nameserver 127.0.0.77\noptions timeout:1 attempts:1 trust-ad\n"] {
        let (_directory, resolv_conf, hosts) = files(&format!("options timeout:1 attempts:1\n{server}"), "");
        let error = Dns::from_files(resolv_conf, hosts).lookup("a.example").await.unwrap_err();
        assert!(matches!(error, DnsError::NoAnswer { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_repaired_configuration_is_read_again() {
    let (_directory, resolv_conf, hosts) = files("", "");
    let dns = Dns::from_files(resolv_conf, hosts.clone());
    assert!(dns.lookup("later").await.is_err());
    std::fs::write(hosts, "192.0.2.3 later\n").unwrap();
    assert!(dns.lookup("later").await.is_ok());
}

#[tokio::test]
async fn a_client_without_the_filter_reaches_localhost_by_name_and_address() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let server = serve_on("127.0.0.1", Router::new().fallback(|| async { "model" })).await;
    let resolver = Arc::new(Unfiltered(Dns::system()));
    let client = reqwest::Client::builder().no_proxy().dns_resolver(resolver).build().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let answer = client.get(format!("http://{host}:{}/v1", server.port())).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "model");
    }
}
