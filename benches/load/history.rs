//! What a large installation has in its tables before anything is measured.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection};

use crate::stack::{BOT, FIRST_USER};

/// Rows of a statement at most, so that what is filled in is told of.
const AT_ONCE: i64 = 1_000_000;
/// The first of the people who are only there: far from those who speak.
const FIRST_SILENT: i64 = 10 * FIRST_USER;

/// Fills in finished updates, and a tenth as many agents (each with a user, who talks to it), finished turns and finished calls to
/// Telegram; vacuums, as Postgres would have long done by itself. How long that took.
///
/// The statements write what the program would have left: emptied bodies, ids that grow with time.
pub async fn fill(conn: &mut PgConnection, updates: u64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let updates = i64::try_from(updates)?;
    let tenth = (updates / 10).max(1);
    // A million keys that are there need not be looked up one by one; and a cluster that is thrown away need not be durable yet.
    sqlx::raw_sql("set session_replication_role = replica; set synchronous_commit = off; set jit = off")
        .execute(&mut *conn)
        .await?;
    let first: i64 = sqlx::query_scalar("select coalesce(max(id), 0) from agents").fetch_one(&mut *conn).await?;
    let statements = [
        (
            tenth,
            "insert into users (id, name) select $1 + n, 'User ' || n from generate_series($4::int8, $5::int8) n
             where $2 > 0 and $3 >= 0",
        ),
        (
            tenth,
            "insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, url, protocol,
                                 deployed_version, pull_at)
             select $1 + n, $2, $1 + n, 'Ada', 'be kind', 'qwen3-coder-next', 'public', 'running', repeat('s', 120)::bytea,
                    'https://' || n || '.agents.invalid', 3, 1, 'infinity'
               from generate_series($4::int8, $5::int8) n where $3 >= 0",
        ),
        (
            tenth,
            "insert into conversations (bot_id, chat_id, agent_id)
             select $2, $1 + n, $3 + n from generate_series($4::int8, $5::int8) n",
        ),
        (
            updates,
            "insert into updates (bot_id, update_id, chat_id, body, done, attempt, received_at)
             select $2, n - 2000000000, $1 + n % ($3 + 1000000), '', true, 1, now() - interval '3 days' + n * interval '20 ms'
               from generate_series($4::int8, $5::int8) n",
        ),
        (
            tenth,
            "insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, done, attempt, status, prompt_tokens,
                                completion_tokens, created_at, started_at, ended_at, message_ids, counted)
             select gen_random_uuid(), $2, $1 + n, $3 + n, $1 + n, 'owner', '', true, 1, 'completed', 10, 10, t, t, t, array[n], 1
               from generate_series($4::int8, $5::int8) n cross join lateral (select now() - interval '3 days' + n * interval '200 ms' as t) w",
        ),
        (
            tenth,
            "insert into outbox (bot_id, chat_id, method, payload, kind, done, attempt, message_id, created_at, ended_at)
             select $2, $1 + n, 'sendMessage', 'null', 'reply', true, 1, n, t, t
               from generate_series($4::int8, $5::int8) n cross join lateral (select now() - interval '3 days' + n * interval '200 ms' as t) w
              where $3 >= 0",
        ),
    ];
    for (rows, statement) in statements {
        for from in (1..=rows).step_by(AT_ONCE as usize) {
            sqlx::query(statement)
                .bind(FIRST_SILENT)
                .bind(BOT)
                .bind(first)
                .bind(from)
                .bind(rows.min(from + AT_ONCE - 1))
                .execute(&mut *conn)
                .await?;
        }
    }
    for table in ["users", "agents", "conversations", "updates", "turns", "outbox"] {
        sqlx::query(AssertSqlSafe(format!("vacuum (analyze) {table}"))).execute(&mut *conn).await?;
    }
    sqlx::raw_sql("reset session_replication_role; reset synchronous_commit; checkpoint").execute(&mut *conn).await?;
    Ok(begun.elapsed())
}
