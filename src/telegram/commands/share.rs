//! `/share`: links to an agent, and who came by them.

use chrono::{DateTime, TimeDelta, Utc};

use super::agents::{database_error, number};
use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::links::{Link, Terms};
use crate::agents::model::Agent;
use crate::agents::service::{self, ServiceError};
use crate::agents::sharing::{self, LinkChange};
use crate::agents::visitors;
use crate::clock;
use crate::telegram::callback::SharePress;
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::files::{self, Shown};
use crate::telegram::outbox::FileSource;
use crate::telegram::setup;
use crate::telegram::texts::{self, Message, Shared};
use crate::wake::Queue;

/// `/share`: asks which, or with a number how that agent is shared. Whoever has one means that one.
pub(super) async fn share(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    let message = if argument.is_empty() {
        let agents = service::owned(handler.conn, speaker.user.id).await.or_else(database_error)?;
        match &agents[..] {
            [agent] => told(overview(handler, speaker, agent.id).await)?,
            agents => texts::share_which(agents),
        }
    } else {
        told(overview(handler, speaker, number(argument)).await)?
    };
    handler.say(speaker.place, message).await
}

/// A link's name.
pub(super) async fn on_label(handler: &mut Handler<'_>, speaker: &Speaker, link_id: i64, text: &str) -> Handled {
    let place = speaker.place;
    let change = LinkChange { label: Some(text.to_owned()), ..LinkChange::default() };
    let message = match sharing::change_link(handler.conn, speaker.user.id, link_id, change).await {
        // The next message is another try.
        Err(error @ ServiceError::Invalid { .. }) => Handler::refusal(error)?,
        changed => {
            conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
            told(card_of(handler, speaker, changed).await)?
        }
    };
    handler.say(place, message).await
}

/// A pressed button. Returns what to show the presser for a moment.
pub(super) async fn on_press(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    press: SharePress,
) -> sqlx::Result<Option<&'static str>> {
    let (owner, place) = (speaker.user.id, speaker.place);
    let (message, notice) = match press {
        SharePress::Open(id) => (overview(handler, speaker, id).await, None),
        SharePress::Visibility(id, visibility) => {
            let changed = sharing::set_visibility(handler.conn, owner, id, visibility).await;
            if changed.is_ok() {
                tracing::info!(
                    agent.id = id,
                    user.id = owner,
                    visibility = visibility.as_str(),
                    "an agent is open to others"
                );
            }
            let shown = match changed {
                Ok(_) => overview(handler, speaker, id).await,
                Err(error) => Err(error),
            };
            (shown, Some(texts::now_open_to(visibility)))
        }
        SharePress::NewLink(id) => {
            let made = new_link(handler, speaker, id).await;
            (card_of(handler, speaker, made).await, None)
        }
        SharePress::Link(id) => {
            let link = sharing::link(handler.conn, owner, id).await;
            (card_of(handler, speaker, link).await, None)
        }
        SharePress::Tools(id, tools) => {
            let change = LinkChange { tools: Some(tools), ..LinkChange::default() };
            (changed(handler, speaker, id, change).await, None)
        }
        SharePress::PerDay(id, messages) => {
            let per_day = (messages > 0).then_some(messages);
            let change = LinkChange { per_day: Some(per_day), ..LinkChange::default() };
            (changed(handler, speaker, id, change).await, None)
        }
        SharePress::Days(id, days) => {
            // Far more days than there may be are refused like too many.
            let now = clock::now(handler.conn).await?;
            let end = now.checked_add_signed(TimeDelta::days(days.into())).unwrap_or(DateTime::<Utc>::MAX_UTC);
            let change = LinkChange { expires_at: Some((days > 0).then_some(end)), ..LinkChange::default() };
            (changed(handler, speaker, id, change).await, None)
        }
        SharePress::Label(id) => match sharing::link(handler.conn, owner, id).await {
            Ok((_, link)) => {
                let dialogue = Dialogue::LinkLabel { link_id: id };
                let number = handler.begin(speaker, &dialogue).await?;
                // The card stays for whoever thinks better of it.
                handler.say(place, texts::label_question((number, &dialogue), &link)).await?;
                return Ok(None);
            }
            Err(error) => (Err(error), None),
        },
        SharePress::Qr(id) => match sharing::link(handler.conn, owner, id).await {
            Ok((agent, link)) => {
                let Some(url) = url(handler, speaker, &link).await? else {
                    return Ok(Some(texts::LINK_UNREADABLE));
                };
                let caption = texts::qr_caption(&agent, &link, &url);
                let picture = files::send(place, Shown::Photo, FileSource::Qr { text: url }, &caption, vec![]);
                handler.call(&picture).await?;
                return Ok(None);
            }
            Err(error) => (Err(error), None),
        },
        SharePress::Revoke(id) => {
            let asked = sharing::link(handler.conn, owner, id).await;
            (asked.map(|(agent, link)| texts::revoke_really(&agent, &link)), None)
        }
        SharePress::ConfirmRevoke(id) => match sharing::revoke_link(handler.conn, owner, id).await {
            Ok((agent, _)) => {
                tracing::info!(agent.id, link.id = id, user.id = owner, "a link was taken back");
                (overview(handler, speaker, agent.id).await, Some(texts::REVOKED))
            }
            Err(error) => (Err(error), None),
        },
        SharePress::Visitors { agent, page } => (page_of(handler, speaker, agent, page).await, None),
        SharePress::Visitor { agent, user } => {
            (guest_card(sharing::visitor(handler.conn, owner, agent, user).await, handler).await, None)
        }
        SharePress::Admit { agent, user } => {
            handler.wake(Queue::Outbox);
            (guest_card(sharing::admit(handler.conn, owner, agent, user).await, handler).await, None)
        }
        SharePress::Refuse { agent, user } => {
            handler.wake(Queue::Outbox);
            (guest_card(sharing::refuse(handler.conn, owner, agent, user).await, handler).await, None)
        }
        SharePress::Block { agent, user } => {
            (guest_card(sharing::block(handler.conn, owner, agent, user).await, handler).await, None)
        }
        SharePress::Unblock { agent, user } => {
            (guest_card(sharing::unblock(handler.conn, owner, agent, user).await, handler).await, None)
        }
    };
    let notice = notice.filter(|_| message.is_ok());
    handler.turn_into(pressed, told(message)?).await?;
    Ok(notice)
}

/// The words for what was refused.
fn told(message: Result<Message, ServiceError>) -> sqlx::Result<Message> {
    message.or_else(Handler::refusal)
}

async fn overview(handler: &mut Handler<'_>, speaker: &Speaker, agent_id: i64) -> Result<Message, ServiceError> {
    let (agent, links) = sharing::links(handler.conn, speaker.user.id, agent_id).await?;
    let (visitors, waiting) = visitors::count(handler.conn, agent_id).await?;
    let username = setup::username(handler.conn, speaker.place.bot_id).await?;
    let vault = &handler.app.config.vault;
    let links = links.into_iter().map(|link| {
        let url = link.url(vault, &username);
        (link, url)
    });
    Ok(texts::share(&Shared { agent, links: links.collect(), visitors, waiting }))
}

/// A new link under the next free name. A second press within seconds finds the link that the first one made.
async fn new_link(handler: &mut Handler<'_>, speaker: &Speaker, agent_id: i64) -> Result<(Agent, Link), ServiceError> {
    let owner = speaker.user.id;
    let (agent, links) = sharing::links(handler.conn, owner, agent_id).await?;
    let now = clock::now(handler.conn).await?;
    let just_made = |link: &&Link| !link.is_number() && now - link.created_at < TimeDelta::seconds(3);
    if let Some(link) = links.iter().rev().find(just_made) {
        return Ok((agent, link.clone()));
    }
    let label = (1..).map(|n| format!("Link {n}")).find(|name| links.iter().all(|link| link.label != *name));
    let terms = Terms { label: label.unwrap_or_default(), ..Terms::default() };
    let made = sharing::create_link(handler.conn, handler.app, owner, agent_id, terms).await?;
    tracing::info!(agent.id = agent_id, link.id = made.1.id, user.id = owner, "a link was made");
    Ok(made)
}

async fn changed(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    link_id: i64,
    change: LinkChange,
) -> Result<Message, ServiceError> {
    let changed = sharing::change_link(handler.conn, speaker.user.id, link_id, change).await;
    card_of(handler, speaker, changed).await
}

async fn card_of(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    link: Result<(Agent, Link), ServiceError>,
) -> Result<Message, ServiceError> {
    let (agent, link) = link?;
    let url = url(handler, speaker, &link).await?;
    Ok(texts::link_card(&agent, &link, url.as_deref()))
}

async fn url(handler: &mut Handler<'_>, speaker: &Speaker, link: &Link) -> sqlx::Result<Option<String>> {
    let username = setup::username(handler.conn, speaker.place.bot_id).await?;
    Ok(link.url(&handler.app.config.vault, &username))
}

async fn page_of(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    agent_id: i64,
    page: i64,
) -> Result<Message, ServiceError> {
    let owner = speaker.user.id;
    let (agent, guests) = sharing::visitors(handler.conn, owner, agent_id, page * texts::PAGE, texts::PAGE).await?;
    let (total, _) = visitors::count(handler.conn, agent_id).await?;
    let now = clock::now(handler.conn).await?;
    Ok(texts::visitors(&agent, &guests, total, page, now))
}

async fn guest_card(
    guest: Result<(Agent, visitors::Guest), ServiceError>,
    handler: &mut Handler<'_>,
) -> Result<Message, ServiceError> {
    let (agent, guest) = guest?;
    let now = clock::now(handler.conn).await?;
    Ok(texts::visitor_card(&agent, &guest, now))
}
