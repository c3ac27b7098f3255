//! An agent as the rest of the program sees it.

use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use utoipa::ToSchema;

use crate::config::Visibility;
use crate::vault::{Undecryptable, Vault};

/// Where an agent stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type, Serialize, Deserialize, ToSchema)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
#[schema(as = AgentStatus)]
pub enum Status {
    /// A job is making it ready.
    Provisioning,
    /// It answers.
    Running,
    /// Operators have stopped its program; its machine is there, and paid for.
    Stopped,
    /// It could not be made ready; nothing of it is left running.
    Failed,
    /// A job is removing it.
    Deleting,
    /// Gone; only the row remains.
    Deleted,
}

impl Status {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for Status {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provisioning => "being set up",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "being deleted",
            Self::Deleted => "deleted",
        })
    }
}

/// Whether an agent of protocol version `protocol` (`agents.protocol`) has what came with version `since`.
pub fn speaks(protocol: i32, since: u32) -> bool {
    u32::try_from(protocol).is_ok_and(|version| version >= since)
}

/// An agent's row. `Debug` leaves out the secret and what its owner wrote.
#[derive(Clone, PartialEq, Eq)]
pub struct Agent {
    /// The number in its deep link.
    pub id: i64,
    /// Telegram's id of the user who created it.
    pub owner_id: i64,
    /// The bot through which the owner is told of it.
    pub bot_id: i64,
    /// The chat in which the owner is told of it.
    pub chat_id: i64,
    /// 1 to 64 characters on one line; any text otherwise.
    pub name: String,
    /// The personality; any text but NUL, at most 16,384 bytes.
    pub system_prompt: String,
    /// Model id at the inference service.
    pub model: String,
    /// Who may open it.
    pub visibility: Visibility,
    /// Where it stands.
    pub status: Status,
    /// Base URL without a slash at the end; set while it is known to be healthy there.
    pub url: Option<String>,
    /// The protocol that it speaks: [`baal_protocol::PROTOCOL`], or 1 for the base protocol.
    pub protocol: i32,
    /// Grows with every change of what should be true of it.
    pub wanted_version: i32,
    /// The `wanted_version` that was installed last.
    pub deployed_version: i32,
    /// Which key for the inference service it is to run on: 0 the operator's, else its owner's `key_version`.
    pub wanted_key: i32,
    /// Which one it was installed with last.
    pub deployed_key: i32,
    /// Whether its machine may have a key of its owner's.
    pub may_hold_key: bool,
    /// Why no message reaches it although it runs, in words for its owner.
    pub paused: Option<String>,
    /// It was running somewhere when it was [taken in](super::external): there is no machine of ours.
    pub external: bool,
    /// It came from the Python system (`baal import`).
    pub imported: bool,
    sealed_secret: Vec<u8>,
}

impl Agent {
    /// Whether the Python system's program runs on its machine, until a job [takes it over](crate::jobs::model::Kind::Takeover).
    pub fn is_pythons(&self) -> bool {
        self.imported && self.protocol == 1
    }

    /// The same, and that program was never known to work: it came over as failed, with a secret that it does not know. So it is
    /// of no use that it runs.
    pub fn is_pythons_failure(&self) -> bool {
        self.is_pythons() && self.deployed_version == 0
    }

    /// The bearer secret that it asks of its callers.
    pub fn secret(&self, vault: &Vault) -> Result<SecretString, Undecryptable> {
        vault.decrypt_text(&self.sealed_secret)
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("id", &self.id)
            .field("owner_id", &self.owner_id)
            .field("model", &self.model)
            .field("visibility", &self.visibility)
            .field("status", &self.status)
            .field("url", &self.url)
            .field("protocol", &self.protocol)
            .field("wanted_version", &self.wanted_version)
            .field("deployed_version", &self.deployed_version)
            .field("wanted_key", &self.wanted_key)
            .field("deployed_key", &self.deployed_key)
            .field("may_hold_key", &self.may_hold_key)
            .field("paused", &self.paused)
            .field("external", &self.external)
            .field("imported", &self.imported)
            .finish_non_exhaustive()
    }
}

/// What an [`Agent`] is read from: `agent_columns!("a.")` of `agents a`.
macro_rules! agent_columns {
    ($of:literal) => {
        $crate::database::columns!(
            $of: id, owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, url, protocol,
            wanted_version, deployed_version, wanted_key, deployed_key, may_hold_key, paused, external, imported_at, secret
        )
    };
}

pub(crate) use agent_columns;

impl FromRow<'_, PgRow> for Agent {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let visibility: String = row.try_get("visibility")?;
        let visibility = visibility.parse().map_err(|source: String| sqlx::Error::ColumnDecode {
            index: "visibility".into(),
            source: source.into(),
        })?;
        Ok(Self {
            id: row.try_get("id")?,
            owner_id: row.try_get("owner_id")?,
            bot_id: row.try_get("bot_id")?,
            chat_id: row.try_get("chat_id")?,
            name: row.try_get("name")?,
            system_prompt: row.try_get("system_prompt")?,
            model: row.try_get("model")?,
            visibility,
            status: row.try_get("status")?,
            url: row.try_get("url")?,
            protocol: row.try_get("protocol")?,
            wanted_version: row.try_get("wanted_version")?,
            deployed_version: row.try_get("deployed_version")?,
            wanted_key: row.try_get("wanted_key")?,
            deployed_key: row.try_get("deployed_key")?,
            may_hold_key: row.try_get("may_hold_key")?,
            paused: row.try_get("paused")?,
            external: row.try_get("external")?,
            imported: row.try_get::<Option<chrono::DateTime<chrono::Utc>>, _>("imported_at")?.is_some(),
            sealed_secret: row.try_get("secret")?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An agent of this name with number 5.
    pub(crate) fn agent(name: &str) -> Agent {
        Agent {
            id: 5,
            owner_id: 7,
            bot_id: 42,
            chat_id: 7,
            name: name.to_owned(),
            system_prompt: "hush-hush".into(),
            model: "m".into(),
            visibility: Visibility::Public,
            status: Status::Running,
            url: None,
            protocol: 2,
            wanted_version: 1,
            deployed_version: 1,
            wanted_key: 0,
            deployed_key: 0,
            may_hold_key: false,
            paused: None,
            external: false,
            imported: false,
            sealed_secret: b"gAAAA".to_vec(),
        }
    }

    #[test]
    fn debug_shows_neither_secret_nor_prompt() {
        let shown = format!("{:?}", agent("Ada"));
        assert!(!shown.contains("hush-hush") && !shown.contains("secret") && shown.contains("Running"), "{shown}");
    }
}
