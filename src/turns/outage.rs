//! Statements that an outage of the database must not fail: that it is away is no answer to anybody's message.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::database;
use crate::replica::Replica;
use crate::slots::bounded;

/// Makes a statement, and makes it again while the database is away and this replica's claims may be good. The argument of
/// `statement` is whether an earlier try failed, which may have been made nevertheless. `what` it is, in the log.
pub async fn outlast<T, F>(
    replica: &Replica,
    what: &'static str,
    mut statement: impl FnMut(bool) -> F,
) -> sqlx::Result<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    let (mut wait, mut again) = (Duration::from_millis(200), false);
    loop {
        let error = match bounded(statement(again)).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if !database::may_pass(&error) || replica.lost().is_cancelled() {
            return Err(error);
        }
        warn!(%error, "{what} failed; trying again");
        again = true;
        tokio::select! {
            () = sleep(wait) => {}
            () = replica.lost().cancelled() => {}
        }
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}
