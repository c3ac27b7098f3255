//! `baal-agent`: starts one agent from its configuration file.

use anyhow::Context;
use baal_agent::lock::LockError;
use baal_agent::server::{ServeError, serve};
use baal_agent::{config, telemetry};
use baal_protocol::{AgentConfig, EXIT_LOCKED};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// An AI agent that holds conversations over HTTP on 127.0.0.1 and remembers them.
///
/// Exit status: 0 after SIGTERM, 1 on a failure, 2 for a bad configuration, 3 when another agent works on the directory.
/// Environment: LOG_FORMAT=json for logs as JSON, RUST_LOG for what is logged.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration: a JSON file with mode 0600.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration and print everything that is wrong with it.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        println!("The configuration is good.");
        return ExitCode::SUCCESS;
    }
    telemetry::init();
    // Conversations are nobody else's business, whatever the umask of whoever starts the agent.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!(error = %format!("{e:#}"), "the agent cannot run");
            let held = matches!(e.downcast_ref(), Some(ServeError::Lock(LockError::Held { .. })));
            if held { ExitCode::from(EXIT_LOCKED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(config: AgentConfig) -> anyhow::Result<()> {
    // silent-ok: an error only says that one is installed already
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The work is waiting; more threads would only cost memory.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let served = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
        let on_signal = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            on_signal.cancel();
        });
        anyhow::Ok(serve(config, shutdown).await?)
    });
    // Connections that nobody reads must not keep the process alive.
    runtime.shutdown_background();
    served
}
