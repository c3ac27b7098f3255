//! Agents that run elsewhere: somebody else looks after their machines.

use super::{Message, manage};
use crate::agents::model::Agent;
use crate::telegram::callback::{Press, SharePress};
use crate::telegram::text::Text;

/// What follows the name of such an agent that its owner may delete.
pub(super) const LEFT_ALONE: &str = "? It runs elsewhere and goes on there, with all that it remembers; this bot forgets \
    it, and nobody reaches it here any more.";

/// For its owner, unasked: an operator has taken it in. `instead`: whom their chat goes on talking to.
pub fn taken_in(agent: &Agent, link: Option<&str>, instead: Option<&str>) -> Message {
    let text = Text::plain("🛰 ").then_bold(&agent.name).then(
        " is one of your agents now. It was running already, elsewhere: you can talk to it and share it here, and it is \
         looked after there.",
    );
    let text = match instead {
        Some(other) => {
            text.then("\n\nYou are still talking to ").then_bold(other).then("; press Chat to talk to this one.")
        }
        None => text.then("\n\nSend it a message."),
    };
    let text = match link {
        Some(link) => text.then(format!("\n\nShare it: {link}")),
        None => text.then("\n\nOnly you can open it so far."),
    };
    let share = Press::Share(SharePress::Open(agent.id)).button("📤 Share");
    (text.done(), vec![vec![Press::Chat(agent.id).button("💬 Chat"), share]])
}

/// Its personality is none of ours.
pub fn changed_elsewhere(agent: &Agent) -> Message {
    let text = Text::bold(&agent.name).then(" runs elsewhere, so its personality is changed there, not here.");
    (text.done(), manage(agent))
}

/// For its owner, unasked: it doesn't answer.
pub(super) fn unwell_elsewhere(agent: &Agent) -> Message {
    let text = Text::plain("🩺 ").then_bold(&agent.name).then(format!(
        " (no. {}) hasn't answered for a while. It runs elsewhere, so it can't be repaired from here; whoever runs it there \
         has to look after it. You will be told when it answers again.",
        agent.id
    ));
    (text.done(), manage(agent))
}

/// Why there is no answer, as Markdown; the name is Markdown too.
pub(super) fn silent_elsewhere(name: &str) -> String {
    format!(
        "{name} isn't answering at the moment. Please try again in a minute. It runs elsewhere, so if it stays like this, \
         whoever runs it there has to look after it."
    )
}

/// The same where it asks for another secret.
pub(super) fn refuses_elsewhere(name: &str) -> String {
    format!(
        "{name} doesn't accept this bot any more. It runs elsewhere: whoever runs it there has changed its secret, and \
         whoever runs this bot can take it in again with the new one."
    )
}
