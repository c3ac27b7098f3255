//! What is left of agents and of jobs of the pool.

use std::time::{Duration, Instant};

use baal::agents::Status;
use baal::jobs;
use baal::wake::Queue;

use crate::world::World;

/// Waits until the count is that; waits between tries are not what is tested.
async fn until(world: &World, sql: &'static str, count: i64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.count(sql).await != count {
        assert!(Instant::now() < deadline, "{sql} should come to {count}");
        sqlx::query("update jobs set run_at = now() where not done").execute(&world.app.db).await.expect("hurried");
        world.app.wake.wake(Queue::Jobs);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_not_said_to_be_deleted_while_a_machine_that_it_had_still_has_its_data() {
    let (world, worker, agent) = World::with_agent().await;
    sqlx::query(
        "insert into vms (id, cloud, state, touched, last_agent_id)
         values (gen_random_uuid(), 'hosts', 'retiring', true, $1)",
    )
    .bind(agent.id)
    .execute(&world.app.db)
    .await
    .expect("inserted");
    world.delete(&agent).await.expect("deleted");
    until(&world, "select count(*) from jobs where not done and step = 'end' and failures > 2", 1).await;
    assert_eq!((world.agent(agent.id).await.status, world.directories()), (Status::Deleting, 0));
    sqlx::query("update vms set ended_at = now() where cloud = 'hosts'").execute(&world.app.db).await.expect("ended");
    until(&world, "select count(*) from jobs where not done", 0).await;
    assert_eq!(world.agent(agent.id).await.status, Status::Deleted);
    worker.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_the_pool_that_finds_no_room_is_no_failure() {
    let world = World::with_setting("MAX_VMS", "1").await;
    let worker = world.worker().await;
    let agent = world.create().await.expect("created");
    world.wait_for(agent.id, Status::Running).await;
    jobs::store::enqueue_prepare(&mut world.app.db.acquire().await.expect("a connection")).await.expect("enqueued");
    until(&world, "select count(*) from jobs where kind = 'prepare' and done and outcome = 'cancelled'", 1).await;
    assert_eq!(world.count("select count(*) from vms").await, 1);
    worker.stop().await;
    world.end().await;
}
