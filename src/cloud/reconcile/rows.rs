//! What the reconciler reads and writes.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::compare::{Findings, Known, Remembered};
use super::report::{Report, StuckLine};
use crate::cloud::aleph::{Crn, Instance, Listed};
use crate::cloud::store::{self, Machine, Vm, VmState};
use crate::config::CloudKind;
use crate::database::columns;

/// A job that works at the row `v`.
macro_rules! busy {
    () => {
        "exists (select from jobs j where not j.done
            and (j.vm_id = v.id or j.agent_id = v.agent_id or j.state ->> 'vm' = v.id::text))"
    };
}

/// This installation: its id, and whether it only reports.
pub async fn installation(conn: &mut PgConnection) -> sqlx::Result<(Uuid, bool)> {
    sqlx::query_as("select id, report_only from installation").fetch_one(conn).await
}

/// Locks the installation's row until the transaction ends: sweeps take turns. Whether it only reports.
pub async fn lock_installation(conn: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("select report_only from installation for no key update").fetch_one(conn).await
}

/// Whether the last sweep that counted is so long ago that another may; by the database's clock. To be asked under the lock on
/// the installation's row.
pub async fn may_count(conn: &mut PgConnection, apart: Duration) -> sqlx::Result<bool> {
    sqlx::query_scalar("select swept_at is null or swept_at <= now() - make_interval(secs => $1) from installation")
        .bind(apart.as_secs_f64())
        .fetch_one(conn)
        .await
}

/// This sweep counts.
pub async fn set_counted(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("update installation set swept_at = now()").execute(conn).await?;
    Ok(())
}

/// From now on the reconciler only reports, or acts again.
pub async fn set_report_only(conn: &mut PgConnection, only: bool) -> sqlx::Result<()> {
    sqlx::query("update installation set report_only = $1").bind(only).execute(conn).await?;
    Ok(())
}

/// Instances' rows that are open, and those of the listed instances.
pub async fn known(conn: &mut PgConnection, listed: &[Listed]) -> sqlx::Result<Vec<Known>> {
    let hashes: Vec<_> = listed.iter().map(|one| one.item_hash.as_str()).collect();
    let rows = sqlx::query(concat!(
        "select ",
        columns!("v.": id, item_hash, ended_at, state, agent_id, created_at, missing_sweeps, missing_since),
        ", ",
        busy!(),
        " as busy from vms v where v.item_hash is not null and (v.ended_at is null or v.item_hash = any($1))"
    ))
    .bind(hashes)
    .fetch_all(conn)
    .await?;
    let read = |row: &sqlx::postgres::PgRow| {
        let ended_at: Option<DateTime<Utc>> = row.try_get("ended_at")?;
        Ok(Known {
            id: row.try_get("id")?,
            item_hash: row.try_get("item_hash")?,
            ended: ended_at.is_some(),
            state: row.try_get("state")?,
            agent_id: row.try_get("agent_id")?,
            busy: row.try_get("busy")?,
            created_at: row.try_get("created_at")?,
            missing_sweeps: row.try_get("missing_sweeps")?,
            missing_since: row.try_get("missing_since")?,
        })
    };
    rows.iter().map(read).collect()
}

/// What is remembered of strays, by item hash.
pub async fn strays(conn: &mut PgConnection) -> sqlx::Result<HashMap<String, Remembered>> {
    let rows: Vec<(String, DateTime<Utc>, i32)> =
        sqlx::query_as("select item_hash, first_seen_at, sweeps from stray_instances").fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(hash, first_seen_at, sweeps)| (hash, Remembered { first_seen_at, sweeps })).collect())
}

/// Remembers what was found for the next sweep.
pub async fn remember(conn: &mut PgConnection, findings: &Findings) -> sqlx::Result<()> {
    let hashes: Vec<_> = findings.strays.iter().map(|stray| stray.listed.item_hash.as_str()).collect();
    let sweeps: Vec<_> = findings.strays.iter().map(|stray| stray.sweeps).collect();
    sqlx::query(
        "insert into stray_instances (item_hash, sweeps) select * from unnest($1::text[], $2::int4[])
         on conflict (item_hash) do update set sweeps = excluded.sweeps, last_seen_at = now()",
    )
    .bind(hashes)
    .bind(sweeps)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from stray_instances where item_hash = any($1)")
        .bind(&findings.no_strays)
        .execute(&mut *conn)
        .await?;
    // Whoever holds a row waits for the installation's lock perhaps, which is ours: such rows are left to the next sweep.
    sqlx::query(
        "with free as materialized (select id from vms where id = any($1) for no key update skip locked)
         update vms v set missing_sweeps = 0, missing_since = null from free where v.id = free.id",
    )
    .bind(&findings.found)
    .execute(&mut *conn)
    .await?;
    let ids: Vec<_> = findings.missing.iter().map(|missing| missing.id).collect();
    let sweeps: Vec<_> = findings.missing.iter().map(|missing| missing.sweeps).collect();
    sqlx::query(
        "with free as materialized (
           select v.id, m.sweeps from vms v join unnest($1::uuid[], $2::int4[]) m(id, sweeps) on v.id = m.id
            where v.ended_at is null for no key update of v skip locked)
         update vms v set missing_sweeps = free.sweeps, missing_since = coalesce(v.missing_since, now())
           from free where v.id = free.id",
    )
    .bind(ids)
    .bind(sweeps)
    .execute(conn)
    .await?;
    Ok(())
}

/// Saves the report.
pub async fn save_report(conn: &mut PgConnection, report: &Report) -> sqlx::Result<()> {
    sqlx::query("update installation set reconciled_at = now(), report = $1").bind(Json(report)).execute(conn).await?;
    Ok(())
}

/// The last report, and how long ago it was made.
pub async fn last_report(conn: &mut PgConnection) -> sqlx::Result<Option<(Duration, Value)>> {
    let row: (Option<f64>, Option<Json<Value>>) =
        sqlx::query_as("select extract(epoch from now() - reconciled_at)::float8, report from installation")
            .fetch_one(conn)
            .await?;
    Ok(row.0.zip(row.1).map(|(age, Json(report))| (Duration::from_secs_f64(age.max(0.0)), report)))
}

/// Open rows of machines that a process with this CLOUD has no access to.
pub async fn out_of_reach(conn: &mut PgConnection, cloud: CloudKind) -> sqlx::Result<Vec<StuckLine>> {
    let others: &[CloudKind] = match cloud {
        // It has what hosts need as well.
        CloudKind::Aleph => &[],
        CloudKind::Hosts => &[CloudKind::Aleph],
        CloudKind::Local => &[CloudKind::Aleph, CloudKind::Hosts],
    };
    let others: Vec<_> = others.iter().map(|cloud| cloud.as_str()).collect();
    let rows: Vec<(Uuid, String, Option<i64>, Option<String>)> = sqlx::query_as(
        "select id, cloud, agent_id, item_hash from vms where cloud = any($1) and ended_at is null order by created_at, id",
    )
    .bind(others)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(vm, cloud, agent, item_hash)| StuckLine { vm, cloud, agent, item_hash }).collect())
}

/// Open rows of machines that nobody has and no job works at, locked until the transaction ends.
pub async fn abandoned(conn: &mut PgConnection) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(concat!(
        "select v.id from vms v
          where v.ended_at is null and v.cloud in ('aleph', 'hosts')
            and (v.state in ('preparing', 'retiring')
                 or exists (select from agents a where a.id = v.agent_id and a.status = 'deleted'))
            and not ",
        busy!(),
        " order by v.id for update of v skip locked"
    ))
    .fetch_all(conn)
    .await
}

/// Locks the row if its machine may be given up: it waits in the pool, or was to, and no job works at it.
pub async fn lock_unused(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let found: Option<Uuid> = sqlx::query_scalar(concat!(
        "select v.id from vms v where v.id = $1 and v.ended_at is null and v.state in ('preparing', 'warm') and not ",
        busy!(),
        " for update of v skip locked"
    ))
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

/// Makes a stray instance known again, so that it can be destroyed: its ended row is opened, or it gets a new one. None if an
/// open row knows it by now. `crn` is the node that it is on; without one, only its message can be forgotten.
pub async fn adopt(conn: &mut PgConnection, listed: &Listed, crn: Option<Crn>) -> sqlx::Result<Option<Uuid>> {
    let row: Option<(Uuid, bool)> =
        sqlx::query_as("select id, ended_at is not null from vms where item_hash = $1 for update")
            .bind(&listed.item_hash)
            .fetch_optional(&mut *conn)
            .await?;
    let id = match row {
        Some((_, false)) => return Ok(None),
        Some((id, true)) => {
            sqlx::query(
                "update vms set ended_at = null, state = 'retiring', agent_id = null,
                        last_agent_id = coalesce(agent_id, last_agent_id), missing_sweeps = 0, missing_since = null,
                        host_key = null
                  where id = $1",
            )
            .bind(id)
            .execute(&mut *conn)
            .await?;
            id
        }
        None => {
            let vm = Vm {
                id: free_id(conn, listed.vm).await?,
                agent_id: None,
                state: VmState::Retiring,
                machine: Machine::Aleph(Box::new(instance(listed, crn))),
                host_key: None,
                name: None,
                touched: true,
            };
            store::insert_machine(conn, &vm).await?;
            vm.id
        }
    };
    sqlx::query("delete from stray_instances where item_hash = $1").bind(&listed.item_hash).execute(&mut *conn).await?;
    Ok(Some(id))
}

/// The id that the instance was made for, if no row has it; else a new one.
async fn free_id(conn: &mut PgConnection, wanted: Option<Uuid>) -> sqlx::Result<Uuid> {
    let Some(id) = wanted else { return Ok(Uuid::now_v7()) };
    let taken: bool =
        sqlx::query_scalar("select exists (select from vms where id = $1)").bind(id).fetch_one(conn).await?;
    Ok(if taken { Uuid::now_v7() } else { id })
}

/// The message itself is not needed to have it forgotten.
fn instance(listed: &Listed, crn: Option<Crn>) -> Instance {
    let unknown = || Crn { hash: listed.crn_hash.clone().unwrap_or_default(), url: String::new(), name: String::new() };
    Instance { item_hash: listed.item_hash.clone(), crn: crn.unwrap_or_else(unknown), message: Value::Null }
}
