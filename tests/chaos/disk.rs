//! Postgres' disk is full for a while: first its tables cannot grow, then its log cannot either, and it dies of that.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::chance::{Chance, rounds};
use crate::harness::Stack;
use crate::load::{People, usual};
use crate::server::Server;
use crate::settled::{Allowed, assert_settled};

/// Tells the test, run by itself in a mount namespace of its own, where its small disk is.
const DISK: &str = "CHAOS_SMALL_DISK";

/// Of which a new cluster takes a third.
const SIZE: &str = "size=192m,mode=0755";

const NO_SPACE: &str = "No space left on device";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_postgres_stops_people_until_there_is_space_again() {
    let Some(disk) = Disk::mount("disk::a_full_disk_of_postgres_stops_people_until_there_is_space_again") else {
        return;
    };
    let chance = Chance::of("disk");
    let mut server = Server::start(&disk.path.join("pg")).await;
    let stack = usual().database(server.url()).start().await;
    let mut people = People::meet(&stack).await;
    let mut panics = 0;
    for round in 0..rounds(2, 10) {
        let faults = async {
            tokio::time::sleep(chance.pause(200..1_000)).await;
            fill_to_the_brim(&disk, &server).await;
            if round == 0 {
                // Later on, there is room within the tables that grew.
                wait_until_people_are_refused(&stack).await;
            }
            if round % 2 == 1 {
                exhaust_the_log(&server).await;
                panics += 1;
            }
            tokio::time::sleep(chance.pause(1_000..3_000)).await;
            disk.free();
            // As whoever looks after it would: it gives up where it cannot even recover.
            server.start_again_if_dead().await;
        };
        people.talk_during(&stack, &chance, faults).await;
        let count = assert_settled(&stack, &people, Allowed::USUAL).await;
        println!("disk: full {} times, of which Postgres died {panics} times; so far {count}", round + 1);
        assert_eq!(count.dead_letters, 0, "a full disk is no fault of a message");
    }
}

/// Takes all the space that there is, and what Postgres has left in its own files.
async fn fill_to_the_brim(disk: &Disk, server: &Server) {
    let mut session = PgConnection::connect(&server.url()).await.unwrap();
    let prepare = "drop table if exists filler; create table filler (bytes text); alter table filler alter bytes set storage plain";
    sqlx::raw_sql(prepare).execute(&mut session).await.unwrap();
    disk.fill();
    let refused = loop {
        let written = sqlx::raw_sql("insert into filler select repeat('x', 4000)").execute(&mut session).await;
        if let Err(error) = written {
            break error.to_string();
        }
    };
    assert!(refused.contains(NO_SPACE), "{refused}");
}

/// People write, so that sooner or later a table has to grow.
async fn wait_until_people_are_refused(stack: &Stack) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let refused = |index: usize| {
        let log = fs::read(stack.dir().join(format!("baal-{index}.log"))).unwrap();
        String::from_utf8_lossy(&log).contains(NO_SPACE)
    };
    while !(0..stack.replicas()).any(refused) {
        assert!(Instant::now() < deadline, "people can write all the same");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Has Postgres begin one file of its log after another, until there is no space for the next: upon that it panics. It can't say
/// so, because what it says goes to the same disk.
async fn exhaust_the_log(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Ok(mut session) = PgConnection::connect(&server.url()).await {
        assert!(Instant::now() < deadline, "Postgres has space for its log without end");
        // A file of which nothing is used is not left for the next.
        let switch = "select pg_logical_emit_message(false, 'chaos', ''::text), pg_switch_wal()";
        if let Err(error) = sqlx::raw_sql(switch).execute(&mut session).await {
            println!("disk: {error}");
        }
    }
}

/// A file system of its own, with little space.
struct Disk {
    path: PathBuf,
    /// What is to be unmounted in the end.
    mounted: Option<TempDir>,
}

impl Disk {
    /// Root mounts one. Anybody else may in a namespace of their own, in which this runs the test `name` once more: then there
    /// is nothing left to do here.
    fn mount(name: &str) -> Option<Self> {
        if let Some(path) = std::env::var_os(DISK) {
            return Some(Self { path: path.into(), mounted: None });
        }
        let dir = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let mount =
                Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(dir.path()).status().unwrap();
            assert!(mount.success(), "root can mount no file system here: this test needs CAP_SYS_ADMIN");
            return Some(Self { path: dir.path().to_owned(), mounted: Some(dir) });
        }
        let again = Command::new("unshare")
            .args(["--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c"])
            .arg(format!("mount -t tmpfs -o {SIZE} tmpfs \"$1\" && exec \"$2\" --exact \"$3\" --nocapture"))
            .arg("sh")
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(DISK, dir.path())
            .status()
            .unwrap();
        assert!(again.success(), "the test failed in its namespace, or there are none for users here");
        None
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes all the space that there is.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        for piece in [1 << 20, 4 << 10] {
            while ballast.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(dir) = &self.mounted {
            unmount(dir.path());
        }
    }
}

fn unmount(path: &Path) {
    // Lazily: what a failed test left running may be in there.
    let unmounted = Command::new("umount").arg("--lazy").arg(path).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        eprintln!("{} could not be unmounted", path.display());
    }
}
