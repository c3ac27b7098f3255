//! `baal backup` and `baal restore`: everything that the database knows and the keys that open it, in one encrypted file.

mod dump;
mod file;
pub mod held;
mod keys;
mod load;
mod making;
mod manifest;
mod passphrase;
mod restoring;
mod schema;
mod verify;

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

pub use self::making::run;
pub use self::restoring::restore;
use crate::database;

/// Connects, or says in words for operators why that cannot be.
async fn connect(session: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    PgConnection::connect_with(session).await.map_err(|error| database::unusable(&error))
}

/// How to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The file to write, which must not be there yet; `-` is standard output. By itself
    /// `baal-YYYYMMDD-HHMMSS.baal-backup` in the working directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not try the backup by restoring it into a database made for that.
    #[arg(long)]
    no_verify: bool,
}

/// How to restore.
#[derive(Debug, Clone, clap::Args)]
pub struct RestoreOptions {
    /// The backup; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write those of the backup's keys into this directory that differ from the configured ones, and go on.
    #[arg(long, value_name = "DIR")]
    keys_out: Option<PathBuf>,
    /// Only look whether the backup is whole and what is in it; no database is touched.
    #[arg(long)]
    check: bool,
}
