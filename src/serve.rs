//! Running: the HTTP server and the workers, from start to SIGTERM.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::serve::ListenerExt;
use sqlx::migrate::MigrateError;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::App;
use crate::backup::held;
use crate::config::{Config, TelegramMode};
use crate::handover::handover;
use crate::replica::Replica;
use crate::{cloud, database, errands, eyes, http, janitor, jobs, take_back, telegram, turns};

/// How long work may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

/// Which parts of the program this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The HTTP server.
    pub http: bool,
    /// Dispatcher, sender, turns and jobs.
    pub workers: bool,
    /// Bring the schema up to date first.
    pub migrate: bool,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config, parts: Parts) -> anyhow::Result<()> {
    for name in Config::retired() {
        warn!(
            "{name} is ignored: everything is in DATABASE_URL now; `baal import` takes over what the Python system's databases hold"
        );
    }
    for doubt in config.doubts() {
        warn!("{doubt}");
    }
    eyes::metrics::start();
    let app = App::new(config)?;
    let stop = stop_on_signal()?;
    let mut running = JoinSet::new();
    if parts.http {
        let routers = http::routers(&app);
        let public = ("LISTEN_ADDR", app.config.listen_addr, routers.public);
        let admin = app
            .config
            .admin_listen_addr
            .zip(routers.admin)
            .map(|(address, router)| ("ADMIN_LISTEN_ADDR", address, router));
        for (variable, address, router) in [Some(public), admin].into_iter().flatten() {
            let listener = listen(variable, address).await?;
            running.spawn(serve_http(router, listener, stop.clone()));
        }
    }
    if !parts.http
        && let Some(address) = app.config.admin_listen_addr
    {
        let listener = listen("ADMIN_LISTEN_ADDR", address).await?;
        running.spawn(serve_http(http::watched(&app), listener, stop.clone()));
    }
    let upkeep = stop.clone();
    running.spawn(async move {
        eyes::metrics::keep_up(&upkeep).await;
        Ok(())
    });
    running.spawn(work(app, parts, stop.clone()));
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(anyhow::anyhow!("a part of the program panicked: {panic}")));
        if ended.is_err() && result.is_ok() {
            result = ended;
        }
        stop.cancel();
    }
    info!("stopped");
    result
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: claiming nothing more, finishing or handing back what is under way");
        stopped.cancel();
    });
    Ok(stop)
}

/// Before anything else, so that a port in use is told at once.
async fn listen(variable: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("{variable} {address} cannot be listened on"))?;
    info!(address = %listener.local_addr()?, "listening");
    Ok(listener)
}

async fn serve_http(router: Router, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = listener.tap_io(|connection| {
        // silent-ok: without it answers are merely slower.
        let _ = connection.set_nodelay(true);
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    // A client that never ends its request must not keep the process.
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE / 2).await;
    };
    tokio::select! {
        served = server => served.context("the HTTP server failed"),
        () = late => Ok(()),
    }
}

/// Waits for the database, then works under one registration after another until `stop`.
async fn work(app: App, parts: Parts, stop: CancellationToken) -> anyhow::Result<()> {
    if parts.migrate {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            migrated = migrate_when_there(&app) => migrated?,
        }
    }
    if parts.workers {
        let (app, stop) = (app.clone(), stop.clone());
        tokio::spawn(async move {
            // A copy that is restored beside the installation that runs must not take the bot's updates from it.
            if held::until_released(&app, &stop).await {
                telegram::setup::run(&app, &stop).await;
            }
        });
    }
    while !stop.is_cancelled() {
        match Replica::register(&app, parts.workers).await {
            Ok(replica) => {
                // Asked under the registration: what is restored from now on, is not while it lasts.
                let hold = Hold::of(&app, parts).await;
                work_registered(&app, &replica, parts, hold, &stop).await;
            }
            Err(error) => {
                warn!(%error, "this replica could not register; trying again");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }
    Ok(())
}

/// Applies missing migrations; waits for a database that does not answer yet.
async fn migrate_when_there(app: &App) -> anyhow::Result<()> {
    loop {
        match app.migrate().await {
            Ok(()) => return Ok(()),
            Err(MigrateError::Execute(error)) if database::may_pass(&error) => {
                warn!(%error, "the database does not answer; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                return Err(database::explain(error)).context("the database's schema could not be brought up to date");
            }
        }
    }
}

/// What a registration may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Everything that this process is for.
    None,
    /// Only to show that it is there and to report, until the installation is [held] no longer, or until that is known.
    Held,
}

impl Hold {
    async fn of(app: &App, parts: Parts) -> Self {
        let held = async { held::state(&mut *app.db.acquire().await?).await };
        match held.await {
            _ if !parts.workers => Self::None,
            Ok(None) => Self::None,
            Ok(Some(_)) => Self::Held,
            Err(error) => {
                warn!(%error, "not known yet whether this installation is held");
                Self::Held
            }
        }
    }
}

/// Works under one registration: until `stop`, until it is lost, until it is held no longer, or until a worker ends that should
/// not.
async fn work_registered(app: &App, replica: &Replica, parts: Parts, hold: Hold, stop: &CancellationToken) {
    // Beating ends with the work, not with `stop`: what is being finished needs its lease.
    let (working, beating) = (stop.child_token(), CancellationToken::new());
    let mut workers = JoinSet::new();
    macro_rules! start {
        ($tasks:expr, $stop:expr, $worker:path $(, $own:expr)?) => {{
            let (app, replica, stop) = (app.clone(), replica.clone(), $stop.clone());
            $tasks.spawn(async move { $worker(&app, &replica, $($own,)? &stop).await });
        }};
    }
    let mut beat = JoinSet::new();
    start!(beat, beating, stay_alive);
    start!(workers, working, relay_wakes);
    if parts.workers {
        start!(workers, working, cloud::reconcile::run);
    }
    if parts.workers && hold == Hold::None {
        let (to_runner, turns) = handover(turns::PARALLEL);
        let (to_sender, calls) = telegram::sender::inlet(replica);
        start!(workers, working, telegram::dispatcher::run, to_runner);
        start!(workers, working, turns::run, (turns, to_sender));
        start!(workers, working, turns::pending::run);
        start!(workers, working, telegram::sender::run, calls);
        start!(workers, working, jobs::worker::run);
        start!(workers, working, errands::worker::run);
        start!(workers, working, cloud::supervisor::supervise);
        start!(workers, working, cloud::pool::run);
        start!(workers, working, cloud::health::run);
        start!(workers, working, janitor::run);
        if app.config.telegram_mode == TelegramMode::Polling {
            start!(workers, working, telegram::polling::run);
        }
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = replica.lost().cancelled() => {}
        true = held::until_released(app, stop), if hold == Hold::Held => info!("held no longer; working"),
        _ = beat.join_next() => error!("the replica stopped beating; starting all anew"),
        _ = workers.join_next() => if !stop.is_cancelled() {
            error!("a worker ended unexpectedly; starting all anew");
        }
    }
    working.cancel();
    let finished = tokio::time::timeout(GRACE, async { while workers.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        warn!("work under way did not end in time and is left to other replicas");
        // Before the registration goes: what nobody claims any more must not go on here.
        workers.shutdown().await;
    }
    beating.cancel();
    while beat.join_next().await.is_some() {}
    replica.leave(&app.db).await;
}

/// Beats, and takes back the claims of the dead, until `stop` or until the registration is found gone.
pub async fn stay_alive(app: &App, replica: &Replica, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = replica.keep_beating(app) => {}
        () = take_back::keep(app, replica) => {}
    }
}

async fn relay_wakes(app: &App, _: &Replica, stop: &CancellationToken) {
    app.wake.relay(&app.db, &app.config, stop).await;
}
