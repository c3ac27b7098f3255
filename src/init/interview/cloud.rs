//! Where agents run, and with which keys.

use std::path::Path;

use super::{Interview, Question, exposed, valid};
use crate::config::CloudKind;
use crate::init::checks::{self, Verdict};
use crate::init::making;
use crate::ssh::Key;

/// Below the directory of `.env`, where the containers find it under the same name.
const SSH_KEY: &str = "secrets/ssh_key";

impl Interview {
    pub(super) fn cloud(&mut self) -> anyhow::Result<()> {
        self.terminal.title("Where agents run", &["Each agent has a machine of its own."])?;
        // A container has no room for agents: they are in the demo's alone.
        let offered = if self.in_compose { 2 } else { 3 };
        let clouds = &[CloudKind::Aleph, CloudKind::Hosts, CloudKind::Local][..offered];
        let words = &[
            "on Aleph Cloud: machines are rented when they are needed, and paid with credits",
            "on machines that I bring: Debian or Ubuntu with SSH",
            "on this host, as processes: to try it out alone, as agents can see each other",
        ][..offered];
        let present: Option<CloudKind> = self.answers.get("CLOUD").and_then(|cloud| cloud.parse().ok());
        let default = clouds.iter().position(|cloud| Some(*cloud) == present).unwrap_or(0);
        let cloud = clouds[self.terminal.choose("Agents run", words, default)?];
        self.answers.set("CLOUD", cloud.as_str());
        match cloud {
            CloudKind::Aleph => {
                self.account()?;
                self.ssh_key()
            }
            CloudKind::Hosts => {
                self.ssh_key()?;
                let key = self.answers.get("ALEPH_SSH_PRIVKEY_PATH").unwrap_or_else(|| SSH_KEY.to_owned());
                let command = if self.in_compose { "docker compose run --rm tools host add" } else { "baal host add" };
                self.next.push(format!(
                    "Let the machines' root in by this key: what `ssh-keygen -y -f {key}` prints belongs into their \
                     /root/.ssh/authorized_keys. When Baal runs, add each: `{command} 192.0.2.7` (`--help` explains more)."
                ));
                Ok(())
            }
            CloudKind::Local => Ok(()),
        }
    }

    /// The account at Aleph Cloud.
    fn account(&mut self) -> anyhow::Result<()> {
        self.terminal.title(
            "The account at Aleph Cloud",
            &[
                "Machines are paid by an Ethereum account that has Aleph credits, bought on https://app.aleph.cloud.",
                "Its private key is stored here, so let it be an account that is used for nothing else.",
            ],
        )?;
        if self.answers.get("ALEPH_PRIVATE_KEY").is_none() {
            let ways =
                ["Make a new account: its address is shown, and gets credits later", "Use an account that I have"];
            if self.terminal.choose("Account", &ways, 0)? == 0 {
                return self.new_account();
            }
            self.terminal.say("Its private key: 64 hexadecimal digits, with or without 0x.")?;
        }
        self.ask(&Question {
            name: "ALEPH_PRIVATE_KEY",
            prompt: "Private key",
            default: None,
            is_secret: true,
            is_optional: false,
            read: &|typed| valid("ALEPH_PRIVATE_KEY")(typed.trim_start_matches("0x")),
            // Without credits it is the right one all the same.
            try_out: &|interview, key| match interview.account_of(key) {
                Ok((_, Verdict::Good(words) | Verdict::Doubt(words) | Verdict::Wrong(words))) => Verdict::Good(words),
                Err(why) => Verdict::Wrong(format!("This {why}.")),
            },
        })?;
        Ok(())
    }

    fn new_account(&mut self) -> anyhow::Result<()> {
        loop {
            let key = making::account_key();
            // The one in 2^128 that is no key.
            let Ok((address, _)) = self.account_of(exposed(&key)) else { continue };
            self.answers.set("ALEPH_PRIVATE_KEY", exposed(&key));
            self.terminal.good(&format!("A new account: {address}"))?;
            self.terminal.say(
                "Its key is written with the other answers. Whoever has it has the credits, so keep a copy of it.",
            )?;
            self.next.push(format!(
                "Send credits to {address} on https://app.aleph.cloud: agents can be made once it has those of a day."
            ));
            return Ok(());
        }
    }

    /// Its address and what it has, or what is wrong with its key.
    fn account_of(&self, key: &str) -> Result<(String, Verdict), String> {
        let config = self.answers.draft(&[("ALEPH_PRIVATE_KEY", key)]).map_err(|error| {
            // Its problems hold no values.
            format!("cannot be looked at: {}", error.problems.join("; "))
        })?;
        self.runtime.block_on(checks::account(&config))
    }

    /// The key with which machines are reached.
    fn ssh_key(&mut self) -> anyhow::Result<()> {
        self.terminal.title("The SSH key", &["Baal sets machines up over SSH, with a key that nobody else needs."])?;
        if let Some(path) = self.answers.get("ALEPH_SSH_PRIVKEY_PATH") {
            if self.can_be_read(&path)? && self.terminal.confirm(&format!("Keep the key in {path}?"), true)? {
                return Ok(());
            }
        } else if self.answers.directory().join(SSH_KEY).exists() && self.can_be_read(SSH_KEY)? {
            self.answers.set("ALEPH_SSH_PRIVKEY_PATH", SSH_KEY);
            return Ok(self.terminal.good(&format!("The key in {SSH_KEY} is used."))?);
        }
        let is_free = !self.answers.directory().join(SSH_KEY).exists();
        let make = format!("Make a new key, in {SSH_KEY}");
        let ways = [if is_free { make.as_str() } else { "" }, "Use a key file that I have"];
        let ways: Vec<&str> = ways.into_iter().filter(|way| !way.is_empty()).collect();
        if ways.len() > 1 && self.terminal.choose("Key", &ways, 0)? == 0 {
            self.answers.add_file(SSH_KEY, making::ssh_key()?);
            self.use_ssh_key(SSH_KEY);
            return Ok(self.terminal.good("A new ed25519 key.")?);
        }
        if self.in_compose {
            self.terminal.say("It must lie in secrets/ beside .env, which is what the containers see.")?;
        }
        loop {
            let path = self.terminal.text("Path of the private key", None)?;
            let is_seen = Path::new(&path).parent() == Some(Path::new("secrets"));
            if path.is_empty() || (self.in_compose && !is_seen) {
                self.terminal.wrong("Name a file such as secrets/my_key; copy it there first.")?;
            } else if self.can_be_read(&path)? {
                self.use_ssh_key(&path);
                return Ok(());
            }
        }
    }

    fn use_ssh_key(&mut self, path: &str) {
        self.answers.set("ALEPH_SSH_PRIVKEY_PATH", path);
        // That of another key, if any; it is made from the private one.
        self.answers.unset("ALEPH_SSH_PUBKEY");
    }

    fn can_be_read(&self, path: &str) -> anyhow::Result<bool> {
        let full = match (path.strip_prefix("~/"), std::env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.answers.directory().join(path),
        };
        match Key::load(&full) {
            Ok(_) => {
                self.terminal.good(&format!("{path} is a key that can be used."))?;
                Ok(true)
            }
            Err(error) => {
                self.terminal.wrong(&format!("{error}."))?;
                Ok(false)
            }
        }
    }
}
