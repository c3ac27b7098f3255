//! What owners do in their chats.

use serde_json::{Value, json};

use crate::field::PATIENCE;
use crate::harness::{POLL, Stack, User};

/// The wizard to its end, without waiting for what comes of it.
pub async fn wish(user: &User<'_>, name: &str) {
    user.asks("/create", "1 of 3").await;
    user.asks(name, "2 of 3").await;
    let question = user.asks("You count.", "3 of 3").await;
    user.press(question.message_id, &question.buttons()[0].data).await;
    user.presses("✅ Create").await;
}

/// Creates an agent by the wizard and waits until it is said to be ready; gives its number.
#[track_caller]
pub fn create<'a>(stack: &'a Stack, user: &'a User<'a>, name: &'a str) -> impl Future<Output = i64> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let known: i64 = stack.sql("select coalesce(max(id), 0) from agents").await;
        wish(user, name).await;
        let link = |text: &str| -> Option<i64> {
            let (_, number) = text.split_once("is ready!")?.1.split_once("start=agent_")?;
            number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok().filter(|id| *id > known)
        };
        user.wait_until(|messages| {
            for message in messages.iter().filter(|message| message.is_reply()) {
                let failed = message.text.starts_with('❌') && message.text.contains(name);
                assert!(!failed, "{caller}: {}", message.text);
            }
            messages.iter().filter(|message| message.is_reply()).find_map(|message| link(&message.text))
        })
        .await
    }
}

/// Has the agent asked something; the request that reached the model.
pub async fn talk(stack: &Stack, user: &User<'_>, question: &str) -> Value {
    let answer = format!("I heard: {question}");
    let script = json!({"match": question, "replies": [{"content": answer}]});
    stack.simulator.tell_model("/sim/script", script).await;
    user.asks(question, &answer).await;
    let asked = stack.simulator.ask_model("/sim/requests").await;
    let of_question = |request: &&Value| request["messages"].to_string().contains(question);
    asked["requests"].as_array().unwrap().iter().rfind(of_question).unwrap().clone()
}

/// `/repair`, until it has ended well.
pub async fn repair(stack: &Stack, user: &User<'_>, id: i64) {
    let done = "select count(*) from jobs where kind = 'repair' and outcome = 'succeeded'";
    let before: i64 = stack.sql(done).await;
    user.says(&format!("/repair {id}")).await;
    stack.wait_for_sql_within(PATIENCE, done, before + 1).await;
}

/// Deletes an agent, until nothing of it is left.
pub async fn delete(stack: &Stack, user: &User<'_>, id: i64) {
    user.asks(&format!("/delete {id}"), "for good").await;
    user.presses("Delete for good").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = sqlx::query_scalar("select status from agents where id = $1").bind(id);
        let status: String = status.fetch_one(&stack.db).await.unwrap();
        if status == "deleted" {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "agent {id} is {status} and not deleted");
        tokio::time::sleep(POLL).await;
    }
}
