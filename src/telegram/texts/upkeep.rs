//! Changing, updating and repairing agents, how that went, and what owners and operators are told unasked.

use std::time::Duration;

use super::{Message, being_deleted, excerpt, no_agents, unwell_elsewhere};
use crate::agents::model::{Agent, Status};
use crate::agents::service::{Changed, TakenUp};
use crate::agents::standing::{Deployment, step_words};
use crate::cloud::aleph::{Shortage, dollars};
use crate::telegram::callback::Press;
use crate::telegram::text::{Buttons, Text};

/// The label of the button that repairs an agent.
pub const REPAIR: &str = "🔧 Repair";

/// The label of the button that gives an agent another machine, without what it remembers.
pub const BEGIN_ANEW: &str = "🆕 Begin anew";

/// Agents that a question offers: an operator may allow thousands.
const PICKED: usize = 20;

/// How long ago something was, in words.
pub fn ago(age: Duration) -> String {
    if age < Duration::from_secs(60) { "just now".into() } else { format!("{} ago", span(age)) }
}

/// A time in words, as rough as people say it.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..60 => return "less than a minute".into(),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    self::count(count as i64, unit)
}

/// How the last set-up, update or repair went: a sentence, its reason of at most so many characters.
pub fn deployment(last: &Deployment, agent: &Agent, reason: usize) -> String {
    let (done, doing) = match last.kind.as_str() {
        "provision" => ("Set up", "Setting it up"),
        "redeploy" | "takeover" => ("Updated", "Updating it"),
        "repair" => ("Repaired", "Repairing it"),
        "stop" => ("Stopped", "Stopping it"),
        "start" => ("Started", "Starting it"),
        _ => ("Worked at", "Working at it"),
    };
    let when = ago(last.ago);
    match last.outcome.as_str() {
        "succeeded" => match last.failures {
            0 => format!("{done} {when}"),
            1 => format!("{done} {when}, after one try that failed"),
            failures => format!("{done} {when}, after {failures} tries that failed"),
        },
        "failed" => {
            let mut words = format!("{doing} failed {when}");
            if let Some((step, tries)) = &last.trouble {
                let tries = if *tries == 1 { "1 try".into() } else { format!("{tries} tries") };
                words.push_str(&format!(" while {} ({tries})", step_words(step)));
            }
            if let Some(error) = &last.error {
                words.push_str(&format!(": {}", excerpt(&error.replace('\n', " "), reason)));
            }
            if matches!(last.kind.as_str(), "redeploy" | "takeover") && agent.status == Status::Running {
                // What is still wanted may be in place, or half of it.
                let as_before = agent.wanted_version == agent.deployed_version;
                words.push_str(if as_before { ". It runs on as before." } else { ". Repairing it puts it in order." });
            }
            words
        }
        _ => format!("{doing} was cancelled {when}"),
    }
}

/// `/update` alone.
pub fn update_which(agents: &[Agent]) -> Message {
    let agents = &of_ours(agents);
    let words = "⬆️ Which agent is to get the newest program? What it remembers is kept. If the new program doesn't work, the \
                 agent goes back to the one it had.";
    which(words, agents, "⬆️", Press::Update)
}

/// `/repair` alone.
pub fn repair_which(agents: &[Agent]) -> Message {
    let agents = &of_ours(agents);
    let words = format!(
        "🔧 Which agent is to be repaired?\n\n{WHAT_REPAIR_DOES} To begin anew without being asked, type the agent's number \
         and a word: /repair 5 new"
    );
    which(&words, agents, "🔧", Press::Repair)
}

fn of_ours(agents: &[Agent]) -> Vec<Agent> {
    agents.iter().filter(|agent| !agent.external).cloned().collect()
}

/// Which agent it is about: a question with a button for each.
pub fn which(question: &str, agents: &[Agent], sign: &str, press: impl Fn(i64) -> Press) -> Message {
    let usable: Vec<_> = agents.iter().filter(|agent| agent.status != Status::Deleting).collect();
    if usable.is_empty() {
        return no_agents();
    }
    let button = |agent: &&Agent| {
        vec![press(agent.id).button(format!("{sign} {} (no. {})", excerpt(&agent.name, 32), agent.id))]
    };
    let mut text = Text::plain(question);
    if usable.len() > PICKED {
        text = text.then(format!("\n\nThese are the first {PICKED}; of another, type the number behind the command."));
    }
    (text.done(), usable.iter().take(PICKED).map(button).collect())
}

const WHAT_REPAIR_DOES: &str = "Repairing looks at the agent's machine and puts right what is broken there; it can't be \
    talked to meanwhile. What it remembers is kept, unless its machine is gone: then it gets a new one, and begins with \
    nothing but its name, personality and model. A machine that only can't be reached is kept; if it stays away, you are \
    asked whether to begin anew.";

/// The present program is being put in place.
pub fn update_begun(changed: &Changed) -> Message {
    let text = Text::plain("⬆️ ").then_bold(&changed.agent.name);
    let text = match &changed.taken_up {
        TakenUp::ByLiveJob(doing) => text.then(format!(" is {doing}; the update comes right with that.")),
        _ => text.then(" is being updated. What it remembers is kept."),
    };
    (text.done(), manage(&changed.agent))
}

/// Whether to repair it.
pub fn repair_really(agent: &Agent) -> Message {
    let text =
        Text::plain("🔧 Repair ").then_bold(&agent.name).then(format!(" (no. {})?\n\n{WHAT_REPAIR_DOES}", agent.id));
    let buttons = vec![
        Press::ConfirmRepair(agent.id).button("🔧 Repair now"),
        Press::Manage(agent.id).button("Leave it as it is"),
    ];
    (text.done(), vec![buttons])
}

/// The repair has begun.
pub fn repair_begun(agent: &Agent) -> Message {
    (Text::plain("🔧 ").then_bold(&agent.name).then(" is being repaired.").done(), manage(agent))
}

/// Whether it is to begin anew.
pub fn begin_anew_really(agent: &Agent) -> Message {
    if agent.status == Status::Deleting {
        return being_deleted(agent);
    }
    let text = Text::plain("🆕 Let ").then_bold(&agent.name).then(format!(
        " (no. {}) begin anew on another machine?\n\nEverything it remembers will be lost, and so will its files: its \
         present machine is removed, even if it could have been repaired later. Its name, personality and model are kept.",
        agent.id
    ));
    let buttons = vec![
        Press::ConfirmBeginAnew(agent.id).button("🆕 Begin anew, forget everything"),
        Press::Manage(agent.id).button("Leave it as it is"),
    ];
    (text.done(), vec![buttons])
}

/// It begins anew.
pub fn anew_begun(agent: &Agent) -> Message {
    (Text::plain("🆕 ").then_bold(&agent.name).then(" begins anew on another machine.").done(), manage(agent))
}

pub(super) fn manage(agent: &Agent) -> Buttons {
    vec![vec![Press::Manage(agent.id).button("🛠 Manage")]]
}

/// For its owner, unasked: it doesn't answer.
pub fn unwell(agent: &Agent) -> Message {
    if agent.external {
        return unwell_elsewhere(agent);
    }
    let text = Text::plain("🩺 ").then_bold(&agent.name).then(format!(
        " (no. {}) hasn't answered for a while. It may come back by itself; you will be told. If you don't want to wait, \
         let it be repaired.",
        agent.id
    ));
    let buttons = vec![Press::Repair(agent.id).button(REPAIR), Press::Manage(agent.id).button("🛠 Manage")];
    (text.done(), vec![buttons])
}

/// For its owner, unasked: it answers again.
pub fn well_again(agent: &Agent) -> Message {
    let text = Text::plain("🟢 ").then_bold(&agent.name).then(format!(" (no. {}) answers again.", agent.id));
    (text.done(), vec![vec![Press::Chat(agent.id).button("💬 Chat")]])
}

/// For operators, unasked: so many agents did not answer, and none did.
pub fn nobody_answers(agents: usize) -> Message {
    let text = Text::plain("📡 ").then_bold("No agent answers.").then(format!(
        "\n\nNone of the {agents} agents that were probed answered, so it may be this server's own network that fails. Their \
         owners were not told. `baal doctor` tells what can be reached."
    ));
    (text.done(), vec![])
}

/// For operators, unasked, after [`nobody_answers`]: our own network is not suspected any more.
pub fn somebody_answers() -> Message {
    let text = Text::plain("📡 ")
        .then_bold("Agents are probed again.")
        .then("\n\nThis server reaches others, so what does not answer is the agent's own: its owner is told after a few probes.");
    (text.done(), vec![])
}

/// For operators, unasked: no machine can be paid for.
pub fn credits_low(shortage: &Shortage) -> Message {
    let machines =
        if shortage.machines == 1 { "one machine".into() } else { format!("{} machines", shortage.machines) };
    let text = Text::plain("⚠️ ")
        .then_bold("No agent can be set up.")
        .then(format!("\n\nThe Aleph account {} has {}, ", shortage.address, credits(shortage.have)))
        .then(format!("but {} are needed to run {machines} for a day. ", credits(shortage.need)))
        .then("Add credits to it, or lower MAX_VMS. What cannot be paid any more is stopped after a day.")
        .then("\n\nYou are told of this at most once an hour.");
    (text.done(), vec![])
}

pub(super) fn credits(credits: u64) -> String {
    format!("{} credits ({:.2} US dollars)", thousands(credits), dollars(credits))
}

/// So many of something: "1 message", "2 messages".
pub(super) fn count(number: i64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// 1234567 as 1,234,567.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::model::tests::agent;

    #[test]
    fn times_are_told_as_people_do() {
        let told = |seconds| ago(Duration::from_secs(seconds));
        assert_eq!((told(0), told(59)), ("just now".into(), "just now".into()));
        assert_eq!((told(60), told(3_599)), ("1 minute ago".into(), "59 minutes ago".into()));
        assert_eq!((told(3_600), told(172_799)), ("1 hour ago".into(), "47 hours ago".into()));
        assert_eq!(told(172_800), "2 days ago");
        assert_eq!(span(Duration::from_secs(5)), "less than a minute");
    }

    #[test]
    fn a_deployment_is_told_with_its_trouble() {
        let last = |kind: &str, outcome: &str, failures| Deployment {
            kind: kind.into(),
            outcome: outcome.into(),
            ago: Duration::from_secs(180),
            error: Some("the disk\nis full".into()),
            trouble: (failures > 0).then(|| ("health".into(), failures)),
            failures,
        };
        let told = |kind, outcome, failures| deployment(&last(kind, outcome, failures), &agent("Ada"), 99);
        assert_eq!(told("provision", "succeeded", 0), "Set up 3 minutes ago");
        assert_eq!(told("repair", "succeeded", 1), "Repaired 3 minutes ago, after one try that failed");
        assert_eq!(told("redeploy", "succeeded", 2), "Updated 3 minutes ago, after 2 tries that failed");
        assert_eq!(
            told("repair", "failed", 1),
            "Repairing it failed 3 minutes ago while waiting until it answers (1 try): the disk is full"
        );
        assert!(told("redeploy", "failed", 1).ends_with("the disk is full. It runs on as before."));
        let mut halfway = agent("Ada");
        halfway.wanted_version = 2;
        let words = deployment(&last("redeploy", "failed", 1), &halfway, 99);
        assert!(words.ends_with("the disk is full. Repairing it puts it in order."), "{words}");
        assert_eq!(told("provision", "cancelled", 1), "Setting it up was cancelled 3 minutes ago");
        assert_eq!(told("of a newer version", "succeeded", 0), "Worked at 3 minutes ago");
        let short = deployment(&last("repair", "failed", 0), &agent("Ada"), 8);
        assert_eq!(short, "Repairing it failed 3 minutes ago: the disk…");
    }

    #[test]
    fn credits_are_told_in_dollars_too() {
        let shortage = Shortage { address: "0xabc".into(), have: 1_234_567, need: 12_000_000, machines: 2 };
        let text = credits_low(&shortage).0.text;
        assert!(text.contains("0xabc has 1,234,567 credits (1.23 US dollars)"), "{text}");
        assert!(
            text.contains("12,000,000 credits (12.00 US dollars) are needed to run 2 machines for a day"),
            "{text}"
        );
        assert_eq!((thousands(0), thousands(100), thousands(1_000)), ("0".into(), "100".into(), "1,000".into()));
    }
}
