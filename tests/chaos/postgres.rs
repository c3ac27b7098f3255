//! Postgres is restarted, killed and frozen while people talk.

use std::time::Duration;

use crate::chance::{Chance, rounds};
use crate::load::{People, usual};
use crate::server::Server;
use crate::settled::{Allowed, assert_settled};

#[tokio::test(flavor = "multi_thread")]
async fn restarts_crashes_and_pauses_of_postgres_lose_and_double_nothing() {
    let chance = Chance::of("postgres");
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("pg")).await;
    let stack = usual().database(server.url()).start().await;
    let mut people = People::meet(&stack).await;
    let rounds = rounds(1, 12);
    for _ in 0..rounds {
        let faults = async {
            for fault in 0..5 {
                // So long that the program has found its way back to work, or not quite.
                tokio::time::sleep(chance.pause(300..2_000)).await;
                match fault {
                    0 => server.restart().await,
                    1 => server.crash().await,
                    2 => server.kill_a_session().await,
                    3 => server.stop_immediately().await,
                    // Past the replicas' leases, which are of 2 s.
                    _ => server.pause(Duration::from_secs(chance.number(3..if rounds > 1 { 15 } else { 6 }))).await,
                }
            }
        };
        people.talk_during(&stack, &chance, faults).await;
        let count = assert_settled(&stack, &people, Allowed::USUAL).await;
        println!("postgres: restarted, crashed, a session killed, stopped at once, frozen; so far {count}");
    }
}
