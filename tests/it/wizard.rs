//! The wizard that creates an agent: its questions, its answers in words and by button, and the ways out of it.

use futures_util::future::join_all;

use crate::bot::{data, insert_agent};
use crate::harness::{Message, Stack, User};

const OLD_BUTTON: &str = "This button is from an earlier step.";

/// Answers the wizard's first `steps` questions; the question that is open then.
async fn walk(user: &User<'_>, name: &str, steps: usize) -> Message {
    let mut question = user.asks("/create", "1 of 3").await;
    if steps > 0 {
        question = user.asks(name, "2 of 3").await;
    }
    if steps > 1 {
        question = user.asks("You count.", "3 of 3").await;
    }
    if steps > 2 {
        user.press(question.message_id, &question.buttons()[0].data).await;
        let id = question.message_id;
        question = user.wait_for(|m| m.message_id == id && m.text.contains("Create this agent?")).await;
    }
    question
}

/// The step of user 1's wizard.
async fn step(stack: &Stack) -> Option<String> {
    stack.sql("select dialogue->>'step' from conversations where chat_id = 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wizard_takes_good_answers_can_be_left_and_ignores_old_buttons() {
    let stack = Stack::builder().env("MAX_AGENTS_PER_USER", 1).start().await;
    let ann = stack.user(1);
    ann.asks("/create", "1 of 3").await;
    let long = "é".repeat(65);
    for (name, why) in [
        (&*long, "That name has 65 characters"),
        ("two\nlines", "one line"),
        ("\u{202e}sdrawkcab", "one line"),
        ("\u{2800}", "is empty"),
    ] {
        ann.asks(name, why).await;
        assert_eq!(step(&stack).await.as_deref(), Some("name"), "{name:?}");
    }
    for steps in 0..4 {
        walk(&ann, "Ada", steps).await;
        ann.asks("/cancel", "Cancelled. Nothing was created.").await;
        assert_eq!(step(&stack).await, None, "/cancel at step {steps}");
        let question = walk(&ann, "Ada", steps).await;
        ann.press(question.message_id, &data(&question, "Cancel")).await;
        ann.wait_for(|m| m.message_id == question.message_id && m.text.contains("Cancelled.")).await;
        assert_eq!(step(&stack).await, None, "the button at step {steps}");
    }
    ann.asks("/cancel", "There is nothing to cancel.").await;

    // A question that was answered in words says so and has no buttons any more; a client may still show them.
    let personality = walk(&ann, "Ada", 1).await;
    let model = ann.asks("You count.", "3 of 3").await;
    let answered = ann.wait_for(|m| m.message_id == personality.message_id && m.text.contains("✅ You count.")).await;
    assert!(answered.text.starts_with("New agent, 2 of 3") && answered.buttons().is_empty(), "{answered:?}");
    let late = ann.forges(personality.message_id, &data(&personality, "all-rounder")).await;
    assert_eq!(stack.simulator.notice(&late).await, OLD_BUTTON);
    assert_eq!(step(&stack).await.as_deref(), Some("model"));
    ann.asks("the good one", "Please press one of the buttons above").await;
    let confirm = ann.asks("GLM-4.7", "Create this agent?").await;
    ann.asks("yes", "Please press one of the buttons above").await;
    // Buttons of a dialogue that another has taken the place of.
    ann.asks("/create", "1 of 3").await;
    ann.wait_for(|m| m.message_id == confirm.message_id && m.buttons().is_empty()).await;
    for (message, label) in [(&model, "Cancel"), (&confirm, "Create"), (&confirm, "Cancel"), (&confirm, "Private")] {
        let old = ann.forges(message.message_id, &data(message, label)).await;
        assert_eq!(stack.simulator.notice(&old).await, OLD_BUTTON);
    }
    assert_eq!(step(&stack).await.as_deref(), Some("name"));
    // Answers that no button offers.
    for forged in ["name:default", "name:yes", "confirm:yes", "model:0", ":", "name:"] {
        let id: i64 = stack.sql("select dialogue_id from conversations where chat_id = 1").await;
        let query = ann.forges(confirm.message_id, &format!("d:{id}:{forged}")).await;
        assert_eq!(stack.simulator.notice(&query).await, OLD_BUTTON, "{forged}");
    }
    assert_eq!(step(&stack).await.as_deref(), Some("name"));
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wizard_survives_a_restart_and_creates_one_agent_however_often_create_is_pressed() {
    let stack = Stack::builder().env("MAX_AGENTS_PER_USER", 1).start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let question = walk(&ann, "Ada", 1).await;
    stack.baal(0).restart().await;
    ann.press(question.message_id, &data(&question, "all-rounder")).await;
    let model = ann.wait_for(|m| m.text.contains("3 of 3") && m.text.contains("Ada")).await;
    ann.press(model.message_id, &model.buttons()[0].data).await;
    let confirm = ann.wait_for(|m| m.text.contains("Create this agent?") && m.text.contains("Name: Ada")).await;
    let create = data(&confirm, "Create");
    let presses = join_all([(); 2].map(|()| ann.forges(confirm.message_id, &create))).await;
    let mut notices = join_all(presses.iter().map(|query| stack.simulator.notice(query))).await;
    notices.sort();
    assert_eq!(notices, ["", OLD_BUTTON]);
    ann.wait_for(|m| m.text.contains("Ada is ready!")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 1);
    let prompt: String = stack.sql("select system_prompt from agents").await;
    assert!(prompt.starts_with("You are Ada, a friendly"), "{prompt}");

    // The limit is told before the questions, and again at the end if it was reached meanwhile.
    ann.asks("/create", "You already have 1 of 1 agents.").await;
    assert_eq!(step(&stack).await, None);
    let confirm = walk(&bob, "Bea", 3).await;
    insert_agent(&stack, 2, "Ben", "public", "running").await;
    bob.press(confirm.message_id, &data(&confirm, "Create")).await;
    bob.wait_for(|m| m.text.contains("You already have 1 of 1 agents.")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from agents where owner_id = 2").await, 1);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_step_says_who_may_open_the_agent_and_changes_that() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let confirm = walk(&ann, "Ada", 3).await;
    let id = confirm.message_id;
    assert!(confirm.text.contains("Sharing: 🌍 Public: everybody can open it by its number"), "{}", confirm.text);
    ann.press(id, &data(&confirm, "Private")).await;
    let confirm = ann.wait_for(|m| m.message_id == id && m.text.contains("Sharing: 🔒 Private")).await;
    // A choice that there is not.
    let dialogue: i64 = stack.sql("select dialogue_id from conversations where chat_id = 1").await;
    for forged in ["secret", "Public", ""] {
        let query = ann.forges(id, &format!("d:{dialogue}:confirm:{forged}")).await;
        assert_eq!(stack.simulator.notice(&query).await, OLD_BUTTON, "{forged}");
    }
    stack.baal(0).restart().await;
    ann.press(id, &data(&confirm, "Unlisted")).await;
    let confirm = ann.wait_for(|m| m.message_id == id && m.text.contains("whoever has one of its links")).await;
    let labels: Vec<String> = confirm.buttons().into_iter().map(|button| button.label).collect();
    assert_eq!(labels, ["✅ Create", "❌ Cancel", "🌍 Public", "🔒 Private"]);
    ann.press(id, &data(&confirm, "Create")).await;
    let ready = ann.wait_for(|m| m.text.contains("Ada is ready!")).await;
    assert!(!ready.text.contains("start=agent_"), "{}", ready.text);
    let labels: Vec<String> = ready.buttons().into_iter().map(|button| button.label).collect();
    assert_eq!(labels, ["💬 Chat", "✏️ Personality", "📤 Share"]);
    assert_eq!(stack.sql::<String>("select visibility from agents").await, "unlisted");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_personality_that_the_client_cut_is_taken_whole() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    walk(&ann, "Ada", 1).await;
    // As clients do: as much as fits, then the rest.
    let (first, second) = ("a".repeat(4_096), format!("{} end", "b".repeat(4_000)));
    ann.says(&first).await;
    ann.says(&second).await;
    ann.says("and last").await;
    let question = ann.wait_for(|m| m.text.contains("3 of 3")).await;
    ann.wait_for(|m| m.text.contains("the personality has 8109 characters in all")).await;
    ann.press(question.message_id, &question.buttons()[0].data).await;
    ann.presses("✅ Create").await;
    ann.wait_for(|m| m.text.contains("Ada is ready!")).await;
    assert_eq!(stack.sql::<String>("select system_prompt from agents").await, format!("{first}{second}\nand last"));
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_says_hello_where_it_is_talked_to_and_costs_its_owner_nothing() {
    let stack = Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 1).start().await;
    let ann = stack.user(1);
    ann.creates_agent("Ada", "You count.").await;
    ann.asks("hello", "message 1 of our conversation").await;
    // Words still go to the first: the second keeps quiet, and its card says so.
    let confirm = walk(&ann, "Bea", 3).await;
    ann.press(confirm.message_id, &data(&confirm, "Create")).await;
    ann.wait_for(|m| m.text.contains("Bea is ready! You are still talking to Ada; press Chat")).await;
    stack.wait_for_sql("select count(*) from agents where status = 'running'", 2i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where kind = 'hello'").await, 1);
    stack.simulator.assert_good_manners().await;
}
