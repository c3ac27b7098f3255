//! Every button: pressed by whom it is not for, about what is not there, when it is old.

use super::scene::{Scene, stack};
use crate::harness::Stack;

/// What buttons about an agent say, with the agent in the place of `#`.
#[rustfmt::skip]
const OF_AGENTS: &[&str] = &[
    "chat:#", "manage:#", "delete:#", "delete!:#", "keep:#", "retry:#", "repair:#", "repair!:#", "anew:#", "anew!:#",
    "update:#", "new!:#", "soul:show:#", "soul:edit:#", "soul:undo:#:2:1", "s:open:#", "s:for:#:private", "s:new:#",
    "s:all:#:0", "s:who:#:1", "s:in:#:1", "s:no:#:1", "s:block:#:1", "s:unblock:#:1",
];
/// Those that would set an agent without a machine up.
#[rustfmt::skip]
const STARTING: &[&str] = &["delete!:#", "retry:#", "repair:#", "repair!:#", "anew!:#"];
/// Buttons about the presser, whoever that is, and about links that there are not.
#[rustfmt::skip]
const OF_NEWCOMERS: &[&str] = &[
    "create", "list", "help", "me:show", "me:login", "me:cancel", "me:logout?", "me:logout", "me:redeploy", "me:forget?",
    "me:cancel", "o:dashboard", "o:pool", "s:pick", "s:link:999", "s:tools:999:1", "s:day:999:20", "s:end:999:7",
    "s:name:999", "s:qr:999", "s:revoke:999", "s:revoke!:999",
];
/// Buttons of dialogues and turns that never were, and of other versions.
#[rustfmt::skip]
const OF_NOTHING: &[&str] = &[
    "again:00000000000000000000000000000000", "stop:00000000000000000000000000000000", "d:1:confirm:yes", "d:0:x:y",
    "manage:", "manage:-1", "manage:9999999999999999999999", "soul:", "s:", "me:", "o:", "nonsense", "💥",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_press_is_authorised_anew_whoever_the_button_was_made_for() {
    let stack = stack(Stack::builder()).await;
    for (at, data) in (0..).zip(OF_AGENTS) {
        let (user, owner) = (3_000 + 2 * at, 3_001 + 2 * at);
        let mut scene = Scene::new(&stack, user);
        scene.agent(owner, "Hers", "unlisted", "running").await;
        scene.agent(user, "Gone", "public", "deleted").await;
        for agent in ["{Hers}", "999999", "{Gone}", ""] {
            // Something to press a button of.
            scene.plays(&["/cancel", &format!("forged {}", data.replace('#', agent))]).await;
        }
        scene.ends(&format!("button {}, forged", data.replace('!', " confirmed")));
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_do_for_a_newcomer_what_they_say_or_tell_why_not() {
    let stack = stack(Stack::builder()).await;
    for (user, name, buttons) in [(3_900, "of newcomers", OF_NEWCOMERS), (3_901, "of nothing", OF_NOTHING)] {
        let mut scene = Scene::new(&stack, user);
        for data in buttons {
            scene.plays(&["/cancel", &format!("forged {data}")]).await;
        }
        scene.ends(&format!("buttons {name}"));
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_heed_how_an_agent_is_and_where_they_are() {
    let stack = stack(Stack::builder()).await;
    let mut scene = Scene::new(&stack, 3_950);
    scene.states(3_950).await;
    for data in OF_AGENTS.iter().filter(|data| !STARTING.contains(data)) {
        for agent in ["{Early}", "{Broken}", "{Going}"] {
            scene.plays(&["/cancel", &format!("forged {}", data.replace('#', agent))]).await;
        }
    }
    scene.ends("buttons, of agents that do not run");

    let group = stack.group("Friends", &[3_951]).await;
    stack.settles().await;
    let mut scene = Scene::of(&stack, stack.user(3_951).within(group));
    scene.plays(&["/help"]).await;
    for data in OF_NEWCOMERS.iter().chain(OF_NOTHING) {
        scene.plays(&[&format!("forged {data}")]).await;
    }
    scene.ends("buttons, in a group");
    stack.simulator.assert_good_manners().await;
}
