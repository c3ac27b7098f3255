//! The passphrase: configured, or asked for.

use anyhow::{Context as _, ensure};
use dialoguer::Password;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::Config;

/// The shortest that a backup is made with, in characters.
const SHORTEST: usize = 12;

/// For a new backup. Asked for twice: one that was mistyped opens nothing.
pub fn new(config: &Config) -> anyhow::Result<SecretString> {
    let passphrase = match &config.backup_passphrase {
        Some(passphrase) => passphrase.clone(),
        None => asked(
            Password::new()
                .with_prompt("A passphrase for the backup, which you need to restore it")
                .with_confirmation("The same again", "They differ."),
        )?,
    };
    let length = passphrase.expose_secret().chars().count();
    ensure!(length >= SHORTEST, "the passphrase has {length} characters: take at least {SHORTEST}, such as six words");
    Ok(passphrase)
}

/// Of a backup that there is.
pub fn known(config: &Config) -> anyhow::Result<SecretString> {
    match &config.backup_passphrase {
        Some(passphrase) => Ok(passphrase.clone()),
        None => asked(Password::new().with_prompt("The backup's passphrase")),
    }
}

fn asked(prompt: Password<'_>) -> anyhow::Result<SecretString> {
    let answer = prompt.interact();
    Ok(answer
        .context("there is no terminal to ask for the passphrase: set BACKUP_PASSPHRASE or BACKUP_PASSPHRASE_FILE")?
        .into())
}
