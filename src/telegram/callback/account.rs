//! Buttons of `/account`, `/login`, `/logout`, `/privacy` and `/forgetme`.

use std::fmt;
use std::str::FromStr;

use super::UnknownPress;

/// Buttons of `/account`, `/login`, `/logout`, `/privacy` and `/forgetme`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountPress {
    /// Show the account.
    Show,
    /// Ask for a key.
    Login,
    /// Ask whether to disconnect the key.
    AskLogout,
    /// Disconnect the key.
    Logout,
    /// Let all of ones agents run on the key that is connected now.
    Redeploy,
    /// Ask whether to forget everything of the user.
    AskForget,
    /// Ask for the word that confirms `/forgetme`.
    Forget,
    /// Leave everything as it is.
    Cancel,
}

impl fmt::Display for AccountPress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Show => f.write_str("show"),
            Self::Login => f.write_str("login"),
            Self::AskLogout => f.write_str("logout?"),
            Self::Logout => f.write_str("logout"),
            Self::Redeploy => f.write_str("redeploy"),
            Self::AskForget => f.write_str("forget?"),
            Self::Forget => f.write_str("forget"),
            Self::Cancel => f.write_str("cancel"),
        }
    }
}

impl FromStr for AccountPress {
    type Err = UnknownPress;

    fn from_str(data: &str) -> Result<Self, UnknownPress> {
        Ok(match data {
            "show" => Self::Show,
            "login" => Self::Login,
            "logout?" => Self::AskLogout,
            "logout" => Self::Logout,
            "redeploy" => Self::Redeploy,
            "forget?" => Self::AskForget,
            "forget" => Self::Forget,
            "cancel" => Self::Cancel,
            _ => return Err(UnknownPress),
        })
    }
}
