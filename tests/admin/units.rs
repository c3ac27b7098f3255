//! Stopping and starting agents.

use serde_json::Value;

use crate::api::Api;
use crate::harness::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_stopped_and_started_and_everybody_is_told() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let (ann, bob) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada", "You listen.").await;
    bob.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    bob.asks("hello", "message 1 of our conversation").await;
    let (stop, start) = (format!("/agents/{ada}/stop"), format!("/agents/{ada}/start"));
    assert!(api.post(&start, Value::Null).await.problem(409, "conflict").contains("running already"));

    let begun = api.post(&stop, Value::Null).await.is(202);
    assert_eq!((begun["id"].as_i64(), begun["job"]["kind"].as_str()), (Some(ada), Some("stop")));
    assert_eq!((begun["status"].as_str(), begun["system_prompt"].as_str()), (Some("running"), Some("You listen.")));
    api.get(&format!("/jobs/{}", begun["job"]["id"].as_str().unwrap())).await.is(200);
    assert!(begun["billing"].as_str().unwrap().contains("goes on being paid for"));
    let stopped = ann.wait_for(|m| m.text.starts_with("⏹ Ada was stopped by the people who run this bot.")).await;
    assert!(stopped.text.contains("what it remembers is kept"), "{}", stopped.text);
    for user in [ann, bob] {
        user.asks("are you there?", "Ada was stopped by the people who run this bot").await;
    }
    ann.asks("/list", "⏹ Ada · no.").await;
    assert!(api.post(&stop, Value::Null).await.problem(409, "conflict").contains("stopped already"));
    assert_eq!(stack.sql::<i64>("select count(*) from vms where ended_at is null").await, 1);

    // Its owner brings it to life by no command; what they want of it comes with the start.
    for command in ["/update", "/repair"] {
        ann.asks(&format!("{command} {ada}"), "They have to start it first").await;
    }
    ann.asks(&format!("/soul {ada} You are brief."), "as soon as it is started again").await;

    let begun = api.post(&start, Value::Null).await.is(202);
    assert_eq!((begun["status"].as_str(), begun["job"]["kind"].as_str()), (Some("provisioning"), Some("start")));
    assert!(begun["billing"].as_str().unwrap().contains("costs nothing more"));
    ann.wait_for(|m| m.text.starts_with("▶️ Ada was started and runs")).await;
    bob.asks("hello", "message 2 of our conversation").await;
    assert!(stack.sql::<bool>("select wanted_version = deployed_version from agents").await);
    let actions = "select string_agg(action, ' ' order by id) from audit where subject_kind = 'agent'";
    assert_eq!(stack.sql::<String>(actions).await, "agent.stop agent.start");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_stopped_agent_or_of_none_is_refused_in_words() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let ada = stack.user(1).creates_agent("Ada", "You listen.").await;
    let stop = format!("/agents/{ada}/stop");
    assert_eq!(api.post("/agents/99/stop", Value::Null).await.problem(404, "not-found"), "There is no agent 99.");
    for (status, told) in [
        ("failed", "is failed, so there is nothing to stop"),
        ("provisioning", "being set up, so there is nothing to stop"),
    ] {
        sqlx::query("update agents set status = $1").bind(status).execute(&stack.db).await.unwrap();
        assert!(api.post(&stop, Value::Null).await.problem(409, "conflict").contains(told), "{status}");
    }
    // Who deletes it is done with it, and so is the API.
    sqlx::query("update agents set status = 'deleting'").execute(&stack.db).await.unwrap();
    for what in ["stop", "start", "deploy", "redeploy", "repair"] {
        let gone = api.post(&format!("/agents/{ada}/{what}"), Value::Null).await.problem(404, "not-found");
        assert_eq!(gone, format!("Agent {ada} is being deleted."), "{what}");
    }
    for below in ["", "/turns", "/deployments", "/links", "/visitors"] {
        let gone = api.get(&format!("/agents/{ada}{below}")).await.problem(404, "not-found");
        assert_eq!(gone, format!("Agent {ada} is being deleted."), "{below}");
    }
    sqlx::query("update agents set status = 'running'").execute(&stack.db).await.unwrap();
    // One job at a time.
    sqlx::query("insert into jobs (id, kind, agent_id, step, run_at) select gen_random_uuid(), 'redeploy', id, 'install', 'infinity' from agents")
        .execute(&stack.db)
        .await
        .unwrap();
    assert!(api.post(&stop, Value::Null).await.problem(409, "conflict").contains("being updated"));
    sqlx::query("delete from jobs where run_at = 'infinity'").execute(&stack.db).await.unwrap();

    // A stopped agent goes without a trace like any other.
    api.post(&stop, Value::Null).await.is(202);
    stack.wait_for_sql("select status from agents", "stopped".to_owned()).await;
    let ann = stack.user(1);
    let question = ann.asks(&format!("/delete {ada}"), "Delete Ada").await;
    let delete = question.buttons().into_iter().find(|b| b.label.contains("for good")).unwrap();
    ann.press(question.message_id, &delete.data).await;
    stack.wait_for_sql("select status from agents", "deleted".to_owned()).await;
    assert_eq!(stack.agent_dirs(), Vec::<std::path::PathBuf>::new());
}
