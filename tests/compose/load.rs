//! People who talk while containers come and go.

use std::ops::RangeInclusive;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tokio::time::sleep;

use crate::docker::{docker, inspect, said};
use crate::harness::count::{assert_nothing_lost_nothing_twice, words};
use crate::installation::{Installation, apart};

pub const USERS: i64 = 12;
/// Messages of each user in each part of the story.
pub const MESSAGES: usize = 10;

/// How often one of them says something.
const PACE: Duration = Duration::from_millis(75);

/// Everybody opens the agent of user 1, by its public link.
pub async fn everybody_meets(installation: &Installation, agent: i64) {
    let simulator = &installation.simulator;
    simulator.tell_model("/sim/pace", json!({"first_ms": 60, "piece_ms": 15})).await;
    for id in 1..=USERS {
        simulator.user(id).says(&format!("/start agent_{agent}")).await;
    }
    for id in 1..=USERS {
        simulator.user(id).wait_for(|m| m.text.contains("You are talking to Ada")).await;
    }
}

async fn talk(installation: &Installation, numbers: RangeInclusive<usize>) {
    for number in numbers {
        for user in 1..=USERS {
            installation.simulator.user(user).says(&words(user, number)).await;
            sleep(PACE).await;
        }
    }
}

/// How many of the replicas have ended turns.
fn workers(replicas: &[String]) -> usize {
    let worked = |replica: &&String| said(Command::new("docker").args(["logs", replica])).contains("turn finished");
    replicas.iter().filter(worked).count()
}

/// While people talk: one replica and then Postgres lose their power.
pub async fn a_replica_and_the_database_are_killed(installation: &Installation, numbers: RangeInclusive<usize>) {
    let replicas = installation.containers("baal");
    assert_eq!(replicas.len(), 3);
    let postgres = installation.containers("postgres").remove(0);
    let (victim, last) = (replicas[0].clone(), *numbers.end());
    let killing = async {
        sleep(PACE * 30).await;
        apart(move || docker(["kill", &victim])).await;
        sleep(PACE * 30).await;
        apart(move || docker(["restart", "--time", "0", &postgres])).await;
    };
    tokio::join!(talk(installation, numbers), killing);
    let db = installation.database().await;
    assert_nothing_lost_nothing_twice(&installation.simulator, &db, USERS, last).await;
    let sharing = workers(&replicas);
    assert!(sharing >= 2, "{sharing} of 3 replicas had a share of the turns");
    let (reclaimed, uncertain) = marks(&db).await;
    println!("kills: {reclaimed} turns went on elsewhere, {uncertain} sends were in flight, {sharing} replicas worked");
    installation.deploy(1, 3).await;
}

/// While people talk, `docker compose up` of another version: the old replicas hand back what they have and leave.
pub async fn a_new_version_takes_over(installation: &Installation, numbers: RangeInclusive<usize>) {
    let last = *numbers.end();
    let db = installation.database().await;
    let before = marks(&db).await;
    let rolling = async {
        sleep(PACE * 20).await;
        installation.deploy(2, 3).await;
    };
    tokio::join!(talk(installation, numbers), rolling);
    assert_nothing_lost_nothing_twice(&installation.simulator, &db, USERS, last).await;
    let replicas = installation.containers("baal");
    assert_eq!(replicas.len(), 3);
    for replica in inspect(&replicas) {
        assert_eq!(replica["Config"]["Image"], installation.image(2));
    }
    assert!(workers(&replicas) >= 1, "the new version did no turns");
    // Orderly: nobody died, so nothing had to be taken from the dead.
    assert_eq!(marks(&db).await, before, "turns that were reclaimed, sends that are uncertain");
}

/// Turns that went on after a death, and sends that were in flight at one.
async fn marks(db: &PgPool) -> (i64, i64) {
    let counted = sqlx::query_as(
        "select (select count(*) from turns where reclaims > 0), (select count(*) from outbox where uncertain)",
    );
    counted.fetch_one(db).await.unwrap()
}
