//! What the launcher tells about itself, and how it takes clients that misbehave.

use crate::session::{CHAT, Workspace, run, until};
use baal_launcher::Root;
use baal_launcher::client::{CallError, Launcher};
use baal_launcher::wire::Walls;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

#[tokio::test]
async fn the_probe_tells_what_holds_on_this_machine() {
    let workspace = Workspace::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for root in [Root::Owner, CHAT] {
        let walls = workspace.open(root).await.probe(port).await.unwrap();
        assert!(
            walls.landlock_abi >= 2,
            "this kernel has no Landlock, without which these tests prove nothing: {walls:?}"
        );
        assert!(walls.files_closed && walls.seccomp && walls.no_new_privs, "{walls:?}");
        // Started by this test, the launcher is its own user, and no firewall knows it.
        assert!(!walls.other_user && !walls.loopback_closed, "{walls:?}");
        assert!(!walls.complete());
        assert!(walls.missing().contains(&"tools run as the agent's own user"));
    }
}

#[tokio::test]
async fn the_directories_are_the_tools_users_alone() {
    let workspace = Workspace::new();
    std::fs::create_dir_all(workspace.of(CHAT)).unwrap();
    std::fs::set_permissions(workspace.base(), PermissionsExt::from_mode(0o777)).unwrap();
    drop(workspace.open(CHAT).await);
    for directory in
        [workspace.base(), workspace.base().join("chats"), workspace.of(CHAT), workspace.base().join("tmp")]
    {
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
    }
}

/// Landlock does not keep a command from changing modes, so the launcher changes them back.
#[tokio::test]
async fn a_command_that_closes_the_directories_locks_nobody_out() {
    let workspace = Workspace::new();
    let mut owner = workspace.open(Root::Owner).await;
    // Just these: above the base lies what is not this test's.
    let close = "base=$(cd .. && pwd) && [ \"${base##*/}\" = workspace ] && chmod 000 . \"$base/chats\" \"$base\"";
    drop(workspace.open(CHAT).await);
    run(&mut owner, close).await.says("");
    owner.write("f", b"x", None).await.unwrap();
    run(&mut owner, close).await.says("");
    let mut visitor = workspace.open(CHAT).await;
    visitor.write("f", b"y", None).await.unwrap();
    run(&mut owner, "cat f").await.says("x");
}

/// All files belong to one user, and Landlock does not keep that user from changing modes and times by path.
#[tokio::test]
async fn a_visitors_command_cannot_take_the_owners_files_away() {
    let workspace = Workspace::new();
    let mut owner = workspace.open(Root::Owner).await;
    owner.write("f", b"x", None).await.unwrap();
    let mut visitor = workspace.open(CHAT).await;
    let spoil = "{ chmod 000 ../../owner/f || touch -d 2001-01-01 ../../owner/f || chown :$(id -g) ../../owner/f; } 2>/dev/null \
                 && echo spoilt; touch own && echo touched";
    run(&mut visitor, spoil).await.says("touched");
    assert_eq!(owner.read("f", 10).await.unwrap().bytes, b"x");
}

#[tokio::test]
async fn a_command_that_closes_the_locks_locks_nobody_out() {
    let workspace = Workspace::new();
    let locks = workspace.base().join("locks");
    let mut owner = workspace.open(Root::Owner).await;
    run(&mut owner, &format!("chmod 000 {0}/owner; chmod 000 {0}", locks.display())).await.says("");
    let mut owner = workspace.open(Root::Owner).await;
    owner.write("f", b"y", None).await.unwrap();
}

/// A launcher with a client that speaks by hand.
fn raw(workspace: &Workspace) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_baal-tools"))
        .args(["tools", "--workspace"])
        .arg(workspace.base())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, ours)
}

fn frame(head: &str) -> Vec<u8> {
    let mut bytes = (head.len() as u32).to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(head.as_bytes());
    bytes
}

#[test]
fn a_client_that_talks_nonsense_is_sent_away() {
    for said in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        frame("{}"),
        frame(r#"{"ask":"read","path":"x","max_bytes":1}"#),
        frame(r#"{"ask":"hello","version":1,"root":"../owner"}"#),
        frame(r#"{"ask":"hello","version":1,"root":"owner"}"#)[..20].to_vec(),
    ] {
        let workspace = Workspace::new();
        let (mut child, mut client) = raw(&workspace);
        client.write_all(&said).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // silent-ok: sent away with what it said unread, a client sees a reset
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        assert!(!child.wait().unwrap().success());
        assert!(!workspace.base().exists(), "nothing was made for {said:?}");
    }
}

#[tokio::test]
async fn why_a_connection_is_not_served_is_told() {
    let workspace = Workspace::new();
    std::fs::write(workspace.base(), "a file where the directory should be").unwrap();
    let told = workspace.launcher().open(&Root::Owner).await.unwrap_err();
    assert!(matches!(told, CallError::Unavailable(_)));
    assert!(told.to_string().contains("the workspace"), "{told}");
    let missing =
        Launcher::Socket { owner: workspace.outside().join("none.sock"), guests: "/".into() }.open(&Root::Owner).await;
    assert!(matches!(missing, Err(CallError::Unavailable(_))));
}

#[test]
fn a_silent_client_is_sent_away() {
    let workspace = Workspace::new();
    let (mut child, client) = raw(&workspace);
    assert!(!child.wait().unwrap().success());
    drop(client);
}

#[tokio::test]
async fn the_end_of_the_clients_side_ends_a_command_and_is_still_answered() {
    let workspace = Workspace::new();
    let (mut child, mut client) = raw(&workspace);
    client.write_all(&frame(r#"{"ask":"hello","version":1,"root":"owner"}"#)).unwrap();
    let command = "touch begun; sleep 60";
    let mut bash = frame(r#"{"ask":"bash","timeout_ms":50000}"#);
    bash[4..8].copy_from_slice(&(command.len() as u32).to_be_bytes());
    bash.extend(command.as_bytes());
    client.write_all(&bash).unwrap();
    until("it runs", || workspace.of(Root::Owner).join("begun").exists()).await;
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.contains(r#""answer":"ready""#) && answers.contains(r#""ending":"cancelled""#), "{answers}");
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn descriptors_left_open_in_the_agent_reach_no_command() {
    let workspace = Workspace::new();
    let secret = workspace.outside().join("secret");
    std::fs::write(&secret, "SECRET").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    // The shell gives its descriptor 7 on, as a careless parent would.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "exec 7<\"$0\"; exec \"$1\" tools --workspace \"$2\""])
        .arg(&secret)
        .arg(env!("CARGO_BIN_EXE_baal-tools"))
        .arg(workspace.base())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let mut client = ours;
    client.write_all(&frame(r#"{"ask":"hello","version":1,"root":"owner"}"#)).unwrap();
    let command = "cat <&7; ls /proc/self/fd | xargs; echo end";
    let mut bash = frame(r#"{"ask":"bash","timeout_ms":5000}"#);
    bash[4..8].copy_from_slice(&(command.len() as u32).to_be_bytes());
    bash.extend(command.as_bytes());
    client.write_all(&bash).unwrap();
    let mut answers = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&answers).contains(r#""answer":"exit""#) {
        let read = client.read(&mut piece).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answers));
        answers.extend(&piece[..read]);
    }
    let answers = String::from_utf8_lossy(&answers);
    assert!(!answers.contains("SECRET") && answers.contains("0 1 2 3\n"), "{answers}");
    drop(client);
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_listening_port_of_this_machine_is_what_the_probe_asks_about() {
    let workspace = Workspace::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Nobody listens there any more.
    let mut session = workspace.open(Root::Owner).await;
    assert!(session.probe(port).await.unwrap().loopback_closed);
    run(&mut session, "echo usable").await.says("usable");
}

/// Listens as systemd does, and starts a launcher for every connection but the first.
fn socket(workspace: &Workspace, name: &str) -> std::path::PathBuf {
    let path = workspace.outside().join(name);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let base = workspace.outside().join(format!("{name}-workspace"));
    std::thread::spawn(move || {
        drop(listener.accept());
        while let Ok((connection, _)) = listener.accept() {
            let program = env!("CARGO_BIN_EXE_baal-tools");
            let connection = Stdio::from(OwnedFd::from(connection));
            let mut launcher = Command::new(program);
            let mut child = launcher.args(["tools", "--workspace"]).arg(&base).stdin(connection).spawn().unwrap();
            std::thread::spawn(move || child.wait());
        }
    });
    path
}

#[tokio::test]
async fn owner_and_visitors_have_launchers_of_their_own() {
    let workspace = Workspace::new();
    let launcher = Launcher::Socket { owner: socket(&workspace, "owner"), guests: socket(&workspace, "guests") };
    // A connection that is ended at once, as the first is, is tried again.
    launcher.open(&Root::Owner).await.unwrap().write("f", b"x", None).await.unwrap();
    launcher.open(&CHAT).await.unwrap().write("f", b"x", None).await.unwrap();
    assert!(workspace.outside().join("owner-workspace/owner/f").exists());
    assert!(workspace.outside().join("guests-workspace").join(CHAT.directory()).join("f").exists());
    let walls = launcher.probe(1).await.unwrap();
    assert!(!walls.visitors_apart && !walls.complete());
    assert!(walls.and(&Walls { user: walls.user + 1, ..walls.clone() }).visitors_apart);
}

#[tokio::test]
async fn a_visitor_that_asks_for_much_waits_and_the_owner_does_not() {
    let workspace = Workspace::new();
    let launcher = workspace.launcher();
    // No other test's, since places are counted by root.
    let chat = Root::Chat(*b"asks for so much");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(launcher.open(&chat).await.unwrap());
    }
    let fifth = launcher.open(&chat);
    tokio::pin!(fifth);
    tokio::select! {
        _ = &mut fifth => panic!("one more than there are places"),
        owner = launcher.open(&Root::Owner) => drop(owner.unwrap()),
    }
    drop(launcher.open(&Root::Chat([8; 16])).await.unwrap());
    held.pop();
    fifth.await.unwrap();
}
