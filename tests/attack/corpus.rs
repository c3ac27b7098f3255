//! One update of each kind that Baal reads, and of some that it does not ask for, as Telegram sends them (Bot API, "Update").

use serde_json::{Value, json};

/// A key that people type; nowhere but in encrypted columns may it turn up.
pub const SECRET: &str = "LTAI-attack-5f1c0d7e-never-to-be-shown";

/// Updates of one user (with a private chat) who also writes in a group; `update_id`s are given when they are sent.
pub fn of(user: i64) -> Vec<Value> {
    let person = json!({"id": user, "is_bot": false, "first_name": "Mallory", "last_name": "M", "username": "mallory",
        "language_code": "en"});
    let private = json!({"id": user, "type": "private", "first_name": "Mallory"});
    let group = json!({"id": -1_000_000_000_000 - user, "type": "supergroup", "title": "Friends"});
    let said = |more: Value| message(&person, &private, more);
    let file = |kind: &str, more: Value| {
        let mut file = json!({"file_id": "F1", "file_unique_id": "U1", "file_size": 12, "file_name": "../a.pdf",
            "mime_type": "application/pdf", "duration": 3, "width": 1, "height": 1, "performer": "p", "title": "t"});
        merge(&mut file, &more);
        said(json!({kind: file, "caption": "look"}))
    };
    let mut all: Vec<Value> = [
        "hello",
        "/start",
        "/start agent_1",
        "/start 1",
        "/start a_abcdefghijklmnopqrstuvwxyz0",
        "/start i_abc",
        "/help",
        "/create",
        "/list",
        "/manage 1",
        "/delete 1",
        "/share 1",
        "/soul 1",
        "/soul 1 Be mine.",
        "/update 1",
        "/repair 1 new",
        "/stop",
        "/new",
        "/verbose on",
        "/account",
        "/logout",
        "/privacy",
        "/forgetme",
        "/invite",
        "/dashboard",
        "/pool",
        "/cancel",
        "/help@baal_bot",
        "**bold _it_ [l](x)",
        "'; drop table users; --",
    ]
    .into_iter()
    .map(|text| said(json!({"text": text, "entities": [{"type": "bot_command", "offset": 0, "length": 5}]})))
    .collect();
    all.push(said(json!({"text": format!("/login {SECRET}")})));
    all.push(said(json!({"text": "x".repeat(4_096)})));
    all.push(said(json!({"text": "y".repeat(4_001)})));
    all.extend(
        ["document", "audio", "voice", "video", "video_note", "animation", "sticker"]
            .map(|k| file(k, json!({"emoji": "🙂"}))),
    );
    all.push(said(
        json!({"photo": [{"file_id": "P1", "file_size": 1}, {"file_id": "P2", "file_size": 2}], "caption": "c"}),
    ));
    all.push(said(json!({"photo": [{"file_id": "P3"}], "media_group_id": "g1", "caption": "one"})));
    all.push(said(json!({"photo": [{"file_id": "P4"}], "media_group_id": "g1"})));
    all.push(said(json!({"location": {"latitude": 1.5, "longitude": -2.5, "live_period": 60}})));
    all.push(said(json!({"venue": {"location": {"latitude": 1.5, "longitude": -2.5}, "title": "T", "address": "A"}})));
    all.push(said(json!({"contact": {"phone_number": "+1", "first_name": "C", "last_name": "D"}})));
    all.push(said(json!({"poll": {"id": "1", "question": "?", "options": []}})));
    all.push(said(json!({"dice": {"emoji": "🎲", "value": 3}})));
    all.push(said(json!({"text": "re", "quote": {"text": "q", "position": 0},
        "reply_to_message": {"message_id": 1, "chat": private, "date": 1, "text": "before"}})));
    all.push(said(json!({"text": "in a topic", "message_thread_id": 5, "is_topic_message": true})));
    all.extend(
        [
            "pinned_message",
            "message_auto_delete_timer_changed",
            "write_access_allowed",
            "chat_background_set",
            "forum_topic_created",
            "forum_topic_edited",
            "forum_topic_closed",
            "forum_topic_reopened",
        ]
        .map(|kind| said(json!({kind: {"message_id": 1, "date": 0, "chat": private, "name": "n", "icon_color": 1}}))),
    );
    let edited = |update: Value| json!({"edited_message": update["message"]});
    all.push(edited(said(json!({"text": "hello again", "edit_date": 1_700_000_001}))));
    all.push(edited(said(json!({"text": format!("/login {SECRET}")}))));
    all.push(edited(said(json!({"location": {"latitude": 1.6, "longitude": -2.5, "live_period": 60}}))));
    for text in ["hello all", "/start", "/login sk-abc"] {
        all.push(message(&person, &group, json!({"text": text})));
    }
    all.push(message(&person, &group, json!({"migrate_to_chat_id": -1_000_000_900_000 - user})));
    all.push(json!({"message": {"message_id": 3, "date": 1_700_000_000, "text": "nobody's", "chat": group}}));
    let pressed = |data: &str| {
        json!({"callback_query": {"id": "4382bfdwdsb323b2d9", "from": person, "chat_instance": "-1", "data": data,
            "message": {"message_id": 4, "date": 0, "chat": private}}})
    };
    all.extend(
        [
            "create",
            "list",
            "chat:1",
            "manage:1",
            "delete!:1",
            "retry:1",
            "anew!:1",
            "soul:undo:1:2:1",
            "s:end:1:36500",
            "s:day:1:2147483647",
            "s:all:1:99999",
            "s:in:1:2",
            "me:login",
            "me:forget",
            "o:pool",
            "d:1:name:default",
            "new!:1",
            "stop:00000000000000000000000000000000",
            "again:00000000000000000000000000000000",
        ]
        .map(pressed),
    );
    all.push(json!({"callback_query": {"id": "1", "from": person, "inline_message_id": "x", "game_short_name": "g"}}));
    for (chat, status) in [(&private, "kicked"), (&private, "member"), (&group, "member"), (&group, "left")] {
        all.push(
            json!({"my_chat_member": {"chat": chat, "from": person, "date": 1, "old_chat_member": {"status": "left"},
            "new_chat_member": {"status": status, "user": {"id": 1_000_000_001, "is_bot": true, "first_name": "b"}}}}),
        );
    }
    for kind in ["channel_post", "inline_query", "poll_answer", "chat_join_request", "unheard_of"] {
        all.push(json!({kind: {"id": "1", "from": person, "chat": group, "query": "", "date": 1}}));
    }
    all
}

fn message(person: &Value, chat: &Value, more: Value) -> Value {
    let mut message = json!({"message_id": 7, "date": 1_700_000_000, "from": person, "chat": chat});
    merge(&mut message, &more);
    json!({ "message": message })
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().unwrap() {
        into[name] = value.clone();
    }
}
