//! Who may create agents, and `/invite`.

use crate::bot::data;
use crate::harness::{Message, Stack};

/// The code in an operator's message.
fn code(message: &Message) -> String {
    let (_, rest) = message.text.split_once("?start=i_").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_lets_one_person_create_agents() {
    let stack = Stack::builder().env("CREATE_POLICY", "invite").env("OPERATOR_IDS", "9").start().await;
    let (boss, ann, bob) = (stack.user(9), stack.user(1), stack.user(2));
    ann.asks("/invite", "I don't know that command").await;
    ann.asks("/create", "takes an invitation").await;
    ann.asks("please?", "unknown, was used already or is too old").await;

    let invitation = code(&boss.asks("/invite", "lets one person create agents").await);
    assert_eq!(invitation.len(), 22);
    assert_eq!(
        stack.sql::<i64>("select count(*) from invites where expires_at between now() + interval '29 days' and now() + interval '31 days'").await,
        1
    );
    // Words within the dialogue, and the wizard goes on.
    ann.asks(&invitation, "Your invitation is good").await;
    ann.wait_for(|m| m.text.contains("1 of 3")).await;
    ann.asks("/cancel", "").await;
    // It is used up, also for whom it let in.
    bob.asks(&format!("/start i_{invitation}"), "Please ask for a new one").await;
    bob.asks("/create", "takes an invitation").await;

    let another = code(&boss.asks("/invite", "lets one person create agents").await);
    ann.asks(&format!("/start i_{another}"), "You can create agents here already").await;
    let welcome = bob.asks(&format!("/start i_{another}"), "Your invitation is good").await;
    bob.press(welcome.message_id, &data(&welcome, "Create an agent")).await;
    bob.wait_for(|m| m.text.contains("1 of 3")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from invites where used_by in (1, 2)").await, 2);

    // One that is too old; operators need none.
    let late = code(&boss.asks("/invite", "lets one person create agents").await);
    sqlx::query("update invites set expires_at = now() where used_at is null").execute(&stack.db).await.unwrap();
    stack.user(3).asks(&format!("/start i_{late}"), "Please ask for a new one").await;
    boss.asks("/create", "1 of 3").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_operators_create_agents_a_forged_wizard_creates_none() {
    let stack = Stack::builder().env("CREATE_POLICY", "operators").env("OPERATOR_IDS", "9").start().await;
    let ann = stack.user(1);
    let refused = ann.asks("/create", "Only the people who run this bot create agents here").await;
    // A wizard that was open when the policy changed.
    sqlx::query(
        "update conversations set dialogue_id = 7, dialogue =
           '{\"step\": \"confirm\", \"name\": \"Eve\", \"prompt\": \"You sneak.\", \"model\": \"glm-4.7\"}' where chat_id = 1",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    sqlx::query(
        "insert into conversations (bot_id, chat_id, dialogue_id, dialogue) values (1000000001, 1, 7,
           '{\"step\": \"confirm\", \"name\": \"Eve\", \"prompt\": \"You sneak.\", \"model\": \"glm-4.7\"}') on conflict do nothing",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    ann.forges(refused.message_id, "d:7:confirm:yes").await;
    let last = refused.message_id;
    ann.wait_for(|m| m.message_id > last && m.text.contains("Only the people who run this bot")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 0);
    ann.asks("/start i_AAAAAAAAAAAAAAAAAAAAAA", "Only the people who run this bot").await;
    stack.user(9).asks("/create", "1 of 3").await;
    stack.simulator.assert_good_manners().await;
}
