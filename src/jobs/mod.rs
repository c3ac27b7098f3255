//! Long work as rows with typed steps, done by whichever replica has a hand free.

pub mod card;
mod error;
pub mod model;
mod steps;
pub mod store;
pub mod worker;

use sqlx::PgConnection;

use crate::agents::Agent;
use crate::telegram::outbox;

use card::Scene;
use model::{Kind, Step};

/// Enqueues a job for the agent and, if somebody waits for its end, the message that shows how it goes.
pub async fn start(conn: &mut PgConnection, kind: Kind, agent: &Agent) -> sqlx::Result<()> {
    let progress = match kind {
        Kind::Provision => {
            let card = card::card(agent, &Scene::Working { step: Step::Place, trouble: None });
            Some(outbox::enqueue(conn, &card.message(agent.bot_id, agent.chat_id)).await?)
        }
        Kind::Deprovision => None,
    };
    store::enqueue(conn, kind, agent.id, progress).await?;
    Ok(())
}
