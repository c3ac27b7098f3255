//! Telegram fails while an answer grows, and after it took a message: the chat ends with the whole answer, with no more
//! duplicates than lost answers make unavoidable, and those are recorded.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Message, Stack};
use crate::streaming::{answers, calls, first_piece, prose, script, squeezed, with_agent};

fn fault(chat: i64, method: &str, kind: &str, times: u64) -> Value {
    json!({"method": method, "chat_id": chat, "kind": kind, "times": times, "retry_after": 1})
}

/// Waits until the bot has nothing left to do, and gives the replies to the user's last question.
async fn settled(stack: &Stack, chat: i64) -> Vec<Message> {
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    answers(&stack.user(chat).messages().await).into_iter().cloned().collect()
}

/// How many messages of a chat may be there twice, as the outbox knows.
async fn uncertain(stack: &Stack, chat: i64) -> i64 {
    let count = sqlx::query_scalar("select count(*) from outbox where chat_id = $1 and uncertain").bind(chat);
    count.fetch_one(&stack.db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_whole_whatever_telegram_lost_and_only_what_it_took_in_silence_is_there_twice() {
    let stack = with_agent(Stack::builder(), 5).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let (short, long) = (prose(80), prose(1_500));
    let ask = async |chat: i64, text: &str| {
        let question = format!("question {chat}");
        // The simulated model says a few words at a time.
        let pieces = u64::try_from(text.split(' ').count().min(300)).unwrap();
        script(&stack, &question, json!([{"content": text, "piece_delay_ms": 5_000 / pieces}])).await;
        stack.user(chat).says(&question).await;
    };

    // The answer to the first piece is lost: the piece stays behind, once, above the whole answer.
    let lost_piece = async {
        stack.simulator.post("/sim/faults", fault(1, "sendMessage", "drop_after", 1)).await;
        ask(1, &short).await;
        first_piece(stack.user(1)).await;
    };
    // The answer to a later message is lost: that message is there twice.
    let lost_part = async {
        ask(2, &long).await;
        first_piece(stack.user(2)).await;
        stack.simulator.post("/sim/faults", fault(2, "sendMessage", "drop_after", 1)).await;
    };
    // What was refused or never arrived is there once.
    let failing = async |chat: i64, faults: &[(&str, &str, u64)]| {
        let faults: Vec<_> = faults.iter().map(|(method, kind, times)| fault(chat, method, kind, *times)).collect();
        stack.simulator.post("/sim/faults", json!(faults)).await;
        ask(chat, &short).await;
        first_piece(stack.user(chat)).await;
    };
    let edits = [("editMessageText", "429", 1), ("editMessageText", "500", 1), ("editMessageText", "drop_after", 2)];
    tokio::join!(
        lost_piece,
        lost_part,
        failing(3, &[("sendMessage", "429", 1), ("sendMessage", "500", 2)]),
        failing(4, &[("sendMessage", "drop_before", 1), ("editMessageText", "drop_before", 2)]),
        failing(5, &edits),
    );

    let replies = settled(&stack, 1).await;
    let [piece, answer] = &replies[..] else { panic!("not a piece and an answer: {replies:?}") };
    assert_eq!(squeezed(&answer.text), squeezed(&short));
    assert!(squeezed(&short).starts_with(&squeezed(&piece.text)), "{}", piece.text);
    assert_eq!(uncertain(&stack, 1).await, 1);

    let replies = settled(&stack, 2).await;
    let mut texts: Vec<_> = replies.iter().map(|reply| squeezed(&reply.text)).collect();
    let before = texts.len();
    texts.dedup();
    assert_eq!(before - texts.len(), 1, "not one message is there twice: {texts:?}");
    assert_eq!(texts.concat(), squeezed(&long));
    assert_eq!(uncertain(&stack, 2).await, 1);

    for chat in 3..=5 {
        let replies = settled(&stack, chat).await;
        let [answer] = &replies[..] else { panic!("chat {chat} has not one answer: {replies:?}") };
        assert_eq!(squeezed(&answer.text), squeezed(&short), "chat {chat}");
    }
    // Only a limit's wait is Telegram's to ask for; it was kept.
    let sent = calls(&stack, "sendMessage", 3).await;
    let refused = sent.iter().position(|call| call["status"] == 429).unwrap();
    assert!(sent[refused + 1]["at_ms"].as_i64() >= sent[refused]["at_ms"].as_i64().map(|at| at + 1_000));
    assert_eq!(stack.simulator.get("/sim/faults").await, json!([]), "faults that hit nothing");
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status <> 'completed'").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markdown_that_grows_ends_as_it_was_meant() {
    let stack = with_agent(Stack::builder(), 4).await;
    let texts: Vec<String> = super::markdown::corpus::samples(7, 40)
        .into_iter()
        .map(|sample| sample.markdown)
        .filter(|text| (300..4_000).contains(&text.len()))
        .take(8)
        .collect();
    let chat = async |user: i64, texts: &[String]| {
        for (n, text) in texts.iter().enumerate() {
            let question = format!("question {n} of {user}");
            script(&stack, &question, json!([{"content": text, "piece_delay_ms": 40}])).await;
            stack.user(user).says(&question).await;
            let wanted: Vec<_> = baal::telegram::markdown::messages(text).into_iter().map(|part| part.text).collect();
            let shown = |messages: &[Message]| {
                let shown: Vec<_> = answers(messages).iter().map(|m| m.text.clone()).collect();
                let wanted: Vec<_> = wanted.iter().map(|text| text.replace('\t', " ")).collect();
                (shown == wanted).then_some(())
            };
            stack.user(user).wait_until(shown).await;
        }
    };
    join_all((1..).zip(texts.chunks(2)).map(|(user, texts)| chat(user, texts))).await;
    stack.simulator.assert_good_manners().await;
}
