//! `baal reconcile`.

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};

use super::{Released, confirm, only_report, sweep};
use crate::admin::Caller;
use crate::app::App;
use crate::backup::held;

/// How to reconcile.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Show what would be done, and change nothing.
    #[arg(long, conflicts_with_all = ["confirm", "report_only"])]
    dry_run: bool,
    /// Act again, after the installation only reported: what its reports say that it would remove, it removes. One that was
    /// restored from a backup goes on with what was unfinished in it.
    #[arg(long, conflicts_with = "report_only")]
    confirm: bool,
    /// From now on only report, until `--confirm`: before anything is started on a database that was put back by other means than
    /// `baal restore`. Instances made after that belong to agents, though no row knows them.
    #[arg(long)]
    report_only: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// One sweep, and its report on standard output.
pub async fn run(app: &App, options: Options) -> anyhow::Result<()> {
    // On standard error, for it holds even if the comparison fails, and the report may be read by a machine.
    let caller = Caller::command_line();
    if options.confirm {
        let released = confirm(app, &caller).await.context("the database does not answer")?;
        eprintln!("From now on this installation acts on what it finds.");
        if let Some(Released { unfinished, not_sent_again }) = released {
            eprint!("It is held no longer. Within seconds its servers go on with what was unfinished:\n{unfinished}");
            eprintln!(
                "Messages that nobody asked for and that may have been sent before, which are not sent again: {not_sent_again}"
            );
        }
    } else if options.report_only {
        only_report(app, &caller).await.context("the database does not answer")?;
        eprintln!("From now on this installation only reports, until `baal reconcile --confirm`.");
    }
    let mut conn = app.db.acquire().await.context("the database does not answer")?;
    if let Some(held) = held::state(&mut conn).await? {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let of = held.restored_from.map_or("an unknown time".into(), time);
        eprintln!("This installation was restored from a backup of {of} and is held since {}.", time(held.since));
        eprint!(
            "With `baal reconcile --confirm` it goes on with what is unfinished:\n{}",
            held::unfinished(&mut conn).await?
        );
    }
    drop(conn);
    let report = sweep(app, options.dry_run).await.context("there was no comparison, and nothing was removed")?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
