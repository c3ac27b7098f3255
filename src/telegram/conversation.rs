//! What a chat is about: the agent being talked to, and the dialogue under way. One row a chat, so that any replica can
//! take the next update and a restart forgets nothing.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row};

use super::update::User;
use crate::agents::Status;
use crate::config::Visibility;
use crate::storable;

/// A chat's row, with what is needed of the agent being talked to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// The agent being talked to.
    pub agent: Option<CurrentAgent>,
    /// Number of the latest dialogue; its buttons carry it.
    pub dialogue_id: i64,
    /// The dialogue under way.
    pub dialogue: Option<Dialogue>,
}

/// The agent being talked to, as far as relaying needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct CurrentAgent {
    /// Its number.
    pub id: i64,
    /// Who made it.
    pub owner_id: i64,
    /// What it is called.
    pub name: String,
    /// Where it stands.
    pub status: Status,
    /// Who may talk to it.
    pub visibility: Visibility,
}

/// The wizard that creates an agent: each step holds the answers so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Dialogue {
    /// Waiting for the name.
    Name,
    /// Waiting for the personality.
    Personality {
        /// The agent's name.
        name: String,
    },
    /// Waiting for the model.
    Model {
        /// The agent's name.
        name: String,
        /// The system prompt.
        prompt: String,
    },
    /// Waiting for a yes.
    Confirm {
        /// The agent's name.
        name: String,
        /// The system prompt.
        prompt: String,
        /// The model's id.
        model: String,
    },
}

impl Dialogue {
    /// The step's name, as buttons carry it.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Personality { .. } => "personality",
            Self::Model { .. } => "model",
            Self::Confirm { .. } => "confirm",
        }
    }
}

/// Notes who speaks and reads the chat's row, in one round trip.
///
/// Updates of one chat are handled one at a time, so the row needs no lock.
pub async fn load(conn: &mut PgConnection, bot_id: i64, chat_id: i64, user: &User) -> sqlx::Result<Conversation> {
    let row = sqlx::query(
        "with noted as (
           insert into users (id, name, username, language_code) values ($3, $4, $5, $6)
           on conflict (id) do update set name = excluded.name, username = excluded.username,
                                          language_code = excluded.language_code
            where (users.name, users.username, users.language_code)
                  is distinct from (excluded.name, excluded.username, excluded.language_code))
         select c.dialogue_id, c.dialogue, a.id, a.owner_id, a.name, a.status, a.visibility
           from conversations c left join agents a on a.id = c.agent_id
          where c.bot_id = $1 and c.chat_id = $2",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(user.id)
    .bind(storable::text(&user.name()))
    .bind(user.username.as_deref().map(storable::text))
    .bind(user.language_code.as_deref().map(storable::text))
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(Conversation::default()) };
    let agent = row.get::<Option<i64>, _>("id").map(|id| CurrentAgent {
        id,
        owner_id: row.get("owner_id"),
        name: row.get("name"),
        status: row.get("status"),
        // What cannot be read is open to nobody else.
        visibility: row.get::<&str, _>("visibility").parse().unwrap_or(Visibility::Unlisted),
    });
    // A dialogue that an older version wrote and this one cannot read is forgotten rather than fatal.
    let dialogue =
        row.get::<Option<serde_json::Value>, _>("dialogue").and_then(|json| serde_json::from_value(json).ok());
    Ok(Conversation { agent, dialogue_id: row.get("dialogue_id"), dialogue })
}

/// Begins a dialogue, ending any other; its number.
pub async fn begin_dialogue(
    conn: &mut PgConnection,
    bot_id: i64,
    chat_id: i64,
    dialogue: &Dialogue,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "insert into conversations (bot_id, chat_id, dialogue_id, dialogue) values ($1, $2, 1, $3)
         on conflict (bot_id, chat_id) do update set dialogue_id = conversations.dialogue_id + 1, dialogue = excluded.dialogue
         returning dialogue_id",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(sqlx::types::Json(dialogue))
    .fetch_one(conn)
    .await
}

/// Moves the dialogue to its next step, or ends it.
pub async fn set_dialogue(
    conn: &mut PgConnection,
    bot_id: i64,
    chat_id: i64,
    dialogue: Option<&Dialogue>,
) -> sqlx::Result<()> {
    sqlx::query("update conversations set dialogue = $3 where bot_id = $1 and chat_id = $2")
        .bind(bot_id)
        .bind(chat_id)
        .bind(dialogue.map(sqlx::types::Json))
        .execute(conn)
        .await?;
    Ok(())
}

/// From now on the chat talks to this agent; a dialogue under way ends.
pub async fn enter(conn: &mut PgConnection, bot_id: i64, chat_id: i64, agent_id: i64) -> sqlx::Result<()> {
    sqlx::query(
        "insert into conversations (bot_id, chat_id, agent_id) values ($1, $2, $3)
         on conflict (bot_id, chat_id) do update set agent_id = excluded.agent_id, dialogue = null",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(agent_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes whether anything can be sent to a chat.
pub async fn set_reachable(conn: &mut PgConnection, bot_id: i64, chat_id: i64, reachable: bool) -> sqlx::Result<()> {
    sqlx::query(
        "insert into conversations (bot_id, chat_id, unreachable_at) values ($1, $2, case when not $3 then now() end)
         on conflict (bot_id, chat_id) do update set unreachable_at = excluded.unreachable_at",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(reachable)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether this group is still to be told that the bot talks in private only; it counts as told from now on.
pub async fn tell_private_only(conn: &mut PgConnection, bot_id: i64, chat_id: i64) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "insert into conversations (bot_id, chat_id, told_private_only) values ($1, $2, true)
         on conflict (bot_id, chat_id) do update set told_private_only = true where not conversations.told_private_only",
    )
    .bind(bot_id)
    .bind(chat_id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}
