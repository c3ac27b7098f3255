//! Machines that the operator brings.

use crate::chat::{create, delete};
use crate::field::{Authority, PATIENCE, builder, provider, run};
use crate::machines;

/// What a machine looks like from whose point of view nothing was ever there, but Debian's packages.
const UNTOUCHED: &str = r#"set -e
! getent passwd baal-agent baal-tools baal-guests
! ls -d /etc/systemd/system/baal* /usr/local/bin/baal-agent /usr/local/lib/baal 2>/dev/null
! find /var/lib/baal-agent /var/lib/baal-tools /var/lib/baal-guests -mindepth 1 2>/dev/null | grep .
! grep -rl "You count" /etc /var/lib /root /usr/local /run 2>/dev/null | grep .
! nft list table inet baal_tools 2>/dev/null
! curl -sk -m 2 https://127.0.0.1/health
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_operators_serves_one_agent_after_another_and_is_clean_in_between() {
    provider();
    let hosts = machines::take(1).await;
    let authority = Authority::new();
    let mut builder = builder(hosts[0].machine()).env("CLOUD", "hosts");
    for (name, value) in authority.env() {
        builder = builder.env(&name, value);
    }
    let stack = builder.start().await;
    let ip = hosts[0].ip().to_string();
    assert!(run(stack.baal(0), &["host", "list"]).await.contains("There are no hosts"));
    let added = run(stack.baal(0), &["host", "add", &ip]).await;
    assert!(added.contains("SHA256:"), "{added}");

    for (user, name) in [(1, "Ada"), (2, "Bea")] {
        let ann = stack.user(user);
        let id = create(&stack, &ann, name).await;
        let url: String = stack.sql("select url from agents where status = 'running'").await;
        assert_eq!(url, format!("https://{ip}"));
        ann.asks("hello", "message 1 of our conversation").await;
        assert!(run(stack.baal(0), &["host", "list"]).await.contains(&format!("agent {id}")));
        delete(&stack, &ann, id).await;
        hosts[0].machine().root(UNTOUCHED).unwrap();
        stack.wait_for_sql_within(PATIENCE, "select count(*) from vms where ended_at is null", 0_i64).await;
    }
    assert!(run(stack.baal(0), &["host", "list"]).await.contains("free"));
    assert_eq!(stack.errors(), Vec::<String>::new());
    stack.simulator.assert_good_manners().await;
}
