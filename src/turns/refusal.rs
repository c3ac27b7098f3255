//! Why a turn ends without the answer that it was to have.

use super::agent_client::AgentError;
use super::outcome::Status;
use super::store::Claimed;
use crate::agents::access;
use crate::telegram::callback::Press;
use crate::telegram::text::Buttons;
use crate::telegram::texts;
use baal_protocol::Role;

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How the turn ends.
    pub status: Status,
    /// Markdown for the user.
    pub words: String,
    /// For operators.
    pub error: String,
    /// Whether repairing the agent may help.
    pub repairable: bool,
}

impl Refusal {
    /// The agent could not be asked or did not answer.
    pub fn of(error: &AgentError, turn: &Claimed) -> Self {
        let words = texts::agent_trouble(error, turn);
        let repairable = match error {
            AgentError::Unreachable(_) | AgentError::Broken(_) | AgentError::Unwell(_) => true,
            AgentError::Refused(status) => matches!(status, 401 | 403),
            AgentError::NotRunning(status) => status == "failed",
            AgentError::Barred(_) | AgentError::UnknownTurn | AgentError::File { .. } => false,
        };
        Self { status: Status::Failed, words, error: error.to_string(), repairable }
    }

    /// Nobody knows whether the agent has run the turn.
    pub fn unknown(error: String) -> Self {
        Self { status: Status::Unknown, words: texts::ANSWER_LOST.into(), error, repairable: false }
    }

    /// The turn was at work for longer than any may be.
    pub fn too_long() -> Self {
        let error = "the turn took too long".into();
        Self { status: Status::Failed, words: texts::TOOK_TOO_LONG.into(), error, repairable: false }
    }

    /// A fault of ours.
    pub fn internal(error: &str) -> Self {
        Self { status: Status::Failed, words: texts::OUR_FAULT.into(), error: error.into(), repairable: false }
    }

    /// Its owner is to do something about the agent first.
    pub fn paused(turn: &Claimed, why: &str) -> Self {
        Self {
            status: Status::Failed,
            words: texts::agent_paused(turn, why),
            error: format!("the agent is paused: {why}"),
            repairable: true,
        }
    }

    /// The owner has shut the visitor out since they wrote.
    pub fn shut_out(turn: &Claimed, why: access::Refusal) -> Self {
        Self {
            status: Status::Failed,
            words: texts::shut_out(&turn.agent_name, why),
            error: format!("the visitor may not talk to the agent any more: {why:?}"),
            repairable: false,
        }
    }

    /// Operators have shut the user out since they wrote.
    pub fn blocked() -> Self {
        Self {
            status: Status::Failed,
            words: texts::BLOCKED.into(),
            error: "operators have blocked the user".into(),
            repairable: false,
        }
    }

    /// The agent runs on the operator's key again, and its user's messages of today are used up.
    pub fn free_used_up(turn: &Claimed, limit: i32) -> Self {
        Self {
            status: Status::Failed,
            words: texts::used_up_meanwhile(&turn.agent_name, limit),
            error: "the user's messages of the day are used up".into(),
            repairable: false,
        }
    }

    /// The agent is of a version that gives everybody its tools.
    pub fn cannot_withhold_tools(turn: &Claimed) -> Self {
        Self {
            status: Status::Failed,
            words: texts::cannot_withhold_tools(&turn.agent_name, turn.agent_external),
            error: "the agent is too old to keep its tools from a visitor".into(),
            repairable: false,
        }
    }

    /// What whoever spoke can do: ask again, and if the agent is theirs, repair it.
    pub fn ways_out(&self, turn: &Claimed) -> Buttons {
        let mut row = vec![Press::RetryTurn(turn.id).button(texts::TRY_AGAIN)];
        if self.repairable && turn.role == Role::Owner && !turn.agent_external {
            row.push(Press::Repair(turn.agent_id).button(texts::REPAIR));
        }
        vec![row]
    }
}
