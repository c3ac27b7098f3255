//! The two sides compared: what exists in the cloud, and what the database knows. **Nothing is paid for that no row knows**,
//! even if a row was lost; and nothing is destroyed because one server gave a wrong answer.
//!
//! An instance that nobody knows is made known first: its row is opened again, or it gets one, and a `retire` job removes it
//! like any other. So a kill in the middle loses nothing.

pub mod cli;
mod compare;
mod report;
mod rows;

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

use self::compare::{Findings, Missing, Stray, Sweep, compare};
pub use self::report::{MissingLine, OtherLine, Outcome, Report, StrayLine, StuckLine};
pub use self::rows::{installation, last_report, out_of_reach};
use super::aleph::{Aleph, AlephError, Listed, Standing};
use super::store;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::app::App;
use crate::backup::held::{self, Unfinished};
use crate::database;
use crate::replica::Replica;
use crate::wake::Queue;

const LEASE: &str = "reconcile";

/// Why there was no sweep. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Not all core channel nodes answered, or something like it.
    #[error(transparent)]
    Aleph(#[from] AlephError),
    /// Postgres.
    #[error("the database does not answer: {0}")]
    Database(#[from] sqlx::Error),
}

/// Compares every RECONCILE_INTERVAL, on one replica at a time, until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    loop {
        // At first a pause: replicas that are started again and again must not sweep more often.
        tokio::select! {
            () = stop.cancelled() => return,
            () = replica.lost().cancelled() => return,
            () = tokio::time::sleep(app.config.reconcile_interval.mul_f64(rand::random_range(0.9..1.1))) => {}
        }
        if !replica.may_send() || !replica.holds(&app.db, LEASE).await.unwrap_or(false) {
            continue;
        }
        let swept = tokio::select! {
            () = stop.cancelled() => return,
            () = replica.lost().cancelled() => return,
            swept = sweep(app, false) => swept,
        };
        match swept {
            Ok(report) if report.is_clean() && !report.compared => {}
            Ok(report) if report.is_clean() => {
                info!(matched = report.matched, others = report.other_count, "cloud and database agree");
            }
            Ok(report) => warn!(
                strays = report.strays.len(),
                missing = report.missing.len(),
                abandoned = report.abandoned.len(),
                stuck = report.stuck.len(),
                report.only = report.report_only,
                "cloud and database differ; `baal reconcile --dry-run` shows how"
            ),
            Err(error) => warn!(%error, "cloud and database could not be compared; nothing is changed"),
        }
    }
}

/// From now on the reconciler only reports, until [`confirm`]; written down as this caller's doing.
pub async fn only_report(app: &App, caller: &Caller) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    let before = rows::lock_installation(&mut tx).await?;
    rows::set_report_only(&mut tx, true).await?;
    let change = Change {
        action: "reconcile.report_only",
        kind: "installation",
        id: rows::installation(&mut tx).await?.0.to_string(),
        user_id: None,
        before: json!({"report_only": before}),
        after: json!({"report_only": true}),
    };
    audit::record(&mut tx, caller, change).await?;
    tx.commit().await
}

/// What goes on once an installation is held no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InstallationReleased)]
pub struct Released {
    /// What waited.
    pub unfinished: Unfinished,
    /// Messages that nobody asked for and that may have been sent after the backup: they are not sent again.
    pub not_sent_again: u64,
}

/// From now on the reconciler acts, and an installation that was [held] works again; written down as this caller's doing. What
/// goes on, where it was held.
pub async fn confirm(app: &App, caller: &Caller) -> sqlx::Result<Option<Released>> {
    let mut tx = database::begin(&app.db).await?;
    let before = rows::lock_installation(&mut tx).await?;
    rows::set_report_only(&mut tx, false).await?;
    let was = held::state(&mut tx).await?;
    let released = match was {
        Some(_) => {
            let unfinished = held::unfinished(&mut tx).await?;
            Some(Released { unfinished, not_sent_again: held::release(&mut tx).await? })
        }
        None => None,
    };
    let change = Change {
        action: "reconcile.confirm",
        kind: "installation",
        id: rows::installation(&mut tx).await?.0.to_string(),
        user_id: None,
        before: json!({"report_only": before, "held": was}),
        after: json!({"report_only": false, "released": released}),
    };
    audit::record(&mut tx, caller, change).await?;
    tx.commit().await?;
    Ok(released)
}

/// One comparison, and what follows from it. A dry run writes nothing at all; an installation that only reports remembers what
/// it saw.
pub async fn sweep(app: &App, dry_run: bool) -> Result<Report, ReconcileError> {
    let mut report = Report { dry_run, ..Report::default() };
    let mut findings = Findings::default();
    // Rows are read after the list: what the list has was written down before it was asked for.
    let asked_at = sqlx::query_scalar("select now()").fetch_one(&app.db).await?;
    let listed = match &app.aleph {
        Some(aleph) => Some(aleph.list().await?),
        None => None,
    };
    let mut tx = database::begin(&app.db).await?;
    let (installation, _) = rows::installation(&mut tx).await?;
    report.report_only = rows::lock_installation(&mut tx).await?;
    report.installation = installation;
    report.at = sqlx::query_scalar("select now()").fetch_one(&mut *tx).await?;
    if let Some(listed) = &listed {
        report.compared = true;
        let known = rows::known(&mut tx, listed).await?;
        let strays = rows::strays(&mut tx).await?;
        let grace = app.config.reconcile_grace;
        // One by hand and one by the clock may be seconds apart: what was so in both was not so for long.
        let counts = rows::may_count(&mut tx, app.config.reconcile_interval / 2).await?;
        findings = compare(&Sweep {
            installation,
            listed,
            known: &known,
            strays: &strays,
            asked_at,
            now: report.at,
            grace,
            counts,
        });
        report.matched = findings.matched;
        report.set_others(findings.others.iter().map(other_line));
        if !dry_run {
            rows::remember(&mut tx, &findings).await?;
            if counts {
                rows::set_counted(&mut tx).await?;
            }
        }
    }
    report.abandoned = rows::abandoned(&mut tx).await?;
    report.stuck = rows::out_of_reach(&mut tx, app.config.cloud).await?;
    let act = !dry_run && !report.report_only;
    if act {
        for vm in &report.abandoned {
            warn!(vm.id = %vm, "a machine that nobody has is removed");
            store::retire(&mut tx, *vm).await?;
        }
    }
    tx.commit().await?;

    for missing in &findings.missing {
        let outcome = judge_missing(app, missing, act).await?;
        report.missing.push(missing_line(missing, outcome));
    }
    for stray in &findings.strays {
        let outcome = match &app.aleph {
            Some(aleph) if stray.due => remove(app, aleph, stray, act).await?,
            _ => Outcome::Waiting,
        };
        report.strays.push(stray_line(stray, outcome));
    }
    if !dry_run {
        rows::save_report(&mut *app.db.acquire().await?, &report).await?;
    }
    app.wake.wake(Queue::Jobs);
    Ok(report)
}

/// What becomes of a row whose instance is not listed. A machine of the pool is given up; an agent's is its owner's, who hears
/// of it because the agent does not answer.
async fn judge_missing(app: &App, missing: &Missing, act: bool) -> sqlx::Result<Outcome> {
    if !missing.lost {
        return Ok(Outcome::Waiting);
    }
    if missing.agent_id.is_some() {
        return Ok(Outcome::OwnersChoice);
    }
    if !act {
        return Ok(Outcome::WouldRemove);
    }
    let mut tx = database::begin(&app.db).await?;
    if rows::lock_installation(&mut tx).await? || !rows::lock_unused(&mut tx, missing.id).await? {
        return Ok(Outcome::Waiting);
    }
    store::retire(&mut tx, missing.id).await?;
    tx.commit().await?;
    warn!(vm.id = %missing.id, instance = missing.item_hash, "a machine of the pool that the cloud does not know any more is given up");
    Ok(Outcome::Removing)
}

/// Has a stray instance removed, if every core channel node is asked once more and none denies that it exists.
async fn remove(app: &App, aleph: &Aleph, stray: &Stray, act: bool) -> sqlx::Result<Outcome> {
    let listed = &stray.listed;
    match aleph.standing_everywhere(&listed.item_hash).await {
        Ok(standings) if standings.iter().all(Standing::is_over) => return Ok(Outcome::Over),
        Ok(standings) if !standings.iter().any(exists) => {
            return Ok(Outcome::Unsure("the core channel nodes do not know it any more".into()));
        }
        Ok(_) => {}
        Err(error) => return Ok(Outcome::Unsure(error.to_string())),
    }
    if !act {
        return Ok(Outcome::WouldRemove);
    }
    let crn = match &listed.crn_hash {
        Some(hash) => match aleph.node(hash).await {
            Ok(crn) => crn,
            Err(error) => return Ok(Outcome::Unsure(error.to_string())),
        },
        None => None,
    };
    let mut tx = database::begin(&app.db).await?;
    let Some(vm) = adopt(&mut tx, listed, crn).await? else { return Ok(Outcome::Waiting) };
    tx.commit().await?;
    warn!(vm.id = %vm, instance = listed.item_hash, made_at = %listed.time, "an instance of ours that no row knew is removed");
    Ok(Outcome::Removing)
}

/// Makes the instance known and has it removed, unless the installation only reports by now or a row knows it.
async fn adopt(
    conn: &mut PgConnection,
    listed: &Listed,
    crn: Option<super::aleph::Crn>,
) -> sqlx::Result<Option<uuid::Uuid>> {
    if rows::lock_installation(conn).await? {
        return Ok(None);
    }
    let Some(vm) = rows::adopt(conn, listed, crn).await? else { return Ok(None) };
    store::retire(conn, vm).await?;
    Ok(Some(vm))
}

/// Whether something is owed for it.
fn exists(standing: &Standing) -> bool {
    matches!(standing, Standing::Pending | Standing::Processed | Standing::Removing)
}

fn other_line(other: &Listed) -> OtherLine {
    OtherLine { item_hash: other.item_hash.clone(), installation: other.installation, made_at: other.time }
}

fn stray_line(stray: &Stray, outcome: Outcome) -> StrayLine {
    StrayLine {
        item_hash: stray.listed.item_hash.clone(),
        crn_hash: stray.listed.crn_hash.clone(),
        made_at: stray.listed.time,
        first_seen_at: stray.first_seen_at,
        sweeps: stray.sweeps,
        outcome,
    }
}

fn missing_line(missing: &Missing, outcome: Outcome) -> MissingLine {
    MissingLine {
        vm: missing.id,
        item_hash: missing.item_hash.clone(),
        agent: missing.agent_id,
        since: missing.since,
        sweeps: missing.sweeps,
        outcome,
    }
}
