//! Checking a key, and connecting it.

use secrecy::SecretString;
use tracing::info;

use super::store::{self, Claimed};
use super::{Tried, tell};
use crate::agents::keys;
use crate::app::App;
use crate::database;
use crate::libertai::{BalanceError, masked};
use crate::telegram::texts;

/// Tries before LibertAI counts as not there: the user waits.
const TRIES: i32 = 3;
/// Replicas that may die over it.
const MAX_RECLAIMS: i32 = 5;

/// Asks LibertAI; a good key is connected, of any other the user is told why not.
pub(super) async fn attempt(app: &App, errand: &Claimed, key: SecretString) -> sqlx::Result<Tried> {
    let asked = match errand.reclaims {
        0..MAX_RECLAIMS => app.libertai.balance(&key).await,
        _ => Err(BalanceError::Unreachable),
    };
    if asked == Err(BalanceError::Unreachable) && errand.failures + 1 < TRIES && errand.reclaims < MAX_RECLAIMS {
        return Ok(Tried::Failed(BalanceError::Unreachable.to_string()));
    }
    let mut tx = database::begin(&app.db).await?;
    let words = match asked {
        Ok(balance) => {
            if !keys::connect(&mut tx, &app.config.vault, errand.user_id, &key).await? {
                // Nothing is begun for somebody who is being forgotten.
                let ended = store::end(&mut tx, errand, Some("the user is being forgotten")).await?;
                tx.commit().await?;
                return Ok(if ended { Tried::Done } else { Tried::Lost });
            }
            let own = keys::connected(&mut tx, errand.user_id).await?;
            let version = own.map_or(0, |own| own.version);
            let others = keys::agents_not_on(&mut tx, errand.user_id, version).await?;
            texts::key_connected(&masked(&key), balance, others)
        }
        Err(error) => texts::key_not_connected(error),
    };
    if !store::end(&mut tx, errand, asked.err().map(|error| error.to_string()).as_deref()).await? {
        return Ok(Tried::Lost);
    }
    tell(&mut tx, errand, words).await?;
    tx.commit().await?;
    match asked {
        Ok(_) => info!(user.id = errand.user_id, "a key was connected"),
        Err(error) => info!(user.id = errand.user_id, %error, "a key was not connected"),
    }
    Ok(Tried::Done)
}
