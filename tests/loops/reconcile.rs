//! The reconciler.

use baal::cloud::reconcile::{Outcome, Report, sweep};
use baal::cloud::store::VmState;
use uuid::Uuid;

use crate::network::Network;
use crate::world::World;

const RETIRING: &str = "select count(*) from jobs j join vms v on v.id = j.vm_id
                         where j.kind = 'retire' and not j.done and v.state = 'retiring' and v.ended_at is null";

struct Scene {
    world: World,
    network: Network,
    account: String,
    installation: Uuid,
}

/// A grace period of ten minutes. Time passes where a test says so.
async fn scene() -> Scene {
    let (network, variables) = Network::start().await;
    let mut all: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.push(("RECONCILE_GRACE_SECONDS", "600"));
    let world = World::new(&all).await;
    let account = world.app.aleph.as_ref().expect("an account").address();
    let installation = world.installation().await;
    Scene { world, network, account, installation }
}

impl Scene {
    /// An instance of ours, made so many seconds ago.
    fn ours(&self, age: i64) -> String {
        self.network.add(&self.account, Some(self.installation), None, age)
    }

    async fn sweep(&self) -> Report {
        sweep(&self.world.app, false).await.expect("a sweep")
    }

    /// Eleven minutes pass, more than between two sweeps.
    async fn wait(&self) {
        self.world.run("update stray_instances set first_seen_at = first_seen_at - interval '11 min'").await;
        self.world.run("update installation set swept_at = swept_at - interval '11 min'").await;
        self.world.run("update vms set missing_since = missing_since - interval '11 min', created_at = created_at - interval '11 min'").await;
    }

    fn outcomes(report: &Report) -> Vec<Outcome> {
        report.strays.iter().map(|stray| stray.outcome.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_no_row_knows_gets_one_and_is_removed_after_two_sweeps_and_the_grace() {
    let scene = scene().await;
    let vm = Uuid::now_v7();
    let hash = scene.network.add(&scene.account, Some(scene.installation), Some(vm), 3_600);
    assert_eq!(Scene::outcomes(&scene.sweep().await), [Outcome::Waiting]);
    assert_eq!(scene.sweep().await.strays[0].sweeps, 1, "a moment after another it does not count");
    scene.world.run("update installation set swept_at = swept_at - interval '6 min'").await;
    let second = scene.sweep().await;
    assert_eq!((second.strays[0].sweeps, Scene::outcomes(&second)), (2, vec![Outcome::Waiting]), "no grace");
    scene.wait().await;
    let dry = sweep(&scene.world.app, true).await.expect("a sweep");
    assert_eq!(Scene::outcomes(&dry), [Outcome::WouldRemove]);
    assert_eq!(scene.world.count("select count(*) from vms").await, 0);
    assert_eq!(Scene::outcomes(&scene.sweep().await), [Outcome::Removing]);
    let made: (Uuid, String, serde_json::Value) =
        sqlx::query_as("select id, item_hash, data from vms").fetch_one(&scene.world.app.db).await.expect("a row");
    assert_eq!((made.0, &made.1, &made.2["crn"]["url"]), (vm, &hash, &serde_json::json!("http://127.0.0.1:9")));
    assert_eq!(scene.world.count(RETIRING).await, 1);
    // It is known now.
    assert_eq!(scene.sweep().await.matched, 1);
    assert_eq!(scene.world.count("select count(*) from stray_instances").await, 0);
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_row_is_opened_again_and_an_id_that_is_taken_not_used_twice() {
    let scene = scene().await;
    let (ended, other) = (scene.ours(3_600), scene.world.vm("ab", VmState::Warm, None).await);
    let row = scene.world.vm(&ended, VmState::Assigned, Some(scene.world.agent("https://a.example").await)).await;
    sqlx::query("update vms set ended_at = now() where id = $1")
        .bind(row)
        .execute(&scene.world.app.db)
        .await
        .expect("ended");
    let taken = scene.network.add(&scene.account, Some(scene.installation), Some(other), 3_600);
    scene.sweep().await;
    scene.wait().await;
    scene.sweep().await;
    let reopened = sqlx::query_scalar::<_, bool>("select ended_at is null and agent_id is null from vms where id = $1");
    assert!(reopened.bind(row).fetch_one(&scene.world.app.db).await.expect("reads"));
    let id: Uuid = sqlx::query_scalar("select id from vms where item_hash = $1")
        .bind(&taken)
        .fetch_one(&scene.world.app.db)
        .await
        .expect("a row");
    assert_ne!(id, other);
    assert_eq!(scene.world.count(RETIRING).await, 3, "those two, and the pool's machine that the cloud lost");
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_is_reported_and_never_touched() {
    let scene = scene().await;
    scene.network.add(&scene.account, Some(Uuid::now_v7()), None, 900_000);
    scene.network.add(&scene.account, None, None, 900_000);
    scene.network.add("0x0000000000000000000000000000000000000001", Some(scene.installation), None, 900_000);
    for _ in 0..4 {
        let report = scene.sweep().await;
        assert_eq!((report.other_count, report.strays.len()), (2, 0));
        scene.wait().await;
    }
    assert_eq!(
        scene.world.count("select count(*) from vms").await + scene.world.count("select count(*) from jobs").await,
        0
    );
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_from_nodes_that_do_not_answer_or_disagree() {
    let scene = scene().await;
    let hash = scene.ours(3_600);
    scene.world.vm("ab", VmState::Warm, None).await;
    scene.network.set_down("b", true);
    for _ in 0..4 {
        sweep(&scene.world.app, false).await.expect_err("not all nodes answer");
        scene.wait().await;
    }
    assert_eq!(scene.world.count("select count(*) from stray_instances").await, 0);
    assert_eq!(scene.world.count("select sum(missing_sweeps) from vms").await, 0);
    scene.network.set_down("b", false);

    // Asked once more, all say that it is over: the list was behind.
    scene.sweep().await;
    scene.wait().await;
    scene.network.set("b", &hash, Some("forgotten"));
    scene.network.set("a", &hash, Some("rejected"));
    let report = scene.sweep().await;
    assert_eq!(Scene::outcomes(&report), [], "it is listed nowhere");
    assert_eq!(scene.world.count("select count(*) from stray_instances").await, 0);

    // One node still lists it: its sweeps begin anew.
    scene.wait().await;
    scene.network.set("a", &hash, Some("processed"));
    assert_eq!(Scene::outcomes(&scene.sweep().await), [Outcome::Waiting]);
    scene.wait().await;
    assert_eq!(Scene::outcomes(&scene.sweep().await), [Outcome::Removing]);
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_only_reports_acts_again_when_that_is_confirmed() {
    let scene = scene().await;
    scene.ours(3_600);
    let preparing = scene.world.vm("ab", VmState::Preparing, None).await;
    scene.world.run("update installation set report_only = true").await;
    for _ in 0..3 {
        scene.sweep().await;
        scene.wait().await;
    }
    let report = scene.sweep().await;
    assert_eq!((Scene::outcomes(&report), &report.abandoned), (vec![Outcome::WouldRemove], &vec![preparing]));
    assert_eq!((scene.world.count(RETIRING).await, scene.world.count("select count(*) from vms").await), (0, 1));
    scene.world.run("update installation set report_only = false").await;
    assert_eq!(Scene::outcomes(&scene.sweep().await), [Outcome::Removing]);
    assert_eq!(scene.world.count(RETIRING).await, 2);
    let kept = "select count(*) from installation where reconciled_at is not null and report ->> 'matched' = '0'";
    assert_eq!(scene.world.count(kept).await, 1);
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_the_cloud_lost_leave_the_pool_and_stay_their_agents() {
    let scene = scene().await;
    let agent = scene.world.agent("https://a.example").await;
    let (warm, assigned) = ("ab", "cd");
    scene.world.vm(warm, VmState::Warm, None).await;
    scene.world.vm(assigned, VmState::Assigned, Some(agent)).await;
    let found = scene.ours(3_600);
    scene.world.vm(&found, VmState::Warm, None).await;
    scene.wait().await;
    let first = scene.sweep().await;
    assert!(first.missing.iter().all(|missing| missing.outcome == Outcome::Waiting) && first.missing.len() == 2);
    scene.wait().await;
    let second = scene.sweep().await;
    let mut outcomes: Vec<_> = second.missing.iter().map(|m| (m.item_hash.as_str(), m.outcome.clone())).collect();
    outcomes.sort_by_key(|(hash, _)| *hash);
    assert_eq!(outcomes, [(warm, Outcome::Removing), (assigned, Outcome::OwnersChoice)]);
    assert_eq!((scene.world.count(RETIRING).await, second.matched), (1, 1));
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_nobody_has_is_removed_unless_a_job_works_at_it() {
    let scene = scene().await;
    let (busy, idle) = (scene.ours(60), scene.ours(60));
    let busy = scene.world.vm(&busy, VmState::Preparing, None).await;
    let idle = scene.world.vm(&idle, VmState::Preparing, None).await;
    sqlx::query("insert into jobs (id, kind, step, state) values (gen_random_uuid(), 'prepare', 'create', jsonb_build_object('vm', $1::text))")
        .bind(busy)
        .execute(&scene.world.app.db)
        .await
        .expect("a job");
    assert_eq!(scene.sweep().await.abandoned, [idle]);
    assert_eq!(scene.world.count(RETIRING).await, 1);
    assert_eq!(scene.sweep().await.abandoned, [] as [Uuid; 0]);
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_at_once_make_one_row_and_one_job() {
    let scene = scene().await;
    scene.ours(3_600);
    scene.sweep().await;
    scene.wait().await;
    let sweeps = futures_util::future::join_all((0..6).map(|_| sweep(&scene.world.app, false))).await;
    assert!(sweeps.iter().any(Result::is_ok));
    assert_eq!((scene.world.count(RETIRING).await, scene.world.count("select count(*) from vms").await), (1, 1));
    scene.world.end().await;
}
