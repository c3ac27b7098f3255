//! An owner's agents: the list, the card of one, and their end.

use std::collections::HashMap;

use teloxide_core::types::InlineKeyboardButton;

use super::{
    BEGIN_ANEW, LEFT_ALONE, Message, PERSONALITY, REPAIR, deployment, excerpt, no_agents, span, visibility, which,
};
use crate::agents::model::{Agent, Status};
use crate::agents::service::Slots;
use crate::agents::standing::Standing;
use crate::config::Models;
use crate::telegram::callback::{Press, SharePress, SoulPress};
use crate::telegram::markdown::utf16_len;
use crate::telegram::text::{Buttons, Text};

/// Agents of a list: an operator may allow thousands, and it must fit a message.
pub(super) const LISTED: usize = 20;
/// UTF-16 units of a list that may be filled with more than names and statuses, which always fit.
const ROOM: usize = 4_000;
/// UTF-16 units that an agent's name and status may need.
const ENTRY: usize = 180;

/// `/list` and `/manage` without a number.
pub fn list(agents: &[Agent], standings: &HashMap<i64, Standing>, slots: Slots, current: Option<i64>) -> Message {
    if agents.is_empty() {
        return no_agents();
    }
    let mut text = Text::bold("Your agents").then(format!(" ({} of {})\n", slots.used, slots.limit));
    let mut buttons = Buttons::new();
    let (unknown, shown) = (Standing::default(), agents.len().min(LISTED));
    for (place, agent) in agents.iter().take(LISTED).enumerate() {
        let standing = standings.get(&agent.id).unwrap_or(&unknown);
        let lines = details(agent, standing, 80);
        text = entry(text, agent, standing, current, &lines, shown - place - 1);
        buttons.push(vec![
            Press::Chat(agent.id).button(format!("💬 {}", excerpt(&agent.name, 24))),
            Press::Manage(agent.id).button("🛠 Manage"),
        ]);
    }
    if agents.len() > LISTED {
        text = text.then(format!("\n\n… and {} more: /manage with a number shows one of them.", agents.len() - LISTED));
    }
    if slots.used < slots.limit {
        buttons.push(vec![Press::Create.button("✨ Create another")]);
    }
    (text.done(), buttons)
}

/// An agent's name and status, and these lines below where there is room: `behind` it come so many more.
pub(super) fn entry(
    text: Text,
    agent: &Agent,
    standing: &Standing,
    current: Option<i64>,
    lines: &[String],
    behind: usize,
) -> Text {
    let mut text = text
        .then(format!("\n{} ", light(agent, standing)))
        .then_bold(&agent.name)
        .then(format!(" · no. {} · {}", agent.id, agent.status));
    if current == Some(agent.id) {
        text = text.then_italic(" · you are talking to it");
    }
    let lines = lines.iter().map(|line| format!("\n      {line}")).collect::<String>();
    let room = ROOM.saturating_sub(text.length() + behind * ENTRY);
    if utf16_len(&lines) <= room { text.then(lines) } else { text }
}

/// One agent's card; `link`: what opens it for others, if anything does.
pub fn card(agent: &Agent, standing: &Standing, link: Option<&str>, models: &Models) -> Message {
    let model = models.get(&agent.model).map_or(agent.model.as_str(), |model| &model.name);
    let mut text = Text::plain(format!("{} ", light(agent, standing)))
        .then_bold(&agent.name)
        .then(format!("\n\nNumber: {}\nStatus: {}", agent.id, agent.status));
    for line in details(agent, standing, 300) {
        text = text.then("\n").then(line);
    }
    if agent.external {
        text = text.then("\nRuns elsewhere: it is looked after there, not by this bot");
    }
    let (open_to, _) = visibility(agent.visibility);
    text = text.then(format!("\nVersion: {}\nModel: {model}\nSharing: {open_to}", version(agent, standing)));
    if let Some(link) = link.filter(|_| agent.status != Status::Deleting) {
        text = text.then("\nLink: ").then(link);
    }
    text = text.then("\n\nPersonality:\n").then_quote(excerpt(&agent.system_prompt, 1_500));
    let mut buttons = Buttons::new();
    let (id, remove) = (agent.id, Press::Delete(agent.id).button("🗑 Delete"));
    match agent.status {
        Status::Running if agent.external => {
            buttons.push(vec![Press::Chat(id).button("💬 Chat"), remove]);
            buttons.push(vec![share(id)]);
        }
        Status::Running => {
            buttons.push(vec![Press::Chat(id).button("💬 Chat"), remove]);
            buttons.push(vec![personality(id), share(id)]);
            buttons.push(vec![Press::Update(id).button("⬆️ Update"), Press::Repair(id).button(REPAIR)]);
        }
        Status::Failed => {
            buttons.push(vec![Press::Repair(id).button(REPAIR), remove]);
            if agent.deployed_version > 0 {
                buttons.push(vec![Press::BeginAnew(id).button(BEGIN_ANEW)]);
            }
            buttons.push(vec![personality(id), share(id)]);
        }
        Status::Provisioning | Status::Stopped => {
            buttons.push(vec![personality(id), share(id)]);
            buttons.push(vec![remove]);
        }
        Status::Deleting | Status::Deleted => {}
    }
    buttons.push(vec![Press::List.button("« All agents")]);
    (text.done(), buttons)
}

fn personality(id: i64) -> InlineKeyboardButton {
    Press::Soul(SoulPress::Show(id)).button(PERSONALITY)
}

fn share(id: i64) -> InlineKeyboardButton {
    Press::Share(SharePress::Open(id)).button("📤 Share")
}

/// Which agent to delete.
pub fn delete_which(agents: &[Agent]) -> Message {
    which("Which agent do you want to delete?", agents, "🗑", Press::Delete)
}

/// Whether to delete it.
pub fn delete_really(agent: &Agent) -> Message {
    if agent.status == Status::Deleting {
        return being_deleted(agent);
    }
    let text =
        Text::plain("Delete ").then_bold(&agent.name).then(format!(" (no. {})", agent.id)).then(match agent.external {
            true => LEFT_ALONE,
            false => {
                "? Its conversations and everything it remembers will be gone for good, for everyone who talks to it."
            }
        });
    (
        text.done(),
        vec![vec![
            Press::ConfirmDelete(agent.id).button("🗑 Delete for good"),
            Press::KeepAgent(agent.id).button("Keep it"),
        ]],
    )
}

/// Deletion has begun, or is done at once.
pub fn deleting(agent: &Agent) -> Message {
    let done = match agent.status {
        Status::Deleted => " is deleted here. It runs on where it is.",
        _ => " is being deleted.",
    };
    let text = Text::plain("🗑 ").then_bold(&agent.name).then(done);
    (text.done(), vec![vec![Press::List.button("🗂 My agents")]])
}

/// It is too late for anything else.
pub(super) fn being_deleted(agent: &Agent) -> Message {
    let text = Text::bold(&agent.name).then(" is being deleted; nothing can be changed.");
    (text.done(), vec![vec![Press::List.button("🗂 My agents")]])
}

/// It stays.
pub fn kept(agent: &Agent) -> Message {
    if agent.status == Status::Deleting {
        return being_deleted(agent);
    }
    (
        Text::plain("👍 ").then_bold(&agent.name).then(" stays.").done(),
        vec![vec![Press::Manage(agent.id).button("🛠 Manage")]],
    )
}

/// What there is to say beyond the status, a line each; reasons of at most so many characters.
pub(super) fn details(agent: &Agent, standing: &Standing, reason: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(paused) = &agent.paused {
        lines.push(format!("⏸ Paused: {}", excerpt(paused, reason)));
    }
    if let Some(unwell) = standing.unwell_for {
        lines.push(format!("Hasn't answered for {}", span(unwell)));
    }
    match (&standing.live, &standing.last) {
        (Some(live), _) => lines.push(format!("At the moment {}", live.doing())),
        (None, Some(last)) => lines.push(deployment(last, agent, reason)),
        (None, None) => {}
    }
    lines
}

/// Which version runs, and which is wanted.
fn version(agent: &Agent, standing: &Standing) -> String {
    let (wanted, deployed) = (agent.wanted_version, agent.deployed_version);
    match deployed {
        _ if deployed == wanted => wanted.to_string(),
        0 => format!("{wanted}, not in place yet"),
        _ if standing.live.is_some() => format!("{deployed}; {wanted} is on its way"),
        _ => format!("{deployed}; {wanted} is wanted and not in place"),
    }
}

pub(super) fn light(agent: &Agent, standing: &Standing) -> &'static str {
    match agent.status {
        Status::Running if agent.paused.is_some() => "⏸",
        Status::Running if standing.unwell_for.is_some() => "🟠",
        Status::Running => "🟢",
        Status::Provisioning => "🟡",
        Status::Stopped => "⏹",
        Status::Failed => "🔴",
        Status::Deleting | Status::Deleted => "⚫️",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agents::model::tests::agent;
    use crate::agents::standing::{Deployment, Live};

    fn failed(kind: &str, error: &str) -> Standing {
        let last = Deployment {
            kind: kind.into(),
            outcome: "failed".into(),
            ago: Duration::from_secs(7_300),
            error: Some(error.into()),
            trouble: Some(("install".into(), 6)),
            failures: 9,
        };
        Standing { last: Some(last), ..Standing::default() }
    }

    fn labels(buttons: &Buttons) -> Vec<&str> {
        buttons.iter().flatten().map(|button| button.text.as_str()).collect()
    }

    #[test]
    fn the_card_tells_what_was_last_done_and_what_is_being_done() {
        let models: Models = r#"[{"id":"m","name":"M"}]"#.parse().expect("models");
        let mut ada = agent("Ada");
        let (text, buttons) = card(&ada, &failed("redeploy", "the disk is full"), None, &models);
        let told =
            "Updating it failed 2 hours ago while installing it (6 tries): the disk is full. It runs on as before.";
        assert!(text.text.contains(told), "{}", text.text);
        assert!(text.text.contains("\nVersion: 1\n"), "{}", text.text);
        assert_eq!(
            labels(&buttons),
            ["💬 Chat", "🗑 Delete", "✏️ Personality", "📤 Share", "⬆️ Update", "🔧 Repair", "« All agents"]
        );

        ada.wanted_version = 2;
        let live = Live { kind: "redeploy".into(), step: "health".into(), place: None };
        let standing = Standing { live: Some(live), unwell_for: Some(Duration::from_secs(300)), last: None };
        let text = card(&ada, &standing, None, &models).0.text;
        assert!(text.starts_with("🟠 Ada"), "{text}");
        assert!(
            text.contains("Hasn't answered for 5 minutes\nAt the moment being updated (waiting until it"),
            "{text}"
        );
        assert!(text.contains("Version: 1; 2 is on its way"), "{text}");

        ada.paused = Some("its key was taken back.".into());
        let link = "https://t.me/bot?start=agent_5";
        let text = card(&ada, &Standing::default(), Some(link), &models).0.text;
        assert!(text.starts_with("⏸ Ada") && text.contains("\n⏸ Paused: its key was taken back.\n"), "{text}");
        assert!(text.contains(&format!("\nSharing: 🌍 Public\nLink: {link}\n")), "{text}");

        (ada.status, ada.deployed_version, ada.paused) = (Status::Failed, 0, None);
        let (text, buttons) = card(&ada, &failed("provision", "no machine"), None, &models);
        assert!(text.text.contains("Setting it up failed 2 hours ago"), "{}", text.text);
        assert!(text.text.contains("Version: 2, not in place yet"), "{}", text.text);
        assert_eq!(labels(&buttons), ["🔧 Repair", "🗑 Delete", "✏️ Personality", "📤 Share", "« All agents"]);
        ada.deployed_version = 1;
        let buttons = card(&ada, &failed("repair", "it is away"), None, &models).1;
        assert_eq!(
            labels(&buttons),
            ["🔧 Repair", "🗑 Delete", "🆕 Begin anew", "✏️ Personality", "📤 Share", "« All agents"]
        );
    }

    #[test]
    fn even_the_longest_list_fits_a_message() {
        let mut agents = vec![agent(&"👩".repeat(64)); 30];
        for (agent, n) in agents.iter_mut().zip(0..) {
            agent.id = i64::MAX - n;
        }
        let standings = agents.iter().map(|agent| (agent.id, failed("repair", &"é".repeat(500)))).collect();
        let (text, buttons) = list(&agents, &standings, Slots { used: 30, limit: 99 }, Some(i64::MAX));
        assert!(utf16_len(&text.text) <= 4_096, "{}", utf16_len(&text.text));
        assert!(text.text.contains("Repairing it failed"), "{}", text.text);
        assert!(buttons.len() <= 100);
        let few = list(&agents[..3], &standings, Slots { used: 3, limit: 3 }, None).0;
        assert_eq!(few.text.matches("Repairing it failed 2 hours ago").count(), 3);
    }
}
