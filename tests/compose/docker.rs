//! Docker's command line, and what `crates/e2e/machine/fleet` does with it.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/e2e/machine/fleet")
}

/// `docker` with these arguments, which must succeed; what it printed, without the white space around it.
#[track_caller]
pub fn docker<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    run(Command::new("docker").args(arguments))
}

/// A part of the script, which must succeed; what it printed.
#[track_caller]
pub fn fleet<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    run(Command::new(script()).args(arguments))
}

/// Runs a command that must succeed; what it printed, without the white space around it.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complaint}", output.status);
    said.trim().to_owned()
}

/// All that a command printed, however it ended.
pub fn said(command: &mut Command) -> String {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        Err(error) => format!("{command:?}: {error}"),
    }
}

/// What `docker inspect` says of these.
#[track_caller]
pub fn inspect(things: &[String]) -> Vec<Value> {
    let said = docker(["inspect"].into_iter().chain(things.iter().map(String::as_str)));
    serde_json::from_str(&said).unwrap()
}

/// All that is made for a project is removed when this process ends, however that happens.
#[expect(clippy::zombie_processes, reason = "it outlives this process, which is what it waits for")]
pub fn reaper(project: &str) {
    let mut reaper = Command::new(script())
        .args(["reap", project])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    // The pipe closes with this process, and not before.
    std::mem::forget(reaper.stdin.take());
}
