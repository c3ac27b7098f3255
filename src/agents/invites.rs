//! Who may create agents (CREATE_POLICY), and the codes that let people in.

use sqlx::PgConnection;

use super::token;
use crate::config::{Config, CreatePolicy};

/// Days for which a code is good.
pub const DAYS: i32 = 30;

/// Why somebody may not create agents here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// They have not redeemed a code.
    #[error("Creating agents here takes an invitation. If you have a code, send /create and then the code.")]
    InvitationNeeded,
    /// Only operators may.
    #[error("Only the people who run this bot create agents here. You can still open agents that are shared with you.")]
    OperatorsOnly,
    /// Operators have set their limit to none.
    #[error(
        "The people who run this bot don't let you create agents here. You can still open agents that are shared with you."
    )]
    NoneAllowed,
    /// Operators have shut them out.
    #[error("The people who run this bot have blocked you, so no agent is created for you.")]
    Blocked,
}

/// Whether somebody may create agents; `invited` is what their row says.
pub fn may_create(config: &Config, user_id: i64, invited: bool) -> Result<(), Closed> {
    match config.create_policy {
        _ if config.is_operator(user_id) => Ok(()),
        CreatePolicy::Open => Ok(()),
        CreatePolicy::Invite if invited => Ok(()),
        CreatePolicy::Invite => Err(Closed::InvitationNeeded),
        CreatePolicy::Operators => Err(Closed::OperatorsOnly),
    }
}

/// Whether the user has redeemed a code.
pub async fn is_invited(conn: &mut PgConnection, user_id: i64) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar("select invited_at is not null from users where id = $1");
    Ok(found.bind(user_id).fetch_optional(conn).await?.unwrap_or(false))
}

/// A new code, 128 random bits, good for one user within [`DAYS`]. Only its hash is kept.
pub async fn create(conn: &mut PgConnection, operator_id: i64) -> sqlx::Result<String> {
    let code = token::new();
    sqlx::query(
        "insert into invites (code_hash, created_by, expires_at) values ($1, $2, now() + make_interval(days => $3))",
    )
    .bind(token::hash(&code))
    .bind(operator_id)
    .bind(DAYS)
    .execute(conn)
    .await?;
    Ok(code)
}

/// Uses a code up for this user, who has a row. `false`: there is no such code, or it was used, or is too old; these look
/// the same.
pub async fn redeem(conn: &mut PgConnection, user_id: i64, code: &str) -> sqlx::Result<bool> {
    // Of two who redeem it at once, the row's lock lets one through.
    let result = sqlx::query(
        "with used as (
           update invites set used_by = $2, used_at = now()
            where code_hash = $1 and used_at is null and expires_at > now() returning used_by)
         update users set invited_at = now() from used where users.id = used.used_by",
    )
    .bind(token::hash(code))
    .bind(user_id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}
