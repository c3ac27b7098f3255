use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::{Duration, Instant};

use baal::ssh::{Address, Key, Session, SshError, host_key};

use crate::server::{Server, make_key, run, user};

#[tokio::test]
async fn the_host_key_is_learnt_without_authenticating() {
    let server = Server::start();
    assert_eq!(host_key(&server.address).await.unwrap(), server.public_host_key());
    server.is_idle().await;
    let log = server.log();
    assert!(!log.contains("Accepted") && !log.contains("Failed") && !log.contains("userauth"), "{log}");
}

#[tokio::test]
async fn keys_of_both_kinds_log_in() {
    for kind in ["ed25519", "rsa"] {
        let server = Server::with(Ipv4Addr::LOCALHOST.into(), kind);
        let mut session = server.session().await;
        assert_eq!(run(&mut session, "id -un").await.unwrap().stdout.trim(), user());
        session.close().await;
        server.is_idle().await;
        assert!(server.log().contains("Accepted publickey"), "{}", server.log());
    }
}

#[tokio::test]
async fn a_machine_with_only_an_rsa_host_key_is_pinned_too() {
    let mut server = Server::start();
    server.replace_host_key("rsa");
    let pinned = host_key(&server.address).await.unwrap();
    assert_eq!(pinned, server.public_host_key());
    assert!(pinned.starts_with("ssh-rsa "));
    run(&mut server.session().await, "true").await.unwrap();
}

#[tokio::test]
async fn ipv6_addresses_and_names_work() {
    let server = Server::with(Ipv6Addr::LOCALHOST.into(), "ed25519");
    assert_eq!(server.address.to_string(), format!("[::1]:{}", server.address.port));
    run(&mut server.session().await, "true").await.unwrap();
    let server = Server::start();
    let named = Address { host: "localhost".into(), port: server.address.port };
    run(&mut server.session_by(&named).await, "true").await.unwrap();
}

#[tokio::test]
async fn another_host_key_ends_it_before_any_authentication() {
    for kind in ["ed25519", "rsa"] {
        let mut server = Server::start();
        let pinned = host_key(&server.address).await.unwrap();
        server.replace_host_key(kind);
        let error = Session::connect_as(&user(), &server.key, &server.address, &pinned).await.err().unwrap();
        assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
        server.is_idle().await;
        let log = server.log();
        assert!(!log.contains("Accepted") && !log.contains("userauth") && !log.contains("Failed"), "{log}");
    }
}

#[tokio::test]
async fn what_is_no_key_at_all_matches_no_machine() {
    let server = Server::start();
    for pinned in ["", "ssh-ed25519", "ssh-ed25519 AAAA"] {
        let error = Session::connect_as(&user(), &server.key, &server.address, pinned).await.err().unwrap();
        assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_authorised_is_told_as_such() {
    let server = Server::start();
    let pinned = host_key(&server.address).await.unwrap();
    for kind in ["ed25519", "rsa"] {
        let path = server.path(&format!("other-{kind}"));
        make_key(&path, kind);
        let other = Key::load(&path).unwrap();
        let error = Session::connect_as(&user(), &other, &server.address, &pinned).await.err().unwrap();
        assert!(matches!(error, SshError::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn whoever_does_not_answer_is_given_up() {
    let key = Server::start().key.clone();
    let address = |port| Address { host: "127.0.0.1".into(), port };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    for port in [closed, silent.local_addr().unwrap().port()] {
        let error = host_key(&address(port)).await.unwrap_err();
        assert!(matches!(error, SshError::Unreachable { .. }), "{error}");
    }
    let pinned = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    let error = Session::connect(&key, &address(silent.local_addr().unwrap().port()), pinned).await.err().unwrap();
    assert!(error.to_string().contains("nothing within 10 s"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(40));
    let unknown = Address { host: "no-such-machine.invalid".into(), port: 22 };
    let error = host_key(&unknown).await.unwrap_err().to_string();
    assert!(error.starts_with("no-such-machine.invalid:22 does not answer over SSH: the name is not known"), "{error}");
}
