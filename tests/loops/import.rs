//! Machines of agents that were taken over from the Python system: they do not carry our installation's id.

use baal::agents::service;
use baal::cloud::reconcile::{Outcome, Report, sweep};
use baal::python::{Options, import};

use crate::network::Network;
use crate::python::{Python, hash};
use crate::world::World;

struct Scene {
    world: World,
    network: Network,
    account: String,
    python: Python,
    _dir: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (network, variables) = Network::start().await;
    let mut all: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.push(("RECONCILE_GRACE_SECONDS", "600"));
    let world = World::new(&all).await;
    let account = world.app.aleph.as_ref().expect("an account").address();
    let dir = tempfile::tempdir().expect("a directory");
    let python = Python::new(dir.path());
    python.user(7, None);
    Scene { world, network, account, python, _dir: dir }
}

impl Scene {
    /// An instance that the Python system made on the same account.
    fn theirs(&self) -> String {
        self.network.add(&self.account, None, None, 90_000)
    }

    fn options(&self, retire_pool: bool) -> Options {
        Options {
            baal_db: self.python.baal_db(),
            pool_db: Some(self.python.pool_db()),
            retire_pool,
            key_is_lost: false,
            dry_run: false,
            json: false,
        }
    }

    /// Sweeps, eleven minutes later than the one before.
    async fn sweep(&self) -> Report {
        let report = sweep(&self.world.app, false).await.expect("a sweep");
        self.world.run("update installation set swept_at = swept_at - interval '11 min'").await;
        self.world.run("update vms set missing_since = missing_since - interval '11 min', created_at = created_at - interval '11 min'").await;
        self.world.run("update stray_instances set first_seen_at = first_seen_at - interval '11 min'").await;
        report
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_were_taken_over_are_neither_missing_nor_strangers_and_never_given_up() {
    let scene = scene().await;
    let (there, gone, stranger) = (scene.theirs(), hash(9), scene.theirs());
    scene.python.agent(1, 7, &there, "https://one.example.org", "s");
    scene.python.agent(2, 7, &gone, "https://two.example.org", "s");
    let report = import(&scene.world.app, &scene.options(false)).await.expect("imports");
    assert_eq!((report.taken.agents_running, report.taken.machines), (2, 2), "{report}");
    assert!(report.notes.iter().any(|note| note.contains("Agent 2") && note.contains(&gone)), "{report}");

    for round in 0..4 {
        let swept = scene.sweep().await;
        assert_eq!((swept.matched, swept.strays.len(), swept.abandoned.len()), (1, 0, 0), "{round}: {swept}");
        let others: Vec<_> = swept.others.iter().map(|other| other.item_hash.as_str()).collect();
        assert_eq!(others, [stranger.as_str()], "{round}");
        // What the cloud does not know is for its owner to decide about.
        let outcome = if round < 2 { None } else { Some(&Outcome::OwnersChoice) };
        assert!(outcome.is_none_or(|outcome| swept.missing[0].outcome == *outcome), "{round}: {swept}");
    }
    assert_eq!(scene.world.count("select count(*) from vms where ended_at is null and state = 'assigned'").await, 2);
    assert_eq!(scene.world.count("select count(*) from jobs").await, 0);

    // Deleting one has its machine removed like any other.
    let mut tx = scene.world.app.db.begin().await.expect("a transaction");
    service::delete(&mut tx, 7, 1).await.expect("deletes");
    tx.commit().await.expect("commits");
    assert_eq!(scene.world.count("select count(*) from jobs where kind = 'deprovision' and agent_id = 1").await, 1);
    scene.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_their_pool_are_named_and_removed_only_where_that_is_wanted_and_they_are_ours() {
    let scene = scene().await;
    let (used, warm, claimed) = (scene.theirs(), scene.theirs(), scene.theirs());
    let somebody_elses = hash(8);
    scene.python.agent(1, 7, &used, "https://one.example.org", "s");
    scene.python.pooled(&used, "deployed", Some(1));
    scene.python.pooled(&warm, "warm", None);
    scene.python.pooled(&claimed, "claimed", None);
    scene.python.pooled(&somebody_elses, "warm", None);
    scene.python.pooled("pending", "failed", None);
    let report = import(&scene.world.app, &scene.options(false)).await.expect("imports");
    let exist = |report: &baal::python::Report, hash: &str| {
        report.still_paid_for.iter().find(|one| one.item_hash == hash).map(|one| (one.exists, one.retired))
    };
    assert_eq!(exist(&report, &warm), Some((Some(true), false)), "{report}");
    assert_eq!(exist(&report, &somebody_elses), Some((Some(false), false)), "{report}");
    assert_eq!(exist(&report, &used), None, "{report}");
    assert_eq!(report.taken.machines_retired, 0);

    scene.network.set_down("a", true);
    assert!(import(&scene.world.app, &scene.options(true)).await.is_err(), "what is ours cannot be seen");
    scene.network.set_down("a", false);
    let report = import(&scene.world.app, &scene.options(true)).await.expect("imports");
    assert_eq!(report.taken.machines_retired, 2, "{report}");
    assert_eq!(exist(&report, &claimed), Some((Some(true), true)), "{report}");
    let retiring = "select count(*) from jobs j join vms v on v.id = j.vm_id
                     where j.kind = 'retire' and not j.done and v.state = 'retiring' and v.ended_at is null
                       and v.data #>> '{crn,url}' = 'http://127.0.0.1:9'";
    assert_eq!(scene.world.count(retiring).await, 2);
    let again = import(&scene.world.app, &scene.options(true)).await.expect("imports");
    assert!(again.taken.is_nothing(), "{again}");
    // Ours by now, as far as the reconciler is concerned.
    assert_eq!(scene.sweep().await.matched, 3);
    scene.world.end().await;
}
