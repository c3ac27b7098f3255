//! `baal import`: people and agents of the Python system, from its SQLite databases.
//!
//! Invariants: what is taken is taken in one transaction, or not at all. The databases are only read. Agents keep their
//! numbers, so that their links stay good. What is known here is never changed: a second import of the same databases takes
//! nothing, whatever became of their people and agents here, and what was forgotten here stays forgotten (`installation
//! .imported_at`). Every instance that an agent had gets a row of `vms`, so that nothing is paid for that no row knows; every
//! other one is named in the report.
//!
//! Agents go on as they are: agents of the base protocol (`protocol = 1`) at the addresses that they had, known by
//! `imported_at`.

mod agents;
mod held;
mod history;
mod plan;
mod report;
mod secrets;
mod source;
mod sqlite;
mod write;

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use tracing::warn;

pub use self::report::{Known, Line, PaidFor, Report, Taken};
use self::source::Source;
use crate::app::App;
use crate::config::{CloudKind, Config};
use crate::wake::Queue;

/// How to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The Python system's database (its DB_PATH). Its bot has to be stopped.
    #[arg(long, value_name = "FILE")]
    pub baal_db: PathBuf,
    /// Its pool's database (its POOL_DB_PATH).
    #[arg(long, value_name = "FILE")]
    pub pool_db: Option<PathBuf>,
    /// Have the machines of its pool destroyed that no agent has: they are prepared for the other program, and paid for.
    #[arg(long, requires = "pool_db")]
    pub retire_pool: bool,
    /// Take over what there is although the key is lost that the secrets there are under: people connect their keys again, and
    /// each agent is repaired.
    #[arg(long)]
    pub key_is_lost: bool,
    /// Show what would be done, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Does it, and prints the report.
pub async fn run(config: &Config, options: Options) -> anyhow::Result<()> {
    let app = App::new(config.clone())?;
    let report = import(&app, &options).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Does it. Nothing is written if anything fails.
pub async fn import(app: &App, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    for path in std::iter::once(&options.baal_db).chain(&options.pool_db) {
        // Before this process has it open: its own locks are not seen, and would be lost.
        match held::by_another_process(path) {
            Ok(true) if options.dry_run => {
                report.notes.push(format!(
                    "{} is open in another process: stop the Python bot before the import.",
                    path.display()
                ));
            }
            Ok(true) => bail!(
                "{} is open in another process: stop the Python bot first. Telegram gives a bot's updates to one program only, and \
                 what the other one still writes would be lost",
                path.display()
            ),
            Ok(false) => {}
            // What is wrong with it is told when it is read.
            Err(error) => warn!(path = %path.display(), %error, "it cannot be seen whether a database is in use"),
        }
    }
    let source = read(options).await?;
    for (table, count) in &source.unreadable {
        report.leave(
            format!("table {table}"),
            format!("{count} rows could not be read: their numbers or dates are none"),
        );
    }
    if !options.dry_run {
        app.migrate().await.context("the schema could not be brought up to date")?;
    }
    let listed = listed(app, options, &mut report).await?;
    let write = write::Import { app, source: &source, listed: listed.as_ref(), options };
    write.run(&mut report).await.context("nothing was taken over")?;
    if !options.dry_run {
        app.wake.wake(Queue::Jobs);
    }
    conclude(app, &mut report);
    Ok(report)
}

async fn read(options: &Options) -> anyhow::Result<Source> {
    let (database, pool) = (options.baal_db.clone(), options.pool_db.clone());
    tokio::task::spawn_blocking(move || source::read(&database, pool.as_deref())).await?
}

/// Instances of this account that exist, where that can be known.
async fn listed(app: &App, options: &Options, report: &mut Report) -> anyhow::Result<Option<HashSet<String>>> {
    let Some(aleph) = &app.aleph else {
        if options.retire_pool {
            bail!("--retire-pool needs CLOUD=aleph, and ALEPH_PRIVATE_KEY of the account that pays for the pool");
        }
        return Ok(None);
    };
    match aleph.list().await {
        Ok(listed) => Ok(Some(listed.into_iter().map(|one| one.item_hash).collect())),
        Err(error) if options.retire_pool => Err(error)
            .context("what is to be destroyed has to be this account's, which cannot be seen now; try again later"),
        Err(error) => {
            report.notes.push(format!("The cloud could not be asked which instances exist: {error}."));
            Ok(None)
        }
    }
}

/// What follows for the operator.
fn conclude(app: &App, report: &mut Report) {
    let taken = &report.taken;
    let mut notes = Vec::new();
    if taken.machines > 0 && app.config.cloud != CloudKind::Aleph {
        notes.push(format!(
            "CLOUD is {}: the agents that were taken over answer, but their machines, which are on Aleph Cloud, can be neither \
             repaired nor removed until CLOUD=aleph is set, with ALEPH_PRIVATE_KEY of the account that pays for them.",
            app.config.cloud.as_str()
        ));
    }
    if report.still_paid_for.iter().any(|one| !one.retired && one.exists != Some(false)) {
        notes.push(
            "Instances that no agent has are not touched. Those of the pool: --retire-pool. Others are forgotten with Aleph's own \
             client: `aleph instance delete HASH`."
                .into(),
        );
    }
    if !report.dry_run && taken.agents_running > 0 {
        notes.push(
            "Agents answer from now on. /update turns each into one of this program's, and keeps what it remembers."
                .into(),
        );
    }
    report.notes.extend(notes);
}
