//! `baal-simulators`: the far sides on local ports.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use baal_simulators::aleph::{self, Aleph};
use baal_simulators::telegram::Telegram;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Telegram, LibertAI and Aleph Cloud on this machine. When all are ready, one line of JSON on standard output names their addresses.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where Telegram listens: the chat page, the Bot API and the control interface. Port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8090")]
    telegram_listen: SocketAddr,
    /// Where LibertAI listens; not at all without it.
    #[arg(long)]
    libertai_listen: Option<SocketAddr>,
    /// Where Aleph Cloud listens: its lists, its APIs and the control interface; its nodes take free ports of the same address.
    /// Not at all without it.
    #[arg(long)]
    aleph_listen: Option<SocketAddr>,
    /// File that keeps the chats over restarts.
    #[arg(long)]
    state: Option<PathBuf>,
    /// The bot's name without the @.
    #[arg(long, default_value = "baal_bot")]
    bot_username: String,
    /// File that gets every request to the Bot API as a line of JSON; what is there already stays.
    #[arg(long)]
    telegram_requests: Option<PathBuf>,
    /// Stop when standard input ends, so that nothing is left behind when the parent dies.
    #[arg(long)]
    exit_on_stdin_eof: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // silent-ok: a provider that is already installed serves as well
    let _ = rustls::crypto::ring::default_provider().install_default(); // silent-ok: it is installed already
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let token = std::env::var("SIM_BOT_TOKEN")
        .context("SIM_BOT_TOKEN is missing: set it to the token the bot will use, such as 123456:any-letters")?;
    let telegram = match &args.state {
        Some(state) => Telegram::load(&token, &args.bot_username, state)?,
        None => Telegram::new(&token, &args.bot_username).context("SIM_BOT_TOKEN is not usable")?,
    };

    if let Some(path) = &args.telegram_requests {
        let file = std::fs::File::options().create(true).append(true).open(path);
        telegram.record_requests(file.with_context(|| format!("cannot write to {}", path.display()))?);
    }

    let stop = CancellationToken::new();
    // Watched before anything is said to be ready: who reads the line may stop us at once.
    tokio::spawn(watch_for_the_end(stop.clone(), args.exit_on_stdin_eof)?);
    let (telegram_url, telegram_server) = serve(args.telegram_listen, telegram.router(), &stop).await?;
    let mut ready = serde_json::json!({ "telegram": telegram_url });
    let libertai_server = match args.libertai_listen {
        Some(address) => {
            let (url, server) = serve(address, baal_simulators::libertai::router(), &stop).await?;
            ready["libertai"] = url.into();
            Some(server)
        }
        None => None,
    };
    let aleph = match args.aleph_listen {
        Some(address) => {
            let aleph = Aleph::start(address, aleph::Options::default())
                .await
                .with_context(|| format!("cannot listen on {address}"))?;
            ready["aleph"] = aleph.urls();
            Some(aleph)
        }
        None => None,
    };
    telegram.resume();
    println!("{ready}");
    info!(telegram = %ready["telegram"], libertai = %ready["libertai"], aleph = %ready["aleph"]["control"], "simulators are ready");

    match &args.state {
        Some(state) => tokio::select! {
            () = telegram.keep_saving(state) => {}
            () = stop.cancelled() => {}
        },
        None => stop.cancelled().await,
    }
    // Open event streams and long polls have no end of their own, so nobody is waited for.
    telegram_server.abort();
    if let Some(server) = libertai_server {
        server.abort();
    }
    if let Some(aleph) = aleph {
        aleph.stop();
    }
    if let Some(state) = &args.state {
        telegram.save(state, true).with_context(|| format!("cannot write {}", state.display()))?;
    }
    Ok(())
}

async fn serve(
    address: SocketAddr,
    router: axum::Router,
    stop: &CancellationToken,
) -> anyhow::Result<(String, tokio::task::JoinHandle<()>)> {
    use axum::serve::ListenerExt;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let url = format!("http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // silent-ok: a slower connection still works
        let _ = stream.set_nodelay(true); // silent-ok: without it answers are slower
    });
    let stop = stop.clone();
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(error = %error, "a simulator's listener failed");
        }
        stop.cancel();
    });
    Ok((url, server))
}

/// Cancels `stop` at SIGTERM, SIGINT or, if asked for, at the end of standard input.
fn watch_for_the_end(stop: CancellationToken, stdin_too: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if stdin_too {
        let stop = stop.clone();
        // A thread of its own: tokio's stdin would hold up the exit until a byte comes.
        std::thread::spawn(move || {
            // silent-ok: a standard input that can't be read has ended as well
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()); // silent-ok: an error ends it as well
            stop.cancel();
        });
    }
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}
