//! What is said to those who open somebody's agent, and to its owner when they ask to.

use super::{Message, entered, excerpt, ways_on};
use crate::agents::access::{Access, Refusal};
use crate::agents::model::Agent;
use crate::agents::validate;
use crate::agents::visitors::Guest;
use crate::telegram::callback::{Press, SharePress};
use crate::telegram::text::Text;

/// Characters of somebody's name that are shown.
const NAME: usize = 40;

/// A chat is now with this agent, as its owner or as a visitor.
pub fn entered_as(agent: &Agent, access: Access) -> Message {
    let (mut text, buttons) = entered(agent);
    if let Access::Visitor(visit) = access {
        let more = Text::plain(format!("\n\nShared with you by a link: {}.", terms(visit.tools, visit.per_day)));
        text.text.push_str(&more.done().text);
    }
    (text, buttons)
}

/// What a way in gives, such as `chat only, 20 messages a day`.
pub fn terms(tools: bool, per_day: Option<i32>) -> String {
    let tools = if tools { "with its tools" } else { "chat only" };
    match per_day {
        None => tools.to_owned(),
        Some(1) => format!("{tools}, 1 message a day"),
        Some(n) => format!("{tools}, {n} messages a day"),
    }
}

/// Somebody who knows of the agent may not open it.
pub fn not_entered(name: &str, refusal: Refusal) -> Message {
    let name = Text::bold(name);
    let text = match refusal {
        Refusal::Asked => Text::plain("🔔 ")
            .then_text(name)
            .then(" is private. Its owner has been asked to let you in; you will hear from me when they have decided."),
        Refusal::Blocked => name.then(" isn't open to you: its owner has closed it for you."),
        Refusal::Revoked => {
            name.then(" isn't open to you any more: its owner took the link back. Ask them for a new one.")
        }
        Refusal::Expired => {
            name.then(" isn't open to you any more: the link has reached its end. Ask its owner for a new one.")
        }
        Refusal::Closed => {
            name.then(" isn't open to you at the moment. Ask its owner for a link, or open yours again.")
        }
        Refusal::Unknown => return super::no_such_agent(),
    };
    (text.done(), ways_on())
}

/// A link that was good once. It doesn't say what it led to.
pub fn dead_link(refusal: Refusal) -> Message {
    let text = match refusal {
        Refusal::Expired => "This link has reached its end. Ask whoever gave it to you for a new one.",
        _ => "This link doesn't work any more: it was taken back. Ask whoever gave it to you for a new one.",
    };
    (Text::plain(text).done(), ways_on())
}

/// A visitor's name, with what they are found by in Telegram.
pub fn guest_name(guest: &Guest) -> String {
    // Strangers choose their names, and this stands in the owner's own screens: nothing in it may begin a line or turn the
    // direction of what follows, and it must be there to be seen.
    let name = excerpt(&validate::mend_name(&guest.name, &format!("user {}", guest.user_id)), NAME);
    match &guest.username {
        Some(username) => format!("{name} (@{username})"),
        None => name,
    }
}

/// To the owner: somebody wants to come in.
pub fn asks_to_come_in(agent: &Agent, guest: &Guest) -> Message {
    let mut text =
        Text::plain("🔔 ").then_bold(guest_name(guest)).then(" would like to talk to ").then_bold(&agent.name);
    if let Some(label) = guest.label.as_deref().filter(|label| !label.is_empty()) {
        text = text.then(" and came by your link “").then(label).then("”");
    }
    let text = text.then(". Let them in?");
    let (agent, user) = (agent.id, guest.user_id);
    let buttons = vec![
        vec![
            Press::Share(SharePress::Admit { agent, user }).button("✅ Let in"),
            Press::Share(SharePress::Refuse { agent, user }).button("✖️ Not now"),
        ],
        vec![Press::Share(SharePress::Block { agent, user }).button("🚫 Block")],
    ];
    (text.done(), buttons)
}

/// To a visitor: the owner let them in.
pub fn let_in(agent: &Agent) -> Message {
    let text = Text::plain("✅ The owner of ").then_bold(&agent.name).then(" has let you in.");
    (text.done(), vec![vec![Press::Chat(agent.id).button("💬 Chat")]])
}

/// To a visitor: the owner did not.
pub fn not_let_in(agent: &Agent) -> Message {
    let text = Text::plain("The owner of ").then_bold(&agent.name).then(" doesn't let you in at the moment.");
    (text.done(), ways_on())
}
