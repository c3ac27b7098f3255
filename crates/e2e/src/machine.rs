//! A machine that is reached by SSH and gone with the test. `machine/vm` says what it is.

use anyhow::{Context, bail, ensure};
use std::io::Write;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A Debian machine with systemd; removed when dropped.
#[derive(Debug)]
pub struct Machine {
    name: String,
    /// The address at which the machine sees the host of the test.
    pub host: IpAddr,
}

/// A local port that leads to one of a machine's; closed when dropped.
#[derive(Debug)]
pub struct Tunnel {
    ssh: Child,
    /// On 127.0.0.1.
    pub port: u16,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("machine/vm")
}

/// What is on a new machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian 12 as clouds start it.
    Bare,
    /// Besides, Debian's packages that an agent needs.
    Packaged,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Packaged => "packaged",
        }
    }
}

impl Machine {
    /// Makes and starts one, in seconds once the image is there.
    ///
    /// # Errors
    /// What is missing on this host, in the script's words.
    pub fn start() -> anyhow::Result<Self> {
        // A name brings an existing machine of E2E_VM=qemu back, which saves minutes.
        let name = std::env::var("E2E_MACHINE").unwrap_or_else(|_| format!("walls-{}", std::process::id()));
        Self::named(&name, Kind::Bare, "")
    }

    /// The same with a name of the caller's, made of a-z, 0-9 and `-`. It is removed by the [`reaper`] of `run` too.
    ///
    /// # Errors
    /// What is missing on this host, in the script's words.
    pub fn named(name: &str, kind: Kind, run: &str) -> anyhow::Result<Self> {
        let name = name.to_owned();
        let output = Command::new(script())
            .args(["up", &name, kind.as_str()])
            .env("E2E_RUN", run)
            .stderr(Stdio::inherit())
            .output()
            .context("machine/vm cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let machine = |host| Self { name: name.clone(), host };
        match said.trim().parse() {
            Ok(host) if output.status.success() => Ok(machine(host)),
            _ => {
                drop(machine(IpAddr::from([0, 0, 0, 0])));
                bail!("there is no machine to test on; see above");
            }
        }
    }

    /// Its address and the private key of its root: for a machine with an address of its own.
    ///
    /// # Errors
    /// It has none.
    pub fn place(&self) -> anyhow::Result<(IpAddr, PathBuf)> {
        let output = Command::new(script()).args(["where", &self.name]).stderr(Stdio::inherit()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (address, key) = said.trim().split_once(' ').context("the machine has no address; see above")?;
        Ok((address.parse()?, key.into()))
    }

    /// Puts it into another of the engine's networks as well; its address there.
    ///
    /// # Errors
    /// There is no such network.
    pub fn join(&self, network: &str) -> anyhow::Result<IpAddr> {
        let output = Command::new(script()).args(["join", &self.name, network]).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the machine {} cannot join {network}; see above", self.name);
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    }

    /// Pulls its plug: nothing is written or said any more.
    ///
    /// # Errors
    /// It was off already.
    pub fn off(&self) -> anyhow::Result<()> {
        self.does("off")
    }

    /// Switches it on again, perhaps at another address.
    ///
    /// # Errors
    /// It is gone.
    pub fn on(&self) -> anyhow::Result<()> {
        self.does("on")
    }

    fn does(&self, what: &str) -> anyhow::Result<()> {
        let status = Command::new(script()).args([what, &self.name]).status()?;
        ensure!(status.success(), "the machine {} cannot do this: {what}", self.name);
        Ok(())
    }

    /// Runs a shell script as root and returns what it printed.
    ///
    /// # Errors
    /// The script failed; the error has its output.
    pub fn root(&self, commands: &str) -> anyhow::Result<String> {
        let (success, output) = self.try_root(commands)?;
        ensure!(success, "as root on the machine:\n{commands}\nfailed with:\n{output}");
        Ok(output)
    }

    /// The same; whether it succeeded, and what it printed.
    ///
    /// # Errors
    /// SSH could not be started.
    pub fn try_root(&self, commands: &str) -> anyhow::Result<(bool, String)> {
        let mut child = Command::new(script())
            .args(["ssh", &self.name, "bash", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(format!("exec 2>&1\n{commands}\n").as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    /// Copies files and directories to a directory on the machine.
    ///
    /// # Errors
    /// `tar` or SSH failed.
    pub fn copy(&self, sources: &[&Path], target: &str) -> anyhow::Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("-c").stdout(Stdio::piped());
        for source in sources {
            let (Some(directory), Some(name)) = (source.parent(), source.file_name()) else { continue };
            tar.arg("-C").arg(directory).arg(name);
        }
        let mut packing = tar.spawn().context("tar cannot be started")?;
        let packed = packing.stdout.take().context("tar has no output")?;
        let unpack = format!("mkdir -p {target} && tar -x --no-same-owner -C {target}");
        let status = Command::new(script()).args(["ssh", &self.name, &unpack]).stdin(packed).status()?;
        ensure!(packing.wait()?.success() && status.success(), "copying to the machine failed");
        Ok(())
    }

    /// Opens a way to a port on the machine's own loopback address.
    ///
    /// # Errors
    /// It doesn't come up within 20 s.
    pub fn tunnel(&self, to: u16) -> anyhow::Result<Tunnel> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let way = format!("127.0.0.1:{port}:127.0.0.1:{to}");
        let ssh = Command::new(script())
            .args(["ssh", &self.name, "-N", "-o", "ExitOnForwardFailure=yes", "-L", &way])
            .stdin(Stdio::null())
            // It has something to say when the machine goes.
            .stderr(Stdio::null())
            .spawn()?;
        let tunnel = Tunnel { ssh, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "the tunnel to the machine doesn't come up");
            sleep(Duration::from_millis(50));
        }
        Ok(tunnel)
    }
}

/// Removes all machines of `run` when this process ends, however that happens.
///
/// # Errors
/// The script cannot be started.
pub fn reaper(run: &str) -> anyhow::Result<()> {
    if std::env::var_os("E2E_KEEP").is_some() {
        return Ok(());
    }
    let mut child = Command::new(script())
        .args(["reap", run])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("machine/vm cannot be started")?;
    // The pipe closes with this process, and not before.
    std::mem::forget(child.stdin.take());
    Ok(())
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // silent-ok: it may have ended by itself
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::env::var_os("E2E_KEEP").is_some() {
            eprintln!("the machine stays: {} ssh {}", script().display(), self.name);
            return;
        }
        let gone = Command::new(script()).args(["down", &self.name]).stdout(Stdio::null()).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("the machine {} could not be removed", self.name);
        }
    }
}
