//! The clocks of the replicas jump while people talk. What replicas agree on by time is decided by Postgres' clock; by their own
//! they only measure what passes, which does not jump.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};

use crate::chance::{Chance, rounds};
use crate::harness::{DEADLINE, POLL, Stack};
use crate::load::{People, usual};
use crate::settled::{Allowed, assert_settled};

/// Where a clock can jump to: seconds from the true time.
const JUMPS: [i64; 5] = [3_600, -3_600, 0, 86_400, -86_400];

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_lose_and_double_nothing() {
    let chance = Chance::of("clocks");
    let dir = tempfile::tempdir().unwrap();
    let clocks = [Clock::new(dir.path().join("clock-0")), Clock::new(dir.path().join("clock-1"))];
    // From the first moment on an hour before the other.
    clocks[0].jump(3_600);
    clocks[1].jump(-3_600);
    let mut builder = usual();
    for (index, clock) in clocks.iter().enumerate() {
        for (name, value) in clock.env() {
            builder = builder.env_of(index, name, value);
        }
    }
    let stack = builder.start().await;
    let mut people = People::meet(&stack).await;
    for (index, clock) in clocks.iter().enumerate() {
        clock.wait_until_kept(&stack, index).await;
    }
    let jumps = rounds(8, 100);
    let jumping = async {
        for _ in 0..jumps {
            tokio::time::sleep(chance.pause(300..1_500)).await;
            let clock = &clocks[chance.number(0..2) as usize];
            clock.jump(JUMPS[chance.number(0..JUMPS.len() as u64) as usize]);
        }
        // What a jump of Postgres' clock does: every registration is an hour too old, all at once. Who beats before others look
        // has luck, so it jumps several times.
        for _ in 0..5 {
            let aged = "update replicas set expires_at = expires_at - interval '1 h'";
            sqlx::query(aged).execute(&stack.db).await.unwrap();
            tokio::time::sleep(chance.pause(500..1_000)).await;
        }
    };
    people.talk_during(&stack, &chance, jumping).await;
    for (index, clock) in clocks.iter().enumerate() {
        clock.wait_until_kept(&stack, index).await;
    }
    let count = assert_settled(&stack, &people, Allowed::USUAL).await;
    let log = |index| std::fs::read_to_string(stack.dir().join(format!("baal-{index}.log"))).unwrap();
    let given_up: usize = (0..2).map(|index| log(index).matches("was given up for dead").count()).sum();
    println!(
        "clocks: {jumps} jumps of replicas' clocks by up to a day, 5 of Postgres', {given_up} replicas given up; {count}"
    );
    assert_eq!(count.dead_letters, 0, "a clock is no fault of a message");
}

/// A replica's own time of day, by libfaketime.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.jump(0);
        clock
    }

    /// The variables of a program that goes by it.
    fn env(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            // As on a real machine: what only measures goes on evenly.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DISABLE_SHM", "1".into()),
        ]
    }

    /// It is so many seconds from the true time from now on.
    fn jump(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    fn seconds(&self) -> i64 {
        std::fs::read_to_string(&self.file).unwrap().trim().parse().unwrap()
    }

    /// Waits until the replica writes a line of its log with the time that it is to have.
    async fn wait_until_kept(&self, stack: &Stack, index: usize) {
        let log = stack.dir().join(format!("baal-{index}.log"));
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let told = last_time(&log);
            if told.is_some_and(|told| {
                ((told - DateTime::<Utc>::from(SystemTime::now())).num_seconds() - self.seconds()).abs() < 600
            }) {
                return;
            }
            let wanted = self.seconds();
            assert!(
                tokio::time::Instant::now() < deadline,
                "replica {index} is to be {wanted} s off, and writes {told:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The time of the last line of a log that has one.
fn last_time(log: &Path) -> Option<DateTime<Utc>> {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    text.lines().rev().find_map(|line| line.split_whitespace().next()?.parse().ok())
}

/// Debian's, of whichever architecture.
fn library() -> PathBuf {
    let architectures = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found =
        architectures.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime is not installed: run `scripts/bootstrap test`")
}
