//! Words about files.

use crate::telegram::files::FileError;
use crate::telegram::markdown::Formatted;
use crate::telegram::text::Text;

/// In the place of a file that could not be sent.
pub fn file_not_sent(name: &str, error: &FileError) -> Formatted {
    let text = Text::plain("📎 The file ").then_bold(name);
    let text = match error {
        FileError::Gone => text.then(" could not be fetched: the agent does not have it any more. Ask for it again."),
        FileError::TooLarge => {
            text.then(" is larger than the 50 MB that Telegram takes. Ask for it in parts, or compressed.")
        }
        FileError::AgentGone => text.then(" could not be fetched: its agent was deleted."),
        FileError::Refused(_) => text.then(" was not taken by Telegram. Ask for it in another form."),
        FileError::Slow => text.then(" takes too long to arrive. Ask for it later, in parts, or compressed."),
        FileError::Trouble(_) => text.then(" could not be fetched: the agent does not answer. Ask for it again later."),
    };
    text.done()
}

/// Before what an agent says unasked in a chat that talks to another one.
pub fn unasked_from(name: &str, then: &str) -> Formatted {
    Text::plain("🔔 ").then_bold(name).then(":").then(then).done()
}
