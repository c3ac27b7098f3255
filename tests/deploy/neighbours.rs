//! Others on the same account: what they made is theirs, and what nobody knows any more is found and removed.

use std::time::Duration;

use aleph_sdk::messages::InstanceBuilder;
use aleph_types::account::EvmAccount;
use aleph_types::chain::Chain;
use aleph_types::channel::Channel;
use aleph_types::message::execution::base::Payment;
use aleph_types::message::execution::environment::{HostRequirements, Hypervisor, NodeRequirements};
use aleph_types::message::execution::volume::PersistentVolumeSize;
use serde_json::json;
use uuid::Uuid;

use crate::aleph::Instance;
use crate::chat::{create, delete};
use crate::field::{Field, PATIENCE};

/// Writes down what is known of a stray instance at the moment at which it is first touched.
const WITNESS: &str = "
    create table witnessed (item_hash text, sweeps int, seconds float8);
    create or replace function witness() returns trigger language plpgsql as $$ begin
      insert into witnessed select item_hash, sweeps, extract(epoch from now() - first_seen_at)
        from stray_instances where item_hash = new.item_hash;
      return new; end $$;
    create trigger witness before insert or update on vms for each row
      when (new.state = 'retiring' and new.ended_at is null) execute function witness();";

async fn instance(field: &Field, item_hash: &str) -> Instance {
    field.cloud.instances().await.into_iter().find(|i| i.item_hash == item_hash).unwrap()
}

/// An instance like ours in the same channel, that says of itself only what `metadata` says.
async fn stranger(field: &Field, installation: Option<Uuid>) -> String {
    let app = field.app();
    let aleph = app.aleph.as_ref().unwrap();
    let crn = aleph.candidates(&Default::default()).await.unwrap().remove(0);
    let mut instance = aleph.compose(&crn, installation.unwrap_or_default(), Uuid::new_v4()).await.unwrap();
    if installation.is_none() {
        instance.message = anonymous(&crn.hash);
        instance.item_hash = instance.message["item_hash"].as_str().unwrap().to_owned();
    }
    aleph.post(&instance).await.unwrap();
    instance.item_hash
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_on_the_same_account_are_left_alone_and_what_was_lost_is_found() {
    let first = Field::build(2, |builder| builder.env("RECONCILE_GRACE_SECONDS", 4)).await;
    let second = Field::within(first.cloud.clone(), first.hosts.clone(), |builder| builder).await;
    sqlx::raw_sql(WITNESS).execute(&first.stack.db).await.unwrap();
    let others = [stranger(&first, Some(Uuid::new_v4())).await, stranger(&first, None).await];
    let (ann, bob) = (first.stack.user(1), second.stack.user(2));
    let ada = create(&first.stack, &ann, "Ada").await;
    let bea = create(&second.stack, &bob, "Bea").await;

    // A row is lost; what it stood for is not. Nobody sweeps before we have looked.
    first.stack.baal(0).stop().await;
    let lost: String = first.stack.sql("select item_hash from vms").await;
    sqlx::raw_sql("update jobs set vm_id = null; delete from vms").execute(&first.stack.db).await.unwrap();
    let told = first.baal(&["reconcile", "--dry-run"]).await;
    assert!(told.contains(&lost), "{told}");
    assert!(instance(&first, &lost).await.billed, "a dry run destroyed something");
    for other in &others {
        let line = told.lines().find(|line| line.contains(other));
        assert!(line.is_some_and(|line| line.contains("installation")), "{other} should be told as another's: {told}");
    }
    first.stack.baal(0).start().await;
    let gone = async {
        while instance(&first, &lost).await.status != "forgotten" || !instance(&first, &lost).await.execution.is_null()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the lost instance should be destroyed");
    let (sweeps, seconds): (i32, f64) =
        sqlx::query_as("select sweeps, seconds from witnessed where item_hash = $1 order by seconds limit 1")
            .bind(&lost)
            .fetch_one(&first.stack.db)
            .await
            .unwrap();
    assert!(sweeps >= 2 && seconds >= 4.0, "destroyed after {sweeps} sweeps and {seconds} s");

    // Sweeps that came later touched nothing of others either.
    let swept: i64 = second.stack.sql("select extract(epoch from reconciled_at)::bigint from installation").await;
    second.stack.wait_for_sql_within(PATIENCE, "select count(*) from stray_instances", 0_i64).await;
    while second.stack.sql::<i64>("select extract(epoch from reconciled_at)::bigint from installation").await
        < swept + 6
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bob.asks("hello", "message 1 of our conversation").await;
    for other in &others {
        assert!(instance(&first, other).await.billed, "{other} was somebody else's");
    }
    delete(&first.stack, &ann, ada).await;
    delete(&second.stack, &bob, bea).await;
    first.rests().await;
    second.rests().await;
    assert!(first.paid().await.is_empty() && second.paid().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_destroyed_while_core_channel_nodes_disagree_or_after_a_restore() {
    let field = Field::start(2).await;
    let ann = field.stack.user(1);
    let ada = create(&field.stack, &ann, "Ada").await;
    let hash: String = field.stack.sql("select item_hash from vms").await;

    // One node leaves it out of its list, and says that it was forgotten: that proves nothing.
    field
        .cloud
        .fault(json!([
            {"kind": "omit", "party": "ccn1", "count": 0}, {"kind": "wrong_status", "party": "ccn1", "says": "forgotten", "count": 0},
        ]))
        .await;
    sweeps(&field, 3).await;
    assert!(instance(&field, &hash).await.billed);
    assert_eq!(
        field.stack.sql::<i64>("select count(*) from vms where ended_at is null and missing_sweeps = 0").await,
        1
    );
    field.cloud.no_faults().await;

    // After a restore, which has lost the row, it is only reported until an operator says that this is right.
    sqlx::raw_sql("update installation set report_only = true; update jobs set vm_id = null; delete from vms")
        .execute(&field.stack.db)
        .await
        .unwrap();
    field.stack.wait_for_sql_within(PATIENCE, "select coalesce(max(sweeps), 0) > 6 from stray_instances", true).await;
    assert!(instance(&field, &hash).await.billed);
    let told = field.baal(&["reconcile", "--dry-run"]).await;
    assert!(told.contains(&hash), "{told}");
    // The program that runs may be the first to act on it, so what this prints is open.
    field.baal(&["reconcile", "--confirm"]).await;
    let gone = async {
        while instance(&field, &hash).await.billed {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the confirmed stray should be destroyed");
    delete(&field.stack, &ann, ada).await;
    field.rests().await;
}

/// Waits for so many sweeps that begin from now on.
async fn sweeps(field: &Field, count: usize) {
    for _ in 0..count {
        let before: Option<chrono::DateTime<chrono::Utc>> =
            field.stack.sql("select reconciled_at from installation").await;
        let newer = async {
            while field
                .stack
                .sql::<Option<chrono::DateTime<chrono::Utc>>>("select reconciled_at from installation")
                .await
                == before
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, newer).await.expect("another sweep");
    }
}

/// A signed message that says nothing of who made it.
fn anonymous(crn_hash: &str) -> serde_json::Value {
    let account = EvmAccount::new(Chain::Ethereum, &[0x5a; 32]).unwrap();
    let size = PersistentVolumeSize::try_from(20_u64 << 10).unwrap();
    let image = aleph_types::item_hash!("b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717");
    let node = NodeRequirements {
        owner: None,
        address_regex: None,
        node_hash: Some(crn_hash.into()),
        terms_and_conditions: None,
    };
    let message = InstanceBuilder::new(&account, image, size)
        .vcpus(1)
        .memory(2048_u64.into())
        .hypervisor(Hypervisor::Qemu)
        .payment(Payment::credits())
        .ssh_keys(vec!["ssh-ed25519 AAAA somebody's".into()])
        .requirements(HostRequirements { cpu: None, node: Some(node), gpu: None })
        .channel(Channel::from(baal::cloud::aleph::Aleph::CHANNEL.to_owned()))
        .build()
        .unwrap();
    serde_json::to_value(message).unwrap()
}
