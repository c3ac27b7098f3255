//! What an inline button says when it is pressed: at most 64 bytes of `callback_data`.
//!
//! A button proves nothing: anyone can send any data. Every press is authorised anew by who pressed.

mod account;
mod overview;
mod share;
mod soul;

pub use account::AccountPress;
pub use overview::OverviewPress;
pub use share::SharePress;
pub use soul::SoulPress;

use std::fmt;
use std::str::FromStr;

use teloxide_core::types::InlineKeyboardButton;
use uuid::Uuid;

/// A press, as encoded in `callback_data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Press {
    /// Begin to create an agent.
    Create,
    /// List one's agents.
    List,
    /// Show the help.
    Help,
    /// Talk to this agent.
    Chat(i64),
    /// Show this agent's card.
    Manage(i64),
    /// Ask whether to delete this agent.
    Delete(i64),
    /// Delete it.
    ConfirmDelete(i64),
    /// Keep it after all.
    KeepAgent(i64),
    /// Provision it again after a failure.
    Retry(i64),
    /// Ask whether to repair this agent.
    Repair(i64),
    /// Repair it.
    ConfirmRepair(i64),
    /// Ask whether this agent is to begin anew on another machine.
    BeginAnew(i64),
    /// Let it begin anew.
    ConfirmBeginAnew(i64),
    /// Put the present program in place.
    Update(i64),
    /// Send the words of this turn to the agent again.
    RetryTurn(Uuid),
    /// Stop this turn.
    StopTurn(Uuid),
    /// Let this agent forget this chat's conversation, as `/new` asked.
    NewChat(i64),
    /// Keep this chat's conversation after all.
    KeepChat,
    /// Of `/soul`.
    Soul(SoulPress),
    /// Of `/share`.
    Share(SharePress),
    /// Of `/account`, `/login`, `/logout`, `/privacy` and `/forgetme`.
    Account(AccountPress),
    /// Of `/dashboard` and `/pool`.
    Overview(OverviewPress),
    /// An answer within a dialogue: which dialogue, at which step, and the answer (short, without colons).
    Dialogue {
        /// [`Conversation::dialogue_id`](super::conversation::Conversation).
        id: i64,
        /// The step that the button belongs to.
        step: String,
        /// What was chosen.
        choice: String,
    },
}

/// Data of another program, of an older version, or forged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown callback data")]
pub struct UnknownPress;

impl Press {
    /// A button with this label.
    pub fn button(&self, label: impl Into<String>) -> InlineKeyboardButton {
        InlineKeyboardButton::callback(label, self.to_string())
    }
}

impl fmt::Display for Press {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create"),
            Self::List => f.write_str("list"),
            Self::Help => f.write_str("help"),
            Self::Chat(id) => write!(f, "chat:{id}"),
            Self::Manage(id) => write!(f, "manage:{id}"),
            Self::Delete(id) => write!(f, "delete:{id}"),
            Self::ConfirmDelete(id) => write!(f, "delete!:{id}"),
            Self::KeepAgent(id) => write!(f, "keep:{id}"),
            Self::Retry(id) => write!(f, "retry:{id}"),
            Self::Repair(id) => write!(f, "repair:{id}"),
            Self::ConfirmRepair(id) => write!(f, "repair!:{id}"),
            Self::BeginAnew(id) => write!(f, "anew:{id}"),
            Self::ConfirmBeginAnew(id) => write!(f, "anew!:{id}"),
            Self::Update(id) => write!(f, "update:{id}"),
            Self::RetryTurn(id) => write!(f, "again:{}", id.simple()),
            Self::StopTurn(id) => write!(f, "stop:{}", id.simple()),
            Self::NewChat(id) => write!(f, "new!:{id}"),
            Self::KeepChat => f.write_str("keepchat"),
            Self::Soul(press) => write!(f, "soul:{press}"),
            Self::Share(press) => write!(f, "s:{press}"),
            Self::Account(press) => write!(f, "me:{press}"),
            Self::Overview(press) => write!(f, "o:{press}"),
            Self::Dialogue { id, step, choice } => write!(f, "d:{id}:{step}:{choice}"),
        }
    }
}

impl FromStr for Press {
    type Err = UnknownPress;

    fn from_str(data: &str) -> Result<Self, UnknownPress> {
        let (verb, rest) = data.split_once(':').unwrap_or((data, ""));
        let id = || rest.parse::<i64>().map_err(|_| UnknownPress);
        Ok(match verb {
            "create" if rest.is_empty() => Self::Create,
            "list" if rest.is_empty() => Self::List,
            "help" if rest.is_empty() => Self::Help,
            "chat" => Self::Chat(id()?),
            "manage" => Self::Manage(id()?),
            "delete" => Self::Delete(id()?),
            "delete!" => Self::ConfirmDelete(id()?),
            "keep" => Self::KeepAgent(id()?),
            "retry" => Self::Retry(id()?),
            "repair" => Self::Repair(id()?),
            "repair!" => Self::ConfirmRepair(id()?),
            "anew" => Self::BeginAnew(id()?),
            "anew!" => Self::ConfirmBeginAnew(id()?),
            "update" => Self::Update(id()?),
            "again" => Self::RetryTurn(rest.parse().map_err(|_| UnknownPress)?),
            "stop" => Self::StopTurn(rest.parse().map_err(|_| UnknownPress)?),
            "new!" => Self::NewChat(id()?),
            "keepchat" if rest.is_empty() => Self::KeepChat,
            "soul" => Self::Soul(rest.parse()?),
            "s" => Self::Share(rest.parse()?),
            "me" => Self::Account(rest.parse()?),
            "o" => Self::Overview(rest.parse()?),
            "d" => {
                let mut parts = rest.splitn(3, ':');
                let mut next = || parts.next().ok_or(UnknownPress);
                Self::Dialogue {
                    id: next()?.parse().map_err(|_| UnknownPress)?,
                    step: next()?.to_owned(),
                    choice: next()?.to_owned(),
                }
            }
            _ => return Err(UnknownPress),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presses_survive_their_encoding_within_64_bytes() {
        let presses = [
            Press::Create,
            Press::List,
            Press::Help,
            Press::Chat(1),
            Press::Manage(2),
            Press::Delete(3),
            Press::ConfirmDelete(4),
            Press::KeepAgent(4),
            Press::Retry(5),
            Press::Repair(i64::MIN),
            Press::ConfirmRepair(i64::MIN),
            Press::BeginAnew(i64::MIN),
            Press::ConfirmBeginAnew(i64::MIN),
            Press::Update(i64::MIN),
            Press::RetryTurn(Uuid::max()),
            Press::StopTurn(Uuid::max()),
            Press::NewChat(i64::MIN),
            Press::KeepChat,
            Press::Soul(SoulPress::Show(6)),
            Press::Soul(SoulPress::Edit(i64::MIN)),
            Press::Soul(SoulPress::Undo { id: i64::MIN, from: i32::MIN, to: i32::MIN }),
            Press::Overview(OverviewPress::Dashboard),
            Press::Overview(OverviewPress::Pool),
            Press::Dialogue { id: i64::MAX, step: "personality".into(), choice: "default".into() },
        ];
        for press in presses {
            let data = press.to_string();
            assert!(data.len() <= 64, "{data}");
            assert_eq!(data.parse(), Ok(press));
        }
    }

    #[test]
    fn forged_data_is_refused() {
        for data in [
            "",
            "chat:",
            "chat:x",
            "list:1",
            "d:1",
            "d:x:y:z",
            "again:1",
            "delete!:1:2",
            "soul:undo:1:2",
            "soul:undo:1:2:3:4",
            "o:",
            "\u{0}",
        ] {
            assert_eq!(data.parse::<Press>(), Err(UnknownPress), "{data}");
        }
    }
}
