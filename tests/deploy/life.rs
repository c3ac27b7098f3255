//! One agent's life, seen from its owner's chat.

use serde_json::json;

use crate::chat::{create, delete, repair, talk};
use crate::field::{Field, PATIENCE};
use crate::harness::Stack;
use crate::machines::Host;

/// Tries to get out of every place into which a personality could be put by mistake.
const HOSTILE: &str = "You are *Eve* <b>\"'; touch /tmp/pwned; $(touch /tmp/pwned) `touch /tmp/pwned`\n\
    [Service]\nExecStartPre=/usr/bin/touch /tmp/pwned\nEnvironment=X=%n\n{{env.HOME}} ${HOME} \\x00 EOF\nEOF\n}}'; drop table agents; --";

/// Runs a script on all machines; the agent is on one of them.
fn everywhere(field: &Field, script: &str) {
    for host in field.hosts.iter() {
        host.machine().root(script).unwrap();
    }
}

/// Has an administrator do this with the agent.
async fn act(stack: &Stack, id: i64, what: &str) {
    let url = format!("{}/api/v1/agents/{id}/{what}", stack.baal(0).url());
    let asked = reqwest::Client::new().post(url).bearer_auth("test-admin-token-of-more-than-32-characters");
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
}

/// Nobody's words became commands.
fn assert_unharmed(hosts: &[Host]) {
    for host in hosts {
        host.machine().root("! ls /tmp/pwned /run/pwned 2>/dev/null").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_created_heard_changed_mended_moved_and_deleted_from_the_chat() {
    let field = Field::start(2).await;
    let stack = &field.stack;
    let ann = stack.user(1);

    let id = create(stack, &ann, "Ada").await;
    let card = ann.wait_for(|m| m.text.contains("Ada is ready!")).await;
    let told = card.edits.to_string();
    for step in ["machine", "Install"] {
        assert!(told.contains(step), "the card never told of {step:?}: {told}");
    }
    let url: String = stack.sql("select url from agents").await;
    assert!(url.starts_with("https://") && url.contains(".vm.localhost:"), "{url}");
    let first = talk(stack, &ann, "the first question").await;
    assert!(first["messages"][0].to_string().contains("You count."), "{first}");

    // Other words, and the conversation goes on.
    ann.asks(&format!("/soul {id} {HOSTILE}"), "new personality is written down").await;
    stack.wait_for_sql("select deployed_version from agents", 2).await;
    field.rests().await;
    let second = talk(stack, &ann, "the second question").await;
    let prompt = second["messages"][0]["content"].as_str().unwrap_or_default();
    assert!(prompt.contains(HOSTILE), "{prompt}");
    assert!(second["messages"].to_string().contains("the first question"), "the conversation is lost: {second}");
    assert_unharmed(&field.hosts);

    ann.says(&format!("/update {id}")).await;
    stack.wait_for_sql("select deployed_version from agents", 3).await;
    field.rests().await;

    // Stopped for a while: the machine is left, and its unit does not run.
    act(stack, id, "stop").await;
    ann.wait_for(|m| m.text.contains("was stopped by the people who run this bot")).await;
    everywhere(
        &field,
        "! systemctl is-active --quiet baal-agent.service && ! systemctl is-enabled --quiet baal-agent.service",
    );
    act(stack, id, "start").await;
    ann.wait_for(|m| m.text.contains("was started and runs, with everything that it knew")).await;
    field.rests().await;
    let back = talk(stack, &ann, "a question after the pause").await;
    assert!(back["messages"].to_string().contains("the first question"), "the conversation is lost: {back}");

    // What root can break on the machine, and a repair mends, without losing the conversation.
    for (breakage, question) in [
        (
            "systemctl disable --quiet baal-agent.service || true
             systemctl kill --signal=KILL baal-agent.service || true
             systemctl stop baal-agent.service || true",
            "the third question",
        ),
        (
            "echo 'this is { no configuration' >/etc/caddy/Caddyfile; systemctl restart caddy.service || true",
            "the fourth question",
        ),
        (
            "systemctl stop baal-tools.socket baal-guests.socket || true; rm -f /usr/local/bin/baal-agent",
            "the fifth question",
        ),
    ] {
        everywhere(&field, breakage);
        repair(stack, &ann, id).await;
        field.rests().await;
        let asked = talk(stack, &ann, question).await;
        assert!(asked["messages"].to_string().contains("the first question"), "{breakage}: the conversation is lost");
        assert_unharmed(&field.hosts);
    }
    assert_eq!(stack.sql::<i64>("select count(*) from vms").await, 1, "the machine should have been kept");

    // The machine is gone, and the owner is told before they ask.
    let lost = field.cloud.instances().await.into_iter().find(|i| i.billed).unwrap();
    field.cloud.fault(json!({"kind": "dead", "party": lost.crn})).await;
    ann.wait_for(|m| m.text.contains("hasn't answered for a while")).await;
    // What does not answer may come back: its memory goes only when its owner says so.
    ann.asks(&format!("/repair {id}"), "Its machine is kept, with what it remembers").await;
    ann.presses("Begin anew").await;
    ann.wait_for(|m| m.text.contains("Everything it remembers will be lost")).await;
    ann.presses("Begin anew, forget everything").await;
    let made = "select count(*) from jobs where kind = 'provision' and outcome = 'succeeded'";
    stack.wait_for_sql_within(PATIENCE, made, 2_i64).await;
    let asked = talk(stack, &ann, "the sixth question").await;
    assert!(!asked["messages"].to_string().contains("the first question"), "{asked}");
    field.cloud.no_faults().await;
    field.rests().await;

    delete(stack, &ann, id).await;
    field.rests().await;
    assert_eq!(stack.sql::<i64>("select count(*) from vms where ended_at is null").await, 0);
    for instance in field.cloud.instances().await {
        assert!(instance.status == "forgotten" && instance.execution.is_null(), "{instance:?}");
    }
}
