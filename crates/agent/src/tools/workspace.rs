//! The way of the tools to the files and the shell: a connection to the launcher about one person's directory.

use super::{Call, ToolError, Who};
use baal_launcher::Root;
use baal_launcher::client::{CallError, Session};
use baal_protocol::Role;
use sha2::{Digest, Sha256};
use tracing::error;

impl Who {
    /// The directory that is the whole visible workspace: the owner's, or one of the visitor's chat alone.
    pub fn root(&self) -> Root {
        if self.role == Role::Owner {
            return Root::Owner;
        }
        let digest: [u8; 32] = Sha256::digest(self.home_chat()).into();
        let mut name = [0; 16];
        name.copy_from_slice(&digest[..16]);
        Root::Chat(name)
    }
}

/// Opens a connection about the caller's directory.
pub(super) async fn open(call: &Call) -> Result<Session, ToolError> {
    call.services.launcher.open(&call.who.root()).await.map_err(told)
}

/// In words for the model; what concerns the operator is logged.
pub(super) fn told(error: CallError) -> ToolError {
    match error {
        CallError::Failed(failure) => ToolError::told(failure.to_string()),
        CallError::Unavailable(e) => {
            error!(error = %e, "the launcher of the tools does not answer");
            ToolError::told("The workspace cannot be reached at the moment. Tell the user if it stays so.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::TurnKind;

    fn root(role: Role, chat_id: &str, deliver_to: Option<&str>) -> Root {
        let deliver_to = deliver_to.map(str::to_owned);
        Who {
            chat_id: chat_id.into(),
            role,
            only_talks: false,
            kind: TurnKind::Chat,
            deliver_to,
            visitor_tools: [].into(),
        }
        .root()
    }

    #[test]
    fn every_visitor_has_a_directory_of_their_own_and_the_owner_one_for_all() {
        assert_eq!(root(Role::Owner, "7", None), Root::Owner);
        assert_eq!(root(Role::Owner, "subagent:1", Some("7")), Root::Owner);
        // sha256sum of `7`
        assert_eq!(root(Role::Visitor, "7", None).to_string(), "chats/7902699be42c8a8e46fbbb4501726517");
        assert_ne!(root(Role::Visitor, "8", None), root(Role::Visitor, "7", None));
        assert_eq!(root(Role::Visitor, "subagent:1", Some("7")), root(Role::Visitor, "7", None));
    }
}
