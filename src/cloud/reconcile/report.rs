//! What a sweep found and did, for people and for machines.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Other people's instances that a report lists.
const OTHERS: usize = 100;

/// A sweep's report, as it is kept in `installation.report`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileReport)]
pub struct Report {
    /// When.
    pub at: DateTime<Utc>,
    /// Whose instances were looked after.
    pub installation: Uuid,
    /// Whether the installation only reports, until `baal reconcile --confirm`.
    pub report_only: bool,
    /// Whether this sweep was to change nothing, not even to remember what it saw.
    pub dry_run: bool,
    /// Whether instances were listed: they are not where CLOUD is not `aleph`.
    pub compared: bool,
    /// Instances that open rows know.
    pub matched: usize,
    /// Instances of ours that no open row knows.
    pub strays: Vec<StrayLine>,
    /// Open rows whose instance is not listed.
    pub missing: Vec<MissingLine>,
    /// Open rows of machines that nobody had and no job worked at.
    pub abandoned: Vec<Uuid>,
    /// Open rows of machines of a cloud that this process has no access to.
    #[serde(default)]
    pub stuck: Vec<StuckLine>,
    /// How many instances on this account and channel are not ours.
    pub other_count: usize,
    /// The first of these.
    pub others: Vec<OtherLine>,
}

/// An instance of ours that no open row knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileStrayLine)]
pub struct StrayLine {
    /// The instance.
    pub item_hash: String,
    /// The node that it is on.
    pub crn_hash: Option<String>,
    /// When its message was made.
    pub made_at: DateTime<Utc>,
    /// When it was first seen so.
    pub first_seen_at: DateTime<Utc>,
    /// Sweeps in a row in which it was.
    pub sweeps: i32,
    /// What came of it.
    pub outcome: Outcome,
}

/// An open row whose instance is not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileMissingLine)]
pub struct MissingLine {
    /// The row of `vms`.
    pub vm: Uuid,
    /// Its instance.
    pub item_hash: String,
    /// Whose it is.
    pub agent: Option<i64>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Sweeps in a row in which it was so.
    pub sweeps: i32,
    /// What came of it.
    pub outcome: Outcome,
}

/// An open row of a machine of a cloud that this process has no access to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileStuckLine)]
pub struct StuckLine {
    /// The row of `vms`.
    pub vm: Uuid,
    /// The word in CLOUD.
    pub cloud: String,
    /// Whose it is.
    pub agent: Option<i64>,
    /// Its instance, which is paid for.
    pub item_hash: Option<String>,
}

/// An instance that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileOtherLine)]
pub struct OtherLine {
    /// The instance.
    pub item_hash: String,
    /// The installation that says it made it.
    pub installation: Option<Uuid>,
    /// When its message was made.
    pub made_at: DateTime<Utc>,
}

/// What came of something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileOutcome)]
#[serde(rename_all = "snake_case", tag = "what", content = "why")]
pub enum Outcome {
    /// Nothing yet: it may still come right by itself.
    Waiting,
    /// A job removes it.
    Removing,
    /// It would be removed, had this sweep not only reported.
    WouldRemove,
    /// It is over already, by all nodes.
    Over,
    /// Its agent's owner has to decide.
    OwnersChoice,
    /// It could not be looked at closely enough to remove it.
    Unsure(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for further sweeps and the grace period"),
            Self::Removing => f.write_str("being removed"),
            Self::WouldRemove => f.write_str("would be removed"),
            Self::Over => f.write_str("is over already"),
            Self::OwnersChoice => f.write_str("lost; its owner may have it repaired or deleted"),
            Self::Unsure(why) => write!(f, "left alone, for {why}"),
        }
    }
}

impl Report {
    /// Lists instances that are not ours, and no more of them than anybody wants to read.
    pub fn set_others(&mut self, all: impl ExactSizeIterator<Item = OtherLine>) {
        self.other_count = all.len();
        self.others = all.take(OTHERS).collect();
    }

    /// Whether everything is as the rows say.
    pub fn is_clean(&self) -> bool {
        self.strays.is_empty() && self.missing.is_empty() && self.abandoned.is_empty() && self.stuck.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        writeln!(f, "{}: installation {}", time(self.at), self.installation)?;
        if self.dry_run {
            writeln!(f, "This is a dry run: nothing is changed.")?;
        }
        if self.report_only {
            writeln!(f, "This installation only reports, until `baal reconcile --confirm`.")?;
        }
        if self.compared {
            writeln!(f, "{} instances are as the database says.", self.matched)?;
        } else {
            writeln!(f, "Instances are not compared, as CLOUD is not aleph.")?;
        }
        if !self.strays.is_empty() {
            writeln!(f, "\nInstances of this installation that the database does not know ({}):", self.strays.len())?;
        }
        for stray in &self.strays {
            let (made, seen) = (time(stray.made_at), time(stray.first_seen_at));
            let StrayLine { item_hash, sweeps, outcome, .. } = stray;
            writeln!(f, "  {item_hash}  made {made}, seen since {seen}, in {sweeps} sweeps: {outcome}")?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "\nMachines that the cloud does not know ({}):", self.missing.len())?;
        }
        for missing in &self.missing {
            let whose = missing.agent.map_or("of the pool".into(), |agent| format!("of agent {agent}"));
            let MissingLine { vm, item_hash, since, sweeps, outcome, .. } = missing;
            writeln!(f, "  {vm} {whose}, instance {item_hash}, since {}, in {sweeps} sweeps: {outcome}", time(*since))?;
        }
        if !self.abandoned.is_empty() {
            let what = if self.dry_run || self.report_only { "would be removed" } else { "being removed" };
            writeln!(f, "\nMachines that nobody has ({}), {what}:", self.abandoned.len())?;
        }
        for vm in &self.abandoned {
            writeln!(f, "  {vm}")?;
        }
        if !self.stuck.is_empty() {
            writeln!(
                f,
                "\nMachines of another cloud ({}), which cannot be removed while CLOUD is what it is. Set CLOUD and its \
                 variables back, have their agents deleted, and change CLOUD once they are gone:",
                self.stuck.len()
            )?;
        }
        for stuck in &self.stuck {
            let whose = stuck.agent.map_or("of nobody".into(), |agent| format!("of agent {agent}"));
            let instance =
                stuck.item_hash.as_ref().map_or(String::new(), |hash| format!(", instance {hash}, paid for"));
            writeln!(f, "  {}  CLOUD={} {whose}{instance}", stuck.vm, stuck.cloud)?;
        }
        if self.other_count > 0 {
            writeln!(
                f,
                "\nInstances on the same account and channel that others made ({}), left alone:",
                self.other_count
            )?;
        }
        for other in &self.others {
            let whose = other.installation.map_or("no installation".into(), |id| format!("installation {id}"));
            writeln!(f, "  {}  {whose}, made {}", other.item_hash, time(other.made_at))?;
        }
        if self.other_count > self.others.len() {
            writeln!(f, "  … and {} more", self.other_count - self.others.len())?;
        }
        if self.is_clean() {
            writeln!(f, "Nothing is to be done.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_by_people_and_survives_its_storage() {
        let mut report = Report { compared: true, matched: 3, ..Report::default() };
        assert!(report.to_string().contains("Nothing is to be done."), "{report}");
        report.strays.push(StrayLine {
            item_hash: "ab".repeat(32),
            crn_hash: None,
            made_at: DateTime::UNIX_EPOCH,
            first_seen_at: DateTime::UNIX_EPOCH,
            sweeps: 2,
            outcome: Outcome::Unsure("a node does not answer".into()),
        });
        report.missing.push(MissingLine {
            vm: Uuid::nil(),
            item_hash: "cd".into(),
            agent: Some(12),
            since: DateTime::UNIX_EPOCH,
            sweeps: 2,
            outcome: Outcome::OwnersChoice,
        });
        report.stuck.push(StuckLine {
            vm: Uuid::nil(),
            cloud: "aleph".into(),
            agent: Some(5),
            item_hash: Some("aa".into()),
        });
        let other = OtherLine { item_hash: "ef".into(), installation: None, made_at: DateTime::UNIX_EPOCH };
        report.set_others(vec![other; 130].into_iter());
        let text = report.to_string();
        for part in [
            "CLOUD=aleph of agent 5, instance aa",
            "abab",
            "a node does not answer",
            "of agent 12",
            "no installation",
            "and 30 more",
            "made (130)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let stored = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&stored).expect("reads"), report);
    }
}
