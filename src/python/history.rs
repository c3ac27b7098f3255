//! What the Python system noted of deployments, as jobs that are over. Pure.
//!
//! It writes one row at a deployment's end, with the step that failed. Rows that tell of no end are taken for the steps before
//! the next one that does.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::source::Event;
use crate::jobs::model::{Outcome, Step};

/// The longest error that is shown, in characters.
const LONGEST: usize = 300;
/// The longest deployment that is believed.
const LONGEST_RUN: i64 = 24 * 3600;

/// A step, what it failed of, and when it began and ended.
pub type Tried = (Step, Option<String>, DateTime<Utc>, DateTime<Utc>);

/// A job that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The same for the same rows.
    pub id: Uuid,
    /// At which it ended.
    pub step: Step,
    /// How.
    pub outcome: Outcome,
    /// Why it failed, in words.
    pub error: Option<String>,
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// What was tried.
    pub steps: Vec<Tried>,
}

/// An agent's runs, from its rows in their order. Rows without a time are left out.
pub fn runs(events: &[Event]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut open: Vec<(&Event, DateTime<Utc>)> = Vec::new();
    let dated: Vec<_> = events.iter().filter_map(|event| Some((event, event.at?))).collect();
    for (index, (event, at)) in dated.iter().enumerate() {
        open.push((event, *at));
        let is_last = index + 1 == dated.len();
        if let Some(outcome) = ending(&event.status).or(is_last.then_some(Outcome::Failed)) {
            runs.push(run(&std::mem::take(&mut open), outcome));
        }
    }
    runs
}

fn run(events: &[(&Event, DateTime<Utc>)], outcome: Outcome) -> Run {
    // silent-ok: the caller gives at least one
    let ((first, earliest), (last, ended)) = (events[0], events[events.len() - 1]);
    let took = TimeDelta::seconds(last.seconds.unwrap_or(0).clamp(0, LONGEST_RUN));
    let began = earliest.min(ended - took);
    let error = match (outcome, ending(&last.status)) {
        (Outcome::Succeeded, _) => None,
        (_, None) => Some("it is not known how it ended".to_owned()),
        _ => {
            Some(last.error.as_deref().map(words).filter(|words| !words.is_empty()).unwrap_or("no reason given".into()))
        }
    };
    let step = step(outcome, last.step.as_deref());
    let (mut steps, mut since) = (Vec::new(), began);
    for (event, at) in &events[..events.len() - 1] {
        steps.push((self::step(Outcome::Failed, event.step.as_deref()), None, since, *at));
        since = *at;
    }
    steps.push((step, error.clone(), since.min(ended), ended));
    Run { id: id(first, began), step, outcome, error, began, ended, steps }
}

/// Jobs are listed by their ids, which grow with time (UUID version 7); the rest is a hash instead of chance.
fn id(event: &Event, began: DateTime<Utc>) -> Uuid {
    let name = format!("a deployment of the Python system: agent {}, row {}, {began}", event.agent_id, event.id);
    let hash = Sha256::digest(name.as_bytes());
    let mut rest = [0; 10];
    rest.copy_from_slice(&hash[..10]);
    let millis = u64::try_from(began.timestamp_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}

/// How a run ended, if this word says that it did.
fn ending(status: &str) -> Option<Outcome> {
    match status.trim().to_ascii_lowercase().as_str() {
        "success" | "succeeded" | "completed" | "running" | "deployed" => Some(Outcome::Succeeded),
        "failed" | "failure" | "error" | "timeout" => Some(Outcome::Failed),
        "cancelled" | "canceled" | "stopped" => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// The step of ours in which the same is done.
fn step(outcome: Outcome, word: Option<&str>) -> Step {
    match (outcome, word.unwrap_or_default().trim()) {
        (Outcome::Succeeded, _) => Step::Finish,
        (_, "instance_creation" | "instance" | "create_instance" | "allocation" | "vm_allocation") => Step::Create,
        (_, "ssh" | "ssh_connected") => Step::Reach,
        (_, "health" | "health_check") => Step::Health,
        _ => Step::Install,
    }
}

/// An error as it is shown to the agent's owner: one line, not long, without what looks like a secret.
fn words(error: &str) -> String {
    let line: String = error.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let is_secret = |word: &str| {
        // As JSON and Python write it, too.
        let upper = word.replace(['"', '\'', '\\'], "").to_ascii_uppercase();
        let assigned = ["KEY=", "KEY:", "SECRET=", "SECRET:", "TOKEN=", "TOKEN:", "PASSWORD=", "PASSWORD:"];
        word.contains("sk-")
            || word.contains("gAAAA")
            || assigned.iter().any(|name| upper.contains(name))
            || word.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
    };
    let mut hide_next = false;
    let shown: Vec<&str> = line
        .split_whitespace()
        .map(|word| {
            let hide = hide_next || is_secret(word);
            hide_next = word.eq_ignore_ascii_case("bearer") || (is_secret(word) && word.ends_with([':', '=']));
            if hide { "…" } else { word }
        })
        .collect();
    let line = shown.join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: i64, status: &str, step: &str, at: i64) -> Event {
        Event {
            id,
            agent_id: 3,
            status: status.into(),
            step: Some(step.into()).filter(|step: &String| !step.is_empty()),
            error: (status == "failed").then(|| "No CRNs available".into()),
            seconds: Some(40),
            at: DateTime::from_timestamp(1_700_000_000 + at, 0),
        }
    }

    #[test]
    fn each_end_is_a_run() {
        let events = [event(1, "failed", "instance_creation", 0), event(2, "success", "", 100)];
        let runs = runs(&events);
        let seen: Vec<_> = runs.iter().map(|run| (run.step, run.outcome, run.error.as_deref())).collect();
        assert_eq!(
            seen,
            [(Step::Create, Outcome::Failed, Some("No CRNs available")), (Step::Finish, Outcome::Succeeded, None)]
        );
        assert_eq!((runs[0].ended - runs[0].began).num_seconds(), 40);
        assert!(runs[0].id < runs[1].id, "ids grow with time");
        assert_eq!(self::runs(&events), runs, "and are the same again");
    }

    #[test]
    fn rows_before_an_end_are_its_steps() {
        let events =
            [event(1, "in_progress", "instance", 0), event(2, "in_progress", "ssh", 50), event(3, "success", "", 90)];
        let runs = runs(&events);
        assert_eq!(runs.len(), 1);
        let steps: Vec<_> = runs[0].steps.iter().map(|(step, ..)| *step).collect();
        assert_eq!(steps, [Step::Create, Step::Reach, Step::Finish]);
        let unfinished = self::runs(&events[..2]);
        assert_eq!((unfinished.len(), unfinished[0].outcome), (1, Outcome::Failed));
        assert!(self::runs(&[Event { at: None, ..event(1, "success", "", 0) }]).is_empty());
        let odd = Event { seconds: Some(i64::MAX), ..event(1, "failed", "", 0) };
        assert!((self::runs(&[odd])[0].began).timestamp() > 0);
    }

    #[test]
    fn errors_are_short_and_hold_no_secret() {
        let error = "ssh:\nLIBERTAI_API_KEY=sk-abc AGENT_SECRET=xyz Authorization: Bearer tok https://u:p@h/ gAAAAxyz \
             {\"auth_token\": \"json1\", 'secret':'python1', \\\"api_key\\\": \\\"twice1\\\"} end\0";
        let words = words(error);
        for secret in ["sk-abc", "xyz", "tok ", "u:p", "json1", "python1", "twice1"] {
            assert!(!words.contains(secret), "{words}");
        }
        assert!(words.starts_with("ssh: …") && words.ends_with("end"), "{words}");
        assert_eq!(super::words(&"é ".repeat(999)).chars().count(), LONGEST + 1);
    }
}
