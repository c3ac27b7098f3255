//! Wire types between the control plane and an agent.
//!
//! The base of the protocol (`/health`, `/chat`, `DELETE /chat/{id}`, the events without `seq`) is fixed, because agents
//! and bots of the earlier Python system speak it. Everything else is optional for a peer: unknown fields and unknown
//! event types are ignored on both sides, never an error.

mod config;

pub use config::AgentConfig;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of this protocol that `/version` reports; an agent without `/version` speaks the base protocol (1).
pub const PROTOCOL: u32 = 3;

/// From this version on agents know turns by their ids and keep what they say unasked until it is acknowledged.
pub const REMEMBERS: u32 = 2;

/// From this version on agents keep tools from whom [`Sender::tools`] says; older ones read nothing of it.
pub const WITHHOLDS_TOOLS: u32 = 3;

/// Seconds of silence after which an agent sends [`EventKind::Keepalive`]: a real event, because gateways drop SSE
/// comments.
pub const KEEPALIVE_SECONDS: u64 = 15;

/// Body of `POST /chat`, answered by `text/event-stream` with one [`Event`] per `data:` line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// What the user says.
    pub message: String,
    /// The conversation; a string, although Telegram's chat ids are integers (`"123"`, `"admin:7"`).
    pub chat_id: String,
    /// Runs the turn once per id: a known id attaches to that turn; the same id with another body is 409.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<Uuid>,
    /// Who speaks; absent from callers that know only the base protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    /// IETF language tag of the user's client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_code: Option<String>,
    /// Asks for [`EventKind::Delta`] and [`EventKind::ToolOutput`] events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// What to do while a turn of the chat runs.
    #[serde(default, skip_serializing_if = "Mode::is_queue")]
    pub mode: Mode,
    /// The turn that brought a message first which the person has now changed; this one brings what it reads now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit_of: Option<Uuid>,
    /// Files that came with the message, brought by `PUT /uploads/{turn_id}/{name}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

/// What becomes of a message that comes while a turn of its chat runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It waits and gets a turn of its own.
    #[default]
    Queue,
    /// The running turn takes it in at its next question to the model; where none runs, as [`Mode::Queue`].
    Steer,
}

impl Mode {
    fn is_queue(&self) -> bool {
        *self == Mode::Queue
    }
}

/// A file that came with a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Where `PUT /uploads/{turn_id}/{name}` put it: `uploads/{turn_id}/{name}`.
    pub path: String,
    /// As its sender named it.
    pub name: String,
    /// Media type, such as `image/jpeg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
}

/// The person behind a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// Telegram's user id.
    pub id: i64,
    /// The name the person goes by.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// Whether a visitor's turn has tools; absent: as the agent is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<bool>,
}

/// Owner and visitor are different people: a visitor has a conversation of their own and no access to the owner's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever created the agent.
    Owner,
    /// Whoever follows a deep link.
    Visitor,
}

impl Role {
    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Visitor => "visitor",
        }
    }
}

/// One event of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Place in the turn, growing from 1; 0 where the peer speaks the base protocol or the event is not kept
    /// ([`EventKind::Keepalive`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seq: i64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What an [`Event`] says, in the order of the turn; [`EventKind::Done`] is always last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// A whole piece of assistant text.
    Text {
        /// Markdown.
        content: String,
    },
    /// Partial text, followed by the whole text as [`EventKind::Text`]; sent only to a caller that asked for it.
    Delta {
        /// The next characters.
        content: String,
    },
    /// The agent uses a tool.
    ToolUse {
        /// The tool's name, such as `bash`.
        name: String,
        /// Its arguments as a JSON string.
        input: String,
    },
    /// What a running tool prints; sent only to a caller that asked for it.
    ToolOutput {
        /// The tool's name.
        name: String,
        /// The next characters.
        content: String,
    },
    /// The message was taken in by the turn that runs in its chat, and this turn is over.
    Steered {
        /// That turn.
        turn_id: Uuid,
    },
    /// A file for the chat, to be fetched from `/files/{path}`.
    File {
        /// Relative to the workspace.
        path: String,
        /// Text under the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caption: Option<String>,
    },
    /// Nothing to say, still at work.
    Keepalive,
    /// What went wrong, in words for the user.
    Error {
        /// Plain text.
        content: String,
    },
    /// What the turn cost.
    Usage {
        /// Tokens of the prompt.
        prompt_tokens: i64,
        /// Tokens of the answer.
        completion_tokens: i64,
        /// US dollars, where the provider says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<f64>,
    },
    /// The end of the turn.
    Done {
        /// Messages waiting in `/pending`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pending: Option<i64>,
    },
    /// An event type that this version does not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl EventKind {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, EventKind::Done { .. })
    }
}

/// Answer of `GET /health`, the only endpoint without a bearer secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The agent's display name.
    pub agent_name: String,
}

/// Answer of `GET /version`; 404 means the base protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The agent's own version.
    pub version: String,
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Optional parts that it speaks.
    #[serde(default)]
    pub features: Vec<String>,
    /// What keeps its tools from what is not theirs; absent as long as it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walls: Option<Walls>,
}

/// The walls around an agent's tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// All of them are enforced.
    pub complete: bool,
    /// What is not, in words.
    pub missing: Vec<String>,
    /// The owner has a shell.
    pub bash: bool,
}

/// Answer of `GET /turns/{turn_id}`; 404 means that the turn was never accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnStatus {
    /// The turn.
    pub turn_id: Uuid,
    /// Where it stands.
    pub state: TurnState,
    /// Sequence number of its newest event.
    pub last_seq: i64,
}

/// Where a turn stands on the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnState {
    /// Accepted, behind another turn of the same chat.
    Queued,
    /// At work.
    Running,
    /// Over, its events end with [`EventKind::Done`].
    Done,
    /// Cancelled, its events end with [`EventKind::Done`].
    Cancelled,
}

/// Answer of `DELETE /chat/{chat_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatDeleted {
    /// `ok`.
    pub status: String,
    /// Messages that are gone.
    pub deleted: i64,
}

/// Answer of `GET /pending`: what the agent says unasked, oldest first, a bounded number of messages at once.
///
/// Without `after` the answer empties the queue of what it holds. With `after=ID` nothing is deleted until
/// `POST /pending/ack`; `wait=SECONDS` (30 at most) waits for something to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMessages {
    /// Those with a greater id than asked for.
    pub messages: Vec<PendingMessage>,
    /// The database that the ids belong to: another one begins anew. Absent from a peer of the base protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_id: Option<Uuid>,
}

/// One message that nobody asked for at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMessage {
    /// Grows, and is never used again in the same database.
    pub id: i64,
    /// Whom it is for.
    pub chat_id: String,
    /// Markdown, or of a file the [`EventKind::File`] as JSON.
    pub content: String,
    /// Who speaks.
    pub source: PendingSource,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub created_at: String,
}

/// What a [`PendingMessage`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PendingSource {
    /// The agent looked at its list of things to do.
    Heartbeat,
    /// A task that works in the background.
    Subagent,
    /// A file from a heartbeat.
    HeartbeatFile,
    /// A file from a subagent.
    SubagentFile,
    /// A source that this version does not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl PendingSource {
    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            PendingSource::Heartbeat => "heartbeat",
            PendingSource::Subagent => "subagent",
            PendingSource::HeartbeatFile => "heartbeat_file",
            PendingSource::SubagentFile => "subagent_file",
            PendingSource::Unknown => "unknown",
        }
    }
}

/// Body of `POST /pending/ack`: the caller has these messages for good, and the agent forgets them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgePending {
    /// The greatest id that is acknowledged, all smaller ones with it.
    pub up_to: i64,
    /// The database that the id belongs to; with another one the answer is 409 and nothing is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_id: Option<Uuid>,
}

/// Answer of `POST /pending/ack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingAcknowledged {
    /// `ok`.
    pub status: String,
    /// Messages that are gone.
    pub deleted: i64,
}

/// Largest file that goes in or out, in bytes.
pub const MAX_FILE_BYTES: u64 = 50 * 1024 * 1024;

/// Answer of `PUT /uploads/{turn_id}/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// For [`Attachment::path`].
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// Content of `agent.lock` beside the agent's database, written once the agent listens.
///
/// The agent holds an exclusive `flock` on that file for its whole life: whoever gets the lock knows that no agent runs on
/// the directory, whatever the file says. It is empty between the lock and the moment of listening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLock {
    /// Process id of the agent.
    pub pid: u32,
    /// `127.0.0.1:PORT` as bound.
    pub address: String,
}

/// Name of the file of [`AgentLock`].
pub const LOCK_FILE: &str = "agent.lock";

/// Exit status of an agent that found another one at work on its directory.
pub const EXIT_LOCKED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_objects_with_a_type() {
        let event = Event { seq: 3, kind: EventKind::Text { content: "hi".into() } };
        let json = serde_json::to_value(&event).expect("serialises");
        assert_eq!(json, serde_json::json!({"seq": 3, "type": "text", "content": "hi"}));
        assert_eq!(serde_json::from_value::<Event>(json).expect("parses"), event);
        // An old bot's `.get("caption", "")` must not find a null.
        let file = EventKind::File { path: "a".into(), caption: None };
        assert_eq!(serde_json::to_value(&file).expect("serialises"), serde_json::json!({"type": "file", "path": "a"}));
    }

    #[test]
    fn an_old_agents_events_and_unknown_types_are_read() {
        let done: Event = serde_json::from_str(r#"{"type":"done"}"#).expect("parses");
        assert_eq!(done, Event { seq: 0, kind: EventKind::Done { pending: None } });
        let news: Event = serde_json::from_str(r#"{"type":"weather","sky":"blue","seq":4}"#).expect("parses");
        assert_eq!(news, Event { seq: 4, kind: EventKind::Unknown });
    }
}
