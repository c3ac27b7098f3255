//! What administrators changed: who, what, before and after. Written in the transaction that changes, so that there is
//! neither a change without a record nor a record without a change.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::Caller;

/// A change.
#[derive(Debug)]
pub struct Change<'a> {
    /// `agent.create`, `token.revoke`: the subject's kind and a verb.
    pub action: &'a str,
    /// `agent`, `token`, `user`, …
    pub kind: &'a str,
    /// Which one.
    pub id: String,
    /// The user whose it is: forgotten with them.
    pub user_id: Option<i64>,
    /// What changes of it as it was; without secrets, prompts as [`digest`].
    pub before: Value,
    /// The same as it is now.
    pub after: Value,
}

/// Writes a change down.
pub async fn record(conn: &mut PgConnection, caller: &Caller, change: Change<'_>) -> sqlx::Result<()> {
    let kept = |value: Value| Some(value).filter(|value| !value.is_null());
    sqlx::query(
        "insert into audit (actor, token_id, address, request_id, action, subject_kind, subject_id, user_id, before, after)
         values ($1, $2, $3::text::inet, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(&caller.name)
    .bind(caller.token_id)
    .bind(caller.address.map(|address| address.to_string()))
    .bind(&caller.request_id)
    .bind(change.action)
    .bind(change.kind)
    .bind(change.id)
    .bind(change.user_id)
    .bind(kept(change.before))
    .bind(kept(change.after))
    .execute(conn)
    .await?;
    Ok(())
}

/// A user's long text in the record: enough to see that it changed and whether a given text is it.
pub fn digest(text: &str) -> Value {
    #[derive(Serialize)]
    struct Digest {
        bytes: usize,
        sha256: String,
    }
    // silent-ok: two plain fields are always JSON
    serde_json::to_value(Digest { bytes: text.len(), sha256: hex::encode(Sha256::digest(text)) }).unwrap_or_default()
}
