//! `baal init`: questions, checks, and a `.env`.
//!
//! Everything is asked and made in memory; writing comes last and cannot be interrupted by a key. Files that `.env` names are
//! written before it, so that at any moment it names only what is there.

mod answers;
mod checks;
mod env_file;
mod interview;
mod making;
mod terminal;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use self::answers::Answers;
use self::interview::{Interview, Outcome};
use self::terminal::Quiet;
use crate::private_file;

/// How to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The file to write. What it has already is proposed, and what it has beyond the questions stays.
    #[arg(long, value_name = "FILE", default_value = ".env")]
    out: PathBuf,
}

/// Asks, checks, and writes the file; a copy of an earlier one stays beside it as `.bak`. An error where nothing was written.
pub async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        terminal::is_there(),
        "there is no terminal to ask at. Run it in one (`docker compose run --rm init`), or copy .env.example to .env, fill \
         it in, and add what `baal keygen` prints"
    );
    let path = &options.out;
    let before = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let answers = Answers::new(path, before.as_deref().unwrap_or_default())?;
    let Outcome { answers, is_agreed, next } = ask(answers).await?;
    anyhow::ensure!(is_agreed, "nothing was written");
    let (text, differs) = answers.finished()?;
    answers.write_files()?;
    if differs {
        if let Some(before) = &before {
            private_file::write(&backup_of(path), before.as_bytes())
                .context("the copy of the file could not be written")?;
        }
        private_file::write(path, text.as_bytes())
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    tell(path, before.is_some(), differs, &answers, &next);
    Ok(())
}

/// Holds the interview; a signal ends it with nothing written.
async fn ask(answers: Answers) -> anyhow::Result<Outcome> {
    // Before anything is asked: from here on Ctrl-C is ours.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let quiet = Quiet::begin().context("the terminal cannot be used")?;
    let (send, mut receive) = oneshot::channel();
    let runtime = Handle::current();
    // A thread of its own, and not the runtime's: nothing waits for one that waits for a key.
    std::thread::spawn(move || drop(send.send(Interview::hold(answers, runtime))));
    let held = tokio::select! {
        held = &mut receive => Some(held.context("the questions broke off")?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    drop(quiet);
    let is_interrupt = |error: &anyhow::Error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
    };
    match held {
        Some(Err(error)) if !is_interrupt(&error) => Err(error),
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(_)) | None => {
            eprintln!();
            anyhow::bail!("stopped; nothing was written")
        }
    }
}

fn backup_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".bak");
    name.into()
}

fn tell(path: &Path, was_there: bool, differs: bool, answers: &Answers, next: &[String]) {
    let shown = path.display();
    println!();
    match (differs, was_there) {
        (false, _) => println!("{shown} has all of this already."),
        (true, true) => println!("{shown} is written; what it was before is in {}.", backup_of(path).display()),
        (true, false) => println!("{shown} is written."),
    }
    let in_compose = answers.get("COMPOSE_PROFILES").is_some();
    let (start, doctor) = match (in_compose, was_there) {
        (true, false) => ("docker compose up -d --wait", "docker compose run --rm tools doctor"),
        // Compose does not see what has changed within the file.
        (true, true) => ("docker compose up -d --wait --force-recreate", "docker compose run --rm tools doctor"),
        (false, _) => ("baal serve", "baal doctor"),
    };
    println!("Next:");
    println!(
        "- Copy BOT_ENCRYPTION_KEY and BACKUP_PASSPHRASE from it to a safe place, apart from the database and its backups: \
         without them what is stored cannot be read."
    );
    next.iter().for_each(|step| println!("- {step}"));
    println!("- Start it: {start}");
    println!("- See whether all is well: {doctor}");
    if let Some(domain) = answers.get("ADMIN_DOMAIN") {
        let port =
            answers.get("HTTPS_PORT").filter(|port| port != "443").map_or(String::new(), |port| format!(":{port}"));
        println!("- The administrators' API is at https://{domain}{port}/docs, with ADMIN_TOKEN from {shown}.");
    }
}
