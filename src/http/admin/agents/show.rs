//! Agents as the API shows them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::etag;
use super::super::problem::ApiError;
use crate::admin::audit;
use crate::agents::standing::Standing;
use crate::agents::{Agent, Status, service};
use crate::config::Visibility;

/// An agent without its personality, as lists have it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub(in super::super) struct Shown {
    #[schema(example = 42)]
    pub id: i64,
    /// Telegram's id of the user whose it is.
    #[schema(example = 123_456_789)]
    owner_id: i64,
    /// Any text on one line: its owner wrote it.
    #[schema(example = "Ada")]
    name: String,
    /// The model that it thinks with.
    #[schema(example = "glm-4.7")]
    model: String,
    visibility: Visibility,
    /// Where it stands in its life.
    status: Status,
    /// Whether it was running elsewhere when it was taken in: there is no machine of ours.
    external: bool,
    /// Where it answers, while it does.
    #[schema(example = "https://a42.example.org")]
    url: Option<String>,
    /// The version of the protocol that it speaks.
    #[schema(example = 2)]
    protocol: i32,
    /// Which version of its words is wanted; grows with every change.
    #[schema(example = 3)]
    wanted_version: i32,
    /// Which version was installed last; 0: none yet.
    #[schema(example = 3)]
    deployed_version: i32,
    /// Whether it was installed with its owner's own key.
    own_key: bool,
    /// Why no message reaches it although it runs, as its owner was told.
    paused: Option<String>,
    /// Since when it has been known not to answer.
    unwell_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// The job that is working at it.
    job: Option<LiveJob>,
    /// The last time that it was set up, updated or repaired.
    last_job: Option<LastJob>,
}

/// A job that is working at an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LiveJob {
    id: Uuid,
    /// What it is to bring about.
    #[schema(example = "provision")]
    kind: String,
    /// What it is about to do.
    #[schema(example = "install")]
    step: String,
    /// The same in words, after "Ada is".
    #[schema(example = "being set up (installing it)")]
    doing: String,
    /// Its place among those that wait for a machine, from 1.
    place: Option<i64>,
}

/// A job that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LastJob {
    /// What it was to bring about.
    #[schema(example = "provision")]
    kind: String,
    /// `succeeded`, `failed` or `cancelled`.
    #[schema(example = "succeeded")]
    outcome: String,
    /// How long ago it ended, in seconds.
    #[schema(example = 12.5)]
    seconds_ago: f64,
    /// Why it failed, as its owner was told.
    error: Option<String>,
    /// Tries of its steps that failed.
    #[schema(example = 0)]
    failures: i64,
}

/// An agent with its personality.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentDetail)]
pub(in super::super) struct Detail {
    #[serde(flatten)]
    pub agent: Shown,
    /// How it is: any text, its owner wrote it.
    #[schema(example = "You are a patient teacher of mathematics.")]
    system_prompt: String,
}

#[derive(FromRow)]
struct More {
    id: i64,
    created_at: DateTime<Utc>,
    unwell_since: Option<DateTime<Utc>>,
    job_id: Option<Uuid>,
}

/// How these agents are, in their order.
pub(in super::super) async fn several(conn: &mut PgConnection, agents: Vec<Agent>) -> Result<Vec<Shown>, ApiError> {
    let ids: Vec<i64> = agents.iter().map(|agent| agent.id).collect();
    let mut standings = service::standings(conn, &agents).await?;
    let more: Vec<More> = sqlx::query_as(
        "select a.id, a.created_at, a.unwell_since,
                (select j.id from jobs j where j.agent_id = a.id and not j.done) as job_id
           from agents a where a.id = any($1)",
    )
    .bind(&ids)
    .fetch_all(conn)
    .await?;
    let mut more: HashMap<i64, More> = more.into_iter().map(|more| (more.id, more)).collect();
    let shown = agents.into_iter().filter_map(|agent| {
        let standing = standings.remove(&agent.id).unwrap_or_default();
        more.remove(&agent.id).map(|more| Shown::of(agent, standing, more))
    });
    Ok(shown.collect())
}

/// How this agent is, with its personality.
pub(in super::super) async fn detail(conn: &mut PgConnection, agent: Agent) -> Result<Detail, ApiError> {
    let (id, system_prompt) = (agent.id, agent.system_prompt.clone());
    let agent = several(conn, vec![agent]).await?.pop().ok_or_else(|| super::missing(id))?;
    Ok(Detail { agent, system_prompt })
}

impl Shown {
    fn of(agent: Agent, standing: Standing, more: More) -> Self {
        let Standing { live, last, .. } = standing;
        // Read one after the other: a job may have ended in between.
        let job = live.zip(more.job_id).map(|(live, id)| LiveJob {
            id,
            doing: live.doing(),
            kind: live.kind,
            step: live.step,
            place: live.place,
        });
        let last_job = last.map(|last| LastJob {
            kind: last.kind,
            outcome: last.outcome,
            seconds_ago: last.ago.as_secs_f64(),
            error: last.error,
            failures: last.failures,
        });
        Self {
            id: agent.id,
            owner_id: agent.owner_id,
            name: agent.name,
            model: agent.model,
            visibility: agent.visibility,
            status: agent.status,
            external: agent.external,
            url: agent.url,
            protocol: agent.protocol,
            wanted_version: agent.wanted_version,
            deployed_version: agent.deployed_version,
            own_key: agent.deployed_key != 0,
            paused: agent.paused,
            unwell_since: more.unwell_since,
            created_at: more.created_at,
            job,
            last_job,
        }
    }
}

/// Which version of what can be changed this is.
pub(super) fn tag(agent: &Agent) -> String {
    etag::of(&(&agent.name, &agent.system_prompt, &agent.model, agent.visibility))
}

/// For the record: what can be changed, of the personality its length and hash.
pub(super) fn recorded(agent: &Agent) -> Value {
    json!({
        "name": agent.name,
        "system_prompt": audit::digest(&agent.system_prompt),
        "model": agent.model,
        "visibility": agent.visibility,
        "status": agent.status,
    })
}

/// The fields that differ, before and after.
pub(in super::super) fn difference(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(mut before), Value::Object(mut after)) = (before, after) else {
        return (Value::Null, Value::Null);
    };
    let same: Vec<String> =
        before.iter().filter(|(key, old)| after.get(*key) == Some(*old)).map(|(key, _)| key.clone()).collect();
    for key in same {
        before.remove(&key);
        after.remove(&key);
    }
    (Value::Object(before), Value::Object(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_what_differs() {
        let (before, after) = difference(json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3, "c": 4}));
        assert_eq!((before, after), (json!({"b": 2}), json!({"b": 3, "c": 4})));
    }
}
