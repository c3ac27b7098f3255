//! Every command: as a stranger meets it, about agents that are not there, not one's own or in another state, in the middle of
//! a dialogue, in a group.

use super::scene::{Scene, stack};
use crate::harness::Stack;

/// Commands that are about no agent, or about the one that is being talked to.
#[rustfmt::skip]
const PLAIN: &[&str] = &[
    "start",
    "help",
    "create",
    "list",
    "cancel",
    "stop",
    "new",
    "account",
    "login",
    "logout",
    "verbose",
    "dashboard",
    "pool",
    "privacy",
    "forgetme",
    "invite",
    "unheard_of",
];
/// Commands that name an agent, or ask which one.
const OF_AGENTS: &[&str] = &["manage", "soul", "update", "repair", "delete", "share"];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_a_stranger_in_a_dialogue_and_in_a_group() {
    let stack = stack(Stack::builder().env("OPERATOR_IDS", "9001")).await;
    for (at, command) in (0..).zip(PLAIN.iter().chain(OF_AGENTS)) {
        let user = 1_000 + at;
        let says = format!("/{command}");
        let odd = format!("/{command} no such thing");
        let mut scene = Scene::new(&stack, user);
        scene.plays(&[&says, "/cancel", &odd]).await;
        // In the middle of the wizard, which goes on or is given up, but is not confused.
        scene.plays(&["/create", "Ada", &says, "/cancel"]).await;
        scene.ends(&format!("{command}, by a newcomer"));

        let group = stack.group("Friends", &[user]).await;
        // It says what it is when it is added, and then no more.
        stack.settles().await;
        let mut scene = Scene::of(&stack, stack.user(user).within(group));
        scene.plays(&[&says, &format!("{says}@baal_bot"), &format!("{says}@other_bot")]).await;
        scene.ends(&format!("{command}, in a group"));
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_an_agent_heeds_whose_it_is_and_how_it_is() {
    let stack = stack(Stack::builder()).await;
    for (at, command) in (0..).zip(OF_AGENTS) {
        let (user, stranger) = (2_000 + 2 * at, 2_001 + 2 * at);
        let mut scene = Scene::new(&stack, user);
        scene.agent(stranger, "Hers", "public", "running").await;
        scene.states(user).await;
        let lines = [
            "",
            " {Ada}",
            " agent_{Ada}",
            " {Hers}",
            " 999999",
            " {Early}",
            " {Broken}",
            " {Going}",
            " {Gone}",
            " soon",
            " 99999999999999999999",
        ];
        for argument in lines {
            scene.plays(&[&format!("/{command}{argument}")]).await;
        }
        scene.ends(&format!("{command}, about agents"));
    }
    stack.simulator.assert_good_manners().await;
}
