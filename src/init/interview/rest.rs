//! What has defaults that serve.

use super::{Interview, Question, valid};
use crate::config::{CloudKind, CreatePolicy, VARIABLES, Variable};
use crate::init::answers::default_of;
use crate::init::checks::Verdict;

/// Asked for on request, in this order.
const ON_REQUEST: [&str; 4] = ["MAX_VMS", "MAX_AGENTS_PER_USER", "FREE_TIER_DAILY_MESSAGES", "ACME_EMAIL"];

impl Interview {
    pub(super) fn operators(&mut self) -> anyhow::Result<()> {
        self.terminal.title(
            "Operators",
            &[
                "Who is told when something needs a person, and has /pool and /invite: their ids at Telegram, separated by commas.",
                "@userinfobot tells people theirs.",
            ],
        )?;
        self.ask(&Question {
            name: "OPERATOR_IDS",
            prompt: "Ids",
            default: None,
            is_secret: false,
            is_optional: true,
            read: &valid("OPERATOR_IDS"),
            try_out: &|_, ids| Verdict::Good(format!("{} of them.", ids.split(',').count())),
        })?;
        Ok(())
    }

    pub(super) fn rest(&mut self) -> anyhow::Result<()> {
        let value = |name| {
            self.answers.get(name).or(variable(name).and_then(default_of).map(str::to_owned)).unwrap_or_default()
        };
        self.terminal.title(
            "The rest",
            &[
                &format!(
                    "Who may create agents: {}. Machines at most: {}. Machines kept ready: {}.",
                    value("CREATE_POLICY"),
                    value("MAX_VMS"),
                    if value("POOL_ENABLED") == "true" { value("POOL_MIN_SIZE") } else { "none".into() },
                ),
                &format!(
                    "For each user: {} agents, and {} messages a day on your key.",
                    value("MAX_AGENTS_PER_USER"),
                    value("FREE_TIER_DAILY_MESSAGES")
                ),
            ],
        )?;
        if self.answers.draft(&[]).is_ok() && !self.terminal.confirm("Change any of it?", false)? {
            return Ok(());
        }
        loop {
            self.create_policy()?;
            for name in ON_REQUEST {
                self.explain(name)?;
                self.plain(name)?;
            }
            self.pool()?;
            match self.answers.draft(&[]) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    error.problems.iter().try_for_each(|problem| self.terminal.wrong(&format!("{problem}.")))?
                }
            }
        }
    }

    fn create_policy(&mut self) -> anyhow::Result<()> {
        const POLICIES: [CreatePolicy; 3] = [CreatePolicy::Open, CreatePolicy::Invite, CreatePolicy::Operators];
        let words = ["everybody", "whoever has a code that an operator made with /invite", "operators only"];
        let present: Option<CreatePolicy> = self.answers.get("CREATE_POLICY").and_then(|policy| policy.parse().ok());
        let default = POLICIES.iter().position(|policy| Some(*policy) == present).unwrap_or(0);
        let policy = POLICIES[self.terminal.choose("Who may create agents", &words, default)?];
        self.keep("CREATE_POLICY", policy.as_str());
        Ok(())
    }

    fn pool(&mut self) -> anyhow::Result<()> {
        if self.answers.get("CLOUD").as_deref() == Some(CloudKind::Local.as_str()) {
            return Ok(());
        }
        self.explain("POOL_ENABLED")?;
        let present = self.answers.get("POOL_ENABLED").as_deref() == Some("true");
        let is_wanted = self.terminal.confirm("Keep machines ready?", present)?;
        self.keep("POOL_ENABLED", if is_wanted { "true" } else { "false" });
        if is_wanted {
            for name in ["POOL_MIN_SIZE", "POOL_MAX_SIZE"] {
                self.explain(name)?;
                self.plain(name)?;
            }
        }
        Ok(())
    }

    fn explain(&self, name: &str) -> anyhow::Result<()> {
        self.terminal.say("")?;
        variable(name)
            .map_or(&[][..], |variable| variable.doc)
            .iter()
            .try_for_each(|line| self.terminal.say(line.trim()))?;
        Ok(())
    }

    /// A variable by its own name, as the configuration knows it.
    pub(super) fn plain(&mut self, name: &'static str) -> anyhow::Result<()> {
        let Some(variable) = variable(name) else { return Ok(()) };
        let is_secret =
            ["TOKEN", "KEY", "SECRET", "PASSWORD", "PASSPHRASE", "DATABASE"].iter().any(|word| name.contains(word));
        let had = self.answers.get(name);
        let default = default_of(variable);
        let asked = self.ask(&Question {
            name,
            prompt: name,
            default,
            is_secret,
            is_optional: variable.need == crate::config::Need::Optional || is_secret,
            read: &valid(name),
            try_out: &|_, _| Verdict::Good("Good.".into()),
        })?;
        // A default need not be written down: it may become another one.
        if had.is_none() && asked.as_deref() == default {
            self.answers.unset(name);
        }
        Ok(())
    }

    /// The same for what was chosen.
    fn keep(&mut self, name: &'static str, value: &str) {
        if self.answers.get(name).is_some() || variable(name).and_then(default_of) != Some(value) {
            self.answers.set(name, value);
        }
    }
}

fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}
