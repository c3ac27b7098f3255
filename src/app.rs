//! What every part of the program shares.

use std::sync::Arc;

use sqlx::PgPool;
use sqlx::migrate::MigrateError;

use crate::agents::http::AgentsHttp;
use crate::cloud::aleph::Aleph;
use crate::config::{CloudKind, Config};
use crate::database;
use crate::install::Kit;
use crate::libertai::LibertAi;
use crate::ssh;
use crate::telegram::api::Api;
use crate::telegram::holds::Holds;
use crate::telegram::inbox::Handling;
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
    /// Who handles updates in this process.
    pub handling: Handling,
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
        let db = database::connect_lazily(&config)?;
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
            handling: Handling::default(),
            agents_http,
            libertai,
            bot_id,
            aleph,
            remote,
        })))
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        database::migrate(&self.config).await
    }
}
