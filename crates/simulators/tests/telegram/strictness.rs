//! What Telegram refuses is refused, in its words.

use serde_json::{Value, json};

use crate::harness::{Sim, TOKEN};

fn entity(kind: &str, offset: i64, length: i64) -> Value {
    json!({ "type": kind, "offset": offset, "length": length })
}

fn send(entities: Value) -> Value {
    json!({ "chat_id": 1, "text": "ab👋cd efgh", "entities": entities })
}

fn button(data: &str) -> Value {
    json!({ "chat_id": 1, "text": "x", "reply_markup": { "inline_keyboard": [[{ "text": "b", "callback_data": data }]] } })
}

#[tokio::test]
async fn what_a_correct_bot_never_does_is_refused_and_kept_as_a_violation() {
    let sim = Sim::start().await;
    let written = sim.says(1, "hello").await;
    let mine = sim.ok("sendMessage", json!({ "chat_id": 1, "text": "mine" })).await["message_id"].clone();
    let many: Vec<Value> = (0..101).map(|_| entity("bold", 0, 1)).collect();
    let cases = [
        ("sendMessage", json!({ "chat_id": 2, "text": "x" }), "chat not found"),
        ("sendMessage", json!({ "chat_id": "@nobody", "text": "x" }), "chat not found"),
        ("sendMessage", json!({ "text": "x" }), "chat_id is empty"),
        ("sendMessage", json!({ "chat_id": 1 }), "message text is empty"),
        ("sendMessage", json!({ "chat_id": 1, "text": " \n " }), "message text is empty"),
        ("sendMessage", json!({ "chat_id": 1, "text": "👋".repeat(2_049) }), "message is too long"),
        ("sendMessage", json!({ "chat_id": 1, "text": 5 }), "must be of type String"),
        ("sendMessage", button(""), "BUTTON_DATA_INVALID"),
        ("sendMessage", button(&"ä".repeat(33)), "BUTTON_DATA_INVALID"),
        ("sendMessage", send(json!([entity("bold", 0, 12)])), "ENTITY_BOUNDS_INVALID"),
        ("sendMessage", send(json!([entity("bold", -1, 2)])), "ENTITY_BOUNDS_INVALID"),
        ("sendMessage", send(json!([entity("bold", 3, 2)])), "surrogate pair"),
        ("sendMessage", send(json!([entity("bold", 0, 3)])), "surrogate pair"),
        ("sendMessage", send(json!([entity("bold", 0, 5), entity("italic", 4, 4)])), "entities cross"),
        ("sendMessage", send(json!([entity("bold", 0, 5), entity("code", 0, 2)])), "can't be nested"),
        ("sendMessage", send(json!([entity("pre", 0, 5), entity("bold", 0, 2)])), "can't be nested"),
        ("sendMessage", send(json!([entity("shiny", 0, 2)])), "unsupported entity type"),
        ("sendMessage", send(json!([entity("text_link", 0, 2)])), "url"),
        ("sendMessage", send(json!([{ "type": "bold", "offset": "0", "length": 1 }])), "can't parse entities"),
        ("sendMessage", send(Value::Array(many)), "ENTITIES_TOO_LONG"),
        ("sendMessage", json!({ "chat_id": 1, "text": "<b>x", "parse_mode": "HTML" }), "can't parse entities"),
        ("sendMessage", json!({ "chat_id": 1, "text": "<b>x</i>", "parse_mode": "HTML" }), "Unmatched end tag"),
        ("sendMessage", json!({ "chat_id": 1, "text": "<table>", "parse_mode": "HTML" }), "Unsupported start tag"),
        ("sendMessage", json!({ "chat_id": 1, "text": "x", "parse_mode": "BBCode" }), "unsupported parse_mode"),
        (
            "editMessageText",
            json!({ "chat_id": 1, "message_id": written["message_id"], "text": "x" }),
            "message can't be edited",
        ),
        ("editMessageText", json!({ "chat_id": 1, "message_id": mine, "text": "" }), "message text is empty"),
        ("editMessageText", json!({ "chat_id": 1, "text": "x" }), "message identifier is not specified"),
        ("sendChatAction", json!({ "chat_id": 1, "action": "dancing" }), "wrong parameter action"),
        ("setMyCommands", json!({ "commands": [{ "command": "Help", "description": "x" }] }), "BOT_COMMAND_INVALID"),
        (
            "setMyCommands",
            json!({ "commands": [{ "command": "help", "description": "" }] }),
            "BOT_COMMAND_DESCRIPTION_INVALID",
        ),
        ("setWebhook", json!({ "url": "ftp://127.0.0.1/" }), "invalid webhook URL"),
        ("setWebhook", json!({ "url": "http://127.0.0.1/", "secret_token": "a b" }), "unallowed characters"),
    ];
    let count = cases.len();
    for (method, body, expected) in cases {
        let description = sim.refused(method, body.clone()).await;
        assert!(description.starts_with("Bad Request: "), "{description}");
        assert!(description.contains(expected), "{method} {body}: {description}");
    }
    assert_eq!(sim.violations().await, count);
}

#[tokio::test]
async fn what_can_happen_to_any_bot_is_refused_but_no_violation() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let id = sim.ok("sendMessage", json!({ "chat_id": 1, "text": "one" })).await["message_id"].clone();
    let same = json!({ "chat_id": 1, "message_id": id, "text": " one " });
    assert_eq!(
        sim.refused("editMessageText", same).await,
        "Bad Request: message is not modified: specified new message content and reply markup are exactly the same as a current \
         content and reply markup of the message"
    );
    let missing = json!({ "chat_id": 1, "message_id": 999, "text": "x" });
    assert_eq!(sim.refused("editMessageText", missing.clone()).await, "Bad Request: message to edit not found");
    assert_eq!(sim.refused("deleteMessage", missing).await, "Bad Request: message to delete not found");
    assert_eq!(
        sim.refused("answerCallbackQuery", json!({ "callback_query_id": "1" })).await,
        "Bad Request: query is too old and response timeout expired or query ID is invalid"
    );
    sim.post("/sim/users/1/block", json!({})).await;
    let blocked = sim.bot("sendMessage", json!({ "chat_id": 1, "text": "x" })).await;
    let expected = json!({ "ok": false, "error_code": 403, "description": "Forbidden: bot was blocked by the user" });
    assert_eq!(blocked, (403, expected));
    sim.post("/sim/users/1/unblock", json!({})).await;
    sim.ok("sendMessage", json!({ "chat_id": 1, "text": "x" })).await;
    assert_eq!(sim.violations().await, 0);
}

#[tokio::test]
async fn a_menu_for_a_chat_and_deletions_need_the_chat_and_the_right() {
    let sim = Sim::start().await;
    let menu = |scope: Value| json!({ "commands": [{ "command": "pool", "description": "x" }], "scope": scope });
    let of_chat = |id: i64| menu(json!({ "type": "chat", "chat_id": id }));
    assert_eq!(sim.refused("setMyCommands", of_chat(1)).await, "Bad Request: chat not found");
    sim.says(1, "hello").await;
    sim.ok("setMyCommands", of_chat(1)).await;
    assert!(sim.refused("setMyCommands", menu(json!({ "type": "chat" }))).await.contains("chat_id"));

    sim.ok("deleteMessage", json!({ "chat_id": 1, "message_id": 1 })).await;
    let group = sim.post("/sim/groups", json!({ "title": "Friends", "members": [1] })).await["chat_id"].clone();
    let said = sim.post(&format!("/sim/groups/{group}/messages"), json!({ "from": 1, "text": "mine" })).await;
    let theirs = json!({ "chat_id": group, "message_id": said["message_id"] });
    assert_eq!(sim.refused("deleteMessage", theirs).await, "Bad Request: message can't be deleted");
    let own = sim.ok("sendMessage", json!({ "chat_id": group, "text": "own" })).await["message_id"].clone();
    sim.ok("deleteMessage", json!({ "chat_id": group, "message_id": own })).await;
}

#[tokio::test]
async fn a_wrong_token_is_unauthorized_and_an_unknown_method_not_found() {
    let sim = Sim::start().await;
    let url = format!("{}/bot{}x/getMe", sim.url, TOKEN);
    let response = sim.http.get(url).send().await.unwrap();
    assert_eq!(response.status(), 401);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({ "ok": false, "error_code": 401, "description": "Unauthorized" }));
    assert_eq!(sim.bot("sendSmell", json!({})).await.0, 404);
}

#[tokio::test]
async fn parameters_come_as_query_form_multipart_or_json() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let url = format!("{}/bot{TOKEN}/sendMessage", sim.url);
    let keyboard = json!({ "inline_keyboard": [[{ "text": "b", "callback_data": "d" }]] }).to_string();
    let pairs = [("chat_id", "1"), ("text", "a & b"), ("reply_markup", keyboard.as_str())];
    let form = pairs.iter().fold(reqwest::multipart::Form::new(), |form, (name, value)| {
        form.text((*name).to_owned(), (*value).to_owned())
    });
    for request in
        [sim.http.get(&url).query(&pairs), sim.http.post(&url).form(&pairs), sim.http.post(&url).multipart(form)]
    {
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["result"]["text"], "a & b", "{answer}");
        assert_eq!(answer["result"]["reply_markup"]["inline_keyboard"][0][0]["callback_data"], "d");
    }
}

#[tokio::test]
async fn white_space_is_trimmed_and_entities_follow() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let message = json!({ "chat_id": 1, "text": "  \n👋 bold tail \r\n", "entities": [entity("bold", 6, 10)] });
    let sent = sim.ok("sendMessage", message).await;
    assert_eq!((&sent["text"], &sent["entities"]), (&json!("👋 bold tail"), &json!([entity("bold", 3, 9)])));
}

#[tokio::test]
async fn html_becomes_text_and_entities() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let text = "👋 <b>a<i>b</i></b> &lt;&#33; <pre><code class=\"language-rust\">let x;</code></pre><a href=\"https://e.org/?a=1&amp;b\">l</a>";
    let sent = sim.ok("sendMessage", json!({ "chat_id": 1, "text": text, "parse_mode": "HTML" })).await;
    assert_eq!(sent["text"], "👋 ab <! let x;l");
    let expected = json!([
        entity("bold", 3, 2),
        entity("italic", 4, 1),
        { "type": "pre", "offset": 9, "length": 6, "language": "rust" },
        { "type": "text_link", "offset": 15, "length": 1, "url": "https://e.org/?a=1&b" },
    ]);
    assert_eq!(sent["entities"], expected);
}

#[tokio::test]
async fn commands_links_and_mentions_are_found_outside_of_code() {
    let sim = Sim::start().await;
    let text = "/start@baal_bot x (https://e.org/a). @alice /no/path";
    sim.says(1, text).await;
    let shown = sim.get("/sim/chats/1/messages").await;
    let expected = json!([entity("bot_command", 0, 15), entity("url", 19, 15), entity("mention", 37, 6)]);
    assert_eq!(shown[0]["entities"], expected);
    let code = json!({ "chat_id": 1, "text": "/list", "entities": [entity("code", 0, 5)] });
    assert_eq!(sim.ok("sendMessage", code).await["entities"], json!([entity("code", 0, 5)]));
}
