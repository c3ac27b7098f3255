//! What is known of the places where machines are: compute nodes that failed lately, host keys, hosts out of use.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

/// Compute nodes that failed lately, by hash.
pub async fn avoided(conn: &mut PgConnection) -> sqlx::Result<HashSet<String>> {
    let hashes: Vec<String> =
        sqlx::query_scalar("select crn_hash from crns_avoided where avoid_until > now()").fetch_all(conn).await?;
    Ok(hashes.into_iter().collect())
}

/// Every replica avoids this node from now on, for so long.
pub async fn avoid(conn: &mut PgConnection, crn_hash: &str, time: Duration, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "insert into crns_avoided (crn_hash, avoid_until, reason) values ($1, now() + make_interval(secs => $2), $3)
         on conflict (crn_hash) do update set avoid_until = excluded.avoid_until, reason = excluded.reason",
    )
    .bind(crn_hash)
    .bind(time.as_secs_f64())
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the operator took this host out of use.
pub async fn host_is_removed(conn: &mut PgConnection, id: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from hosts where id = $1 and removed_at is not null)")
        .bind(id)
        .fetch_one(conn)
        .await
}

/// Remembers the host key that a machine showed at first contact, for as long as it lives; a host's for ever.
///
/// False, and nothing is changed, if another machine shows this key: an open row of `vms`, or a host that this machine is
/// not. Then whoever said where the machine is named somebody else's.
pub async fn pin(conn: &mut PgConnection, vm: Uuid, host_key: &str) -> sqlx::Result<bool> {
    let taken: bool = sqlx::query_scalar(
        "select exists (select from vms o where o.host_key = $2 and o.ended_at is null and o.id <> $1)
             or exists (select from hosts h where h.host_key = $2 and h.removed_at is null
                           and h.id is distinct from (select v.host_id from vms v where v.id = $1))",
    )
    .bind(vm)
    .bind(host_key)
    .fetch_one(&mut *conn)
    .await?;
    if taken {
        return Ok(false);
    }
    // Somebody may pin the same key at this moment: the indexes decide, and the caller's transaction lives on.
    let mut attempt = conn.begin().await?;
    let pinned = async {
        sqlx::query("update vms set host_key = $2 where id = $1 and host_key is null")
            .bind(vm)
            .bind(host_key)
            .execute(&mut *attempt)
            .await?;
        sqlx::query(
            "update hosts h set host_key = $2 from vms v where v.id = $1 and h.id = v.host_id and h.host_key is null",
        )
        .bind(vm)
        .bind(host_key)
        .execute(&mut *attempt)
        .await
    };
    match pinned.await {
        Ok(_) => {
            attempt.commit().await?;
            Ok(true)
        }
        Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
            attempt.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
