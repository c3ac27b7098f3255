//! Opening somebody's agent by a link, and asking to be let in where it is private.

use sqlx::PgConnection;

use super::access::{Access, Refusal};
use super::links::{self, Link, NUMBER_PREFIX, TOKEN_PREFIX};
use super::model::{Agent, Status};
use super::visitors::{self, Asked, Guest};
use crate::config::Visibility;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Place, send_message};
use crate::telegram::texts;

/// What a deep link's payload (`/start PAYLOAD`) names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// `agent_N`, or just `N`: an agent's number.
    Number(i64),
    /// `a_…`: a link's token.
    Token(&'a str),
    /// `i_…`: an invitation's code.
    Invitation(&'a str),
}

impl<'a> Payload<'a> {
    /// None: nothing that Baal ever made.
    pub fn parse(payload: &'a str) -> Option<Self> {
        if let Some(token) = payload.strip_prefix(TOKEN_PREFIX) {
            return Some(Self::Token(token));
        }
        if let Some(code) = payload.strip_prefix("i_") {
            return Some(Self::Invitation(code));
        }
        let digits = payload.strip_prefix(NUMBER_PREFIX).unwrap_or(payload);
        let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?;
        number.map(Self::Number)
    }
}

/// What came of opening an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Opened {
    /// They may talk to it, as its owner or as a visitor.
    Entered(Agent, Access),
    /// They may not, and know that there is this agent.
    Refused(Agent, Refusal),
    /// The link was good once ([`Refusal::Revoked`], [`Refusal::Expired`]); it names nothing any more.
    DeadLink(Refusal),
    /// Nothing that this user may know of.
    Unknown,
}

/// Opens an agent by its number, which everybody can guess: it opens public agents only, and others to those whose way is open
/// already. A good way stays as it is; the number takes the place of none or of a dead one.
pub async fn by_number(conn: &mut PgConnection, bot_id: i64, user_id: i64, agent_id: i64) -> sqlx::Result<Opened> {
    let Some((agent, access)) = visitors::access(conn, agent_id, user_id).await? else { return Ok(Opened::Unknown) };
    let there = !matches!(agent.status, Status::Deleting | Status::Deleted);
    match access {
        Access::Refused(refusal) if agent.visibility == Visibility::Public && there && refusal != Refusal::Blocked => {
            let link = links::number(conn, agent_id).await?;
            visitors::came(conn, agent_id, user_id, bot_id, link).await?;
            look(conn, agent_id, user_id).await
        }
        access => Ok(outcome(agent, access)),
    }
}

/// Opens an agent by the token of one of its links. Whoever comes to a private one for the first time asks to be let in, and
/// its owner is told: wake [`Queue::Outbox`](crate::wake::Queue) after the commit.
pub async fn by_token(conn: &mut PgConnection, bot_id: i64, user_id: i64, token: &str) -> sqlx::Result<Opened> {
    let Some(link) = links::by_token(conn, token).await? else { return Ok(Opened::Unknown) };
    let Some((agent, access)) = visitors::access(conn, link.agent_id, user_id).await? else {
        return Ok(Opened::Unknown);
    };
    match access {
        _ if matches!(agent.status, Status::Deleted) => Ok(Opened::Unknown),
        Access::Owner | Access::Refused(Refusal::Blocked) => Ok(outcome(agent, access)),
        _ if agent.status == Status::Deleting => Ok(Opened::Unknown),
        // Another way may be open to them.
        Access::Visitor(_) if !link.is_good() => Ok(outcome(agent, access)),
        Access::Refused(_) if link.revoked_at.is_some() => Ok(Opened::DeadLink(Refusal::Revoked)),
        Access::Refused(_) if link.expired => Ok(Opened::DeadLink(Refusal::Expired)),
        Access::Visitor(_) | Access::Refused(_) => come(conn, bot_id, user_id, &link).await,
    }
}

async fn come(conn: &mut PgConnection, bot_id: i64, user_id: i64, link: &Link) -> sqlx::Result<Opened> {
    visitors::came(conn, link.agent_id, user_id, bot_id, link.id).await?;
    match look(conn, link.agent_id, user_id).await? {
        Opened::Refused(agent, Refusal::Closed | Refusal::Asked) if agent.visibility == Visibility::Private => {
            let asked = visitors::ask(conn, agent.id, user_id).await?;
            if asked == Asked::Now
                && let Some(guest) = visitors::lock(conn, &agent, user_id).await?
            {
                tell_owner(conn, &agent, &guest).await?;
            }
            let refusal = if asked == Asked::Refused { Refusal::Closed } else { Refusal::Asked };
            Ok(Opened::Refused(agent, refusal))
        }
        opened => Ok(opened),
    }
}

async fn look(conn: &mut PgConnection, agent_id: i64, user_id: i64) -> sqlx::Result<Opened> {
    let seen = visitors::access(conn, agent_id, user_id).await?;
    Ok(seen.map_or(Opened::Unknown, |(agent, access)| outcome(agent, access)))
}

fn outcome(agent: Agent, access: Access) -> Opened {
    match access {
        Access::Refused(Refusal::Unknown) => Opened::Unknown,
        Access::Refused(refusal) => Opened::Refused(agent, refusal),
        access => Opened::Entered(agent, access),
    }
}

/// Asks the owner, in the chat where they are told of the agent.
async fn tell_owner(conn: &mut PgConnection, agent: &Agent, guest: &Guest) -> sqlx::Result<()> {
    let place = Place { bot_id: agent.bot_id, chat_id: agent.chat_id, thread_id: None };
    tell(conn, place, texts::asks_to_come_in(agent, guest)).await
}

/// Tells a visitor whether they were let in, in the private chat (whose id is theirs) with the bot through which they asked.
pub(super) async fn tell_visitor(
    conn: &mut PgConnection,
    agent: &Agent,
    guest: &Guest,
    admitted: bool,
) -> sqlx::Result<()> {
    let place = Place { bot_id: guest.bot_id, chat_id: guest.user_id, thread_id: None };
    tell(conn, place, if admitted { texts::let_in(agent) } else { texts::not_let_in(agent) }).await
}

async fn tell(conn: &mut PgConnection, place: Place, (text, buttons): texts::Message) -> sqlx::Result<()> {
    let call = Call::reply(place.bot_id, place.chat_id, &send_message(place, &text, buttons)).notice();
    outbox::enqueue(conn, &call).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_name_agents_by_number_or_token() {
        use Payload::{Invitation, Number, Token};
        for (payload, named) in [
            ("agent_42", Some(Number(42))),
            ("42", Some(Number(42))),
            ("a_b-C_", Some(Token("b-C_"))),
            ("a_", Some(Token(""))),
            ("i_42", Some(Invitation("42"))),
            ("agent_-1", None),
            ("+1", None),
            ("agent_", None),
            ("agent_x", None),
            ("99999999999999999999", None),
            ("agent_agent_1", None),
            ("A_b", None),
            ("", None),
        ] {
            assert_eq!(Payload::parse(payload), named, "{payload}");
        }
    }
}
