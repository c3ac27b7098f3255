//! `baal restore`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail, ensure};
use chrono::SecondsFormat;
use tracing::warn;

use super::file::FileError;
use super::keys::Keys;
use super::load::{Reading, prepare, refuse_if_newer};
use super::manifest::Manifest;
use super::{RestoreOptions, connect, passphrase, schema};
use crate::config::Config;
use crate::database::{self, MIGRATIONS};

/// Fills an empty database, or only looks.
pub async fn restore(config: &Config, options: RestoreOptions) -> anyhow::Result<()> {
    let file = Some(options.file.as_path()).filter(|path| path.as_os_str() != "-");
    ensure!(file.is_some() || !io::stdin().is_terminal(), "standard input is a terminal: lead the backup into it");
    // Opened before the passphrase is asked for: it may be misspelt.
    let input = input(file)?;
    let passphrase = passphrase::known(config)?;
    let opened = Reading::open(input, &passphrase).await;
    let mut reading = opened.map_err(|error| match error.downcast_ref() {
        // It was not asked for: who types it may have forgotten that there is one.
        Some(FileError::WrongPassphrase) if config.backup_passphrase.is_some() => {
            anyhow!("{error}: it was taken from BACKUP_PASSPHRASE. Set that to the backup's, or unset it to be asked")
        }
        _ => error,
    })?;
    eprintln!("{}", described(&reading.manifest));
    if options.check {
        settle_keys(config, &reading.manifest, options.keys_out.as_deref(), true)?;
        let counts = reading.check().await?;
        println!("The backup is whole: {} rows of {} tables.", counts.values().sum::<u64>(), counts.len());
        return Ok(());
    }
    refuse_if_newer(&reading.manifest)?;
    let begun = Instant::now();
    let conn = &mut connect(&database::session(config, "baal restore")?).await?;
    schema::refuse_if_used(conn).await?;
    settle_keys(config, &reading.manifest, options.keys_out.as_deref(), false)?;
    if file.is_some() {
        // What can be read twice is read to its end before anything is written.
        reading.check().await?;
        reading = Reading::open(self::input(file)?, &passphrase).await?;
    }
    prepare(conn, &reading.manifest).await?;
    let manifest = reading.manifest.clone();
    let counts = reading.load(conn).await?;
    for (table, rows) in &counts {
        eprintln!("  {table}: {rows}");
    }
    // From here on it is restored, and held; whoever is killed now leaves the rest to the next start.
    MIGRATIONS
        .run(&mut *conn)
        .await
        .context("it is restored; its schema could not be brought up to date: `baal migrate`")?;
    if let Err(error) = sqlx::query("analyze").execute(&mut *conn).await {
        warn!(%error, "Postgres' statistics could not be made; it makes them by itself in time");
    }
    println!("Restored in {:.1} s: {}.", begun.elapsed().as_secs_f64(), manifest.summary);
    println!(
        "This installation is held: it takes updates in, and works at nothing. Start `baal serve`, look at `baal reconcile`, see that \
         the installation of before does not run any more, and then `baal reconcile --confirm`."
    );
    Ok(())
}

fn input(file: Option<&Path>) -> anyhow::Result<Box<dyn Read + Send>> {
    Ok(match file {
        Some(path) => Box::new(File::open(path).with_context(|| format!("{} cannot be read", path.display()))?),
        None => Box::new(io::stdin()),
    })
}

fn described(manifest: &Manifest) -> String {
    let Manifest { program, schema, installation, summary, .. } = manifest;
    let made_at = manifest.made_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!(
        "A backup of {made_at}, by Baal {program} (migration {schema}), of the installation {installation}:\n{summary}."
    )
}

/// Compares the backup's keys with the configured ones, writes them out where that is wanted, and says what to do about those that
/// differ. An error where the data could not be opened afterwards.
fn settle_keys(config: &Config, manifest: &Manifest, out: Option<&Path>, only_looks: bool) -> anyhow::Result<()> {
    let keys = &manifest.keys;
    let differing = keys.differing(config);
    if let Some(directory) = out {
        for (variable, path) in Keys::write_out(&differing, directory)? {
            println!("{variable}={}", path.display());
        }
        println!(
            "{}",
            if differing.is_empty() {
                "The configured keys are the backup's."
            } else {
                "Configure these before you start a server."
            }
        );
        return Ok(());
    }
    if !keys.are_opened_by(&config.vault) && !only_looks {
        bail!(
            "the configured BOT_ENCRYPTION_KEY does not open what is in this backup, and nothing was written. With --keys-out DIR its \
             keys are written into a directory and it is restored; let BOT_ENCRYPTION_KEY_FILE name the one there"
        );
    }
    for key in &differing {
        eprintln!(
            "Note: the backup has another key than is configured ({}); --keys-out DIR writes it out.",
            key.variable
        );
    }
    Ok(())
}
