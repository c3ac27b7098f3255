//! Hosts: added after a look at the machine, by the API and by the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::harness::{Stack, free_port};

/// What a machine that can hold agents says of itself.
const FIT: &str = "uid=0\\nmachine=x86_64\\nos=debian\\nversion=12\\ninit=systemd\\npackages=apt\\n";

/// An OpenSSH server that answers every command alike, as a machine of its own would.
struct Machine {
    directory: tempfile::TempDir,
    process: std::process::Child,
    port: u16,
}

impl Machine {
    async fn start(says: &str) -> Self {
        // Hosts are entered as root, and a server that is not root's lets nobody in as root.
        assert!(rustix::process::geteuid().is_root(), "run these tests as root: their SSH server must be root's");
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["id", "host"] {
            make_key(&path(name));
        }
        std::fs::copy(path("id.pub"), path("authorized_keys")).unwrap();
        let (shown, port) = (directory.path().display(), free_port());
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized_keys\nPidFile none\n\
             UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             ForceCommand printf '{says}'\n"
        );
        std::fs::write(path("sshd_config"), config).unwrap();
        std::fs::create_dir_all("/run/sshd").unwrap();
        let process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(path("sshd_config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self { directory, process, port };
        for _ in 0..400 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return machine;
            }
            tokio::time::sleep(crate::harness::POLL).await;
        }
        panic!("no server started");
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("id")
    }

    fn fingerprint(&self) -> String {
        let shown = Command::new("ssh-keygen").arg("-lf").arg(self.directory.path().join("host.pub")).output().unwrap();
        String::from_utf8(shown.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill(); // silent-ok: it may have ended
        let _ = self.process.wait(); // silent-ok: as above
    }
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
}

async fn stack(key: &Path) -> Stack {
    Stack::builder().env("ALEPH_SSH_PRIVKEY_PATH", key.display()).start().await
}

async fn audited(stack: &Stack) -> Vec<(String, String)> {
    sqlx::query_as("select action, actor from audit order by id").fetch_all(&stack.db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_looked_at_added_once_shown_and_removed() {
    let machine = Machine::start(FIT).await;
    let stack = stack(&machine.key()).await;
    let api = Api::of(&stack);
    let body = json!({"address": "127.0.0.1", "port": machine.port, "public_name": "a1.example.org",
        "host_key": machine.fingerprint()});
    let add = || Answer::of(api.request(Method::POST, "/hosts").header("Idempotency-Key", "one").json(&body));
    let added = add().await;
    let location = added.headers["location"].to_str().unwrap().to_owned();
    let added = added.is(201);
    let id = added["id"].as_i64().unwrap();
    assert_eq!(location, format!("/api/v1/hosts/{id}"));
    assert_eq!(
        added,
        json!({"id": id, "address": "127.0.0.1", "port": machine.port, "name": "a1.example.org", "state": "free",
            "host_key_fingerprint": machine.fingerprint(), "agent_id": null})
    );
    let again = api.post("/hosts", body.clone()).await.problem(409, "conflict");
    assert!(again.contains(&format!("host {id} already")), "{again}");
    let other = json!({"address": "localhost", "port": machine.port});
    assert!(api.post("/hosts", other).await.problem(409, "conflict").contains("same host key"));
    assert_eq!(api.get("/hosts").await.is(200)["items"], json!([added]));

    // Done once, though the machine is gone by now.
    drop(machine);
    assert_eq!(add().await.is(201), added);
    sqlx::query(
        "insert into vms (id, cloud, data, state, host_id) values (gen_random_uuid(), 'hosts', '{}', 'warm', $1)",
    )
    .bind(id)
    .execute(&stack.db)
    .await
    .unwrap();
    let path = format!("/hosts/{id}");
    assert_eq!(api.get(&path).await.is(200)["state"], "warm");
    assert!(api.delete(&path).await.problem(409, "conflict").contains("in the pool"));
    sqlx::query("update vms set ended_at = now()").execute(&stack.db).await.unwrap();
    assert_eq!(api.delete(&path).await.is(200), added);
    for answer in [api.get(&path).await, api.delete(&path).await] {
        answer.problem(404, "not-found");
    }
    let by_token = |action: &str| (action.to_owned(), "ADMIN_TOKEN".to_owned());
    assert_eq!(audited(&stack).await, [by_token("host.add"), by_token("host.remove")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_host_is_refused_with_what_to_do() {
    let machine =
        Machine::start("uid=0\\nmachine=riscv64\\nos=debian\\nversion=12\\ninit=systemd\\npackages=apt\\n").await;
    let stack = stack(&machine.key()).await;
    let api = Api::of(&stack);
    let at = |port: u16, more: Value| {
        let mut body = json!({"address": "127.0.0.1", "port": port});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let told = api.post("/hosts", at(machine.port, json!({}))).await.problem(409, "conflict");
    assert!(told.contains("riscv64"), "{told}");
    let other = format!("SHA256:{}", "A".repeat(43));
    let told = api.post("/hosts", at(machine.port, json!({"host_key": other}))).await.problem(409, "conflict");
    assert!(told.contains(&machine.fingerprint()) && told.contains("not the expected one"), "{told}");
    let told = api.post("/hosts", at(free_port(), json!({}))).await.problem(502, "far-side");
    assert!(told.contains("does not answer"), "{told}");
    for (body, field) in [
        (at(22, json!({"address": "a b"})), "address"),
        (at(22, json!({"address": "host:22"})), "address"),
        (at(22, json!({"address": "-oProxyCommand=x"})), "address"),
        (at(0, json!({})), "port"),
        (at(22, json!({"public_name": "https://a"})), "public_name"),
        (at(22, json!({"host_key": "ssh-ed25519 AAAA comment"})), "host_key"),
        (at(22, json!({"host_key": "rm -rf"})), "host_key"),
        (at(22, json!({"user": "ann"})), "user"),
    ] {
        let answer = api.post("/hosts", body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
            (422, &json!(field)),
            "{:#}",
            answer.body
        );
    }
    assert_eq!(audited(&stack).await, []);
    assert_eq!(stack.sql::<i64>("select count(*) from hosts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_no_machine_is_contacted() {
    let stack = stack(Path::new("/nonexistent/key")).await;
    let told = Api::of(&stack).post("/hosts", json!({"address": "127.0.0.1"})).await.problem(409, "conflict");
    assert!(told.contains("ssh-keygen"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_command_line_changes_is_written_down_too() {
    let machine = Machine::start(FIT).await;
    let stack = stack(&machine.key()).await;
    let environment: BTreeMap<String, String> = stack.baal(0).env();
    let run = |arguments: Vec<String>| {
        let environment = environment.clone();
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
            command.args(arguments).arg("--no-env-file").envs(environment).output().unwrap()
        })
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let add = format!("host add 127.0.0.1:{}", machine.port);
    for line in [&add, "host remove 1", "reconcile --report-only", "reconcile --confirm"] {
        let done = run(words(line)).await.unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let expected = ["host.add", "host.remove", "reconcile.report_only", "reconcile.confirm"];
    let expected: Vec<_> = expected.into_iter().map(|action| (action.to_owned(), "command line".to_owned())).collect();
    assert_eq!(audited(&stack).await, expected);
}
