//! What a chat is about: the agent being talked to, and the dialogue under way. One row a chat, so that any replica can
//! take the next update and a restart forgets nothing.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::cut::Cut;
use super::update::User;
use crate::agents::access::{self, Access, Visitor};
use crate::agents::{Status, visitors};
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
    /// The outbox row of the wizard's last question, whose buttons go once it is answered.
    pub question: Option<i64>,
    /// What is known of who speaks.
    pub account: Account,
}

/// What the row of a user says that handlers need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Messages and presses within the running minute, this one among them.
    pub flood_count: i32,
    /// Whether answers keep the line that tells of tool calls.
    pub verbose: bool,
    /// Whether an invitation was redeemed.
    pub invited: bool,
    /// Whether everything of this user is being forgotten.
    pub being_forgotten: bool,
    /// Whether operators shut this user out.
    pub blocked: bool,
    /// Messages a day that operators set for this user, instead of FREE_TIER_DAILY_MESSAGES.
    pub daily_messages: Option<i32>,
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
    /// Why no message reaches it although it runs, in words for its owner.
    pub paused: Option<String>,
    /// Whether it runs, or is about to run, on the operator's key, so that messages to it count.
    pub free: bool,
    /// What whoever speaks may do with it.
    pub access: Access,
}

/// What the next words are an answer to. The first four are the wizard that creates an agent: each step holds the answers
/// so far.
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
        /// Where the client may have cut the prompt: the rest comes right behind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<Cut>,
    },
    /// Waiting for a yes.
    Confirm {
        /// The agent's name.
        name: String,
        /// The system prompt.
        prompt: String,
        /// The model's id.
        model: String,
        /// Who may open it; none: DEFAULT_VISIBILITY.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        visibility: Option<Visibility>,
    },
    /// Waiting for an invitation's code, to go on with the wizard.
    Invite,
    /// Waiting for another personality.
    Soul {
        /// Of this agent.
        agent_id: i64,
    },
    /// A personality was written down that the client may have cut: what comes right behind it is its rest.
    SoulRest {
        /// Of this agent.
        agent_id: i64,
        /// Where it was cut.
        cut: Cut,
        /// The version whose personality it took the place of.
        before: i32,
    },
    /// Waiting for a key of LibertAI.
    Key,
    /// Waiting for a link's name.
    LinkLabel {
        /// Of this link.
        link_id: i64,
    },
    /// Waiting for the word that confirms `/forgetme`.
    Forget,
}

impl Dialogue {
    /// Whether it is a step of the wizard that creates an agent.
    pub fn is_wizard(&self) -> bool {
        matches!(self, Self::Name | Self::Personality { .. } | Self::Model { .. } | Self::Confirm { .. })
    }

    /// Whether a message of `date` (Unix time) is none that it waits for, so that it is over.
    pub fn is_over(&self, date: i64) -> bool {
        matches!(self, Self::SoulRest { cut, .. } if !cut.is_followed(date))
    }

    /// The step's name, as buttons carry it.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Personality { .. } => "personality",
            Self::Model { .. } => "model",
            Self::Confirm { .. } => "confirm",
            Self::Invite => "invite",
            Self::Soul { .. } => "soul",
            Self::SoulRest { .. } => "soul_rest",
            Self::Key => "key",
            Self::LinkLabel { .. } => "label",
            Self::Forget => "forget",
        }
    }
}

/// What [`Conversation::of_row`] reads of `n` (the user), `c` (the conversation), `a` (its agent) and [`visitors::standing`].
macro_rules! conversation_columns {
    () => {
        concat!(
            "n.flood_count, n.tool_lines, n.invited, n.being_forgotten, n.shut_out, n.daily_messages, c.dialogue_id, c.dialogue,
             c.question, a.id, a.owner_id, a.name, a.status, a.visibility, a.paused,
             (a.deployed_key = 0 or a.wanted_key = 0) as free, ",
            $crate::agents::visitors::standing!()
        )
    };
}

/// The tables of [`conversation_columns`] beside the user.
macro_rules! conversation_tables {
    ($bot:literal, $chat:literal, $user:literal) => {
        concat!(
            " left join conversations c on c.bot_id = ",
            $bot,
            " and c.chat_id = ",
            $chat,
            " left join agents a on a.id = c.agent_id
              left join visitors v on v.agent_id = a.id and v.user_id = ",
            $user,
            " left join links l on l.id = v.link_id"
        )
    };
}

/// What `n` has of a row `u` of `users`, the flood count apart.
macro_rules! account_columns {
    () => {
        "u.tool_lines, u.invited_at is not null as invited, u.forgetting_since is not null as being_forgotten,
         u.blocked_at is not null as shut_out, u.daily_messages"
    };
}

/// Notes who speaks, and how often within the minute. `$row` is a row of id, name, user name, language, this minute, and 1.
macro_rules! note_user {
    ($row:literal) => {
        concat!(
            "insert into users as u (id, name, username, language_code, flood_minute, flood_count) ",
            $row,
            " on conflict (id) do update set name = excluded.name, username = excluded.username,
                 language_code = excluded.language_code, flood_minute = excluded.flood_minute,
                 flood_count = case when u.flood_minute = excluded.flood_minute then u.flood_count + 1 else 1 end"
        )
    };
}

pub(crate) use note_user;
pub(super) use {account_columns, conversation_columns, conversation_tables};

impl Conversation {
    /// Of [`conversation_columns`], for this user.
    pub(super) fn of_row(row: &PgRow, user_id: i64) -> Self {
        // A dialogue that an older version wrote and this one cannot read is forgotten rather than fatal.
        let dialogue =
            row.get::<Option<serde_json::Value>, _>("dialogue").and_then(|json| serde_json::from_value(json).ok());
        let account = Account {
            flood_count: row.get("flood_count"),
            verbose: row.get("tool_lines"),
            invited: row.get("invited"),
            being_forgotten: row.get("being_forgotten"),
            blocked: row.get("shut_out"),
            daily_messages: row.get("daily_messages"),
        };
        let dialogue_id = row.get::<Option<i64>, _>("dialogue_id").unwrap_or(0);
        Self { agent: agent_of_row(row, user_id), dialogue_id, dialogue, question: row.get("question"), account }
    }
}

/// Notes who speaks and reads the chat's row, in one round trip.
///
/// Updates of one chat are handled one at a time, so the row needs no lock.
pub async fn load(conn: &mut PgConnection, bot_id: i64, chat_id: i64, user: &User) -> sqlx::Result<Conversation> {
    let row = sqlx::query(concat!(
        "with noted as (",
        note_user!("values ($3, $4, $5, $6, date_trunc('minute', now()), 1)"),
        " returning u.flood_count, ",
        account_columns!(),
        "),
         -- Whoever speaks can be spoken to.
         reached as (
           update conversations set unreachable_at = null
            where bot_id = $1 and chat_id = $2 and unreachable_at is not null)
         select ",
        conversation_columns!(),
        " from noted n",
        conversation_tables!("$1", "$2", "$3"),
    ))
    .bind(bot_id)
    .bind(chat_id)
    .bind(user.id)
    .bind(storable::text(&user.name()))
    .bind(user.username.as_deref().map(storable::text))
    .bind(user.language_code.as_deref().map(storable::text))
    .fetch_one(conn)
    .await?;
    Ok(Conversation::of_row(&row, user.id))
}

/// The same of any agent, for a chat that is not talking to it at the moment. `None`: there is no such agent.
pub async fn agent_for(conn: &mut PgConnection, agent_id: i64, user_id: i64) -> sqlx::Result<Option<CurrentAgent>> {
    let row = sqlx::query(concat!(
        "select a.id, a.owner_id, a.name, a.status, a.visibility, a.paused, (a.deployed_key = 0 or a.wanted_key = 0) as free, ",
        visitors::standing!(),
        " from agents a
           left join visitors v on v.agent_id = a.id and v.user_id = $2
           left join links l on l.id = v.link_id
          where a.id = $1",
    ))
    .bind(agent_id)
    .bind(user_id)
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(|row| agent_of_row(&row, user_id)))
}

fn agent_of_row(row: &PgRow, user_id: i64) -> Option<CurrentAgent> {
    let id = row.get::<Option<i64>, _>("id")?;
    let (owner_id, status) = (row.get("owner_id"), row.get("status"));
    // What cannot be read is open to nobody else.
    let visibility = row.get::<&str, _>("visibility").parse().unwrap_or(Visibility::Private);
    let visitor = Visitor::of_row(row);
    Some(CurrentAgent {
        id,
        owner_id,
        name: row.get("name"),
        status,
        paused: row.get("paused"),
        free: row.get("free"),
        access: access::of(owner_id, visibility, status, user_id, visitor.as_ref()),
    })
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
         on conflict (bot_id, chat_id) do update set dialogue_id = conversations.dialogue_id + 1, dialogue = excluded.dialogue,
                dialogue_at = now()
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
    sqlx::query("update conversations set dialogue = $3, dialogue_at = now() where bot_id = $1 and chat_id = $2")
        .bind(bot_id)
        .bind(chat_id)
        .bind(dialogue.map(sqlx::types::Json))
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes which message asked the dialogue's present question: the one that this outbox row sends.
pub async fn set_question(conn: &mut PgConnection, bot_id: i64, chat_id: i64, row: Option<i64>) -> sqlx::Result<()> {
    sqlx::query("update conversations set question = $3 where bot_id = $1 and chat_id = $2")
        .bind(bot_id)
        .bind(chat_id)
        .bind(row)
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

/// Whether a group is to be told that keys don't belong there: at most once an hour, for anybody can write what looks like
/// one. It counts as told from now on.
pub async fn tell_key_in_group(conn: &mut PgConnection, bot_id: i64, chat_id: i64) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "insert into conversations (bot_id, chat_id, told_of_key_at) values ($1, $2, now())
         on conflict (bot_id, chat_id) do update set told_of_key_at = excluded.told_of_key_at
          where coalesce(conversations.told_of_key_at < now() - interval '1 hour', true)",
    )
    .bind(bot_id)
    .bind(chat_id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_personality_comes_right_behind_or_not_at_all() {
        let cut = Cut { at: 100, within_word: false };
        let rest = Dialogue::SoulRest { agent_id: 1, cut, before: 1 };
        assert!(rest.is_over(200) && !rest.is_over(101) && !Dialogue::Name.is_over(200));
    }
}
