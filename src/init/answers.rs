//! What is known so far: what the file says, and what was answered. Nothing is written until the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::env_file::{Change, EnvFile};
use super::making;
use crate::config::{Config, ConfigError, Need, VARIABLES, Variable};
use crate::private_file;
use crate::vault::Vault;

/// Where far sides are: also taken from the process' environment, which `.env` does not get to hold.
const FAR_SIDES: [&str; 6] = [
    "TELEGRAM_API_URL",
    "LIBERTAI_API_BASE_URL",
    "ALEPH_API_URL",
    "ALEPH_CRN_LIST_URL",
    "ALEPH_GATEWAY_URL",
    "ALEPH_GATEWAY_DOMAIN",
];

/// Variables that only docker-compose.yml reads, as far as they are asked for here.
const OF_COMPOSE: [(&str, &[&str]); 3] = [
    ("COMPOSE_PROFILES", &["What `docker compose up` starts: `webhook` or `polling`."]),
    ("ADMIN_DOMAIN", &["The domain under which /api and /docs are published; they are not without it."]),
    ("HTTPS_PORT", &["The port of PUBLIC_URL."]),
];

/// The state of the interview.
pub struct Answers {
    /// The directory of the file, where `secrets/` is beside it.
    directory: PathBuf,
    file: EnvFile,
    present: BTreeMap<String, String>,
    /// In the order of the answers; none where a variable is to be a comment.
    changes: Vec<(String, Option<SecretString>)>,
    /// New files below the directory, readable for their owner only.
    new_files: Vec<(&'static str, SecretString)>,
}

impl Answers {
    /// Nothing is answered yet; `text` is what the file at `path` has in it.
    pub fn new(path: &Path, text: &str) -> anyhow::Result<Self> {
        let file = EnvFile::parse(text).with_context(|| format!("{} cannot be used as it is", path.display()))?;
        let present = file.values()?;
        let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")).to_owned();
        Ok(Self { directory, file, present, changes: vec![], new_files: vec![] })
    }

    /// The directory of the file.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a variable is, by the last answer or the file: directly, or from the file that NAME_FILE names. None where empty.
    pub fn get(&self, name: &str) -> Option<String> {
        let direct = |name: &str| {
            let changed = self.changes.iter().rev().find(|(changed, _)| changed == name);
            let value = match changed {
                Some((_, value)) => value.as_ref().map(|value| value.expose_secret().to_owned()),
                None => self.present.get(name).cloned(),
            };
            value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        direct(name).or_else(|| {
            // silent-ok: a file that is not there, or on another host, has no value to go on from
            let text = std::fs::read_to_string(self.directory.join(direct(&format!("{name}_FILE"))?)).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        })
    }

    /// An answer. Where it is what is known already, nothing changes.
    pub fn set(&mut self, name: &str, value: &str) {
        if self.get(name).as_deref() == Some(value) {
            return;
        }
        self.changes.push((name.to_owned(), Some(value.into())));
        // Both would be refused.
        self.unset_one(&format!("{name}_FILE"));
    }

    /// There is to be none.
    pub fn unset(&mut self, name: &str) {
        self.unset_one(name);
        self.unset_one(&format!("{name}_FILE"));
    }

    fn unset_one(&mut self, name: &str) {
        if self.present.contains_key(name) || self.changes.iter().any(|(changed, _)| changed == name) {
            self.changes.push((name.to_owned(), None));
        }
    }

    /// A value that is made where there is none.
    pub fn set_if_missing(
        &mut self,
        name: &str,
        make: impl FnOnce() -> anyhow::Result<SecretString>,
    ) -> anyhow::Result<()> {
        if self.get(name).is_none() {
            self.set(name, make()?.expose_secret());
        }
        Ok(())
    }

    /// Keys and passwords that nobody has to know, where there are none.
    pub fn make_keys(&mut self) -> anyhow::Result<()> {
        self.set_if_missing("BOT_ENCRYPTION_KEY", || Ok(Vault::generate_key()))?;
        for name in ["TELEGRAM_WEBHOOK_SECRET", "ADMIN_TOKEN"] {
            self.set_if_missing(name, || Ok(making::word()))?;
        }
        self.set_if_missing("BACKUP_PASSPHRASE", making::passphrase)
    }

    /// A file that is written with the answers, at a path below the directory.
    pub fn add_file(&mut self, path: &'static str, text: SecretString) {
        self.new_files.push((path, text));
    }

    /// Variables of the file that are set to what cannot be: their names, and why.
    pub fn problems(&self) -> Vec<(&'static Variable, String)> {
        let problem = |variable: &'static Variable| {
            let why = Config::check(variable.name, &self.get(variable.name)?).err()?;
            Some((variable, why))
        };
        VARIABLES.iter().filter_map(problem).collect()
    }

    /// The configuration as it would be, with `more` answers, and something in place of what is not answered yet: for checks.
    pub fn draft(&self, more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut values = BTreeMap::from(
            [
                ("TELEGRAM_BOT_TOKEN", "1:not-answered-yet"),
                ("LIBERTAI_API_KEY", "not-answered-yet"),
                ("DATABASE_URL", "postgres://localhost/baal"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        values.insert("BOT_ENCRYPTION_KEY".into(), Vault::generate_key().expose_secret().to_owned());
        for variable in VARIABLES {
            values.extend(self.get(variable.name).map(|value| (variable.name.to_owned(), value)));
        }
        let fixed = [("TELEGRAM_MODE", "polling"), ("CLOUD", "local"), ("AGENT_TLS", "acme")];
        values.extend(more.iter().chain(&fixed).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // silent-ok: a variable that is no text names no far side
        values.extend(FAR_SIDES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
        Config::from_values(values, vec![])
    }

    /// The file's text with the answers, and whether it differs; the configuration is as it will be loaded.
    pub fn finished(&self) -> anyhow::Result<(String, bool)> {
        let doc = |name: &str| -> Vec<&'static str> {
            let ours = VARIABLES.iter().find(|variable| variable.name == name);
            let compose = OF_COMPOSE.iter().find(|(compose, _)| *compose == name);
            ours.map(|variable| variable.doc).or(compose.map(|(_, doc)| *doc)).unwrap_or_default().to_vec()
        };
        let mut last: Vec<(&str, Option<&str>, Vec<&str>)> = vec![];
        for (name, value) in &self.changes {
            last.retain(|(earlier, ..)| earlier != name);
            last.push((name, value.as_ref().map(|value| value.expose_secret()), doc(name)));
        }
        // As the documentation has them; what only Compose reads comes first.
        last.sort_by_key(|(name, ..)| {
            VARIABLES.iter().position(|variable| variable.name == *name).map_or(0, |at| at + 1)
        });
        let changes: Vec<Change<'_>> =
            last.iter().map(|(name, value, doc)| Change { name, value: *value, doc }).collect();
        let new = self.file.with(&changes)?;
        Config::from_values(new.values()?, vec![])
            .map(drop)
            .or_else(|error| {
                // A file that is elsewhere, such as in a container, is not looked for here.
                let elsewhere =
                    |problem: &String| problem.split(' ').next().is_some_and(|name| name.ends_with("_FILE:"));
                let problems: Vec<String> = error.problems.into_iter().filter(|problem| !elsewhere(problem)).collect();
                if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
            })
            .context("with these answers Baal would not start; nothing was written")?;
        let text = if self.file.text().is_empty() { format!("{HEAD}{}", new.text()) } else { new.text() };
        let differs = text != self.file.text();
        Ok((text, differs))
    }

    /// The files that are written before the other one names them.
    pub fn write_files(&self) -> anyhow::Result<()> {
        for (path, text) in &self.new_files {
            let path = self.directory.join(path);
            let written = private_file::write(&path, text.expose_secret().as_bytes());
            written.with_context(|| format!("{} could not be written", path.display()))?;
        }
        Ok(())
    }
}

const HEAD: &str = "# Configuration of Baal, written by `baal init`, which can be run again. All variables are explained in .env.example.\n\
                    # The keys in here are secret: keep a copy of BOT_ENCRYPTION_KEY and BACKUP_PASSPHRASE elsewhere.\n\n";

/// A variable's default, where it has one.
pub fn default_of(variable: &Variable) -> Option<&'static str> {
    match variable.need {
        Need::Default(default) => Some(default),
        Need::Required | Need::Optional => None,
    }
}
