//! What must hold whenever things have come to rest.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Row as _;

use crate::field::{Field, PATIENCE};

impl Field {
    /// Waits until no job is left, and then until cloud and database agree: every instance that is paid for has one row that
    /// has not ended, and there is no such row without. Nothing went wrong on the way but what the far sides did.
    #[track_caller]
    pub fn rests(&self) -> impl Future<Output = ()> {
        let agrees = self.agrees();
        async move {
            agrees.await;
            let errors = self.stack.errors();
            assert!(errors.is_empty(), "the program logged errors:\n{}", errors.join("\n"));
        }
    }

    /// The same, where errors may have been logged.
    #[track_caller]
    pub fn agrees(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            loop {
                match self.disagreement().await {
                    None => break,
                    Some(why) => {
                        assert!(tokio::time::Instant::now() < deadline, "{caller}: it doesn't come to rest: {why}");
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.stack.simulator.assert_good_manners().await;
        }
    }

    async fn disagreement(&self) -> Option<String> {
        // One snapshot of the database, between two of the cloud.
        let before = self.paid().await;
        let mut tx = self.stack.db.begin().await.unwrap();
        sqlx::query("set transaction isolation level repeatable read").execute(&mut *tx).await.unwrap();
        let jobs = "select format('%s of agent %s at %s (%s)', kind, agent_id, step, error) from jobs where not done";
        let jobs: Vec<String> = sqlx::query_scalar(jobs).fetch_all(&mut *tx).await.unwrap();
        let rows = "select v.item_hash, v.state, v.cloud, a.status from vms v left join agents a on a.id = v.agent_id
                     where v.ended_at is null";
        let rows = sqlx::query(rows).fetch_all(&mut *tx).await.unwrap();
        let homeless =
            "select format('agent %s is %s', id, status) from agents a where status not in ('deleted', 'failed')
                          and 1 <> (select count(*) from vms v where v.agent_id = a.id and v.ended_at is null)";
        let homeless: Vec<String> = sqlx::query_scalar(homeless).fetch_all(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        let after = self.paid().await;
        if !jobs.is_empty() {
            return Some(format!("jobs are at work: {}", jobs.join(", ")));
        }
        if before != after {
            return Some("instances come and go".into());
        }
        let known: Vec<String> = rows.iter().filter_map(|row| row.get("item_hash")).collect();
        let set: BTreeSet<String> = known.iter().cloned().collect();
        if known.len() != set.len() || set != after {
            return Some(format!("paid for: {after:?}; known to the database: {known:?}"));
        }
        for row in &rows {
            let (state, status): (String, Option<String>) = (row.get("state"), row.get("status"));
            let fits = match state.as_str() {
                "warm" => status.is_none(),
                "assigned" => matches!(status.as_deref(), Some("running" | "failed")),
                _ => false,
            };
            if !fits {
                return Some(format!("a machine is {state}, and its agent is {status:?}"));
            }
        }
        (!homeless.is_empty()).then(|| format!("not one machine each: {}", homeless.join(", ")))
    }

    /// Hashes of this installation's instances that cost something.
    pub async fn paid(&self) -> BTreeSet<String> {
        let installation: uuid::Uuid = self.stack.sql("select id from installation").await;
        let installation = installation.to_string();
        let instances = self.cloud.instances().await;
        let ours = instances.into_iter().filter(|i| i.billed && i.installation() == Some(&installation));
        ours.map(|i| i.item_hash).collect()
    }
}
