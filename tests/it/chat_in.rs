//! Words and files on their way to an agent: how they become turns, and what counts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use baal::database::MIGRATIONS;
use baal::telegram::text::Place;
use baal::turns::queue::{self, Enqueued, NewTurn};
use baal::turns::request::{self, Part, Request};
use baal::vault::Vault;
use baal_protocol::Role;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::harness::{Builder, Stack, Upload, User, database};

/// A database of its own, with a running agent of user 1 that users 2 and 3 visit.
async fn rows() -> (PgPool, Vault) {
    let options = PgPoolOptions::new().max_connections(20);
    let db = options.connect(&database().await).await.unwrap();
    MIGRATIONS.run(&db).await.unwrap();
    for statement in [
        "insert into users (id, name) select n, 'User' from generate_series(1, 3) n",
        "insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret)
         values (1, 7, 1, 'Ada', '', 'm', 'public', 'running', '')",
        "insert into visitors (agent_id, user_id, bot_id) values (1, 2, 7), (1, 3, 7)",
    ] {
        sqlx::query(statement).execute(&db).await.unwrap();
    }
    (db, Vault::new(&Vault::generate_key()).unwrap())
}

fn part(id: i64, words: &str) -> Part {
    let request = Request { message: words.into(), name: "User".into(), language_code: None };
    Part { request, message_id: Some(id), sent_at: 0, cut: None, file: None }
}

/// A message of `user` to the agent of [`rows`].
fn new_turn<'a>(user: i64, bot_id: i64, parts: &'a [Part]) -> NewTurn<'a> {
    NewTurn {
        place: Place { bot_id, chat_id: user, thread_id: None },
        agent_id: 1,
        user_id: user,
        role: if user == 1 { Role::Owner } else { Role::Visitor },
        link_id: None,
        tools: true,
        parts,
        edit_of: None,
        album: None,
        wait: Duration::ZERO,
        free_limit: None,
        per_day: None,
        handles: None,
    }
}

async fn value<T>(db: &PgPool, query: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(query).fetch_one(db).await.unwrap_or_else(|error| panic!("{query}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_quota_passes_of_fifty_messages_at_once() {
    let (db, vault) = rows().await;
    // (limit of the free messages, limit of the link, what passes)
    for (round, (free_limit, per_day, passes)) in
        [(Some(20), None, 20i64), (None, Some(9), 9), (Some(7), Some(30), 7), (Some(30), Some(5), 5)]
            .into_iter()
            .enumerate()
    {
        for statement in
            ["delete from turns", "delete from usage", "update visitors set messages = 0, messages_today = 0"]
        {
            sqlx::query(statement).execute(&db).await.unwrap();
        }
        // Each in a chat of its own, which nothing else keeps in order.
        let all = (0..100).map(|n: i64| {
            let (db, vault) = (db.clone(), vault.clone());
            tokio::spawn(async move {
                let parts = [part(n, "hello")];
                let turn = NewTurn { free_limit, per_day, ..new_turn(2 + n % 2, 100 + n / 4, &parts) };
                let mut tx = db.begin().await.unwrap();
                let enqueued = queue::enqueue(&mut tx, &vault, &turn).await.unwrap();
                tx.commit().await.unwrap();
                enqueued
            })
        });
        let refused = match per_day.is_some_and(|per_day| i64::from(per_day) == passes) {
            true => Enqueued::LinkUsedUp,
            false => Enqueued::FreeUsedUp,
        };
        let mut passed = 0;
        for enqueued in join_all(all).await {
            match enqueued.unwrap() {
                Enqueued::Queued(_) => passed += 1,
                other => assert_eq!(other, refused, "round {round}"),
            }
        }
        assert_eq!(passed, 2 * passes, "round {round}");
        let messages: Vec<(i64, i64)> =
            sqlx::query_as("select user_id, sum(cardinality(message_ids)) from turns group by 1 order by 1")
                .fetch_all(&db)
                .await
                .unwrap();
        assert_eq!(messages, [(2, passes), (3, passes)], "round {round}");
        let visits: Vec<(i64, i32)> =
            sqlx::query_as("select messages, messages_today from visitors").fetch_all(&db).await.unwrap();
        assert_eq!(visits, [(passes, passes as i32); 2], "round {round}");
        let used: Vec<i32> = sqlx::query_scalar("select messages from usage").fetch_all(&db).await.unwrap();
        assert_eq!(used, if free_limit.is_some() { vec![passes as i32; 2] } else { vec![] }, "round {round}");
        let counted: i64 = value(&db, "select sum(counted) from turns").await;
        assert_eq!(counted, if free_limit.is_some() { 2 * passes } else { 0 }, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_joins_the_newest_turn_that_nobody_has_claimed_and_no_other() {
    let (db, vault) = rows().await;
    let mut conn = db.acquire().await.unwrap();
    let mut next_id = 0;
    let mut say = async |turn: &dyn Fn(&mut NewTurn<'_>)| {
        next_id += 1;
        let parts = [part(next_id, &format!("text {next_id}"))];
        let mut new = new_turn(2, 7, &parts);
        turn(&mut new);
        match queue::enqueue(&mut conn, &vault, &new).await.unwrap() {
            Enqueued::Queued(id) => id,
            other => panic!("{other:?}"),
        }
    };
    let usual = |_: &mut NewTurn<'_>| {};
    let first = say(&usual).await;
    assert_eq!(say(&usual).await, first);
    // Whatever else differs makes another turn; and nothing joins over one that came in between.
    let edit = Uuid::now_v7();
    let mut newest = first;
    let differing: [&dyn Fn(&mut NewTurn<'_>); 4] =
        [&|turn| turn.tools = false, &|turn| turn.link_id = Some(5), &|turn| turn.place.thread_id = Some(9), &|turn| {
            turn.edit_of = Some(edit)
        }];
    for differs in differing {
        let other = say(differs).await;
        assert_ne!(other, newest);
        newest = other;
    }
    let after_edit = say(&usual).await;
    assert_ne!(after_edit, newest, "an edit is on its own");
    // What was claimed once may have been seen by its agent.
    for statement in [
        "update turns set claimed_by = 1, attempt = 1",
        "update turns set attempt = 1",
        "update turns set cancel_requested = true",
        "update turns set kind = 'reset'",
        "update turns set created_at = created_at - interval '1 day'",
        "update turns set done = true",
    ] {
        sqlx::query(statement).execute(&db).await.unwrap();
        let other = say(&usual).await;
        assert_ne!(other, newest, "{statement}");
        assert_eq!(say(&usual).await, other, "{statement}");
        sqlx::query("delete from turns where id <> $1").bind(other).execute(&db).await.unwrap();
        newest = other;
    }
    // One turn holds so many messages, in the order in which they were written.
    for _ in 2..20 {
        assert_eq!(say(&usual).await, newest);
    }
    assert_ne!(say(&usual).await, newest);
    let stored: Vec<u8> =
        sqlx::query_scalar("select request from turns where id = $1").bind(newest).fetch_one(&db).await.unwrap();
    let parts = request::open(&vault, &stored).unwrap();
    assert_eq!(parts.len(), 20);
    assert!(parts.is_sorted_by_key(|part| part.message_id));
}

/// An agent of user 1 that users up to `users` are talking to.
pub(crate) async fn with_agent(builder: Builder, users: i64) -> Stack {
    let stack = builder.start().await;
    let ada = stack.user(1).creates_agent("Ada", "You listen.").await;
    for id in 1..=users {
        stack.user(id).asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    }
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    stack
}

/// What people have said to the model, each question once, in order of the alphabet.
pub(crate) async fn questions(stack: &Stack) -> Vec<String> {
    let asked = stack.simulator.ask_model("/sim/requests").await;
    let all = asked["by_message"].as_object().unwrap().keys();
    // A new agent is asked to introduce itself.
    all.filter(|question| !question.contains("You have just been created")).cloned().collect()
}

pub(crate) async fn all_answered(stack: &Stack) {
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    stack.wait_for_sql("select count(*) from turns where status <> 'completed'", 0i64).await;
}

pub(crate) fn id(sent: &Value) -> i64 {
    sent["message_id"].as_i64().unwrap()
}

/// Keeps the agent busy with a question, so that what comes next waits.
pub(crate) async fn busy(stack: &Stack, user: User<'_>, question: &str) {
    let script = json!({"match": question, "replies": [{"content": "Done.", "delay_ms": 4_000}]});
    stack.simulator.tell_model("/sim/script", script).await;
    user.says(question).await;
    stack.wait_for_sql("select count(*) from turns where claimed_by is not null and not done", 1i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_come_while_a_turn_runs_are_the_next_one_together_and_edits_find_them() {
    let stack = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    busy(&stack, ann, "one").await;
    ann.says("two").await;
    let three = id(&ann.says("thre").await);
    let four = id(&ann.says("four").await);
    stack.wait_for_sql("select max(cardinality(message_ids)) from turns where not done", Some(3)).await;
    // The agent has not seen it yet.
    ann.edits(three, "three").await;
    stack.handles_all().await;
    ann.wait_for(|m| m.text.contains("message 2 of our conversation")).await;
    all_answered(&stack).await;
    assert_eq!(questions(&stack).await, ["one", "two\n\nthree\n\nfour"]);
    assert_eq!(stack.sql::<i32>("select messages from usage").await, 4);

    // It has; the edit is told, and counts.
    ann.edits(four, "4").await;
    ann.wait_for(|m| m.text.contains("message 3 of our conversation")).await;
    let told = questions(&stack).await;
    assert!(told.iter().any(|said| said.contains("changed an earlier message") && said.ends_with("\n\n4")), "{told:?}");
    let edit_of: bool = stack
        .sql("select edit_of = (select id from turns where cardinality(message_ids) = 3) from turns where edit_of is not null")
        .await;
    assert!(edit_of);
    assert_eq!(stack.sql::<i32>("select messages from usage").await, 5);
    // Commands have had their effect, and what nobody was told cannot be changed.
    let help = id(&ann.says("/help").await);
    ann.edits(help, "/list").await;
    let turns: i64 = stack.sql("select count(*) from turns where kind = 'message'").await;
    sqlx::query("update turns set message_ids = '{}'").execute(&stack.db).await.unwrap();
    ann.edits(four, "four!").await;
    stack.handles_all().await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where kind = 'message'").await, turns);
    stack.simulator.assert_good_manners().await;
}

/// The files below a directory that came with turns, by their names.
fn uploads(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.components().any(|part| part.as_os_str() == "workspace")
                && path.components().any(|part| part.as_os_str() == "uploads")
            {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn albums_long_texts_and_files_reach_the_agent_whole() {
    let stack = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    let agents = stack.dir().join("agents");
    let holds = |name: &str, bytes: &[u8]| {
        let found = uploads(&agents);
        let named: Vec<_> =
            found.iter().filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().contains(name))).collect();
        assert!(named.iter().any(|path| std::fs::read(path).unwrap() == bytes), "{name} is not among {found:?}");
    };
    // Telegram does not always give a file at once.
    let fault = json!([{"method": "getFile", "times": 2, "kind": "500"}]);
    stack.simulator.post("/sim/faults", fault).await;
    let photos: Vec<Vec<u8>> = (0..3u8).map(|n| vec![n; 3_000 + usize::from(n)]).collect();
    let album: Vec<Upload> = photos.iter().map(|bytes| Upload::photo(bytes)).collect();
    ann.sends_album(&album, "what is this?").await;
    ann.wait_for(|m| m.text.contains("message 1 of our conversation")).await;
    let said = questions(&stack).await;
    assert!(
        said.len() == 1 && said[0].starts_with("what is this?") && said[0].matches("[Attached: ").count() == 3,
        "{said:?}"
    );
    photos.iter().for_each(|bytes| holds("photo-", bytes));

    // The client cuts it; the agent gets one question.
    let long: String = (0..1_500).map(|n| format!("word{n} ")).collect();
    ann.says(long.trim()).await;
    ann.wait_for(|m| m.text.contains("message 2 of our conversation")).await;
    all_answered(&stack).await;
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let said = questions(&stack).await;
    assert!(said.iter().any(|said| squeezed(said) == squeezed(&long)), "{} questions", said.len());

    // Two files of one name, in one turn; and one with a name that means something in paths.
    busy(&stack, ann, "wait").await;
    let (first, second) = (vec![1u8; 70_000], vec![2u8; 80_000]);
    ann.sends_file(&Upload::document("report.pdf", "application/pdf", &first), "").await;
    ann.sends_file(&Upload::document("report.pdf", "application/pdf", &second), "compare these").await;
    ann.sends_file(&Upload::document("../../etc/pass wd?#%.txt", "text/plain", b"x"), "").await;
    ann.sends_file(&Upload::voice(12, b"ogg"), "").await;
    ann.wait_for(|m| m.text.contains("message 4 of our conversation")).await;
    all_answered(&stack).await;
    holds("report.pdf", &first);
    holds("report.pdf", &second);
    holds("etc_pass wd", b"x");
    holds("voice-", b"ogg");
    let said = questions(&stack).await;
    assert!(
        said.iter().any(|said| said.starts_with("compare these\n\n(voice message, 12 s)\n\n[Attached: ")),
        "{said:?}"
    );

    // The larger ones are told at once, and what came with them is passed on.
    let large = Upload::document("film.mkv", "video/x-matroska", b"").of_size(21 * 1024 * 1024);
    ann.sends_file(&large, "what film is this?").await;
    ann.wait_for(|m| m.text.starts_with("film.mkv has 21.0 MB and wasn't passed on")).await;
    ann.wait_for(|m| m.text.contains("message 5 of our conversation")).await;
    let turns: i64 = stack.sql("select count(*) from turns where kind = 'message'").await;
    let sent = id(&ann.sends_file(&large, "").await);
    ann.wait_for(|m| m.message_id > sent && m.text.contains("wasn't passed on")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where kind = 'message'").await, turns);
    assert!(questions(&stack).await.iter().any(|said| said == "what film is this?"));

    // One that Telegram has not any more: nothing that a bot can know before it asks.
    stack.simulator.assert_good_manners().await;
    let photo = json!({"raw": {"document": {"file_id": "unheard of", "file_name": "*old*.txt"}}});
    ann.sends(photo).await;
    let told = ann.wait_for(|m| m.text.contains("*old*.txt couldn't be passed on")).await;
    assert!(told.text.contains("Please send it once more") && told.buttons()[0].label.contains("Try again"));
    let used: i32 = stack.sql("select messages from usage").await;
    let counted: i64 = stack.sql("select sum(counted)::int8 from turns where status = 'completed'").await;
    assert_eq!(i64::from(used), counted, "what was not passed on is given back");
    let refused = stack.simulator.get("/sim/violations").await;
    assert!(refused.as_array().unwrap().iter().all(|one| one["method"] == "getFile"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn places_contacts_stickers_and_answers_become_words_and_the_rest_is_told() {
    let stack = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    let mut wanted = Vec::new();
    let mut next = 1;
    let mut answered = async |sent: Value, words: &str| {
        let below = id(&sent);
        let count = format!("message {next} of our conversation");
        next += 1;
        wanted.push(words.to_owned());
        ann.wait_for(move |m| m.message_id > below && m.text.contains(&count)).await
    };
    answered(ann.sends_location(52.5, 13.25).await, "📍 Location: 52.500000, 13.250000").await;
    let contact = json!({"contact": {"phone_number": "+491", "first_name": "Bob"}});
    answered(ann.sends(contact).await, "👤 Contact: Bob, +491").await;
    let sticker = json!({"raw": {"sticker": {"file_id": "s", "file_unique_id": "s", "emoji": "🎉"}}});
    answered(ann.sends(sticker).await, "🎉").await;
    let first = id(&ann.says("The sky\nis green.").await);
    let above = answered(json!({"message_id": first}), "The sky\nis green.").await;
    answered(ann.replies(first, "Is it?").await, "> The sky\n> is green.\n\nIs it?").await;
    assert!(above.message_id > first);
    let mut said = questions(&stack).await;
    wanted.sort();
    said.sort();
    assert_eq!(said, wanted);

    let turns: i64 = stack.sql("select count(*) from turns where kind = 'message'").await;
    for raw in [json!({"poll": {"id": "1"}}), json!({"dice": {"emoji": "🎲", "value": 3}}), json!({"story": {"id": 1}})]
    {
        let sent = id(&ann.sends(json!({"raw": raw})).await);
        ann.wait_for(|m| m.message_id > sent && m.text.starts_with("I can't pass this on")).await;
    }
    // Nobody said this.
    ann.sends(json!({"raw": {"pinned_message": {"message_id": 1}}})).await;
    ann.says("/create").await;
    let asked = ann.wait_for(|m| m.text.contains("1 of 3")).await.message_id;
    ann.sends_location(1.0, 2.0).await;
    ann.wait_for(|m| m.message_id > asked && m.text.contains("answer in words")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where kind = 'message'").await, turns);
    stack.simulator.assert_good_manners().await;
}
