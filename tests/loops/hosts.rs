//! Rows of hosts.

use baal::cloud::hosts::{self, AddError, RemoveError};
use baal::cloud::places;
use baal::cloud::store::{self, Machine, Vm, VmState};
use baal::ssh::Address;
use uuid::Uuid;

use crate::world::World;

fn address(n: u8) -> Address {
    Address { host: format!("192.0.2.{n}"), port: 22 }
}

fn vm(place: store::HostPlace, agent_id: Option<i64>) -> Vm {
    let state = if agent_id.is_some() { VmState::Assigned } else { VmState::Warm };
    Vm {
        id: Uuid::now_v7(),
        agent_id,
        state,
        machine: Machine::Host(place),
        host_key: None,
        name: None,
        touched: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_given_to_one_machine_at_a_time() {
    let world = World::new(&[("CLOUD", "hosts")]).await;
    let mut conn = world.app.db.acquire().await.expect("a connection");
    for n in 1..=3 {
        hosts::insert(&mut conn, &address(n), None, &format!("ssh-ed25519 AAA{n}")).await.expect("inserted");
    }

    let take = |world: &World| {
        let db = world.app.db.clone();
        async move {
            let mut tx = db.begin().await.expect("begun");
            let place = hosts::free(&mut tx).await.expect("asked");
            if let Some(place) = place.clone() {
                store::insert_machine(&mut tx, &vm(place, None)).await.expect("one machine a host");
            }
            tx.commit().await.expect("committed");
            place.map(|place| place.host_id)
        }
    };
    let taken = futures_util::future::join_all((0..12).map(|_| take(&world))).await;
    let mut taken: Vec<_> = taken.into_iter().flatten().collect();
    // Those that were locked at the moment are passed over, so a later look may find one more.
    while let Some(more) = take(&world).await {
        taken.push(more);
    }
    taken.sort_unstable();
    taken.dedup();
    assert_eq!((taken.len(), world.count("select count(*) from vms").await), (3, 3));
    assert_eq!(hosts::count_free(&mut conn).await.expect("counts"), 0);
    drop(conn);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_something_on_it_is_not_removed() {
    let world = World::new(&[("CLOUD", "hosts")]).await;
    let agent = world.agent("https://a.example").await;
    let mut conn = world.app.db.acquire().await.expect("a connection");
    let id = hosts::insert(&mut conn, &address(1), Some("a.example"), "ssh-ed25519 AAAA").await.expect("inserted");
    let place = hosts::free(&mut conn).await.expect("asked").expect("is free");
    store::insert_machine(&mut conn, &vm(place, Some(agent))).await.expect("inserted");
    let refused = hosts::remove(&mut conn, id).await.expect_err("in use");
    assert!(matches!(&refused, RemoveError::InUse(why) if why.contains(&format!("agent {agent}"))), "{refused}");
    let listed = hosts::list(&mut conn).await.expect("listed");
    assert_eq!(listed[0].1.as_ref().and_then(|there| there.agent_id), Some(agent));

    sqlx::query("update vms set ended_at = now()").execute(&mut *conn).await.expect("ended");
    assert!(!hosts::remove(&mut conn, id).await.expect("removed"), "nothing is to be cleared");
    assert!(matches!(hosts::remove(&mut conn, id).await, Err(RemoveError::Unknown(_))));
    assert_eq!(hosts::free(&mut conn).await.expect("asked"), None);
    // It may come back.
    hosts::insert(&mut conn, &address(1), None, "ssh-ed25519 AAAA").await.expect("inserted");
    drop(conn);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_one_host_by_its_address_and_by_its_key() {
    let world = World::new(&[("CLOUD", "hosts")]).await;
    let mut conn = world.app.db.acquire().await.expect("a connection");
    let first = hosts::insert(&mut conn, &address(1), None, "ssh-ed25519 AAAA").await.expect("inserted");
    let again = hosts::insert(&mut conn, &address(1), None, "ssh-ed25519 BBBB").await.expect_err("is there");
    assert!(matches!(again, AddError::SameAddress { id, .. } if id == first), "{again}");
    let renamed = hosts::insert(&mut conn, &address(2), None, "ssh-ed25519 AAAA").await.expect_err("is there");
    assert!(matches!(renamed, AddError::SameMachine { id, .. } if id == first), "{renamed}");
    assert!(renamed.to_string().contains("192.0.2.2:22") && renamed.to_string().contains("host 1"), "{renamed}");
    drop(conn);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_is_removed_once_nobody_wants_what_is_on_it() {
    let world = World::new(&[("CLOUD", "hosts")]).await;
    let agent = world.agent("https://a.example").await;
    let mut conn = world.app.db.acquire().await.expect("a connection");
    let mut taken = Vec::new();
    for n in 1..=3 {
        let key = format!("ssh-ed25519 AAA{n}");
        taken.push(hosts::insert(&mut conn, &address(n), None, &key).await.expect("inserted"));
        let place = hosts::free(&mut conn).await.expect("asked").expect("is free");
        let machine = vm(place, (n == 1).then_some(agent));
        store::insert_machine(&mut conn, &Vm { host_key: Some(key), ..machine.clone() }).await.expect("inserted");
        if n == 2 {
            store::retire(&mut conn, machine.id).await.expect("retired");
            sqlx::query("update jobs set run_at = now() + interval '5 min'").execute(&mut *conn).await.expect("waits");
        }
    }
    assert!(hosts::remove(&mut conn, taken[1]).await.expect("is being cleared"));
    let due = "select count(*) from jobs where kind = 'retire' and not done and run_at <= now()";
    assert_eq!(world.count(due).await, 1, "it is tried once more at once");
    assert!(matches!(hosts::remove(&mut conn, taken[0]).await, Err(RemoveError::InUse(_))));
    world.run("update agents set status = 'deleting'").await;
    assert!(hosts::remove(&mut conn, taken[0]).await.expect("its agent is being deleted"));
    let warm = hosts::remove(&mut conn, taken[2]).await.expect_err("in the pool");
    assert!(warm.to_string().contains("POOL_ENABLED"), "{warm}");

    // Added again, it is not used before what was there is gone.
    hosts::insert(&mut conn, &address(2), None, "ssh-ed25519 AAA2").await.expect("inserted");
    assert_eq!(hosts::free(&mut conn).await.expect("asked"), None);
    assert_eq!(hosts::count_free(&mut conn).await.expect("counts"), 0);
    world.run("update vms set ended_at = now() where state = 'retiring'").await;
    assert!(hosts::free(&mut conn).await.expect("asked").is_some());
    drop(conn);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_another_machine_is_never_pinned() {
    let world = World::new(&[]).await;
    let (first, second) = (world.vm("aa", VmState::Warm, None).await, world.vm("bb", VmState::Preparing, None).await);
    let mut tx = world.app.db.begin().await.expect("begun");
    hosts::insert(&mut tx, &address(1), None, "ssh-ed25519 HOST").await.expect("inserted");
    assert!(places::pin(&mut tx, first, "ssh-ed25519 AAAA").await.expect("pinned"));
    assert!(places::pin(&mut tx, first, "ssh-ed25519 AAAA").await.expect("pinned twice is pinned once"));
    assert!(!places::pin(&mut tx, second, "ssh-ed25519 AAAA").await.expect("refused"));
    assert!(!places::pin(&mut tx, second, "ssh-ed25519 HOST").await.expect("refused"));
    assert!(places::pin(&mut tx, second, "ssh-ed25519 BBBB").await.expect("the transaction lives on"));
    tx.commit().await.expect("committed");
    world.run("update vms set host_key = null").await;

    // Two at the same moment: one of them has it.
    let pin = |vm| {
        let db = world.app.db.clone();
        async move {
            let mut tx = db.begin().await.expect("begun");
            let pinned = places::pin(&mut tx, vm, "ssh-ed25519 CCCC").await.expect("no error of the database");
            tx.commit().await.expect("committed");
            pinned
        }
    };
    let (one, other) = tokio::join!(pin(first), pin(second));
    assert!(one != other);
    assert_eq!(world.count("select count(*) from vms where host_key is not null").await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_shows_its_own_key_to_its_own_machine() {
    let world = World::new(&[("CLOUD", "hosts")]).await;
    let mut conn = world.app.db.acquire().await.expect("a connection");
    hosts::insert(&mut conn, &address(1), None, "ssh-ed25519 AAAA").await.expect("inserted");
    let machine = vm(hosts::free(&mut conn).await.expect("asked").expect("is free"), None);
    store::insert_machine(&mut conn, &machine).await.expect("inserted");
    assert!(places::pin(&mut conn, machine.id, "ssh-ed25519 AAAA").await.expect("pinned"));
    drop(conn);
    world.end().await;
}
