//! `baal reconcile`.

use anyhow::Context as _;

use super::{set_report_only, sweep};
use crate::admin::Caller;
use crate::app::App;

/// How to reconcile.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Show what would be done, and change nothing.
    #[arg(long, conflicts_with_all = ["confirm", "report_only"])]
    dry_run: bool,
    /// Act again, after the installation only reported: what its reports say that it would remove, it removes.
    #[arg(long, conflicts_with = "report_only")]
    confirm: bool,
    /// From now on only report, until `--confirm`. To be used before anything is started on a database that was restored from
    /// a backup: instances made after the backup belong to agents, though no row knows them.
    #[arg(long)]
    report_only: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// One sweep, and its report on standard output.
pub async fn run(app: &App, options: Options) -> anyhow::Result<()> {
    if options.confirm || options.report_only {
        let caller = Caller::command_line();
        set_report_only(app, &caller, options.report_only).await.context("the database does not answer")?;
        // On standard error, for it holds even if the comparison fails, and the report may be read by a machine.
        eprintln!(
            "From now on this installation {}.",
            if options.report_only {
                "only reports, until `baal reconcile --confirm`"
            } else {
                "acts on what it finds"
            }
        );
    }
    let report = sweep(app, options.dry_run).await.context("there was no comparison, and nothing was removed")?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
