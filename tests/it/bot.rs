//! What the bot says to commands, links and buttons: to those whose agents they are, and to everybody else.

use std::path::PathBuf;
use std::time::Duration;

use baal_protocol::{AgentLock, LOCK_FILE};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Message, Stack};
use crate::updates::{SECRET, deliver, update};
use crate::upkeep::insert_job;

pub const NO_SUCH_AGENT: &str = "There is no such agent. /list shows yours.";
const UNKNOWN: i64 = 999_999;

/// An agent without a machine, for what needs none.
pub async fn insert_agent(stack: &Stack, owner: i64, name: &str, visibility: &str, status: &str) -> i64 {
    sqlx::query_scalar(
        "with owner as (insert into users (id, name) values ($1, 'Owner') on conflict do nothing)
         insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, deleted_at)
         values ($1, 1000000001, $1, $2, 'You wait.', 'glm-4.7', $3, $4, '', case when $4 = 'deleted' then now() end)
         returning id",
    )
    .bind(owner)
    .bind(name)
    .bind(visibility)
    .bind(status)
    .fetch_one(&stack.db)
    .await
    .unwrap()
}

/// All that a reader can tell of a message.
fn looks(message: &Message) -> String {
    json!([message.text, message.entities, message.reply_markup]).to_string()
}

fn labels(message: &Message) -> Vec<String> {
    message.buttons().into_iter().map(|button| button.label).collect()
}

/// What the button with this label sends.
pub fn data(message: &Message, label: &str) -> String {
    let button = message.buttons().into_iter().find(|button| button.label.contains(label));
    button.unwrap_or_else(|| panic!("no button {label:?} under {:?}", message.text)).data
}

/// Directories of agents with a process in them, and its id.
fn processes(stack: &Stack) -> Vec<(PathBuf, u32)> {
    let lock = |dir: &PathBuf| std::fs::read(dir.join(LOCK_FILE)).ok();
    let locks = stack.agent_dirs().into_iter().filter_map(|dir| lock(&dir).map(|lock| (dir, lock)));
    locks.map(|(dir, lock)| (dir, serde_json::from_slice::<AgentLock>(&lock).unwrap().pid)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_welcomed_and_told_what_does_not_work() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let welcome = ann.asks("/start", "Hello").await;
    assert_eq!(labels(&welcome), ["✨ Create an agent", "🗂 My agents", "❔ Help"]);
    ann.presses("Help").await;
    ann.wait_for(|m| m.text.contains("What you can do here")).await;
    ann.presses("My agents").await;
    ann.wait_for(|m| m.text == "You have no agents yet.").await;
    let unknown = ann.forges(welcome.message_id, "of another version").await;
    assert_eq!(stack.simulator.notice(&unknown).await, "This button does nothing any more.");

    ann.asks("/manage", "You have no agents yet.").await;
    ann.asks("/delete", "You have no agents yet.").await;
    ann.asks("/cancel", "There is nothing to cancel.").await;
    ann.asks("/unheard_of", "I don't know that command.").await;
    ann.asks("Is anybody there?", "You aren't talking to an agent yet.").await;
    // A file for nobody, too.
    let photo = stack
        .simulator
        .post("/sim/users/1/messages", json!({"photo": {"content_base64": "AAAA"}, "text": "a caption"}));
    let sent = photo.await["message_id"].as_i64().unwrap();
    ann.wait_for(|m| m.message_id > sent && m.text.starts_with("You aren't talking to an agent yet.")).await;

    // The menu was there before the first update could come.
    let chat = stack.simulator.get("/sim/chats/1").await;
    let menu: Vec<_> = chat["bot"]["commands"].as_array().unwrap().iter().map(|c| c["command"].clone()).collect();
    let words = "create list dashboard manage soul share new stop account login logout verbose update repair delete cancel \
                 privacy forgetme help start";
    assert_eq!(menu, words.split(' ').collect::<Vec<_>>());
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_an_agent_or_looks_as_if_there_were_none() {
    let stack = Stack::start().await;
    let (owner, stranger) = (stack.user(1), stack.user(2));
    let public = insert_agent(&stack, 1, "Ada", "public", "running").await;
    let unlisted = insert_agent(&stack, 1, "Secret", "unlisted", "running").await;
    let failed_unlisted = insert_agent(&stack, 1, "Secret", "unlisted", "failed").await;
    let deleting = insert_agent(&stack, 1, "Going", "public", "deleting").await;
    // Without a job it would not stay in between for long.
    insert_job(&stack, deleting, "deprovision", "stop", None).await;
    let deleted = insert_agent(&stack, 1, "Gone", "public", "deleted").await;

    let unknown = looks(&stranger.asks(&format!("/start agent_{UNKNOWN}"), "There is no such agent. It may").await);
    let hidden = [unlisted, failed_unlisted, deleting, deleted];
    let payloads = hidden.iter().flat_map(|id| [format!("agent_{id}"), id.to_string()]);
    for payload in payloads.chain(["agent_x".into(), "nonsense".into(), "99999999999999999999".into()]) {
        assert_eq!(looks(&stranger.asks(&format!("/start {payload}"), "").await), unknown, "/start {payload}");
    }
    // Pressing is no other way in.
    let any = stranger.asks("/help", "What you can do here").await;
    for id in hidden {
        let before = stranger.messages().await.last().unwrap().message_id;
        stranger.forges(any.message_id, &format!("chat:{id}")).await;
        let reply = stranger.wait_for(|m| m.message_id > before).await;
        assert_eq!(looks(&reply), unknown, "chat:{id}");
    }
    stranger.asks("hello?", "You aren't talking to an agent yet.").await;

    for payload in [format!("agent_{public}"), public.to_string()] {
        stranger.asks(&format!("/start {payload}"), "You are talking to Ada. Write something!").await;
    }
    owner.asks(&format!("/start agent_{unlisted}"), "You are talking to Secret.").await;
    owner.asks(&format!("/start agent_{deleting}"), "It is being deleted.").await;
    let gone = owner.asks(&format!("/start agent_{deleted}"), "There is no such agent. It may").await;
    assert_eq!(looks(&gone), unknown);

    let provisioning = insert_agent(&stack, 1, "Early", "public", "provisioning").await;
    let failed = insert_agent(&stack, 1, "Broken", "public", "failed").await;
    stranger.asks(&format!("/start agent_{provisioning}"), "It is still being set up").await;
    stranger.asks("hello?", "Early isn't running yet").await;
    stranger.asks(&format!("/start agent_{failed}"), "It isn't running").await;
    stranger.asks("hello?", "Broken isn't running").await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_looks_after_agents_and_a_deleted_one_is_gone_for_everybody() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada", "You count.").await;
    bob.asks(&format!("/start {ada}"), "You are talking to Ada").await;
    bob.asks("hello", "message 1 of our conversation").await;

    let list = ann.asks("/list", "Your agents (1 of 3)").await;
    assert!(list.text.contains(&format!("🟢 Ada · no. {ada} · running")), "{}", list.text);
    assert_eq!(labels(&list), ["💬 Ada", "🛠 Manage", "✨ Create another"]);
    ann.press(list.message_id, &data(&list, "Manage")).await;
    let card = ann.wait_for(|m| m.message_id == list.message_id && m.text.contains("Personality:")).await;
    assert!(
        card.text.contains("Status: running") && card.text.contains(&format!("start=agent_{ada}")),
        "{}",
        card.text
    );
    ann.presses("« All agents").await;
    ann.wait_for(|m| m.message_id == list.message_id && m.text.contains("Your agents")).await;
    for argument in [format!("{ada}"), format!("agent_{ada}"), format!("#{ada}")] {
        assert_eq!(looks(&ann.asks(&format!("/manage {argument}"), "Personality:").await), looks(&card));
    }
    ann.asks("/manage soon", NO_SUCH_AGENT).await;
    ann.presses("💬 Chat").await;
    ann.wait_for(|m| m.text.contains("You are talking to Ada")).await;

    ann.asks("/delete", "Which agent do you want to delete?").await;
    ann.asks(&format!("/delete {ada}"), "for good").await;
    ann.presses("Keep it").await;
    ann.wait_for(|m| m.text == "👍 Ada stays.").await;
    assert_eq!(stack.sql::<i64>("select count(*) from agents where status = 'running'").await, 1);
    let [(dir, pid)] = &processes(&stack)[..] else { panic!("not one process") };
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 100, "piece_ms": 1000})).await;
    let slow = bob.asks("tell me more", "You said").await.message_id;
    let question = ann.asks(&format!("/delete {ada}"), "for good").await;
    ann.press(question.message_id, &data(&question, "Delete for good")).await;
    ann.wait_for(|m| m.text.contains("Ada is being deleted")).await;
    stack.wait_for_sql("select count(*) from agents where status = 'deleted' and deleted_at is not null", 1i64).await;
    stack.wait_for_sql("select count(*) from vms where ended_at is null", 0i64).await;
    assert!(!dir.exists(), "{} is still there", dir.display());
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "process {pid} is still there");

    // Who waits for an answer at that moment is told as well.
    bob.wait_for(|m| m.message_id == slow && m.text.contains("Ada was deleted.") && !m.buttons().is_empty()).await;
    bob.asks("are you still there?", "Ada was deleted.").await;
    bob.asks(&format!("/start {ada}"), "There is no such agent. It may").await;
    ann.asks(&format!("/manage {ada}"), NO_SUCH_AGENT).await;
    ann.asks(&format!("/delete {ada}"), NO_SUCH_AGENT).await;
    ann.forges(question.message_id, &format!("delete!:{ada}")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text == NO_SUCH_AGENT).await;
    ann.asks("/list", "You have no agents yet.").await;
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 2, "one to make it, one to remove it");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_agents_cannot_be_told_from_none_and_stay_untouched() {
    let stack = Stack::start().await;
    let mallory = stack.user(2);
    let any = mallory.asks("/help", "What you can do here").await;
    let mut ids = vec![UNKNOWN];
    for visibility in ["public", "unlisted"] {
        for status in ["running", "failed", "provisioning", "deleting", "deleted"] {
            ids.push(
                insert_agent(&stack, 1, "Ada", visibility, if status == "deleting" { "failed" } else { status }).await,
            );
            if status == "deleting" {
                // By a job whose time never comes: else the janitor would begin another.
                sqlx::query(
                    "with job as (
                       insert into jobs (id, kind, agent_id, step, run_at)
                       values (gen_random_uuid(), 'deprovision', $1, 'stop', 'infinity'))
                     update agents set status = 'deleting' where id = $1",
                )
                .bind(ids.last().unwrap())
                .execute(&stack.db)
                .await
                .unwrap();
            }
        }
    }
    let turn = Uuid::now_v7();
    sqlx::query(
        "insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, done, status)
         values ($1, 1000000001, 1, $2, 1, 'owner', 'words', true, 'failed')",
    )
    .bind(turn)
    .bind(ids[1])
    .execute(&stack.db)
    .await
    .unwrap();
    const STATE: &str = "select (select string_agg(a::text, ';' order by id) from agents a) || (select string_agg(t::text, ';') \
        from turns t) || (select count(*) from jobs) || (select count(*) from agent_versions)";
    let before: String = stack.sql(STATE).await;

    for id in &ids {
        for command in ["/manage N", "/delete N", "/soul N", "/soul N Be mine.", "/update N", "/repair N"] {
            let command = command.replace('N', &id.to_string());
            let reply = mallory.asks(&command, "").await;
            assert_eq!((&*reply.text, reply.buttons()), (NO_SUCH_AGENT, vec![]), "{command}");
        }
        for verb in ["manage", "delete", "delete!", "keep", "repair!"] {
            // Each on a message that doesn't say so yet.
            let shown = mallory.asks("/help", "What you can do here").await.message_id;
            let query = mallory.forges(shown, &format!("{verb}:{id}")).await;
            assert_eq!(stack.simulator.notice(&query).await, "", "{verb}:{id}");
            let turned = mallory.wait_for(|m| m.message_id == shown && !m.text.contains("What you can do")).await;
            assert_eq!((&*turned.text, turned.buttons()), (NO_SUCH_AGENT, vec![]), "{verb}:{id}");
        }
        for verb in ["retry", "repair", "update"] {
            let last = mallory.messages().await.last().unwrap().message_id;
            mallory.forges(any.message_id, &format!("{verb}:{id}")).await;
            let reply = mallory.wait_for(|m| m.message_id > last).await;
            assert_eq!((&*reply.text, reply.buttons()), (NO_SUCH_AGENT, vec![]), "{verb}:{id}");
        }
    }
    for id in [turn, Uuid::now_v7()] {
        let query = mallory.forges(any.message_id, &format!("again:{}", id.simple())).await;
        assert_eq!(stack.simulator.notice(&query).await, "That was already tried again, or is too long ago.");
    }
    mallory.asks("/list", "You have no agents yet.").await;
    assert_eq!(stack.sql::<String>(STATE).await, before);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_plain_text_wherever_they_appear() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let names = ["<b>*_[x](http://evil)`&amp;", "👩\u{200d}🚀 \u{200f}||שלום|| ~عليكم~", "# 1. @evil /start"];
    for id in [1, 2] {
        let described = json!({"first_name": "*_<i>[y](tg://user?id=1)"});
        stack.simulator.ask(Method::PUT, &format!("/sim/users/{id}"), Some(described)).await;
    }
    ann.asks("/start", "Hello *_<i>[y](tg://user?id=1)!").await;
    for name in names {
        let id = ann.creates_agent(name, name).await;
        for chat in [ann, bob] {
            chat.asks(&format!("/start {id}"), &format!("You are talking to {name}.")).await;
        }
        ann.asks(&format!("/manage {id}"), name).await;
        ann.asks(&format!("/delete {id}"), &format!("Delete {name} (no. {id})?")).await;
        ann.presses("Keep it").await;
        ann.wait_for(|m| m.text == format!("👍 {name} stays.")).await;
        ann.asks(&format!("/delete {id}"), name).await;
        ann.presses("Delete for good").await;
        stack.wait_for_sql("select count(*) from agents where status <> 'deleted'", 0i64).await;
        bob.asks("hello?", &format!("{name} was deleted.")).await;
    }
    let failed = insert_agent(&stack, 1, names[0], "public", "running").await;
    bob.asks(&format!("/start {failed}"), "You are talking to").await;
    // Told by the turn, whose words are Markdown.
    bob.asks("hello?", names[0]).await;

    for chat in [ann, bob] {
        // What agents say is Markdown of their own.
        for message in chat.messages().await.into_iter().filter(|m| m.from.is_bot && !m.says_hello()) {
            let now = json!({"text": message.text, "entities": message.entities});
            for state in message.edits["history"].as_array().unwrap().iter().chain([&now]) {
                let units: Vec<u16> = state["text"].as_str().unwrap().encode_utf16().collect();
                for entity in state["entities"].as_array().unwrap() {
                    let kind = entity["type"].as_str().unwrap();
                    // What Telegram finds by itself in any text.
                    if ["url", "mention", "hashtag", "bot_command"].contains(&kind) {
                        continue;
                    }
                    assert!(["bold", "italic", "blockquote"].contains(&kind), "{kind} in {state}");
                    let at = |field: &str| entity[field].as_u64().unwrap() as usize;
                    let marked = String::from_utf16(&units[at("offset")..at("offset") + at("length")]).unwrap();
                    let whole = !marked.contains("evil") || names.contains(&&*marked);
                    assert!(whole, "{kind} marks {marked:?} in {state}");
                }
            }
        }
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn free_messages_are_counted_and_who_blocks_the_bot_is_left_alone() {
    let stack = Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 3).start().await;
    let (ann, bob, carol) = (stack.user(1), stack.user(2), stack.user(3));
    let ada = ann.creates_agent("Ada", "You count.").await;
    for user in [ann, bob, carol] {
        user.asks(&format!("/start {ada}"), "You are talking to Ada").await;
    }
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 100, "piece_ms": 0})).await;
    let bursts = (0..10)
        .map(|n| deliver(stack.baal(0), Some(SECRET), update(900_000_000 + n, 2, &format!("text {n}")).to_string()));
    for status in join_all(bursts).await {
        assert_eq!(status, 200);
    }
    let told = |m: &&Message| m.is_reply() && m.text.starts_with("You have used all 3 messages of today.");
    bob.wait_until(|messages| (messages.iter().filter(told).count() == 7).then_some(())).await;
    const COVERED: &str =
        "select sum(cardinality(message_ids))::int8 from turns where user_id = 2 and status = 'completed'";
    stack.wait_for_sql(COVERED, Some(3i64)).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where user_id = 2 and not done").await, 0);
    assert_eq!(stack.sql::<i32>("select messages from usage where user_id = 2").await, 3);
    // What came to nothing is not counted.
    let script = json!({"match": "for nothing", "replies": [{"status": 401}]});
    stack.simulator.tell_model("/sim/script", script).await;
    ann.asks("for nothing", "⚠️").await;
    assert_eq!(stack.sql::<i32>("select messages from usage where user_id = 1").await, 0);

    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 1500, "piece_ms": 0})).await;
    carol.says("hello").await;
    stack.wait_for_sql("select count(*) from turns where user_id = 3 and claimed_by is not null", 1i64).await;
    stack.simulator.post("/sim/users/3/block", json!({})).await;
    stack.wait_for_sql("select unreachable_at is not null from conversations where chat_id = 3", true).await;
    stack.wait_for_sql("select status from turns where user_id = 3", Some("completed".to_owned())).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let calls = async || stack.simulator.get("/sim/calls?chat_id=3").await.as_array().unwrap().len();
    let called = calls().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(calls().await, called, "nobody who blocked the bot is called again");
    stack.simulator.post("/sim/users/3/unblock", json!({})).await;
    stack.wait_for_sql("select unreachable_at is null from conversations where chat_id = 3", true).await;
    carol.asks("hello again", "of our conversation").await;
    stack.simulator.assert_good_manners().await;
}
