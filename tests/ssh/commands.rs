use std::fs;
use std::time::{Duration, Instant};

use baal::ssh::{Command, SshError};
use sha2::{Digest, Sha256};

use crate::server::{Server, command, is_alive, run};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_large_file_arrives_whole() {
    let server = Server::start();
    let mut session = server.session().await;
    let program = noise(15_000_000);
    let target = server.path("uploaded");
    let script =
        format!("cat > '{0}.part' && sync '{0}.part' && mv '{0}.part' '{0}' && sha256sum < '{0}'", target.display());
    let began = Instant::now();
    let output = session.run(&Command { input: program.clone(), ..command(&script) }).await.unwrap();
    println!("15 MB up, stored and summed: {:?}", began.elapsed());
    assert_eq!(output.stdout, format!("{}  -\n", sha256(&program)));
    assert_eq!(fs::read(target).unwrap(), program);
    let (sent, received) = session.traffic();
    assert!(sent > 15_000_000 && sent < 15_010_000, "{sent}");
    assert_eq!(received, output.stdout.len() as u64);
}

#[tokio::test]
async fn input_is_safe_whatever_bytes_it_has() {
    let server = Server::start();
    let mut session = server.session().await;
    let hostile = b"\0\r\n\x04~.\x1b$(touch /tmp/x)'\"\\\xff\xfe`id`\n".repeat(100);
    let path = server.path("stored");
    let script = format!("cat > '{}'", path.display());
    session.run(&Command { input: hostile.clone(), ..command(&script) }).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), hostile);
    let all: Vec<u8> = (0..=255).collect();
    let output = session.run(&Command { input: all, ..command("od -An -v -tu1 -w1 | tr -d ' '") }).await.unwrap();
    assert_eq!(output.stdout, (0..=255).map(|byte| format!("{byte}\n")).collect::<String>());
    assert_eq!(run(&mut session, "cat; echo over").await.unwrap().stdout, "over\n");
}

#[tokio::test]
async fn both_ways_at_once_do_not_block_each_other() {
    let server = Server::start();
    let mut session = server.session().await;
    // It answers while it reads, more than any buffer holds; most of the answer is dropped here.
    let output = session.run(&Command { input: noise(8_000_000), ..command("cat; echo end >&2") }).await.unwrap();
    assert_eq!(output.stderr, "end\n");
    assert!(output.stdout.len() <= 1 << 20);
    assert_eq!(session.traffic().1, 8_000_004);
}

#[tokio::test]
async fn of_much_output_the_beginning_is_kept_and_of_complaints_the_end() {
    let server = Server::start();
    let mut session = server.session().await;
    let output = run(&mut session, "seq 1 3000000; seq 1 100000 >&2").await.unwrap();
    assert_eq!(output.stdout.len(), 1 << 20);
    assert!(output.stdout.starts_with("1\n2\n3\n"));
    assert!(output.stderr.len() <= 64 << 10);
    assert!(output.stderr.ends_with("\n99999\n100000\n"));
    assert_eq!(run(&mut session, "echo still here").await.unwrap().stdout, "still here\n");
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_ends_as_it_likes() {
    let server = Server::start();
    let mut session = server.session().await;
    let output =
        session.run(&Command { input: noise(9_000_000), ..command("head -c 3 >/dev/null; echo enough") }).await;
    assert_eq!(output.unwrap().stdout, "enough\n");
    assert_eq!(run(&mut session, "echo next").await.unwrap().stdout, "next\n");
}

#[tokio::test]
async fn failures_say_their_status_and_the_end_of_the_complaint() {
    let server = Server::start();
    let mut session = server.session().await;
    for status in [1, 2, 124, 137, 255] {
        match run(&mut session, &format!("echo out; echo complaint >&2; exit {status}")).await {
            Err(SshError::Failed { what: "a test", status: told, stderr }) => {
                assert_eq!((told, stderr.as_str()), (status, "complaint"));
            }
            other => panic!("{other:?}"),
        }
    }
    let signalled = run(&mut session, "kill -SEGV $$").await.unwrap_err();
    assert!(matches!(signalled, SshError::Failed { status: 139, .. }), "{signalled}");
    // The supervisor itself: the parent of `timeout`.
    let all = run(&mut session, "kill -KILL $(ps -o ppid= -p $PPID)").await.unwrap_err();
    assert!(matches!(&all, SshError::Failed { status: 255, stderr, .. } if stderr.contains("signal KILL")), "{all}");
    assert_eq!(run(&mut session, "echo still here").await.unwrap().stdout, "still here\n");
}

#[tokio::test]
async fn nothing_that_was_sent_is_in_an_error() {
    let server = Server::start();
    let mut session = server.session().await;
    let secret = Command {
        input: b"sk-very-secret-0123\n".to_vec(),
        ..command("read -r key; echo \"bad: '$key'\" >&2; exit 3")
    };
    let error = session.run(&secret).await.unwrap_err();
    assert!(!format!("{error} {error:?} {secret:?}").contains("very-secret"), "{error:?}");
    assert!(error.to_string().contains("bad: '[…]'"), "{error}");
}

#[tokio::test]
async fn one_session_runs_many_commands_and_nothing_is_left() {
    let server = Server::start();
    let began = Instant::now();
    let mut session = server.session().await;
    println!("host key and connection: {:?}", began.elapsed());
    let began = Instant::now();
    for number in 0..30 {
        assert_eq!(run(&mut session, &format!("echo {number}")).await.unwrap().stdout, format!("{number}\n"));
    }
    println!("a command: {:?}", began.elapsed() / 30);
    session.close().await;
    server.is_idle().await;
}

#[tokio::test]
async fn what_a_command_leaves_running_ends_with_it() {
    let server = Server::start();
    let mut session = server.session().await;
    let began = Instant::now();
    // The first holds the output open, the second has a session of its own.
    let output = run(&mut session, "sleep 300 & echo $!; setsid -f sleep 301; pgrep -n -f '^sleep 301'").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    let pids: Vec<u32> = output.stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    assert!(!pids.into_iter().any(is_alive));
}

#[tokio::test]
async fn a_session_that_is_dropped_ends_its_connection() {
    let server = Server::start();
    let mut session = server.session().await;
    run(&mut session, "true").await.unwrap();
    drop(session);
    server.is_idle().await;
}
