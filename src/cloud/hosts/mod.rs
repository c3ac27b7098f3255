//! Machines that the operator brings (CLOUD=hosts): rows of `hosts`. Each holds one agent at a time.

mod adding;
mod address;
pub mod cli;
mod inspect;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

pub use self::adding::{Found, LookError, look};
pub use self::address::{Unusable, parse_address, parse_public_name};
pub use self::inspect::fingerprint;
use super::store::HostPlace;
use crate::database::columns;
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

macro_rules! host_columns {
    ($of:literal) => {
        columns!($of: id, address, port, public_name, host_key)
    };
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
/// nobody has had for the longest time, so that a bad one does not come first again. None while all are taken. One that was
/// removed and added again is free only when nothing is left of what was there before.
pub async fn free(conn: &mut PgConnection) -> sqlx::Result<Option<HostPlace>> {
    let mut taken = Vec::new();
    loop {
        let host: Option<Host> = sqlx::query_as(concat!(
            "select ",
            host_columns!("h."),
            " from hosts h
              where h.removed_at is null and h.id <> all($1)
                and not exists (select from vms v where v.host_id = h.id and v.ended_at is null)
                and not exists (select from vms v where v.host_key = h.host_key and v.ended_at is null)
              order by (select max(v.ended_at) from vms v where v.host_id = h.id) nulls first, h.id
              limit 1 for update of h skip locked",
        ))
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
    sqlx::query_as(concat!("select ", host_columns!(""), " from hosts where id = $1 and removed_at is null"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Hosts without a machine at the moment.
pub async fn count_free(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from hosts h where h.removed_at is null
            and not exists (select from vms v where v.host_id = h.id and v.ended_at is null)
            and not exists (select from vms v where v.host_key = h.host_key and v.ended_at is null)",
    )
    .fetch_one(conn)
    .await
}

/// All hosts that were not removed, and what is on them, by number.
pub async fn list(conn: &mut PgConnection) -> sqlx::Result<Vec<(Host, Option<Use>)>> {
    let rows = sqlx::query(concat!(
        "select ",
        host_columns!("h."),
        ", v.state as vm_state, v.agent_id from hosts h
           left join vms v on v.host_id = h.id and v.ended_at is null
          where h.removed_at is null order by h.id",
    ))
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((Host::from_row(row)?, Use::read(row)?))).collect()
}

/// Hosts that were not removed, and what is on them, newest first: at most `limit` with a number below `before`.
pub async fn page(conn: &mut PgConnection, before: Option<i64>, limit: i64) -> sqlx::Result<Vec<(Host, Option<Use>)>> {
    let rows = sqlx::query(concat!(
        "select ",
        host_columns!("h."),
        ", v.state as vm_state, v.agent_id from hosts h
           left join vms v on v.host_id = h.id and v.ended_at is null
          where h.removed_at is null and h.id < $1 order by h.id desc limit $2",
    ))
    .bind(before.unwrap_or(i64::MAX))
    .bind(limit)
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

/// Why a host was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Its address is there already.
    #[error("{address} is host {id} already; `baal host list` shows it")]
    SameAddress {
        /// The address.
        address: Address,
        /// The host that has it.
        id: i64,
    },
    /// It is known by another address.
    #[error(
        "{address} shows the same host key as host {id}: it is that machine by another address, and a machine holds one \
         agent. If it is a copy of that machine, have it make host keys of its own (`rm /etc/ssh/ssh_host_*` and \
         `dpkg-reconfigure openssh-server`)"
    )]
    SameMachine {
        /// The address.
        address: Address,
        /// The host that shows the same key.
        id: i64,
    },
    /// Postgres.
    #[error("the database does not answer: {0}")]
    Database(#[from] sqlx::Error),
}

/// Writes a host down; its number. A machine is one host, by its address and by its key.
pub async fn insert(
    conn: &mut PgConnection,
    ssh: &Address,
    public_name: Option<&str>,
    host_key: &str,
) -> Result<i64, AddError> {
    loop {
        let added = sqlx::query_scalar(
            "insert into hosts (address, port, public_name, host_key) values ($1, $2, $3, $4)
             on conflict do nothing returning id",
        )
        .bind(&ssh.host)
        .bind(i32::from(ssh.port))
        .bind(public_name)
        .bind(host_key)
        .fetch_optional(&mut *conn)
        .await?;
        if let Some(id) = added {
            return Ok(id);
        }
        let there: Option<(i64, bool)> = sqlx::query_as(
            "select id, address = $1 and port = $2 as same_address from hosts
              where removed_at is null and (address = $1 and port = $2 or host_key = $3)
              order by same_address desc, id limit 1",
        )
        .bind(&ssh.host)
        .bind(i32::from(ssh.port))
        .bind(host_key)
        .fetch_optional(&mut *conn)
        .await?;
        match there {
            Some((id, true)) => return Err(AddError::SameAddress { address: ssh.clone(), id }),
            Some((id, false)) => return Err(AddError::SameMachine { address: ssh.clone(), id }),
            // Removed in between.
            None => {}
        }
    }
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

/// Takes the host out of use; it is not touched by that. Refused while it is of use to an agent or to the pool. One that is being
/// cleared is let go: it may never answer again. Then the job that clears it tries at once, and for the last time. True if
/// there is such a job; wake [`Queue::Jobs`](crate::wake::Queue) after the commit.
pub async fn remove(conn: &mut PgConnection, id: i64) -> Result<bool, RemoveError> {
    // Whoever puts a machine there locks the row as well ([`free`]).
    sqlx::query("select from hosts where id = $1 and removed_at is null for update")
        .bind(id)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(RemoveError::Unknown(id))?;
    let there: Option<(Uuid, Option<i64>, String, bool)> = sqlx::query_as(
        "select v.id, v.agent_id, v.state,
                v.state = 'retiring' or exists (select from agents a where a.id = v.agent_id
                                                   and a.status in ('deleting', 'deleted')) as cleared
           from vms v where v.host_id = $1 and v.ended_at is null",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some((_, agent, state, false)) = &there {
        return Err(RemoveError::InUse(match agent {
            Some(agent) => format!(
                "agent {agent} is on host {id}: its owner has to delete it first; after that `baal host remove {id}` works \
                 even if the machine does not answer any more"
            ),
            None if state == "warm" => format!(
                "host {id} is in the pool: switch the pool off (POOL_ENABLED=false) and wait until `baal host list` shows \
                 it free"
            ),
            None => format!("host {id} is being set up: wait until that is over; `baal host list` shows it"),
        }));
    }
    sqlx::query("update hosts set removed_at = now() where id = $1").bind(id).execute(&mut *conn).await?;
    let Some((vm, agent, ..)) = there else { return Ok(false) };
    sqlx::query("update jobs set run_at = least(run_at, now()) where not done and (vm_id = $1 or agent_id = $2)")
        .bind(vm)
        .bind(agent)
        .execute(conn)
        .await?;
    Ok(true)
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
