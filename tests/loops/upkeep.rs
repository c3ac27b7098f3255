//! What the janitor does, and which jobs are claimed.

use baal::janitor;
use baal::jobs::model::Kind;
use baal::jobs::store;
use baal::replica::Replica;
use tokio_util::sync::CancellationToken;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_being_deleted_by_nobody_is_deleted_by_a_new_job() {
    let world = World::new(&[]).await;
    let running = world.agent("https://a.example").await;
    let (left, busy) = (world.agent("https://b.example").await, world.agent("https://c.example").await);
    sqlx::query("update agents set status = 'deleting' where id <> $1")
        .bind(running)
        .execute(&world.app.db)
        .await
        .expect("set");
    let mut conn = world.app.db.acquire().await.expect("a connection");
    store::enqueue(&mut conn, Kind::Provision, busy, None).await.expect("a job");
    drop(conn);
    let resumed = futures_util::future::join_all((0..6).map(|_| janitor::resume_deletions(&world.app))).await;
    assert_eq!(resumed.into_iter().map(|count| count.expect("looked up")).sum::<usize>(), 1);
    let jobs: Vec<(i64, String, String)> =
        sqlx::query_as("select agent_id, kind, step from jobs where agent_id <> $1 and not done")
            .bind(busy)
            .fetch_all(&world.app.db)
            .await
            .expect("reads");
    assert_eq!(jobs, [(left, "deprovision".to_owned(), "stop".to_owned())]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_go_after_three_months_but_for_the_last_of_an_agent() {
    let world = World::new(&[]).await;
    let agent = world.agent("https://a.example").await;
    for (days, agent) in [(200, Some(agent)), (150, Some(agent)), (100, Some(agent)), (95, None), (80, None)] {
        sqlx::query(
            "insert into jobs (id, kind, agent_id, step, done, outcome, created_at, ended_at)
             values (gen_random_uuid(), 'repair', $1, 'end', true, 'succeeded', now() - make_interval(days => $2),
                     now() - make_interval(days => $2))",
        )
        .bind(agent)
        .bind(days)
        .execute(&world.app.db)
        .await
        .expect("inserted");
    }
    world.run("insert into job_steps (job_id, step, started_at) select id, 'place', created_at from jobs").await;
    janitor::tidy_all(&world.app, &CancellationToken::new()).await;
    let ages: Vec<i32> = sqlx::query_scalar("select extract(day from now() - ended_at)::int4 from jobs order by 1")
        .fetch_all(&world.app.db)
        .await
        .expect("reads");
    assert_eq!((ages, world.count("select count(*) from job_steps").await), (vec![80, 100], 2));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_are_kept_for_removals_are_not_given_to_others() {
    let world = World::new(&[]).await;
    let replica = Replica::register(&world.app, true).await.expect("registers");
    world
        .run(
            "insert into jobs (id, kind, step, run_at)
               select gen_random_uuid(), 'prepare', 'reach', now() - interval '1 hour' from generate_series(1, 10)
               union all select gen_random_uuid(), 'retire', 'remove', now() from generate_series(1, 3)",
        )
        .await;
    let mut conn = world.app.db.acquire().await.expect("a connection");
    let mut claim = async |limit, makers| {
        let jobs = store::claim(&mut conn, replica.id(), limit, makers).await.expect("claimed");
        (jobs.iter().filter(|job| !job.step.removes()).count(), jobs.iter().filter(|job| job.step.removes()).count())
    };
    assert_eq!(claim(1, 0).await, (0, 1));
    assert_eq!(claim(7, 3).await, (3, 2));
    assert_eq!(claim(4, 0).await, (0, 0));
    assert_eq!(claim(5, 5).await, (5, 0));
    assert_eq!(claim(32, 28).await, (2, 0));
    drop(conn);
    replica.leave(&world.app.db).await;
    world.end().await;
}
