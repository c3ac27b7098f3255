//! The rows of vms: each is there before anything of it exists, and ended only when nothing of it does.
//!
//! Invariant: **nothing is paid for that no row knows.** A row is inserted before its instance is asked for, in the
//! transaction that counts all rows not ended, and ends only after the cloud confirmed that nothing of it is left.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::aleph::Instance;
pub use super::root::Root;
use crate::agents::Agent;
use crate::agents::model::agent_columns;
use crate::config::CloudKind;
use crate::database::columns;
use crate::{jobs, ssh};

/// What a machine is for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum VmState {
    /// A job makes it ready for the pool.
    Preparing,
    /// It waits in the pool.
    Warm,
    /// It is an agent's.
    Assigned,
    /// A job removes it.
    Retiring,
}

impl VmState {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Warm => "warm",
            Self::Assigned => "assigned",
            Self::Retiring => "retiring",
        }
    }
}

/// What a machine is, and how to find it again: `vms.data`, by `vms.cloud`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// A directory and a port of this host.
    Local(LocalData),
    /// An instance of Aleph Cloud.
    Aleph(Box<Instance>),
    /// A host that the operator brought.
    Host(HostPlace),
}

/// A row of `hosts`, as the machine that an agent has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlace {
    /// `hosts.id`.
    pub host_id: i64,
    /// Where its SSH server listens.
    pub ssh: ssh::Address,
}

impl Machine {
    /// Where it is.
    pub fn cloud(&self) -> CloudKind {
        match self {
            Self::Local(_) => CloudKind::Local,
            Self::Aleph(_) => CloudKind::Aleph,
            Self::Host(_) => CloudKind::Hosts,
        }
    }

    fn data(&self) -> serde_json::Result<serde_json::Value> {
        match self {
            Self::Local(data) => serde_json::to_value(data),
            Self::Aleph(instance) => serde_json::to_value(instance),
            Self::Host(place) => serde_json::to_value(place),
        }
    }

    fn read(cloud: &str, data: serde_json::Value) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(match cloud.parse::<CloudKind>()? {
            CloudKind::Local => Self::Local(serde_json::from_value(data)?),
            CloudKind::Aleph => Self::Aleph(serde_json::from_value(data)?),
            CloudKind::Hosts => Self::Host(serde_json::from_value(data)?),
        })
    }
}

/// A row of vms, of any cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Ours.
    pub id: Uuid,
    /// Whose it is; none in the pool.
    pub agent_id: Option<i64>,
    /// What it is for.
    pub state: VmState,
    /// What it is.
    pub machine: Machine,
    /// The host key it showed at first contact, in OpenSSH's form.
    pub host_key: Option<String>,
    /// Its public name, once it has one.
    pub name: Option<String>,
    /// Whether anything of an agent may have been written to it.
    pub touched: bool,
}

macro_rules! vm_columns {
    () => {
        columns!("": id, agent_id, cloud, state, data, host_key, name, touched)
    };
}

impl FromRow<'_, PgRow> for Vm {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let cloud: String = row.try_get("cloud")?;
        let machine = Machine::read(&cloud, row.try_get("data")?)
            .map_err(|source| sqlx::Error::ColumnDecode { index: "data".into(), source })?;
        Ok(Self {
            id: row.try_get("id")?,
            agent_id: row.try_get("agent_id")?,
            state: row.try_get("state")?,
            machine,
            host_key: row.try_get("host_key")?,
            name: row.try_get("name")?,
            touched: row.try_get("touched")?,
        })
    }
}

impl Vm {
    /// Its directory and port, if it is of the local cloud.
    pub fn local(&self) -> Option<LocalVm> {
        match &self.machine {
            Machine::Local(data) => Some(LocalVm { id: self.id, root: data.root.clone(), port: data.port }),
            Machine::Aleph(_) | Machine::Host(_) => None,
        }
    }

    /// Where its agent is reached, without a slash at the end; none while it has no name.
    pub fn url(&self) -> Option<String> {
        match self.local() {
            Some(local) => Some(local.url()),
            None => self.name.as_ref().map(|name| format!("https://{name}")),
        }
    }
}

/// This installation's id, which instances carry.
pub async fn installation_id(conn: &mut PgConnection) -> sqlx::Result<Uuid> {
    sqlx::query_scalar("select id from installation").fetch_one(conn).await
}

/// Machines that are not certainly gone, counted under a lock on the installation's row that lasts until the transaction
/// ends: whoever inserts a machine counts first, so that there are never more than allowed.
pub async fn count_unended(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query("select from installation for no key update").execute(&mut *conn).await?;
    sqlx::query_scalar("select count(*) from vms where ended_at is null").fetch_one(conn).await
}

/// The machine, locked until the transaction ends; none if it is gone or was never known.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Vm>> {
    sqlx::query_as(concat!("select ", vm_columns!(), " from vms where id = $1 and ended_at is null for no key update"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The machine; none if it is gone or was never known.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Vm>> {
    sqlx::query_as(concat!("select ", vm_columns!(), " from vms where id = $1 and ended_at is null"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The agent's machines of any cloud that are not certainly gone, oldest first.
pub async fn machines_of(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<Vec<Vm>> {
    sqlx::query_as(concat!(
        "select ",
        vm_columns!(),
        " from vms where agent_id = $1 and ended_at is null order by created_at, id"
    ))
    .bind(agent_id)
    .fetch_all(conn)
    .await
}

/// Writes a machine down, before it is made.
pub async fn insert_machine(conn: &mut PgConnection, vm: &Vm) -> sqlx::Result<()> {
    let data = vm.machine.data().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let (item_hash, crn_hash, host_id) = match &vm.machine {
        Machine::Local(_) => (None, None, None),
        // The node of an instance that we did not make is not always known.
        Machine::Aleph(instance) => {
            (Some(&instance.item_hash), Some(&instance.crn.hash).filter(|hash| !hash.is_empty()), None)
        }
        Machine::Host(place) => (None, None, Some(place.host_id)),
    };
    sqlx::query(
        "insert into vms (id, agent_id, cloud, state, data, item_hash, crn_hash, host_id, host_key, name, touched)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict (id) do nothing",
    )
    .bind(vm.id)
    .bind(vm.agent_id)
    .bind(vm.machine.cloud().as_str())
    .bind(vm.state.as_str())
    .bind(data)
    .bind(item_hash)
    .bind(crn_hash)
    .bind(host_id)
    .bind(&vm.host_key)
    .bind(&vm.name)
    .bind(vm.touched)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives the oldest machine that waits in the pool of this cloud to the agent; none if nobody waits there. Never the same to
/// two.
pub async fn claim_warm(conn: &mut PgConnection, cloud: CloudKind, agent_id: i64) -> sqlx::Result<Option<Vm>> {
    sqlx::query_as(concat!(
        "with warm as materialized (
           select id from vms where cloud = $1 and state = 'warm' and ended_at is null
            order by warm_since limit 1 for update skip locked)
         update vms set state = 'assigned', agent_id = $2 where id = any(array(select warm.id from warm))
         returning ",
        vm_columns!()
    ))
    .bind(cloud.as_str())
    .bind(agent_id)
    .fetch_optional(conn)
    .await
}

/// Puts a claimed machine back into the pool, where it had been before; false if something of an agent may have been written
/// to it, or if it never was there.
pub async fn release_warm(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update vms set state = 'warm', agent_id = null
          where id = $1 and ended_at is null and state = 'assigned' and not touched and warm_since is not null",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Something of an agent may be on it from now on.
pub async fn set_touched(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update vms set touched = true where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// It waits in the pool from now on.
pub async fn set_warm(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query(
        "update vms set state = 'warm', warm_since = now() where id = $1 and ended_at is null and state = 'preparing'",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether something of the agent may still be on machines that were given up and are not certainly gone.
pub async fn leaves_traces(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from vms where last_agent_id = $1 and agent_id is null and touched and ended_at is null)",
    )
    .bind(agent_id)
    .fetch_one(conn)
    .await
}

/// Makes the machine nobody's, remembers whose it was, and enqueues the job that removes it, unless one is live or the machine is gone. Wake
/// [`Queue::Jobs`](crate::wake::Queue) after the commit.
pub async fn retire(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    let result = sqlx::query(
        "update vms set state = 'retiring', agent_id = null, last_agent_id = coalesce(agent_id, last_agent_id)
          where id = $1 and ended_at is null",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    if result.rows_affected() == 1 {
        jobs::store::enqueue_retire(conn, id).await?;
    }
    Ok(())
}

/// A machine of the local cloud: a directory and a port of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalVm {
    /// Names the directory.
    pub id: Uuid,
    /// Below which the directory is.
    pub root: Root,
    /// On 127.0.0.1.
    pub port: u16,
}

impl LocalVm {
    /// Where its agent is reached.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// `vms.data` of a machine of the local cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalData {
    /// Below which its directory is.
    pub root: Root,
    /// On 127.0.0.1.
    pub port: u16,
}

impl From<&LocalVm> for Json<LocalData> {
    fn from(vm: &LocalVm) -> Self {
        Self(LocalData { root: vm.root.clone(), port: vm.port })
    }
}

impl FromRow<'_, PgRow> for LocalVm {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let Json(LocalData { root, port }) = row.try_get("data")?;
        Ok(Self { id: row.try_get("id")?, root, port })
    }
}

/// It listens, or will listen, on another port.
pub async fn set_port(conn: &mut PgConnection, vm: &LocalVm) -> sqlx::Result<()> {
    sqlx::query("update vms set data = $2 where id = $1")
        .bind(vm.id)
        .bind(Json::<LocalData>::from(vm))
        .execute(conn)
        .await?;
    Ok(())
}

/// Nothing of these machines is left.
pub async fn end(conn: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query("update vms set ended_at = now() where id = any($1) and ended_at is null")
        .bind(ids)
        .execute(conn)
        .await?;
    Ok(())
}

/// Which of these machines were below this root and are known to have ended.
pub async fn ended_among(conn: &mut PgConnection, root: &Root, ids: &[Uuid]) -> sqlx::Result<Vec<LocalVm>> {
    sqlx::query_as(
        "select id, data from vms
          where id = any($1) and cloud = 'local' and data -> 'root' = $2 and ended_at is not null",
    )
    .bind(ids)
    .bind(Json(root))
    .fetch_all(conn)
    .await
}

/// Machines of agents that should be running and that no job is working at; with `only`, that one alone.
pub async fn to_supervise(conn: &mut PgConnection, only: Option<Uuid>) -> sqlx::Result<Vec<(LocalVm, Agent)>> {
    let rows = sqlx::query(concat!(
        "select v.id as vm_id, v.data, ",
        agent_columns!("a."),
        " from vms v join agents a on a.id = v.agent_id
          where v.cloud = 'local' and v.ended_at is null and a.status = 'running' and ($1 is null or v.id = $1)
            and not exists (select from jobs j where j.agent_id = a.id and not j.done)",
    ))
    .bind(only)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let Json(LocalData { root, port }) = row.try_get("data")?;
            Ok((LocalVm { id: row.try_get("vm_id")?, root, port }, Agent::from_row(row)?))
        })
        .collect()
}

/// Local machines of agents that are stopped and that no job works at; only this one, if one is named.
pub async fn stopped(conn: &mut PgConnection, only: Option<Uuid>) -> sqlx::Result<Vec<LocalVm>> {
    let rows = sqlx::query(
        "select v.id, v.data from vms v join agents a on a.id = v.agent_id
          where v.cloud = 'local' and v.ended_at is null and a.status = 'stopped' and ($1 is null or v.id = $1)
            and not exists (select from jobs j where j.agent_id = a.id and not j.done)",
    )
    .bind(only)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let Json(LocalData { root, port }) = row.try_get("data")?;
            Ok(LocalVm { id: row.try_get("id")?, root, port })
        })
        .collect()
}

/// The agent was found listening on another port than the rows say; both are set right, unless it is no longer running.
pub async fn moved(conn: &mut PgConnection, agent_id: i64, vm: &LocalVm) -> sqlx::Result<()> {
    let running = sqlx::query("update agents set url = $2 where id = $1 and status = 'running'")
        .bind(agent_id)
        .bind(vm.url())
        .execute(&mut *conn)
        .await?;
    if running.rows_affected() == 1 {
        set_port(conn, vm).await?;
    }
    Ok(())
}
