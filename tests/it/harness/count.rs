//! Counting what came of many messages: nothing is lost, nothing is done twice.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use super::{Message, POLL, Simulator};

/// What user `user` says as their message no. `number`, from 1.
pub fn words(user: i64, number: usize) -> String {
    format!("user {user} says no. {number}.")
}

/// The simulated model says how many messages a conversation has had; the numbers, in the chat's order.
pub fn counts(messages: &[Message]) -> Vec<usize> {
    messages.iter().filter(|m| m.is_reply()).filter_map(count_of).collect()
}

fn count_of(message: &Message) -> Option<usize> {
    let (_, rest) = message.text.split_once("This is message ")?;
    rest.split(' ').next()?.parse().ok()
}

/// Waits until each of the users 1 to `users` has answers to [`words`] 1 to `per_user`. Then every message is covered by
/// exactly one turn, in order, and every turn answered; what was sent twice is recorded as uncertain; the model was asked
/// once.
pub async fn assert_nothing_lost_nothing_twice(simulator: &Simulator, db: &PgPool, users: i64, per_user: usize) {
    const COVERED: &str =
        "select coalesce(sum(cardinality(message_ids)), 0)::int8 from turns where done and kind = 'message'";
    wait_for(db, COVERED, users * per_user as i64).await;
    for queue in ["turns", "outbox", "updates"] {
        wait_for(db, &format!("select count(*) from {queue} where not done"), 0).await;
    }
    assert_eq!(count(db, "select count(*) from turns where status <> 'completed'").await, 0);
    assert_eq!(count(db, "select count(*) from updates where error is not null").await, 0, "dead letters");
    let disorder = count(
        db,
        "select count(*) from (
           select m.id, lag(m.id) over (partition by t.chat_id order by t.position, m.place) as before
             from turns t, unnest(t.message_ids) with ordinality m (id, place)) all_messages where id <= before",
    );
    assert_eq!(disorder.await, 0, "messages out of order");

    let asked = simulator.ask_model("/sim/requests").await;
    let questions: Vec<(Vec<&str>, i64)> = asked["by_message"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(question, times)| (question.split("\n\n").collect(), times.as_i64().unwrap()))
        .collect();
    // A row that was in flight at two kills is sent three times.
    let repeated: HashMap<i64, i64> =
        sqlx::query_as("select chat_id, sum(attempt - 1)::int8 from outbox where uncertain group by 1")
            .fetch_all(db)
            .await
            .unwrap()
            .into_iter()
            .collect();
    for user in 1..=users {
        for number in 1..=per_user {
            let words = words(user, number);
            let times: i64 = questions.iter().filter(|(said, _)| said.contains(&&*words)).map(|(_, times)| times).sum();
            assert_eq!(times, 1, "how often the model was asked: {words}");
        }
        let turns = count(db, &format!("select count(*) from turns where user_id = {user} and kind = 'message'")).await;
        let messages = simulator.user(user).messages().await;
        let answers = counts(&messages);
        let mut once = answers.clone();
        once.dedup();
        assert_eq!(once, (1..=turns as usize).collect::<Vec<_>>(), "answers to user {user}, in order");
        // Everything that came twice, first pieces and commands' answers included, was in flight at a kill.
        let sent = messages.iter().filter(|m| m.is_reply()).count() as i64;
        let rows = format!("select count(*) from outbox where chat_id = {user} and method = 'sendMessage'");
        let rows = count(db, &rows).await;
        let extra = sent - rows;
        let allowed = repeated.get(&user).copied().unwrap_or(0);
        assert!(
            (0..=allowed).contains(&extra),
            "user {user}: {sent} messages from {rows} rows, {allowed} of them sent again as uncertain"
        );
    }
    assert_eq!(simulator.get("/sim/violations").await, json!([]));
}

async fn wait_for(db: &PgPool, query: &str, wanted: i64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    loop {
        let found = count(db, query).await;
        if found == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{query} gives {found} and never became {wanted}");
        tokio::time::sleep(POLL).await;
    }
}

async fn count(db: &PgPool, query: &str) -> i64 {
    // The numbers within are the test's own.
    let found = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(db).await;
    found.unwrap_or_else(|error| panic!("{query}: {error}"))
}
