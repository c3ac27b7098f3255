//! Settings as administrators may see them: as they are written in the environment, secrets masked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AgentTls, CloudKind, CreatePolicy, LogFormat, Models, StreamMode, TelegramMode, Visibility};
use crate::vault::Vault;

/// What stands for a secret.
const MASK: &str = "[REDACTED]";

/// A setting as it may be shown.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Setting)]
pub struct Shown {
    /// The variable.
    #[schema(example = "MAX_VMS")]
    pub name: &'static str,
    /// Its value, as it is written there; `[REDACTED]` where it is a secret, null where there is none.
    #[schema(example = "20")]
    pub value: Option<String>,
}

/// A value as it is written in the environment; none where it is not set.
pub(super) trait Written {
    /// `name` is the variable's, which says in what times are counted.
    fn written(&self, name: &str) -> Option<String>;
}

macro_rules! plain {
    ($($type:ty),+) => { $(
        impl Written for $type {
            fn written(&self, _: &str) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+ };
}
macro_rules! secret {
    ($($type:ty),+) => { $(
        impl Written for $type {
            fn written(&self, _: &str) -> Option<String> {
                Some(MASK.into())
            }
        }
    )+ };
}

macro_rules! word {
    ($($type:ty),+) => { $(
        impl Written for $type {
            fn written(&self, _: &str) -> Option<String> {
                Some(self.as_str().into())
            }
        }
    )+ };
}

plain!(String, bool, u16, u32, i32, i64, u64, usize, f64, NonZeroU32, SocketAddr, IpNet);
word!(AgentTls, CloudKind, CreatePolicy, LogFormat, StreamMode, TelegramMode, Visibility);
secret!(SecretString, Vault);

impl Written for PathBuf {
    fn written(&self, _: &str) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Written for Duration {
    fn written(&self, name: &str) -> Option<String> {
        let seconds = self.as_secs_f64();
        Some(if name.ends_with("_HOURS") { seconds / 3_600.0 } else { seconds }.to_string())
    }
}

/// By their ids.
impl Written for Models {
    fn written(&self, _: &str) -> Option<String> {
        Some(self.0.iter().map(|model| model.id.as_str()).collect::<Vec<_>>().join(","))
    }
}

impl<T: Written> Written for Option<T> {
    fn written(&self, name: &str) -> Option<String> {
        self.as_ref().and_then(|value| value.written(name))
    }
}

impl<T: Written> Written for Vec<T> {
    fn written(&self, name: &str) -> Option<String> {
        let all: Vec<_> = self.iter().filter_map(|value| value.written(name)).collect();
        if all.is_empty() { None } else { Some(all.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_in_the_environment_and_secrets_never() {
        let none: Option<SecretString> = None;
        for (seen, expected) in [
            (SecretString::from("sk-1").written("KEY"), Some("[REDACTED]")),
            (Some(SecretString::from("sk-1")).written("KEY"), Some("[REDACTED]")),
            (none.written("KEY"), None),
            (Duration::from_secs(30).written("LEASE_SECONDS"), Some("30")),
            (Duration::from_secs(24 * 3_600).written("POOL_MAX_AGE_HOURS"), Some("24")),
            (vec![1_i64, 2].written("OPERATOR_IDS"), Some("1,2")),
            (Vec::<String>::new().written("ADMIN_CORS_ORIGINS"), None),
            ("quoted".to_owned().written("NAME"), Some("quoted")),
            (true.written("POOL_ENABLED"), Some("true")),
        ] {
            assert_eq!(seen.as_deref(), expected);
        }
    }
}
