//! Files on their way into chats.

use axum::body::Bytes;
use baal::telegram::files::{self, Shown};
use baal::telegram::markdown;
use baal::telegram::outbox::{self, Call, FileSource};
use baal::telegram::text::{Place, Text, send_message};
use serde_json::{Value, json};

use crate::far_agent::FarAgent;
use crate::harness::{DEADLINE, POLL, Stack};

fn place(chat_id: i64) -> Place {
    Place { bot_id: 1_000_000_001, chat_id, thread_id: None }
}

pub fn says(chat: i64, text: &str) -> Call {
    Call::reply(1_000_000_001, chat, &send_message(place(chat), &Text::plain(text).done(), vec![]))
}

fn source(agent: &FarAgent, path: &str) -> FileSource {
    FileSource::Agent { agent_id: agent.id, path: path.into() }
}

/// Queues calls in one transaction; the sender finds them by its poll. The rows' ids.
pub async fn queue(stack: &Stack, calls: &[Call]) -> Vec<i64> {
    let mut tx = stack.db.begin().await.unwrap();
    let mut ids = vec![];
    for call in calls {
        ids.push(outbox::enqueue(&mut tx, call).await.unwrap());
    }
    tx.commit().await.unwrap();
    ids
}

/// What the bot has sent to a chat since it was greeted, whole objects.
pub async fn sent(stack: &Stack, chat: i64) -> Vec<Value> {
    let messages = stack.simulator.get(&format!("/sim/chats/{chat}/messages")).await;
    let bots = messages.as_array().unwrap().iter().filter(|m| m["from"]["is_bot"] == true && m["deleted"] != true);
    bots.skip(1).cloned().collect()
}

/// Waits until so many messages have been sent.
pub async fn wait_for_sent(stack: &Stack, chat: i64, count: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let sent = sent(stack, chat).await;
        if sent.len() >= count {
            return sent;
        }
        assert!(tokio::time::Instant::now() < deadline, "{count} messages never came, there are {sent:#?}");
        tokio::time::sleep(POLL).await;
    }
}

pub async fn greet(stack: &Stack, users: &[i64]) {
    for user in users {
        stack.user(*user).asks("/start", "").await;
    }
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
}

/// The bytes of a message's file; of a photo in its full size, which comes last.
async fn bytes_of(stack: &Stack, message: &Value) -> Vec<u8> {
    let file = message.get("document").unwrap_or_else(|| message["photo"].as_array().unwrap().last().unwrap());
    let url = format!("{}/sim/files/{}", stack.simulator.telegram, file["file_id"].as_str().unwrap());
    reqwest::get(url).await.unwrap().bytes().await.unwrap().to_vec()
}

/// A picture of noise.
fn picture(side: u32) -> Bytes {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Rgb);
    let noise: Vec<u8> = (0..side * side * 3).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&noise).unwrap();
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn photos_documents_and_qr_codes_arrive_whole_in_order_with_their_captions() {
    let stack = Stack::start().await;
    greet(&stack, &[1]).await;
    let ada = FarAgent::start(&stack, 1, "Ada", 2).await;
    let (cat, report, large) = (picture(64), Bytes::from_static(b"%PDF-1.7 a report"), vec![7; 11_000_000]);
    let name = "Jahresbericht größer 2026?.pdf";
    {
        let mut now = ada.now();
        now.files.insert("out/1/cat.png".into(), cat.clone());
        now.files.insert(format!("out/2/{name}"), report.clone());
        now.files.insert("out/3/large.jpg".into(), large.clone().into());
        now.files.insert("out/4/no picture.png".into(), Bytes::from_static(b"<svg/>"));
    }
    let mut calls = vec![says(1, "before")];
    calls.extend(files::send_agents(place(1), ada.id, "out/1/cat.png", &markdown::render("A *cat*, “größer”")));
    calls.extend(files::send_agents(place(1), ada.id, &format!("out/2/{name}"), &markdown::render("")));
    calls.extend(files::send_agents(place(1), ada.id, "out/3/large.jpg", &markdown::render("too large for a photo")));
    let link = "https://t.me/baal_bot?start=a_3q2-7wAAAAAAAAAAAAAAAA";
    let qr = FileSource::Qr { text: link.into() };
    let caption = Text::plain("Show this.").done();
    calls.push(files::send(place(1), Shown::Photo, qr, &caption, vec![]));
    calls.extend(files::send_agents(place(1), ada.id, "out/4/no picture.png", &markdown::render("no photo")));
    calls.push(says(1, "after"));
    let ids = queue(&stack, &calls).await;
    let sent = wait_for_sent(&stack, 1, 7).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    assert_eq!((&sent[0]["text"], &sent[6]["text"]), (&json!("before"), &json!("after")));
    assert_eq!(sent[1]["text"], "A cat, “größer”");
    assert_eq!(sent[1]["entities"], json!([{"type": "italic", "offset": 2, "length": 3}]));
    assert_eq!(bytes_of(&stack, &sent[1]).await, cat);
    assert!(sent[1]["photo"].is_array());
    // A question mark is not part of a name everywhere.
    assert_eq!(sent[2]["document"]["file_name"], "Jahresbericht größer 2026_.pdf");
    assert_eq!(sent[2]["document"]["mime_type"], "application/pdf");
    assert_eq!((bytes_of(&stack, &sent[2]).await, &sent[2]["text"]), (report.to_vec(), &json!("")));
    assert_eq!(sent[3]["document"]["file_name"], "large.jpg");
    assert!(bytes_of(&stack, &sent[3]).await == large);
    assert_eq!(sent[4]["text"], "Show this.");
    assert_eq!((&sent[5]["document"]["file_name"], &sent[5]["text"]), (&json!("no picture.png"), &json!("no photo")));

    let code = bytes_of(&stack, &sent[4]).await;
    let mut reader = png::Decoder::new(std::io::Cursor::new(&code)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let side = reader.next_frame(&mut pixels).unwrap().width as usize;
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| pixels[y * side + x]);
    assert_eq!(image.detect_grids()[0].decode().unwrap().1, link);

    // The rows know the messages, and hold nothing any more.
    for (id, message) in ids.iter().zip(&sent) {
        let row: (i64, String, bool) = sqlx::query_as(
            "select message_id, payload::text, file is null and not uncertain from outbox where id = $1",
        )
        .bind(id)
        .fetch_one(&stack.db)
        .await
        .unwrap();
        assert_eq!(row, (message["message_id"].as_i64().unwrap(), "null".into(), true));
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_had_is_told_in_its_place() {
    let stack = Stack::start().await;
    greet(&stack, &[1, 2, 3]).await;
    let ada = FarAgent::start(&stack, 1, "Ada", 2).await;
    let gone = FarAgent::start(&stack, 2, "Bo", 2).await;
    sqlx::query("update agents set status = 'deleted', url = null, deleted_at = now() where id = $1")
        .bind(gone.id)
        .execute(&stack.db)
        .await
        .unwrap();
    {
        let mut now = ada.now();
        now.files.insert("out/1/empty.txt".into(), Bytes::new());
        now.files.insert("out/1/film.mkv".into(), vec![1; 50 * 1024 * 1024 + 1].into());
    }
    let caption = markdown::render("the *numbers*");
    let mut calls = vec![];
    for path in ["out/1/numbers.csv", "../pending", "out/1/film.mkv", "out/1/empty.txt"] {
        calls.extend(files::send_agents(place(1), ada.id, path, &caption));
    }
    calls.push(files::send(place(1), Shown::Photo, source(&gone, "out/1/a.png"), &Text::plain("").done(), vec![]));
    calls.push(says(1, "after"));
    queue(&stack, &calls).await;
    let sent = wait_for_sent(&stack, 1, 6).await;
    let texts: Vec<&str> = sent.iter().map(|m| m["text"].as_str().unwrap()).collect();
    let wanted = [
        ("numbers.csv could not be fetched: the agent does not have it", true),
        ("pending could not be fetched: the agent does not have it", true),
        ("film.mkv is larger than the 50 MB", true),
        ("empty.txt was not taken by Telegram", true),
        ("a.png could not be fetched: its agent was deleted", false),
        ("after", false),
    ];
    for (text, (part, captioned)) in texts.iter().zip(wanted) {
        assert!(text.contains(part) && text.ends_with("the numbers") == captioned, "{text}");
    }
    assert!(!ada.now().fetched.iter().any(|path| path.contains("pending")), "the path led out of the files");

    // One that is away for a moment is asked again, and one that stays away is told of.
    ada.now().files.insert("out/1/late.csv".into(), Bytes::from_static(b"1,2,3"));
    ada.now().file_trouble = vec![503, 502];
    queue(&stack, &files::send_agents(place(2), ada.id, "out/1/late.csv", &caption)).await;
    assert_eq!(wait_for_sent(&stack, 2, 1).await[0]["document"]["file_name"], "late.csv");
    ada.now().file_trouble = vec![503; 20];
    queue(&stack, &[files::send_agents(place(3), ada.id, "out/1/late.csv", &caption), vec![says(3, "next")]].concat())
        .await;
    let sent = wait_for_sent(&stack, 3, 2).await;
    assert!(sent[0]["text"].as_str().unwrap().contains("late.csv could not be fetched: the agent does not answer"));
    assert_eq!(sent[1]["text"], "next");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_other_chats_do_not_wait_for_files_and_few_files_are_fetched_at_once() {
    let stack = Stack::start().await;
    let users: Vec<i64> = (1..=9).collect();
    greet(&stack, &users).await;
    let mut agents = vec![];
    for owner in 1..=5 {
        let agent = FarAgent::start(&stack, owner, "Ada", 2).await;
        agent.now().files.insert("out/1/slow.bin".into(), vec![3; 1_000].into());
        agent.now().holds_files = true;
        agents.push(agent);
    }
    let ada = &agents[0];
    let send = async |user: i64, agent: &FarAgent| {
        let file = files::send_agents(place(user), agent.id, "out/1/slow.bin", &markdown::render(""));
        queue(&stack, &[file, vec![says(user, "behind it")]].concat()).await;
    };
    for user in 1..=4 {
        send(user, ada).await;
    }
    ada.until("files are asked for", |now| now.fetched.len() == 1).await;
    for n in 0..20 {
        // What is made here waits for no agent.
        let qr = FileSource::Qr { text: "agent_1".into() };
        let code = files::send(place(9), Shown::Photo, qr, &Text::plain("").done(), vec![]);
        queue(&stack, &[if n == 7 { code } else { says(9, &format!("no. {n}")) }]).await;
    }
    wait_for_sent(&stack, 9, 20).await;
    assert_eq!(ada.now().fetched.len(), 1, "one of each agent at a time");
    for (user, agent) in (5..=8).zip(&agents[1..]) {
        send(user, agent).await;
    }
    let fetched = || agents.iter().map(|agent| agent.now().fetched.len()).sum::<usize>();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while fetched() < 4 {
        assert!(tokio::time::Instant::now() < deadline, "others' files wait for an agent that dawdles");
        tokio::time::sleep(POLL).await;
    }
    tokio::time::sleep(POLL * 20).await;
    assert_eq!(fetched(), 4, "few at once");
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where done and chat_id < 9").await, 8, "the greetings");
    agents.iter().for_each(|agent| agent.now().holds_files = false);
    for user in 1..=8 {
        let sent = wait_for_sent(&stack, user, 2).await;
        assert!(sent[0]["document"].is_object() && sent[1]["text"] == "behind it", "{sent:#?}");
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_file_is_fetched_costs_nothing_and_one_while_it_is_sent_is_known() {
    let stack = Stack::builder().env("LEASE_SECONDS", 2).start().await;
    greet(&stack, &[1, 2, 3]).await;
    let ada = FarAgent::start(&stack, 1, "Ada", 2).await;
    ada.now().files.insert("out/1/a.bin".into(), vec![3; 300_000].into());
    ada.now().holds_files = true;
    let bo = FarAgent::start(&stack, 2, "Bo", 2).await;
    bo.now().files.insert("out/1/a.bin".into(), vec![3; 300_000].into());
    bo.now().holds_files = true;
    let file = |chat| files::send_agents(place(chat), ada.id, "out/1/a.bin", &markdown::render(""));
    let notice = |chat| {
        let calls = files::send_agents(place(chat), bo.id, "out/1/a.bin", &markdown::render("its words"));
        calls.into_iter().map(Call::notice).collect::<Vec<_>>()
    };
    queue(&stack, &[file(1), notice(2)].concat()).await;
    for agent in [&ada, &bo] {
        agent.until("a file is asked for", |now| now.fetched.len() == 1).await;
    }
    stack.baal(0).kill9();
    (ada.now().holds_files, bo.now().holds_files) = (false, false);
    stack.baal(0).start().await;
    for chat in [1, 2] {
        wait_for_sent(&stack, chat, 1).await;
    }
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where uncertain").await, 0);

    // Telegram has them and is slow to say so.
    let slow = |chat| json!({"method": "sendDocument", "chat_id": chat, "times": 1, "kind": "delay", "ms": 60_000});
    stack.simulator.post("/sim/faults", json!([slow(1), slow(2)])).await;
    queue(&stack, &[file(1), notice(2)].concat()).await;
    stack.wait_for_sql("select count(*) from outbox where leaving", 2i64).await;
    while stack.simulator.get("/sim/faults").await != json!([]) {
        tokio::time::sleep(POLL).await;
    }
    stack.baal(0).kill9();
    stack.baal(0).start().await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let states: Vec<(i64, bool, Option<bool>)> = sqlx::query_as(
        "select chat_id, uncertain, message_id is not null from outbox where uncertain order by chat_id",
    )
    .fetch_all(&stack.db)
    .await
    .unwrap();
    assert_eq!(states, [(1, true, Some(true)), (2, true, Some(false))], "a reply goes out again, a notice does not");
    let words = "select count(*) from outbox where payload::text like '%its words%' or file is not null";
    assert_eq!(stack.sql::<i64>(words).await, 0, "words of what has ended are kept");

    // A lost answer: the file is there twice, and recorded.
    let lost = json!({"method": "sendDocument", "chat_id": 3, "times": 1, "kind": "drop_after"});
    let flood = json!({"method": "sendDocument", "chat_id": 3, "times": 1, "kind": "429", "retry_after": 2});
    stack.simulator.post("/sim/faults", json!([flood, lost])).await;
    queue(&stack, &file(3)).await;
    assert_eq!(wait_for_sent(&stack, 3, 2).await.len(), 2);
    stack
        .wait_for_sql("select count(*) from outbox where chat_id = 3 and uncertain and losses = 1 and done", 1i64)
        .await;
    let calls = stack.simulator.get("/sim/calls?method=sendDocument&chat_id=3").await;
    let calls: Vec<(i64, i64)> = calls
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["status"].as_i64().unwrap(), c["at_ms"].as_i64().unwrap()))
        .collect();
    assert_eq!(calls.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [429, 0, 200]);
    assert!(calls[1].1 - calls[0].1 >= 2_000, "retry_after was not waited for");
    stack.simulator.assert_good_manners().await;
}
