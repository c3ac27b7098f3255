//! What the bot says about invitations.

use super::Message;
use crate::agents::invites::DAYS;
use crate::config::CreatePolicy;
use crate::telegram::callback::Press;
use crate::telegram::text::Text;

/// A new code, for an operator to pass on.
pub fn invitation(code: &str, bot_username: &str, policy: CreatePolicy) -> Message {
    let mut text = Text::bold("🎟 An invitation").then(format!(
        "\n\nhttps://t.me/{bot_username}?start=i_{code}\n\nOr the code alone: {code}\n\nIt lets one person create agents \
         here and is good for {DAYS} days. I can't show it again."
    ));
    match policy {
        CreatePolicy::Invite => {}
        CreatePolicy::Open => {
            text = text.then("\n\nAt the moment everybody may create agents, so nobody needs it (CREATE_POLICY=open).");
        }
        CreatePolicy::Operators => {
            text = text.then(
                "\n\nAt the moment only operators may create agents, so it helps nobody (CREATE_POLICY=operators).",
            );
        }
    }
    (text.done(), vec![])
}

/// Somebody wants to create an agent and has no invitation yet.
pub fn ask_for_code() -> Message {
    let text = Text::bold("🎟 Creating agents here takes an invitation")
        .then("\n\nSend me your code, or /cancel. If you have none, ask whoever runs this bot. ")
        .then("Agents that others share with you are open to you without one.");
    (text.done(), vec![])
}

/// A code that is not good; within the dialogue it can be sent again.
pub fn bad_code(dialogue: bool) -> Message {
    let text = Text::plain("This code is unknown, was used already or is too old. ").then(if dialogue {
        "Send another one, or /cancel."
    } else {
        "Please ask for a new one."
    });
    (text.done(), vec![])
}

/// An invitation was redeemed.
pub fn invited(with_button: bool) -> Message {
    let text = Text::plain("🎉 Your invitation is good: you can create agents here now.");
    let buttons = if with_button { vec![vec![Press::Create.button("✨ Create an agent")]] } else { vec![] };
    (text.done(), buttons)
}

/// A link with a code, for somebody who may create agents anyway.
pub fn no_invitation_needed() -> Message {
    let text = Text::plain("You can create agents here already; the invitation wasn't used and is still good.");
    (text.done(), vec![vec![Press::Create.button("✨ Create an agent")]])
}
