//! `/share`: how an agent is shared, and its links.

use chrono::{DateTime, Utc};

use super::{Message, being_deleted, cancel, excerpt, terms, which};
use crate::agents::links::Link;
use crate::agents::model::{Agent, Status};
use crate::config::Visibility;
use crate::telegram::callback::{Press, SharePress};
use crate::telegram::conversation::Dialogue;
use crate::telegram::text::Text;

/// Messages a day that a link's card offers; 0: no limit.
const PER_DAY: [i32; 5] = [5, 20, 50, 100, 0];
/// Days that a link's card offers to let it live; 0: no end.
const DAYS: [i32; 4] = [1, 7, 30, 0];

/// How an agent is shared.
#[derive(Debug)]
pub struct Shared {
    /// The agent.
    pub agent: Agent,
    /// Its links that are not taken back, its number first; each as people open it, where that is known.
    pub links: Vec<(Link, Option<String>)>,
    /// How many people have opened it.
    pub visitors: i64,
    /// How many of them wait to be let in.
    pub waiting: i64,
}

pub(super) fn button(press: SharePress, label: impl Into<String>) -> teloxide_core::types::InlineKeyboardButton {
    Press::Share(press).button(label)
}

/// Marks the choice that holds.
fn choice(press: SharePress, label: &str, holds: bool) -> teloxide_core::types::InlineKeyboardButton {
    button(press, if holds { format!("{label} ✓") } else { label.to_owned() })
}

fn people(count: i64) -> String {
    match count {
        0 => "nobody yet".into(),
        1 => "1 person".into(),
        n => format!("{n} people"),
    }
}

/// Which agent to share.
pub fn share_which(agents: &[Agent]) -> Message {
    which("Which agent do you want to share?", agents, "🔗", |id| Press::Share(SharePress::Open(id)))
}

/// What a visibility is called, and what it means.
pub(super) fn visibility(is: Visibility) -> (&'static str, &'static str) {
    match is {
        Visibility::Public => {
            ("🌍 Public", "everybody can open it by its number. Numbers can be walked through, so anybody may come by.")
        }
        Visibility::Unlisted => {
            ("🔗 Unlisted", "whoever has one of its links can open it. They can't be guessed; /share makes them.")
        }
        Visibility::Private => {
            ("🔒 Private", "whoever opens one of its links asks you first, and comes in when you let them.")
        }
    }
}

/// How an agent is shared.
pub fn share(shared: &Shared) -> Message {
    let Shared { agent, links, visitors, waiting } = shared;
    let (id, is) = (agent.id, agent.visibility);
    if agent.status == Status::Deleting {
        return being_deleted(agent);
    }
    let (what, means) = visibility(is);
    let mut text = Text::plain("Sharing ").then_bold(&agent.name).then(format!(" (no. {id})\n\n"));
    text = text.then_bold(what).then(": ").then(means).then("\n");
    let mut buttons = vec![
        [Visibility::Public, Visibility::Unlisted, Visibility::Private]
            .map(|other| choice(SharePress::Visibility(id, other), visibility(other).0, other == is))
            .into(),
    ];
    // The number opens nothing while the agent is not public.
    let shown: Vec<_> = links.iter().filter(|(link, _)| !link.is_number() || is == Visibility::Public).collect();
    for (link, url) in &shown {
        text = text.then("\n• ").then_bold(link_name(link)).then(format!(
            " · {} · {}",
            terms(link.tools, link.per_day),
            people(link.visitors)
        ));
        if let Some(end) = link.expires_at {
            text = text.then(if link.expired { " · has ended".into() } else { format!(" · until {}", day(end)) });
        }
        if let Some(url) = url {
            text = text.then("\n").then(url);
        }
    }
    if shown.is_empty() {
        text = text.then("\nIt has no link yet. Make one and send it to whom you like.");
    }
    let names: Vec<_> =
        shown.iter().map(|(link, _)| button(SharePress::Link(link.id), format!("⚙️ {}", link_name(link)))).collect();
    buttons.extend(names.chunks(2).map(<[_]>::to_vec));
    buttons.push(vec![button(SharePress::NewLink(id), "➕ New link")]);
    if *visitors > 0 {
        let label = match waiting {
            0 => format!("👥 Visitors ({visitors})"),
            n => format!("👥 Visitors ({visitors}, {n} waiting)"),
        };
        buttons.push(vec![button(SharePress::Visitors { agent: id, page: 0 }, label)]);
    }
    buttons.push(vec![Press::Manage(id).button(format!("« {}", excerpt(&agent.name, 32)))]);
    (text.done(), buttons)
}

/// What a link is called.
pub fn link_name(link: &Link) -> String {
    match link.label.trim() {
        _ if link.is_number() => "By its number".into(),
        "" => "Unnamed link".into(),
        label => label.to_owned(),
    }
}

fn day(time: DateTime<Utc>) -> String {
    time.format("%-d %b %Y, %H:%M UTC").to_string()
}

/// One link, and what can be changed about it.
pub fn link_card(agent: &Agent, link: &Link, url: Option<&str>) -> Message {
    let id = link.id;
    let mut text = Text::plain("🔗 ").then_bold(link_name(link)).then(" · ").then_bold(&agent.name).then("\n");
    text = match url {
        Some(url) => text.then(url),
        None => text.then("It can't be shown at the moment. If that stays so, make a new one in its place."),
    };
    let can = if link.tools { "chat, and use its tools" } else { "chat only" };
    let per_day = link.per_day.map_or("as many messages as they like".into(), |n| format!("{n} messages a day each"));
    text = text.then(format!("\n\nWho comes by it can: {can}; {per_day}\nOpened by: {}", people(link.visitors)));
    if !link.is_number() {
        let end = match link.expires_at {
            None => "until you revoke it".into(),
            Some(end) if link.expired => format!("ended on {}", day(end)),
            Some(end) => format!("until {}", day(end)),
        };
        text = text.then("\nGood: ").then(end);
    }
    let note = match agent.visibility {
        Visibility::Public if !link.is_number() => "\n\nThe agent is public: its number opens it as well.",
        Visibility::Private if !link.is_number() => "\n\nThe agent is private: who opens the link asks you first.",
        Visibility::Unlisted | Visibility::Private if link.is_number() => {
            "\n\nThe agent isn't public: its number opens it for nobody else at the moment."
        }
        _ => "",
    };
    text = text.then(note);
    let mut buttons = vec![
        vec![
            choice(SharePress::Tools(id, false), "💬 Chat only", !link.tools),
            choice(SharePress::Tools(id, true), "🛠 Tools too", link.tools),
        ],
        PER_DAY
            .map(|n| {
                let label = if n == 0 { "No limit".into() } else { format!("{n}/day") };
                choice(SharePress::PerDay(id, n), &label, link.per_day.unwrap_or(0) == n)
            })
            .into(),
    ];
    if !link.is_number() {
        let one = |days| match days {
            0 => choice(SharePress::Days(id, 0), "No end", link.expires_at.is_none()),
            1 => button(SharePress::Days(id, 1), "1 day"),
            n => button(SharePress::Days(id, n), format!("{n} days")),
        };
        buttons.push(DAYS.map(one).into());
    }
    let mut hand_on = vec![];
    if let Some(url) = url {
        hand_on.push(button(SharePress::Qr(id), "▦ QR code"));
        hand_on.extend(send_button(agent, url));
    }
    buttons.push(hand_on);
    if !link.is_number() {
        buttons.push(vec![button(SharePress::Label(id), "✏️ Rename"), button(SharePress::Revoke(id), "🗑 Revoke")]);
    }
    buttons.push(vec![button(SharePress::Open(agent.id), "« Sharing")]);
    buttons.retain(|row| !row.is_empty());
    (text.done(), buttons)
}

/// Opens Telegram's choice of chats with the link (<https://core.telegram.org/widgets/share>).
fn send_button(agent: &Agent, url: &str) -> Option<teloxide_core::types::InlineKeyboardButton> {
    let words = format!("Talk to {}", agent.name);
    let target = reqwest::Url::parse_with_params("https://t.me/share/url", [("url", url), ("text", &words)]).ok()?;
    Some(teloxide_core::types::InlineKeyboardButton::url("📤 Send it to…", target))
}

/// Beneath a link's picture.
pub fn qr_caption(agent: &Agent, link: &Link, url: &str) -> crate::telegram::markdown::Formatted {
    Text::plain("Scan this to talk to ")
        .then_bold(&agent.name)
        .then(format!(" ({}).\n", terms(link.tools, link.per_day)))
        .then(url)
        .done()
}

/// A link's address can't be made: it was written under another key, or the bot's name is not known yet.
pub const LINK_UNREADABLE: &str = "This link can't be shown at the moment.";

/// A link was taken back.
pub const REVOKED: &str = "Revoked.";

/// It was changed who may open an agent.
pub fn now_open_to(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "Everybody can open it now.",
        Visibility::Unlisted => "Only its links open it now.",
        Visibility::Private => "Only whom you let in can talk to it now.",
    }
}

/// How a link should be called.
pub fn label_question(dialogue: (i64, &Dialogue), link: &Link) -> Message {
    let text = Text::plain("How should the link ").then_bold(link_name(link)).then(
        " be called? Send at most 32 characters, such as “For friends”; only you see it. /cancel keeps its name.",
    );
    (text.done(), vec![vec![cancel(dialogue)]])
}

/// Whether to take a link back.
pub fn revoke_really(agent: &Agent, link: &Link) -> Message {
    let text = Text::plain("Revoke ")
        .then_bold(link_name(link))
        .then("? Nobody can open ")
        .then_bold(&agent.name)
        .then(" by it any more.")
        .then(match link.visitors {
            0 => " Nobody has come by it yet.".into(),
            n => format!(" Came by it so far: {}; that ends at once.", people(n)),
        });
    let buttons = vec![vec![
        button(SharePress::ConfirmRevoke(link.id), "🗑 Revoke"),
        button(SharePress::Link(link.id), "Keep it"),
    ]];
    (text.done(), buttons)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::links::tests::link;
    use crate::agents::model::tests::agent;
    use crate::agents::sharing::MAX_LINKS;
    use crate::telegram::markdown::utf16_len;

    #[test]
    fn the_fullest_card_fits_a_message() {
        let name = "👩".repeat(64);
        let url = format!("https://t.me/{}?start=a_{}", "x".repeat(32), "x".repeat(22));
        let links = vec![(link(&name[..128]), Some(url)); MAX_LINKS + 1];
        let mut agent = agent(&name);
        (agent.id, agent.visibility) = (i64::MAX, Visibility::Unlisted);
        let (text, buttons) = share(&Shared { agent, links, visitors: i64::MAX, waiting: i64::MAX });
        assert!(utf16_len(&text.text) <= 4_096, "{}", utf16_len(&text.text));
        assert!(buttons.iter().flatten().count() <= 100);
    }
}
