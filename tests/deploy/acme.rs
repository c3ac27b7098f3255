//! Certificates from an authority that checks, as public ones do, that the machine answers under its name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::json;

use crate::aleph::Cloud;
use crate::chat::{create, delete, repair};
use crate::field::{Field, provider};
use crate::harness::POLL;
use crate::machines::{self, Host};

/// An authority of its own kind: Caddy's. Of the gateway it knows only the address and the port that has to stand for 443.
fn serve_acme(host: &Host, gateway: u16, machine: IpAddr) -> String {
    let (ip, bridge) = (host.ip(), host.machine().host);
    let script = format!(
        r#"set -e
cat >/etc/caddy/Caddyfile <<'END'
{{
	skip_install_trust
}}
https://{ip} {{
	tls internal
	acme_server
}}
END
nft add table ip e2e
nft add chain ip e2e out '{{ type nat hook output priority -100; }}'
nft add rule ip e2e out ip daddr {bridge} tcp dport 443 dnat to {bridge}:{gateway}
# The real gateway passes this port on too.
nft add rule ip e2e out ip daddr {bridge} tcp dport 80 dnat to {machine}:80
systemctl restart caddy.service
root=/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt
for i in $(seq 100); do [ -s $root ] && curl -sf --cacert $root https://{ip}/acme/local/directory >/dev/null && break; sleep 0.1; done
cat $root"#
    );
    host.machine().root(&script).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_from_the_second_authority_where_the_first_is_dead() {
    provider();
    let mut hosts = machines::take(2).await;
    let authority = hosts.pop().unwrap();
    let hosts = Arc::new(hosts);
    // Reachable from the authority too.
    let cloud = Cloud::start(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), 1, hosts.clone()).await;
    let gateway = cloud.gateway_port();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root.pem");
    let machine = hosts[0].ip();
    // Caddy looks at a new name in /etc/hosts only some seconds later, and an authority looks only once.
    cloud.post("/settings", json!({"boot_ms": 7000})).await;
    let (authority, certificate) = tokio::task::spawn_blocking(move || {
        let certificate = serve_acme(&authority, gateway, machine);
        (authority, certificate)
    })
    .await
    .unwrap();
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{certificate}");
    std::fs::write(&root, certificate).unwrap();
    let ip = authority.ip();
    let field = Field::within(Arc::new(cloud), hosts, |builder| {
        builder
            .env("AGENT_TLS", "acme")
            .env("AGENT_ACME_URLS", format!("https://{ip}:9/directory,https://{ip}/acme/local/directory"))
            .env("AGENT_CA_FILE", root.display())
            .env("AGENT_CA_KEY_FILE", "")
            .env("ACME_EMAIL", "admin@example.org")
            .env("VM_START_SECONDS", 30)
            .env("GATEWAY_WAIT_SECONDS", 90)
    })
    .await;
    let ann = field.stack.user(1);
    // What the domain name system does for others: the authority finds the gateway under the machine's name.
    let named = async {
        let name = loop {
            let name: Option<String> = field.stack.sql("select max(name) from vms where ended_at is null").await;
            match name {
                Some(name) => break name,
                None => tokio::time::sleep(POLL).await,
            }
        };
        let name = name.split(':').next().unwrap().to_owned();
        let line = format!("echo '{} {name}' >>/etc/hosts", authority.machine().host);
        tokio::task::spawn_blocking(move || {
            authority.machine().root(&line).unwrap();
            authority
        })
        .await
        .unwrap()
    };
    let (id, authority) = tokio::join!(create(&field.stack, &ann, "Ada"), named);
    ann.asks("hello", "message 1 of our conversation").await;
    // It is that authority's certificate, and a repair keeps it.
    let issued = |host: &Host| {
        host.machine().root("find /var/lib/caddy -name '*.crt' -path '*certificates*' | xargs sha256sum").unwrap()
    };
    let before = issued(&field.hosts[0]);
    assert!(before.contains(".vm.localhost"), "{before}");
    repair(&field.stack, &ann, id).await;
    assert_eq!(issued(&field.hosts[0]), before);
    delete(&field.stack, &ann, id).await;
    field.rests().await;
    drop(authority);
}
