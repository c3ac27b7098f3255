//! `baal host add | list | remove`.

use clap::Subcommand;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Host, Use, fingerprint, look, parse_address, parse_public_name};
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::config::{CloudKind, Config};
use crate::database;

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Add a machine: it is reached over SSH as root, looked at, and its host key is remembered. Nothing is changed there.
    Add {
        /// IP address or name, with the port of its SSH server where that is not 22.
        #[arg(value_name = "ADDRESS[:PORT]")]
        address: String,
        /// The name under which its agent will be reached over HTTPS, perhaps with a port; the address if not given.
        #[arg(long, value_name = "PUBLIC_NAME")]
        name: Option<String>,
        /// The host key that it must show: `ssh-ed25519 AAAA…`, or the fingerprint `SHA256:…`. Without it, the key that it
        /// shows now is believed.
        #[arg(long, value_name = "KEY")]
        host_key: Option<String>,
    },
    /// Show all machines and what is on them.
    List,
    /// Take a machine without an agent out of use; one whose agent is being deleted may be dead.
    Remove {
        /// Its number in `baal host list`.
        id: i64,
    },
}

/// Does it and prints what came of it.
pub async fn run(config: &Config, db: &sqlx::PgPool, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Add { address, name, host_key } => {
            let ssh = parse_address(&address)?;
            let name = name.as_deref().map(parse_public_name).transpose()?;
            let found = look(config, &ssh, host_key.as_deref()).await?;
            let mut tx = database::begin(db).await?;
            let id = super::insert(&mut tx, &ssh, name.as_deref(), &found.host_key).await?;
            let after = json!({"address": ssh.to_string(), "public_name": name, "host_key": found.fingerprint});
            record(&mut tx, "host.add", id, Value::Null, after).await?;
            tx.commit().await?;
            println!("Host {id}: {ssh}, {}.", found.system);
            println!("Its host key has the fingerprint {}; it must show this key from now on.", found.fingerprint);
            if host_key.is_none() {
                println!("Compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine.");
            }
            if config.cloud != CloudKind::Hosts {
                println!("CLOUD is {}: hosts are used with CLOUD=hosts.", config.cloud.as_str());
            }
        }
        Action::List => {
            let hosts = super::list(&mut *db.acquire().await?).await?;
            for line in table(&hosts) {
                println!("{line}");
            }
        }
        Action::Remove { id } => {
            let mut tx = database::begin(db).await?;
            let before = super::get(&mut tx, id).await?.map(|host| json!({"address": host.ssh.to_string()}));
            let clearing = super::remove(&mut tx, id).await?;
            record(&mut tx, "host.remove", id, before.into(), json!({"clearing": clearing})).await?;
            tx.commit().await?;
            println!("Host {id} is no longer used.");
            if clearing {
                println!(
                    "An agent was there. It is tried once more to wipe the machine; if that does not answer, it keeps what it \
                     has: wipe or reinstall it before you use it again."
                );
            } else {
                println!("The machine itself was not touched.");
            }
        }
    }
    Ok(())
}

async fn record(conn: &mut PgConnection, action: &str, id: i64, before: Value, after: Value) -> sqlx::Result<()> {
    let change = Change { action, kind: "host", id: id.to_string(), user_id: None, before, after };
    audit::record(conn, &Caller::command_line(), change).await
}

fn table(hosts: &[(Host, Option<Use>)]) -> Vec<String> {
    if hosts.is_empty() {
        return vec!["There are no hosts. `baal host add ADDRESS` adds one.".into()];
    }
    hosts
        .iter()
        .map(|(host, there)| {
            let there = match there {
                None => "free".to_owned(),
                Some(Use { agent_id: Some(agent), .. }) => format!("agent {agent}"),
                Some(Use { state, .. }) => state.clone(),
            };
            let key = host.host_key.as_deref().and_then(fingerprint).unwrap_or_else(|| "no host key yet".into());
            format!("{:>4}  {:<28}  {:<28}  {there:<12}  {key}", host.id, host.ssh.to_string(), host.name())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Address;

    #[test]
    fn the_list_says_what_is_where() {
        assert_eq!(table(&[]).len(), 1);
        let host = Host {
            id: 3,
            ssh: Address { host: "192.0.2.7".into(), port: 22 },
            public_name: Some("a.example.org".into()),
            host_key: None,
        };
        let lines = table(&[
            (host.clone(), None),
            (host.clone(), Some(Use { state: "assigned".into(), agent_id: Some(12) })),
            (host, Some(Use { state: "warm".into(), agent_id: None })),
        ]);
        for (line, word) in lines.iter().zip(["free", "agent 12", "warm"]) {
            assert!(line.contains(word) && line.contains("192.0.2.7:22") && line.contains("a.example.org"), "{line}");
        }
    }
}
