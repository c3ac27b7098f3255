//! How agents are getting on: the job under way, how the last one ended, and since when they are unwell.
//!
//! Kinds and steps are kept as the words of the database: a replica of a newer version may have written ones that this one
//! does not know, and a list must not fail over that.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, Row};

/// What is known of one agent beyond its row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The job that is working at it.
    pub live: Option<Live>,
    /// The last time that it was set up, updated or repaired.
    pub last: Option<Deployment>,
    /// For how long it has been known not to answer.
    pub unwell_for: Option<Duration>,
}

/// A job under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// `jobs.kind`.
    pub kind: String,
    /// `jobs.step`.
    pub step: String,
    /// Its place in the line of those that wait for a machine, from 1.
    pub place: Option<i64>,
}

/// A job that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// `jobs.kind`.
    pub kind: String,
    /// `jobs.outcome`.
    pub outcome: String,
    /// When it ended.
    pub ago: Duration,
    /// Why it failed, in words for the owner: part of a sentence.
    pub error: Option<String>,
    /// The last step of which a try failed, and how many of its tries did.
    pub trouble: Option<(String, i64)>,
    /// Tries that failed, of all steps.
    pub failures: i64,
}

impl Live {
    /// Whether it takes away what there is.
    pub fn is_undoing(&self) -> bool {
        matches!(self.step.as_str(), "stop" | "remove" | "end")
    }

    /// Whether it leaves the agent where it is, without running it.
    pub fn is_stopping(&self) -> bool {
        self.kind == "stop"
    }

    /// What is being done, after "Ada is": `being repaired (installing it)`.
    pub fn doing(&self) -> String {
        if let Some(place) = self.place {
            return format!("waiting for a free machine, number {place} in line");
        }
        let kind = match self.kind.as_str() {
            "provision" => "being set up",
            "deprovision" => "being deleted",
            "redeploy" | "takeover" => "being updated",
            "repair" => "being repaired",
            "stop" => "being stopped",
            "start" => "being started",
            _ => "being worked at",
        };
        format!("{kind} ({})", step_words(&self.step))
    }
}

/// What a step does, as in "while installing it".
pub fn step_words(step: &str) -> &'static str {
    match step {
        "place" => "finding a place for it",
        "create" => "getting its machine",
        "reach" => "waiting for its machine",
        "prepare" => "preparing its machine",
        "store" => "putting its machine into the pool",
        "install" => "installing it",
        "start" => "starting it",
        "health" => "waiting until it answers",
        "finish" => "opening it",
        "restore" => "going back to the version before",
        "halt" => "stopping it",
        "rest" => "keeping it stopped",
        "stop" => "stopping it",
        "remove" => "removing it",
        "end" => "forgetting it",
        _ => "working at it",
    }
}

/// How these agents are getting on, by number.
pub async fn of(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<HashMap<i64, Standing>> {
    let rows = sqlx::query(
        "select a.id, extract(epoch from now() - a.unwell_since)::float8 as unwell_for,
                live.kind as live_kind, live.step as live_step,
                case when live.waiting_since is not null then
                  (select 1 + count(*) from jobs w where not w.done and w.waiting_since is not null and not w.cancel_requested
                      and (w.waiting_since, w.id) < (live.waiting_since, live.id)) end as place,
                last.kind, last.outcome, last.error, extract(epoch from now() - last.ended_at)::float8 as ago,
                trouble.step as trouble_step, trouble.error as trouble_error,
                coalesce(trouble.tries, 0) as tries, coalesce(trouble.failures, 0) as failures
           from agents a
           left join lateral (select j.id, j.kind, j.step, j.waiting_since from jobs j
                               where j.agent_id = a.id and not j.done) live on true
           left join lateral (select j.id, j.kind, j.outcome, j.error, j.ended_at from jobs j
                               where j.agent_id = a.id and j.done and j.kind <> 'deprovision'
                               order by j.created_at desc, j.id desc limit 1) last on true
           left join lateral (select s.step, s.error, count(*) over (partition by s.step) as tries,
                                     count(*) over () as failures
                                from job_steps s where s.job_id = last.id and s.error is not null
                                 and s.step not in ('stop', 'remove', 'end', 'restore')
                               order by s.position desc limit 1) trouble on true
          where a.id = any($1)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let live = match row.try_get::<Option<String>, _>("live_kind")? {
                Some(kind) => Some(Live { kind, step: row.try_get("live_step")?, place: row.try_get("place")? }),
                None => None,
            };
            let last = match row.try_get::<Option<String>, _>("kind")? {
                Some(kind) => {
                    let tries = row.try_get("tries")?;
                    let step: Option<String> = row.try_get("trouble_step")?;
                    Some(Deployment {
                        kind,
                        outcome: row.try_get::<Option<String>, _>("outcome")?.unwrap_or_default(),
                        ago: seconds(row.try_get("ago")?).unwrap_or_default(),
                        error: row.try_get::<Option<String>, _>("error")?.or(row.try_get("trouble_error")?),
                        trouble: step.map(|step| (step, tries)),
                        failures: row.try_get("failures")?,
                    })
                }
                None => None,
            };
            Ok((row.try_get("id")?, Standing { live, last, unwell_for: seconds(row.try_get("unwell_for")?) }))
        })
        .collect()
}

/// How this agent is getting on.
pub async fn of_one(conn: &mut PgConnection, id: i64) -> sqlx::Result<Standing> {
    Ok(of(conn, &[id]).await?.remove(&id).unwrap_or_default())
}

/// An age; none where there is none. What the database wrote after this transaction began is no age below zero.
fn seconds(age: Option<f64>) -> Option<Duration> {
    age.map(|age| Duration::try_from_secs_f64(age.max(0.0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_done_is_told_in_words_even_if_a_newer_version_does_it() {
        let doing = |kind: &str, step: &str, place| Live { kind: kind.into(), step: step.into(), place }.doing();
        assert_eq!(doing("repair", "install", None), "being repaired (installing it)");
        assert_eq!(doing("provision", "place", Some(3)), "waiting for a free machine, number 3 in line");
        assert_eq!(doing("transmogrify", "warp", None), "being worked at (working at it)");
    }

    #[test]
    fn what_is_cleared_away_takes_up_no_change() {
        let is_undoing = |step: &str| Live { kind: "provision".into(), step: step.into(), place: None }.is_undoing();
        assert!(is_undoing("stop") && is_undoing("remove") && !is_undoing("install") && !is_undoing("warp"));
    }

    #[test]
    fn ages_are_never_negative() {
        assert_eq!(seconds(Some(-0.5)), Some(Duration::ZERO));
        assert_eq!(seconds(Some(f64::NAN)), Some(Duration::ZERO));
        assert_eq!(seconds(None), None);
    }
}
