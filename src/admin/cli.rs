//! `baal token create | list | revoke`: works without a running server, and where no token is known yet.

use crate::database;
use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use secrecy::ExposeSecret as _;

use super::tokens::{self, Token};
use super::{Caller, Scope};

/// The most that `list` shows.
const MOST: i64 = 10_000;

/// What to do with tokens of the API.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make a token and print it, this once.
    Create {
        /// What it is for.
        label: String,
        /// What it allows: `read`, `write` (reads too) or `admin` (everything).
        #[arg(long, default_value = "read")]
        scope: Scope,
        /// How many days it is good for; without it, until it is revoked.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i32).range(1..=3_650))]
        days: Option<i32>,
    },
    /// Show all tokens, without their text.
    List,
    /// Make a token useless from now on.
    Revoke {
        /// Its number in `baal token list`.
        id: i64,
    },
}

/// Does it and prints what came of it: standard output holds the new token alone, for scripts.
pub async fn run(db: &sqlx::PgPool, action: Action) -> anyhow::Result<()> {
    let mut tx = database::begin(db).await.context("the database does not answer")?;
    let caller = Caller::command_line();
    match action {
        Action::Create { label, scope, days } => {
            let (token, text) = tokens::create(&mut tx, &caller, &label, scope, days).await?;
            tx.commit().await?;
            eprintln!("Token {} ({scope}), {}. It is not shown again.", token.id, lasting(&token));
            println!("{}", text.expose_secret());
        }
        Action::List => {
            let all = tokens::list(&mut tx, None, MOST).await?;
            for line in table(&all) {
                println!("{line}");
            }
        }
        Action::Revoke { id } => {
            let token = tokens::revoke(&mut tx, &caller, id).await?;
            let token = token.with_context(|| format!("there is no token {id}: see `baal token list`"))?;
            tx.commit().await?;
            println!("{token} is not good any more.");
        }
    }
    Ok(())
}

fn lasting(token: &Token) -> String {
    let day = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    match (token.revoked_at, token.expires_at) {
        (Some(at), _) => format!("revoked {}", day(at)),
        (None, Some(at)) => format!("until {}", day(at)),
        (None, None) => "until it is revoked".into(),
    }
}

fn table(tokens: &[Token]) -> Vec<String> {
    if tokens.is_empty() {
        return vec!["There are no tokens. `baal token create LABEL` makes one.".into()];
    }
    let line = |token: &Token| {
        let used = token
            .last_used_at
            .map_or_else(|| "never used".into(), |at| format!("used {}", at.format("%Y-%m-%d %H:%M")));
        format!("{:>4}  {:<5}  {used:<21}  {:<29}  {}", token.id, token.scope.as_str(), lasting(token), token.label)
    };
    tokens.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_each_is_for_and_until_when() {
        assert_eq!(table(&[]).len(), 1);
        let at = DateTime::UNIX_EPOCH;
        let token = Token {
            id: 3,
            label: "deploys".into(),
            scope: Scope::Write,
            created_at: at,
            created_by: "ADMIN_TOKEN".into(),
            expires_at: None,
            last_used_at: Some(at),
            revoked_at: None,
        };
        assert_eq!(
            table(&[token.clone(), Token { revoked_at: Some(at), last_used_at: None, ..token }]),
            [
                "   3  write  used 1970-01-01 00:00  until it is revoked            deploys",
                "   3  write  never used             revoked 1970-01-01T00:00:00Z   deploys",
            ]
        );
    }
}
