//! Long work as rows with typed steps, done by whichever replica has a hand free.

pub mod card;
pub mod cause;
pub mod details;
mod ends;
mod error;
pub mod expected;
mod failing;
pub mod history;
mod leaving;
mod line;
pub mod lookup;
pub mod model;
mod operators;
mod placing;
mod saving;
pub mod steering;
mod steps;
pub mod store;
mod turn;
pub mod verdict;
pub mod worker;

use sqlx::PgConnection;

use crate::agents::Agent;
use crate::telegram::outbox;

use card::Scene;
use model::Kind;

/// Enqueues a job for the agent (`provision`, `deprovision`, `redeploy`, `takeover`, `repair`, `stop`, `start`) and, if somebody waits for its end, the
/// message that shows how it goes. The agent has no other job that is not done: see [`store::live`]. Wake
/// [`Queue::Jobs`](crate::wake::Queue) and [`Queue::Outbox`](crate::wake::Queue) after the commit.
pub async fn start(conn: &mut PgConnection, kind: Kind, agent: &Agent) -> sqlx::Result<()> {
    let progress = match kind {
        Kind::Provision | Kind::Redeploy | Kind::Takeover | Kind::Repair | Kind::Start => {
            let card = card::card(agent, &Scene::Queued { kind }, None);
            Some(outbox::enqueue(conn, &card.message(agent.bot_id, agent.chat_id)).await?)
        }
        Kind::Deprovision | Kind::Stop | Kind::Prepare | Kind::Retire => None,
    };
    store::enqueue(conn, kind, agent.id, progress).await?;
    Ok(())
}
