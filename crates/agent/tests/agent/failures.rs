//! What the inference service can do wrong, and what the user is told.

use super::support::*;
use baal_protocol::{Event, EventKind};
use serde_json::{Value, json};

async fn events_with(script: Value) -> (Model, Vec<Event>) {
    events_within(120, script).await
}

async fn events_within(idle_timeout_seconds: u64, script: Value) -> (Model, Vec<Event>) {
    let model = Model::start().await;
    model.script(script);
    let change = |config: &mut Value| config["model_idle_timeout_seconds"] = json!(idle_timeout_seconds);
    let agent = Agent::start_with(&model, change).await;
    let events = agent.chat(json!({"message": "hi", "chat_id": "1", "stream": true})).await.rest().await;
    assert_well_formed(&events);
    for error in errors(&events) {
        assert!(!error.contains("127.0.0.1") && !error.contains("key-for-tests"), "{error}");
    }
    (model, events)
}

#[tokio::test]
async fn a_busy_or_failing_service_is_asked_again() {
    let replies = json!([{"status": 429, "retry_after": 1}, {"status": 503}, {"content": "third time lucky"}]);
    let (model, events) = events_with(json!({"replies": replies})).await;
    assert_eq!((text(&events).as_str(), errors(&events).len()), ("third time lucky", 0));
    assert_eq!(model.sim.times_asked("hi"), 3);
}

#[tokio::test]
async fn after_two_retries_the_user_is_told() {
    let replies = json!([{"status": 500}, {"status": 500}, {"status": 500}, {"content": "never asked"}]);
    let (model, events) = events_with(json!({"replies": replies})).await;
    assert_eq!(text(&events), "");
    assert!(errors(&events)[0].contains("problem of its own (error 500)"), "{events:?}");
    assert_eq!(model.sim.times_asked("hi"), 3);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_first_word_is_tried_again() {
    let replies = json!([{"content": "lost", "drop_after_pieces": 0}, {"content": "found"}]);
    let (model, events) = events_with(json!({"replies": replies})).await;
    assert_eq!((text(&events).as_str(), errors(&events).len()), ("found", 0));
    assert_eq!(model.sim.times_asked("hi"), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_answer_is_told_and_what_came_is_kept() {
    let replies = json!([{"content": "one two three", "drop_after_pieces": 2, "piece_delay_ms": 100}]);
    let (model, events) = events_with(json!({"replies": replies})).await;
    assert_eq!(text(&events), "one two ");
    assert!(errors(&events)[0].contains("broke"), "{events:?}");
    assert_eq!(model.sim.times_asked("hi"), 1);
}

#[tokio::test]
async fn silence_is_told_in_plain_words() {
    for replies in [json!([{"hang": true}]), json!([{"content": "so far", "hang": true}])] {
        let (model, events) = events_within(2, json!({"replies": replies.clone()})).await;
        let said = replies[0]["content"].as_str().unwrap_or_default();
        assert_eq!(text(&events), said);
        assert_eq!(errors(&events), ["The AI service sent nothing for 2 seconds. Please try again."]);
        assert_eq!(model.sim.times_asked("hi"), 1);
    }
}

#[tokio::test]
async fn a_bad_key_is_told_and_not_tried_again() {
    let model = Model::start().await;
    let agent = Agent::start_with(&model, |config| config["libertai_api_key"] = json!("bad-key")).await;
    let events = agent.chat(json!({"message": "hi", "chat_id": "1"})).await.rest().await;
    assert_well_formed(&events);
    assert_eq!(
        errors(&events),
        ["The AI service does not accept this agent's key. Its owner needs to set a valid one."]
    );
    let (model, events) = events_with(json!({"replies": [{"status": 403}]})).await;
    assert!(errors(&events)[0].contains("key"), "{events:?}");
    assert_eq!(model.sim.times_asked("hi"), 1);
}

#[tokio::test]
async fn an_unreachable_service_is_told() {
    let model = Model::start().await;
    let agent =
        Agent::start_with(&model, |config| config["libertai_api_base_url"] = json!("http://127.0.0.1:1/v1")).await;
    let events = agent.chat(json!({"message": "hi", "chat_id": "1"})).await.rest().await;
    assert_well_formed(&events);
    assert!(errors(&events)[0].contains("cannot be reached"), "{events:?}");
}

#[tokio::test]
async fn odd_but_harmless_streams_are_understood() {
    let chunk = |value: Value| format!("data: {value}\n\n");
    let raw = [
        ": a comment\n\n".to_owned(),
        chunk(json!({"choices": null, "x_new": {"a": 1}})),
        chunk(json!({"choices": [{"delta": {"role": "assistant", "content": null, "reasoning_content": "hmm"}}]})),
        chunk(json!({"choices": [{"index": 0, "delta": {"content": "fine"}, "logprobs": null}]})),
        "data:{\"choices\":[{\"delta\":{\"content\":\"!\"},\"finish_reason\":\"stop\"}]}\r\n\r\n".to_owned(),
        "retry: soon\nevent: a\nevent: b\nx-new: field\nno colon\n\n".to_owned(),
        chunk(json!({"usage": {"prompt_tokens": 1, "completion_tokens": 12.0, "cost": {"total": 1}}})),
        chunk(json!({"choices": [{"delta": {}, "finish_reason": {"type": "stop"}}], "usage": null})),
    ];
    let (_, events) = events_with(json!({"replies": [{"raw": raw.concat()}]})).await;
    assert_eq!((text(&events).as_str(), errors(&events).len()), ("fine!", 0), "{events:?}");
    let usage = EventKind::Usage { prompt_tokens: 1, completion_tokens: 12, cost: None };
    assert!(events.iter().any(|event| event.kind == usage), "{events:?}");

    // Many counts before the first word.
    let count = chunk(json!({"usage": {"completion_tokens": null}}));
    let answer = chunk(json!({"choices": [{"delta": {"content": "at last"}, "finish_reason": "stop"}]}));
    let (_, events) = events_with(json!({"replies": [{"raw": count.repeat(200_000) + &answer}]})).await;
    assert_eq!((text(&events).as_str(), errors(&events).len()), ("at last", 0), "{events:?}");
}

#[tokio::test]
async fn nonsense_ends_with_words_and_bounds() {
    let error = json!({"error": {"message": "overloaded"}});
    let replies = json!([{"raw": format!("data: {error}\n\n")}, {"content": "better"}]);
    let (_, events) = events_with(json!({"replies": replies})).await;
    assert_eq!(text(&events), "better");

    let (_, events) = events_with(json!({"replies": [{"raw": "data: {{{\n\n"}]})).await;
    assert!(errors(&events)[0].contains("unreadable"), "{events:?}");

    let (_, events) = events_with(json!({"replies": [{"content": ""}]})).await;
    assert!(errors(&events)[0].contains("empty"), "{events:?}");

    // A line without end, then an answer without end.
    let (_, events) = events_with(json!({"replies": [{"raw": "x".repeat(100_000), "raw_repeat": 100}]})).await;
    assert!(errors(&events)[0].contains("too long"), "{events:?}");
    let piece = format!("data: {}\n\n", json!({"choices": [{"delta": {"content": "y".repeat(50_000)}}]}));
    let (_, events) = events_with(json!({"replies": [{"raw": piece, "raw_repeat": 200}]})).await;
    assert!(errors(&events)[0].contains("too long"), "{events:?}");
    assert!((200_000..=256 * 1024).contains(&text(&events).len()));
}
