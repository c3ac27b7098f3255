//! Buttons of `/soul`.

use std::fmt;
use std::str::FromStr;

use super::UnknownPress;

/// Buttons of `/soul`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoulPress {
    /// Show this agent's personality.
    Show(i64),
    /// Write another personality for this agent.
    Edit(i64),
    /// Go back to an earlier personality.
    Undo {
        /// Of this agent.
        id: i64,
        /// From this version's: if it has another by now, the button is an old one.
        from: i32,
        /// To this version's.
        to: i32,
    },
}

impl fmt::Display for SoulPress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Show(id) => write!(f, "show:{id}"),
            Self::Edit(id) => write!(f, "edit:{id}"),
            Self::Undo { id, from, to } => write!(f, "undo:{id}:{from}:{to}"),
        }
    }
}

impl FromStr for SoulPress {
    type Err = UnknownPress;

    fn from_str(data: &str) -> Result<Self, UnknownPress> {
        let (verb, rest) = data.split_once(':').unwrap_or((data, ""));
        let id = || rest.parse::<i64>().map_err(|_| UnknownPress);
        Ok(match verb {
            "show" => Self::Show(id()?),
            "edit" => Self::Edit(id()?),
            "undo" => {
                let mut numbers = rest.splitn(3, ':');
                let mut next = || numbers.next().ok_or(UnknownPress);
                let (id, from, to) = (next()?, next()?, next()?);
                let version = |word: &str| word.parse::<i32>().map_err(|_| UnknownPress);
                Self::Undo { id: id.parse().map_err(|_| UnknownPress)?, from: version(from)?, to: version(to)? }
            }
            _ => return Err(UnknownPress),
        })
    }
}
