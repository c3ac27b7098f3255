//! Turns whose replica dies, or whose database is away, between their claim and their question.

use serde_json::json;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::chat_in::{questions, with_agent};
use crate::far_agent::FarAgent;
use crate::harness::{Stack, User};
use crate::streaming::first_piece;

const LET_GO: &str = "delete from turns where request = '' and not done";
const VISITORS: &str = "lock table visitors in access exclusive mode";
const USAGE: &str = "lock table usage in access exclusive mode";

/// Says something that waits behind a turn that does not end before [`LET_GO`].
async fn says_and_waits(stack: &Stack, user: User<'_>, words: &str) {
    sqlx::query(
        "insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, attempt, run_at)
         select gen_random_uuid(), bot_id, chat_id, agent_id, chat_id, 'owner', '', 1, now() + interval '1 hour'
           from conversations where chat_id = $1",
    )
    .bind(user.id)
    .execute(&stack.db)
    .await
    .unwrap();
    user.says(words).await;
    stack.wait_for_sql("select count(*) from turns where not done", 2i64).await;
    stack.handles_all().await;
}

/// What waited is claimed, by a replica that cannot use this table before the transaction ends.
async fn claimed_without(stack: &Stack, lock: &'static str) -> Transaction<'static, Postgres> {
    let mut outage = stack.db.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *outage).await.unwrap();
    sqlx::query(LET_GO).execute(&stack.db).await.unwrap();
    stack.wait_for_sql("select count(*) from turns where not done and claimed_by is not null", 1i64).await;
    outage
}

/// Ends the sessions that wait for a lock; how many there were.
async fn end_waiting(conn: &mut PgConnection) -> i64 {
    // Within a transaction the view goes on showing the sessions of its first look.
    sqlx::query("select pg_stat_clear_snapshot()").execute(&mut *conn).await.unwrap();
    let end = "select count(*) filter (where pg_terminate_backend(pid, 5000)) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'";
    sqlx::query_scalar(end).fetch_one(conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_claimed_and_died_before_it_looked_is_looked_at_by_the_next_one() {
    let stack = with_agent(Stack::builder().env("LEASE_SECONDS", 2), 2).await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    says_and_waits(&stack, bob, "a question that waits").await;
    let mut outage = claimed_without(&stack, VISITORS).await;
    stack.baal(0).kill9();
    end_waiting(&mut outage).await;
    sqlx::query("update visitors set blocked_at = now()").execute(&mut *outage).await.unwrap();
    outage.commit().await.unwrap();
    stack.baal(0).start().await;
    bob.wait_for(|m| m.text.contains("its owner doesn't let you, and your message wasn't passed on.")).await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(questions(&stack).await, Vec::<String>::new());
    assert_eq!(stack.sql::<i64>("select messages from visitors").await, 0, "what was not passed on is given back");

    // What came while the agent was on its owner's key counts once that is gone.
    let key = async |key: i32| {
        sqlx::query("update agents set wanted_key = $1, deployed_key = $1").bind(key).execute(&stack.db).await.unwrap()
    };
    sqlx::query("delete from usage").execute(&stack.db).await.unwrap();
    key(1).await;
    says_and_waits(&stack, ann, "another question").await;
    key(0).await;
    let mut outage = claimed_without(&stack, USAGE).await;
    stack.baal(0).kill9();
    end_waiting(&mut outage).await;
    outage.commit().await.unwrap();
    stack.baal(0).start().await;
    ann.wait_for(|m| m.text.contains("You said: “another question”")).await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(stack.sql::<i32>("select messages from usage").await, 1);
    assert_eq!(stack.sql::<i32>("select min(attempt) from turns where kind = 'message' and user_id < 3").await, 2);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_has_been_asked_goes_on_after_a_kill_whatever_has_changed_since() {
    let stack = with_agent(Stack::builder().env("LEASE_SECONDS", 2), 3).await;
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 100, "piece_ms": 60})).await;
    let before = "with keys as (update agents set wanted_key = 1, deployed_key = 1) update links set tools = true";
    sqlx::query(before).execute(&stack.db).await.unwrap();
    for id in 1..=3 {
        stack.user(id).says(&format!("question {id}")).await;
    }
    for id in 1..=3 {
        first_piece(stack.user(id)).await;
    }
    assert_eq!(stack.sql::<i64>("select count(*) from turns where not done").await, 3, "too quick to be killed");
    stack.baal(0).kill9();
    let after = "with keys as (update agents set wanted_key = 0, deployed_key = 0),
                      shut as (update visitors set blocked_at = now() where user_id = 2)
                 update links set tools = false";
    sqlx::query(after).execute(&stack.db).await.unwrap();
    stack.baal(0).start().await;
    for id in 1..=3 {
        stack.user(id).wait_for(|m| m.text.ends_with("This is message 1 of our conversation.")).await;
    }
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    let ended = "select count(*) from turns where kind = 'message' and status = 'completed' and tools and counted = 0 and attempt = 2";
    assert_eq!(stack.sql::<i64>(ended).await, 3);
    assert_eq!(stack.sql::<i64>("select count(*) from usage").await, 0);
    let asked = stack.simulator.ask_model("/sim/requests").await;
    for id in 1..=3 {
        assert_eq!(asked["by_message"][format!("question {id}")], 1);
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_before_an_agent_without_memory_is_asked_costs_no_answer() {
    let stack = Stack::start().await;
    let far = FarAgent::start(&stack, 1, "Far", 1).await;
    let bob = stack.user(2);
    sqlx::query("update links set tools = true").execute(&stack.db).await.unwrap();
    bob.asks(&format!("/start agent_{}", far.id), "You are talking to Far").await;
    says_and_waits(&stack, bob, "hello").await;
    let looking = claimed_without(&stack, VISITORS).await;
    // That the agent is asked cannot be written down.
    let mut marking = stack.db.begin().await.unwrap();
    sqlx::query("select from turns where not done for update").execute(&mut *marking).await.unwrap();
    looking.commit().await.unwrap();
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                      and query like 'update turns set asked%'";
    for _ in 0..2 {
        stack.wait_for_sql(waiting, 1i64).await;
        assert_eq!(end_waiting(&mut marking).await, 1);
    }
    marking.commit().await.unwrap();
    bob.wait_for(|m| m.text == "On it.").await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where asked and status = 'completed'").await, 1);
    stack.simulator.assert_good_manners().await;
}
