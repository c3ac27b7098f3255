//! Bearer tokens of the API: shown once, kept as a hash.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

use super::audit::{self, Change};
use super::{Caller, Scope};
use crate::database::columns;

/// With which every token begins, so that scanners of leaked secrets know it.
const PREFIX: &str = "baal_";
/// Characters behind it: 256 bits in base 64.
const RANDOM: usize = 43;
/// The most days that a token is good for, if it has an end.
const MOST_DAYS: i32 = 3_650;

/// A token, without its text.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Token {
    /// Its number.
    #[schema(example = 3)]
    pub id: i64,
    /// What it is for.
    #[schema(example = "deploys")]
    pub label: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Who made it.
    #[schema(example = "ADMIN_TOKEN")]
    pub created_by: String,
    /// Until when it is good; null: until it is revoked.
    pub expires_at: Option<DateTime<Utc>>,
    /// To the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Since when it is not good any more.
    pub revoked_at: Option<DateTime<Utc>>,
}

macro_rules! token_columns {
    () => {
        columns!("": id, label, scope, created_at, created_by, expires_at, last_used_at, revoked_at)
    };
}

impl fmt::Display for Token {
    /// As it is in the record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} ({})", self.id, self.label)
    }
}

/// Why a token is not made.
#[derive(Debug, thiserror::Error)]
pub enum NewTokenError {
    /// It cannot be as it is wanted; the text says what would be right.
    #[error("{message}")]
    Invalid {
        /// `label` or `days`.
        field: &'static str,
        /// The whole sentence.
        message: &'static str,
    },
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The rules that the API's document has as bounds and as a pattern.
fn check(label: &str, days: Option<i32>) -> Result<(), NewTokenError> {
    let invalid = |field, message| Err(NewTokenError::Invalid { field, message });
    let is_good =
        (1..=64).contains(&label.chars().count()) && !label.starts_with(' ') && !label.chars().any(char::is_control);
    if !is_good {
        return invalid("label", "A label has 1 to 64 characters on one line and does not begin with a space.");
    }
    if days.is_some_and(|days| !(1..=MOST_DAYS).contains(&days)) {
        return invalid("days", "A token is good for 1 to 3650 days.");
    }
    Ok(())
}

/// Whether a text can be a token of these: has its shape.
pub fn is_plausible(text: &str) -> bool {
    let is_of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.strip_prefix(PREFIX).is_some_and(|random| random.len() == RANDOM && random.bytes().all(is_of_base64))
}

fn hash(token: &str) -> Vec<u8> {
    // Random, so nobody finds it by trying words: a slow hash would only slow every request down.
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Makes a token of 256 random bits, good for so many days, and its entry in the record. The text is nowhere else.
///
/// # Errors
/// The label or the days cannot be taken, or the database fails.
pub async fn create(
    conn: &mut PgConnection,
    caller: &Caller,
    label: &str,
    scope: Scope,
    days: Option<i32>,
) -> Result<(Token, SecretString), NewTokenError> {
    check(label, days)?;
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let insert = sqlx::query_as(concat!(
        "insert into api_tokens (label, hash, scope, created_by, expires_at)
         values ($1, $2, $3, $4, now() + make_interval(days => $5)) returning ",
        token_columns!()
    ));
    let insert = insert.bind(label).bind(hash(&text)).bind(scope.as_str()).bind(&caller.name).bind(days);
    let token: Token = insert.fetch_one(&mut *conn).await?;
    let after = json!({"label": token.label, "scope": token.scope, "expires_at": token.expires_at});
    record(conn, caller, "token.create", token.id, after).await?;
    Ok((token, text.into()))
}

/// The token of this text, if it is good.
pub async fn find(conn: &mut PgConnection, text: &str) -> sqlx::Result<Option<Token>> {
    // One statement: the row is written at most once a minute, and a lookup that finds nothing writes nothing.
    sqlx::query_as(concat!(
        "with used as (
           update api_tokens set last_used_at = now()
            where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())
              and (last_used_at is null or last_used_at < now() - interval '1 minute'))
         select ",
        token_columns!(),
        " from api_tokens
          where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())",
    ))
    .bind(hash(text))
    .fetch_optional(conn)
    .await
}

/// One token.
pub async fn get(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Token>> {
    sqlx::query_as(concat!("select ", token_columns!(), " from api_tokens where id = $1"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Tokens, newest first: at most `limit` with an id below `before`.
pub async fn list(conn: &mut PgConnection, before: Option<i64>, limit: i64) -> sqlx::Result<Vec<Token>> {
    sqlx::query_as(concat!("select ", token_columns!(), " from api_tokens where id < $1 order by id desc limit $2"))
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(conn)
        .await
}

/// Revokes a token from now on, with its entry in the record; none if there is no such token. One that was revoked stays as
/// it was.
pub async fn revoke(conn: &mut PgConnection, caller: &Caller, id: i64) -> sqlx::Result<Option<Token>> {
    let revoked: Option<Token> = sqlx::query_as(concat!(
        "update api_tokens set revoked_at = now() where id = $1 and revoked_at is null returning ",
        token_columns!()
    ))
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(token) = revoked else { return get(conn, id).await };
    record(conn, caller, "token.revoke", id, json!({"revoked_at": token.revoked_at})).await?;
    Ok(Some(token))
}

async fn record(conn: &mut PgConnection, caller: &Caller, action: &str, id: i64, after: Value) -> sqlx::Result<()> {
    let change = Change { action, kind: "token", id: id.to_string(), user_id: None, before: Value::Null, after };
    audit::record(conn, caller, change).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_token_is_seen_without_asking_anybody() {
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([0xff; 32]));
        assert!(is_plausible(&text));
        let longer = format!("{text}A");
        for other in ["", "guess", PREFIX, &text[1..], &text[..text.len() - 1], &longer, &text.replace('_', "\0")] {
            assert!(!is_plausible(other), "{other:?}");
        }
    }

    #[test]
    fn labels_are_one_line_and_days_have_bounds() {
        assert!(check("deploys", None).is_ok() && check(&"x".repeat(64), Some(MOST_DAYS)).is_ok());
        for label in ["", " a", "two\nlines", &"x".repeat(65)] {
            assert!(matches!(check(label, None), Err(NewTokenError::Invalid { field: "label", .. })), "{label:?}");
        }
        for days in [0, -1, MOST_DAYS + 1] {
            assert!(matches!(check("a", Some(days)), Err(NewTokenError::Invalid { field: "days", .. })), "{days}");
        }
    }
}
