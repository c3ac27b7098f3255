//! How answers grow in the chat, and what becomes of them when Telegram, the model or the agent fails meanwhile.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use baal_protocol::{AgentLock, LOCK_FILE};
use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Builder, Message, Stack, User, built};

/// An agent of user 1 that users up to `users` are talking to.
pub(crate) async fn with_agent(builder: Builder, users: i64) -> Stack {
    let stack = builder.start().await;
    let ada = stack.user(1).creates_agent("Ada", "You count.").await;
    for id in 1..=users {
        stack.user(id).asks(&format!("/start {ada}"), "You are talking to Ada").await;
    }
    stack
}

/// Words without markup, numbered, in paragraphs.
pub(crate) fn prose(words: usize) -> String {
    (1..=words).fold(String::new(), |mut text, n| {
        let gap = if n % 40 == 0 { "\n\n" } else { " " };
        write!(text, "wörd{n}{gap}").unwrap();
        text
    })
}

/// The model answers `question` with these replies, then with its persona.
pub(crate) async fn script(stack: &Stack, question: &str, replies: Value) {
    stack.simulator.tell_model("/sim/script", json!({"match": question, "replies": replies})).await;
}

/// The replies below the newest message of the user.
pub(crate) fn answers(messages: &[Message]) -> Vec<&Message> {
    let asked = messages.iter().rev().find(|m| !m.from.is_bot).map_or(0, |m| m.message_id);
    messages.iter().filter(|m| m.is_reply() && m.message_id > asked).collect()
}

/// Text that is alike wherever it was cut.
pub(crate) fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Waits until the answer is whole: the replies together hold this text, once.
async fn whole_answer(user: User<'_>, text: &str) -> Vec<Message> {
    let wanted = squeezed(text);
    user.wait_until(|messages| {
        let answers = answers(messages);
        let all: String = answers.iter().map(|m| squeezed(&m.text)).collect();
        (all == wanted).then(|| answers.into_iter().cloned().collect())
    })
    .await
}

pub(crate) async fn calls(stack: &Stack, method: &str, chat: i64) -> Vec<Value> {
    let calls = stack.simulator.get(&format!("/sim/calls?method={method}&chat_id={chat}")).await;
    calls.as_array().unwrap().clone()
}

fn at(call: &Value) -> i64 {
    call["at_ms"].as_i64().unwrap()
}

fn status(call: &Value) -> i64 {
    call["status"].as_i64().unwrap()
}

/// Waits for the first piece of an answer.
pub(crate) async fn first_piece(user: User<'_>) -> i64 {
    user.wait_until(|messages| answers(messages).first().map(|m| m.message_id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_there_at_once_goes_out_whole() {
    let stack = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 0, "piece_ms": 0})).await;
    // The card that tells of the agent's creation is a message that is edited, too.
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let before = (calls(&stack, "sendMessage", 1).await.len(), calls(&stack, "editMessageText", 1).await.len());
    // On a busy machine the agent itself may be slow; what took long proves nothing.
    let mut quick = 0;
    for n in 1..=20 {
        let answer = ann.asks("hello", &format!("This is message {n} of our conversation.")).await;
        stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
        let (was_quick, first_piece): (bool, Option<i64>) = sqlx::query_as(
            "select ended_at - started_at < interval '250 ms', first_piece from turns order by position desc limit 1",
        )
        .fetch_one(&stack.db)
        .await
        .unwrap();
        if was_quick {
            quick += 1;
            assert_eq!((first_piece, &answer.edits["count"]), (None, &json!(0)));
        }
        if quick == 3 && n == 3 {
            let sent = calls(&stack, "sendMessage", 1).await.len() - before.0;
            let edited = calls(&stack, "editMessageText", 1).await.len() - before.1;
            assert_eq!((sent, edited), (3, 0));
        }
        if quick >= 3 {
            return stack.simulator.assert_good_manners().await;
        }
    }
    panic!("no three answers of twenty took less than 250 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_long_answers_grow_and_are_complete_and_markdown_becomes_entities() {
    let stack = with_agent(Stack::builder(), 4).await;
    // A slow one of one message.
    let slow = async {
        let (ann, text) = (stack.user(1), prose(100));
        script(&stack, "slow", json!([{"content": text, "delay_ms": 700, "piece_delay_ms": 60}])).await;
        let said = ann.says("slow").await["message_id"].as_i64().unwrap();
        let [answer] = &whole_answer(ann, &text).await[..] else { panic!("several messages") };
        assert_eq!(answer.text, text.trim());
        stack.wait_for_sql("select count(*) from turns where chat_id = 1 and not done", 0i64).await;
        let history = answer.edits["history"].as_array().unwrap();
        assert!(history.len() >= 3, "{} states before the last", history.len());
        for state in history {
            let state = state["text"].as_str().unwrap();
            assert!(text.starts_with(state), "{state:?} is no beginning of the answer");
        }
        let edits = calls(&stack, "editMessageText", 1).await;
        let edits: Vec<_> = edits.iter().filter(|call| call["message_id"] == answer.message_id).collect();
        // The last edit is the final text, which waits for nothing.
        for pair in edits[..edits.len() - 1].windows(2) {
            let gap = at(pair[1]) - at(pair[0]);
            assert!(gap >= 700, "two edits within {gap} ms");
        }
        let typing = calls(&stack, "sendChatAction", 1).await;
        let sends = calls(&stack, "sendMessage", 1).await;
        assert!(at(typing.last().unwrap()) <= at(sends.last().unwrap()), "typing is shown before the answer");
        assert!(answer.message_id > said);
    };
    // Several messages, at once and growing.
    let long = async |user: i64, question: &str, delay: u64| {
        let text = prose(1_500) + &"🙂".repeat(3_000);
        script(&stack, question, json!([{"content": text, "delay_ms": delay, "piece_delay_ms": delay / 100}])).await;
        stack.user(user).says(question).await;
        let parts = whole_answer(stack.user(user), &text).await;
        assert!(parts.len() >= 5, "{} messages", parts.len());
        for part in &parts {
            assert!(part.text.encode_utf16().count() <= 4_096);
        }
    };
    let marked = async {
        let dan = stack.user(4);
        let text = "A **bold** word.\n\n- one\n- _two_\n\n```rust\nfn main() {\n    // **not bold**\n}\n```\n\nThe `end` & <b>.";
        script(&stack, "marked", json!([{"content": text, "piece_delay_ms": 100}])).await;
        let answer = dan.asks("marked", "The end & <b>.").await;
        let units: Vec<u16> = answer.text.encode_utf16().collect();
        let place = |entity: &Value, field: &str| entity[field].as_u64().unwrap() as usize;
        let entities: Vec<_> = answer
            .entities
            .iter()
            .map(|e| {
                let range = place(e, "offset")..place(e, "offset") + place(e, "length");
                (e["type"].as_str().unwrap(), String::from_utf16(&units[range]).unwrap(), e["language"].as_str())
            })
            .collect();
        let code = "fn main() {\n    // **not bold**\n}";
        let wanted =
            [("bold", "bold", None), ("italic", "two", None), ("pre", code, Some("rust")), ("code", "end", None)];
        let wanted = wanted.map(|(kind, text, language)| (kind, text.to_owned(), language));
        assert_eq!(entities, wanted, "{}", answer.text);
        assert!(answer.text.contains("• one\n• two") && !answer.text.contains("```"), "{}", answer.text);
    };
    tokio::join!(slow, long(2, "long at once", 0), long(3, "long and growing", 1_000), marked);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_edits_cost_nothing_but_time() {
    let stack = with_agent(Stack::builder(), 6).await;
    let text = prose(60);
    for user in 1..=6 {
        script(&stack, &format!("question {user}"), json!([{"content": text, "piece_delay_ms": 60}])).await;
    }
    let fault = |chat: i64, times: u64, kind: &str| json!({"method": "editMessageText", "chat_id": chat, "times": times, "kind": kind});
    let mut flood = fault(1, 1, "429");
    flood["retry_after"] = json!(4);
    let faults = json!([flood, fault(2, 3, "500"), fault(3, 2, "drop_after"), fault(4, 1, "502html")]);
    stack.simulator.post("/sim/faults", faults).await;
    let ask = async |user: i64| {
        stack.user(user).says(&format!("question {user}")).await;
        if user == 5 {
            let growing = first_piece(stack.user(5)).await;
            stack.simulator.ask(Method::DELETE, &format!("/sim/users/5/messages/{growing}"), None).await;
        }
        let parts = whole_answer(stack.user(user), &text).await;
        assert_eq!(parts.len(), 1, "user {user} has one answer");
    };
    join_all((1..=5).map(ask)).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    assert_eq!(stack.simulator.get("/sim/faults").await, json!([]), "faults that hit nothing");
    for user in 1..=5 {
        // Nothing comes after the whole answer that would spoil it.
        assert_eq!(whole_answer(stack.user(user), &text).await.len(), 1);
    }
    let edits = calls(&stack, "editMessageText", 1).await;
    let refused = edits.iter().position(|call| status(call) == 429).unwrap();
    for later in &edits[refused + 1..] {
        let waited = at(later) - at(&edits[refused]);
        assert!(waited >= 4_000, "Telegram wanted 4 s and got {waited} ms");
    }
    assert!(refused + 1 < edits.len(), "the final text came after the wait");

    // A first piece that may not go out yet becomes the whole answer.
    let sent = calls(&stack, "sendMessage", 6).await.len();
    let fault = json!({"method": "sendMessage", "chat_id": 6, "times": 1, "kind": "429", "retry_after": 6});
    stack.simulator.post("/sim/faults", fault).await;
    ask(6).await;
    let sends = calls(&stack, "sendMessage", 6).await.split_off(sent);
    assert_eq!(sends.iter().map(status).collect::<Vec<_>>(), [429, 200]);
    assert!(at(&sends[1]) - at(&sends[0]) >= 6_000, "retry_after was not waited for");
    assert_eq!(calls(&stack, "editMessageText", 6).await.len(), 0);
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status <> 'completed'").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_whole_bot_delays_growing_answers_and_loses_nothing() {
    let stack = with_agent(Stack::builder(), 4).await;
    let text = prose(60);
    let limit =
        |chat| json!({"method": "editMessageText", "chat_id": chat, "times": 1, "kind": "429", "retry_after": 2});
    stack.simulator.post("/sim/faults", json!([limit(1), limit(2)])).await;
    let ask = async |user: i64| {
        let question = format!("question {user}");
        script(&stack, &question, json!([{"content": text, "piece_delay_ms": 60}])).await;
        stack.user(user).says(&question).await;
        assert_eq!(whole_answer(stack.user(user), &text).await.len(), 1);
    };
    join_all((1..=4).map(ask)).await;
    assert_eq!(stack.simulator.get("/sim/faults").await, json!([]));
    for user in [1, 2] {
        let edits = calls(&stack, "editMessageText", user).await;
        let refused = edits.iter().position(|call| status(call) == 429).unwrap();
        assert!(at(&edits[refused + 1]) - at(&edits[refused]) >= 2_000, "retry_after was not waited for");
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_failure_is_told_in_plain_words_and_can_be_tried_again_once() {
    // The agent's patience with a silent model is two minutes; here it has less.
    let dir = tempfile::tempdir().unwrap();
    let impatient = dir.path().join("baal-agent");
    let agent = built("baal-agent");
    let program = format!(
        "#!/bin/sh\nsed -i 's/\"model_idle_timeout_seconds\": *[0-9]*/\"model_idle_timeout_seconds\": 2/' \"$2\"\nexec '{}' \"$@\"\n",
        agent.display()
    );
    std::fs::write(&impatient, program).unwrap();
    std::fs::set_permissions(&impatient, std::fs::Permissions::from_mode(0o755)).unwrap();
    let stack = with_agent(Stack::builder().env("BAAL_AGENT_BINARY", impatient.display()), 6).await;

    let failing = json!({"status": 500});
    let cases = [
        ("failing thrice", json!([failing, failing, failing]), "⚠️ The AI service has a problem of its own"),
        ("wrong key", json!([{"status": 401}]), "⚠️ The AI service does not accept this agent's key."),
        ("silent", json!([{"hang": true}]), "⚠️ The AI service sent nothing for 2 seconds."),
        ("halting midway", json!([{"content": "So far", "hang": true}]), "So far\n\n⚠️ The AI service sent nothing"),
        (
            "breaking",
            json!([{"content": "```\nso far", "drop_after_pieces": 2}]),
            "so far\n\n⚠️ The connection to the AI",
        ),
        ("nonsense", json!([{"raw": "data: <html>\n\n"}]), "⚠️ The AI service answered something unreadable."),
    ];
    let check = async |user: i64, (question, replies, words): (&str, Value, &str)| {
        let user = stack.user(user);
        script(&stack, question, replies).await;
        user.says(question).await;
        let failed = user.wait_for(|m| m.text.contains(words) && !m.buttons().is_empty()).await;
        let [again] = &failed.buttons()[..] else { panic!("{question}: not one button") };
        assert_eq!(again.label, "🔁 Try again", "{question}");
        // Twice at the same moment, and once more later.
        let presses = join_all([(); 2].map(|()| user.press(failed.message_id, &again.data))).await;
        let mut notices = join_all(presses.iter().map(|query| stack.simulator.notice(query))).await;
        notices.sort();
        assert_eq!(notices, ["Asking again…", "That was already tried again, or is too long ago."], "{question}");
        user.wait_for(|m| m.message_id > failed.message_id && m.text.contains(&format!("You said: “{question}”")))
            .await;
        let late = user.press(failed.message_id, &again.data).await;
        let notice = stack.simulator.notice(&late).await;
        assert_eq!(notice, "That was already tried again, or is too long ago.", "{question}");
    };
    join_all((1..).zip(cases).map(|(user, case)| check(user, case))).await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status = 'failed'").await, 6);
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status = 'completed' and kind = 'message'").await, 6);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_the_middle_of_an_answer_is_started_again_and_answers_whole() {
    let stack = with_agent(Stack::builder(), 3).await;
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 200, "piece_ms": 60})).await;
    // One who has seen nothing yet, and two who are reading.
    script(&stack, "Are you awake?", json!([{"hang": true}])).await;
    stack.user(3).says("Are you awake?").await;
    for id in [1, 2] {
        stack.user(id).says("Who are you?").await;
    }
    for id in [1, 2] {
        first_piece(stack.user(id)).await;
    }
    let [agent] = &stack.agent_dirs()[..] else { panic!("not one agent: {:?}", stack.agent_dirs()) };
    let lock: AgentLock = serde_json::from_slice(&std::fs::read(agent.join(LOCK_FILE)).unwrap()).unwrap();
    assert_eq!(stack.sql::<i64>("select count(*) from turns where not done").await, 3);
    kill_process(Pid::from_raw(lock.pid as i32).unwrap(), Signal::KILL).unwrap();
    for id in 1..=3 {
        let user = stack.user(id);
        user.wait_for(|m| m.text.contains("This is message 1 of our conversation.")).await;
        stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
        stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
        let messages = user.messages().await;
        let [answer] = answers(&messages)[..] else { panic!("not one answer: {:?}", answers(&messages)) };
        assert_eq!(answer.text.matches("You said").count(), 1, "{}", answer.text);
        assert!(answer.text.ends_with("conversation."), "{}", answer.text);
    }
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status = 'completed' and kind = 'message'").await, 3);
    let now: AgentLock = serde_json::from_slice(&std::fs::read(agent.join(LOCK_FILE)).unwrap()).unwrap();
    assert_ne!(now.pid, lock.pid);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_cannot_be_tried_again_today_are_kept_for_tomorrow() {
    let stack = with_agent(Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 1), 1).await;
    let ann = stack.user(1);
    script(&stack, "hello", json!([{"content": "So far", "drop_after_pieces": 2}])).await;
    let failed = ann.asks("hello", "⚠️").await;
    let again = &failed.buttons()[0].data;
    for _ in 0..2 {
        let last = ann.messages().await.last().unwrap().message_id;
        let query = ann.press(failed.message_id, again).await;
        assert_eq!(stack.simulator.notice(&query).await, "");
        ann.wait_for(|m| m.message_id > last && m.text.contains("You have used all 1 messages of today.")).await;
    }
    sqlx::query("update usage set day = day - 1").execute(&stack.db).await.unwrap();
    ann.press(failed.message_id, again).await;
    ann.wait_for(|m| m.text.contains("You said: “hello”")).await;
    stack.simulator.assert_good_manners().await;
}
