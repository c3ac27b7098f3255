//! The one program starts wherever agents may live, whatever built it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::site::agent;

/// Runs in a container that has nothing but the distribution: the program is in /agent, the configuration on standard input.
const START: &str = r#"set -eu; umask 077
. /etc/os-release; echo "on $ID $VERSION_ID"
mkdir -p /var/lib/baal-agent && cd /var/lib/baal-agent
cat >config.json
/agent/baal-agent --version
/agent/baal-agent --config config.json --check
/agent/baal-agent --config config.json & pid=$!
for try in $(seq 100); do
    sleep 0.1
    if exec 3<>/dev/tcp/127.0.0.1/8080; then printf 'GET /health HTTP/1.0\r\n\r\n' >&3; cat <&3; break; fi 2>/dev/null
done
kill $pid; wait $pid"#;

fn starts_on(image: &str) -> String {
    let binary = baal_e2e::agent_binary().unwrap();
    let mut config = agent("Ada");
    (config.tools_socket, config.guest_tools_socket) = (None, None);
    config.workspace_path = "/var/lib/baal-agent/workspace".into();
    let mount = format!("{}:/agent:ro", binary.parent().unwrap().display());
    let mut child = Command::new("docker")
        .args([
            "run",
            "--rm",
            "-i",
            "--network",
            "none",
            "--label",
            "baal-e2e",
            "-v",
            &mount,
            image,
            "bash",
            "-c",
            START,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&config).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("200 OK") && said.contains(r#""agent_name":"Ada""#),
        "{image}: {said}"
    );
    said
}

#[test]
fn it_starts_on_debian_12() {
    let said = starts_on("debian:bookworm-slim");
    assert!(said.contains("on debian 12"), "{said}");
}

#[test]
fn it_starts_on_ubuntu_24_04() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("machine/ubuntu");
    let made = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(made.status.success(), "there is no Ubuntu to test on; see above");
    let said = starts_on(String::from_utf8_lossy(&made.stdout).trim());
    assert!(said.contains("on ubuntu 24.04"), "{said}");
}
