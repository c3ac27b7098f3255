//! An agent's visitors, as its owner sees them.

use chrono::{DateTime, Utc};

use super::share::button;
use super::{Message, count, excerpt, guest_name, span, terms};
use crate::agents::access::{Access, Refusal};
use crate::agents::model::Agent;
use crate::agents::visitors::Guest;
use crate::telegram::callback::SharePress;
use crate::telegram::text::{Buttons, Text};

/// Visitors on a page of their list.
pub const PAGE: i64 = 8;

/// A page of an agent's visitors, of `total`.
pub fn visitors(agent: &Agent, guests: &[Guest], total: i64, page: i64, now: DateTime<Utc>) -> Message {
    let id = agent.id;
    let mut text = Text::plain("👥 Visitors of ").then_bold(&agent.name).then(format!(" ({total})\n"));
    if guests.is_empty() {
        text = text.then("\nNobody here.");
    }
    for guest in guests {
        text = text
            .then(format!("\n{} ", light(guest)))
            .then_bold(guest_name(guest))
            .then(format!(" · {}", standing(guest)))
            .then(format!("\n      {}, {}", messages(guest), seen(guest, now)));
    }
    let names: Vec<_> = guests
        .iter()
        .map(|guest| {
            let label = format!("{} {}", light(guest), excerpt(&guest_name(guest), 20));
            button(SharePress::Visitor { agent: id, user: guest.user_id }, label)
        })
        .collect();
    let mut buttons: Buttons = names.chunks(2).map(<[_]>::to_vec).collect();
    let mut turn = vec![];
    if page > 0 {
        turn.push(button(SharePress::Visitors { agent: id, page: page - 1 }, "‹ Newer"));
    }
    if (page + 1) * PAGE < total {
        turn.push(button(SharePress::Visitors { agent: id, page: page + 1 }, "Older ›"));
    }
    if !turn.is_empty() {
        buttons.push(turn);
    }
    buttons.push(vec![button(SharePress::Open(id), "« Sharing")]);
    (text.done(), buttons)
}

/// One visitor, and what can be done about them.
pub fn visitor_card(agent: &Agent, guest: &Guest, now: DateTime<Utc>) -> Message {
    let text = Text::plain("👤 ")
        .then_bold(guest_name(guest))
        .then(" · ")
        .then_bold(&agent.name)
        .then(format!("\n\n{} {}", light(guest), standing(guest)))
        .then(format!("\n{}, {}", messages(guest), seen(guest, now)));
    let (agent, user) = (agent.id, guest.user_id);
    let admit = button(SharePress::Admit { agent, user }, "✅ Let in");
    let block = button(SharePress::Block { agent, user }, "🚫 Block");
    let mut buttons = match guest.access {
        Access::Refused(Refusal::Blocked) => vec![vec![button(SharePress::Unblock { agent, user }, "Unblock")]],
        Access::Refused(Refusal::Asked) => {
            vec![vec![admit, button(SharePress::Refuse { agent, user }, "✖️ Not now")], vec![block]]
        }
        Access::Refused(_) => vec![vec![admit, block]],
        Access::Visitor(_) | Access::Owner => vec![vec![block]],
    };
    buttons.push(vec![button(SharePress::Visitors { agent, page: 0 }, "« Visitors")]);
    (text.done(), buttons)
}

fn light(guest: &Guest) -> &'static str {
    match guest.access {
        Access::Refused(Refusal::Blocked) => "🚫",
        Access::Refused(Refusal::Asked) => "🔔",
        Access::Refused(_) => "⚪️",
        Access::Visitor(_) | Access::Owner => "🟢",
    }
}

fn standing(guest: &Guest) -> String {
    let way = match &guest.label {
        Some(_) if guest.visitor.link.is_some_and(|link| link.by_number) => ", by its number".into(),
        Some(label) if !label.is_empty() => format!(", by “{label}”"),
        _ => String::new(),
    };
    match guest.access {
        Access::Owner => "its owner".into(),
        Access::Visitor(visit) => format!("{}{way}", terms(visit.tools, visit.per_day)),
        Access::Refused(Refusal::Asked) => format!("waits to be let in{way}"),
        Access::Refused(Refusal::Blocked) => "blocked".into(),
        Access::Refused(Refusal::Revoked) => format!("shut out, the link was revoked{way}"),
        Access::Refused(Refusal::Expired) => format!("shut out, the link has ended{way}"),
        Access::Refused(Refusal::Closed | Refusal::Unknown) => format!("not let in{way}"),
    }
}

fn messages(guest: &Guest) -> String {
    let all = count(guest.messages, "message");
    if guest.messages_today > 0 { format!("{all}, {} today", guest.messages_today) } else { all }
}

fn seen(guest: &Guest, now: DateTime<Utc>) -> String {
    format!("last here {} ago", span((now - guest.last_seen_at).to_std().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::agents::access::{Visit, Visitor};
    use crate::agents::model::tests::agent;
    use crate::telegram::markdown::utf16_len;

    #[test]
    fn the_fullest_page_fits_a_message() {
        let name = "👩".repeat(64);
        let visit = Visit { link_id: Some(1), tools: true, per_day: Some(10_000) };
        let guest = Guest {
            user_id: i64::MAX,
            name: name.clone(),
            username: Some("x".repeat(32)),
            bot_id: 42,
            visitor: Visitor::default(),
            access: Access::Visitor(visit),
            label: Some(name[..128].to_owned()),
            messages: i64::MAX,
            messages_today: i32::MAX,
            last_seen_at: DateTime::UNIX_EPOCH,
        };
        let guests = vec![guest; usize::try_from(PAGE).unwrap_or(8)];
        let (text, _) = visitors(&agent(&name), &guests, i64::MAX, 0, DateTime::UNIX_EPOCH + TimeDelta::days(36_500));
        assert!(utf16_len(&text.text) <= 4_096, "{}", utf16_len(&text.text));
    }
}
