//! Connections are cut at every point between the webhook and the reply: after any number of bytes, in either direction.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::chance::{Chance, long, rounds};
use crate::harness::{database, free_port};
use crate::load::{People, usual};
use crate::proxy::{Proxy, Target, Treatment};
use crate::settled::{Allowed, assert_settled};
use crate::through;

/// Bytes after which a direction of a connection is cut at the latest: of a webhook's, of a session of Postgres (whose beginning
/// alone takes some thousands), of a turn's, and of a call to Telegram's.
const MOST: [u64; 4] = [8_000, 200_000, 10_000, 8_000];

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_anywhere_on_the_way_lose_and_double_nothing() {
    let chance = Chance::of("cuts");
    let [webhook, postgres, agents, telegram] = [
        Proxy::start(&chance).await,
        Proxy::start(&chance).await,
        Proxy::start(&chance).await,
        Proxy::start(&chance).await,
    ];
    let (database_url, simulated) = (database().await, free_port());
    let server: PgConnectOptions = database_url.parse().unwrap();
    postgres.lead_to(vec![Target::Socket(server.get_socket().unwrap().join(".s.PGSQL.5432"))]);
    telegram.lead_to(vec![Target::Port(simulated)]);
    let proxied = format!(
        "postgres://{}@127.0.0.1:{}/{}?sslmode=disable",
        server.get_username(),
        postgres.port(),
        server.get_database().unwrap()
    );
    let stack = usual()
        .database(database_url)
        .simulators("--telegram-listen", format!("127.0.0.1:{simulated}"))
        .env("DATABASE_URL", proxied)
        .env("PUBLIC_URL", webhook.url())
        .env("TELEGRAM_API_URL", telegram.url())
        .start()
        .await;
    webhook.lead_to_replicas(&stack);
    let mut people = People::meet(&stack).await;
    through::proxy_agents(&stack, &agents).await;

    let legs = [
        ("Telegram and webhook", &webhook),
        ("baal and Postgres", &postgres),
        ("baal and its agents", &agents),
        ("baal and Telegram", &telegram),
    ];
    let each = Duration::from_secs(if long() { 20 } else { 3 });
    for _ in 0..rounds(1, 6) {
        for broken in [&[0][..], &[1], &[2], &[3], &[0, 1, 2, 3]] {
            let faults = async {
                for &leg in broken {
                    legs[leg].1.treat(Treatment::Breaking(MOST[leg]));
                }
                let mut passed = Duration::ZERO;
                while passed < each {
                    let pause = chance.pause(100..1_500);
                    tokio::time::sleep(pause).await;
                    passed += pause;
                    // And in the middle of silence, all at once.
                    legs[broken[chance.number(0..broken.len() as u64) as usize]].1.cut_all();
                }
                for &leg in broken {
                    legs[leg].1.treat(Treatment::Fair);
                }
            };
            let before: Vec<usize> = legs.iter().map(|(_, proxy)| proxy.cuts()).collect();
            people.talk_during(&stack, &chance, faults).await;
            let count = assert_settled(&stack, &people, Allowed::USUAL).await;
            let cuts: Vec<String> = broken
                .iter()
                .map(|&leg| format!("{} between {}", legs[leg].1.cuts() - before[leg], legs[leg].0))
                .collect();
            println!("cuts: {}; so far {count}", cuts.join(", "));
            for &leg in broken {
                assert!(legs[leg].1.cuts() > before[leg], "nothing was cut between {}", legs[leg].0);
            }
        }
    }
}
