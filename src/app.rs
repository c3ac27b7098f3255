//! What every part of the program shares.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::agents::http::AgentsHttp;
use crate::cloud::aleph::Aleph;
use crate::config::{CloudKind, Config};
use crate::install::Kit;
use crate::libertai::LibertAi;
use crate::ssh;
use crate::telegram::api::Api;
use crate::telegram::holds::Holds;
use crate::telegram::receipts::Receipts;
use crate::wake::Wake;

/// Handles of one process; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The parts behind [`App`].
pub struct Shared {
    /// The settings.
    pub config: Config,
    /// Postgres.
    pub db: PgPool,
    /// Wake-ups of the queues.
    pub wake: Wake,
    /// Telegram's Bot API.
    pub telegram: Api,
    /// Those who wait for the ids of sent messages.
    pub receipts: Receipts,
    /// What Telegram wants to be left alone.
    pub holds: Holds,
    /// HTTP to agents: no overall time-out, because answers stream for minutes.
    pub agents_http: AgentsHttp,
    /// LibertAI, to ask for balances.
    pub libertai: LibertAi,
    /// Telegram's id of this process' bot.
    pub bot_id: i64,
    /// Where CLOUD=aleph.
    pub aleph: Option<Aleph>,
    /// Where agents run on machines that are reached over SSH.
    pub remote: Option<Remote>,
}

/// What is needed to set up machines over SSH.
#[derive(Clone)]
pub struct Remote {
    /// With which they are reached.
    pub key: ssh::Key,
    /// What is put on them.
    pub kit: Kit,
}

impl std::ops::Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// Prepares the handles; connections to Postgres are opened when first needed.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let db = connect_lazily(&config)?;
        let telegram = Api::new(&config)?;
        let agents_http = AgentsHttp::new(&config)?;
        let libertai = LibertAi::new(&config.libertai_api_base_url)?;
        let bot_id = config.bot_id();
        let remote = match config.cloud {
            CloudKind::Local => None,
            CloudKind::Aleph | CloudKind::Hosts => {
                Some(Remote { key: ssh::Key::load(&config.ssh_private_key)?, kit: Kit::load(&config)? })
            }
        };
        let aleph = match (&remote, config.cloud) {
            (Some(remote), CloudKind::Aleph) => {
                let public = config.ssh_public_key.clone().unwrap_or_else(|| remote.key.public());
                Some(Aleph::new(&config, public)?)
            }
            _ => None,
        };
        Ok(Self(Arc::new(Shared {
            config,
            db,
            wake: Wake::default(),
            telegram,
            receipts: Receipts::default(),
            holds: Holds::default(),
            agents_http,
            libertai,
            bot_id,
            aleph,
            remote,
        })))
    }

    /// Brings the schema up to date, over a connection of its own: changing a large table, or waiting for another replica
    /// that does, may take longer than any other statement may.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        let options: PgConnectOptions = self.config.database_url.expose_secret().parse()?;
        let own =
            PgPoolOptions::new().max_connections(1).connect_with(options.application_name("baal migrate")).await?;
        let migrated = MIGRATIONS.run(&own).await;
        own.close().await;
        migrated
    }
}

/// A pool of connections to Postgres, opened when first needed.
pub fn connect_lazily(config: &Config) -> anyhow::Result<PgPool> {
    let options: PgConnectOptions = config.database_url.expose_secret().parse()?;
    // A process that was frozen in the middle of a transaction must not keep its locks from those that take its work over.
    let half = format!("{}ms", config.lease.as_millis() / 2);
    let options = options.application_name("baal").options([
        ("idle_in_transaction_session_timeout", half.as_str()),
        ("lock_timeout", "20s"),
        // Prepared statements keep plans that were made when a table was all but empty; the compiler costs more than
        // any of these statements.
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ]);
    Ok(PgPoolOptions::new()
        .max_connections(config.database_connections)
        // Asking "are you there?" before each use costs a quarter of the throughput; a dead connection shows as an
        // error, and every caller tries again.
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options))
}

/// The schema, as numbered SQL files embedded in the program.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
