//! The whole agent: database, turns and HTTP, from start to shutdown.

use crate::background::Heartbeat;
use crate::context::Contexts;
use crate::files::{self, Files};
use crate::http::{self, App};
use crate::lock::{DirectoryLock, LockError};
use crate::model::Client;
use crate::store::{Store, StoreError};
use crate::tools::{Rules, Services, Toolbox};
use crate::turns::Scheduler;
use axum::serve::ListenerExt;
use baal_protocol::AgentConfig;
use secrecy::SecretString;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Time for open requests and for the writer, each, after the shutdown began.
const GRACE: Duration = Duration::from_millis(800);
/// How long the events of a finished turn can be fetched again, in seconds: a week.
const EVENTS_KEPT_SECONDS: i64 = 7 * 24 * 3600;
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// Between two batches, so that turns are written in between.
const FORGET_PAUSE: Duration = Duration::from_millis(20);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory is taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client of the inference service.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
    /// The port.
    #[error("cannot listen on 127.0.0.1:{port}: {source}; choose another port or stop what uses it")]
    Listen {
        /// As configured.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// Nothing can be written any more.
    #[error("the writer of the database came to an end, which is a mistake in the agent itself; start the agent again")]
    WriterEnded,
    /// The workspace directory or the lock file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Runs until `shutdown`. Turns that are then at work go on at the next start.
///
/// # Errors
/// The agent could not start, or cannot write any more.
pub async fn serve(config: AgentConfig, shutdown: CancellationToken) -> Result<(), ServeError> {
    let mut lock = DirectoryLock::take(&config.db_path)?;
    if config.tools_socket.is_none() {
        std::fs::create_dir_all(&config.workspace_path)
            .map_err(|source| ServeError::Io { what: "the workspace directory cannot be made", source })?;
    }
    let (store, mut writer) = Store::open(&config.db_path).await?;
    let files = Files::beside(&config.db_path).map_err(|source| ServeError::Io {
        what: "the directories of files that come and go cannot be made",
        source,
    })?;
    let files = files.showing_images(config.model_sees_images);
    let model = Client::new(
        &config.libertai_api_base_url,
        &config.model,
        SecretString::from(config.libertai_api_key.clone()),
        Duration::from_secs(config.model_idle_timeout_seconds),
    )?;
    let rules = Rules::new(&config);
    let services = Arc::new(Services::new(&config, store.clone(), files.clone()));
    let contexts = Contexts::new(&config, store.clone(), model.clone(), services.workspaces.clone()).await?;
    let port = config.port;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|source| ServeError::Listen { port, source })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { port, source })?;

    let turns = Scheduler::new(
        store.clone(),
        model,
        contexts,
        config.max_tool_iterations,
        Toolbox::new(services.clone()),
        rules,
        shutdown.clone(),
    );
    turns.resume().await?;
    let app = App {
        store: store.clone(),
        turns: turns.clone(),
        walls: services.walls.clone(),
        files: files.clone(),
        launcher: services.launcher.clone(),
        agent_name: config.agent_name.into(),
        secret: Arc::new(SecretString::from(config.agent_secret)),
        shutdown: shutdown.clone(),
    };
    lock.tell(address).map_err(|source| ServeError::Io { what: "the lock file cannot be written", source })?;
    info!(%address, model = %config.model, "agent listening");

    let probe = services.walls.clone().probe(services.launcher.clone(), address.port(), shutdown.clone());
    tokio::spawn(probe);
    let indexing = tokio::spawn(store.clone().keep_index(shutdown.clone()));
    let forgetting = tokio::spawn(forget_old_events(store.clone(), shutdown.clone()));
    let heartbeat = Heartbeat {
        store: store.clone(),
        turns: turns.clone(),
        launcher: services.launcher.clone(),
        budget: services.budget.clone(),
        interval: Duration::from_secs(config.heartbeat_interval),
        owner_chat_id: config.owner_chat_id,
    };
    drop(services);
    let beating = tokio::spawn(heartbeat.run(shutdown.clone()));
    let sweeping = tokio::spawn(files::sweep_regularly(files, store.clone(), shutdown.clone()));
    // The end of a stream is a small packet after a small packet: without this it waits some 40 ms for the caller's
    // delayed acknowledgement of the one before.
    let listener = listener.tap_io(|connection| {
        if let Err(e) = connection.set_nodelay(true) {
            debug!(error = %e, "a connection will be slow");
        }
    });
    let stopping = shutdown.clone();
    let server = tokio::spawn(
        axum::serve(listener, http::router(app)).with_graceful_shutdown(stopping.cancelled_owned()).into_future(),
    );
    let writer_ended = tokio::select! {
        () = shutdown.cancelled() => false,
        _ = &mut writer => true,
    };
    shutdown.cancel();
    info!("shutting down; turns at work go on at the next start");
    let server_abort = server.abort_handle();
    if tokio::time::timeout(GRACE, server).await.is_err() {
        // A caller that neither reads nor closes; axum leaves such connections to the runtime, which ends now.
        server_abort.abort();
        warn!("some connections did not close in time");
    }
    forgetting.abort();
    indexing.abort();
    sweeping.abort();
    beating.abort();
    let put_away = async {
        turns.wait().await;
        drop(turns);
        store.close().await;
        // What has ended must not be asked again.
        if !writer_ended && let Err(e) = writer.await {
            warn!(error = %e, "the writer of the database ended badly");
        }
    };
    if tokio::time::timeout(GRACE, put_away).await.is_err() {
        warn!("the database was not closed in time; it is whole nevertheless");
    }
    drop(lock);
    if writer_ended { Err(ServeError::WriterEnded) } else { Ok(()) }
}

async fn forget_old_events(store: Store, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(FORGET_EVERY);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let mut forgotten = 0;
        loop {
            match store.forget_events_older_than(EVENTS_KEPT_SECONDS).await {
                Ok(0) => break,
                Ok(events) => forgotten += events,
                Err(e) => {
                    warn!(error = %e, "old events could not be forgotten");
                    break;
                }
            }
            tokio::time::sleep(FORGET_PAUSE).await;
        }
        if forgotten > 0 {
            info!(events = forgotten, "events of old turns forgotten");
        }
        if let Err(e) = store.forget_old_pending().await {
            warn!(error = %e, "old messages that nobody fetched could not be forgotten");
        }
    }
}
