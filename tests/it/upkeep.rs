//! `/soul`, `/update`, `/repair`, and what the list and the card say of them.

use baal_protocol::{AgentLock, LOCK_FILE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use uuid::Uuid;

use crate::bot::{data, insert_agent};
use crate::harness::{Stack, User};
use crate::updates::{SECRET, deliver, update};

/// The system message of the newest request to the model whose last message contains this.
async fn system_message(stack: &Stack, said: &str) -> String {
    let asked = stack.simulator.ask_model("/sim/requests").await;
    let requests = asked["requests"].as_array().unwrap();
    let fits = |request: &&Value| {
        request["messages"].as_array().unwrap().last().is_some_and(|m| m["content"].to_string().contains(said))
    };
    let request = requests.iter().rev().find(fits).unwrap_or_else(|| panic!("nobody said {said:?} to the model"));
    request["messages"][0]["content"].as_str().unwrap().to_owned()
}

/// Waits until version `deployed` is in place and nothing is under way.
async fn settles(stack: &Stack, deployed: i32) {
    stack
        .wait_for_sql(
            "select array[wanted_version, deployed_version, (select count(*) from jobs where not done)::int]
               from agents where status = 'running'",
            vec![deployed, deployed, 0],
        )
        .await;
}

/// An agent that its owner talks to, with one message said.
async fn talkative(owner: &User<'_>) -> i64 {
    let ada = owner.creates_agent("Ada", "You count.").await;
    owner.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    owner.asks("hello", "message 1 of our conversation").await;
    ada
}

/// A job of this agent; one that is not done waits for its time, which doesn't come.
pub async fn insert_job(stack: &Stack, agent: i64, kind: &str, step: &str, outcome: Option<&str>) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into jobs (id, kind, agent_id, step, done, outcome, run_at, ended_at)
         values ($1, $2, $3, $4, $5::text is not null, $5, now() + interval '1 day', case when $5 is not null then now() end)",
    )
    .bind(id)
    .bind(kind)
    .bind(agent)
    .bind(step)
    .bind(outcome)
    .execute(&stack.db)
    .await
    .unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_personality_reaches_the_model_and_the_conversation_is_kept() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = talkative(&ann).await;
    let which = ann.asks("/soul", "Whose personality").await;
    ann.press(which.message_id, &data(&which, &format!("Ada (no. {ada})"))).await;
    ann.wait_for(|m| m.message_id > which.message_id && m.text.contains("You count.")).await;
    ann.asks(&format!("/soul #{ada}"), "You count.").await;

    let soul = "You are a pirate.\n\n  - Say `arr`, \"twice\".\n\nNever $(reboot).";
    ann.asks(&format!("/soul {ada}\n{soul}"), "Ada's new personality is written down").await;
    settles(&stack, 2).await;
    ann.asks("and now?", "message 2 of our conversation").await;
    let system = system_message(&stack, "and now?").await;
    assert!(system.contains(soul) && !system.contains("You count."), "{system}");
    ann.asks(&format!("/soul agent_{ada}"), soul).await;
    let versions =
        "select string_agg(version || ' ' || left(system_prompt, 14), '; ' order by version) from agent_versions";
    assert_eq!(stack.sql::<String>(versions).await, "1 You count.; 2 You are a pira");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_in_quick_succession_the_last_one_holds() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = talkative(&ann).await;
    for soul in ["You are a monk.", "You are a knight.", "You are a bard."] {
        ann.says(&format!("/soul {ada} {soul}")).await;
    }
    settles(&stack, 4).await;
    ann.asks("who are you?", "You are a bard.").await;
    let system = system_message(&stack, "who are you?").await;
    assert!(system.contains("You are a bard.") && !system.contains("knight"), "{system}");
    assert_eq!(stack.sql::<i64>("select count(*) from jobs where outcome is distinct from 'succeeded'").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_personality_arrives_whole_whatever_it_holds() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = talkative(&ann).await;
    let hostile = "'; drop table agents; --\n\"}]\\u0000\n\t$(reboot) `id` %s {{x}} <b> &amp;\nUser=root\n# Skills 👩\u{200d}🚀 שלום\n";
    let mut soul = hostile.repeat(16_384 / hostile.len());
    soul.push_str(&"x".repeat(16_384 - soul.len()));

    let longer = update(900_000_001, 1, &format!("/soul {ada} {soul}x")).to_string();
    assert_eq!(deliver(stack.baal(0), Some(SECRET), longer).await, 200);
    ann.wait_for(|m| m.text.starts_with("That personality is 16385 bytes long")).await;
    let longest = update(900_000_002, 1, &format!("/soul {ada} {soul}")).to_string();
    assert_eq!(deliver(stack.baal(0), Some(SECRET), longest).await, 200);
    ann.wait_for(|m| m.text.contains("new personality is written down")).await;
    settles(&stack, 2).await;
    // A client sends the rest of what is too long for one message as a second one.
    assert!(!ann.messages().await.iter().any(|m| m.text.contains("If there is more of it")));
    ann.asks("are you whole?", "message 2 of our conversation").await;
    let system = system_message(&stack, "are you whole?").await;
    assert!(system.contains(&soul), "{system}");
    assert_eq!(stack.sql::<String>("select system_prompt from agents").await, soul);
    ann.asks(&format!("/soul {ada}"), &format!("send /soul {ada} and the new words")).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_updated_and_repaired_without_forgetting() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = talkative(&ann).await;
    let which = ann.asks("/update", "Which agent is to get the newest program?").await;
    ann.press(which.message_id, &data(&which, "Ada")).await;
    settles(&stack, 2).await;
    ann.asks("still there?", "message 2 of our conversation").await;
    let card = ann.asks(&format!("/manage {ada}"), "Updated just now").await;
    assert!(card.text.contains("Version: 2\n"), "{}", card.text);

    let which = ann.asks("/repair", "unless its machine is gone").await;
    assert_eq!(data(&which, "Ada"), format!("repair:{ada}"));
    let lock = std::fs::read(stack.agent_dirs()[0].join(LOCK_FILE)).unwrap();
    let pid = serde_json::from_slice::<AgentLock>(&lock).unwrap().pid;
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    ann.says(&format!("/repair agent_{ada}")).await;
    stack.wait_for_sql("select count(*) from jobs where kind = 'repair' and outcome = 'succeeded'", 1i64).await;
    settles(&stack, 2).await;
    ann.asks("and still there?", "message 3 of our conversation").await;

    // By buttons, which ask first.
    let card = ann.asks(&format!("/manage {ada}"), "Repaired just now").await;
    ann.press(card.message_id, &data(&card, "🔧 Repair")).await;
    let question = ann.wait_for(|m| m.text.starts_with("🔧 Repair Ada (no.")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from jobs where kind = 'repair'").await, 1);
    ann.press(question.message_id, &data(&question, "Repair now")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text == "🔧 Ada is being repaired.").await;
    stack.wait_for_sql("select count(*) from jobs where kind = 'repair' and outcome = 'succeeded'", 2i64).await;
    ann.press(card.message_id, &data(&card, "⬆️ Update")).await;
    settles(&stack, 3).await;
    ann.asks("once more?", "message 4 of our conversation").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_remembers_is_thrown_away_only_after_its_owner_was_asked() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = talkative(&ann).await;
    ann.asks(&format!("/repair {ada} new"), "Ada is running, so nothing was thrown away.").await;
    // While it is set up, none runs.
    let set_up = "select count(*) from agents where status = 'running' and deployed_version = 1
                     and not exists (select from jobs where not done)";
    let fail = async || {
        let failed = "update agents set status = 'failed', url = null";
        sqlx::query(failed).execute(&stack.db).await.unwrap();
    };
    fail().await;
    let card = ann.asks(&format!("/manage {ada}"), "failed").await;
    ann.press(card.message_id, &data(&card, "🆕 Begin anew")).await;
    let question = ann.wait_for(|m| m.text.contains("Everything it remembers will be lost")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from vms").await, 1);

    // Whoever else asks for it, or forges the press, learns nothing and changes nothing.
    let eve = stack.user(2);
    let refused = eve.asks(&format!("/repair {ada} new"), "There is no such agent").await;
    for press in ["anew!", "anew"] {
        eve.forges(refused.message_id, &format!("{press}:{ada}")).await;
    }
    let last = refused.message_id;
    eve.wait_for(|m| m.message_id > last && m.text.contains("There is no such agent")).await;
    assert_eq!(stack.sql::<i64>("select count(*) from vms").await, 1);

    ann.press(question.message_id, &data(&question, "🆕 Begin anew, forget everything")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text == "🆕 Ada begins anew on another machine.").await;
    stack.wait_for_sql(set_up, 1i64).await;
    ann.asks("who am I?", "message 1 of our conversation").await;

    fail().await;
    ann.says(&format!("/repair {ada} NEW")).await;
    stack.wait_for_sql("select count(*) from vms", 3i64).await;
    stack.wait_for_sql(set_up, 1i64).await;
    ann.asks("and now?", "message 1 of our conversation").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_takes_changes_up_and_is_not_repaired() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = insert_agent(&stack, 1, "Ada", "public", "running").await;
    sqlx::query("update agents set deployed_version = 1").execute(&stack.db).await.unwrap();
    insert_job(&stack, ada, "redeploy", "health", None).await;
    let bea = insert_agent(&stack, 1, "Bea", "public", "provisioning").await;
    let cid = insert_agent(&stack, 1, "Cid", "public", "provisioning").await;
    for agent in [bea, cid] {
        let job = insert_job(&stack, agent, "provision", "place", None).await;
        sqlx::query("update jobs set waiting_since = clock_timestamp() where id = $1")
            .bind(job)
            .execute(&stack.db)
            .await
            .unwrap();
    }
    let doing = "being updated (waiting until it answers)";
    ann.asks(&format!("/soul {ada} You wait more."), &format!("The agent is {doing}; the new personality comes")).await;
    ann.asks(&format!("/update {ada}"), &format!("Ada is {doing}; the update comes right with that.")).await;
    ann.asks(&format!("/repair {ada}"), &format!("Ada is {doing} at the moment. Please wait for that to end.")).await;
    ann.asks(&format!("/repair {cid}"), "Cid is waiting for a free machine, number 2 in line at the moment.").await;
    let list = ann.asks("/list", "Your agents").await.text;
    for line in [
        format!("🟢 Ada · no. {ada} · running\n      At the moment {doing}"),
        format!("🟡 Bea · no. {bea} · being set up\n      At the moment waiting for a free machine, number 1 in line"),
        format!("🟡 Cid · no. {cid} · being set up\n      At the moment waiting for a free machine, number 2 in line"),
    ] {
        assert!(list.contains(&line), "{list}");
    }
    ann.asks(&format!("/manage {ada}"), "Version: 1; 3 is on its way").await;
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 3);
    assert_eq!(stack.sql::<String>("select status from agents order by id limit 1").await, "running");
    let gone = insert_agent(&stack, 1, "Eve", "public", "deleting").await;
    for command in ["/soul N Stay.", "/update N", "/repair N"] {
        let command = command.replace('N', &gone.to_string());
        ann.asks(&command, "Eve is being deleted; nothing can be changed.").await;
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_told_and_a_failed_agent_keeps_what_is_wanted_of_it() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = insert_agent(&stack, 1, "Ada", "public", "failed").await;
    let job = insert_job(&stack, ada, "provision", "end", Some("failed")).await;
    for (step, error) in
        [("place", None), ("install", Some("the disk is <b>full</b>")), ("install", Some("no room")), ("stop", None)]
    {
        sqlx::query("insert into job_steps (job_id, step, started_at, error) values ($1, $2, now(), $3)")
            .bind(job)
            .bind(step)
            .bind(error)
            .execute(&stack.db)
            .await
            .unwrap();
    }
    sqlx::query("update jobs set ended_at = now() - interval '3 hours 5 minutes'").execute(&stack.db).await.unwrap();
    let unwell = insert_agent(&stack, 1, "Ben", "public", "running").await;
    sqlx::query("update agents set unwell_since = now() - interval '7 minutes' where id = $1")
        .bind(unwell)
        .execute(&stack.db)
        .await
        .unwrap();
    let told = "Setting it up failed 3 hours ago while installing it (2 tries): no room";
    let list = ann.asks("/list", "Your agents").await.text;
    assert!(list.contains(&format!("🔴 Ada · no. {ada} · failed\n      {told}")), "{list}");
    assert!(list.contains(&format!("🟠 Ben · no. {unwell} · running\n      Hasn't answered for 7 minutes")), "{list}");
    ann.asks(&format!("/manage {ada}"), told).await;

    let answer = ann.asks(&format!("/soul {ada} You rise."), &format!("/repair {ada} brings it to life")).await;
    ann.asks(&format!("/update {ada}"), "Ada isn't running, so there is nothing to update.").await;
    assert_eq!(stack.sql::<String>("select system_prompt from agents order by id limit 1").await, "You rise.");
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 1);
    // It has no machine, so nothing can be lost and nothing is asked.
    ann.press(answer.message_id, &data(&answer, "🔧 Repair")).await;
    // It never ran either, so it is set up like a new one.
    stack.wait_for_sql("select count(*) from jobs where kind = 'provision'", 2i64).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_personality_is_changed_in_a_dialogue_and_taken_back_by_a_button() {
    let stack = Stack::start().await;
    let (ann, eve) = (stack.user(1), stack.user(2));
    let ada = talkative(&ann).await;
    let shown = ann.asks(&format!("/soul {ada}"), "press the button").await;
    assert!(shown.buttons().iter().all(|button| !button.label.contains("Undo")), "{:?}", shown.buttons());
    ann.press(shown.message_id, &data(&shown, "✏️ Change")).await;
    let question = ann.wait_for(|m| m.text.contains("Who should Ada be from now on?")).await;
    stack.baal(0).restart().await;
    let changed = ann.asks("You are a pirate.", "Ada's new personality is written down").await;
    settles(&stack, 2).await;
    ann.asks("and now?", "message 2 of our conversation").await;
    assert!(system_message(&stack, "and now?").await.contains("You are a pirate."));
    let old = ann.press(question.message_id, &data(&question, "Leave it")).await;
    assert_eq!(stack.simulator.notice(&old).await, "This button is from an earlier step.");

    // Others cannot take it back, and it can be taken back once.
    let undo = data(&changed, "↩️ Undo");
    let any = eve.asks("/help", "What you can do here").await;
    eve.forges(any.message_id, &undo).await;
    eve.wait_for(|m| m.text.contains("There is no such agent")).await;
    for versions in ["9:1", "2:9", "2:2", "1:2"] {
        let query = ann.forges(changed.message_id, &format!("soul:undo:{ada}:{versions}")).await;
        assert_eq!(stack.simulator.notice(&query).await, "It has another personality by now.", "{versions}");
    }
    ann.press(changed.message_id, &undo).await;
    ann.wait_for(|m| m.message_id == changed.message_id && m.text.contains("earlier personality is written down"))
        .await;
    let again = ann.forges(changed.message_id, &undo).await;
    assert_eq!(stack.simulator.notice(&again).await, "It has another personality by now.");
    settles(&stack, 3).await;
    assert_eq!(stack.sql::<String>("select system_prompt from agents").await, "You count.");
    // From the card the way goes back and forth.
    let shown = ann.asks(&format!("/soul {ada}"), "press the button").await;
    ann.press(shown.message_id, &data(&shown, "↩️ Undo")).await;
    stack.wait_for_sql("select system_prompt from agents", "You are a pirate.".to_owned()).await;
    ann.presses("✏️ Personality").await;
    ann.wait_for(|m| m.message_id > shown.message_id && m.text.contains("You are a pirate.")).await;
    let shown = ann.asks(&format!("/soul {ada}"), "press the button").await;
    ann.press(shown.message_id, &data(&shown, "✏️ Change")).await;
    ann.wait_for(|m| m.message_id > shown.message_id && m.text.contains("Who should Ada be from now on?")).await;
    ann.asks("/cancel", "Cancelled. Nothing was changed.").await;
    ann.asks("hello again", "of our conversation").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_personality_that_the_client_cut_is_taken_whole_and_back_as_one() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = talkative(&ann).await;
    let command = format!("/soul {ada} ");
    let first = "x".repeat(4_096 - command.len());
    ann.says(&format!("{command}{first}")).await;
    ann.says("the rest").await;
    let whole = ann.wait_for(|m| m.text.contains("The rest was added: Ada's new personality has")).await;
    let words: String = stack.sql("select system_prompt from agents").await;
    assert!(words.starts_with(&first) && words.ends_with("the rest"), "{words}");
    ann.press(whole.message_id, &data(&whole, "↩️ Undo")).await;
    stack.wait_for_sql("select system_prompt from agents", "You count.".to_owned()).await;
    // Whatever comes later is for the agent.
    ann.asks(&format!("{command}{first}"), "If there is more of it").await;
    sqlx::query("update conversations set dialogue = jsonb_set(dialogue, '{cut,at}', '1')")
        .execute(&stack.db)
        .await
        .unwrap();
    ann.asks("hello", "message 2 of our conversation").await;
    assert_eq!(stack.sql::<String>("select system_prompt from agents").await, first);
    stack.simulator.assert_good_manners().await;
}
