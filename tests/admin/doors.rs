//! The bot and the API refuse the same creations with the same words.

use serde_json::{Value, json};

use crate::agents::insert_agent;
use crate::api::Api;
use crate::harness::{Stack, User};

/// Where the bot's wizard refuses.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Its first question.
    Name,
    /// Its second question.
    Personality,
    /// Its last press. What no button offers is put into the dialogue by hand, as a button of an older version could have.
    Create,
}

/// A creation that is refused: the step, what is asked for, the status and the field at fault, and part of the words.
type Refused<'a> = (Step, Value, u16, &'a str, &'a str);

fn good() -> Value {
    json!({"name": "Eve", "system_prompt": "You sneak.", "model": "glm-4.7", "visibility": "public"})
}

fn with(field: &str, value: &str) -> Value {
    let mut new = good();
    new[field] = value.into();
    new
}

/// What the API says.
async fn by_api(api: &Api, owner: i64, (_, new, status, field, part): &Refused<'_>) -> String {
    let mut new = new.clone();
    new["owner_id"] = owner.into();
    let answer = api.post("/agents", new).await;
    let fields: Vec<_> =
        answer.body["errors"].as_array().into_iter().flatten().map(|error| error["field"].clone()).collect();
    assert_eq!(fields, if field.is_empty() { vec![] } else { vec![Value::from(*field)] }, "{:#}", answer.body);
    let words = answer.problem(*status, if *status == 422 { "invalid" } else { "conflict" });
    assert!(words.contains(part), "{words}");
    words
}

/// Walks through the wizard until the bot says these words.
async fn by_bot(stack: &Stack, user: &User<'_>, (step, new, ..): &Refused<'_>, words: &str) {
    let text = |field: &str| new[field].as_str().unwrap();
    let below = match step {
        Step::Name | Step::Personality => {
            let mut question = user.asks("/create", "1 of 3").await;
            if matches!(step, Step::Personality) {
                question = user.asks(text("name"), "2 of 3").await;
            }
            user.says(if matches!(step, Step::Personality) { text("system_prompt") } else { text("name") }).await;
            question.message_id
        }
        Step::Create => {
            let before = user.asks("/list", "agents").await;
            let dialogue = json!({"step": "confirm", "name": text("name"), "prompt": text("system_prompt"),
                "model": text("model"), "visibility": text("visibility")});
            sqlx::query(
                "insert into conversations (bot_id, chat_id, dialogue_id, dialogue) values (1000000001, $1, 7, $2)
                 on conflict (bot_id, chat_id) do update set dialogue_id = 7, dialogue = excluded.dialogue",
            )
            .bind(user.id)
            .bind(dialogue)
            .execute(&stack.db)
            .await
            .unwrap();
            user.forges(before.message_id, "d:7:confirm:yes").await;
            before.message_id
        }
    };
    user.wait_for(|m| m.is_reply() && m.message_id > below && m.text == words).await;
    user.asks("/cancel", "").await;
}

/// All of them, through both doors.
async fn try_both(stack: &Stack, cases: &[Refused<'_>]) {
    let (api, ann) = (Api::of(stack), stack.user(1));
    ann.asks("/start", "Hello").await;
    let count = || stack.sql::<i64>("select count(*) from agents");
    let before = count().await;
    for case in cases {
        let words = by_api(&api, 1, case).await;
        by_bot(stack, &ann, case, &words).await;
    }
    assert_eq!(count().await, before);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_can_be_made_of_is_refused_with_the_same_words() {
    let stack = Stack::start().await;
    let (long, longer) = ("é".repeat(65), "x".repeat(16_385));
    try_both(
        &stack,
        &[
            (Step::Name, with("name", "\u{2800}"), 422, "name", "The name is empty."),
            (Step::Name, with("name", &long), 422, "name", "That name has 65 characters; send one with at most 64."),
            (Step::Name, with("name", "two\nlines"), 422, "name", "one line of plain text"),
            (Step::Name, with("name", "\u{202e}sdrawkcab"), 422, "name", "one line of plain text"),
            (Step::Create, with("system_prompt", "\u{3000}"), 422, "system_prompt", "The personality is empty."),
            (Step::Create, with("system_prompt", ""), 422, "system_prompt", "The personality is empty."),
            (Step::Personality, with("system_prompt", &longer), 422, "system_prompt", "is 16385 bytes long"),
            (Step::Create, with("name", ""), 422, "name", "The name is empty."),
            (Step::Create, with("model", "gpt-9"), 422, "model", "That model is not offered. Choose one of: "),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_as_many_agents_as_they_may_is_refused_with_the_same_words() {
    let stack = Stack::builder().env("MAX_AGENTS_PER_USER", 1).start().await;
    insert_agent(&stack, 1, "Ada", "public", "running").await;
    try_both(&stack, &[(Step::Create, good(), 409, "", "You already have 1 of 1 agents.")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_an_invitation_is_refused_with_the_same_words() {
    let stack = Stack::builder().env("CREATE_POLICY", "invite").start().await;
    try_both(&stack, &[(Step::Create, good(), 409, "", "Creating agents here takes an invitation.")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_operators_create_agents_others_are_refused_with_the_same_words() {
    let stack = Stack::builder().env("CREATE_POLICY", "operators").env("OPERATOR_IDS", "9").start().await;
    try_both(&stack, &[(Step::Create, good(), 409, "", "Only the people who run this bot create agents here.")]).await;
    // The operator may, through the API as well.
    stack.user(9).asks("/start", "Hello").await;
    let mut new = good();
    new["owner_id"] = 9.into();
    Api::of(&stack).post("/agents", new).await.is(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_users_own_are_refused_with_the_same_words() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    stack.user(1).asks("/start", "Hello").await;
    api.patch("/users/1", json!({"max_agents": 0})).await.is(200);
    let none = "The people who run this bot don't let you create agents here.";
    try_both(&stack, &[(Step::Create, good(), 409, "", none)]).await;
    for name in ["Ada", "Bea"] {
        insert_agent(&stack, 1, name, "public", "running").await;
    }
    api.patch("/users/1", json!({"max_agents": 2})).await.is(200);
    try_both(&stack, &[(Step::Create, good(), 409, "", "You already have 2 of 2 agents.")]).await;
}

/// In the chat such people get no further than to be told so; see people.rs. The creation itself is refused as well.
#[tokio::test(flavor = "multi_thread")]
async fn for_who_is_shut_out_or_being_forgotten_nothing_is_created_by_either_door() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    let before = ann.asks("/list", "no agents").await;
    let dialogue =
        json!({"step": "confirm", "name": "Eve", "prompt": "You sneak.", "model": "glm-4.7", "visibility": "public"});
    sqlx::query(
        "insert into conversations (bot_id, chat_id, dialogue_id, dialogue) values (1000000001, 1, 7, $1)
         on conflict (bot_id, chat_id) do update set dialogue_id = 7, dialogue = excluded.dialogue",
    )
    .bind(dialogue)
    .execute(&stack.db)
    .await
    .unwrap();
    api.post("/users/1/block", Value::Null).await.is(200);
    let mut new = good();
    new["owner_id"] = 1.into();
    let words = api.post("/agents", new.clone()).await.problem(409, "conflict");
    assert_eq!(words, "The people who run this bot have blocked you, so no agent is created for you.");
    let press = ann.forges(before.message_id, "d:7:confirm:yes").await;
    assert!(stack.simulator.notice(&press).await.contains("have blocked you"));

    api.post("/users/1/unblock", Value::Null).await.is(200);
    sqlx::query("update users set forgetting_since = now()").execute(&stack.db).await.unwrap();
    let words = api.post("/agents", new).await.problem(409, "conflict");
    assert_eq!(words, "User 1 is being forgotten, as they asked for.");
    ann.forges(before.message_id, "d:7:confirm:yes").await;
    stack.handles_all().await;
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 0);
    assert_eq!(stack.errors(), [""; 0]);
}
