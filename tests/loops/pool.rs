//! The pool.

use baal::cloud::pool::{self, Actions, Size};
use baal::cloud::reconcile;
use baal::cloud::store::VmState;
use futures_util::future::join_all;

use crate::world::World;

const PREPARING: &str = "select count(*) from jobs where kind = 'prepare' and not done";
const RETIRING: &str = "select count(*) from jobs where kind = 'retire' and not done";

async fn world(variables: &[(&str, &str)]) -> World {
    let mut all = vec![("POOL_ENABLED", "true"), ("POOL_MIN_SIZE", "4"), ("POOL_MAX_SIZE", "5"), ("MAX_VMS", "20")];
    all.extend(variables);
    World::new(&all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_at_once_never_make_more_than_the_pool_may_have() {
    let world = world(&[]).await;
    let rounds = join_all((0..10).map(|_| pool::round(&world.app))).await;
    let made: i64 = rounds.into_iter().map(|round| round.expect("a round").prepare).sum();
    assert_eq!((made, world.count(PREPARING).await), (4, 4));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_have_no_machine_yet_count_against_all_that_may_exist() {
    let world = world(&[("MAX_VMS", "3")]).await;
    let agent = world.agent("https://a.example").await;
    let agents_own = world.vm("aa", VmState::Assigned, Some(agent)).await;
    join_all((0..10).map(|_| pool::round(&world.app))).await;
    assert_eq!(world.count(PREPARING).await, 2);

    // One of them has written its machine down: it is counted once.
    let placed = world.vm("bb", VmState::Preparing, None).await;
    sqlx::query(
        "update jobs set state = jsonb_build_object('vm', $1::text) where id = (select min(id::text)::uuid from jobs)",
    )
    .bind(placed)
    .execute(&world.app.db)
    .await
    .expect("placed");
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions::default());
    sqlx::query("update vms set ended_at = now() where id = $1")
        .bind(agents_own)
        .execute(&world.app.db)
        .await
        .expect("ended");
    assert_eq!(pool::round(&world.app).await.expect("a round").prepare, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_machines_are_replaced_and_those_of_agents_left_alone() {
    let world = world(&[("POOL_MIN_SIZE", "2"), ("POOL_MAX_SIZE", "4"), ("POOL_MAX_AGE_HOURS", "2")]).await;
    let agent = world.agent("https://a.example").await;
    world.vm("a0", VmState::Assigned, Some(agent)).await;
    world.vm("a1", VmState::Warm, None).await;
    world.vm("a2", VmState::Warm, None).await;
    world.run("update vms set warm_since = now() - interval '3 hours'").await;
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions { prepare: 2, retire: 0 });
    world.run("update jobs set done = true, outcome = 'succeeded', ended_at = now()").await;
    world.vm("b1", VmState::Warm, None).await;
    world.vm("b2", VmState::Warm, None).await;
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions { prepare: 0, retire: 2 });
    let retired = "select count(*) from vms v join jobs j on j.vm_id = v.id
                    where v.state = 'retiring' and v.item_hash in ('a1', 'a2') and j.kind = 'retire' and not j.done";
    assert_eq!((world.count(retired).await, world.count(RETIRING).await), (2, 2));
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions::default());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_place_comes_before_the_pool() {
    let world = world(&[]).await;
    let agent = world.agent("https://a.example").await;
    sqlx::query("insert into jobs (id, kind, agent_id, step, waiting_since) values (gen_random_uuid(), 'provision', $1, 'place', now())")
        .bind(agent)
        .execute(&world.app.db)
        .await
        .expect("waits");
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions::default());
    world.run("update jobs set waiting_since = null").await;
    assert_eq!(pool::round(&world.app).await.expect("a round").prepare, 4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_switched_off_is_emptied_and_failures_are_not_repeated_at_once() {
    let off = World::new(&[("POOL_ENABLED", "false")]).await;
    off.vm("aa", VmState::Warm, None).await;
    assert_eq!(pool::round(&off.app).await.expect("a round"), Actions { prepare: 0, retire: 1 });
    off.end().await;

    let world = world(&[]).await;
    world
        .run(
            "insert into jobs (id, kind, step, done, outcome, ended_at)
              values (gen_random_uuid(), 'prepare', 'end', true, 'failed', now())",
        )
        .await;
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions::default());
    world.run("update jobs set ended_at = now() - interval '2 min'").await;
    assert_eq!(pool::round(&world.app).await.expect("a round").prepare, 1);
    assert_eq!(pool::round(&world.app).await.expect("a round"), Actions::default());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_an_operator_set_goes_before_the_configuration() {
    let world = world(&[]).await;
    let set = async |min_size, max_size| {
        let mut conn = world.app.db.acquire().await.expect("a connection");
        Size { min_size, max_size }.write(&mut conn).await.expect("written");
    };
    set(Some(1), None).await;
    assert_eq!(pool::round(&world.app).await.expect("a round").prepare, 1);
    set(Some(9), Some(2)).await;
    assert_eq!(pool::round(&world.app).await.expect("a round").prepare, 1, "never more than two in all");
    set(None, None).await;
    assert_eq!(pool::round(&world.app).await.expect("a round").prepare, 2, "four, as configured");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_pool_of_another_cloud_is_removed_and_told() {
    for cloud in ["hosts", "local"] {
        let world = World::new(&[("CLOUD", cloud), ("POOL_ENABLED", "false")]).await;
        let agent = world.agent("https://a.example").await;
        world.vm("aa", VmState::Warm, None).await;
        world.vm("bb", VmState::Assigned, Some(agent)).await;
        assert_eq!(pool::round(&world.app).await.expect("a round"), Actions::default());
        assert_eq!(world.count(RETIRING).await, 1);
        let report = reconcile::sweep(&world.app, false).await.expect("a sweep");
        let stuck: Vec<_> = report.stuck.iter().map(|line| (line.cloud.as_str(), line.agent)).collect();
        assert_eq!((stuck, report.is_clean()), (vec![("aleph", None), ("aleph", Some(agent))], false));
        assert!(report.to_string().contains("Set CLOUD and its variables back"), "{report}");
        world.end().await;
    }
}
