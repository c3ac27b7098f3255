//! The program as the demo starts it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // silent-ok: it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &[&str]) -> (Running, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_baal-simulators"))
        .args(["--telegram-listen", "127.0.0.1:0", "--libertai-listen", "127.0.0.1:0"])
        .args(["--aleph-listen", "127.0.0.1:0"])
        .args(args)
        .env("SIM_BOT_TOKEN", "123456:test")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Running(child), serde_json::from_str(&line).unwrap())
}

fn ends_well(running: &mut Running) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let Some(status) = running.0.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not end within ten seconds");
}

#[test]
fn it_says_where_it_listens_and_ends_with_its_standard_input() {
    let (mut running, ready) = start(&["--exit-on-stdin-eof"]);
    for name in ["telegram", "libertai"] {
        let url = ready[name].as_str().unwrap();
        assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"), "{ready}");
    }
    let aleph = &ready["aleph"];
    assert_eq!((aleph["ccns"].as_array().unwrap().len(), aleph["crns"].as_array().unwrap().len()), (2, 3), "{ready}");
    for name in ["ALEPH_API_URL", "ALEPH_CRN_LIST_URL", "ALEPH_SCHEDULER_URL", "ALEPH_GATEWAY_URL"] {
        assert!(aleph["env"][name].as_str().unwrap().starts_with("http://127.0.0.1:"), "{ready}");
    }
    assert!(aleph["env"]["ALEPH_GATEWAY_DOMAIN"].as_str().unwrap().starts_with("vm.localhost:"), "{ready}");
    drop(running.0.stdin.take());
    ends_well(&mut running);
}

#[test]
fn it_saves_its_state_when_it_is_asked_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state.json");
    let (mut running, _) = start(&["--state", state.to_str().unwrap()]);
    let killed = Command::new("kill").arg(running.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    ends_well(&mut running);
    let saved: Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    assert_eq!(saved["complete"], true);
}
