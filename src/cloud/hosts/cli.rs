//! `baal host add | list | remove`.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use tracing::debug;

use super::inspect::{fingerprint, is_expected, judge, question};
use super::{Host, Use, parse_address, parse_public_name};
use crate::config::{CloudKind, Config};
use crate::ssh::{self, Address, Key, Session, SshError};

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
            let id = super::insert(&mut *db.acquire().await?, &ssh, name.as_deref(), &found.host_key).await?;
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
            let mut tx = db.begin().await?;
            let clearing = super::remove(&mut tx, id).await?;
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

struct Found {
    host_key: String,
    fingerprint: String,
    system: String,
}

/// Looks at the machine, without changing anything there.
async fn look(config: &Config, address: &Address, expected: Option<&str>) -> anyhow::Result<Found> {
    let key = Key::load(&config.ssh_private_key).with_context(|| {
        format!("ALEPH_SSH_PRIVKEY_PATH is {}; `ssh-keygen -t ed25519` makes a key", config.ssh_private_key.display())
    })?;
    let host_key = ssh::host_key(address).await?;
    let fingerprint = fingerprint(&host_key).context("the machine shows a host key that cannot be read")?;
    if expected.is_some_and(|expected| !is_expected(&host_key, expected)) {
        bail!("{address} shows the host key {fingerprint}, not the expected one; it was not added");
    }
    let mut session = match Session::connect(&key, address, &host_key).await {
        Ok(session) => session,
        Err(SshError::Refused { .. }) => bail!(
            "{address} does not accept our SSH key for root. Append this line to /root/.ssh/authorized_keys there:\n{}",
            key.public()
        ),
        Err(error) => return Err(error.into()),
    };
    let answer = session.run(&question()).await;
    session.close().await;
    let answer = answer?;
    debug!(host = %address, stderr = answer.stderr, "the machine was looked at");
    let system = judge(&answer.stdout)
        .map_err(|wrong| anyhow::anyhow!("{address} cannot hold agents:\n- {}", wrong.join("\n- ")))?;
    Ok(Found { host_key, fingerprint, system })
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
