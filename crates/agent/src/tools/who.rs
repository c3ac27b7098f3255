//! On whose behalf a turn runs, and what that person may use.

use super::Access;
use baal_protocol::{AgentConfig, ChatRequest, Role};
use std::sync::Arc;

/// Chats of the admin API, whose people are nobody's owner.
const ADMIN: &str = "admin:";

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

    /// By the name in the database.
    pub fn of_name(name: &str) -> Self {
        match name {
            "subagent" => TurnKind::Subagent,
            "heartbeat" => TurnKind::Heartbeat,
            _ => TurnKind::Chat,
        }
    }
}

/// The chat in which heartbeats talk to themselves.
pub const HEARTBEAT_CHAT: &str = "heartbeat";
/// What the chat of a subagent begins with, before its id.
pub const SUBAGENT_CHAT: &str = "subagent:";

/// How it is known who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    owner_chat_id: String,
    visitor_tools: Arc<[String]>,
}

impl Rules {
    /// As configured.
    pub fn new(config: &AgentConfig) -> Self {
        Self { owner_chat_id: config.owner_chat_id.clone(), visitor_tools: config.visitor_tools.clone().into() }
    }

    /// Owner or visitor. A caller of the base protocol names no sender: then the owner is known by the chat.
    pub fn role(&self, request: &ChatRequest) -> Role {
        let chat_id = &request.chat_id;
        match &request.sender {
            _ if chat_id.starts_with(ADMIN) => Role::Visitor,
            Some(sender) => sender.role,
            None if !chat_id.is_empty() && *chat_id == self.owner_chat_id => Role::Owner,
            None => Role::Visitor,
        }
    }

    /// Whether the sender may do no more than talk: a visitor, where the caller says so.
    pub fn only_talks(&self, request: &ChatRequest) -> bool {
        let without_tools = request.sender.as_ref().is_some_and(|sender| sender.tools == Some(false));
        without_tools && self.role(request) == Role::Visitor
    }

    /// On whose behalf a turn runs.
    pub fn who(&self, request: &ChatRequest, kind: TurnKind, deliver_to: Option<String>) -> Who {
        Who {
            chat_id: request.chat_id.clone(),
            role: self.role(request),
            only_talks: self.only_talks(request),
            kind,
            deliver_to,
            visitor_tools: self.visitor_tools.clone(),
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
    /// Whether this is a visitor who may only talk: of the tools, they have those of their memory.
    pub only_talks: bool,
    /// What began it.
    pub kind: TurnKind,
    /// Of what works in the background: the chat that it works for.
    pub deliver_to: Option<String>,
    /// Names of tools that visitors have beyond their own.
    pub visitor_tools: Arc<[String]>,
}

impl Who {
    /// The chat of the person, also where something works for that person in the background.
    pub fn home_chat(&self) -> &str {
        self.deliver_to.as_deref().unwrap_or(&self.chat_id)
    }

    /// Whether a tool is offered, and run when the model calls it all the same.
    pub fn may_use(&self, name: &str, access: Access) -> bool {
        let in_person = self.kind == TurnKind::Chat;
        let given = self.role == Role::Owner || self.visitor_tools.iter().any(|tool| tool == name);
        match access {
            Access::Memory => true,
            _ if self.only_talks => false,
            Access::Everyone => true,
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
        who(role, kind, visitor_tools).may_use("bash", access)
    }

    fn who(role: Role, kind: TurnKind, visitor_tools: Arc<[String]>) -> Who {
        Who { chat_id: "1".into(), role, only_talks: false, kind, deliver_to: None, visitor_tools }
    }

    #[test]
    fn who_may_only_talk_has_memory_and_nothing_else() {
        let given: Arc<[String]> = ["bash".to_owned(), "spawn".to_owned()].into();
        let talks = Who { only_talks: true, ..who(Role::Visitor, TurnKind::Chat, given) };
        assert!(talks.may_use("recall", Access::Memory));
        for access in [Access::Everyone, Access::Owner, Access::OwnerInPerson] {
            assert!(!talks.may_use("bash", access), "{access:?}");
        }
        let only_talks = |role: &str, tools: Option<bool>| {
            let sender = serde_json::json!({"id": 1, "name": "Zoë", "role": role, "tools": tools});
            let request = serde_json::json!({"message": "hi", "chat_id": "8", "sender": sender});
            Rules::new(&AgentConfig::default()).only_talks(&serde_json::from_value(request).expect("a request"))
        };
        assert!(only_talks("visitor", Some(false)));
        assert!(
            !only_talks("visitor", Some(true)) && !only_talks("visitor", None) && !only_talks("owner", Some(false))
        );
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
    }

    fn role(body: serde_json::Value) -> Role {
        let config = AgentConfig { owner_chat_id: "7".into(), ..AgentConfig::default() };
        Rules::new(&config).role(&serde_json::from_value(body).expect("a request"))
    }

    #[test]
    fn the_sender_decides_and_without_one_the_chat() {
        let sender = |role: &str| serde_json::json!({"id": 1, "name": "Zoë", "role": role});
        let from = |chat_id: &str, sent: &str| {
            role(serde_json::json!({"message": "hi", "chat_id": chat_id, "sender": sender(sent)}))
        };
        assert_eq!((from("7", "visitor"), from("8", "owner")), (Role::Visitor, Role::Owner));
        assert_eq!(from("admin:7", "owner"), Role::Visitor);
        let unnamed = |chat_id: &str| role(serde_json::json!({"message": "hi", "chat_id": chat_id}));
        assert_eq!((unnamed("7"), unnamed("8"), unnamed("admin:7")), (Role::Owner, Role::Visitor, Role::Visitor));
        let nobodys = Rules::new(&AgentConfig::default());
        let request = serde_json::from_value(serde_json::json!({"message": "hi", "chat_id": ""})).expect("a request");
        assert_eq!(nobodys.role(&request), Role::Visitor);
    }
}
