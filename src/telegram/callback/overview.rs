//! Buttons of `/dashboard` and `/pool`.

use std::fmt;
use std::str::FromStr;

use super::UnknownPress;

/// Buttons of `/dashboard` and `/pool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverviewPress {
    /// Show the dashboard anew.
    Dashboard,
    /// Show the pool anew.
    Pool,
}

impl fmt::Display for OverviewPress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dashboard => f.write_str("dashboard"),
            Self::Pool => f.write_str("pool"),
        }
    }
}

impl FromStr for OverviewPress {
    type Err = UnknownPress;

    fn from_str(data: &str) -> Result<Self, UnknownPress> {
        let (verb, rest) = data.split_once(':').unwrap_or((data, ""));
        Ok(match verb {
            "dashboard" if rest.is_empty() => Self::Dashboard,
            "pool" if rest.is_empty() => Self::Pool,
            _ => return Err(UnknownPress),
        })
    }
}
