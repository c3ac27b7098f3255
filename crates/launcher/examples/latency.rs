//! How long the launcher takes: `cargo run --release -p baal-launcher --features client --example latency [PROGRAM]`.
//! PROGRAM is what is started as `PROGRAM tools --workspace DIR`; without it, the `baal-tools` built beside this.

use baal_launcher::Root;
use baal_launcher::client::Launcher;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const ROUNDS: u32 = 300;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("baal-tools"));
    let program = std::env::args_os().nth(1).map(Into::into).or_else(beside).ok_or("name the program")?;
    let workspace = std::env::temp_dir().join(format!("baal-latency-{}", std::process::id()));
    let launcher = Launcher::Child { program, workspace: workspace.clone() };
    let mut session = launcher.open(&Root::Owner).await?;
    println!("{:?}", session.probe(9).await?);
    session.write("note", &[b'x'; 4096], None).await?;
    let stop = CancellationToken::new();

    let began = Instant::now();
    for _ in 0..ROUNDS {
        std::process::Command::new("/bin/bash").arg("-c").arg("true").env_clear().status()?;
    }
    report("bash -c true, without the launcher", began);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let (output, _unread) = mpsc::channel(1);
        session.bash("true", Duration::from_secs(5), output, &stop).await?;
    }
    report("bash -c true, in an open session", began);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        session.read("note", 1 << 20).await?;
    }
    report("read of 4 KiB", began);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        session.write("note", &[b'y'; 4096], None).await?;
    }
    report("write of 4 KiB, synced", began);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        drop(launcher.open(&Root::Owner).await?);
    }
    report("a session opened", began);
    std::fs::remove_dir_all(workspace)?;
    Ok(())
}

fn report(what: &str, began: Instant) {
    println!("{:>8.3} ms  {what}", began.elapsed().as_secs_f64() * 1000.0 / f64::from(ROUNDS));
}
