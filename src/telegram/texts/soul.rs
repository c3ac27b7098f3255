//! Personalities: reading, changing, and going back.

use super::{Message, REPAIR, being_deleted, changed_elsewhere, manage, which};
use crate::agents::model::{Agent, Status};
use crate::agents::service::{Changed, TakenUp};
use crate::telegram::callback::{Press, SoulPress};
use crate::telegram::markdown::{MESSAGE_LIMIT, split};
use crate::telegram::text::{Buttons, Text};

/// UTF-16 units of a personality in one message, below Telegram's 4,096.
const QUOTED: usize = 3_800;

/// The label of the button that goes back to the personality before.
const UNDO: &str = "↩️ Undo";
/// The label of the button that shows a personality, or asks for another.
pub const PERSONALITY: &str = "✏️ Personality";

/// A button that goes back to a personality that was there before the present one.
pub const ANOTHER_SOUL: &str = "It has another personality by now.";

/// `/soul` alone.
pub fn soul_which(agents: &[Agent]) -> Message {
    which("✏️ Whose personality do you want to read or change?", agents, "✏️", |id| {
        Press::Soul(SoulPress::Show(id))
    })
}

/// The present personality, in as many messages as it takes; `earlier`: the version with the one before.
pub fn soul(agent: &Agent, earlier: Option<i32>) -> Vec<Message> {
    let text =
        Text::plain("✏️ The personality of ").then_bold(&agent.name).then(":\n").then_quote(&agent.system_prompt);
    let mut messages: Vec<Message> = split(text.done(), QUOTED).into_iter().map(|part| (part, vec![])).collect();
    if agent.status == Status::Deleting {
        messages.push(being_deleted(agent));
        return messages;
    }
    if agent.external {
        messages.push(changed_elsewhere(agent));
        return messages;
    }
    let change = format!("To change it, press the button, or send /soul {} and the new words.", agent.id);
    let mut row = vec![Press::Soul(SoulPress::Edit(agent.id)).button("✏️ Change")];
    row.extend(earlier.map(|to| undo(agent, to)));
    row.push(Press::Manage(agent.id).button("🛠 Manage"));
    messages.push((Text::plain(change).done(), vec![row]));
    messages
}

/// Asks for another personality, in a dialogue of this number.
pub fn soul_edit(agent: &Agent, dialogue_id: i64) -> Message {
    let text = Text::plain("✏️ Who should ")
        .then_bold(&agent.name)
        .then(" be from now on? Send the whole new personality. What you talked about with it is kept.");
    let cancel = Press::Dialogue { id: dialogue_id, step: "soul".into(), choice: "cancel".into() };
    (text.done(), vec![vec![cancel.button("❌ Leave it as it is")]])
}

/// The personality is another one now; `earlier`: the version with the one before, if it was another; `cut`: its end may be
/// on its way in a second message.
pub fn soul_changed(changed: &Changed, earlier: Option<i32>, cut: bool) -> Message {
    let text = Text::plain("✏️ ").then_bold(&changed.agent.name).then("'s new personality is written down");
    let (mut text, mut buttons) = taken_up(text, changed);
    if cut {
        text = text.then(format!(
            "\n\nTelegram cuts messages after {MESSAGE_LIMIT} characters. If there is more of it, it is added as soon as it \
             arrives."
        ));
    }
    buttons.extend(earlier.map(|to| vec![undo(&changed.agent, to)]));
    (text.done(), buttons)
}

/// The rest of it has arrived; `earlier`: the version with the personality before the first part.
pub fn soul_rest(changed: &Changed, earlier: i32) -> Message {
    let agent = &changed.agent;
    let text = Text::plain("➕ The rest was added: ")
        .then_bold(&agent.name)
        .then(format!("'s new personality has {} characters in all", agent.system_prompt.chars().count()));
    let (text, mut buttons) = taken_up(text, changed);
    buttons.push(vec![undo(agent, earlier)]);
    (text.done(), buttons)
}

/// The personality is an earlier one again.
pub fn soul_undone(changed: &Changed) -> Message {
    let text = Text::plain("↩️ ").then_bold(&changed.agent.name).then("'s earlier personality is written down again");
    let (text, mut buttons) = taken_up(text, changed);
    let mut row = vec![Press::Soul(SoulPress::Show(changed.agent.id)).button(PERSONALITY)];
    row.extend(manage(&changed.agent).into_iter().flatten());
    buttons.push(row);
    (text.done(), buttons)
}

/// What brings a change about, and a way to help where nothing does.
fn taken_up(text: Text, changed: &Changed) -> (Text, Buttons) {
    match &changed.taken_up {
        TakenUp::ByNewJob => (text.then(" and is being put in place. What you talked about is kept."), vec![]),
        TakenUp::AtOnce => (text.then("."), vec![]),
        TakenUp::ByLiveJob(doing) => {
            (text.then(format!(". The agent is {doing}; the new personality comes right with that.")), vec![])
        }
        TakenUp::ByStart => {
            (text.then(". The agent is stopped, though: it gets it as soon as it is started again."), vec![])
        }
        TakenUp::ByRepair => {
            let id = changed.agent.id;
            let text = text.then(format!(". The agent isn't running, though: /repair {id} brings it to life."));
            (text, vec![vec![Press::Repair(id).button(REPAIR)]])
        }
    }
}

fn undo(agent: &Agent, to: i32) -> teloxide_core::types::InlineKeyboardButton {
    Press::Soul(SoulPress::Undo { id: agent.id, from: agent.wanted_version, to }).button(UNDO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::model::tests::agent;
    use crate::telegram::markdown::utf16_len;

    #[test]
    fn the_longest_personality_is_shown_whole() {
        for unit in ["x", "é", "👩", "a\n", "**b** "] {
            let mut ada = agent("Ada");
            ada.system_prompt = unit.repeat(16_384 / unit.len());
            let shown = soul(&ada, None);
            let parts: Vec<&str> = shown.iter().map(|(text, _)| text.text.as_str()).collect();
            assert!(parts.iter().all(|part| !part.is_empty() && utf16_len(part) <= 4_096));
            let count = |text: &str| text.matches(unit.trim()).count();
            let own = count("✏️ The personality of Ada:\n") + count(parts.last().expect("a part"));
            assert_eq!(count(&parts.concat()) - own, count(&ada.system_prompt), "{unit:?}");
        }
    }

    #[test]
    fn what_was_changed_comes_with_what_brings_it_about() {
        let told = |taken_up| soul_changed(&Changed { agent: agent("*Ada*"), taken_up }, Some(3), false);
        let (text, buttons) = told(TakenUp::ByNewJob);
        assert!(text.text.starts_with("✏️ *Ada*'s new personality is written down and is being put"), "{}", text.text);
        assert_eq!(buttons[0][0].text, UNDO);
        let live = told(TakenUp::ByLiveJob("being repaired (installing it)".into()));
        assert!(
            live.0.text.contains("is being repaired (installing it); the new personality comes"),
            "{}",
            live.0.text
        );
        let (text, buttons) = told(TakenUp::ByRepair);
        assert!(text.text.contains("/repair 5") && buttons[0][0].text == REPAIR, "{}", text.text);
    }
}
