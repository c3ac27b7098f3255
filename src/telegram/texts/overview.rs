//! `/dashboard` and `/pool`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::agents::{LISTED, entry};
use super::{Message, ago, count, credits, details, excerpt, no_agents};
use crate::agents::Agent;
use crate::agents::overview::Figures;
use crate::agents::standing::Standing;
use crate::cloud::aleph::Funds;
use crate::cloud::overview::{FailedJob, Overview};
use crate::config::{CloudKind, Config};
use crate::telegram::callback::{OverviewPress, Press};
use crate::telegram::text::{Buttons, Text};

/// A press that is for others.
pub const NOT_FOR_YOU: &str = "This is for operators only.";

/// `/dashboard`, as of `now`; `current`: the agent being talked to.
pub fn dashboard(
    agents: &[Agent],
    standings: &HashMap<i64, Standing>,
    figures: &HashMap<i64, Figures>,
    current: Option<i64>,
    now: DateTime<Utc>,
) -> Message {
    if agents.is_empty() {
        return no_agents();
    }
    let mut text = Text::bold("📊 Your agents").then(as_of(now)).then("\n");
    let (no_standing, no_figures) = (Standing::default(), Figures::default());
    let shown = agents.len().min(LISTED);
    let mut buttons = Buttons::new();
    for (place, agent) in agents.iter().take(LISTED).enumerate() {
        let standing = standings.get(&agent.id).unwrap_or(&no_standing);
        let figures = figures.get(&agent.id).unwrap_or(&no_figures);
        let mut lines = vec![told(figures)];
        lines.extend(details(agent, standing, 80));
        text = entry(text, agent, standing, current, &lines, shown - place - 1);
        let button = Press::Manage(agent.id).button(format!("🛠 {}", excerpt(&agent.name, 24)));
        match buttons.last_mut().filter(|row| row.len() < 2) {
            Some(row) => row.push(button),
            None => buttons.push(vec![button]),
        }
    }
    if agents.len() > LISTED {
        text = text.then(format!("\n\n… and {}.", count((agents.len() - LISTED) as i64, "more agent")));
    }
    buttons.push(vec![Press::Overview(OverviewPress::Dashboard).button("🔄 Refresh")]);
    (text.done(), buttons)
}

fn told(figures: &Figures) -> String {
    let messages = count(figures.messages_today, "message");
    let messages = if figures.at_least { format!("at least {messages}") } else { messages };
    let key = if figures.own_key { "your own key" } else { "free messages" };
    format!("{messages} today · {} · {key}", count(figures.visitors, "visitor"))
}

/// `/pool`, as of `now`; `funds`: as far as this process knows them.
pub fn pool(overview: &Overview, funds: Option<&Funds>, config: &Config, now: DateTime<Utc>) -> Message {
    let Overview { warm, preparing, assigned, retiring, unended, waiting, hosts, .. } = overview;
    let cloud = match config.cloud {
        CloudKind::Aleph => "Aleph Cloud",
        CloudKind::Hosts => "own hosts",
        CloudKind::Local => "this server",
    };
    let mut text = Text::bold("🏊 The pool").then(format!(" on {cloud}")).then(as_of(now));
    text = text.then(match config.pool_enabled && config.cloud != CloudKind::Local {
        true => {
            let (min, max) = overview.size.of(config);
            format!("\n\nKept ready: {min} to {max}")
        }
        false => "\n\nNo machines are kept ready.".into(),
    });
    text = text.then(format!(
        "\nWarm: {warm}\nBeing prepared: {preparing}\nAssigned: {assigned}\nBeing removed: {retiring}\n\
         Machines in all: {unended} of {} (MAX_VMS)",
        config.max_vms
    ));
    if config.cloud == CloudKind::Hosts {
        text = text.then(format!("\nHosts: {hosts}"));
    }
    text = text.then(format!("\nWaiting in line: {}", count(*waiting, "agent")));
    if let Some(funds) = funds {
        text = text.then(format!("\nCredits: {}, a machine costs {} an hour", credits(funds.credits), funds.hourly));
    }
    if config.cloud == CloudKind::Aleph {
        let last = overview.reconciled.map_or("never".into(), ago);
        text = text.then(format!("\nCompared with the cloud: {last}"));
    }
    if overview.report_only {
        text = text.then("\n⚠️ Differences are only reported, until `baal reconcile --confirm`.");
    }
    if !overview.failures.is_empty() {
        text = text.then("\n\n").then_bold("Failed within a day");
    }
    for job in &overview.failures {
        text = text.then(format!("\n• {}", failed(job)));
    }
    (text.done(), vec![vec![Press::Overview(OverviewPress::Pool).button("🔄 Refresh")]])
}

fn failed(job: &FailedJob) -> String {
    let mut words = format!("{} {}", job.kind, ago(job.ago));
    if let Some(id) = job.agent_id {
        words.push_str(&format!(", agent {id}"));
    }
    if let Some(step) = &job.step {
        words.push_str(&format!(
            ", step {step}, {}",
            if job.tries == 1 { "1 try".into() } else { format!("{} tries", job.tries) }
        ));
    }
    if let Some(node) = &job.node {
        words.push_str(&format!(", node {node}"));
    }
    if let Some(error) = &job.error {
        words.push_str(&format!(": {}", excerpt(&error.replace('\n', " "), 160)));
    }
    format!("{words} (job {})", job.id)
}

fn as_of(now: DateTime<Utc>) -> String {
    format!(" · {} UTC", now.format("%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::agents::model::tests::agent;
    use crate::telegram::markdown::utf16_len;

    #[test]
    fn even_the_longest_dashboard_fits_a_message() {
        let mut agents = vec![agent(&"👩".repeat(64)); 30];
        for (agent, n) in agents.iter_mut().zip(0..) {
            (agent.id, agent.paused) = (i64::MAX - n, Some("é".repeat(500)));
        }
        let figures = agents.iter().map(|agent| {
            (agent.id, Figures { messages_today: 5_000, at_least: true, visitors: i64::MAX, own_key: true })
        });
        let figures = figures.collect();
        let now = DateTime::UNIX_EPOCH;
        let (text, buttons) = dashboard(&agents, &HashMap::new(), &figures, Some(i64::MAX), now);
        assert!(utf16_len(&text.text) <= 4_096, "{}", utf16_len(&text.text));
        assert!(text.text.contains("at least 5000 messages today"), "{}", text.text);
        assert!(text.text.ends_with("… and 10 more agents."), "{}", text.text);
        assert_eq!(buttons.len(), 11);
    }

    #[test]
    fn figures_are_told_in_words() {
        let figures = Figures { messages_today: 1, visitors: 2, ..Figures::default() };
        assert_eq!(told(&figures), "1 message today · 2 visitors · free messages");
    }

    #[test]
    fn a_failed_job_is_told_with_all_that_operators_need() {
        let job = FailedJob {
            id: Uuid::nil(),
            kind: "provision".into(),
            agent_id: Some(5),
            step: Some("reach".into()),
            tries: 3,
            node: Some("abc".into()),
            error: Some("it is\nsilent".into()),
            ago: Duration::from_secs(120),
        };
        let told = "provision 2 minutes ago, agent 5, step reach, 3 tries, node abc: it is silent \
                    (job 00000000-0000-0000-0000-000000000000)";
        assert_eq!(failed(&job), told);
    }
}
