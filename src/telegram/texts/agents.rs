//! An owner's agents: the list, the card of one, and their end.

use std::collections::HashMap;

use super::{BEGIN_ANEW, Message, REPAIR, deployment, excerpt, span};
use crate::agents::model::{Agent, Status};
use crate::agents::service::Slots;
use crate::agents::standing::Standing;
use crate::config::{Models, Visibility};
use crate::telegram::callback::Press;
use crate::telegram::markdown::utf16_len;
use crate::telegram::text::{Buttons, Text};

/// Agents of a list: an operator may allow thousands, and it must fit a message.
const LISTED: usize = 20;
/// UTF-16 units of a list that may be filled with more than names and statuses, which always fit.
const ROOM: usize = 4_000;
/// UTF-16 units that an agent's name and status may need.
const ENTRY: usize = 180;

/// `/list` and `/manage` without a number.
pub fn list(agents: &[Agent], standings: &HashMap<i64, Standing>, slots: Slots, current: Option<i64>) -> Message {
    if agents.is_empty() {
        let text = Text::plain("You have no agents yet.");
        return (text.done(), vec![vec![Press::Create.button("✨ Create an agent")]]);
    }
    let mut text = Text::bold("Your agents").then(format!(" ({} of {})\n", slots.used, slots.limit));
    let mut buttons = Buttons::new();
    let (unknown, shown) = (Standing::default(), agents.len().min(LISTED));
    for (place, agent) in agents.iter().take(LISTED).enumerate() {
        let standing = standings.get(&agent.id).unwrap_or(&unknown);
        text = text
            .then(format!("\n{} ", light(agent, standing)))
            .then_bold(&agent.name)
            .then(format!(" · no. {} · {}", agent.id, agent.status));
        if current == Some(agent.id) {
            text = text.then_italic(" · you are talking to it");
        }
        let details = details(agent, standing, 80).iter().map(|line| format!("\n      {line}")).collect::<String>();
        let room = ROOM.saturating_sub(text.length() + (shown - place - 1) * ENTRY);
        if utf16_len(&details) <= room {
            text = text.then(details);
        }
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

/// One agent's card.
pub fn card(agent: &Agent, standing: &Standing, username: &str, models: &Models) -> Message {
    let model = models.get(&agent.model).map_or(agent.model.as_str(), |model| &model.name);
    let mut text = Text::plain(format!("{} ", light(agent, standing)))
        .then_bold(&agent.name)
        .then(format!("\n\nNumber: {}\nStatus: {}", agent.id, agent.status));
    for line in details(agent, standing, 300) {
        text = text.then("\n").then(line);
    }
    let open_to = match agent.visibility {
        Visibility::Public => "everyone with the link",
        Visibility::Unlisted => "you alone",
    };
    text = text.then(format!("\nVersion: {}\nModel: {model}\nOpen to: {open_to}", version(agent, standing)));
    if !username.is_empty() {
        text = text.then(format!("\nLink: https://t.me/{username}?start=agent_{}", agent.id));
    }
    text = text.then("\n\nPersonality:\n").then_quote(excerpt(&agent.system_prompt, 1_500));
    let mut buttons = Buttons::new();
    let (id, remove) = (agent.id, Press::Delete(agent.id).button("🗑 Delete"));
    match agent.status {
        Status::Running => {
            buttons.push(vec![Press::Chat(id).button("💬 Chat"), remove]);
            buttons.push(vec![Press::Update(id).button("⬆️ Update"), Press::Repair(id).button(REPAIR)]);
        }
        Status::Failed => {
            buttons.push(vec![Press::Repair(id).button(REPAIR), remove]);
            if agent.deployed_version > 0 {
                buttons.push(vec![Press::BeginAnew(id).button(BEGIN_ANEW)]);
            }
        }
        Status::Provisioning => buttons.push(vec![remove]),
        Status::Deleting | Status::Deleted => {}
    }
    buttons.push(vec![Press::List.button("« All agents")]);
    (text.done(), buttons)
}

/// Which agent to delete.
pub fn delete_which(agents: &[Agent]) -> Message {
    let deletable: Vec<_> = agents.iter().filter(|agent| agent.status != Status::Deleting).take(20).collect();
    if deletable.is_empty() {
        return (Text::plain("You have no agents to delete.").done(), vec![]);
    }
    let buttons = deletable
        .iter()
        .map(|agent| vec![Press::Delete(agent.id).button(format!("🗑 {} (no. {})", excerpt(&agent.name, 32), agent.id))])
        .collect();
    (Text::plain("Which agent do you want to delete?").done(), buttons)
}

/// Whether to delete it.
pub fn delete_really(agent: &Agent) -> Message {
    let text = Text::plain("Delete ")
        .then_bold(&agent.name)
        .then(format!(" (no. {})", agent.id))
        .then("? Its conversations and everything it remembers will be gone for good, for everyone who talks to it.");
    (
        text.done(),
        vec![vec![
            Press::ConfirmDelete(agent.id).button("🗑 Delete for good"),
            Press::KeepAgent(agent.id).button("Keep it"),
        ]],
    )
}

/// Deletion has begun.
pub fn deleting(agent: &Agent) -> Message {
    let text = Text::plain("🗑 ").then_bold(&agent.name).then(" is being deleted.");
    (text.done(), vec![vec![Press::List.button("🗂 My agents")]])
}

/// It stays.
pub fn kept(agent: &Agent) -> Message {
    (
        Text::plain("👍 ").then_bold(&agent.name).then(" stays.").done(),
        vec![vec![Press::Manage(agent.id).button("🛠 Manage")]],
    )
}

/// What there is to say beyond the status, a line each; reasons of at most so many characters.
fn details(agent: &Agent, standing: &Standing, reason: usize) -> Vec<String> {
    let mut lines = Vec::new();
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

fn light(agent: &Agent, standing: &Standing) -> &'static str {
    match agent.status {
        Status::Running if standing.unwell_for.is_some() => "🟠",
        Status::Running => "🟢",
        Status::Provisioning => "🟡",
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
        let (text, buttons) = card(&ada, &failed("redeploy", "the disk is full"), "", &models);
        let told =
            "Updating it failed 2 hours ago while installing it (6 tries): the disk is full. It runs on as before.";
        assert!(text.text.contains(told), "{}", text.text);
        assert!(text.text.contains("\nVersion: 1\n"), "{}", text.text);
        assert_eq!(labels(&buttons), ["💬 Chat", "🗑 Delete", "⬆️ Update", "🔧 Repair", "« All agents"]);

        ada.wanted_version = 2;
        let live = Live { kind: "redeploy".into(), step: "health".into(), place: None };
        let standing = Standing { live: Some(live), unwell_for: Some(Duration::from_secs(300)), last: None };
        let text = card(&ada, &standing, "", &models).0.text;
        assert!(text.starts_with("🟠 Ada"), "{text}");
        assert!(
            text.contains("Hasn't answered for 5 minutes\nAt the moment being updated (waiting until it"),
            "{text}"
        );
        assert!(text.contains("Version: 1; 2 is on its way"), "{text}");

        (ada.status, ada.deployed_version) = (Status::Failed, 0);
        let (text, buttons) = card(&ada, &failed("provision", "no machine"), "", &models);
        assert!(text.text.contains("Setting it up failed 2 hours ago"), "{}", text.text);
        assert!(text.text.contains("Version: 2, not in place yet"), "{}", text.text);
        assert_eq!(labels(&buttons), ["🔧 Repair", "🗑 Delete", "« All agents"]);
        ada.deployed_version = 1;
        let buttons = card(&ada, &failed("repair", "it is away"), "", &models).1;
        assert_eq!(labels(&buttons), ["🔧 Repair", "🗑 Delete", "🆕 Begin anew", "« All agents"]);
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
