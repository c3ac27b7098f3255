//! Figures of agents for their owner's dashboard.

use std::collections::HashMap;

use sqlx::{PgConnection, Row};

/// An agent's newest turns that are looked at to count a day's messages: one that is talked to more says "at least".
const COUNTED: i64 = 5_000;

/// What happens with one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages of this UTC day, its owner's among them.
    pub messages_today: i64,
    /// Whether there may be more.
    pub at_least: bool,
    /// Others who have opened it and are not blocked.
    pub visitors: i64,
    /// Whether it runs on its owner's own key.
    pub own_key: bool,
}

/// The figures of these agents, by number.
pub async fn of(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<HashMap<i64, Figures>> {
    let rows = sqlx::query(
        "select a.id, a.deployed_key <> 0 as own_key, today.messages, today.turns,
                (select count(*) from visitors v
                  where v.agent_id = a.id and v.user_id <> a.owner_id and v.blocked_at is null
                    and (v.link_id is not null or v.admitted_at is not null)) as visitors
           from agents a
           cross join lateral (
             select count(*) as turns, coalesce(sum(greatest(1, cardinality(t.message_ids))), 0) as messages
               from (select t.kind, t.created_at, t.message_ids from turns t where t.agent_id = a.id order by t.position desc limit $2) t
              where t.kind = 'message' and (t.created_at at time zone 'utc')::date = (now() at time zone 'utc')::date) today
          where a.id = any($1)",
    )
    .bind(ids)
    .bind(COUNTED)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let figures = Figures {
                messages_today: row.try_get("messages")?,
                at_least: row.try_get::<i64, _>("turns")? >= COUNTED,
                visitors: row.try_get("visitors")?,
                own_key: row.try_get("own_key")?,
            };
            Ok((row.try_get("id")?, figures))
        })
        .collect()
}
