//! Rows of hosts.

use baal::cloud::hosts::{self, RemoveError};
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
        hosts::insert(&mut conn, &address(n), None, "ssh-ed25519 AAAA").await.expect("inserted").expect("is new");
    }
    assert_eq!(hosts::insert(&mut conn, &address(1), None, "ssh-ed25519 AAAA").await.expect("asked"), None);

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
    let id = id.expect("is new");
    let place = hosts::free(&mut conn).await.expect("asked").expect("is free");
    store::insert_machine(&mut conn, &vm(place, Some(agent))).await.expect("inserted");
    let refused = hosts::remove(&mut conn, id).await.expect_err("in use");
    assert!(matches!(&refused, RemoveError::InUse(why) if why.contains(&format!("agent {agent}"))), "{refused}");
    let listed = hosts::list(&mut conn).await.expect("listed");
    assert_eq!(listed[0].1.as_ref().and_then(|there| there.agent_id), Some(agent));

    sqlx::query("update vms set ended_at = now()").execute(&mut *conn).await.expect("ended");
    hosts::remove(&mut conn, id).await.expect("removed");
    assert!(matches!(hosts::remove(&mut conn, id).await, Err(RemoveError::Unknown(_))));
    assert_eq!(hosts::free(&mut conn).await.expect("asked"), None);
    // It may come back.
    assert!(hosts::insert(&mut conn, &address(1), None, "ssh-ed25519 BBBB").await.expect("inserted").is_some());
    drop(conn);
    world.end().await;
}
