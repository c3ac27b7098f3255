//! What the bot says of what the people who run it decided.

use super::{Message, manage};
use crate::agents::Agent;
use crate::telegram::text::Text;

/// Operators shut somebody out, shown to who presses a button.
pub const BLOCKED: &str = "The people who run this bot have blocked you, so it does nothing for you any more.";

/// The same as a message.
pub fn blocked() -> Message {
    let text = Text::plain("🚫 ").then(BLOCKED).then(
        " Please ask them if you think that this is a mistake. /privacy tells what is kept of you, and /forgetme deletes it.",
    );
    (text.done(), vec![])
}

/// Operators have stopped an agent; for its owner.
pub fn agent_stopped(agent: &Agent) -> Message {
    let text = Text::plain("⏹ ").then_bold(&agent.name).then(
        " was stopped by the people who run this bot. It doesn't answer until they start it again; what it remembers is kept.",
    );
    (text.done(), manage(agent))
}
