//! Creation, failure, cancellation and deletion.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use baal::agents::Status;
use baal::agents::service::{self, Change, ServiceError, TakenUp};
use baal::jobs::steering;
use serde_json::json;

use crate::world::{OWNER, World};

#[tokio::test(flavor = "multi_thread")]
async fn users_at_once_never_get_more_agents_than_they_may() {
    let world = World::new().await;
    let created = futures_util::future::join_all((0..20).map(|_| world.create())).await;
    assert_eq!(created.iter().filter(|result| result.is_ok()).count(), 3);
    for refused in created.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(refused, ServiceError::LimitReached { limit: 3 }), "{refused}");
    }
    assert_eq!(world.count("select count(*) from jobs where not done").await, 3);
    assert_eq!(world.count("select count(*) from outbox o join jobs j on j.progress = o.id").await, 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lives_is_found_again_and_goes_without_a_trace() {
    let (world, worker, agent) = World::with_agent().await;
    assert!(world.answers(&agent).await);
    assert_eq!((agent.protocol, agent.deployed_version), (3, 1));
    let edits = world.edits().await;
    let card = edits.last().expect("a card");
    assert_eq!(card["entities"], json!([{"type": "bold", "offset": 2, "length": 10}]));
    let text = card["text"].as_str().expect("text");
    assert!(text.starts_with("✅ Ada 🤖 <b> is ready!"), "{text}");
    assert!(text.contains(&format!("https://t.me/baal_bot?start=agent_{}", agent.id)), "{text}");
    assert_eq!(world.count("select agent_id from conversations").await, agent.id);

    // The agent outlives its worker; killed without one, it is started again by the next.
    worker.stop().await;
    assert!(world.answers(&agent).await);
    baal::cloud::local::stop_all(&world.agents_dir()).await.expect("stops");
    assert!(!world.answers(&agent).await);
    let worker = world.worker().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !world.answers(&world.agent(agent.id).await).await {
        assert!(Instant::now() < deadline, "the agent should run again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    world.delete(&agent).await.expect("deleted");
    let again = world.delete(&agent).await.expect_err("already");
    assert!(matches!(again, ServiceError::Conflict { .. } | ServiceError::NotFound), "{again}");
    world.wait_for(agent.id, Status::Deleted).await;
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 0);
    assert_eq!(world.count("select length(secret)::bigint from agents").await, 0);
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_port_was_taken_while_it_was_down_gets_another() {
    let (world, worker, agent) = World::with_agent().await;
    worker.stop().await;
    baal::cloud::local::stop_all(&world.agents_dir()).await.expect("stops");
    let port = agent.url.as_deref().and_then(|url| url.rsplit_once(':')?.1.parse::<u16>().ok()).expect("a port");
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
    let workers = [world.worker().await, world.worker().await];
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = world.agent(agent.id).await;
        if now.url != agent.url && world.answers(&now).await {
            break;
        }
        assert!(Instant::now() < deadline, "the agent should run elsewhere");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.processes().len(), 1);
    drop(squatter);
    for worker in workers {
        worker.stop().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_keeps_dying_ends_in_a_clean_failure_and_can_be_tried_again() {
    let world = World::with_program("exit 1").await;
    let worker = world.worker().await;
    let agent = world.create().await.expect("created");
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.agent(agent.id).await.status != Status::Failed {
        assert!(Instant::now() < deadline, "the job should have failed");
        // The waits between the tries are not what is tested here.
        sqlx::query("update jobs set run_at = now() where not done").execute(&world.app.db).await.expect("hurried");
        world.app.wake.wake(baal::wake::Queue::Jobs);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 0);
    let edits = world.edits().await;
    let text = edits.last().expect("a card")["text"].as_str().expect("text").to_owned();
    assert!(text.contains("its program stopped right after it was started"), "{text}");
    worker.stop().await;

    let mut tx = world.app.db.begin().await.expect("a transaction");
    service::retry(&mut tx, OWNER, agent.id).await.expect("tried again");
    assert!(matches!(service::retry(&mut tx, OWNER, agent.id).await, Err(ServiceError::Conflict { .. })));
    tx.commit().await.expect("committed");
    assert_eq!(world.count("select count(*) from jobs where not done").await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_deleted_while_it_is_being_set_up_leaves_nothing() {
    // It never listens, so the job waits for it; nor does it end when asked.
    let world = World::with_program("trap '' TERM; while :; do sleep 1; done").await;
    let worker = world.worker().await;
    let agent = world.create().await.expect("created");
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.count("select count(*) from jobs where step = 'health'").await == 0 {
        assert!(Instant::now() < deadline, "the job should wait for the agent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.delete(&agent).await.expect("deleted");
    world.wait_for(agent.id, Status::Deleted).await;
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 0);
    assert_eq!(world.count("select count(*) from jobs where outcome = 'cancelled'").await, 1);
    let edits = world.edits().await;
    assert_eq!(edits.last().expect("a card")["text"], json!("🗑 Ada 🤖 <b> was deleted."));
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_found_by_a_worker_with_another_directory() {
    let mut world = World::new().await;
    let worker = world.worker().await;
    let agent = world.create().await.expect("created");
    let agent = world.wait_for(agent.id, Status::Running).await;
    worker.stop().await;

    world.use_other_local_dir();
    world.delete(&agent).await.expect("deleted");
    let worker = world.worker().await;
    world.wait_for(agent.id, Status::Deleted).await;
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_directory_is_out_of_sight_is_not_said_to_be_gone() {
    let (world, worker, agent) = World::with_agent().await;
    worker.stop().await;

    // As when it is not mounted: its place is there, and empty.
    let away = world.agents_dir().with_file_name("away");
    std::fs::rename(world.agents_dir(), &away).expect("moved away");
    std::fs::create_dir(world.agents_dir()).expect("a place");
    world.delete(&agent).await.expect("deleted");
    let worker = world.worker().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.count("select count(*) from jobs where not done and failures >= 2 and step = 'stop'").await == 0 {
        assert!(Instant::now() < deadline, "the job should fail and go on trying");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.agent(agent.id).await.status, Status::Deleting);
    assert_eq!((world.directories(), world.processes().len()), (0, 1));

    std::fs::remove_dir(world.agents_dir()).expect("nothing was put there");
    std::fs::rename(&away, world.agents_dir()).expect("moved back");
    sqlx::query("update jobs set run_at = now() where not done").execute(&world.app.db).await.expect("hurried");
    world.wait_for(agent.id, Status::Deleted).await;
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_or_start_that_fails_or_is_cancelled_leaves_the_machine_with_what_the_agent_remembers() {
    let (world, worker, agent) = World::with_agent().await;
    // As when it is not mounted: nothing can be said about it.
    let away = world.agents_dir().with_file_name("away");
    std::fs::rename(world.agents_dir(), &away).expect("moved away");
    world.stop(&agent).await.expect("asked for");
    let no_job = "select count(*) from jobs where not done";
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.count(no_job).await > 0 {
        assert!(Instant::now() < deadline, "the stop should be given up");
        sqlx::query("update jobs set run_at = now() where not done").execute(&world.app.db).await.expect("hurried");
        world.app.wake.wake(baal::wake::Queue::Jobs);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.agent(agent.id).await.status, Status::Running, "nobody knows better");
    assert_eq!(world.count("select count(*) from jobs where kind = 'redeploy'").await, 0, "nothing else is wanted");
    std::fs::rename(&away, world.agents_dir()).expect("moved back");
    assert!(world.answers(&world.agent(agent.id).await).await);

    world.stop(&agent).await.expect("asked for");
    world.wait_for(agent.id, Status::Stopped).await;
    // Cancelled before anybody has looked at it.
    let mut tx = world.app.db.begin().await.expect("a transaction");
    service::start(&mut tx, OWNER, agent.id).await.expect("asked for");
    assert!(baal::jobs::store::request_cancel(&mut tx, agent.id).await.expect("cancelled"));
    tx.commit().await.expect("committed");
    world.app.wake.wake(baal::wake::Queue::Jobs);
    world.wait_for(agent.id, Status::Stopped).await;
    assert_eq!((world.directories(), world.processes().len()), (1, 0));
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 1);
    assert_eq!(world.count("select count(*) from jobs where outcome = 'cancelled'").await, 1);
    let card = world.edits().await.pop().expect("a card")["text"].to_string();
    assert!(card.contains("It stays stopped, with everything that it knew"), "{card}");
    // Its owner does not bring it back.
    let mut tx = world.app.db.begin().await.expect("a transaction");
    let refused = service::repair(&mut tx, &world.app, OWNER, agent.id).await.expect_err("refused");
    assert!(refused.to_string().contains("was stopped by the people who run this bot"), "{refused}");
    drop(tx);

    world.start(&agent).await.expect("asked for");
    let agent = world.wait_for(agent.id, Status::Running).await;
    assert!(world.answers(&agent).await);
    // Deleted while it is stopped, it goes like any other.
    world.stop(&agent).await.expect("asked for");
    world.wait_for(agent.id, Status::Stopped).await;
    world.delete(&agent).await.expect("deleted");
    world.wait_for(agent.id, Status::Deleted).await;
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_while_an_agent_is_being_stopped_comes_with_the_end_of_a_stop_that_is_called_off() {
    let (world, worker, agent) = World::with_agent().await;
    worker.stop().await;
    let job = async || -> uuid::Uuid {
        let id = "select id from jobs where kind = 'stop' and not done";
        sqlx::query_scalar(id).fetch_one(&world.app.db).await.expect("a stop")
    };
    let cancel = async |id: uuid::Uuid| {
        let mut tx = world.app.db.begin().await.expect("a transaction");
        let cancelled = steering::cancel(&mut tx, id).await;
        tx.commit().await.expect("committed");
        cancelled
    };
    world.stop(&agent).await.expect("asked for");
    let mut tx = world.app.db.begin().await.expect("a transaction");
    let brief = Change { system_prompt: Some("be brief".into()), ..Change::default() };
    let changed = service::change(&mut tx, &world.app, OWNER, agent.id, brief).await.expect("changed");
    assert_eq!(changed.taken_up, TakenUp::ByStart);
    tx.commit().await.expect("committed");
    cancel(job().await).await.expect("cancelled");
    // Its program may have been stopped by then.
    baal::cloud::local::stop_all(&world.agents_dir()).await.expect("stops");

    let worker = world.worker().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.agent(agent.id).await.deployed_version != 2 {
        assert!(Instant::now() < deadline, "it should be brought about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let agent = world.wait_for(agent.id, Status::Running).await;
    assert!(world.answers(&agent).await);
    assert_eq!(world.count("select count(*) from jobs where kind = 'stop' and outcome = 'cancelled'").await, 1);
    worker.stop().await;

    // Once its program has ended it is too late.
    world.stop(&agent).await.expect("asked for");
    sqlx::query("update jobs set step = 'rest' where not done").execute(&world.app.db).await.expect("halted");
    let refused = cancel(job().await).await.expect_err("refused");
    assert!(refused.to_string().contains("It has stopped the agent already"), "{refused}");
    sqlx::query("update jobs set cancel_requested = true where not done").execute(&world.app.db).await.expect("raced");
    let worker = world.worker().await;
    world.wait_for(agent.id, Status::Stopped).await;
    worker.stop().await;
    // But to delete it is not.
    sqlx::query("update agents set status = 'running'").execute(&world.app.db).await.expect("runs");
    world.stop(&agent).await.expect("asked for");
    sqlx::query("update jobs set step = 'rest' where not done").execute(&world.app.db).await.expect("halted");
    world.delete(&agent).await.expect("deleted");
    let worker = world.worker().await;
    world.wait_for(agent.id, Status::Deleted).await;
    assert_eq!((world.directories(), world.processes().len()), (0, 0));
    worker.stop().await;
    world.end().await;
}
