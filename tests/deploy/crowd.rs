//! Many agents at once, a pool, and not enough machines.

use std::time::Duration;

use crate::chat::{delete, wish};
use crate::field::{Field, PATIENCE};

const AGENTS: i64 = 10;
/// More than MAX_VMS, because one that is released has to be cleaned.
const MACHINES: u32 = 5;
const MAX_VMS: u32 = 4;

/// Writes down, within the transactions that break them, rules that no machine and no count may break.
const WATCH: &str = "
    create table breaches (what text, at timestamptz default clock_timestamp());
    create or replace function watch() returns trigger language plpgsql as $$ begin
      if (select count(*) from vms where ended_at is null) > 4 then
        insert into breaches values ('more machines than MAX_VMS'); end if;
      if (select count(*) from vms where ended_at is null and state in ('warm', 'preparing')) > 3 then
        insert into breaches values ('more machines in the pool than POOL_MAX_SIZE'); end if;
      if tg_op = 'UPDATE' and old.agent_id is not null and new.agent_id is not null and old.agent_id <> new.agent_id then
        insert into breaches values ('a machine went from agent to agent'); end if;
      if tg_op = 'UPDATE' and old.touched and new.state = 'warm' then
        insert into breaches values ('a machine with an agent''s files went into the pool'); end if;
      return null; end $$;
    create trigger watch after insert or update on vms for each row execute function watch();";

#[tokio::test(flavor = "multi_thread")]
async fn ten_agents_at_once_share_a_pool_and_too_few_machines() {
    let env = [
        ("POOL_ENABLED", "true".to_owned()),
        ("POOL_MIN_SIZE", "3".into()),
        ("POOL_MAX_SIZE", "3".into()),
        ("MAX_VMS", MAX_VMS.to_string()),
        // A machine that is just being cleaned is no fault of its node.
        ("CRN_AVOID_SECONDS", "0".into()),
        ("FREE_TIER_DAILY_MESSAGES", "1000".into()),
    ];
    let field = Field::build(MACHINES, |mut builder| {
        for (name, value) in env {
            builder = builder.env(name, value);
        }
        builder.replicas(2)
    });
    let field = field.await;
    let stack = &field.stack;
    sqlx::raw_sql(WATCH).execute(&stack.db).await.unwrap();
    let warm = "select count(*) from vms where state = 'warm' and ended_at is null";
    stack.wait_for_sql_within(PATIENCE, warm, 3_i64).await;

    let users: Vec<_> = (1..=AGENTS).map(|id| stack.user(id)).collect();
    futures_util::future::join_all(users.iter().map(|user| wish(user, "Ada"))).await;
    // Whoever finds no machine waits in line, in order.
    stack.wait_for_sql("select count(*) > 0 from jobs where waiting_since is not null and not done", true).await;
    let last = "select a.owner_id from jobs j join agents a on a.id = j.agent_id where j.waiting_since is not null and not j.done
                order by j.waiting_since desc, j.id desc limit 1";
    let last = stack.sql::<i64>(last).await;
    stack.user(last).wait_for(|m| m.text.contains("in line")).await;

    // Each is used and deleted as soon as it runs, so that others get their turn.
    for _ in 0..AGENTS {
        let running = async {
            loop {
                let row: Option<(i64, i64)> =
                    sqlx::query_as("select id, owner_id from agents where status = 'running' order by id limit 1")
                        .fetch_optional(&stack.db)
                        .await
                        .unwrap();
                match row {
                    Some(row) => return row,
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let (id, owner) = tokio::time::timeout(PATIENCE, running).await.expect("another agent should run");
        let user = stack.user(owner);
        user.wait_for(|m| m.text.contains("Ada is ready!")).await;
        user.asks("hello", "message 1 of our conversation").await;
        delete(&field.stack, &user, id).await;
    }
    assert_eq!(stack.sql::<i64>("select count(*) from agents where status = 'deleted'").await, AGENTS);
    // The pool is full again, and nothing else is left.
    stack.wait_for_sql_within(PATIENCE, warm, 3_i64).await;
    field.rests().await;
    assert_eq!(field.paid().await.len(), 3);
    let breaches: Vec<String> =
        sqlx::query_scalar("select what from breaches order by at").fetch_all(&stack.db).await.unwrap();
    assert_eq!(breaches, Vec::<String>::new());
    let twice =
        "select count(*) from (select agent_id from vms where agent_id is not null group by 1 having count(*) > 1) x";
    assert_eq!(stack.sql::<i64>(twice).await, 0, "an agent took more than one machine though none failed");
}
