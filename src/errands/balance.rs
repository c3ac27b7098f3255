//! Putting the balance into an account's card, which was shown without it at once.

use super::store::{self, Claimed};
use super::{Tried, tell};
use crate::agents::account::Account;
use crate::agents::keys;
use crate::app::App;
use crate::database;
use crate::telegram::texts::{self, Balance};

/// Asks LibertAI once: what cannot be said is told as such.
pub(super) async fn attempt(app: &App, errand: &Claimed) -> sqlx::Result<Tried> {
    let own = keys::connected(&mut *app.db.acquire().await?, errand.user_id).await?;
    let balance = match own.map(|own| own.open(&app.config.vault)) {
        Some(Ok(key)) => app.libertai.balance(&key).await.map_or_else(Balance::Trouble, Balance::Known),
        Some(Err(_)) => Balance::Unreadable,
        // Logged out meanwhile: the card says so.
        None => Balance::Asking,
    };
    let mut tx = database::begin(&app.db).await?;
    let account = Account::load(&mut tx, app, errand.user_id).await?;
    if !store::end(&mut tx, errand, None).await? {
        return Ok(Tried::Lost);
    }
    tell(&mut tx, errand, texts::account(&account, balance)).await?;
    tx.commit().await?;
    Ok(Tried::Done)
}
