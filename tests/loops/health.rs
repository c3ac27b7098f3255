//! Probes of running agents.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use baal::cloud::health::{self, Round};
use serde_json::json;
use tokio::net::TcpListener;

use crate::network::Network;
use crate::world::{OPERATOR, OWNER, World};

/// A world whose core channel nodes answer.
async fn connected() -> (World, Network) {
    let (network, variables) = Network::start().await;
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    (World::new(&variables).await, network)
}

/// Something that says it is well, as long as that is wanted.
struct Agent {
    url: String,
    well: Arc<AtomicBool>,
}

impl Agent {
    async fn start() -> Self {
        let well = Arc::new(AtomicBool::new(true));
        let asked = well.clone();
        let answer = move || async move {
            if asked.load(Ordering::SeqCst) {
                (StatusCode::OK, json!({"status": "ok", "agent_name": "Ada"}).to_string())
            } else {
                (StatusCode::BAD_GATEWAY, "the agent is down".to_owned())
            }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new().route("/health", get(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, well }
    }

    fn set(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
    }
}

async fn rounds(world: &World, count: usize) -> Round {
    let mut last = Round::default();
    for _ in 0..count {
        last = health::round(&world.app, last.isolated).await.expect("a round");
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_told_once_after_three_failures_and_once_when_it_is_over() {
    let (world, _network) = connected().await;
    let agent = Agent::start().await;
    let id = world.agent(&agent.url).await;
    assert_eq!(rounds(&world, 4).await, Round { asked: 1, ..Round::default() });
    agent.set(false);
    assert_eq!(rounds(&world, 2).await.unwell, 0);
    agent.set(true);
    rounds(&world, 1).await;
    agent.set(false);
    assert_eq!(rounds(&world, 2).await.unwell, 0, "failures count in a row");
    assert_eq!(rounds(&world, 1).await.unwell, 1);
    rounds(&world, 5).await;
    let notices = world.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].0 == OWNER && notices[0].1.contains("Ada <b>"), "{notices:?}");
    let button = sqlx::query_scalar::<_, bool>("select payload::text like '%' || $1 || '%' from outbox");
    assert!(button.bind(format!("repair:{id}")).fetch_one(&world.app.db).await.expect("reads"));

    agent.set(true);
    assert_eq!(rounds(&world, 1).await.recovered, 1);
    rounds(&world, 3).await;
    assert_eq!(world.notices().await.len(), 2);
    assert_eq!(world.count("select count(*) from agents where unwell_since is null and health_failures = 0").await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_job_s_hands_or_not_running_is_not_asked() {
    let world = World::new(&[]).await;
    let id = world.agent("http://127.0.0.1:9").await;
    sqlx::query("insert into jobs (id, kind, agent_id, step) values (gen_random_uuid(), 'repair', $1, 'place')")
        .bind(id)
        .execute(&world.app.db)
        .await
        .expect("a job");
    assert_eq!(rounds(&world, 4).await, Round::default());
    world.run("update jobs set done = true, outcome = 'succeeded', ended_at = now()").await;
    world.run("update agents set status = 'failed', url = null").await;
    assert_eq!(rounds(&world, 4).await, Round::default());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_of_another_address_or_too_late_does_not_count() {
    let world = World::new(&[]).await;
    let id = world.agent("http://127.0.0.1:9").await;
    let heard = |url: &str| health::Heard { agent_id: id, url: url.into(), well: false, known: false };
    let mut conn = world.app.db.acquire().await.expect("a connection");
    for _ in 0..4 {
        assert_eq!(health::write(&mut conn, &[heard("http://127.0.0.1:10")]).await.expect("written"), (0, 0));
    }
    sqlx::query("insert into jobs (id, kind, agent_id, step) values (gen_random_uuid(), 'redeploy', $1, 'install')")
        .bind(id)
        .execute(&mut *conn)
        .await
        .expect("a job");
    for _ in 0..4 {
        assert_eq!(health::write(&mut conn, &[heard("http://127.0.0.1:9")]).await.expect("written"), (0, 0));
    }
    drop(conn);
    assert_eq!(world.count("select sum(health_failures) from agents").await, 0);
    assert_eq!(world.notices().await, []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_answers_operators_are_told_once_and_owners_not_at_all() {
    let (world, _network) = connected().await;
    let agents = futures_util::future::join_all((0..5).map(|_| Agent::start())).await;
    for agent in &agents {
        world.agent(&agent.url).await;
        agent.set(false);
    }
    assert!(rounds(&world, 5).await.isolated);
    let notices = world.notices().await;
    assert_eq!(notices.iter().map(|(chat, _)| *chat).collect::<Vec<_>>(), [OPERATOR], "{notices:?}");
    assert_eq!(world.count("select sum(health_failures) from agents").await, 0);

    // One that answers proves that the network is well: the others count.
    agents[0].set(true);
    let first = health::round(&world.app, true).await.expect("a round");
    assert!(!first.isolated);
    let last = rounds(&world, 2).await;
    assert_eq!((last.unwell, last.isolated), (4, false));
    let told: Vec<_> = world.notices().await.into_iter().filter(|(chat, _)| *chat == OPERATOR).collect();
    assert!(told.len() == 2 && told[1].1.contains("probed again"), "{told:?}");
    // Now none does, but of those that are newly silent there is only one.
    agents[0].set(false);
    assert!(!rounds(&world, 1).await.isolated);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_agents_do_not_count_as_silent_while_nobody_else_answers_us_either() {
    let (world, network) = connected().await;
    let agent = Agent::start().await;
    world.agent(&agent.url).await;
    agent.set(false);
    for node in ["a", "b"] {
        network.set_down(node, true);
    }
    assert!(rounds(&world, 5).await.isolated);
    assert_eq!(world.count("select sum(health_failures) from agents").await, 0);
    network.set_down("b", false);
    let mut round = health::round(&world.app, true).await.expect("a round");
    assert!(!round.isolated);
    for _ in 0..2 {
        round = health::round(&world.app, round.isolated).await.expect("a round");
    }
    assert_eq!(round.unwell, 1);
    let chats: Vec<_> = world.notices().await.into_iter().map(|(chat, _)| chat).collect();
    assert_eq!(chats, [OPERATOR, OPERATOR, OWNER]);
    world.end().await;
}
