//! What an import took, mended and left, for people and for programs. No secret is ever in it.

use std::fmt;

use serde::Serialize;

/// Lines of one kind that people get to read; programs get all.
const LINES: usize = 50;

/// How many rows were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Rows of `users`, those of owners whom the Python system did not know among them.
    pub users: u64,
    /// People's own keys for LibertAI.
    pub keys: u64,
    /// Agents that run.
    pub agents_running: u64,
    /// Agents that `/repair` or deletion are for.
    pub agents_failed: u64,
    /// Numbers of deleted agents, kept so that nobody gets them again.
    pub agents_deleted: u64,
    /// Machines of agents.
    pub machines: u64,
    /// Machines of the pool that are being removed.
    pub machines_retired: u64,
    /// Days of somebody's messages.
    pub usage_days: u64,
    /// Runs of a deployment.
    pub deployments: u64,
}

impl Taken {
    /// Whether nothing was written.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What was known here before, and is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Known {
    /// People.
    pub users: u64,
    /// Agents.
    pub agents: u64,
    /// People who were taken over before and are not here any more: they were forgotten.
    pub users_gone: u64,
    /// Agents of whom the same is true.
    pub agents_gone: u64,
}

/// Something about one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `user 7`, `agent 12`, `instance abc…`.
    pub what: String,
    /// What was done about it, and why.
    pub why: String,
}

/// An instance that is not, or no longer, anybody's here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PaidFor {
    /// Its name at Aleph Cloud.
    pub item_hash: String,
    /// Where it comes from.
    pub whose: String,
    /// Whether the cloud has it; none where it could not be asked.
    pub exists: Option<bool>,
    /// Whether this import has it removed.
    pub retired: bool,
}

/// The whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was written; the rest is what would have been.
    pub dry_run: bool,
    /// What was written.
    pub taken: Taken,
    /// What was known.
    pub known: Known,
    /// Taken otherwise than it was stored.
    pub repaired: Vec<Line>,
    /// Not taken.
    pub left_out: Vec<Line>,
    /// Instances that nobody here has.
    pub still_paid_for: Vec<PaidFor>,
    /// What the operator should know or do.
    pub notes: Vec<String>,
}

impl Report {
    /// Notes that something was taken otherwise than it was stored.
    pub fn repair(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.repaired.push(Line { what: what.into(), why: why.into() });
    }

    /// Notes that something was not taken.
    pub fn leave(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(Line { what: what.into(), why: why.into() });
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, lines: &[Line]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title} ({}):", lines.len())?;
    for line in lines.iter().take(LINES) {
        writeln!(f, "  {}: {}", line.what, line.why)?;
    }
    more(f, lines.len())
}

fn more(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count > LINES { writeln!(f, "  … and {} more; --json shows all", count - LINES) } else { Ok(()) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (taken, known) = (&self.taken, &self.known);
        if self.dry_run {
            writeln!(f, "This is a dry run: nothing was written. What an import would do:")?;
        }
        if taken.is_nothing() {
            writeln!(f, "Nothing new: nothing is changed.")?;
        } else {
            writeln!(f, "Taken over:")?;
            for (count, what) in [
                (taken.users, "people"),
                (taken.keys, "keys of their own"),
                (taken.agents_running, "agents that run"),
                (taken.agents_failed, "agents that do not run: /repair or deletion is for their owners"),
                (taken.agents_deleted, "numbers of deleted agents, which nobody gets again"),
                (taken.machines, "machines of agents"),
                (taken.machines_retired, "machines of the pool, which are being removed"),
                (taken.usage_days, "counts of messages of a day"),
                (taken.deployments, "deployments in agents' history"),
            ] {
                if count > 0 {
                    writeln!(f, "  {count} {what}")?;
                }
            }
        }
        if known.users + known.agents > 0 {
            writeln!(f, "Known already, and left as they are: {} people, {} agents.", known.users, known.agents)?;
        }
        if known.users_gone + known.agents_gone > 0 {
            writeln!(
                f,
                "Taken over before and forgotten since, at their wish, and not taken again: {} people, {} agents.",
                known.users_gone, known.agents_gone
            )?;
        }
        list(f, "Repaired", &self.repaired)?;
        list(f, "Left out", &self.left_out)?;
        if !self.still_paid_for.is_empty() {
            writeln!(f, "\nInstances that no agent has ({}):", self.still_paid_for.len())?;
        }
        for one in self.still_paid_for.iter().take(LINES) {
            let state = match (one.retired, one.exists) {
                (true, _) => "being removed",
                (_, Some(true)) => "still paid for",
                (_, Some(false)) => "gone",
                (_, None) => "perhaps still paid for",
            };
            writeln!(f, "  {}  {}: {state}", one.item_hash, one.whose)?;
        }
        more(f, self.still_paid_for.len())?;
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_taken_mended_and_left() {
        let mut report = Report { dry_run: true, ..Report::default() };
        assert!(report.to_string().contains("Nothing new"), "{report}");
        report.taken.users = 3;
        report.known.users_gone = 1;
        for id in 0..60 {
            report.repair(format!("agent {id}"), "its name was too long");
        }
        report.leave("user 9", "its key was stored under another BOT_ENCRYPTION_KEY");
        report.still_paid_for.push(PaidFor {
            item_hash: "ab".repeat(32),
            whose: "warm in the pool".into(),
            exists: None,
            retired: false,
        });
        report.notes.push("Stop the Python bot.".into());
        let text = report.to_string();
        for part in
            ["dry run", "3 people", "forgotten since", "agent 0: its", "and 10 more", "user 9", "perhaps still", "Stop"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("agent 55"), "{text}");
    }
}
