//! Looks whether running agents answer, and tells their owners when one does not any more, and when it does again.
//!
//! One replica at a time asks all of them, many at once. What it heard is written in one statement for a batch, which also
//! checks that the agent still runs where it was asked: a job may have moved or stopped it meanwhile.

use std::time::Duration;

use baal_protocol::Health;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use sqlx::{FromRow, PgConnection, Row};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::agents::Agent;
use crate::agents::http::{AgentHttp, read_json};
use crate::agents::model::agent_columns;
use crate::app::App;
use crate::config::CloudKind;
use crate::database;
use crate::replica::Replica;
use crate::telegram::api::ApiError;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Place, send_message};
use crate::telegram::texts::{self, Message};
use crate::wake::Queue;

const LEASE: &str = "health";
/// Agents that are asked at the same moment.
const AT_ONCE: usize = 64;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Agents whose answers are written in one statement.
const BATCH: usize = 256;
/// Failures in a row after which the owner is told.
const UNWELL_AFTER: i32 = 3;
/// So many agents do not stop answering at the same moment by themselves.
const MANY: usize = 5;

/// What was heard of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whose.
    pub agent_id: i64,
    /// Where it was asked.
    pub url: String,
    /// Whether it answered that it is well.
    pub well: bool,
    /// Whether it was known to be unwell before.
    pub known: bool,
}

/// How agents are reached: those that are reached in one way say nothing about the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// On this server: agents of the local cloud.
    Here,
    /// Over our network.
    Network,
}

impl Way {
    fn of(cloud: CloudKind, external: bool) -> Self {
        if cloud == CloudKind::Local && !external { Self::Here } else { Self::Network }
    }
}

/// How many agents fell silent where nobody answers at all, which may be our own network's doing; none if somebody does.
/// `answered` says that somebody did in this round.
fn newly_silent(answered: bool, batch: &[Heard]) -> usize {
    if answered || batch.iter().any(|heard| heard.well) {
        return 0;
    }
    batch.iter().filter(|heard| !heard.known).count()
}

/// Whether it is our own network that fails: several agents do not fall silent at once by themselves, and of few it is
/// suspected if nobody else answers either.
async fn is_our_own(app: &App, way: Way, silent: usize) -> bool {
    silent >= MANY || (silent > 0 && way == Way::Network && !reaches_others(app).await)
}

/// Whether anybody answers who certainly runs: a core channel node, or Telegram.
async fn reaches_others(app: &App) -> bool {
    if let Some(aleph) = &app.aleph {
        // A message that cannot exist: the question is whether there is an answer.
        let asked = tokio::time::timeout(ANSWER_WITHIN, aleph.standing(&"0".repeat(64))).await;
        if matches!(asked, Ok(Ok(_))) {
            return true;
        }
    }
    // silent-ok: whether there is an answer is what is looked for here; a refusal is one.
    matches!(app.telegram.call_raw("getMe", "{}".into(), ANSWER_WITHIN).await, Ok(_) | Err(ApiError::Refused { .. }))
}

/// How a round went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Agents that were asked.
    pub asked: usize,
    /// Owners who were told that their agent does not answer.
    pub unwell: usize,
    /// Owners who were told that it does again.
    pub recovered: usize,
    /// Whether nobody answered, which was not held against the agents.
    pub isolated: bool,
}

/// Probes every HEALTH_INTERVAL, on one replica at a time, until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let mut isolated = false;
    loop {
        if replica.may_send() && replica.holds(&app.db, LEASE).await.unwrap_or(false) {
            let round = tokio::select! {
                () = stop.cancelled() => return,
                () = replica.lost().cancelled() => return,
                round = round(app, isolated) => round,
            };
            match round {
                Ok(round) => isolated = round.isolated,
                Err(error) => warn!(%error, "the agents' health could not be looked up; trying again"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = replica.lost().cancelled() => return,
            () = tokio::time::sleep(app.config.health_interval.mul_f64(rand::random_range(0.9..1.1))) => {}
        }
    }
}

/// Asks every running agent that no job works at. `isolated` says that nobody answered in the round before, of which
/// operators know already.
pub async fn round(app: &App, isolated: bool) -> sqlx::Result<Round> {
    // By the database's clock, so that no agent is asked twice in a round.
    let began: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&app.db).await?;
    let (mut round, mut answered) = (Round::default(), [false; 2]);
    loop {
        let due = due(&mut *app.db.acquire().await?, began).await?;
        if due.is_empty() {
            if isolated && round.asked > 0 {
                info!(agents = round.asked, "agents answer again, or do not by themselves");
                tell_operators(app, &texts::somebody_answers()).await?;
            }
            // Nobody was asked: nothing is known that was not before.
            return Ok(Round { isolated: isolated && round.asked == 0, ..round });
        }
        let count = due.len();
        let heard: Vec<_> = stream::iter(due)
            .map(|(agent_id, url, external, known)| async move {
                let well = is_well(app.agents_http.of(external), &url).await;
                (Way::of(app.config.cloud, external), Heard { agent_id, url, well, known })
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        round.asked += count;
        for (way, answered) in [Way::Here, Way::Network].into_iter().zip(&mut answered) {
            let heard: Vec<_> = heard.iter().filter(|(by, _)| *by == way).map(|(_, heard)| heard.clone()).collect();
            if heard.is_empty() {
                continue;
            }
            if is_our_own(app, way, newly_silent(*answered, &heard)).await {
                error!(
                    agents = heard.len(),
                    "no agent answers, so it may be our own network that fails; their owners are not told"
                );
                if !isolated {
                    tell_operators(app, &texts::nobody_answers(heard.len())).await?;
                }
                return Ok(Round { isolated: true, ..round });
            }
            *answered |= heard.iter().any(|heard| heard.well);
            let mut tx = database::begin(&app.db).await?;
            let (unwell, recovered) = write(&mut tx, &heard).await?;
            tx.commit().await?;
            if unwell + recovered > 0 {
                app.wake.wake(Queue::Outbox);
            }
            round.unwell += unwell;
            round.recovered += recovered;
        }
    }
}

/// Agents that were not asked since `began`, those first that were not for longest: number, address, whether
/// it runs elsewhere, whether unwell.
async fn due(conn: &mut PgConnection, began: DateTime<Utc>) -> sqlx::Result<Vec<(i64, String, bool, bool)>> {
    sqlx::query_as(
        "select a.id, a.url, a.external, a.unwell_since is not null from agents a
          where a.status = 'running' and a.url is not null and (a.probed_at is null or a.probed_at < $1)
            and not exists (select from jobs j where j.agent_id = a.id and not j.done)
          order by a.probed_at nulls first limit $2",
    )
    .bind(began)
    .bind(BATCH as i64)
    .fetch_all(conn)
    .await
}

/// `GET {url}/health` says `ok`.
async fn is_well(http: &AgentHttp, url: &str) -> bool {
    let asked = async {
        let answer = http.get(&format!("{url}/health")).ok()?.send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let health: Health = read_json(answer).await.ok()?;
        Some(health.status == "ok")
    };
    // silent-ok: an agent that does not answer is what is looked for here.
    matches!(tokio::time::timeout(ANSWER_WITHIN, asked).await, Ok(Some(true)))
}

/// Writes down what was heard, and tells owners; how many of either kind.
pub async fn write(conn: &mut PgConnection, heard: &[Heard]) -> sqlx::Result<(usize, usize)> {
    let ids: Vec<_> = heard.iter().map(|heard| heard.agent_id).collect();
    let urls: Vec<_> = heard.iter().map(|heard| heard.url.as_str()).collect();
    let well: Vec<_> = heard.iter().map(|heard| heard.well).collect();
    let rows = sqlx::query(concat!(
        // An agent that a job took up, or that moved, is marked as asked and nothing else. Rows are locked in their order;
        // what they were before is needed to know who is to be told.
        "with before as materialized (
           select a.id, a.unwell_since, h.well,
                  a.status = 'running' and a.url = h.url
                    and not exists (select from jobs j where j.agent_id = a.id and not j.done) as counts
             from agents a join unnest($1::int8[], $2::text[], $3::bool[]) h(id, url, well) on h.id = a.id
            order by a.id for no key update of a)
         update agents a set probed_at = clock_timestamp(),
                health_failures = case when not b.counts then a.health_failures when b.well then 0
                                       else a.health_failures + 1 end,
                unwell_since = case when not b.counts then a.unwell_since when b.well then null
                                    when a.health_failures + 1 >= $4 then coalesce(a.unwell_since, now())
                                    else a.unwell_since end
           from before b where a.id = b.id
         returning ",
        agent_columns!("a."),
        ", b.unwell_since is not null as was_unwell, a.unwell_since is not null as is_unwell",
    ))
    .bind(ids)
    .bind(urls)
    .bind(well)
    .bind(UNWELL_AFTER)
    .fetch_all(&mut *conn)
    .await?;
    let (mut unwell, mut recovered) = (0, 0);
    for row in &rows {
        let agent = Agent::from_row(row)?;
        match (row.try_get("was_unwell")?, row.try_get("is_unwell")?) {
            (false, true) => {
                warn!(agent.id, agent.url, "an agent does not answer any more; its owner is told");
                tell(conn, agent.bot_id, agent.chat_id, &texts::unwell(&agent)).await?;
                unwell += 1;
            }
            (true, false) => {
                info!(agent.id, "an agent answers again; its owner is told");
                tell(conn, agent.bot_id, agent.chat_id, &texts::well_again(&agent)).await?;
                recovered += 1;
            }
            _ => {}
        }
    }
    Ok((unwell, recovered))
}

async fn tell_operators(app: &App, words: &Message) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    for operator in &app.config.operator_ids {
        // A private chat has its user's id.
        tell(&mut tx, app.bot_id, *operator, words).await?;
    }
    tx.commit().await?;
    app.wake.wake(Queue::Outbox);
    Ok(())
}

async fn tell(conn: &mut PgConnection, bot_id: i64, chat_id: i64, (text, buttons): &Message) -> sqlx::Result<()> {
    let place = Place { bot_id, chat_id, thread_id: None };
    let call = Call::reply(bot_id, chat_id, &send_message(place, text, buttons.clone())).notice();
    outbox::enqueue(conn, &call).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(well: bool, known: bool) -> Heard {
        Heard { agent_id: 1, url: "http://127.0.0.1:9".into(), well, known }
    }

    #[test]
    fn agents_of_this_server_say_nothing_about_the_network() {
        assert_eq!(Way::of(CloudKind::Local, false), Way::Here);
        for (cloud, external) in [(CloudKind::Local, true), (CloudKind::Aleph, false), (CloudKind::Hosts, true)] {
            assert_eq!(Way::of(cloud, external), Way::Network);
        }
    }

    #[test]
    fn our_own_network_is_suspected_only_if_nobody_answers_who_did_before() {
        let silent = vec![heard(false, false); 7];
        assert_eq!((newly_silent(false, &silent), newly_silent(true, &silent)), (7, 0));
        let mut mixed = silent.clone();
        mixed.push(heard(true, false));
        assert_eq!(newly_silent(false, &mixed), 0);
        // Agents that nobody repairs say nothing about the network.
        mixed.pop();
        mixed.extend(vec![heard(false, true); 100]);
        assert_eq!(newly_silent(false, &mixed), 7);
    }
}
