//! Waiting until a user's agents run on another key, and telling how that goes.

use std::time::Duration;

use tracing::{info, warn};

use super::store::{self, Claimed, Errand};
use super::{Tried, show, tell};
use crate::agents::keys;
use crate::app::App;
use crate::database;
use crate::telegram::texts;

/// How long agents may take. Those that take longer are told of; a key that was taken back keeps them from being talked to.
const WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks once. After a logout it is only done when no agent that can be talked to has the key.
pub(super) async fn attempt(app: &App, errand: &Claimed, logout: bool, told: Option<usize>) -> sqlx::Result<Tried> {
    let mut tx = database::begin(&app.db).await?;
    let own = keys::connected(&mut tx, errand.user_id).await?;
    let version = match (logout, own) {
        (true, _) => 0,
        (false, Some(own)) => own.version,
        (false, None) => {
            let ended = store::end(&mut tx, errand, Some("logged out meanwhile")).await?;
            tell(&mut tx, errand, texts::move_withdrawn()).await?;
            if ended {
                tx.commit().await?;
            }
            return Ok(if ended { Tried::Done } else { Tried::Lost });
        }
    };
    let behind = keys::behind(&mut tx, errand.user_id, version).await?;
    if behind.iter().any(|agent| agent.moving) && errand.age < WITHIN {
        if told != Some(behind.len()) {
            let names: Vec<&str> = behind.iter().map(|agent| agent.name.as_str()).collect();
            show(&mut tx, errand, texts::moving(logout, &names)).await?;
            let now = Errand::Rekey { logout, told: Some(behind.len()) };
            if !store::note(&mut tx, &app.config.vault, errand, &now).await? {
                return Ok(Tried::Lost);
            }
            tx.commit().await?;
        }
        return Ok(Tried::Later(LOOK_EVERY));
    }
    let left = if logout {
        let ids: Vec<i64> = behind.iter().map(|agent| agent.id).collect();
        // Those that were ready since are not among them.
        keys::pause(&mut tx, &ids, texts::PAUSED_BY_LOGOUT).await?
    } else {
        behind.into_iter().map(|agent| (agent.id, agent.name)).collect()
    };
    if !store::end(&mut tx, errand, None).await? {
        return Ok(Tried::Lost);
    }
    tell(&mut tx, errand, texts::moved(logout, &left)).await?;
    tx.commit().await?;
    let agents: Vec<i64> = left.iter().map(|(id, _)| *id).collect();
    match agents.as_slice() {
        [] => info!(user.id = errand.user_id, logout, "the user's agents run on the key that is wanted"),
        agents => warn!(user.id = errand.user_id, logout, ?agents, "agents could not be moved to another key"),
    }
    Ok(Tried::Done)
}
