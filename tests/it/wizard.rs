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

    // A button of a step that was answered in words.
    let model = walk(&ann, "Ada", 2).await;
    let messages = ann.messages().await;
    let personality = messages.iter().rev().find(|m| m.text.contains("2 of 3")).unwrap();
    let late = ann.press(personality.message_id, &data(personality, "all-rounder")).await;
    assert_eq!(stack.simulator.notice(&late).await, OLD_BUTTON);
    assert_eq!(step(&stack).await.as_deref(), Some("model"));
    ann.asks("the good one", "Please press one of the buttons above").await;
    let confirm = ann.asks("GLM-4.7", "Create this agent?").await;
    ann.asks("yes", "Please press one of the buttons above").await;
    // Buttons of a dialogue that another has taken the place of.
    ann.asks("/create", "1 of 3").await;
    for (message, label) in [(&model, "Cancel"), (&confirm, "Create"), (&confirm, "Cancel")] {
        let old = ann.press(message.message_id, &data(message, label)).await;
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
