//! What people do from the beginning to the end, and what goes wrong on the way.

use serde_json::json;

use super::scene::{Scene, stack};
use crate::harness::Stack;

/// A key as LibertAI's look; the simulated one takes any that it was not told to refuse.
const KEY: &str = "sk-0123456789-of-ann-abcdef";

/// Stories that need no agent: their names and lines.
const STORIES: &[(&str, &[&str])] = &[
    ("wizard, cancelled", &["/create", "[Cancel]", "old [Cancel]", "Ada"]),
    (
        "wizard, cancelled at the end",
        &["/create", "Ada", "[Friendly]", "[Qwen]", "[Unlisted]", "[Cancel]", "old [Create]"],
    ),
    ("wizard, by a button of /start", &["/start", "[Create an agent]", "/cancel", "[Create an agent] twice"]),
    ("wizard, after a restart", &["/create", "Ada", "(restart)", "You count."]),
    ("wizard, begun twice", &["/create", "Ada", "/create", "Bob", "old [Cancel]"]),
    ("wizard, bad answers", &["/create", "/unheard_of", "two\nlines", "Ada", "old [Cancel]", "You count.", "neither"]),
    (
        "links that open nothing",
        &["/start agent_999999", "/start a_0123456789abcdefghijkl", "/start i_0123456789abcdef"],
    ),
    (
        "account and its switches",
        &["/account", "/verbose", "/verbose off", "/verbose on", "/verbose maybe", "/account"],
    ),
    ("login by a dialogue", &["/login", KEY, "/account", "/logout", "[Stay connected]", "old [Log out]"]),
    (
        "login and logout",
        &["/login sk-0123456789-of-ann-abcdef", "/login sk-another-0123456789", "/logout", "[Log out] twice"],
    ),
    (
        "login with keys that are no use",
        &["/login sk-refused-0123456789", "/login sk-empty-0123456789", "/login", "no key"],
    ),
    ("login, given up", &["/login", "/cancel", KEY]),
    (
        "privacy and second thoughts",
        &["/privacy", "[Forget me]", "[Keep everything]", "/forgetme", "[Go on]", "[Keep everything]"],
    ),
    (
        "forgotten",
        &["/verbose on", "/forgetme", "[Go on]", "not yet", "/forgetme", "[Go on]", "(restart)", "FORGET", "/account"],
    ),
    ("dashboard", &["/dashboard", "[Create an agent]"]),
    ("wizard, with another message's button", &["/start", "/create", "Ada", "[My agents]", "You count.", "/cancel"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn stories_without_an_agent() {
    let stack = stack(Stack::builder()).await;
    for (key, status) in [("sk-refused-0123456789", 401), ("sk-empty-0123456789", 402)] {
        stack.simulator.tell_model("/sim/accounts", json!({"key": key, "status": status})).await;
    }
    for (user, (name, lines)) in (4_000..).zip(STORIES) {
        let mut scene = Scene::new(&stack, user);
        scene.plays(lines).await;
        scene.ends(name);
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_agent() {
    let stack = stack(Stack::builder()).await;
    let mut owner = Scene::new(&stack, 1);
    owner.knows("Ada", 700_001);
    owner.plays(&["/create", "Ada", "You count.", "[Qwen]", "[Create] twice", "old [Create]"]).await;
    owner.plays(&["/list", "[Ada]", "hello", "/verbose on", "and again", "/stop", "/new", "[Go on as before]"]).await;
    owner.plays(&["/new", "[Start afresh]", "who am I?", "(restart)", "still there?", "/dashboard"]).await;
    owner.ends("life, made and talked to");

    let mut owner = Scene::new(&stack, 1);
    owner.knows("Ada", 700_001);
    owner
        .plays(&["/soul {Ada}", "[Change]", "/cancel", "[Change]", "You sing.", "sing!", "[Undo] twice", "old [Undo]"])
        .await;
    owner.plays(&["/soul {Ada} You dance.", "/update {Ada}", "/repair {Ada}", "[Leave it as it is]"]).await;
    owner.ends("life, changed");

    let mut guest = Scene::new(&stack, 2);
    guest.knows("Ada", 700_001);
    guest.plays(&["/start agent_{Ada}", "hello", "/manage {Ada}", "/new", "[Start afresh]", "/list"]).await;
    let mut owner = Scene::new(&stack, 1);
    owner.knows("Ada", 700_001);
    owner.plays(&["/share {Ada}", "[Private] twice"]).await;
    guest.plays(&["may I still?", "/start agent_{Ada}"]).await;
    guest.ends("life, as a visitor");
    owner
        .plays(&["/delete {Ada}", "[Keep it]", "/delete {Ada}", "[Delete for good] twice", "old [Keep it]", "/list"])
        .await;
    owner.plays(&["are you there?", "/manage {Ada}", "/delete"]).await;
    owner.ends("life, ended");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_trouble() {
    let stack = stack(Stack::builder().env("FREE_TIER_DAILY_MESSAGES", "2")).await;
    let failing = json!({"status": 500});
    let script = json!({"match": "fail", "replies": [failing, failing, failing]});
    stack.simulator.tell_model("/sim/script", script).await;
    let mut owner = Scene::new(&stack, 1);
    owner.knows("Ada", 700_001);
    owner.plays(&["/create", "Ada", "You count.", "[Qwen]", "[Create]"]).await;
    owner.plays(&["fail", "[Try again] twice", "old [Try again]", "a second", "a third"]).await;
    owner.plays(&[&format!("/login {KEY}"), "[Move my agent]", "a fourth", "/account", "/dashboard"]).await;
    owner.ends("life, with limits");

    let mut owner = Scene::new(&stack, 1);
    owner.knows("Ada", 700_001);
    sqlx::query("update agents set status = 'failed', url = null").execute(&stack.db).await.unwrap();
    owner
        .plays(&[
            "are you there?",
            "/list",
            "/manage {Ada}",
            "[Begin anew]",
            "[Leave it as it is]",
            "/repair {Ada}",
            "are you there?",
        ])
        .await;
    owner.ends("life, in trouble");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_see_and_invitations() {
    let stack = stack(Stack::builder().env("OPERATOR_IDS", "9001").env("CREATE_POLICY", "invite")).await;
    let mut operator = Scene::new(&stack, 9_001);
    operator.plays(&["/help", "/pool", "/invite", "/create", "/cancel"]).await;
    operator.ends("an operator invites");
    let messages = stack.user(9_001).messages().await;
    let code = messages.iter().rev().find_map(|message| {
        let (_, rest) = message.text.split_once("start=i_")?;
        Some(rest.split_whitespace().next()?.to_owned())
    });
    let code = code.unwrap();
    for (user, name) in [(9_100, "an invited one"), (9_101, "a second one with the same invitation")] {
        let mut guest = Scene::new(&stack, user);
        guest.plays(&["/create", "no code", "/cancel", &format!("/start i_{code}"), "/create", "/cancel"]).await;
        guest.ends(name);
    }
    stack.simulator.assert_good_manners().await;
}
