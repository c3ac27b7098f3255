//! Administrators: their tokens, and the record of what they changed. What they may do is in [`http::admin`](crate::http).

pub mod audit;
pub mod cli;
pub mod people;
pub mod tokens;
pub mod usage;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token allows. Each allows what the one before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Scope {
    /// Look at agents, people, usage, jobs, machines and queues; figures for Prometheus.
    Read,
    /// Besides: change agents, people, jobs and queues, and talk to agents. Trusted like an operator with owners' agents, and
    /// what is created and said costs money.
    Write,
    /// Besides: tokens, the record of changes, the configuration, hosts, machines, the pool and the reconciler.
    Admin,
}

impl Scope {
    /// The word in the database and in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Read, Self::Write, Self::Admin]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| "must be read, write or admin".to_owned())
    }
}

/// Who asks: a token of the API, or whoever runs the program on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// In the record and in logs: `token 3 (deploys)`, `ADMIN_TOKEN`, `command line`.
    pub name: String,
    /// The token's id; none for ADMIN_TOKEN and the command line.
    pub token_id: Option<i64>,
    /// What they may do.
    pub scope: Scope,
    /// From where.
    pub address: Option<IpAddr>,
    /// Of the request, as it is in the logs.
    pub request_id: Option<String>,
}

impl Caller {
    /// Whoever runs a command of this program.
    pub fn command_line() -> Self {
        Self { name: "command line".into(), token_id: None, scope: Scope::Admin, address: None, request_id: None }
    }
}
