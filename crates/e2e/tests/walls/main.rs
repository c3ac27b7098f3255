//! The agent as installed on a VM, attacked through its own tools. The table goes to standard output, and to the file that
//! `E2E_TABLE` names.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attack;
mod exhaustion;
mod network;
mod secrets;
mod system;
mod tools;

use anyhow::ensure;
use attack::{Attack, BREACH, Place, in_short};
use baal_e2e::{Rig, Row, Speaker, Table, ToolCall};
use serde_json::json;
use tools::ToolAttack;

const OWNER: Speaker = Speaker { id: 1, role: "owner" };
const EVE: Speaker = Speaker { id: 666, role: "visitor" };
const BOB: Speaker = Speaker { id: 77, role: "visitor" };

/// Server and database share a small disk with the workspaces, so that it can be filled: a real file system, or where there
/// are no loop devices one in memory, which is larger because it is faster to fill.
const SMALL_DISK: &str = "mkdir -p /srv/small /var/lib/baal-agent /var/lib/baal-tools /var/lib/baal-guests
if losetup -f >/dev/null 2>&1; then
    truncate -s 3G /srv/small.img && mkfs.ext4 -q -N 200000 /srv/small.img && mount -o loop /srv/small.img /srv/small
else
    mount -t tmpfs -o size=3g,nr_inodes=200000,mode=755 small /srv/small
fi
for d in baal-agent baal-tools baal-guests; do mkdir -p /srv/small/$d; mount --bind /srv/small/$d /var/lib/$d; done";

/// After every attack: the server is the same process and answers, and nothing of the tools' user runs.
const STILL_WELL: &str = r#"
pid=$(systemctl show -p MainPID --value baal-agent.service)
[ "$pid" = {server} ] || { echo "the server is another process: $pid"; exit 1; }
curl -sf -m 5 http://127.0.0.1:8080/health >/dev/null || { echo "the server doesn't answer"; exit 1; }
for i in $(seq 50); do left=$(ps -o args= -u baal-tools,baal-guests || true); [ -z "$left" ] && break; sleep 0.1; done
[ -z "$left" ] || { echo "still running: $left"; pkill -9 -u baal-tools,baal-guests; exit 1; }
"#;

/// Nothing stays.
const UNINSTALLED: &str = "bash /root/baal/systemd/uninstall.sh --purge
! getent passwd baal-agent baal-tools baal-guests && ! nft list table inet baal_tools 2>/dev/null && ! ls /etc/systemd/system/baal* \
    && ! systemctl is-active baal-agent.service baal-tools.socket baal-guests.socket && ! find /var/lib/baal-agent /var/lib/baal-tools /var/lib/baal-guests -mindepth 1 | grep .";

struct Siege {
    rig: Rig,
    table: Table,
    secrets: Vec<String>,
    place: Place,
}

impl Siege {
    /// The server's secrets, other chats' text, or the attacker's own cry. One's own text is no secret.
    fn leaked(&self, text: &str, speaker: Speaker) -> Option<&'static str> {
        if text.contains(BREACH) {
            return Some("the attacker is through");
        }
        let others = [(OWNER, "CANARY-owner"), (BOB, "CANARY-bob")].into_iter().filter(|(whose, _)| *whose != speaker);
        let mut secrets = self.secrets.iter().map(String::as_str).chain(others.map(|(_, text)| text));
        secrets.any(|secret| text.contains(secret)).then_some("a secret came out")
    }

    /// One row of the table.
    async fn attempt(&mut self, name: &str, who: &'static str, speaker: Speaker, calls: &[ToolCall], check: &str) {
        let asked = self.rig.model.requests().len();
        let outcome = self.rig.turn(speaker, calls).await;
        let (mut happened, mut breach) = match outcome {
            Err(e) => (format!("the turn failed: {e:#}"), true),
            Ok(turn) => {
                let text = turn.said().0;
                // What the model saw besides: memory and skills in the prompt.
                let prompts: String = self
                    .rig
                    .model
                    .requests()
                    .iter()
                    .skip(asked.saturating_sub(1))
                    .map(|r| r["messages"][0].to_string())
                    .collect();
                let leak = self
                    .leaked(&text, speaker)
                    .or_else(|| self.leaked(&prompts, speaker).filter(|_| !prompts.contains(BREACH)));
                let unanswered = turn.results.len() != calls.len();
                let seen = in_short(if turn.results.is_empty() { &text } else { turn.results.last().unwrap() });
                match leak {
                    Some(leak) => (format!("{leak}: {seen}"), true),
                    None if unanswered => {
                        (format!("{} of {} calls were answered: {seen}", turn.results.len(), calls.len()), true)
                    }
                    None => (seen, false),
                }
            }
        };
        let look = format!(
            "set +e\n( {} ) || {{ echo 'traces of success'; exit 1; }}\n{STILL_WELL}",
            if check.is_empty() { "true" } else { check }
        );
        let (well, said) = self.rig.machine.try_root(&self.place.fill(&look)).unwrap();
        if !well {
            breach = true;
            happened = format!("{happened}; afterwards: {}", in_short(&said));
        } else if !said.trim().is_empty() && check.contains("echo") {
            happened = format!("{happened}; {}", in_short(&said));
        }
        self.table.add(Row { attack: name.to_owned(), who, happened, succeeded: breach });
        self.note_server();
    }

    /// The server's process id, which changes when it is installed again.
    fn note_server(&mut self) {
        let said = self.rig.machine.root("systemctl show -p MainPID --value baal-agent.service").unwrap();
        self.place.server = said.trim().to_owned();
    }

    async fn shell(&mut self, attack: &Attack, who: &'static str, speaker: Speaker) {
        if !attack.prepare.is_empty() {
            self.rig.machine.root(attack.prepare).unwrap();
        }
        let call = attack.call(&self.place);
        self.attempt(attack.name, who, speaker, &[call], attack.check).await;
    }

    async fn tools(&mut self, attacks: Vec<ToolAttack>, who: &'static str, speaker: Speaker) {
        for attack in attacks {
            self.attempt(attack.name, who, speaker, &attack.calls, attack.check).await;
        }
    }

    /// Root, without walls, gets what the attack is after: otherwise it would prove nothing that others don't.
    fn bites(&self, attack: &Attack) -> anyhow::Result<()> {
        let script =
            format!("{}\ncd /var/lib/baal-tools/workspace/owner\n{}", attack.prepare, attack.script(&self.place));
        let (_, said) = self.rig.machine.try_root(&script)?;
        ensure!(self.leaked(&said, EVE).is_some(), "{:?} has no success even as root:\n{said}", attack.name);
        Ok(())
    }

    /// The absolute path of the one `private.txt` with this text.
    fn file_with(&self, text: &str) -> anyhow::Result<String> {
        let said = self
            .rig
            .machine
            .root(&format!("grep -rl {text} /var/lib/baal-tools/workspace /var/lib/baal-guests/workspace"))?;
        Ok(said.trim().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_succeeds() -> anyhow::Result<()> {
    let mut rig = Rig::start().await?;
    rig.machine.root(SMALL_DISK)?;
    rig.machine.root(network::WORLD)?;
    let first = rig.install(json!({}))?;
    let again = rig.install(json!({}))?;
    ensure!(first.contains("the agent is healthy"), "{first}");
    ensure!(
        again.contains("nothing was new") && !again.contains("restarted"),
        "the second run changed something: {again}"
    );

    let refused = rig.install(json!({"port": "eighty"})).err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(refused.contains("nothing of the agent was changed"), "a bad configuration was installed: {refused}");
    rig.machine.root("systemd-analyze security --no-pager --threshold=30 baal-agent.service >/dev/null")?;

    let secrets = vec![rig.key.clone(), rig.secret.clone(), "CANARY-place".to_owned(), "agent_name".to_owned()];
    let place = Place { host: rig.machine.host.to_string(), model: rig.model_port().to_string(), ..Place::default() };
    let mut siege = Siege { rig, table: Table::default(), secrets, place };
    for (speaker, canary) in [(OWNER, "CANARY-owner"), (BOB, "CANARY-bob")] {
        let note = ToolCall { name: "write_file", arguments: json!({"path": "private.txt", "content": canary}) };
        let turn = siege.rig.turn(speaker, &[note]).await?;
        ensure!(turn.results.len() == 1 && !turn.results[0].contains("error"), "{turn:?}");
    }
    let (of_owner, of_bob) = (siege.file_with("CANARY-owner")?, siege.file_with("CANARY-bob")?);
    siege.note_server();
    good_things_work(&mut siege).await?;

    let shell: Vec<&Attack> =
        [secrets::ATTACKS, network::ATTACKS, system::ATTACKS, exhaustion::ATTACKS].into_iter().flatten().collect();
    siege.place.victim = of_bob.clone();
    for attack in shell.iter().filter(|attack| attack.bites) {
        siege.bites(attack)?;
    }

    println!("\n| attack | as | what happened |\n|---|---|---|");
    siege.place.victim = of_owner.clone();
    let bash = ToolCall::bash("printf '%s%s\\n' BRE ACH; touch ran; sleep 98761 &", 10);
    siege
        .attempt(
            "a shell",
            "visitor",
            EVE,
            &[bash],
            "! find /var/lib/baal-tools/workspace /var/lib/baal-guests/workspace -name ran | grep .",
        )
        .await;
    let spawn = ToolCall { name: "spawn", arguments: json!({"task": "run printf BREACH"}) };
    siege.attempt("a subagent", "visitor", EVE, &[spawn], "").await;
    let recall = ToolCall { name: "recall", arguments: json!({"query": "private"}) };
    siege.attempt("the owner's memory", "visitor", EVE, &[recall], "").await;
    let attacks = tools::attacks(&siege.place);
    siege.tools(attacks, "visitor", EVE).await;
    siege.place.victim = of_bob.clone();
    let attacks = tools::attacks(&siege.place);
    siege.tools(attacks, "owner", OWNER).await;

    siege.rig.install(json!({"visitor_tools": ["bash"]}))?;
    siege.note_server();
    for (who, speaker, victim) in [("owner", OWNER, of_bob), ("visitor with bash", EVE, of_owner)] {
        siege.place.victim = victim;
        for attack in shell.iter().filter(|attack| speaker != OWNER || !attack.owner_may) {
            siege.shell(attack, who, speaker).await;
        }
        let attacks = tools::planted(&siege.place);
        siege.tools(attacks, who, speaker).await;
    }

    let failed = siege.rig.machine.root("systemctl --failed --no-legend --plain | grep -v e2e- || true; nft list table inet baal_tools >/dev/null; systemctl is-active baal-agent.service baal-tools.socket baal-guests.socket baal-tools-firewall.service")?;
    ensure!(failed.trim() == "active\nactive\nactive\nactive", "not all units are well in the end: {failed}");
    good_things_work(&mut siege).await?;
    if let Some(file) = std::env::var_os("E2E_TABLE") {
        std::fs::write(file, siege.table.to_string())?;
    }
    siege.rig.machine.root(UNINSTALLED)?;
    let breaches = siege.table.breaches();
    println!("\n{} different attacks, {} succeeded", siege.table.attacks(), breaches.len());
    ensure!(siege.table.attacks() >= 40, "too few attacks");
    ensure!(
        breaches.is_empty(),
        "these succeeded:\n{}",
        breaches.iter().map(|row| format!("{row}\n")).collect::<String>()
    );
    Ok(())
}

/// What a shell is for still works.
async fn good_things_work(siege: &mut Siege) -> anyhow::Result<()> {
    for (command, expected) in [
        ("python3 -c 'print(6 * 7)'", "42"),
        (
            "git init -q r && cd r && git -c user.name=A -c user.email=a@b commit -q --allow-empty -m first && git log --oneline | grep -c first; cd .. && rm -rf r",
            "1",
        ),
        ("curl -sS -m 5 http://198.51.100.1/", "a public page"),
        ("mkdir -p d && echo words > d/f && cat d/f && rm -r d", "words"),
        ("seq 100000 | sort -rn | head -n 1; echo x > \"$(mktemp)\" && echo temporary", "temporary"),
        (
            "python3 -c 'import sqlite3; print(sqlite3.connect(\":memory:\").execute(\"select 40 + 3\").fetchone()[0])'",
            "43",
        ),
        (
            "python3 -c 'import subprocess, threading; t = threading.Thread(target=print, args=(44,)); t.start(); t.join(); print(subprocess.run([\"echo\", \"45\"], capture_output=True).stdout)'",
            "45",
        ),
    ] {
        let turn = siege.rig.turn(OWNER, &[ToolCall::bash(command, 30)]).await?;
        ensure!(turn.results.iter().any(|result| result.contains(expected)), "{command}: {turn:?}");
    }
    for url in ["http://198.51.100.1/", "http://far.e2e/"] {
        let fetch = ToolCall { name: "web_fetch", arguments: json!({"url": url}) };
        let turn = siege.rig.turn(OWNER, &[fetch]).await?;
        ensure!(turn.results.iter().any(|result| result.contains("a public page")), "{url}: {turn:?}");
    }
    Ok(())
}
