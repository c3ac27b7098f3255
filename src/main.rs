//! The `baal` program.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use baal::admin::audit::Change;
use baal::admin::{self, Caller, audit};
use baal::app::App;
use baal::cloud::aleph::preview;
use baal::cloud::{hosts, reconcile};
use baal::config::{self, Config};
use baal::eyes::status;
use baal::install::authority;
use baal::serve::Parts;
use baal::telegram::api::TIMEOUT;
use baal::telegram::setup;
use baal::vault::Vault;
use baal::{backup, database, demo, doctor, health, http, init, private_file, python, rotation, serve, telemetry};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// A Telegram bot platform on which anyone creates and shares AI agents.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP and work: webhook, dispatcher, sender, turns, jobs.
    Serve {
        /// Only serve HTTP; other processes work.
        #[arg(long)]
        no_worker: bool,
        /// Leave the database's schema as it is.
        #[arg(long)]
        no_migrate: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Only work, without HTTP.
    Worker {
        /// Leave the database's schema as it is.
        #[arg(long)]
        no_migrate: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Bring the database's schema up to date.
    Migrate {
        #[command(flatten)]
        environment: Environment,
    },
    /// Run everything on this machine with simulated far sides, and a page to chat in.
    Demo(demo::Options),
    /// Print new keys: BOT_ENCRYPTION_KEY, TELEGRAM_WEBHOOK_SECRET, ADMIN_TOKEN.
    Keygen,
    /// Make a certificate authority for AGENT_TLS=internal: `ca.pem` and `ca-key.pem`.
    Ca {
        /// The directory for both; files that are there stay as they are.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Set, show or delete Telegram's webhook.
    Webhook {
        #[command(subcommand)]
        action: WebhookAction,
        #[command(flatten)]
        environment: Environment,
    },
    /// Check the configuration and everything it names.
    Doctor {
        #[command(flatten)]
        environment: Environment,
    },
    /// Show how the system is doing; ends with a status other than 0 if anything is alarming.
    Status {
        #[command(flatten)]
        options: status::Options,
        #[command(flatten)]
        environment: Environment,
    },
    /// Look at what would be sent to Aleph Cloud.
    Aleph {
        #[command(subcommand)]
        action: AlephAction,
        #[command(flatten)]
        environment: Environment,
    },
    /// Add, show and remove machines of your own, for CLOUD=hosts.
    Host {
        #[command(subcommand)]
        action: hosts::cli::Action,
        #[command(flatten)]
        environment: Environment,
    },
    /// Ask whether the server of this host is ready: for health checks of containers, which have no other program to ask with.
    Health {
        #[command(flatten)]
        environment: Environment,
    },
    /// Ask for what is needed, check it, and write `.env`.
    Init(init::Options),
    /// Write everything that the database knows, and the keys that it needs, into one encrypted file.
    Backup {
        #[command(flatten)]
        options: backup::Options,
        #[command(flatten)]
        environment: Environment,
    },
    /// Fill an empty database from a backup. Nothing of it is worked at until `baal reconcile --confirm`.
    Restore {
        #[command(flatten)]
        options: backup::RestoreOptions,
        #[command(flatten)]
        environment: Environment,
    },
    /// Encrypt everything that is stored under the first of BOT_ENCRYPTION_KEY.
    RotateKeys {
        #[command(flatten)]
        options: rotation::Options,
        #[command(flatten)]
        environment: Environment,
    },
    /// Take over users and agents from the Python system's databases.
    Import {
        #[command(flatten)]
        options: python::Options,
        #[command(flatten)]
        environment: Environment,
    },
    /// Compare what exists in the cloud with what the database knows, once and now, and remove what nobody knows.
    Reconcile {
        #[command(flatten)]
        options: reconcile::cli::Options,
        #[command(flatten)]
        environment: Environment,
    },
    /// Make, show and revoke tokens of the administrators' API.
    Token {
        #[command(subcommand)]
        action: admin::cli::Action,
        #[command(flatten)]
        environment: Environment,
    },
    /// Print the API's OpenAPI document.
    Openapi,
    /// Print `.env.example`.
    #[command(hide = true)]
    EnvExample,
}

#[derive(clap::Args)]
struct Environment {
    /// Do not read `.env`.
    #[arg(long, global = true)]
    no_env_file: bool,
}

#[derive(Subcommand)]
enum WebhookAction {
    /// Point it at this server.
    Set {
        /// Instead of PUBLIC_URL.
        #[arg(long)]
        url: Option<String>,
    },
    /// Show what Telegram knows of it.
    Info,
    /// Delete it; updates wait at Telegram for a day.
    Delete,
}

#[derive(Subcommand)]
enum AlephAction {
    /// Print, without sending it, the signed message of an instance and its price, or signed headers for a compute node.
    Preview(preview::Options),
}

fn main() -> ExitCode {
    // Ring is the one provider that is linked; a second call only says so.
    drop(rustls::crypto::ring::default_provider().install_default());
    let command = Cli::command().mut_subcommand("serve", |serve| serve.after_long_help(config::help()));
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Runtime::new();
    let result = runtime.context("the runtime could not start").and_then(|runtime| {
        let result = runtime.block_on(run(cli.command));
        telemetry::end();
        result
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("baal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { no_worker, no_migrate, environment } => {
            serve::run(load(&environment)?, Parts { http: true, workers: !no_worker, migrate: !no_migrate }).await?;
        }
        Command::Worker { no_migrate, environment } => {
            serve::run(load(&environment)?, Parts { http: false, workers: true, migrate: !no_migrate }).await?;
        }
        Command::Migrate { environment } => {
            let app = App::new(load(&environment)?)?;
            let migrated = app.migrate().await.map_err(database::explain);
            migrated.context("the schema could not be brought up to date")?;
            println!("The schema is up to date.");
        }
        Command::Demo(options) => demo::run(options).await?,
        Command::Keygen => keygen(),
        Command::Ca { out } => {
            let (cert, key) = authority::create(&out)?;
            println!("# Put these into .env. The key stays on this host; who has it can pose as every agent.");
            println!("AGENT_CA_FILE={}", cert.display());
            println!("AGENT_CA_KEY_FILE={}", key.display());
        }
        Command::Webhook { action, environment } => webhook(action, load(&environment)?).await?,
        Command::Doctor { environment } => {
            let well = doctor::run(Config::load(!environment.no_env_file)?).await?;
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Status { options, environment } => {
            let well = status::run(&load(&environment)?, options).await?;
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Aleph { action: AlephAction::Preview(options), environment } => {
            println!("{:#}", preview::run(&load(&environment)?, &options).await?);
        }
        Command::Host { action, environment } => {
            let config = load(&environment)?;
            hosts::cli::run(&config, &database::connect_lazily(&config)?, action).await?;
        }
        Command::Reconcile { options, environment } => {
            reconcile::cli::run(&App::new(load(&environment)?)?, options).await?;
        }
        Command::Health { environment } => {
            let well = health::run(!environment.no_env_file).await?;
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Init(options) => init::run(options).await?,
        Command::Backup { options, environment } => backup::run(&load(&environment)?, options).await?,
        Command::Restore { options, environment } => backup::restore(&load(&environment)?, options).await?,
        Command::RotateKeys { options, environment } => rotation::run(&load(&environment)?, options).await?,
        Command::Import { options, environment } => python::run(&load(&environment)?, options).await?,
        Command::Token { action, environment } => {
            admin::cli::run(&database::connect_lazily(&load(&environment)?)?, action).await?;
        }
        Command::Openapi => println!("{}", http::admin::document().to_pretty_json()?),
        Command::EnvExample => print!("{}", config::env_example()),
    }
    Ok(ExitCode::SUCCESS)
}

fn load(environment: &Environment) -> anyhow::Result<Config> {
    let config = Config::load(!environment.no_env_file)?;
    telemetry::init(config.log_format, config.otlp_endpoint.as_deref())?;
    if let Some(path) = Config::env_file().filter(|_| !environment.no_env_file) {
        private_file::warn_if_shared(&path, "the configuration with its keys");
    }
    Ok(config)
}

fn keygen() {
    let random = || URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    println!("# Put these into .env and keep them secret. Without BOT_ENCRYPTION_KEY stored secrets cannot be read.");
    println!("BOT_ENCRYPTION_KEY={}", Vault::generate_key().expose_secret());
    println!("TELEGRAM_WEBHOOK_SECRET={}", random());
    println!("ADMIN_TOKEN={}", random());
}

/// Telegram is no part of a transaction: the entry is written once it has done it.
async fn webhook_changed(conn: &mut sqlx::PgConnection, action: &str, after: Value) -> anyhow::Result<()> {
    let change = Change { action, kind: "webhook", id: "bot".into(), user_id: None, before: Value::Null, after };
    let recorded = audit::record(conn, &Caller::command_line(), change).await;
    recorded.context("Telegram did it, but the record of changes could not be written")
}

async fn webhook(action: WebhookAction, config: Config) -> anyhow::Result<()> {
    let app = App::new(config)?;
    match action {
        WebhookAction::Set { url } => {
            let url = url.or(app.config.public_url.clone()).context("neither --url nor PUBLIC_URL is given")?;
            let mut conn = app.db.acquire().await.context("the database does not answer")?;
            setup::set_webhook(&app, &url).await?;
            webhook_changed(&mut conn, "webhook.set", json!({"url": url})).await?;
            println!("Telegram will deliver updates to {url}/telegram/webhook.");
        }
        WebhookAction::Info => {
            let info = app.telegram.call_raw("getWebhookInfo", "{}".into(), TIMEOUT).await?;
            let info: Value = serde_json::from_str(info.get())?;
            println!("{info:#}");
        }
        WebhookAction::Delete => {
            let mut conn = app.db.acquire().await.context("the database does not answer")?;
            app.telegram.call_raw("deleteWebhook", "{}".into(), TIMEOUT).await?;
            webhook_changed(&mut conn, "webhook.delete", Value::Null).await?;
            println!("The webhook is deleted.");
        }
    }
    Ok(())
}
