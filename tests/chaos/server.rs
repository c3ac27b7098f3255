//! A Postgres server that can be treated badly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baal::demo::postgres::Postgres;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};

const DATABASE: &str = "baal";
const PATIENCE: Duration = Duration::from_secs(60);

/// The server of one test. Its commits survive every kill of its processes, for those take nothing from the kernel.
pub struct Server {
    dir: PathBuf,
    running: Option<Postgres>,
}

impl Server {
    /// Makes a cluster below `dir`, which is short enough for the path of a socket, with an empty database.
    pub async fn start(dir: &Path) -> Self {
        let mut server = Self { dir: dir.to_owned(), running: None };
        server.start_again().await;
        server.running.as_ref().unwrap().create_database(DATABASE).await.unwrap();
        server
    }

    /// The database's URL, the same after every restart.
    pub fn url(&self) -> String {
        self.running.as_ref().expect("it runs").url(DATABASE)
    }

    /// Starts it; it does not run any more.
    async fn start_again(&mut self) {
        self.running = None;
        self.running = Some(Postgres::start(&self.dir, false).await.unwrap_or_else(|error| panic!("{error:#}")));
    }

    /// Whether its first process has ended.
    pub fn ended(&mut self) -> bool {
        let server = self.running.as_mut().and_then(Postgres::server);
        server.is_none_or(|server| server.ended().unwrap().is_some())
    }

    /// Starts it where it gave up, or waits until it has recovered.
    pub async fn start_again_if_dead(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.ended() {
                return self.start_again().await;
            }
            if PgConnection::connect(&self.url()).await.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "Postgres neither recovers nor ends");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An orderly restart: sessions are ended, everything is written.
    pub async fn restart(&mut self) {
        self.running.take().expect("it runs").stop().await.unwrap();
        self.start_again().await;
    }

    /// As `pg_ctl stop -m immediate` does it: sessions are told, nothing is written, the next start recovers.
    pub async fn stop_immediately(&mut self) {
        kill_process(self.postmaster(), Signal::QUIT).unwrap();
        self.wait_for_the_end().await;
        self.start_again().await;
    }

    /// All its processes are killed at once, as by a power cut.
    pub async fn crash(&mut self) {
        // The first one would only start the others anew.
        let processes = self.processes();
        for pid in &processes {
            let _ = kill_process(*pid, Signal::KILL); // silent-ok: a session may have ended a moment ago
        }
        self.wait_for_the_end().await;
        self.start_again().await;
    }

    /// Kills the process of one session of the program, upon which the server ends all others and recovers.
    pub async fn kill_a_session(&self) {
        let mut session = PgConnection::connect(&self.url()).await.unwrap();
        let one: Option<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() limit 1",
        )
        .fetch_optional(&mut session)
        .await
        .unwrap();
        if let Some(pid) = one.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL); // silent-ok: it may have ended a moment ago
        }
    }

    /// None of its processes does anything for so long.
    pub async fn pause(&self, time: Duration) {
        // The first one first, so that no others follow.
        let mut stopped = BTreeSet::new();
        loop {
            let new: Vec<Pid> =
                self.processes().into_iter().filter(|pid| !stopped.contains(&pid.as_raw_pid())).collect();
            if new.is_empty() {
                break;
            }
            for pid in new {
                let _ = kill_process(pid, Signal::STOP); // silent-ok: a session may have ended a moment ago
                stopped.insert(pid.as_raw_pid());
            }
        }
        tokio::time::sleep(time).await;
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::CONT); // silent-ok: as above
        }
    }

    fn postmaster(&self) -> Pid {
        let file = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().trim().parse().unwrap()).unwrap()
    }

    /// The first process, then its children.
    fn processes(&self) -> Vec<Pid> {
        let first = self.postmaster();
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.as_raw_pid())).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        std::iter::once(first).chain(children).collect()
    }

    async fn wait_for_the_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.ended() {
            assert!(Instant::now() < deadline, "Postgres does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
