//! Files, albums, places and edits of users; pictures and albums of the bot.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::harness::{Sim, TOKEN};

/// The head of a PNG picture of this size: enough to tell its size, which is all that is looked at.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

async fn upload(sim: &Sim, method: &str, form: Form) -> (u16, Value) {
    let url = format!("{}/bot{TOKEN}/{method}", sim.url);
    let response = sim.http.post(url).multipart(form).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn file(bytes: Vec<u8>) -> Part {
    Part::bytes(bytes).file_name("a.png").mime_str("image/png").unwrap()
}

#[tokio::test]
async fn every_kind_of_file_reaches_the_bot_and_can_be_fetched() {
    let sim = Sim::start().await;
    for kind in ["photo", "document", "voice", "audio", "video", "video_note", "animation", "sticker"] {
        let sent = json!({ kind: { "content_base64": "aGVsbG8=" }, "text": "a caption" });
        let sent = sim.post("/sim/users/1/messages", sent).await;
        let updates = sim.ok("getUpdates", json!({ "offset": sent["update_id"] })).await;
        let message = &updates[0]["message"];
        assert_eq!((&message["caption"], message.get("text")), (&json!("a caption"), None), "{message}");
        let described = message[kind].as_array().and_then(|sizes| sizes.last()).unwrap_or(&message[kind]);
        assert_eq!(described["file_size"], 5, "{message}");
        let known = sim.ok("getFile", json!({ "file_id": described["file_id"] })).await;
        let url = format!("{}/file/bot{TOKEN}/{}", sim.url, known["file_path"].as_str().unwrap());
        assert_eq!(sim.http.get(url).send().await.unwrap().text().await.unwrap(), "hello");
    }
    let large = json!({ "document": { "size": 20 * 1024 * 1024 + 1 } });
    let sent = sim.post("/sim/users/1/messages", large).await;
    let updates = sim.ok("getUpdates", json!({ "offset": sent["update_id"] })).await;
    let id = &updates[0]["message"]["document"]["file_id"];
    assert_eq!(sim.refused("getFile", json!({ "file_id": id })).await, "Bad Request: file is too big");
}

#[tokio::test]
async fn an_album_is_a_message_each_with_one_group_and_edits_change_captions() {
    let sim = Sim::start().await;
    let photo = json!({ "content_base64": "aGVsbG8=" });
    let items = json!({ "items": [{ "photo": photo, "text": "both" }, { "photo": photo }, { "video": photo }] });
    let album = sim.post("/sim/users/1/albums", items).await;
    let updates = sim.ok("getUpdates", json!({})).await;
    let groups: Vec<&Value> = updates.as_array().unwrap().iter().map(|u| &u["message"]["media_group_id"]).collect();
    assert_eq!(groups, [&album["media_group_id"]; 3]);
    assert_eq!(updates[0]["message"]["caption"], "both");
    let path = format!("{}/sim/users/1/messages/{}", sim.url, album["messages"][0]["message_id"]);
    sim.http.put(path).json(&json!({ "text": "changed" })).send().await.unwrap().error_for_status().unwrap();
    let updates = sim.ok("getUpdates", json!({ "offset": -1 })).await;
    assert_eq!(updates[0]["edited_message"]["caption"], "changed", "{updates}");
    for items in [json!([{ "photo": photo }]), json!([{ "photo": photo }, { "document": photo }]), json!([{}, {}])] {
        let url = format!("{}/sim/users/1/albums", sim.url);
        let answer = sim.http.post(url).json(&json!({ "items": items })).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{items}");
    }
}

#[tokio::test]
async fn a_picture_that_telegram_would_not_take_is_refused() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let photo = |bytes: Vec<u8>| Form::new().text("chat_id", "1").part("photo", file(bytes));
    let (status, sent) = upload(&sim, "sendPhoto", photo(png(64, 32))).await;
    assert_eq!(status, 200, "{sent}");
    assert_eq!((&sent["result"]["photo"][1]["width"], &sent["result"]["photo"][1]["height"]), (&json!(64), &json!(32)));
    for (bytes, words) in [
        (b"no picture".to_vec(), "IMAGE_PROCESS_FAILED"),
        (png(9_000, 1_001), "PHOTO_INVALID_DIMENSIONS"),
        (png(2_100, 100), "PHOTO_INVALID_DIMENSIONS"),
    ] {
        let (status, answer) = upload(&sim, "sendPhoto", photo(bytes)).await;
        assert_eq!((status, answer["description"].as_str()), (400, Some(&*format!("Bad Request: {words}"))));
    }
    assert_eq!(sim.violations().await, 0, "whether bytes are a picture is nothing that a bot has to know");
    upload(&sim, "sendPhoto", photo([png(64, 32), vec![0; 10 * 1024 * 1024]].concat())).await;
    assert_eq!(sim.violations().await, 1, "how many bytes there are is");
}

#[tokio::test]
async fn albums_of_the_bot_hold_two_to_ten_of_a_kind() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let album = |kinds: &[&str]| {
        let media: Vec<Value> = kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| json!({ "type": kind, "media": format!("attach://f{at}"), "caption": "c" }))
            .collect();
        let form = Form::new().text("chat_id", "1").text("media", json!(media).to_string());
        (0..kinds.len()).fold(form, |form, at| form.part(format!("f{at}"), file(png(8, 8))))
    };
    let (status, sent) = upload(&sim, "sendMediaGroup", album(&["photo", "photo"])).await;
    assert_eq!((status, sent["result"].as_array().map(Vec::len)), (200, Some(2)), "{sent}");
    assert_eq!(sent["result"][0]["media_group_id"], sent["result"][1]["media_group_id"]);
    for kinds in [&["photo"][..], &["photo"; 11], &["photo", "document"], &["photo", "smell"]] {
        assert_eq!(upload(&sim, "sendMediaGroup", album(kinds)).await.0, 400, "{kinds:?}");
    }
}

#[tokio::test]
async fn what_was_said_is_kept_whole() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    sim.ok("sendMessage", json!({ "chat_id": 1, "text": "one", "disable_notification": true })).await;
    upload(&sim, "sendPhoto", Form::new().text("chat_id", "1").part("photo", file(png(8, 8)))).await;
    let requests = sim.get("/sim/requests?chat_id=1").await;
    assert_eq!(requests[0]["params"], json!({ "chat_id": 1, "text": "one", "disable_notification": true }));
    assert_eq!(requests[0]["sent"], json!([2]));
    assert_eq!(requests[1]["files"], json!({ "photo": { "name": "a.png", "mime": "image/png", "size": 33 } }));
    let after = sim.get(&format!("/sim/requests?after={}", requests[0]["seq"])).await;
    assert_eq!(after.as_array().unwrap().len(), 1);
}
