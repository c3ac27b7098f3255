//! Machines as operators look at them, and what they may do about one.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::store::{self, VmState};

/// A machine's row. Its state is the word of the database, or `ended`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Entry {
    /// Ours.
    pub id: Uuid,
    /// What it is for; `ended`: it is gone.
    pub state: String,
    /// The word in CLOUD.
    pub cloud: String,
    /// Whose it is; none in the pool.
    pub agent_id: Option<i64>,
    /// Whose it was before it was given up.
    pub last_agent_id: Option<i64>,
    /// The job that works at it.
    pub job_id: Option<Uuid>,
    /// The instance of Aleph Cloud.
    pub item_hash: Option<String>,
    /// The compute node that it is on.
    pub crn_hash: Option<String>,
    /// That node's address.
    pub crn_url: Option<String>,
    /// The host of the operator's that it is.
    pub host_id: Option<i64>,
    /// Its public name.
    pub name: Option<String>,
    /// In OpenSSH's form.
    pub host_key: Option<String>,
    /// Whether anything of an agent may have been written to it.
    pub touched: bool,
    /// When it was written down.
    pub created_at: DateTime<Utc>,
    /// Since when it has been ready.
    pub warm_since: Option<DateTime<Utc>>,
    /// Since when the cloud has not known it.
    pub missing_since: Option<DateTime<Utc>>,
    /// When it was certainly gone.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Which machines.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// `preparing`, `warm`, `assigned`, `retiring` or `ended`; none: all that are not certainly gone.
    pub state: Option<&'a str>,
    /// The word in CLOUD.
    pub cloud: Option<&'a str>,
    /// Of this agent.
    pub agent_id: Option<i64>,
}

macro_rules! entry {
    () => {
        "select v.id, case when v.ended_at is null then v.state else 'ended' end as state, v.cloud, v.agent_id, v.last_agent_id,
                v.item_hash, v.crn_hash, v.data #>> '{crn,url}' as crn_url, v.host_id, v.name, v.host_key, v.touched,
                v.created_at, v.warm_since, v.missing_since, v.ended_at,
                case when v.ended_at is null then
                  (select j.id from jobs j where not j.done
                      and (j.vm_id = v.id or j.agent_id = v.agent_id or j.state ->> 'vm' = v.id::text)
                    order by j.id limit 1) end as job_id
           from vms v "
    };
}

/// Machines, newest first: at most `limit` behind the one with id `before`.
pub async fn list(
    conn: &mut PgConnection,
    filter: Filter<'_>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as(concat!(
        entry!(),
        "where ($1::uuid is null or (v.created_at, v.id) < (select b.created_at, b.id from vms b where b.id = $1))
           and case when $2::text is null then v.ended_at is null when $2 = 'ended' then v.ended_at is not null
                    else v.ended_at is null and v.state = $2 end
           and ($3::text is null or v.cloud = $3) and ($4::int8 is null or v.agent_id = $4)
         order by v.created_at desc, v.id desc limit $5"
    ))
    .bind(before)
    .bind(filter.state)
    .bind(filter.cloud)
    .bind(filter.agent_id)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// One machine, also one that is gone.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Entry>> {
    sqlx::query_as(concat!(entry!(), "where v.id = $1")).bind(id).fetch_optional(conn).await
}

/// Why a machine was not given up.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// There never was such a machine.
    #[error("There is no machine {0}.")]
    Unknown(Uuid),
    /// Not in its present state; the text is the whole sentence.
    #[error("{0}")]
    Refused(String),
    /// Postgres.
    #[error("the database does not answer: {0}")]
    Database(#[from] sqlx::Error),
}

/// Gives a machine of the pool up: it is removed, and paid for until it is certainly gone. The pool may make another. Wake
/// [`Queue::Jobs`](crate::wake::Queue) after the commit.
pub async fn retire(conn: &mut PgConnection, id: Uuid) -> Result<(), RetireError> {
    let refused = |why: String| Err(RetireError::Refused(why));
    let Some(vm) = store::lock(conn, id).await? else {
        return match get(conn, id).await? {
            Some(_) => refused("It is gone already.".into()),
            None => Err(RetireError::Unknown(id)),
        };
    };
    match vm.state {
        VmState::Assigned => refused(match vm.agent_id {
            Some(agent) => format!("It is agent {agent}'s. Delete the agent, and its machine goes too."),
            None => "It is an agent's.".into(),
        }),
        VmState::Retiring => refused("It is being removed already.".into()),
        VmState::Warm => Ok(store::retire(conn, id).await?),
        VmState::Preparing => {
            // The job that makes it removes it; should that be gone, nobody else would.
            let asked = sqlx::query(
                "update jobs set cancel_requested = true, run_at = least(run_at, now())
                  where not done and kind = 'prepare' and state ->> 'vm' = $1::text",
            )
            .bind(id)
            .execute(&mut *conn)
            .await?;
            if asked.rows_affected() == 0 {
                store::retire(conn, id).await?;
            }
            Ok(())
        }
    }
}
