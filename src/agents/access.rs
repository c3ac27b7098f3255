//! Who may do what with an agent: the one place where that is decided. Pure.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::model::Status;
use crate::config::Visibility;

/// What a user may do with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Owner,
    /// Talk to it.
    Visitor(Visit),
    /// Nothing, for this reason.
    Refused(Refusal),
}

/// How a visitor talks to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// The link that they came by.
    pub link_id: Option<i64>,
    /// Whether their turns have tools.
    pub tools: bool,
    /// Messages a day (UTC); none: no limit of the link's own.
    pub per_day: Option<i32>,
}

/// Why somebody may not talk to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// They have nothing to do with it, or it is gone: it looks to them as if there were none.
    Unknown,
    /// It is not open any more to those who came as they did.
    Closed,
    /// The link that they came by was revoked.
    Revoked,
    /// The link that they came by has expired.
    Expired,
    /// The owner has blocked them.
    Blocked,
    /// It is private, and they have asked to be let in, and the owner has not answered.
    Asked,
}

/// A row of `visitors` with its link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Visitor {
    /// Whether the owner let them in.
    pub admitted: bool,
    /// Whether they have asked to be let in; of no account once they are.
    pub asked: bool,
    /// Whether the owner blocked them.
    pub blocked: bool,
    /// The link that they came by.
    pub link: Option<Way>,
}

/// A row of `links`, as far as access goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// Its number.
    pub id: i64,
    /// Whether it is the agent's number rather than a token.
    pub by_number: bool,
    /// Whether it gives tools.
    pub tools: bool,
    /// Messages a day of each visitor.
    pub per_day: Option<i32>,
    /// Whether it was taken back.
    pub revoked: bool,
    /// Whether it is too old.
    pub expired: bool,
}

impl Visitor {
    /// Of the columns `visitor` (whether there is anything), `admitted`, `asked`, `blocked`, `link_id`, `by_number`, `tools`,
    /// `per_day`, `revoked`, `expired`.
    pub fn of_row(row: &PgRow) -> Option<Self> {
        if !row.get::<bool, _>("visitor") {
            return None;
        }
        let link = row.get::<Option<i64>, _>("link_id").map(|id| Way {
            id,
            by_number: row.get("by_number"),
            tools: row.get("tools"),
            per_day: row.get("per_day"),
            revoked: row.get("revoked"),
            expired: row.get("expired"),
        });
        let (admitted, asked, blocked) = (row.get("admitted"), row.get("asked"), row.get("blocked"));
        Some(Self { admitted, asked, blocked, link })
    }

    /// Whether they may talk to an agent that is as open as this.
    fn visit(&self, visibility: Visibility) -> Result<Visit, Refusal> {
        if self.blocked {
            return Err(Refusal::Blocked);
        }
        // Whoever the owner let in and then took the link from is shut out: the link is what was taken back last.
        match self.link {
            Some(link) if link.revoked => return Err(Refusal::Revoked),
            Some(link) if link.expired => return Err(Refusal::Expired),
            _ => {}
        }
        let invited = match (visibility, self.link) {
            (Visibility::Public, link) => link.is_some(),
            (Visibility::Unlisted, link) => link.is_some_and(|link| !link.by_number),
            (Visibility::Private, _) => false,
        };
        match self.link {
            _ if !invited && !self.admitted => match visibility {
                Visibility::Private if self.asked => Err(Refusal::Asked),
                _ => Err(Refusal::Closed),
            },
            Some(link) => Ok(Visit { link_id: Some(link.id), tools: link.tools, per_day: link.per_day }),
            // Let in by the owner in person: nothing says that they may do more than talk.
            None => Ok(Visit { link_id: None, tools: false, per_day: None }),
        }
    }
}

/// What `user_id` may do. An agent's owner stays its owner, whatever rows there are of them as a visitor.
pub fn of(owner_id: i64, visibility: Visibility, status: Status, user_id: i64, visitor: Option<&Visitor>) -> Access {
    match (status, visitor) {
        (Status::Deleted, _) => Access::Refused(Refusal::Unknown),
        _ if owner_id == user_id => Access::Owner,
        (Status::Deleting, _) | (_, None) => Access::Refused(Refusal::Unknown),
        (_, Some(visitor)) => match visitor.visit(visibility) {
            Ok(visit) => Access::Visitor(visit),
            Err(refusal) => Access::Refused(refusal),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: i64 = 7;
    const OTHER: i64 = 8;
    const VISIBILITIES: [Visibility; 3] = [Visibility::Public, Visibility::Unlisted, Visibility::Private];

    fn way(by_number: bool) -> Way {
        Way { id: 3, by_number, tools: false, per_day: Some(20), revoked: false, expired: false }
    }

    fn by(link: Way) -> Visitor {
        Visitor { link: Some(link), ..Visitor::default() }
    }

    /// What a visitor may do with a running agent, by its visibility, in the order of [`VISIBILITIES`]: `chat` or `tools`
    /// with the messages a day, or why not.
    fn may(visitor: Visitor) -> [String; 3] {
        VISIBILITIES.map(|visibility| match of(OWNER, visibility, Status::Running, OTHER, Some(&visitor)) {
            Access::Owner => "owner".into(),
            Access::Refused(refusal) => format!("{refusal:?}"),
            Access::Visitor(visit) => {
                let per_day = visit.per_day.map_or("any".into(), |n| n.to_string());
                format!("{} {per_day}", if visit.tools { "tools" } else { "chat" })
            }
        })
    }

    #[test]
    fn what_a_visitor_may_follows_from_how_they_came_and_what_the_owner_said() {
        let (number, token) = (by(way(true)), by(way(false)));
        let tools = by(Way { tools: true, per_day: None, ..way(false) });
        let dead = |way: Way| [by(Way { revoked: true, ..way }), by(Way { expired: true, ..way })];
        let [revoked, expired] = dead(way(false));
        let nobody = Visitor::default();
        let admitted = |visitor| Visitor { admitted: true, ..visitor };
        let asked = |visitor| Visitor { asked: true, ..visitor };
        let blocked = |visitor| Visitor { blocked: true, ..visitor };
        let table = [
            ("number", number, ["chat 20", "Closed", "Closed"]),
            ("token", token, ["chat 20", "chat 20", "Closed"]),
            ("token with tools", tools, ["tools any", "tools any", "Closed"]),
            ("no link", nobody, ["Closed", "Closed", "Closed"]),
            ("number, asked", asked(number), ["chat 20", "Closed", "Asked"]),
            ("token, asked", asked(token), ["chat 20", "chat 20", "Asked"]),
            ("token, let in", admitted(token), ["chat 20"; 3]),
            ("token with tools, let in", admitted(tools), ["tools any"; 3]),
            ("number, let in", admitted(number), ["chat 20"; 3]),
            ("let in without a link", admitted(nobody), ["chat any"; 3]),
            ("let in, asked before", admitted(asked(token)), ["chat 20"; 3]),
            ("revoked", revoked, ["Revoked"; 3]),
            ("revoked, let in", admitted(revoked), ["Revoked"; 3]),
            ("expired", expired, ["Expired"; 3]),
            ("expired, let in", admitted(expired), ["Expired"; 3]),
            ("revoked and expired", by(Way { revoked: true, expired: true, ..way(false) }), ["Revoked"; 3]),
            ("blocked", blocked(token), ["Blocked"; 3]),
            ("blocked by number", blocked(number), ["Blocked"; 3]),
            ("blocked, let in", blocked(admitted(tools)), ["Blocked"; 3]),
            ("blocked and revoked", blocked(revoked), ["Blocked"; 3]),
        ];
        for (who, visitor, expected) in table {
            assert_eq!(may(visitor), expected, "{who}");
        }
    }

    #[test]
    fn an_owner_is_the_owner_until_nothing_is_left_and_others_lose_sight_of_what_is_being_deleted() {
        let blocked = Visitor { blocked: true, ..by(way(false)) };
        let good = Visitor { admitted: true, ..by(way(false)) };
        for visibility in VISIBILITIES {
            for visitor in [None, Some(&blocked), Some(&good)] {
                let owner = |status| of(OWNER, visibility, status, OWNER, visitor);
                for status in [Status::Provisioning, Status::Running, Status::Failed, Status::Deleting] {
                    assert_eq!(owner(status), Access::Owner, "{visibility:?} {status}");
                }
                assert_eq!(owner(Status::Deleted), Access::Refused(Refusal::Unknown));
            }
            for status in [Status::Provisioning, Status::Running, Status::Failed] {
                let access = of(OWNER, visibility, status, OTHER, Some(&good));
                assert!(matches!(access, Access::Visitor(_)), "{visibility:?} {status}: {access:?}");
                // A public agent is opened by its number, which makes its opener a visitor: nobody is one unasked.
                assert_eq!(of(OWNER, visibility, status, OTHER, None), Access::Refused(Refusal::Unknown));
            }
            for status in [Status::Deleting, Status::Deleted] {
                for visitor in [None, Some(&good), Some(&blocked)] {
                    assert_eq!(of(OWNER, visibility, status, OTHER, visitor), Access::Refused(Refusal::Unknown));
                }
            }
        }
    }
}
