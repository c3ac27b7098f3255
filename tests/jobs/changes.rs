//! Changing, repairing, waiting in line, and what is remembered of it.

use std::time::{Duration, Instant};

use baal::agents::service::{self, Change, ServiceError};
use baal::agents::{Agent, Status};
use baal::jobs::store::history;
use baal::wake::Queue;
use secrecy::ExposeSecret as _;

use crate::world::{OWNER, World};

async fn reword(world: &World, agent: &Agent, prompt: &str) {
    let mut tx = world.app.db.begin().await.expect("a transaction");
    let change = Change { system_prompt: Some(prompt.into()), ..Change::default() };
    service::change(&mut tx, &world.app, OWNER, agent.id, change).await.expect("changed");
    tx.commit().await.expect("committed");
    world.app.wake.wake(Queue::Jobs);
}

async fn repair(world: &World, agent: &Agent) {
    let mut tx = world.app.db.begin().await.expect("a transaction");
    service::repair(&mut tx, &world.app, OWNER, agent.id).await.expect("repaired");
    tx.commit().await.expect("committed");
    world.app.wake.wake(Queue::Jobs);
}

/// Waits until no job is live; waits between tries are not what is tested.
async fn idle(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.count("select count(*) from jobs where not done").await > 0 {
        assert!(Instant::now() < deadline, "the job should end");
        sqlx::query("update jobs set run_at = now() where not done and waiting_since is null")
            .execute(&world.app.db)
            .await
            .expect("hurried");
        world.app.wake.wake(Queue::Jobs);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The prompt that the one agent's program was started with.
fn prompt_there(world: &World) -> String {
    let dirs = std::fs::read_dir(world.agents_dir()).expect("a directory");
    let config = dirs.filter_map(|entry| std::fs::read(entry.ok()?.path().join("config.json")).ok()).next();
    let config: serde_json::Value = serde_json::from_slice(&config.expect("a configuration")).expect("JSON");
    config["system_prompt"].as_str().expect("text").to_owned()
}

async fn last_card(world: &World) -> String {
    world.edits().await.last().expect("a card")["text"].as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_deployed_to_the_agent_that_runs() {
    let (world, worker, agent) = World::with_agent().await;
    // Two at once lose nothing: the last is what runs.
    reword(&world, &agent, "be brief").await;
    reword(&world, &agent, "be brief and kind").await;
    idle(&world).await;
    let agent = world.agent(agent.id).await;
    assert_eq!((agent.status, agent.wanted_version, agent.deployed_version), (Status::Running, 3, 3));
    assert_eq!(prompt_there(&world), "be brief and kind");
    assert!(world.answers(&agent).await);
    assert_eq!((world.directories(), world.processes().len()), (1, 1));
    assert!(last_card(&world).await.contains("is up to date and runs"), "{}", last_card(&world).await);

    let past = history(&mut world.app.db.acquire().await.expect("a connection"), agent.id, 10).await.expect("reads");
    let kinds: Vec<_> = past.iter().map(|job| (job.kind.as_str(), job.outcome.as_deref())).collect();
    assert_eq!(kinds, [("redeploy", Some("succeeded")), ("provision", Some("succeeded"))]);
    let steps: Vec<_> = past[1].steps.iter().map(|tried| tried.step.as_str()).collect();
    assert_eq!(steps, ["place", "install", "install", "start", "health", "finish"]);
    assert!(past[1].steps.iter().all(|tried| tried.error.is_none() && tried.ended_at >= tried.started_at));
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_work_is_taken_back() {
    let real = World::program();
    let world = World::with_program(&format!("grep -q boom config.json && exit 1\nexec {real} \"$@\"")).await;
    let worker = world.worker().await;
    let agent = world.create().await.expect("created");
    let agent = world.wait_for(agent.id, Status::Running).await;
    reword(&world, &agent, "boom").await;
    idle(&world).await;
    let agent = world.agent(agent.id).await;
    assert_eq!((agent.status, agent.wanted_version, agent.deployed_version), (Status::Running, 3, 3));
    assert_eq!((agent.system_prompt.as_str(), prompt_there(&world).as_str()), ("be kind", "be kind"));
    assert!(world.answers(&agent).await);
    let card = last_card(&world).await;
    assert!(
        card.contains("its program stopped right after it was started") && card.contains("as it did before"),
        "{card}"
    );
    let past = history(&mut world.app.db.acquire().await.expect("a connection"), agent.id, 1).await.expect("reads");
    assert_eq!((past[0].kind.as_str(), past[0].outcome.as_deref()), ("redeploy", Some("failed")));
    assert!(past[0].steps.iter().any(|tried| tried.step == "start" && tried.error.is_some()), "{past:?}");
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_files_are_gone_is_repaired() {
    let (world, worker, agent) = World::with_agent().await;
    worker.stop().await;
    baal::cloud::local::stop_all(&world.agents_dir()).await.expect("stops");
    for entry in std::fs::read_dir(world.agents_dir()).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).expect("removed");
        }
    }
    repair(&world, &agent).await;
    let worker = world.worker().await;
    idle(&world).await;
    let agent = world.agent(agent.id).await;
    assert_eq!(agent.status, Status::Running);
    assert!(world.answers(&agent).await);
    assert_eq!((world.directories(), world.processes().len()), (1, 1));
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 1);
    assert!(last_card(&world).await.contains("its files are lost"), "{}", last_card(&world).await);

    // With its files there, nothing is lost.
    repair(&world, &agent).await;
    idle(&world).await;
    assert!(last_card(&world).await.contains("is repaired and runs"), "{}", last_card(&world).await);
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_agent_begins_anew_on_another_machine_only_at_its_owners_word() {
    let (world, worker, agent) = World::with_agent().await;
    let secret = |agent: &Agent| agent.secret(&world.app.config.vault).expect("a secret").expose_secret().to_owned();
    let begin = async |owner: i64| {
        let mut tx = world.app.db.begin().await.expect("a transaction");
        let begun = service::begin_anew(&mut tx, &world.app, owner, agent.id).await;
        tx.commit().await.expect("committed");
        world.app.wake.wake(Queue::Jobs);
        begun
    };
    assert!(matches!(begin(OWNER).await, Err(ServiceError::Conflict { .. })), "what runs is not thrown away");
    sqlx::query("update agents set status = 'failed', url = null").execute(&world.app.db).await.expect("failed");
    assert!(matches!(begin(OWNER + 1).await, Err(ServiceError::NotFound)));
    assert_eq!(world.count("select count(*) from vms where state = 'retiring'").await, 0);

    assert_eq!(begin(OWNER).await.expect("begins").status, Status::Provisioning);
    idle(&world).await;
    let anew = world.agent(agent.id).await;
    assert_eq!((anew.status, anew.name.as_str()), (Status::Running, agent.name.as_str()));
    assert!(world.answers(&anew).await);
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 1);
    assert_eq!(
        (world.count("select count(*) from vms").await, world.directories(), world.processes().len()),
        (2, 1, 1)
    );
    assert_ne!(secret(&anew), secret(&agent), "the machine before knows the secret of then");
    // Whoever chose it need not be told of a loss.
    assert!(last_card(&world).await.contains("is ready!"), "{}", last_card(&world).await);
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_machine_is_gone_is_told_to_have_forgotten_whichever_job_sets_it_up() {
    let (world, worker, agent) = World::with_agent().await;
    let mut tx = world.app.db.begin().await.expect("a transaction");
    sqlx::query("update agents set status = 'failed', url = null, unwell_since = now()")
        .execute(&mut *tx)
        .await
        .expect("failed");
    for vm in baal::cloud::store::machines_of(&mut tx, agent.id).await.expect("reads") {
        baal::cloud::store::retire(&mut tx, vm.id).await.expect("retired");
    }
    service::retry(&mut tx, OWNER, agent.id).await.expect("tried again");
    tx.commit().await.expect("committed");
    idle(&world).await;
    assert!(world.answers(&world.agent(agent.id).await).await);
    assert_eq!(world.count("select count(*) from jobs where kind = 'provision'").await, 2);
    assert!(last_card(&world).await.contains("its files are lost"), "{}", last_card(&world).await);
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_no_room_waits_in_line_is_told_so_and_goes_on() {
    let world = World::with_setting("MAX_VMS", "1").await;
    let worker = world.worker().await;
    let first = world.create().await.expect("created");
    let first = world.wait_for(first.id, Status::Running).await;
    let second = world.create().await.expect("created");
    waiting(&world, 1).await;
    let third = world.create().await.expect("created");
    waiting(&world, 2).await;
    assert!(last_card(&world).await.contains("number 2 in line"), "{}", last_card(&world).await);
    assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 1);
    assert_eq!(world.count("select coalesce(max(failures), 0)::bigint from jobs where not done").await, 0);

    // Cancelling works while waiting.
    world.delete(&third).await.expect("deleted");
    world.wait_for(third.id, Status::Deleted).await;
    world.delete(&first).await.expect("deleted");
    let second = world.wait_for(second.id, Status::Running).await;
    assert!(world.answers(&second).await);
    assert_eq!(world.count("select count(*) from jobs where waiting_since is not null and not done").await, 0);
    worker.stop().await;
    world.end().await;
}

async fn waiting(world: &World, count: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.count("select count(*) from jobs where not done and waiting_since is not null").await < count {
        assert!(Instant::now() < deadline, "{count} should wait in line");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
