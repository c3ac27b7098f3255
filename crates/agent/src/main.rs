//! `baal-agent`: starts one agent from its configuration file.

use anyhow::Context;
use baal_agent::lock::LockError;
use baal_agent::server::{ServeError, serve};
use baal_agent::store::python::{self, Imported};
use baal_agent::{config, telemetry};
use baal_launcher::Settings;
use baal_protocol::{AgentConfig, EXIT_LOCKED};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// An AI agent that holds conversations over HTTP on 127.0.0.1 and remembers them.
///
/// Exit status: 0 after SIGTERM, 1 on a failure, 2 for a bad configuration, 3 when another agent works on the directory.
/// Environment: LOG_FORMAT=json for logs as JSON, RUST_LOG for what is logged.
#[derive(Parser)]
#[command(version, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration: a JSON file with mode 0600.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Only check the configuration and print everything that is wrong with it.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    task: Option<Task>,
}

/// What is done besides running the agent.
#[derive(Subcommand)]
enum Task {
    /// The launcher of the tools, for the one connection that is its standard input.
    Tools {
        /// The directory in which the owner's and the visitors' directories lie.
        #[arg(long, value_name = "DIR")]
        workspace: PathBuf,
        /// /tmp is this connection's own (systemd's PrivateTmp=), so commands may use it.
        #[arg(long)]
        private_tmp: bool,
    },
    /// How the launcher starts itself again to confine itself and become a command.
    #[command(hide = true)]
    ToolsConfine,
    /// Take over the conversations of the Python agent that ran here before, once; the agent must not be running.
    Import {
        /// Its database, which is only read.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// The agent's own database (`db_path` of its configuration), made if missing.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let path = match (arguments.task, arguments.config) {
        (Some(Task::Tools { workspace, private_tmp }), _) => {
            return launch(|| baal_launcher::serve(&Settings { workspace, private_tmp }));
        }
        (Some(Task::ToolsConfine), _) => return launch(baal_launcher::run_confined),
        (Some(Task::Import { from, to }), _) => return import(&from, &to),
        (None, Some(path)) => path,
        // clap asks for one of them, so there is nothing to do
        (None, None) => return ExitCode::from(2),
    };
    let config = match config::load(&path) {
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

/// The launcher has a single thread and no runtime, and no more of the agent than this binary.
fn launch<E: std::fmt::Display>(launcher: impl FnOnce() -> Result<(), E>) -> ExitCode {
    match launcher() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("baal-agent tools: {e}");
            ExitCode::FAILURE
        }
    }
}

fn import(from: &Path, to: &Path) -> ExitCode {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match python::import(from, to) {
        Ok(Imported { before: true, .. }) => println!("The conversations were taken over before; nothing was changed."),
        Ok(Imported { chats, messages, left_out, pending, .. }) => println!(
            "Took over {chats} conversations with {messages} messages, and {pending} that wait to be delivered; {left_out} that \
             no model could read were left out."
        ),
        Err(e) => {
            eprintln!("baal-agent import: {e}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(config: AgentConfig) -> anyhow::Result<()> {
    // silent-ok: an error only says that one is installed already
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The work is waiting; more threads would only cost memory.
        .worker_threads(2)
        // The unit allows few threads; tokio would make up to 512 and panic where it cannot.
        .max_blocking_threads(16)
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
