//! Putting a turn's question to its agent.

use baal_protocol::{ChatRequest, Mode, REMEMBERS, Sender};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::admission;
use super::agent_client::{AgentClient, AgentError};
use super::feed::{Fed, Feed};
use super::outage::outlast;
use super::refusal::Refusal;
use super::relay::ClaimLost;
use super::request;
use super::store::{self, Claimed, Kind};
use super::uploads::Uploads;
use crate::agents::model::speaks;
use crate::app::App;
use crate::replica::Replica;
use crate::telegram::texts;

/// An agent at work on a turn.
pub struct Asked {
    /// Where it is.
    pub client: AgentClient,
    /// What it says.
    pub events: mpsc::Receiver<Fed>,
}

/// The turn's agent, if it runs.
pub fn agent_of(app: &App, turn: &Claimed) -> Result<AgentClient, Refusal> {
    let (Some(url), "running") = (&turn.agent_url, turn.agent_status.as_str()) else {
        return Err(Refusal::of(&AgentError::NotRunning(turn.agent_status.clone()), turn));
    };
    let secret = app.config.vault.decrypt_text(&turn.agent_secret);
    let secret = secret.map_err(|_| Refusal::internal(UNREADABLE))?;
    Ok(AgentClient::new(app.agents_http.of(turn.agent_external), url, secret))
}

const UNREADABLE: &str = "a stored secret cannot be decrypted with this BOT_ENCRYPTION_KEY";

/// Puts the question to the agent; its events arrive on the channel.
pub async fn ask(app: &App, replica: &Replica, turn: &Claimed) -> Result<Result<Asked, Refusal>, ClaimLost> {
    if turn.reclaims >= store::MAX_RECLAIMS {
        return Ok(Err(Refusal::internal("every replica that ran it died")));
    }
    let client = match agent_of(app, turn) {
        Ok(client) => client,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(why) = &turn.agent_paused {
        return Ok(Err(Refusal::paused(turn, why)));
    }
    let tools = match admission::admit(app, replica, turn, &client).await {
        Ok(tools) => tools,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let parts = match request::open(&app.config.vault, &turn.request) {
        Ok(parts) => parts,
        Err(error) => return Ok(Err(Refusal::internal(&error.to_string()))),
    };
    let Some(mut request) = request::join(parts) else {
        return Ok(Err(Refusal::internal("the stored request is empty")));
    };
    let remembers = speaks(turn.agent_protocol, REMEMBERS);
    if !remembers {
        request.files_in_words();
        if turn.asked {
            return Ok(Err(Refusal::unknown("asked before, by a replica that died".into())));
        }
        // The mark may be made twice.
        let mark = |_| store::mark_asked(&app.db, replica.id(), turn);
        match outlast(replica, "marking a turn as asked", mark).await {
            Ok(true) => {}
            Ok(false) => return Err(ClaimLost),
            Err(error) => return Ok(Err(Refusal::internal(&error.to_string()))),
        }
    }
    let attachments = Uploads::attachments(turn.id, &request.files);
    let uploads = Uploads::new(app.clone(), turn.id, request.files, turn.attempt > 1);
    let request = ChatRequest {
        message: match turn.kind {
            Kind::Hello => texts::INTRODUCE_YOURSELF.into(),
            _ => request.message,
        },
        chat_id: turn.place.chat_id.to_string(),
        turn_id: Some(turn.id),
        sender: Some(Sender { id: turn.user_id, name: request.name, role: turn.role, tools: Some(tools) }),
        language_code: request.language_code,
        stream: true,
        mode: Mode::Queue,
        edit_of: turn.edit_of,
        attachments,
    };
    // Few, so that an agent that talks faster than we take it in is slowed down instead of filling our memory.
    let (sender, events) = mpsc::channel(16);
    let feed = Feed {
        db: app.db.clone(),
        client: client.clone(),
        agent_id: turn.agent_id,
        remembers,
        request,
        uploads,
        turn: turn.id,
    };
    tokio::spawn(feed.run(sender).in_current_span());
    Ok(Ok(Asked { client, events }))
}
