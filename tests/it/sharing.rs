//! Sharing: links, visitors, and who may do what.

use baal::agents::links::{self, Terms};
use baal::vault::Vault;
use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use crate::bot::{NO_SUCH_AGENT, data, insert_agent};
use crate::harness::{Message, Stack, User};

const NO_AGENT: &str = "There is no such agent. It may";
const NO_LINK: &str = "There is no such link any more. /share shows those that there are.";

/// The payload of the newest link that a message shows.
fn payload(message: &Message) -> String {
    let (_, payload) = message.text.rsplit_once("?start=").unwrap_or_else(|| panic!("no link in {:?}", message.text));
    payload.split_whitespace().next().unwrap().to_owned()
}

/// A link that needs no buttons: its number and the payload that opens it.
async fn insert_link(stack: &Stack, agent: i64, terms: Terms) -> (i64, String) {
    // As the harness starts the program.
    let vault = Vault::new(&"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".to_owned().into()).unwrap();
    let mut conn = stack.db.acquire().await.unwrap();
    let id = links::insert(&mut conn, &vault, agent, &terms).await.unwrap();
    let link = links::get(&mut conn, id).await.unwrap().unwrap();
    let url = link.url(&vault, "bot").unwrap();
    (id, url.rsplit_once('=').unwrap().1.to_owned())
}

/// Presses the button with this label under a message, and waits until the message shows `part`.
async fn turns(user: User<'_>, message: &Message, label: &str, part: &str) -> Message {
    user.press(message.message_id, &data(message, label)).await;
    let id = message.message_id;
    user.wait_for(|m| m.message_id == id && m.text.contains(part)).await
}

/// The tools that the model was offered when it was last asked this.
async fn offered(stack: &Stack, said: &str) -> Vec<String> {
    let asked = stack.simulator.ask_model("/sim/requests").await;
    let requests = asked["requests"].as_array().unwrap();
    let fits = |request: &&Value| {
        request["messages"].as_array().unwrap().last().is_some_and(|m| m["content"].to_string().contains(said))
    };
    let request = requests.iter().rev().find(fits).unwrap_or_else(|| panic!("nobody said {said:?} to the model"));
    let tools = request["tools"].as_array().cloned().unwrap_or_default();
    tools.iter().map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_links_terms_hold_for_whoever_came_by_it_from_the_moment_they_change() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada", "You count.").await;
    ann.asks("/list", "Your agents").await;
    // Whoever has one agent means that one.
    let card = ann.asks("/share", "Sharing Ada").await;
    assert!(
        card.text.contains("🌍 Public: everybody") && card.text.contains(&format!("?start=agent_{ada}")),
        "{}",
        card.text
    );
    let card = turns(ann, &card, "🔗 Unlisted", "🔗 Unlisted: whoever has one of its links").await;
    assert!(card.text.contains("It has no link yet.") && !card.text.contains("start="), "{}", card.text);
    let link = turns(ann, &card, "➕ New link", "🔗 Link 1 · Ada").await;
    assert!(link.text.contains("chat only; as many messages as they like"), "{}", link.text);
    // A second press that was on its way makes no second link.
    ann.forges(link.message_id, &format!("s:new:{ada}")).await;
    let start = format!("/start {}", payload(&link));
    assert!(start.starts_with("/start a_") && start.len() == 31, "{start}");

    bob.asks(&format!("/start {ada}"), NO_AGENT).await;
    let entered = bob.asks(&start, "You are talking to Ada.").await;
    assert!(entered.text.ends_with("Shared with you by a link: chat only."), "{}", entered.text);
    bob.asks("hello", "message 1 of our conversation").await;
    assert_eq!(offered(&stack, "hello").await, ["remember", "recall"]);

    let link = turns(ann, &link, "🛠 Tools too", "chat, and use its tools").await;
    let link = turns(ann, &link, "5/day", "5 messages a day each").await;
    bob.asks("and now?", "message 2 of our conversation").await;
    assert!(offered(&stack, "and now?").await.contains(&"write_file".to_owned()));
    for n in 3..=5 {
        bob.asks("more", &format!("message {n} of our conversation")).await;
    }
    bob.asks("a sixth", "allows 5 messages a day").await;
    // Another way in is no way around what was counted today.
    let (_, other) = insert_link(&stack, ada, Terms { per_day: Some(5), ..Terms::default() }).await;
    let entered = bob.asks(&format!("/start {other}"), "You are talking to Ada.").await;
    assert!(entered.text.ends_with("chat only, 5 messages a day."), "{}", entered.text);
    bob.asks("a seventh", "allows 5 messages a day").await;
    bob.asks(&start, "with its tools, 5 messages a day.").await;
    let link = turns(ann, &link, "No limit", "as many messages as they like").await;
    bob.asks("at last", "message 6 of our conversation").await;

    let people = stack.sql::<String>("select messages || ' ' || messages_today from visitors").await;
    assert_eq!(people, "6 6");
    let visitors = turns(ann, &link, "« Sharing", "Sharing Ada").await;
    let visitors = turns(ann, &visitors, "👥 Visitors (1)", "Visitors of Ada (1)").await;
    assert!(visitors.text.contains("with its tools, by “Link 1”\n      6 messages, 6 today"), "{}", visitors.text);

    let link = ann.asks(&format!("/share {ada}"), "Sharing Ada").await;
    let link = turns(ann, &link, "⚙️ Link 1", "🔗 Link 1 · Ada").await;
    let really = turns(ann, &link, "🗑 Revoke", "Came by it so far: 1 person").await;
    turns(ann, &really, "🗑 Revoke", "Sharing Ada").await;
    bob.asks("still there?", "its owner took it back").await;
    bob.asks(&start, "This link doesn't work any more: it was taken back.").await;
    assert_eq!(stack.sql::<i64>("select count(*) from links where token_hash is not null").await, 2);
    ann.asks("are you mine?", "message 1 of our conversation").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn into_a_private_agent_come_those_whom_its_owner_lets_in() {
    let stack = Stack::start().await;
    let (ann, bob, eve) = (stack.user(1), stack.user(2), stack.user(3));
    let ada = insert_agent(&stack, 1, "*Ada*", "public", "running").await;
    let start = {
        let (_, token) = insert_link(&stack, ada, Terms { label: "_Friends_".into(), ..Terms::default() }).await;
        format!("/start {token}")
    };
    // Opened while it was public, and shut out when it no longer is.
    eve.asks(&format!("/start {ada}"), "You are talking to *Ada*.").await;
    let card = ann.asks("/share", "Sharing *Ada*").await;
    turns(ann, &card, "🔒 Private", "🔒 Private: whoever opens one of its links asks you first").await;
    eve.asks("hello?", "isn't shared any more").await;
    eve.asks(&format!("/start {ada}"), "*Ada* isn't open to you at the moment.").await;

    let asked = "*Ada* is private. Its owner has been asked to let you in";
    bob.asks(&start, asked).await;
    let question =
        ann.wait_for(|m| m.text.contains("would like to talk to *Ada* and came by your link “_Friends_”")).await;
    // Asking again bothers nobody.
    bob.asks(&start, asked).await;
    bob.asks("hello?", "You aren't talking to an agent yet.").await;
    let there = turns(ann, &question, "✅ Let in", "🟢 chat only, by “_Friends_”").await;
    let told = bob.wait_for(|m| m.text == "✅ The owner of *Ada* has let you in.").await;
    ann.forges(there.message_id, &format!("s:in:{ada}:2")).await;
    bob.press(told.message_id, &data(&told, "💬 Chat")).await;
    bob.wait_for(|m| m.text.starts_with("💬 You are talking to *Ada*.")).await;
    assert_eq!(bob.messages().await.iter().filter(|m| m.text.contains("has let you in")).count(), 1);
    let questions = ann.messages().await.iter().filter(|m| m.text.contains("would like to talk")).count();
    assert_eq!(questions, 0, "one question, which was answered in its place");
    bob.asks("hello?", "*Ada*").await;
    assert_eq!(
        stack.sql::<i64>("select count(*) from turns where user_id = 2 and role = 'visitor' and not tools").await,
        1
    );

    // Not now, and asking again at once changes nothing.
    eve.asks(&start, asked).await;
    let question = ann.wait_for(|m| m.text.contains("would like to talk to *Ada*")).await;
    let refused = turns(ann, &question, "✖️ Not now", "⚪️ not let in").await;
    eve.wait_for(|m| m.text == "The owner of *Ada* doesn't let you in at the moment.").await;
    eve.asks(&start, "*Ada* isn't open to you at the moment.").await;
    turns(ann, &refused, "✅ Let in", "🟢 chat only").await;
    eve.wait_for(|m| m.text == "✅ The owner of *Ada* has let you in.").await;
    eve.asks(&format!("/start {ada}"), "You are talking to *Ada*.").await;

    // Blocked is blocked, by whatever link; until it is undone.
    let card = ann.asks(&format!("/share {ada}"), "Sharing *Ada*").await;
    let list = turns(ann, &card, "👥 Visitors (2)", "Visitors of *Ada* (2)").await;
    let eves = list.buttons().into_iter().find(|b| b.data.ends_with(":3")).unwrap();
    let eves = turns(ann, &list, &eves.label, "👤").await;
    let blocked = turns(ann, &eves, "🚫 Block", "🚫 blocked").await;
    eve.asks("hello?", "its owner doesn't let you").await;
    eve.asks(&start, "its owner has closed it for you").await;
    sqlx::query("update agents set visibility = 'public'").execute(&stack.db).await.unwrap();
    eve.asks(&format!("/start {ada}"), "its owner has closed it for you").await;
    turns(ann, &blocked, "Unblock", "🟢 chat only").await;
    eve.asks(&start, "You are talking to *Ada*.").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_named_end_and_are_few() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    ann.asks("/share", "You have no agents yet.").await;
    let ada = insert_agent(&stack, 1, "Ada", "unlisted", "running").await;
    let bea = insert_agent(&stack, 1, "Bea", "public", "running").await;
    let which = ann.asks("/share", "Which agent do you want to share?").await;
    let card = turns(ann, &which, &format!("🔗 Ada (no. {ada})"), "Sharing Ada").await;
    let link = turns(ann, &card, "➕ New link", "🔗 Link 1 · Ada").await;
    let start = format!("/start {}", payload(&link));

    ann.press(link.message_id, &data(&link, "✏️ Rename")).await;
    ann.wait_for(|m| m.text.starts_with("How should the link Link 1 be called?")).await;
    ann.asks(&"x".repeat(33), "That name has 33 characters; send one with at most 32.").await;
    let link = ann.asks("*For* <friends>", "🔗 *For* <friends> · Ada").await;
    let link = turns(ann, &link, "7 days", "Good: until ").await;
    bob.asks(&start, "You are talking to Ada.").await;
    sqlx::query("update links set expires_at = now() where token_hash is not null").execute(&stack.db).await.unwrap();
    bob.asks("hello?", "it has expired").await;
    bob.asks(&start, "This link has reached its end.").await;
    // It can be given another life; whoever came by it is back.
    let card = turns(ann, &link, "« Sharing", " · has ended").await;
    let link = turns(ann, &card, "⚙️ *For* <friends>", "Good: ended on ").await;
    turns(ann, &link, "No end", "Good: until you revoke it").await;
    bob.asks("hello?", "Ada").await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, 1);

    // The number of a public agent has terms too, but no end.
    let card = ann.asks(&format!("/share agent_{bea}"), "Sharing Bea").await;
    let number = turns(ann, &card, "⚙️ By its number", "🔗 By its number · Bea").await;
    let labels: Vec<_> = number.buttons().into_iter().map(|button| button.label).collect();
    assert!(!labels.iter().any(|label| label.contains("Revoke") || label.contains("days")), "{labels:?}");
    let number = turns(ann, &number, "💬 Chat only", "can: chat only").await;
    turns(ann, &number, "20/day", "20 messages a day each").await;
    bob.asks(&format!("/start {bea}"), "Shared with you by a link: chat only, 20 messages a day.").await;
    let id = stack.sql::<i64>("select max(id) from links where token_hash is null").await;
    for (press, refused) in [("revoke!", "can't be taken back"), ("end", "has no end of its own")] {
        let press = if press == "end" { format!("s:end:{id}:7") } else { format!("s:{press}:{id}") };
        let shown = ann.asks("/help", "What you can do here").await.message_id;
        ann.forges(shown, &press).await;
        ann.wait_for(|m| m.message_id == shown && m.text.contains(refused)).await;
    }
    for _ in 0..10 {
        insert_link(&stack, bea, Terms::default()).await;
    }
    sqlx::query("update links set created_at = now() - interval '1 minute'").execute(&stack.db).await.unwrap();
    let card = ann.asks(&format!("/share {bea}"), "Sharing Bea").await;
    turns(ann, &card, "➕ New link", "Bea has 10 links, which is as many as there may be.").await;
    let gone = insert_agent(&stack, 1, "Gone", "unlisted", "deleting").await;
    let card = ann.asks(&format!("/share {gone}"), "Gone is being deleted; nothing can be changed.").await;
    ann.forges(card.message_id, &format!("s:new:{gone}")).await;
    ann.asks("/share 0", "There is no such agent.").await;
    let made = "select count(*) from links l join agents a on a.id = l.agent_id where a.status = 'deleting'";
    assert_eq!(stack.sql::<i64>(made).await, 0);
    stack.simulator.assert_good_manners().await;
}

/// What somebody is to an agent.
struct Actor {
    id: i64,
    what: &'static str,
    /// What a message to it brings.
    message: &'static str,
    /// What the link that they have brings.
    link: &'static str,
    /// What its number brings.
    number: &'static str,
    /// Role and tools of the turn that a message makes.
    turn: Option<(&'static str, bool)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_with_an_agent() {
    let stack = Stack::builder().env("OPERATOR_IDS", 8).start().await;
    let ada = insert_agent(&stack, 1, "Ada", "unlisted", "running").await;
    sqlx::query("update agents set system_prompt = 'Hush-hush.'").execute(&stack.db).await.unwrap();
    let label = || Terms { label: "Inner circle".into(), ..Terms::default() };
    let (chat_link, chat) = insert_link(&stack, ada, label()).await;
    let (tools_link, tools) = insert_link(&stack, ada, Terms { tools: true, ..label() }).await;
    let (revoked_link, revoked) = insert_link(&stack, ada, label()).await;
    let (expired_link, expired) = insert_link(&stack, ada, label()).await;
    let (_, unknown) = insert_link(&stack, ada, label()).await;
    sqlx::query("update links set token_hash = '\\x00' where id = (select max(id) from links)")
        .execute(&stack.db)
        .await
        .unwrap();

    let talks = "You are talking to Ada.";
    let nobody = "You aren't talking to an agent yet.";
    let actor = |id, what, message, link, number, turn| Actor { id, what, message, link, number, turn };
    let actors = [
        actor(1, "owner", "Ada", talks, talks, Some(("owner", true))),
        actor(2, "visitor, chat", "Ada", talks, talks, Some(("visitor", false))),
        actor(3, "visitor, tools", "Ada", talks, talks, Some(("visitor", true))),
        actor(4, "revoked", "its owner took it back", "it was taken back", "its owner took the link back", None),
        actor(5, "expired", "it has expired", "has reached its end", "the link has reached its end", None),
        actor(6, "blocked", "its owner doesn't let you", "closed it for you", "closed it for you", None),
        actor(7, "stranger", nobody, NO_AGENT, NO_AGENT, None),
        actor(8, "operator", nobody, NO_AGENT, NO_AGENT, None),
    ];
    let link_of = |id: i64| match id {
        2 | 6 => &chat,
        1 | 3 => &tools,
        4 => &revoked,
        5 => &expired,
        _ => &unknown,
    };
    for actor in &actors[..6] {
        stack.user(actor.id).asks(&format!("/start {}", link_of(actor.id)), talks).await;
    }
    let now =
        "update links set revoked_at = case when id = $1 then now() end, expires_at = case when id = $2 then now() end";
    sqlx::query(now).bind(revoked_link).bind(expired_link).execute(&stack.db).await.unwrap();
    sqlx::query("update visitors set blocked_at = now() where user_id = 6").execute(&stack.db).await.unwrap();

    join_all(actors.iter().map(async |actor| {
        let user = stack.user(actor.id);
        user.asks("hello?", actor.message).await;
        user.asks(&format!("/start {}", link_of(actor.id)), actor.link).await;
        user.asks(&format!("/start {ada}"), actor.number).await;
        let last = user.asks("/help", "What you can do here").await.message_id;
        user.forges(last, &format!("chat:{ada}")).await;
        user.wait_for(|m| m.message_id > last && m.text.contains(actor.number)).await;
        let turns: Vec<(String, bool)> =
            sqlx::query_as("select role, tools from turns where user_id = $1 and kind = 'message'")
                .bind(actor.id)
                .fetch_all(&stack.db)
                .await
                .unwrap();
        let wanted: Vec<_> = actor.turn.iter().map(|(role, tools)| ((*role).to_owned(), *tools)).collect();
        assert_eq!(turns, wanted, "{}", actor.what);
    }))
    .await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;

    const STATE: &str = "select (select string_agg(a::text, ';' order by id) from agents a)
        || (select string_agg(l::text, ';' order by id) from links l)
        || (select string_agg(concat_ws(' ', v.user_id, v.link_id, v.asked_at, v.admitted_at, v.refused_at, v.blocked_at), ';'
                              order by user_id) from visitors v)
        || (select string_agg(t::text, ';' order by position) from turns t)
        || (select count(*) from jobs) || ' ' || (select count(*) from agent_versions)";
    let before: String = stack.sql(STATE).await;
    let commands = [
        "/manage N",
        "/delete N",
        "/soul N",
        "/soul N Be mine.",
        "/update N",
        "/repair N",
        "/repair N new",
        "/share N",
    ];
    let of_agent = ["manage:N", "delete:N", "delete!:N", "keep:N", "repair!:N", "anew!:N"]
        .into_iter()
        .chain(["s:open:N", "s:for:N:public", "s:new:N", "s:all:N:0", "s:who:N:2", "s:who:N:99"])
        .chain(["s:in:N:4", "s:in:N:6", "s:no:N:4", "s:block:N:2", "s:unblock:N:6"]);
    let of_agent: Vec<String> = of_agent.map(|press| press.replace('N', &ada.to_string())).collect();
    let of_link: Vec<String> = ["link:L", "tools:L:1", "day:L:0", "end:L:0", "name:L", "qr:L", "revoke:L", "revoke!:L"]
        .iter()
        .flat_map(|press| [chat_link, tools_link].map(|link| format!("s:{}", press.replace('L', &link.to_string()))))
        .collect();
    let turn: Uuid = stack.sql("select id from turns where user_id = 1 order by position limit 1").await;
    let elsewhere = ["retry:N", "repair:N", "anew:N", "update:N", "soul:show:N", "soul:edit:N", "soul:undo:N:2:1"]
        .into_iter()
        .chain(["stop:T", "again:T", "o:pool"]);
    let elsewhere: Vec<String> =
        elsewhere.map(|press| press.replace('N', &ada.to_string()).replace('T', &turn.to_string())).collect();
    join_all(actors[1..].iter().map(async |actor| {
        let user = stack.user(actor.id);
        for command in commands {
            let reply = user.asks(&command.replace('N', &ada.to_string()), "").await;
            assert_eq!((&*reply.text, reply.buttons()), (NO_SUCH_AGENT, vec![]), "{}: {command}", actor.what);
        }
        for (presses, answer) in [(&of_agent, NO_SUCH_AGENT), (&of_link, NO_LINK)] {
            for press in presses {
                let shown = user.asks("/help", "What you can do here").await.message_id;
                let query = user.forges(shown, press).await;
                assert_eq!(stack.simulator.notice(&query).await, "", "{}: {press}", actor.what);
                let turned = user.wait_for(|m| m.message_id == shown && !m.text.contains("What you can do")).await;
                assert_eq!((&*turned.text, turned.buttons()), (answer, vec![]), "{}: {press}", actor.what);
            }
        }
        for press in &elsewhere {
            let any = user.messages().await.last().unwrap().message_id;
            let query = user.forges(any, press).await;
            // Understood, and without effect.
            let notice = stack.simulator.notice(&query).await;
            assert_ne!(notice, "This button does nothing any more.", "{}: {press}", actor.what);
        }
        user.asks("/list", "You have no agents yet.").await;
        user.asks("/share", "You have no agents yet.").await;
        for message in user.messages().await {
            let seen = serde_json::json!([message.text, message.edits, message.reply_markup]).to_string();
            for secret in ["Hush-hush", "Inner circle", &chat, &tools, &revoked, &expired] {
                // What they sent themselves they know.
                assert!(!message.from.is_bot || !seen.contains(secret), "{} saw {secret}: {seen}", actor.what);
            }
        }
    }))
    .await;
    assert_eq!(stack.sql::<String>(STATE).await, before);
    let owner = stack.user(1);
    let card = owner.asks("/share", "Sharing Ada").await;
    assert!(card.text.contains(&chat) && card.text.contains("Inner circle"), "{}", card.text);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_visitors_are_shown_in_pages() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = insert_agent(&stack, 1, "Ada", "public", "running").await;
    let (link, _) = insert_link(&stack, ada, Terms::default()).await;
    sqlx::query(
        "with people as (insert into users (id, name, username) select 100 + n, 'Visitor <' || n || '>', 'v' || n
                           from generate_series(1, 20) n returning id)
         insert into visitors (agent_id, user_id, bot_id, link_id, last_seen_at)
         select $1, id, 1000000001, $2, now() - make_interval(hours => id::int - 100) from people",
    )
    .bind(ada)
    .bind(link)
    .execute(&stack.db)
    .await
    .unwrap();
    let card = ann.asks("/share", "Sharing Ada").await;
    let page =
        turns(ann, &card, "👥 Visitors (20)", "Visitor <1> (@v1) · chat only\n      0 messages, last here 1 hour ago")
            .await;
    assert!(page.text.contains("<8>") && !page.text.contains("<9>"), "{}", page.text);
    let page = turns(ann, &page, "Older ›", "<9>").await;
    let page = turns(ann, &page, "Older ›", "<20>").await;
    assert!(!page.buttons().iter().any(|button| button.label.contains("Older")));
    turns(ann, &page, "‹ Newer", "<16>").await;
    stack.simulator.assert_good_manners().await;
}
