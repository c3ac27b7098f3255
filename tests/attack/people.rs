//! Hostile people: buttons of others, forged and walked numbers, and text that wants to be more than text.
//!
//! tests/it/sharing.rs says for each kind of actor what opens; here every button there is, against somebody who has
//! everything, and what the answers give away.

use std::collections::BTreeSet;
use std::time::Duration;

use baal::config::Visibility;
use baal::telegram::callback::{AccountPress, OverviewPress, Press, SharePress, SoulPress};
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::Api;
use crate::harness::{POLL, Stack, User};

/// Which kind of button it is: all numbers from 0 to [`KINDS`] exist. A new button does not compile until it has one, and
/// the test below fails until it is pressed.
fn kind(press: &Press) -> usize {
    use {AccountPress as A, OverviewPress as O, SharePress as S, SoulPress as P};
    match press {
        Press::Create => 0,
        Press::List => 1,
        Press::Help => 2,
        Press::Chat(_) => 3,
        Press::Manage(_) => 4,
        Press::Delete(_) => 5,
        Press::ConfirmDelete(_) => 6,
        Press::KeepAgent(_) => 7,
        Press::Retry(_) => 8,
        Press::Repair(_) => 9,
        Press::ConfirmRepair(_) => 10,
        Press::BeginAnew(_) => 11,
        Press::ConfirmBeginAnew(_) => 12,
        Press::Update(_) => 13,
        Press::RetryTurn(_) => 14,
        Press::StopTurn(_) => 15,
        Press::NewChat(_) => 16,
        Press::KeepChat => 17,
        Press::Dialogue { .. } => 18,
        Press::Soul(P::Show(_)) => 19,
        Press::Soul(P::Edit(_)) => 20,
        Press::Soul(P::Undo { .. }) => 21,
        Press::Overview(O::Dashboard) => 22,
        Press::Overview(O::Pool) => 23,
        Press::Account(A::Show) => 24,
        Press::Account(A::Login) => 25,
        Press::Account(A::AskLogout) => 26,
        Press::Account(A::Logout) => 27,
        Press::Account(A::Redeploy) => 28,
        Press::Account(A::AskForget) => 29,
        Press::Account(A::Forget) => 30,
        Press::Account(A::Cancel) => 31,
        Press::Share(S::Open(_)) => 32,
        Press::Share(S::Visibility(..)) => 33,
        Press::Share(S::NewLink(_)) => 34,
        Press::Share(S::Link(_)) => 35,
        Press::Share(S::Tools(..)) => 36,
        Press::Share(S::PerDay(..)) => 37,
        Press::Share(S::Days(..)) => 38,
        Press::Share(S::Label(_)) => 39,
        Press::Share(S::Qr(_)) => 40,
        Press::Share(S::Revoke(_)) => 41,
        Press::Share(S::ConfirmRevoke(_)) => 42,
        Press::Share(S::Visitors { .. }) => 43,
        Press::Share(S::Visitor { .. }) => 44,
        Press::Share(S::Admit { .. }) => 45,
        Press::Share(S::Refuse { .. }) => 46,
        Press::Share(S::Block { .. }) => 47,
        Press::Share(S::Unblock { .. }) => 48,
    }
}

const KINDS: usize = 48;

/// Strangers at once; each does its part in order.
const EVES: usize = 8;

/// Every button, of an agent, a link, a turn, a dialogue and a visitor with these numbers.
fn presses(agent: i64, link: i64, turn: Uuid, dialogue: i64, user: i64) -> Vec<Press> {
    use {AccountPress as A, OverviewPress as O, SharePress as S, SoulPress as P};
    let soul = [P::Show(agent), P::Edit(agent), P::Undo { id: agent, from: 2, to: 1 }].map(Press::Soul);
    let share = [
        S::Open(agent),
        S::Visibility(agent, Visibility::Public),
        S::NewLink(agent),
        S::Link(link),
        S::Tools(link, true),
        S::PerDay(link, 0),
        S::Days(link, 0),
        S::Label(link),
        S::Qr(link),
        S::Revoke(link),
        S::ConfirmRevoke(link),
        S::Visitors { agent, page: 0 },
        S::Visitor { agent, user },
        S::Admit { agent, user },
        S::Refuse { agent, user },
        S::Block { agent, user },
        S::Unblock { agent, user },
    ];
    let account = [A::Show, A::Login, A::AskLogout, A::Logout, A::Redeploy, A::AskForget, A::Forget, A::Cancel];
    let dialogue =
        |step: &str, choice: &str| Press::Dialogue { id: dialogue, step: step.into(), choice: choice.into() };
    let mut all = vec![
        Press::Chat(agent),
        Press::Manage(agent),
        Press::Delete(agent),
        Press::ConfirmDelete(agent),
        Press::KeepAgent(agent),
        Press::Retry(agent),
        Press::Repair(agent),
        Press::ConfirmRepair(agent),
        Press::BeginAnew(agent),
        Press::ConfirmBeginAnew(agent),
        Press::Update(agent),
        Press::RetryTurn(turn),
        Press::StopTurn(turn),
        Press::NewChat(agent),
        Press::KeepChat,
        dialogue("personality", "default"),
        dialogue("personality", "cancel"),
        Press::List,
        Press::Help,
    ];
    all.extend(soul);
    all.extend(share.map(Press::Share));
    all.extend([O::Dashboard, O::Pool].map(Press::Overview));
    all.extend(account.map(Press::Account));
    all.push(Press::Create);
    all
}

/// All that is Ann's; nothing of what others do may change it.
const ANNS: &str = "select concat_ws(' # ',
    (select string_agg(a::text, ';' order by id) from agents a where owner_id = 1),
    (select string_agg(l::text, ';' order by id) from links l),
    (select string_agg(v::text, ';' order by user_id) from visitors v),
    (select string_agg(t::text, ';' order by position) from turns t where user_id = 1),
    (select string_agg(c::text, ';' order by chat_id) from conversations c where chat_id = 1),
    (select string_agg(u::text, ';' order by id) from users u where id = 1),
    (select count(*) from agent_versions), (select count(*) from jobs), (select count(*) from errands where user_id = 1),
    (select count(*) from outbox where chat_id = 1))";

/// What a press brings whoever pressed: the notice, and what the chat shows then that is new.
async fn reaction(stack: &Stack, user: User<'_>, press: &Press) -> String {
    let shown = user.asks("/help", "What you can do here").await.message_id;
    let query = user.forges(shown, &press.to_string()).await;
    let notice = stack.simulator.notice(&query).await;
    const OPEN: &str = "select (select count(*) from updates where chat_id = $1 and not done)
        + (select count(*) from outbox where chat_id = $1 and not done)";
    while sqlx::query_scalar::<_, i64>(OPEN).bind(user.id).fetch_one(&stack.db).await.unwrap() > 0 {
        tokio::time::sleep(POLL).await;
    }
    let messages = user.messages().await;
    let new = messages.iter().filter(|m| m.is_reply() && m.message_id >= shown);
    let seen: Vec<Value> = new.map(|m| json!([m.text, m.entities, m.reply_markup])).collect();
    json!([notice, seen]).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_button_of_somebody_elses_does_anything_or_tells_what_there_is() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    // An agent that is private, with a link, a visitor who waits and one who is blocked, a turn that failed, and a wizard that
    // is half done.
    let agent: i64 = sqlx::query_scalar(
        "with people as (insert into users (id, name) values (1, 'Ann'), (2, 'Bob'), (4, 'Dan')),
              agent as (insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret)
                        values (1, 1000000001, 1, 'Ada', 'Hush-hush.', 'glm-4.7', 'private', 'running', '') returning id)
         select id from agent",
    )
    .fetch_one(&stack.db)
    .await
    .unwrap();
    let link: i64 = sqlx::query_scalar(
        "insert into links (agent_id, label, token_hash) values ($1, 'Inner circle', '\\x01') returning id",
    )
    .bind(agent)
    .fetch_one(&stack.db)
    .await
    .unwrap();
    sqlx::query(
        "insert into visitors (agent_id, user_id, bot_id, link_id, asked_at, blocked_at)
         values ($1, 2, 1000000001, $2, now(), null), ($1, 4, 1000000001, $2, now(), now())",
    )
    .bind(agent)
    .bind(link)
    .execute(&stack.db)
    .await
    .unwrap();
    ann.asks(&format!("/start {agent}"), "You are talking to Ada.").await;
    ann.asks("hello?", "Ada").await;
    stack.wait_for_sql("select count(*) from turns where done", 1i64).await;
    ann.asks("/create", "1 of 3").await;
    ann.asks("Bea", "2 of 3").await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let turn: Uuid = stack.sql("select id from turns").await;
    let dialogue: i64 = stack.sql("select dialogue_id from conversations where chat_id = 1").await;
    let before: String = stack.sql(ANNS).await;

    let real = presses(agent, link, turn, dialogue, 2);
    // As many that name nothing.
    let forged = presses(agent + 500, link + 500, Uuid::from_u128(7), dialogue + 500, 2);
    let kinds: BTreeSet<usize> = real.iter().map(kind).collect();
    assert_eq!(kinds, (0..=KINDS).collect(), "a kind of button is not pressed here");
    let pairs: Vec<(&Press, &Press)> = real.iter().zip(&forged).collect();
    let presses = async |eve: User<'_>, pairs: &[(&Press, &Press)]| {
        for (real, forged) in pairs {
            assert_eq!(kind(real), kind(forged));
            let got = reaction(&stack, eve, real).await;
            for secret in ["Hush-hush", "Inner circle", "Ada", "Bob"] {
                assert!(!got.contains(secret), "{real}: {got}");
            }
            // What there is looks like what there isn't.
            if real != forged {
                let unknown = reaction(&stack, eve, forged).await;
                assert_eq!(got, unknown.replace(&forged.to_string(), &real.to_string()), "{real}");
            }
            // By this press, or by one that another makes right now.
            assert_eq!(stack.sql::<String>(ANNS).await, before, "{real}");
        }
    };
    let shares = pairs.chunks(pairs.len().div_ceil(EVES));
    join_all((1_000..).zip(shares).map(|(eve, share)| presses(stack.user(eve), share))).await;
    // Numbers are walked in vain, too, also those that are none.
    let mut numbers: Vec<String> = (agent - 3..agent + 6).map(|n| n.to_string()).collect();
    numbers.extend([i64::MAX, i64::MIN, 0, -1].map(|n| n.to_string()));
    numbers.extend(["1e3", "0x1", "+1", "99999999999999999999", "'1'", "1;--", "1 or 1=1", "١"].map(str::to_owned));
    let walks = async |eve: User<'_>, numbers: &[String]| {
        eve.asks("/cancel", "").await;
        for number in numbers {
            for command in
                ["/manage", "/delete", "/share", "/soul", "/update", "/repair", "/start", "/start a_", "/start i_"]
            {
                let reply = eve.asks(&format!("{command} {number}"), "").await;
                let text = reply.text;
                assert!(!text.contains("Ada") && !text.contains("Hush"), "{command} {number}: {text}");
            }
        }
    };
    let shares = numbers.chunks(numbers.len().div_ceil(EVES));
    join_all((1_000..).zip(shares).map(|(eve, share)| walks(stack.user(eve), share))).await;
    assert_eq!(stack.sql::<String>(ANNS).await, before);
    // Her wizard goes on where it was, by a button that others pressed in vain.
    ann.presses("all-rounder").await;
    ann.wait_for(|m| m.text.contains("3 of 3")).await;
    assert_eq!(stack.errors(), Vec::<String>::new());
    stack.simulator.assert_good_manners().await;
}

/// Texts that have been more than text somewhere.
const NASTY: [&str; 8] = [
    "'); drop table agents; --",
    "<b>bold</b><script>alert(1)</script>",
    "*b* _i_ [l](tg://user?id=1) ||s|| `c`",
    "</title>&amp;&lt;{{7*7}}${7*7}%s%n",
    "\\u0000 \\x00 \\",
    "https://evil.example @admin #tag",
    "e\u{301}\u{301}\u{301} 👩‍👩‍👧 𝕏",
    "$1 $$ :id ? %(id)s",
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_people_write_is_shown_as_they_wrote_it_and_nothing_more() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let ann = stack.user(1);
    let ada: i64 = sqlx::query_scalar(
        "with people as (insert into users (id, name) values (1, 'Ann'))
         insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret)
         values (1, 1000000001, 1, 'Ada', 'You wait.', 'glm-4.7', 'unlisted', 'stopped', '') returning id",
    )
    .fetch_one(&stack.db)
    .await
    .unwrap();
    for (index, nasty) in NASTY.into_iter().enumerate() {
        // An agent's name, by the wizard and by the API; its personality.
        ann.asks("/create", "1 of 3").await;
        ann.asks(nasty, "2 of 3").await;
        let question = ann.asks(nasty, "3 of 3").await;
        assert!(question.text.contains(nasty), "{}", question.text);
        ann.asks("/cancel", "Nothing was created").await;
        let made = api.patch(&format!("/agents/{ada}"), json!({"name": nasty, "system_prompt": nasty})).await;
        let made = made.is(200);
        assert_eq!((&made["name"], &made["system_prompt"]), (&nasty.into(), &nasty.into()));
        let listed = ann.asks("/list", "Your agents").await;
        let card = ann.asks(&format!("/manage {ada}"), nasty).await;
        let soul = ann.asks(&format!("/soul {ada}"), nasty).await;
        assert!(listed.text.contains(nasty));
        // A link's name.
        let label: String = nasty.chars().take(32).collect();
        let label = label.trim();
        let link = api.post(&format!("/agents/{ada}/links"), json!({ "label": label })).await.is(201);
        assert_eq!(link["label"], label);
        let share = ann.asks(&format!("/share {ada}"), "Sharing").await;
        assert!(share.text.contains(label) && share.text.contains(nasty), "{}", share.text);
        // A visitor's name, in the owner's screens.
        let visitor = stack.user(100 + index as i64);
        let name: String = nasty.chars().take(40).collect();
        let described = json!({"first_name": name.trim(), "username": format!("v{index}")});
        stack.simulator.ask(reqwest::Method::PUT, &format!("/sim/users/{}", visitor.id), Some(described)).await;
        let url = link["url"].as_str().unwrap_or_default().to_owned();
        let payload = url.rsplit_once("start=").map(|(_, payload)| payload.to_owned()).unwrap();
        visitor.asks(&format!("/start {payload}"), nasty).await;
        visitor.asks(&format!("/start {nasty}"), "no such").await;
        let welcome = visitor.asks("/start", "Hello").await;
        assert!(welcome.text.contains(name.trim()), "{}", welcome.text);
        let who = reaction(&stack, ann, &Press::Share(SharePress::Visitor { agent: ada, user: visitor.id })).await;
        assert!(who.contains(json!(name.trim()).to_string().trim_matches('"')), "{who}");
        let listed_link = format!("/agents/{ada}/links/{}", link["id"]);
        api.delete(&listed_link).await;
        // Bold is what Baal makes bold; nothing that they wrote became a link, a mention or code.
        for message in [&question, &listed, &card, &soul, &share, &welcome] {
            for entity in &message.entities {
                let made = entity["type"].as_str().unwrap();
                let by_telegram = ["url", "mention", "hashtag", "bot_command", "cashtag"];
                let by_baal = ["bold", "italic", "blockquote", "expandable_blockquote", "pre", "code"];
                assert!(by_telegram.contains(&made) || by_baal.contains(&made), "{nasty}: {entity}");
            }
        }
    }
    // A name that would turn the owner's screen around, or that nobody can see.
    for (name, shown) in [("Bob\u{202e}nigol\nADMIN", "Bob nigol ADMIN"), ("\u{3164}\u{200b}", "user 90")] {
        let described = json!({"first_name": name, "username": "bob"});
        stack.simulator.ask(reqwest::Method::PUT, "/sim/users/90", Some(described)).await;
        stack.user(90).asks("/help", "What you can do here").await;
        let link: i64 = stack.sql("select max(id) from links").await;
        sqlx::query(
            "insert into visitors (agent_id, user_id, bot_id, link_id) values ($1, 90, 1000000001, $2) on conflict do nothing",
        )
        .bind(ada)
        .bind(link)
        .execute(&stack.db)
        .await
        .unwrap();
        let who = reaction(&stack, ann, &Press::Share(SharePress::Visitor { agent: ada, user: 90 })).await;
        assert!(who.contains(shown) && !who.contains('\u{202e}'), "{who}");
    }
    // A key and an invitation's code are text as well.
    for nasty in NASTY {
        stack.user(91).says(&format!("/login {nasty}")).await;
        stack.user(91).asks(&format!("/start i_{nasty}"), "").await;
    }
    stack.wait_for_sql_within(Duration::from_secs(120), "select count(*) from errands where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from updates where error is not null").await, 0);
    assert_eq!(stack.errors(), Vec::<String>::new());
    stack.simulator.assert_good_manners().await;
}
