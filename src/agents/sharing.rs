//! Sharing an agent: who may open it, its links, its visitors. Part of [`service`](super::service), by whose rules these go:
//! everything is its owner's alone, and somebody else's looks as if there were none.
//!
//! What a visitor may do is computed at every message ([`access`](super::access)), so each change holds at once. Those that
//! tell a visitor something put it into the outbox: wake [`Queue::Outbox`](crate::wake::Queue) after the commit.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::links::{self, Link, Terms};
use super::model::{Agent, Status};
use super::service::{ServiceError, get_owned};
use super::upkeep::locked;
use super::validate::validate_label;
use super::visitors::{self, Guest, Verdict};
use super::{opening, store};
use crate::app::App;
use crate::clock;
use crate::config::Visibility;

/// Links with a token that an agent may have at a time.
pub const MAX_LINKS: usize = 10;
/// Messages a day that a link may allow.
pub const MAX_PER_DAY: i32 = 10_000;
/// Days that a link may be good for.
pub const MAX_DAYS: i64 = 3_650;

/// What is to be different about a link; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// See [`Link::label`].
    pub label: Option<String>,
    /// See [`Link::tools`].
    pub tools: Option<bool>,
    /// See [`Link::per_day`].
    pub per_day: Option<Option<i32>>,
    /// See [`Link::expires_at`].
    pub expires_at: Option<Option<DateTime<Utc>>>,
}

/// Changes who may open an agent; the agent as it is then.
pub async fn set_visibility(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    visibility: Visibility,
) -> Result<Agent, ServiceError> {
    let mut agent = locked(conn, owner_id, agent_id).await?;
    store::set_visibility(conn, agent_id, visibility).await?;
    agent.visibility = visibility;
    Ok(agent)
}

/// An agent's links that are not taken back, its number first.
pub async fn links(conn: &mut PgConnection, owner_id: i64, agent_id: i64) -> Result<(Agent, Vec<Link>), ServiceError> {
    let agent = get_owned(conn, owner_id, agent_id).await?;
    if agent.status != Status::Deleting {
        links::number(conn, agent_id).await?;
    }
    let links = links::of_agent(conn, agent_id).await?;
    Ok((agent, links))
}

/// A link that is not taken back, and its agent.
pub async fn link(conn: &mut PgConnection, owner_id: i64, link_id: i64) -> Result<(Agent, Link), ServiceError> {
    let link = links::get(conn, link_id).await?.filter(|link| link.revoked_at.is_none());
    let link = link.ok_or(ServiceError::NoSuchLink)?;
    match get_owned(conn, owner_id, link.agent_id).await {
        Ok(agent) => Ok((agent, link)),
        Err(ServiceError::NotFound) => Err(ServiceError::NoSuchLink),
        Err(error) => Err(error),
    }
}

/// A new link with a random token. It is good for public agents too.
pub async fn create_link(
    conn: &mut PgConnection,
    app: &App,
    owner_id: i64,
    agent_id: i64,
    terms: Terms,
) -> Result<(Agent, Link), ServiceError> {
    let terms = checked(terms, clock::now(conn).await?)?;
    // Counted under the agent's lock.
    let agent = locked(conn, owner_id, agent_id).await?;
    let links = links::of_agent(conn, agent_id).await?;
    if links.iter().filter(|link| !link.is_number()).count() >= MAX_LINKS {
        return Err(ServiceError::Conflict {
            message: format!(
                "{} has {MAX_LINKS} links, which is as many as there may be. Revoke one first.",
                agent.name
            ),
        });
    }
    let id = links::insert(conn, &app.config.vault, agent_id, &terms).await?;
    let link = links::get(conn, id).await?.ok_or(ServiceError::NoSuchLink)?;
    Ok((agent, link))
}

/// Changes what a link gives; for those who came by it already, too.
pub async fn change_link(
    conn: &mut PgConnection,
    owner_id: i64,
    link_id: i64,
    change: LinkChange,
) -> Result<(Agent, Link), ServiceError> {
    let (agent, link) = locked_link(conn, owner_id, link_id).await?;
    if link.is_number() && change.expires_at.flatten().is_some() {
        return Err(ServiceError::Conflict {
            message: format!("{}'s number has no end of its own. It stops when the agent is unlisted.", agent.name),
        });
    }
    let now = clock::now(conn).await?;
    let terms = checked(
        Terms {
            label: change.label.unwrap_or(link.label),
            tools: change.tools.unwrap_or(link.tools),
            per_day: change.per_day.unwrap_or(link.per_day),
            expires_at: change.expires_at.unwrap_or(link.expires_at.filter(|_| !link.expired)),
        },
        now,
    )?;
    links::set_terms(conn, link_id, &terms).await?;
    let link = links::get(conn, link_id).await?.ok_or(ServiceError::NoSuchLink)?;
    Ok((agent, link))
}

/// Takes a link back: nobody comes in by it any more, and whoever came is shut out at once.
pub async fn revoke_link(conn: &mut PgConnection, owner_id: i64, link_id: i64) -> Result<(Agent, Link), ServiceError> {
    let (agent, link) = locked_link(conn, owner_id, link_id).await?;
    if link.is_number() {
        return Err(ServiceError::Conflict {
            message: format!("{}'s number can't be taken back. Make the agent unlisted instead.", agent.name),
        });
    }
    links::revoke(conn, link_id).await?;
    Ok((agent, link))
}

/// Some of an agent's visitors, those who wait to be let in first.
pub async fn visitors(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    offset: i64,
    limit: i64,
) -> Result<(Agent, Vec<Guest>), ServiceError> {
    let agent = get_owned(conn, owner_id, agent_id).await?;
    let guests = visitors::list(conn, &agent, offset, limit).await?;
    Ok((agent, guests))
}

/// One visitor.
pub async fn visitor(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    user_id: i64,
) -> Result<(Agent, Guest), ServiceError> {
    let agent = get_owned(conn, owner_id, agent_id).await?;
    let guest = visitors::lock(conn, &agent, user_id).await?.ok_or(ServiceError::NoSuchVisitor)?;
    Ok((agent, guest))
}

/// Lets a visitor in, whatever shut them out, and tells them so.
pub async fn admit(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    user_id: i64,
) -> Result<(Agent, Guest), ServiceError> {
    decide(conn, owner_id, agent_id, user_id, Verdict::Admit).await
}

/// Does not let a visitor in who asked, and tells them so; they may ask again the next day.
pub async fn refuse(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    user_id: i64,
) -> Result<(Agent, Guest), ServiceError> {
    decide(conn, owner_id, agent_id, user_id, Verdict::Refuse).await
}

/// Shuts a visitor out, whatever links they have.
pub async fn block(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    user_id: i64,
) -> Result<(Agent, Guest), ServiceError> {
    decide(conn, owner_id, agent_id, user_id, Verdict::Block).await
}

/// Ends that.
pub async fn unblock(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    user_id: i64,
) -> Result<(Agent, Guest), ServiceError> {
    decide(conn, owner_id, agent_id, user_id, Verdict::Unblock).await
}

async fn decide(
    conn: &mut PgConnection,
    owner_id: i64,
    agent_id: i64,
    user_id: i64,
    verdict: Verdict,
) -> Result<(Agent, Guest), ServiceError> {
    let (agent, before) = visitor(conn, owner_id, agent_id, user_id).await?;
    // What is so already is not written again, and above all not told again: buttons are pressed twice.
    let news = match verdict {
        Verdict::Admit => before.shut_out() || !before.visitor.admitted,
        Verdict::Refuse => before.waits(),
        Verdict::Block => !before.visitor.blocked,
        Verdict::Unblock => before.visitor.blocked,
    };
    if news {
        visitors::decide(conn, agent_id, user_id, verdict).await?;
        if matches!(verdict, Verdict::Admit | Verdict::Refuse) {
            opening::tell_visitor(conn, &agent, &before, verdict == Verdict::Admit).await?;
        }
    }
    visitor(conn, owner_id, agent_id, user_id).await
}

async fn locked_link(conn: &mut PgConnection, owner_id: i64, link_id: i64) -> Result<(Agent, Link), ServiceError> {
    let (agent, _) = link(conn, owner_id, link_id).await?;
    let agent = locked(conn, owner_id, agent.id).await?;
    // Read again under the lock: of two changes at once the second must see the first.
    let link = links::get(conn, link_id).await?.filter(|link| link.revoked_at.is_none());
    Ok((agent, link.ok_or(ServiceError::NoSuchLink)?))
}

fn checked(terms: Terms, now: DateTime<Utc>) -> Result<Terms, ServiceError> {
    let invalid = |field, message: String| Err(ServiceError::Invalid { field, message });
    if terms.per_day.is_some_and(|n| !(1..=MAX_PER_DAY).contains(&n)) {
        return invalid("per_day", format!("A link allows 1 to {MAX_PER_DAY} messages a day, or has no limit."));
    }
    if terms.expires_at.is_some_and(|end| end <= now || end > now + TimeDelta::days(MAX_DAYS)) {
        return invalid("expires_at", "A link ends within the next ten years, or never.".into());
    }
    Ok(Terms { label: validate_label(&terms.label)?, ..terms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_terms_are_checked() {
        let good = Terms { label: " x ".into(), tools: true, per_day: Some(1), expires_at: None };
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(checked(good.clone(), now).expect("good").label, "x");
        let at = |delta: TimeDelta| Some(now + delta);
        let bad = [
            Terms { per_day: Some(0), ..good.clone() },
            Terms { per_day: Some(MAX_PER_DAY + 1), ..good.clone() },
            Terms { expires_at: at(TimeDelta::seconds(-1)), ..good.clone() },
            Terms { expires_at: at(TimeDelta::days(MAX_DAYS + 1)), ..good.clone() },
            Terms { label: "a\nb".into(), ..good },
        ];
        for terms in bad {
            assert!(matches!(checked(terms.clone(), now), Err(ServiceError::Invalid { .. })), "{terms:?}");
        }
    }
}
