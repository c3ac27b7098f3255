//! What may be done with agents: the one place where the bot and the REST API get their checks and their words.
//!
//! Every function writes within the caller's transaction. After the commit of those that may start a job ([`create`],
//! [`delete`], [`retry`], [`change`], [`undo_soul`], [`update`], [`repair`], [`begin_anew`], [`rekey`], [`stop`], [`start`]) wake
//! [`Queue::Jobs`](crate::wake::Queue) and
//! [`Queue::Outbox`](crate::wake::Queue). An error leaves the transaction usable
//! (but for [`ServiceError::Database`]): nothing is written before all checks have passed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::PgConnection;

use super::invites::{self, Closed};
use super::limits;
use super::model::{Agent, Status};
pub use super::soul::{earlier as earlier_soul, undo as undo_soul};
use super::store;
pub use super::units::{start, stop};
pub use super::upkeep::{
    Change, Changed, TakenUp, begin_anew, change, rekey, repair, retry, standing, standings, update,
};
pub use super::validate::{
    LABEL_CHARACTERS, NAME_CHARACTERS, PROMPT_BYTES, validate_label, validate_model, validate_name, validate_prompt,
};
use crate::app::App;
use crate::config::Visibility;
use crate::jobs;
use crate::jobs::model::Kind;
use crate::vault::Vault;

/// Why nothing was done, in words for the user who asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Unknown, deleted, or not the asker's: all look the same.
    #[error("There is no such agent. /list shows yours.")]
    NotFound,
    /// A value that cannot be taken.
    #[error("{message}")]
    Invalid {
        /// The field of [`NewAgent`] or [`Change`].
        field: &'static str,
        /// What to do about it.
        message: String,
    },
    /// The owner has as many agents as they may.
    #[error(
        "You already have {limit} of {limit} agents. Delete one of them (/list shows them), then create the new one."
    )]
    LimitReached {
        /// MAX_AGENTS_PER_USER, or what operators set for this user.
        limit: u32,
    },
    /// A link that is unknown, taken back, or of somebody else's agent.
    #[error("There is no such link any more. /share shows those that there are.")]
    NoSuchLink,
    /// Somebody who has never opened the agent.
    #[error("That person has never opened this agent.")]
    NoSuchVisitor,
    /// CREATE_POLICY does not let them.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// Not in the agent's present state.
    #[error("{message}")]
    Conflict {
        /// What to do about it.
        message: String,
    },
    /// Postgres; the transaction is lost.
    #[error("Something went wrong on our side. Please try again in a minute.")]
    Database(#[from] sqlx::Error),
}

/// What an agent is created from.
#[derive(Clone, PartialEq, Eq)]
pub struct NewAgent {
    /// Telegram's id of the user, who has a row in `users`.
    pub owner_id: i64,
    /// The bot through which they asked.
    pub bot_id: i64,
    /// The chat in which they asked: its progress is shown there.
    pub chat_id: i64,
    /// See [`validate_name`].
    pub name: String,
    /// See [`validate_prompt`].
    pub system_prompt: String,
    /// One of MODELS.
    pub model: String,
    /// Who may open it.
    pub visibility: Visibility,
}

/// How many agents a user has and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Agents that count.
    pub used: u32,
    /// MAX_AGENTS_PER_USER, or what operators set for this user.
    pub limit: u32,
}

impl Slots {
    /// Whether another agent may be created.
    pub fn check(self) -> Result<(), ServiceError> {
        match self.limit {
            0 => Err(Closed::NoneAllowed.into()),
            limit if self.used >= limit => Err(ServiceError::LimitReached { limit }),
            _ => Ok(()),
        }
    }
}

/// How many agents the user has and may have.
pub async fn slots(conn: &mut PgConnection, app: &App, owner_id: i64) -> Result<Slots, ServiceError> {
    let used = store::count(conn, owner_id).await?;
    let limit = limits::of(conn, &app.config, owner_id).await?.max_agents;
    Ok(Slots { used: u32::try_from(used).unwrap_or(u32::MAX), limit })
}

/// Creates an agent, the job that makes it ready, and the message that shows the job's progress.
pub async fn create(conn: &mut PgConnection, app: &App, new: NewAgent) -> Result<Agent, ServiceError> {
    let new = checked(app, new)?;
    // Counted under a lock: two requests at once must not both see the last free place.
    store::lock_owner(conn, new.owner_id).await?;
    may_have_another(conn, app, new.owner_id).await?;
    let agent = store::insert(conn, &new, &new_secret(&app.config.vault)).await?;
    jobs::start(conn, Kind::Provision, &agent).await?;
    Ok(agent)
}

/// The same as it is kept, if it can be taken.
pub(super) fn checked(app: &App, new: NewAgent) -> Result<NewAgent, ServiceError> {
    Ok(NewAgent {
        name: validate_name(&new.name)?,
        system_prompt: validate_prompt(&new.system_prompt)?,
        model: validate_model(&app.config.models, &new.model)?,
        ..new
    })
}

/// Refuses whoever may create no agents (any more).
pub(super) async fn may_have_another(conn: &mut PgConnection, app: &App, owner_id: i64) -> Result<(), ServiceError> {
    if limits::of(conn, &app.config, owner_id).await?.blocked {
        return Err(Closed::Blocked.into());
    }
    let invited = invites::is_invited(conn, owner_id).await?;
    invites::may_create(&app.config, owner_id, invited)?;
    slots(conn, app, owner_id).await?.check()
}

/// A new bearer secret for an agent, as the Fernet token in its row.
pub fn new_secret(vault: &Vault) -> Vec<u8> {
    vault.encrypt(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).as_bytes())
}

/// The user's agents, but for deleted ones, oldest first.
pub async fn owned(conn: &mut PgConnection, owner_id: i64) -> Result<Vec<Agent>, ServiceError> {
    Ok(store::owned(conn, owner_id).await?)
}

/// The agent, if it is this user's and not deleted.
pub async fn get_owned(conn: &mut PgConnection, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    owned_by(owner_id, store::get(conn, id).await?)
}

pub(super) fn owned_by(owner_id: i64, agent: Option<Agent>) -> Result<Agent, ServiceError> {
    agent.filter(|agent| agent.owner_id == owner_id && agent.status != Status::Deleted).ok_or(ServiceError::NotFound)
}

/// Deletes an agent: what it has on its machine goes too, or [nothing but its rows](super::external) where the machine is none of
/// ours. Who still waits for its answer is told when the turn's time comes.
pub async fn delete(conn: &mut PgConnection, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let mut agent = owned_by(owner_id, store::lock(conn, id).await?)?;
    if agent.status == Status::Deleting {
        return Err(ServiceError::Conflict {
            message: format!("{} is already being deleted; nothing more to do.", agent.name),
        });
    }
    if agent.external {
        store::set_deleted(conn, id).await?;
        (agent.status, agent.url) = (Status::Deleted, None);
        return Ok(agent);
    }
    store::set_status(conn, id, Status::Deleting).await?;
    // A job under way undoes what it made; two jobs of one agent would get in each other's way.
    if !jobs::store::request_cancel(conn, id).await? {
        jobs::start(conn, Kind::Deprovision, &agent).await?;
    }
    agent.status = Status::Deleting;
    agent.url = None;
    Ok(agent)
}
