//! The rows of vms: each is there before anything of it exists, and ended only when nothing of it does.

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

pub use super::root::Root;
use crate::agents::Agent;

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

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct LocalData {
    root: Root,
    port: u16,
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

/// The agent's machines that are not certainly gone, oldest first.
pub async fn open_of(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<Vec<LocalVm>> {
    sqlx::query_as(
        "select id, data from vms where agent_id = $1 and cloud = 'local' and ended_at is null order by created_at, id",
    )
    .bind(agent_id)
    .fetch_all(conn)
    .await
}

/// Writes a machine down, before it is made.
pub async fn insert(conn: &mut PgConnection, agent_id: i64, vm: &LocalVm) -> sqlx::Result<()> {
    sqlx::query("insert into vms (id, agent_id, cloud, data) values ($1, $2, 'local', $3) on conflict (id) do nothing")
        .bind(vm.id)
        .bind(agent_id)
        .bind(Json::<LocalData>::from(vm))
        .execute(conn)
        .await?;
    Ok(())
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
    let rows = sqlx::query(
        "select v.id as vm_id, v.data, a.* from vms v join agents a on a.id = v.agent_id
          where v.cloud = 'local' and v.ended_at is null and a.status = 'running' and ($1 is null or v.id = $1)
            and not exists (select from jobs j where j.agent_id = a.id and not j.done)",
    )
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
