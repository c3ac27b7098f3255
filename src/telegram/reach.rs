//! Chats to which nothing can be sent any more, and groups that have moved.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Row};
use tracing::{info, warn};

use super::conversation;
use super::outbox::Claimed;
use super::sender::in_chat;
use crate::app::App;
use crate::database;
use crate::slots::bounded;
use crate::storable;
use crate::turns::outcome;

/// The bot was blocked or removed: nothing that waits for this chat is sent, and no turn begins that nobody would see end.
pub async fn lost(conn: &mut PgConnection, bot_id: i64, chat_id: i64) -> sqlx::Result<()> {
    give_up(conn, bot_id, chat_id, "the bot was blocked or removed", None).await.map(drop)
}

/// Telegram said so to this call. What was put into the outbox since then may be for a chat that is back; one that has been
/// heard of since then is, or tells by itself that it is not.
pub async fn refused(app: &App, call: &Claimed, why: &str) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    let heard_of: bool = sqlx::query_scalar(
        "select exists (select from updates where bot_id = $1 and chat_id = $2 and received_at > $3)",
    )
    .bind(app.bot_id)
    .bind(call.chat_id)
    .bind(call.claimed_at)
    .fetch_one(&mut *tx)
    .await?;
    if heard_of {
        return Ok(());
    }
    let ended = give_up(&mut tx, app.bot_id, call.chat_id, why, Some(call.claimed_at)).await?;
    tx.commit().await?;
    for id in ended {
        app.receipts.tell(id, None);
    }
    Ok(())
}

/// Telegram has taken something for this chat.
pub async fn regained(app: &App, chat_id: i64) {
    let marked = bounded(async {
        let mut conn = app.db.acquire().await?;
        conversation::set_reachable(&mut conn, app.bot_id, chat_id, true).await
    });
    if let Err(error) = marked.await {
        warn!(%error, chat.id = chat_id, "it could not be noted that the chat can be written to; its next message does");
    }
}

/// Marks the chat, ends its calls that have not left and its turns that have not begun. The ids of the calls.
async fn give_up(
    conn: &mut PgConnection,
    bot_id: i64,
    chat_id: i64,
    why: &str,
    until: Option<DateTime<Utc>>,
) -> sqlx::Result<Vec<i64>> {
    mark(conn, bot_id, chat_id, until).await?;
    let turns = outcome::cancel_unbegun(conn, (bot_id, chat_id), why, until).await?;
    let calls: Vec<i64> = sqlx::query_scalar(
        "with open as materialized (
           select id from outbox where bot_id = $1 and chat_id = $2 and not done and claimed_by is null
              and method <> 'answerCallbackQuery' and created_at <= coalesce($4, now()) for update skip locked)
         update outbox o set done = true, error = $3, ended_at = now(), payload = 'null', file = null
           from open where o.id = open.id returning o.id",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(storable::reason(why))
    .bind(until)
    .fetch_all(conn)
    .await?;
    info!(chat.id = chat_id, why, calls = calls.len(), turns, "what waited for an unreachable chat was given up");
    Ok(calls)
}

/// Marks the chat as one that nothing could be sent to at this moment: what came later is tried.
async fn mark(conn: &mut PgConnection, bot_id: i64, chat_id: i64, at: Option<DateTime<Utc>>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into conversations (bot_id, chat_id, unreachable_at) values ($1, $2, coalesce($3, now()))
         on conflict (bot_id, chat_id) do update set unreachable_at = excluded.unreachable_at",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(at)
    .execute(conn)
    .await
    .map(drop)
}

/// A group has become a supergroup of another id: what waits for it goes there, and so does what is known of it.
pub async fn moved(db: &PgPool, bot_id: i64, from: i64, to: i64) -> sqlx::Result<()> {
    let mut tx = database::begin(db).await?;
    let waiting = sqlx::query(
        "select id, payload::text as payload from outbox
          where bot_id = $1 and chat_id = $2 and not done and claimed_by is null for update skip locked",
    )
    .bind(bot_id)
    .bind(from)
    .fetch_all(&mut *tx)
    .await?;
    for row in waiting {
        sqlx::query("update outbox set chat_id = $2, payload = $3::json where id = $1")
            .bind(row.get::<i64, _>("id"))
            .bind(to)
            .bind(in_chat(row.get("payload"), to))
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "update conversations c set chat_id = $3 where bot_id = $1 and chat_id = $2
            and not exists (select from conversations n where n.bot_id = $1 and n.chat_id = $3)",
    )
    .bind(bot_id)
    .bind(from)
    .bind(to)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
