//! Agents of the Python system become ours: on their own machines, with all that they know, or not at all.

use std::path::{Path, PathBuf};

use baal::agents::store;
use baal_protocol::PROTOCOL;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::chat::{create, delete, repair, talk};
use crate::field::{Field, PATIENCE};
use crate::machines::Host;
use crate::python::{Python, token_of};

/// Has only our program fail, again and again.
const BREAK_OURS: &str = r#"set -e
install -d /etc/systemd/system/baal-agent.service.d
printf "[Service]\nExecStartPre=+/bin/sh -c '! grep -q =/usr/local/bin /etc/systemd/system/baal-agent.service'\n" \
  >/etc/systemd/system/baal-agent.service.d/broken.conf
systemctl daemon-reload"#;

/// Its files are the owner's tools', but for what is none; what held keys is closed to them.
const FILES_ARE_THERE: &str = r#"set -e
cd /var/lib/baal-tools/workspace/owner
[ "$(cat 'plans/a plan.txt')" = 'the plan' ]
[ "$(stat -c %U memory/MEMORY.md plans)" = $'baal-tools\nbaal-tools' ]
[ "$(readlink plans/link)" = /etc/shadow ]
[ ! -e plans/pipe ]
[ -x plans/setuid ] && [ ! -u plans/setuid ]
[ ! -e skills/weather ]
if setpriv --reuid baal-tools --regid baal-tools --clear-groups cat /opt/baal-agent/app/.env; then exit 1; fi
"#;

/// Of an attempt that was taken back.
const NOTHING_IS_COPIED: &str = r#"set -e
[ -z "$(ls -A /var/lib/baal-tools/workspace)" ]
[ -z "$(find /var/lib/baal-agent -name 'agent.db*')" ]
[ ! -e /var/lib/baal/python/taken ]"#;

/// The Python agent runs, and what people said to ours since is not lost.
const TAKEN_BACK: &str = r#"set -e
install -m 755 /run/python/agent.py /opt/baal-agent/bin/uvicorn
bash /run/takeover.sh --give-back
systemctl is-active baal-agent.service
grep -q /opt/baal-agent/ /etc/systemd/system/baal-agent.service
[ -s /var/lib/baal-agent/before-takeover/agent.db ]
[ "$(cat '/var/lib/baal-tools/before-takeover/owner/plans/a plan.txt')" = 'the plan' ]
[ ! -e /var/lib/baal-agent/agent.db ] && [ ! -e /var/lib/baal/python/answered ]
# A file that is all hole needs no room.
truncate -s 900T /opt/baal-agent/workspace/hole 2>/dev/null || truncate -s 9T /opt/baal-agent/workspace/hole
bash /run/takeover.sh --begin
[ -s /var/lib/baal-agent/agent.db ] && [ -e /var/lib/baal/python/taken ]
[ -e /var/lib/baal-tools/workspace/owner/hole ] && [ "$(du -sm /var/lib/baal-tools/workspace | cut -f 1)" -lt 50 ]"#;

/// Killed in the middle of its removal, it comes to the same end.
const SETTLED: &str = r#"set -e
rm -r /opt/baal-agent
mv -T /var/lib/baal/python /var/lib/baal/python.gone
rm -f /var/lib/baal/python.gone/taken
bash /run/takeover.sh --begin
[ -s /var/lib/baal-agent/agent.db ]
bash /run/takeover.sh --settle
[ ! -e /var/lib/baal/python.gone ] && [ ! -e /var/lib/baal-agent/before-takeover ]
[ ! -e /var/lib/baal-tools/before-takeover ] && [ -s /var/lib/baal-agent/agent.db ]"#;

/// An agent that the Python system made and `baal import` took over, which answers.
async fn pythons(field: &Field) -> (i64, &Host) {
    let stack = &field.stack;
    let ann = stack.user(1);
    let id = create(stack, &ann, "Ada").await;
    field.rests().await;
    let app = field.app();
    let agent = store::get(&mut app.db.acquire().await.unwrap(), id).await.unwrap().unwrap();
    let secret = agent.secret(&app.config.vault).unwrap();
    let item_hash: String = stack.sql("select item_hash from vms").await;
    let node: String = stack.sql("select data -> 'crn' ->> 'url' from vms").await;
    stack.baal(0).stop().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let host = &field.hosts[0];
    let sources = [root.join("crates/agent/systemd/uninstall.sh"), root.join("tests/deploy/python")];
    host.machine().copy(&sources.each_ref().map(PathBuf::as_path), "/run").unwrap();
    host.machine().root(&format!("bash /run/python/make.sh '{}'", secret.expose_secret())).unwrap();
    // Nothing is known of it but what the Python system wrote down.
    sqlx::query("truncate agents, vms cascade").execute(&stack.db).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let database = {
        let python = Python::new(dir.path());
        python.user(agent.owner_id, None);
        python.agent(id, agent.owner_id, &item_hash, agent.url.as_deref().unwrap(), "");
        python.set(id, "auth_token", token_of(&field.env["BOT_ENCRYPTION_KEY"], secret.expose_secret()));
        for (column, value) in [
            ("name", agent.name.as_str()),
            ("system_prompt", &agent.system_prompt),
            ("model", &agent.model),
            ("crn_url", &node),
        ] {
            python.set(id, column, value);
        }
        python.baal_db()
    };
    let report = field.baal(&["import", "--json", "--baal-db", database.to_str().unwrap()]).await;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["taken"]["agents_running"], &report["taken"]["machines"]), (&json!(1), &json!(1)), "{report}");
    stack.baal(0).start().await;
    ann.asks(&format!("/start agent_{id}"), "You are talking to Ada").await;
    (id, host)
}

fn said(asked: &Value) -> String {
    asked["messages"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_keeps_what_a_python_agent_knows_or_leaves_it_running() {
    let field = Field::start(1).await;
    let stack = &field.stack;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let (id, host) = pythons(&field).await;
    let machine = host.machine();
    ann.asks("the first secret", "Python heard: the first secret").await;
    bob.asks(&format!("/start agent_{id}"), "You are talking to Ada").await;
    bob.asks("of quite another kind", "Python heard: of quite another kind").await;
    let url: String = stack.sql("select url from agents").await;
    let standing = "select status || ' ' || protocol || ' ' || url from agents";

    // Ours does not come up: the Python agent answers again, and knows what it knew.
    machine.root(BREAK_OURS).unwrap();
    ann.says(&format!("/update {id}")).await;
    let failed = "select count(*) from jobs where kind = 'takeover' and outcome = 'failed'";
    stack.wait_for_sql_within(PATIENCE, failed, 1_i64).await;
    ann.wait_for(|m| m.text.contains("could not be updated") && m.text.contains("runs again as it did before")).await;
    assert_eq!(stack.sql::<String>(standing).await, format!("running 1 {url}"));
    ann.asks("after the failure", "Python heard: after the failure").await;
    machine.root("[ ! -e /var/lib/baal-agent/config.json ] && systemctl is-enabled baal-agent.service").unwrap();
    machine.root(NOTHING_IS_COPIED).unwrap();

    // Now it does, though those who work at it are killed.
    machine.root("rm -r /etc/systemd/system/baal-agent.service.d && systemctl daemon-reload").unwrap();
    ann.says(&format!("/update {id}")).await;
    for step in [
        "select count(*) from jobs where kind = 'takeover' and not done and step = 'prepare'",
        "select count(*) from jobs where kind = 'takeover' and not done and step = 'install' and (state ->> 'reached')::bool",
    ] {
        stack.wait_for_sql_within(PATIENCE, step, 1_i64).await;
        stack.baal(0).kill9();
        stack.baal(0).start().await;
    }
    let done = "select count(*) from jobs where kind = 'takeover' and outcome = 'succeeded'";
    stack.wait_for_sql_within(PATIENCE, done, 1_i64).await;
    ann.wait_for(|m| m.text.contains("runs on the new program")).await;
    assert_eq!(stack.sql::<String>(standing).await, format!("running {PROTOCOL} {url}"));
    assert_eq!(stack.sql::<i64>("select count(*) from vms").await, 1, "its machine should have been kept");

    // Each goes on where they were.
    let asked = said(&talk(stack, &ann, "what did I say?").await);
    for known in ["the first secret", "after the failure", "Ann likes green tea", "how to whistle", "plan.txt"] {
        assert!(asked.contains(known), "{known} is missing: {asked}");
    }
    assert!(!asked.contains("of quite another kind"), "a visitor's words: {asked}");
    let asked = said(&talk(stack, &bob, "and I?").await);
    assert!(asked.contains("of quite another kind") && !asked.contains("the first secret"), "{asked}");
    machine.root(FILES_ARE_THERE).unwrap();

    // The way back is there until something else is installed.
    ann.says(&format!("/update {id}")).await;
    let updated = "select count(*) from jobs where kind = 'redeploy' and outcome = 'succeeded'";
    stack.wait_for_sql_within(PATIENCE, updated, 1_i64).await;
    machine.root("[ ! -e /opt/baal-agent ] && [ ! -e /var/lib/baal/python ]").unwrap();
    let asked = said(&talk(stack, &ann, "and now?").await);
    assert!(asked.contains("the first secret") && asked.contains("Ann likes green tea"), "{asked}");
    delete(stack, &ann, id).await;
    field.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_agent_that_does_not_answer_any_more_is_taken_over_by_its_repair() {
    let field = Field::start(1).await;
    let stack = &field.stack;
    let ann = stack.user(1);
    let (id, host) = pythons(&field).await;
    ann.asks("before it broke", "Python heard: before it broke").await;
    host.machine().root("systemctl disable --quiet --now baal-agent.service; rm /opt/baal-agent/bin/uvicorn").unwrap();
    repair(stack, &ann, id).await;
    let asked = said(&talk(stack, &ann, "what did I say?").await);
    assert!(asked.contains("before it broke") && asked.contains("Ann likes green tea"), "{asked}");
    assert_eq!(stack.sql::<i32>("select protocol from agents").await, i32::try_from(PROTOCOL).unwrap());

    // Were it taken back now, what was said to ours could be had back, however often that is tried.
    stack.baal(0).stop().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/agent/systemd/takeover.sh");
    host.machine().copy(&[script.as_path()], "/run").unwrap();
    for _ in 0..2 {
        host.machine().root(TAKEN_BACK).unwrap();
    }
    host.machine().root(SETTLED).unwrap();
    stack.baal(0).start().await;
    delete(stack, &ann, id).await;
    field.agrees().await;
    for instance in field.cloud.instances().await {
        assert!(instance.status == "forgotten" && instance.execution.is_null(), "{instance:?}");
    }
}
