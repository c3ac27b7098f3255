//! On whose behalf a turn runs, and what that person may use.

use super::Access;
use baal_protocol::Role;
use std::sync::Arc;

/// What began a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnKind {
    /// A person's message.
    Chat,
    /// `spawn`.
    Subagent,
    /// The clock.
    Heartbeat,
}

impl TurnKind {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            TurnKind::Chat => "chat",
            TurnKind::Subagent => "subagent",
            TurnKind::Heartbeat => "heartbeat",
        }
    }
}

/// On whose behalf a turn runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The chat of the conversation.
    pub chat_id: String,
    /// Owner or visitor; of a subagent, whoever had it spawned.
    pub role: Role,
    /// What began it.
    pub kind: TurnKind,
    /// Names of tools that visitors have beyond their own.
    pub visitor_tools: Arc<[String]>,
}

impl Who {
    /// Whether a tool is offered, and run when the model calls it all the same.
    pub fn may_use(&self, name: &str, access: Access) -> bool {
        let in_person = self.kind == TurnKind::Chat;
        let given = self.role == Role::Owner || self.visitor_tools.iter().any(|tool| tool == name);
        match access {
            Access::Everyone => true,
            Access::NoSubagent => self.kind != TurnKind::Subagent,
            Access::Owner => given,
            Access::OwnerInPerson => given && in_person,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(role: Role, kind: TurnKind, visitor_tools: &[&str], access: Access) -> bool {
        let visitor_tools = visitor_tools.iter().map(|tool| (*tool).to_owned()).collect();
        Who { chat_id: "1".into(), role, kind, visitor_tools }.may_use("bash", access)
    }

    #[test]
    fn a_visitor_has_an_owners_tool_only_where_it_was_given() {
        assert!(may(Role::Owner, TurnKind::Chat, &[], Access::Owner));
        assert!(!may(Role::Visitor, TurnKind::Chat, &[], Access::Owner));
        assert!(!may(Role::Visitor, TurnKind::Chat, &["spawn"], Access::Owner));
        assert!(may(Role::Visitor, TurnKind::Chat, &["bash"], Access::Owner));
        assert!(may(Role::Visitor, TurnKind::Chat, &[], Access::Everyone));
    }

    #[test]
    fn what_works_in_the_background_has_less() {
        assert!(may(Role::Owner, TurnKind::Subagent, &[], Access::Owner));
        assert!(!may(Role::Owner, TurnKind::Subagent, &[], Access::OwnerInPerson));
        assert!(!may(Role::Owner, TurnKind::Heartbeat, &[], Access::OwnerInPerson));
        assert!(!may(Role::Owner, TurnKind::Subagent, &[], Access::NoSubagent));
        assert!(may(Role::Owner, TurnKind::Heartbeat, &[], Access::NoSubagent));
    }
}
