//! Words and files for an agent: they become part of a turn, with agent, role and link fixed at this moment.

use std::time::Duration;

use baal_protocol::Role;
use uuid::Uuid;

use super::{Handled, Handler, Pressed, Speaker, flood};
use crate::agents::Status;
use crate::agents::access::{Access, Refusal};
use crate::app::App;
use crate::clock;
use crate::telegram::content::{self, Content};
use crate::telegram::conversation::{self, CurrentAgent};
use crate::telegram::cut::cut;
use crate::telegram::inbox::Claimed;
use crate::telegram::texts;
use crate::telegram::update::{Message, Update};
use crate::together::Together;
use crate::turns::amending;
use crate::turns::queue::{self, Enqueued, Entry, Handles, NewTurn, Queued};
use crate::turns::request::{Part, Request};
use crate::wake::Queue;

/// How long an album, and a text that the client may have cut, waits for its other parts.
const OTHER_PARTS: Duration = Duration::from_secs(1);

/// The way of plain words to the turns, together with others'.
pub(in crate::telegram) type Passing = Together<Entry, Queued>;

/// Passes plain words on to the agent being talked to, and ends their update, in one statement, which those of other chats share: nearly
/// every update is such. Whether another update of its chat waits for that; `None`: there is more to say or to do, and nothing was done.
pub(in crate::telegram) async fn pass_on(
    app: &App,
    passing: &Passing,
    replica: i64,
    claimed: &Claimed,
    update: &Update,
) -> sqlx::Result<Option<bool>> {
    let (Some(message), Some(known)) = (&update.message, &claimed.known) else { return Ok(None) };
    let place = super::place(app, message);
    let Some(user) = super::person(message).filter(|user| user.id == claimed.chat_id) else { return Ok(None) };
    let speaker = Speaker { place, user: user.clone(), conversation: known.clone() };
    let conversation = &speaker.conversation;
    let content = content::read(message);
    let plain = super::command(message).is_none()
        && conversation.dialogue.is_none()
        && !conversation.account.blocked
        && !conversation.account.being_forgotten
        && !flood::is_over(app, &speaker)
        && !content.is_service
        && content.trouble.is_none();
    let Some(agent) = conversation.agent.as_ref().filter(|agent| plain && why_not(&speaker, agent).is_none()) else {
        return Ok(None);
    };
    let wait = if content.may_have_more { OTHER_PARTS } else { Duration::ZERO };
    let Some(part) = part(&speaker, message, content) else { return Ok(None) };
    let asked = Asking { parts: &[part], edit_of: None, album: message.media_group_id.as_deref(), wait };
    let handles = Some(Handles { replica, update: claimed, user });
    let turn = NewTurn { handles, ..asked.turn(app, &speaker, agent) };
    let rung = app.wake.rung(Queue::Updates);
    let queued = passing.run(turn.entry(&app.config.vault)).await?;
    if !matches!(queued.what, Enqueued::Queued(_)) {
        return Ok(None);
    }
    if !queued.taken {
        app.wake.wake(Queue::Turns);
    }
    Ok(Some(queued.awaited || app.wake.rung(Queue::Updates) != rung))
}

/// A message for the agent being talked to.
pub(super) async fn on_message(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message) -> Handled {
    let content = content::read(message);
    if content.is_service {
        return Ok(());
    }
    let Some(agent) = &speaker.conversation.agent else {
        return handler.say(speaker.place, texts::nobody_to_talk_to()).await;
    };
    if let Some(trouble) = &content.trouble {
        handler.say(speaker.place, texts::cannot_be_passed_on(trouble)).await?;
    }
    let wait = if content.may_have_more { OTHER_PARTS } else { Duration::ZERO };
    let Some(part) = part(speaker, message, content) else { return Ok(()) };
    let asked = Asking { parts: &[part], edit_of: None, album: message.media_group_id.as_deref(), wait };
    ask(handler, speaker, agent, &asked).await.map(drop)
}

/// A message that its author changed: what an agent may have seen already is told to it anew.
pub(super) async fn on_edit(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message) -> Handled {
    let who = (speaker.place, speaker.user.id);
    // A live location is edited all the time; only words and files are told.
    let Some(part) = part(speaker, message, content::read(message)).filter(|_| !message.is_live()) else {
        return Ok(());
    };
    if amending::edit_waiting(handler.conn, &handler.app.config.vault, who, &part).await? {
        return Ok(());
    }
    let Some((turn, agent_id)) = amending::turn_of(handler.conn, who, message.message_id).await? else { return Ok(()) };
    // What another agent was told meanwhile is none of this one's business, and its answer would come out of the blue.
    let Some(agent) = speaker.conversation.agent.as_ref().filter(|agent| agent.id == agent_id) else { return Ok(()) };
    let asked = Asking { parts: &[part], edit_of: Some(turn), album: None, wait: Duration::ZERO };
    ask(handler, speaker, agent, &asked).await.map(drop)
}

/// What of a message an agent gets; none if there is nothing in it for one.
fn part(speaker: &Speaker, message: &Message, content: Content) -> Option<Part> {
    let nothing = content.words.trim().is_empty() && content.file.is_none();
    (!nothing).then(|| Part {
        request: Request {
            message: content.words,
            name: speaker.user.name().into_owned(),
            language_code: speaker.user.language_code.clone(),
        },
        message_id: Some(message.message_id),
        sent_at: message.date,
        // The words may begin with a quotation, which its author did not write.
        cut: message.text.as_deref().and_then(|own| cut(message, own)),
        file: content.file,
    })
}

/// Asks once more what failed. Returns what to show the presser for a moment.
pub(super) async fn retry(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    turn: Uuid,
) -> sqlx::Result<Option<&'static str>> {
    let vault = &handler.app.config.vault;
    let Some(retried) = amending::failed_request(handler.conn, vault, turn, speaker.user.id).await? else {
        return Ok(Some(texts::TRIED_ALREADY));
    };
    let Some(agent) = conversation::agent_for(handler.conn, retried.agent_id, speaker.user.id).await? else {
        handler.say(pressed.place, texts::no_such_agent()).await?;
        return Ok(None);
    };
    let asked = Asking { parts: &retried.parts, edit_of: retried.edit_of, album: None, wait: Duration::ZERO };
    if !ask(handler, speaker, &agent, &asked).await? {
        return Ok(None);
    }
    amending::drop_request(handler.conn, turn).await?;
    Ok(Some(texts::ASKING_AGAIN))
}

/// What an agent is to be asked.
struct Asking<'a> {
    parts: &'a [Part],
    edit_of: Option<Uuid>,
    album: Option<&'a str>,
    wait: Duration,
}

impl<'a> Asking<'a> {
    /// The turn that this becomes.
    fn turn(&self, app: &App, speaker: &Speaker, agent: &CurrentAgent) -> NewTurn<'a> {
        let visit = match agent.access {
            Access::Visitor(visit) => Some(visit),
            Access::Owner | Access::Refused(_) => None,
        };
        let free_limit = speaker.conversation.account.daily_messages.unwrap_or(app.config.free_tier_daily_messages);
        NewTurn {
            place: speaker.place,
            agent_id: agent.id,
            user_id: speaker.user.id,
            role: if visit.is_some() { Role::Visitor } else { Role::Owner },
            link_id: visit.and_then(|visit| visit.link_id),
            tools: visit.is_none_or(|visit| visit.tools),
            parts: self.parts,
            edit_of: self.edit_of,
            album: self.album,
            wait: self.wait,
            free_limit: agent.free.then_some(free_limit),
            per_day: visit.and_then(|visit| visit.per_day),
            handles: None,
        }
    }
}

/// Queues messages for an agent; `false` if the user has been told why not.
async fn ask(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    agent: &CurrentAgent,
    asking: &Asking<'_>,
) -> sqlx::Result<bool> {
    let place = speaker.place;
    if let Some(why_not) = why_not(speaker, agent) {
        handler.say(place, why_not).await?;
        return Ok(false);
    }
    let turn = asking.turn(handler.app, speaker, agent);
    let refused = match queue::enqueue(handler.conn, &handler.app.config.vault, &turn).await? {
        Enqueued::Queued(_) => {
            handler.wake(Queue::Turns);
            return Ok(true);
        }
        // What is asked here ends no update.
        Enqueued::ClaimLost => return Ok(false),
        Enqueued::FreeUsedUp => {
            texts::limit_reached(turn.free_limit.unwrap_or_default(), clock::now(handler.conn).await?)
        }
        Enqueued::LinkUsedUp => {
            texts::link_limit_reached(&agent.name, turn.per_day.unwrap_or_default(), clock::now(handler.conn).await?)
        }
    };
    handler.say(place, refused).await?;
    Ok(false)
}

/// Why a message does not reach this agent now, in words for who wrote it.
fn why_not(speaker: &Speaker, agent: &CurrentAgent) -> Option<texts::Message> {
    let owner = agent.owner_id == speaker.user.id;
    match (agent.access, agent.status) {
        // What is gone is told as such, whoever it was open to.
        (_, status @ (Status::Deleting | Status::Deleted)) => Some(texts::not_running(agent, status, owner)),
        (Access::Refused(Refusal::Unknown), _) => Some(texts::shared_no_more(&agent.name, Refusal::Closed)),
        (Access::Refused(refusal), _) => Some(texts::shared_no_more(&agent.name, refusal)),
        (_, Status::Running) => agent.paused.as_deref().map(|why| texts::paused(agent, why, owner)),
        (_, status) => Some(texts::not_running(agent, status, owner)),
    }
}
