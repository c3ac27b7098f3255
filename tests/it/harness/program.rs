//! A `baal serve`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use baal::demo::supervised::{Spec, Supervised, tail};
use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, POLL};

/// One replica, which can be treated badly.
pub struct Baal {
    port: u16,
    env: Vec<(String, String)>,
    log: PathBuf,
    arguments: Vec<&'static str>,
    process: Mutex<Option<Supervised>>,
}

impl Baal {
    pub(super) fn new(port: u16, env: Vec<(String, String)>, log: PathBuf, arguments: Vec<&'static str>) -> Self {
        Self { port, env, log, arguments, process: Mutex::new(None) }
    }

    /// The variables that the harness gives it.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.env.iter().cloned().collect()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens, also after a restart.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it has in memory (resident), in KiB; `None` while it does not run.
    pub fn memory(&self) -> Option<u64> {
        let pid = self.process.lock().unwrap().as_ref().and_then(Supervised::pid)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        resident.trim().strip_suffix(" kB")?.parse().ok()
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) {
        self.launch();
        self.wait_until_ready().await;
    }

    /// Starts it and doesn't wait.
    pub fn launch(&self) {
        let program = Path::new(env!("CARGO_BIN_EXE_baal"));
        built("baal-agent");
        let env: Vec<(&str, &OsStr)> =
            self.env.iter().map(|(name, value)| (name.as_str(), OsStr::new(value))).collect();
        let arguments: Vec<&OsStr> = self.arguments.iter().map(OsStr::new).collect();
        let started = Supervised::spawn(&Spec {
            name: "baal serve",
            program: program.as_os_str(),
            args: &arguments,
            env: &env,
            log: &self.log,
            speaks: false,
            signal: "TERM",
            grace: Duration::from_secs(20),
        });
        let previous = self.process.lock().unwrap().replace(started.unwrap());
        assert!(previous.is_none_or(|mut process| process.ended().unwrap().is_some()), "it is running already");
    }

    pub async fn wait_until_ready(&self) {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let readyz = format!("{}/readyz", self.url());
        let deadline = Instant::now() + DEADLINE;
        while !http.get(&readyz).send().await.is_ok_and(|answer| answer.status().is_success()) {
            let ended = self.process.lock().unwrap().as_mut().and_then(|process| process.ended().unwrap());
            if let Some(status) = ended {
                panic!("baal serve ended ({status}):\n{}", tail(&self.log, 30));
            }
            assert!(Instant::now() < deadline, "baal serve doesn't become ready:\n{}", tail(&self.log, 30));
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGKILL, and waits until it is dead; nothing if it is dead already.
    pub fn kill9(&self) {
        let Some(mut process) = self.process.lock().unwrap().take() else { return };
        let deadline = Instant::now() + DEADLINE;
        while matches!(process.ended(), Ok(None)) && Instant::now() < deadline {
            // Asked for again each time: just after the start there is no program yet.
            if let Some(pid) = process.pid() {
                let _ = kill_process(pid, Signal::KILL); // silent-ok: it may have ended a moment ago
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Freezes it, as a machine does that is out of memory or migrated.
    #[track_caller]
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Baal::sigstop`].
    #[track_caller]
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn stop(&self) {
        let process = self.process.lock().unwrap().take();
        if let Some(process) = process {
            process.stop().await.unwrap();
        }
    }

    /// Stops it in an orderly way, and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// Its process; panics where there is none.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        self.process.lock().unwrap().as_ref().and_then(Supervised::pid).expect("baal serve is not running")
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }
}

/// A program of another package of the workspace, which cargo builds only when asked.
pub fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_baal")).with_file_name(name);
    assert!(path.exists(), "{} is not built: run the tests by `make test`", path.display());
    path
}
