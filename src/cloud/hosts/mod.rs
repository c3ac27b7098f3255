//! Machines that the operator brings (CLOUD=hosts): rows of `hosts`. Each holds one agent at a time.

mod address;
pub mod cli;
mod inspect;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

pub use self::address::{Unusable, parse_address, parse_public_name};
use super::store::HostPlace;
use crate::ssh::Address;

/// A row of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its number.
    pub id: i64,
    /// Where its SSH server listens.
    pub ssh: Address,
    /// The name under which its agent is reached, where that is not the address.
    pub public_name: Option<String>,
    /// The host key that it showed when it was added, in OpenSSH's form.
    pub host_key: Option<String>,
}

impl Host {
    /// The name in its agent's URL; an IPv6 address in brackets.
    pub fn name(&self) -> String {
        match &self.public_name {
            Some(name) => name.clone(),
            None if self.ssh.host.contains(':') => format!("[{}]", self.ssh.host),
            None => self.ssh.host.clone(),
        }
    }

    /// What a row of `vms` keeps of it.
    pub fn place(&self) -> HostPlace {
        HostPlace { host_id: self.id, ssh: self.ssh.clone() }
    }
}

impl FromRow<'_, PgRow> for Host {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let port: i32 = row.try_get("port")?;
        let port = u16::try_from(port)
            .map_err(|error| sqlx::Error::ColumnDecode { index: "port".into(), source: error.into() })?;
        Ok(Self {
            id: row.try_get("id")?,
            ssh: Address { host: row.try_get("address")?, port },
            public_name: row.try_get("public_name")?,
            host_key: row.try_get("host_key")?,
        })
    }
}

/// A host without a machine, locked until the transaction ends, in which its row of `vms` is to be inserted; the one that
/// nobody has had for the longest time, so that a bad one does not come first again. None while all are taken.
pub async fn free(conn: &mut PgConnection) -> sqlx::Result<Option<HostPlace>> {
    let mut taken = Vec::new();
    loop {
        let host: Option<Host> = sqlx::query_as(
            "select h.* from hosts h
              where h.removed_at is null and h.id <> all($1)
                and not exists (select from vms v where v.host_id = h.id and v.ended_at is null)
              order by (select max(v.ended_at) from vms v where v.host_id = h.id) nulls first, h.id
              limit 1 for update of h skip locked",
        )
        .bind(&taken)
        .fetch_optional(&mut *conn)
        .await?;
        let Some(host) = host else { return Ok(None) };
        // Asked again under the lock: who held it a moment ago may have put a machine there, which the first look missed.
        if machine_on(conn, host.id).await?.is_none() {
            return Ok(Some(host.place()));
        }
        taken.push(host.id);
    }
}

/// The host, if it was not removed.
pub async fn get(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Host>> {
    sqlx::query_as("select * from hosts where id = $1 and removed_at is null").bind(id).fetch_optional(conn).await
}

/// Hosts without a machine at the moment.
pub async fn count_free(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from hosts h where h.removed_at is null
            and not exists (select from vms v where v.host_id = h.id and v.ended_at is null)",
    )
    .fetch_one(conn)
    .await
}

/// All hosts that were not removed, and what is on them, by number.
pub async fn list(conn: &mut PgConnection) -> sqlx::Result<Vec<(Host, Option<Use>)>> {
    let rows = sqlx::query(
        "select h.*, v.state as vm_state, v.agent_id from hosts h
           left join vms v on v.host_id = h.id and v.ended_at is null
          where h.removed_at is null order by h.id",
    )
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((Host::from_row(row)?, Use::read(row)?))).collect()
}

/// What a host is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The word in `vms.state`.
    pub state: String,
    /// The agent that is there.
    pub agent_id: Option<i64>,
}

impl Use {
    fn read(row: &PgRow) -> sqlx::Result<Option<Self>> {
        let state: Option<String> = row.try_get("vm_state")?;
        let agent_id = row.try_get("agent_id")?;
        Ok(state.map(|state| Self { state, agent_id }))
    }
}

/// What is on the host at the moment.
pub async fn machine_on(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Use>> {
    let row = sqlx::query("select state as vm_state, agent_id from vms where host_id = $1 and ended_at is null")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    row.as_ref().map_or(Ok(None), Use::read)
}

/// Writes a host down; none if its address is there already.
pub async fn insert(
    conn: &mut PgConnection,
    ssh: &Address,
    public_name: Option<&str>,
    host_key: &str,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "insert into hosts (address, port, public_name, host_key) values ($1, $2, $3, $4)
         on conflict (address, port) where removed_at is null do nothing returning id",
    )
    .bind(&ssh.host)
    .bind(i32::from(ssh.port))
    .bind(public_name)
    .bind(host_key)
    .fetch_optional(conn)
    .await
}

/// Why a host was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none of this number.
    #[error("there is no host {0}; `baal host list` shows them")]
    Unknown(i64),
    /// An agent or a machine of the pool is there.
    #[error("{0}")]
    InUse(String),
    /// Postgres.
    #[error("the database does not answer: {0}")]
    Database(#[from] sqlx::Error),
}

/// Takes the host out of use; it is not touched. Refused while a machine is there.
pub async fn remove(conn: &mut PgConnection, id: i64) -> Result<(), RemoveError> {
    // Whoever puts a machine there locks the row as well ([`free`]).
    sqlx::query("select from hosts where id = $1 and removed_at is null for update")
        .bind(id)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(RemoveError::Unknown(id))?;
    if let Some(there) = machine_on(conn, id).await? {
        return Err(RemoveError::InUse(match there.agent_id {
            Some(agent) => format!("agent {agent} is on host {id}: its owner has to delete it first"),
            None => format!(
                "host {id} is {}: wait until that is over, or switch the pool off (POOL_ENABLED=false) and wait until \
                 `baal host list` shows it free",
                if there.state == "warm" { "in the pool" } else { "being set up or cleared" }
            ),
        }));
    }
    sqlx::query("update hosts set removed_at = now() where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_reached_by_the_public_name_or_the_address() {
        let mut host =
            Host { id: 1, ssh: Address { host: "192.0.2.7".into(), port: 22 }, public_name: None, host_key: None };
        assert_eq!(host.name(), "192.0.2.7");
        host.ssh.host = "2001:db8::7".into();
        assert_eq!(host.name(), "[2001:db8::7]");
        host.public_name = Some("vm7.example.org".into());
        assert_eq!(host.name(), "vm7.example.org");
        assert_eq!(host.place(), HostPlace { host_id: 1, ssh: host.ssh.clone() });
    }
}
