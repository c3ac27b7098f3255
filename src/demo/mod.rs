//! `baal demo`: everything on this machine, with simulators for the far sides, and nothing left running afterwards.

mod orphan;
pub mod postgres;
mod secrets;
mod stack;
pub mod supervised;

use std::fs::{DirBuilder, File};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use tokio::signal::unix::{Signal, SignalKind, signal};

use secrets::Secrets;
use stack::{Addresses, Places, Stack};

/// What the user may choose.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Port of the chat page on this machine
    #[arg(long, env = "DEMO_PORT", default_value_t = 8090)]
    pub demo_port: u16,
    /// Address on which the chat page listens. Whoever reaches it may chat as anybody
    #[arg(long, env = "DEMO_ADDR", default_value = "127.0.0.1")]
    pub demo_addr: IpAddr,
    /// Address and port of the program
    #[arg(long, env = "LISTEN_ADDR", default_value = "127.0.0.1:8080")]
    pub listen_addr: SocketAddr,
    // Secrets come from the environment alone: everybody on the machine can read a command line.
    /// A Postgres to use instead of a private one.
    #[arg(skip = secret_from_env("DATABASE_URL"))]
    pub database_url: Option<SecretString>,
    /// A key for the real LibertAI, which then answers instead of the simulator.
    #[arg(skip = secret_from_env("LIBERTAI_API_KEY"))]
    pub libertai_api_key: Option<SecretString>,
}

fn secret_from_env(name: &str) -> Option<SecretString> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).map(Into::into)
}

/// Runs the demo until Ctrl-C or SIGTERM, or until one of its processes ends by itself, which is an error. Its state is
/// below `.baal` in the current directory, so that it still knows its agents when it is started again.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let root = std::env::current_dir()?.join(".baal");
    DirBuilder::new().recursive(true).mode(0o700).create(&root).with_context(|| format!("can't create {root:?}"))?;
    // Held until the end of the process, and released however that comes.
    let lock = File::options().create(true).truncate(false).write(true).open(root.join("demo.lock"))?;
    if lock.try_lock().is_err() {
        bail!("a demo is already running in this directory: use it, or stop it with Ctrl-C where it was started");
    }
    check_port(SocketAddr::new(options.demo_addr, options.demo_port), "DEMO_PORT", "8091")?;
    if options.listen_addr.port() == 0 {
        // Telegram's side must be told the address before there is one.
        bail!("LISTEN_ADDR needs a port other than 0, such as LISTEN_ADDR=127.0.0.1:8081");
    }
    check_port(options.listen_addr, "LISTEN_ADDR", "127.0.0.1:8081")?;
    let mut interruptions = Interruptions::watch()?;
    let secrets = Secrets::load_or_make(&root.join("secrets.json"))?;
    let places = Places { root };

    eprintln!("Starting Postgres, the simulators and Baal …");
    let mut stack = Stack::default();
    let outcome = tokio::select! {
        outcome = run_until_failure(&mut stack, &options, &secrets, &places) => outcome,
        () = interruptions.next() => Ok(()),
    };
    if let Err(error) = &outcome {
        // Said before stopping, which takes a moment.
        eprintln!("\n{error:#}\n");
    }
    eprintln!("Stopping …");
    stack.stop(&places).await?;
    eprintln!("Stopped. `make demo` continues where you left off; removing .baal forgets everything.");
    drop(lock);
    match outcome {
        Ok(()) => Ok(()),
        Err(_) => bail!("the demo ended because of the failure above"),
    }
}

async fn run_until_failure(
    stack: &mut Stack,
    options: &Options,
    secrets: &Secrets,
    places: &Places,
) -> anyhow::Result<()> {
    let addresses = stack.start(options, secrets, places).await?;
    println!("{}", welcome(&addresses, secrets, options.libertai_api_key.is_some(), places));
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stack.check()?;
    }
}

fn welcome(addresses: &Addresses, secrets: &Secrets, real_model: bool, places: &Places) -> String {
    let Addresses { chat, program } = addresses;
    let model =
        if real_model { "LibertAI, with your key" } else { "simulated (set LIBERTAI_API_KEY for the real one)" };
    let rows = [
        "Baal is running. Open the chat and press START:".to_owned(),
        String::new(),
        format!("  Chat         {chat}"),
        format!("  Second user  {chat}/?user=2"),
        String::new(),
        format!("  API          {program}/docs"),
        format!("  Its token    {}", secrets.admin_token),
        format!("  Model        {model}"),
        format!("  Log          {}", places.log().display()),
        String::new(),
        "Ctrl-C stops all of it.".to_owned(),
    ];
    let width = rows.iter().map(|row| row.chars().count()).max().unwrap_or_default();
    let line = "─".repeat(width + 2);
    let body: String = rows.iter().map(|row| format!("│ {row:width$} │\n")).collect();
    format!("\n┌{line}┐\n{body}└{line}┘")
}

/// Fails with advice if the address can't be listened on.
fn check_port(address: SocketAddr, variable: &str, example: &str) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => {
            bail!("can't listen on {address} ({error}): choose another with {variable}, such as {variable}={example}")
        }
    }
}

/// What asks the demo to stop. While this lives, these signals don't end the process by themselves.
struct Interruptions {
    signals: [Signal; 3],
}

impl Interruptions {
    fn watch() -> std::io::Result<Self> {
        let [interrupt, terminate, hangup] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self { signals: [signal(interrupt)?, signal(terminate)?, signal(hangup)?] })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
