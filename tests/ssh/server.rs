//! An OpenSSH server of a test's own: random port, own keys, runs as whoever runs the tests.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use baal::ssh::{Address, Command, Key, Output, Session, SshError, host_key};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub struct Server {
    directory: TempDir,
    process: Child,
    pub address: Address,
    pub key: Key,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Ipv4Addr::LOCALHOST.into(), "ed25519")
    }

    /// A server at an address, whose user has a key of a kind.
    pub fn with(ip: IpAddr, kind: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        make_key(&directory.path().join("id"), kind);
        fs::copy(directory.path().join("id.pub"), directory.path().join("authorized_keys")).unwrap();
        make_key(&directory.path().join("host"), "ed25519");
        let key = Key::load(&directory.path().join("id")).unwrap();
        let (process, port) = start(directory.path(), ip);
        Self { directory, process, address: Address { host: ip.to_string(), port }, key }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its public host key as `ssh-keygen` wrote it, without the comment.
    pub fn public_host_key(&self) -> String {
        let written = fs::read_to_string(self.path("host.pub")).unwrap();
        written.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// The same port, another host key: a machine that was replaced.
    pub fn replace_host_key(&mut self, kind: &str) {
        self.stop();
        for name in ["host", "host.pub"] {
            fs::remove_file(self.path(name)).unwrap();
        }
        make_key(&self.path("host"), kind);
        let ip = self.address.host.parse().unwrap();
        self.process = launch(self.directory.path(), ip, self.address.port);
        assert!(is_up(&mut self.process, ip, self.address.port), "the port is taken");
    }

    pub async fn session(&self) -> Session {
        self.session_by(&self.address).await
    }

    /// By way of another address that leads here.
    pub async fn session_by(&self, address: &Address) -> Session {
        let pinned = host_key(address).await.unwrap();
        Session::connect_as(&user(), &self.key, address, &pinned).await.unwrap()
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Stops or continues the server with all it runs.
    pub fn signal(&self, signal: Signal) {
        for pid in family(self.process.id()) {
            send(pid, signal);
        }
    }

    /// Waits until no process but the listening one is left of its family: no session, no command.
    pub async fn is_idle(&self) {
        wait_until("no session is left", || family(self.process.id()).len() == 1).await;
    }

    fn stop(&mut self) {
        for pid in family(self.process.id()) {
            send(pid, Signal::KILL);
        }
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

pub fn make_key(path: &Path, kind: &str) {
    let made = Process::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(path).status();
    assert!(made.expect("ssh-keygen is installed (scripts/bootstrap test)").success());
}

/// Who runs the tests: a server that is not root lets nobody else in.
pub fn user() -> String {
    let id = Process::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

/// A command with a generous deadline.
pub fn command(script: &str) -> Command {
    Command { what: "a test", script: script.into(), input: vec![], limit: Duration::from_secs(30), secrets: vec![] }
}

pub async fn run(session: &mut Session, script: &str) -> Result<Output, SshError> {
    session.run(&command(script)).await
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not after 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A number that a command wrote into a file, once it is there.
pub async fn number_in(path: &Path) -> u32 {
    let mut number = None;
    wait_until("a command has begun", || {
        number =
            fs::read_to_string(path).ok().filter(|text| text.ends_with('\n')).and_then(|text| text.trim().parse().ok());
        number.is_some()
    })
    .await;
    number.unwrap()
}

fn start(directory: &Path, ip: IpAddr) -> (Child, u16) {
    // Another process may take the port between our look and the server's.
    for _ in 0..10 {
        let port = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port();
        let mut process = launch(directory, ip, port);
        if is_up(&mut process, ip, port) {
            return (process, port);
        }
    }
    panic!("no server started: {}", fs::read_to_string(directory.join("log")).unwrap());
}

fn launch(directory: &Path, ip: IpAddr, port: u16) -> Child {
    let shown = directory.display();
    // With SHLVL set, bash leaves out the start-up files of whoever runs the tests.
    let config = format!(
        "ListenAddress {ip}\nPort {port}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized_keys\nPidFile none\n\
         UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
         SetEnv SHLVL=3\nMaxSessions 10\nMaxStartups 100\nLogLevel VERBOSE\n"
    );
    fs::write(directory.join("sshd_config"), config).unwrap();
    if rustix::process::geteuid().is_root() {
        // Where the service has never run its directory for an unprivileged half is missing.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let log = fs::OpenOptions::new().append(true).create(true).open(directory.join("log")).unwrap();
    Process::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(directory.join("sshd_config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("OpenSSH's server is installed (scripts/bootstrap test)")
}

fn is_up(process: &mut Child, ip: IpAddr, port: u16) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect((ip, port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// A process with its living descendants, itself first.
fn family(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent.filter(|_| is_alive(pid)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}
