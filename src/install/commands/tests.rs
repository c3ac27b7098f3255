use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use super::super::archive::archive;
use super::*;

const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);
const ANYWHERE: &str = "the directory of this test";

#[test]
fn the_scripts_are_the_same_whatever_is_installed() {
    let name = SiteName::parse("a-b.2n6.me:443").expect("a name");
    let command = prepare(ONE, "ab12", &name, true, false, b"anything".to_vec());
    insta::assert_snapshot!(command.script);
    assert_eq!(command.input, b"anything");
    let address = SiteName::parse("[2001:db8::1]:443").expect("an address");
    assert!(
        prepare(ONE, "ab12", &address, false, true, vec![])
            .script
            .contains(r#"web.sh" --ip '2001:db8::1' --caddyfile "$dir/Caddyfile" --wait 180 --roots "$dir/ca.pem""#)
    );
}

#[test]
fn every_script_is_valid_shell() {
    let name = SiteName::parse("a.example.org").expect("a name");
    let commands = [
        first_boot(),
        stage("ab", vec![]),
        prepare(ONE, "ab", &name, true, true, vec![]),
        install(ONE, "ab", vec![]),
        take_over(ONE, "ab", vec![]),
        give_back(ONE, vec![]),
        halt(ONE),
        wipe(ONE, vec![]),
    ];
    for command in commands {
        let checked = std::process::Command::new("bash").args(["-n", "-c", &command.script]).status();
        assert!(checked.expect("bash").success(), "{}", command.what);
    }
}

/// A script with this body, as it runs on a machine whose root directory is `root`.
fn script(root: &Path, vm: Uuid, claim: &str, body: &str) -> String {
    let script = with_archive(ANYWHERE, vm, claim, vec![], INSTALL, body).script;
    let at = |path: &str| root.join(path).display().to_string();
    script.replace("/var/lib/baal", &at("state")).replace("/run/", &format!("{}/", at("run")))
}

fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("run")).expect("makes");
    root
}

fn start(script: &str) -> std::process::Child {
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = bash.spawn().expect("bash");
    let packed = archive(&[("config.json", b"a key")]).expect("packs");
    // silent-ok: a script that refuses does not read it
    let _ = child.stdin.take().expect("piped").write_all(&packed);
    child
}

fn run(script: &str) -> (Option<i32>, String) {
    let ended = start(script).wait_with_output().expect("ends");
    (ended.status.code(), String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn unpacked(root: &Path) -> usize {
    let there = fs::read_dir(root.join("run")).expect("lists").filter_map(Result::ok);
    there.filter(|entry| entry.file_name().to_string_lossy().starts_with("baal-unpacked.")).count()
}

#[test]
fn a_machine_is_marked_once_and_what_carries_another_mark_is_left_alone() {
    let root = machine();
    let mark = root.path().join("state/vm");
    let body = r#"cat "$dir/config.json""#;
    let fine = (Some(0), "a key".to_owned());
    for _ in 0..2 {
        assert_eq!(run(&script(root.path(), ONE, CLAIM, body)), fine);
        assert_eq!(fs::read_to_string(&mark).expect("marked"), format!("{ONE}\n"));
    }
    let refused = (Some(78), String::new());
    for claim in [CLAIM, ""] {
        assert_eq!(run(&script(root.path(), TWO, claim, body)), refused);
    }
    // Cut off or damaged, it is nobody's but a person's to look at.
    fs::write(&mark, "").expect("writes");
    assert_eq!(run(&script(root.path(), ONE, CLAIM, body)), refused);
    // One from before there were marks gets one, but not by a removal.
    fs::remove_file(&mark).expect("removes");
    assert_eq!(run(&script(root.path(), TWO, "", body)), fine);
    assert!(!mark.exists());
    assert_eq!(run(&script(root.path(), TWO, CLAIM, body)), fine);
    let there: Vec<_> = fs::read_dir(root.path().join("state")).expect("lists").collect();
    assert_eq!((there.len(), unpacked(root.path())), (1, 0));
}

#[test]
fn of_two_that_come_at_once_one_has_the_machine() {
    let root = machine();
    let vms: Vec<Uuid> = (1..=8).map(Uuid::from_u128).collect();
    let scripts = vms.iter().map(|vm| script(root.path(), *vm, CLAIM, "true"));
    let children: Vec<_> = scripts.map(|script| start(&script)).collect();
    let ended = children.into_iter().map(|child| child.wait_with_output().expect("ends").status.code());
    let mut winners = vms.iter().zip(ended).filter(|(_, status)| *status == Some(0)).map(|(vm, _)| vm);
    let mark = fs::read_to_string(root.path().join("state/vm")).expect("marked");
    assert_eq!(winners.next().map(|vm| format!("{vm}\n")), Some(mark));
    assert_eq!(winners.next(), None);
}

#[test]
fn what_a_killed_one_unpacked_is_removed_and_what_is_at_work_stays() {
    let root = machine();
    let go = root.path().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().expect("mkfifo").success());
    let mut killed = start(&script(root.path(), ONE, CLAIM, &format!("exec cat <'{}'", go.display())));
    // Opens when it has come that far.
    let gate = fs::OpenOptions::new().write(true).open(&go).expect("opens");
    assert_eq!(unpacked(root.path()), 1);
    // At work: it stays.
    assert_eq!(run(&script(root.path(), ONE, CLAIM, "true")).0, Some(0));
    assert_eq!(unpacked(root.path()), 1);
    killed.kill().expect("kills");
    killed.wait().expect("ends");
    assert_eq!(unpacked(root.path()), 1, "nobody cleaned up after it");
    assert_eq!(run(&script(root.path(), ONE, CLAIM, "true")).0, Some(0));
    assert_eq!(unpacked(root.path()), 0);
    drop(gate);
}

#[test]
fn an_agent_is_stopped_on_its_own_machine_only() {
    let root = machine();
    for directory in ["state", "units"] {
        fs::create_dir(root.path().join(directory)).expect("makes");
    }
    let at = |path: &str| root.path().join(path);
    let halted = |vm| {
        let script = halt(vm).script.replace("/var/lib/baal/", &format!("{}/", at("state").display()));
        let script = script.replace("/run/", &format!("{}/", at("run").display()));
        let script = script.replace("/etc/systemd/system/", &format!("{}/", at("units").display()));
        // In systemd's place: what it is asked for.
        run(&format!("systemctl() {{ echo \"$*\"; }}\n{script}"))
    };
    assert_eq!(halted(ONE), (Some(0), String::new()), "nothing was ever installed there");
    fs::write(at("units/baal-agent.service"), "").expect("writes");
    let asked = (Some(0), "disable --quiet --now baal-agent.service\n".to_owned());
    assert_eq!(halted(ONE), asked);
    fs::write(at("state/vm"), format!("{ONE}\n")).expect("writes");
    assert_eq!(halted(ONE), asked);
    assert_eq!(halted(TWO), (Some(78), String::new()));
}
