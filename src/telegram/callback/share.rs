//! Buttons of `/share`.

use std::fmt;
use std::str::FromStr;

use super::UnknownPress;
use crate::agents::sharing::MAX_DAYS;
use crate::config::Visibility;

/// Buttons of `/share`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharePress {
    /// Show how this agent is shared.
    Open(i64),
    /// Change who may open this agent.
    Visibility(i64, Visibility),
    /// Make another link to this agent.
    NewLink(i64),
    /// Show this link.
    Link(i64),
    /// Whether this link gives tools.
    Tools(i64, bool),
    /// How many messages a day this link gives; 0: no limit.
    PerDay(i64, i32),
    /// In how many days this link ends; 0: never.
    Days(i64, i32),
    /// Write another name for this link.
    Label(i64),
    /// Show this link as a picture.
    Qr(i64),
    /// Ask whether to take this link back.
    Revoke(i64),
    /// Take it back.
    ConfirmRevoke(i64),
    /// Show this page of an agent's visitors.
    Visitors {
        /// The agent.
        agent: i64,
        /// From 0.
        page: i64,
    },
    /// Show this visitor.
    Visitor {
        /// The agent.
        agent: i64,
        /// Whom.
        user: i64,
    },
    /// Let them in.
    Admit {
        /// The agent.
        agent: i64,
        /// Whom.
        user: i64,
    },
    /// Do not, for now.
    Refuse {
        /// The agent.
        agent: i64,
        /// Whom.
        user: i64,
    },
    /// Shut them out.
    Block {
        /// The agent.
        agent: i64,
        /// Whom.
        user: i64,
    },
    /// End that.
    Unblock {
        /// The agent.
        agent: i64,
        /// Whom.
        user: i64,
    },
}

impl fmt::Display for SharePress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(id) => write!(f, "open:{id}"),
            Self::Visibility(id, visibility) => write!(f, "for:{id}:{}", visibility.as_str()),
            Self::NewLink(id) => write!(f, "new:{id}"),
            Self::Link(id) => write!(f, "link:{id}"),
            Self::Tools(id, tools) => write!(f, "tools:{id}:{}", u8::from(*tools)),
            Self::PerDay(id, messages) => write!(f, "day:{id}:{messages}"),
            Self::Days(id, days) => write!(f, "end:{id}:{days}"),
            Self::Label(id) => write!(f, "name:{id}"),
            Self::Qr(id) => write!(f, "qr:{id}"),
            Self::Revoke(id) => write!(f, "revoke:{id}"),
            Self::ConfirmRevoke(id) => write!(f, "revoke!:{id}"),
            Self::Visitors { agent, page } => write!(f, "all:{agent}:{page}"),
            Self::Visitor { agent, user } => write!(f, "who:{agent}:{user}"),
            Self::Admit { agent, user } => write!(f, "in:{agent}:{user}"),
            Self::Refuse { agent, user } => write!(f, "no:{agent}:{user}"),
            Self::Block { agent, user } => write!(f, "block:{agent}:{user}"),
            Self::Unblock { agent, user } => write!(f, "unblock:{agent}:{user}"),
        }
    }
}

impl FromStr for SharePress {
    type Err = UnknownPress;

    fn from_str(data: &str) -> Result<Self, UnknownPress> {
        let (verb, rest) = data.split_once(':').unwrap_or((data, ""));
        let id = || rest.parse::<i64>().map_err(|_| UnknownPress);
        let pair = || rest.split_once(':').ok_or(UnknownPress);
        let first = || pair()?.0.parse::<i64>().map_err(|_| UnknownPress);
        let second = || pair()?.1.parse::<i64>().map_err(|_| UnknownPress);
        let count = || i32::try_from(second()?).ok().filter(|n| *n >= 0).ok_or(UnknownPress);
        Ok(match verb {
            "open" => Self::Open(id()?),
            "for" => Self::Visibility(first()?, pair()?.1.parse().map_err(|_| UnknownPress)?),
            "new" => Self::NewLink(id()?),
            "link" => Self::Link(id()?),
            "tools" => match second()? {
                0 => Self::Tools(first()?, false),
                1 => Self::Tools(first()?, true),
                _ => return Err(UnknownPress),
            },
            "day" => Self::PerDay(first()?, count()?),
            // What comes of more days has no date.
            "end" => {
                Self::Days(first()?, count().ok().filter(|days| i64::from(*days) <= MAX_DAYS).ok_or(UnknownPress)?)
            }
            "name" => Self::Label(id()?),
            "qr" => Self::Qr(id()?),
            "revoke" => Self::Revoke(id()?),
            "revoke!" => Self::ConfirmRevoke(id()?),
            "all" => Self::Visitors { agent: first()?, page: count()?.into() },
            "who" => Self::Visitor { agent: first()?, user: second()? },
            "in" => Self::Admit { agent: first()?, user: second()? },
            "no" => Self::Refuse { agent: first()?, user: second()? },
            "block" => Self::Block { agent: first()?, user: second()? },
            "unblock" => Self::Unblock { agent: first()?, user: second()? },
            _ => return Err(UnknownPress),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telegram::callback::Press;

    #[test]
    fn presses_survive_their_encoding_within_64_bytes() {
        let (agent, user) = (i64::MIN, i64::MIN);
        for press in [
            SharePress::Open(agent),
            SharePress::Visibility(agent, Visibility::Unlisted),
            SharePress::NewLink(agent),
            SharePress::Link(agent),
            SharePress::Tools(agent, true),
            SharePress::PerDay(agent, i32::MAX),
            SharePress::Days(agent, 0),
            SharePress::Label(agent),
            SharePress::Qr(agent),
            SharePress::Revoke(agent),
            SharePress::ConfirmRevoke(agent),
            SharePress::Visitors { agent, page: 12 },
            SharePress::Visitor { agent, user },
            SharePress::Admit { agent, user },
            SharePress::Refuse { agent, user },
            SharePress::Block { agent, user },
            SharePress::Unblock { agent, user },
        ] {
            let press = Press::Share(press);
            let data = press.to_string();
            assert!(data.len() <= 64, "{data}");
            assert_eq!(data.parse(), Ok(press));
        }
    }

    #[test]
    fn forged_data_is_refused() {
        for data in [
            "pick",
            "open:",
            "for:1:mine",
            "tools:1:2",
            "day:1:-1",
            "day:1",
            "end:1:3651",
            "end:1:2147483647",
            "end:1:99999999999",
            "all:1:-1",
            "in:1",
            "x",
        ] {
            assert_eq!(data.parse::<SharePress>(), Err(UnknownPress), "{data}");
        }
    }
}
