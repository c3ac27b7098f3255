//! The keys without which a backup is of no use: they are in it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::{CloudKind, Config};
use crate::private_file;
use crate::vault::Vault;

/// Keys as they were configured. Not shown by `Debug`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keys {
    /// BOT_ENCRYPTION_KEY, which may be several.
    #[serde(serialize_with = "exposed")]
    pub encryption: SecretString,
    /// What ALEPH_SSH_PRIVKEY_PATH names, where agents run on machines.
    #[serde(serialize_with = "exposed_option")]
    pub ssh: Option<SecretString>,
    /// What AGENT_CA_FILE names.
    #[serde(serialize_with = "exposed_option")]
    pub ca: Option<SecretString>,
    /// What AGENT_CA_KEY_FILE names.
    #[serde(serialize_with = "exposed_option")]
    pub ca_key: Option<SecretString>,
}

// The one place where they are written out: into a file that is encrypted.
fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

fn exposed_option<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|secret| secret.expose_secret()).serialize(serializer)
}

impl Keys {
    /// Those that this configuration names. Errors name the variable.
    pub fn configured(config: &Config) -> anyhow::Result<Self> {
        let read = |variable: &str, path: Option<&PathBuf>| {
            let Some(path) = path else { return Ok(None) };
            let text = std::fs::read_to_string(path).with_context(|| {
                format!("{variable}: {} cannot be read, and belongs into the backup", path.display())
            })?;
            anyhow::Ok(Some(SecretString::from(text)))
        };
        Ok(Self {
            encryption: config.vault.keys().clone(),
            ssh: read("ALEPH_SSH_PRIVKEY_PATH", ssh_key(config))?,
            ca: read("AGENT_CA_FILE", config.agent_ca_file.as_ref())?,
            ca_key: read("AGENT_CA_KEY_FILE", config.agent_ca_key_file.as_ref())?,
        })
    }

    /// Whether this vault opens whatever was encrypted under any of these keys.
    pub fn are_opened_by(&self, vault: &Vault) -> bool {
        // A vault encrypts under its first key alone: one is made of each.
        self.encryption.expose_secret().split(',').all(|key| {
            let theirs = Vault::new(&key.to_owned().into());
            theirs.is_ok_and(|theirs| vault.decrypt(&theirs.encrypt(b"opens")).is_ok())
        })
    }

    /// Those that differ from what is configured.
    pub fn differing(&self, config: &Config) -> Vec<Differing<'_>> {
        let files = [
            ("ALEPH_SSH_PRIVKEY_PATH", "ssh-key", &self.ssh, ssh_key(config)),
            ("AGENT_CA_FILE", "agent-ca.pem", &self.ca, config.agent_ca_file.as_ref()),
            ("AGENT_CA_KEY_FILE", "agent-ca-key.pem", &self.ca_key, config.agent_ca_key_file.as_ref()),
        ];
        let mut differing = vec![];
        if !self.are_opened_by(&config.vault) {
            let (variable, name) = ("BOT_ENCRYPTION_KEY_FILE", "bot-encryption-key");
            differing.push(Differing { variable, name, key: &self.encryption });
        }
        for (variable, name, kept, configured) in files {
            // silent-ok: what is not there or cannot be read is not the same.
            let there = configured.and_then(|path| std::fs::read_to_string(path).ok());
            if let Some(key) = kept.as_ref().filter(|kept| there.as_deref() != Some(kept.expose_secret())) {
                differing.push(Differing { variable, name, key });
            }
        }
        differing
    }

    /// Writes them into this directory, for their owner alone; which files they are in. A file that is there and has other content
    /// is an error.
    pub fn write_out(differing: &[Differing<'_>], directory: &Path) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
        private_file::make_directory(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let write = |one: &Differing<'_>| {
            let path = directory.join(one.name);
            write_private(&path, one.key.expose_secret())?;
            Ok((one.variable, path))
        };
        differing.iter().map(write).collect()
    }
}

/// A key of the backup that is not configured.
#[derive(Debug)]
pub struct Differing<'a> {
    /// What is to name it.
    pub variable: &'static str,
    /// The file that it is written into.
    name: &'static str,
    key: &'a SecretString,
}

/// The key for machines, where agents run on any.
fn ssh_key(config: &Config) -> Option<&PathBuf> {
    (config.cloud != CloudKind::Local).then_some(&config.ssh_private_key)
}

fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    match private_file::create_new(path, content.as_bytes()) {
        Ok(()) => Ok(()),
        // silent-ok: what cannot be read is not the same, and is told to be in the way.
        Err(_) if std::fs::read_to_string(path).is_ok_and(|there| there == content) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} is there already and is something else: name another directory", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be written", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::{KEY, manifest};

    #[test]
    fn a_vault_opens_a_backup_only_with_all_of_its_keys() {
        let vault = |key: &str| Vault::new(&key.to_owned().into()).expect("a key");
        let other = Vault::generate_key();
        let mut keys = manifest().keys;
        assert!(keys.are_opened_by(&vault(KEY)));
        assert!(!keys.are_opened_by(&vault(other.expose_secret())));
        keys.encryption = format!("{KEY},{}", other.expose_secret()).into();
        assert!(!keys.are_opened_by(&vault(KEY)));
    }

    #[test]
    fn a_key_is_written_for_its_owner_and_never_over_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        write_private(&path, "one").expect("written");
        assert!(!private_file::is_shared(&path));
        write_private(&path, "one").expect("the same again");
        assert!(write_private(&path, "two").is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "one");
    }
}
