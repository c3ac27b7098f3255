//! Commands as models write them.

use crate::session::{CHAT, Workspace, failure, run, run_as_owner, run_for};
use baal_launcher::Root;
use baal_launcher::wire::{Ending, Failure, MAX_OUTPUT};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn both_streams_and_the_exit_code_come_back() {
    let ran = run_as_owner("echo out; echo err >&2; exit 7").await;
    assert_eq!((ran.output.as_str(), ran.code()), ("out\nerr\n", 7));
    assert_eq!((ran.exit.output_bytes, ran.exit.dropped_bytes), (8, 0));
}

#[tokio::test]
async fn death_by_a_signal_is_told() {
    assert_eq!(run_as_owner("kill -SEGV $$").await.exit.ending, Ending::Signal(11));
}

#[tokio::test]
async fn commands_run_one_after_another_in_the_same_workspace() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    run(&mut session, "mkdir sub && echo kept > sub/file && echo t > \"$TMPDIR/t\"").await.says("");
    run(&mut session, "cat sub/file \"$TMPDIR/t\"; pwd")
        .await
        .says(&format!("kept\nt\n{}", workspace.of(Root::Owner).display()));
}

#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let (sender, mut receiver) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let release = workspace.of(Root::Owner).join("go");
    let command = "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second";
    let read = async {
        assert_eq!(receiver.recv().await.unwrap(), "first\n");
        std::fs::write(release, "").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "second\n");
    };
    let (exit, ()) = tokio::join!(session.bash(command, Duration::from_secs(20), sender, &stop), read);
    assert_eq!(exit.unwrap().ending, Ending::Code(0));
}

#[tokio::test]
async fn endless_output_is_cut_and_counted() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let ran = run_for(&mut session, "yes", Duration::from_secs(2)).await;
    assert_eq!(ran.exit.ending, Ending::TimedOut);
    assert_eq!((ran.exit.output_bytes, ran.output.len() as u64), (MAX_OUTPUT, MAX_OUTPUT));
    assert!(ran.exit.dropped_bytes > MAX_OUTPUT, "{:?}", ran.exit);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_command_up_but_not_its_time() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.cancel();
    };
    let (exit, ()) = tokio::join!(session.bash("yes", Duration::from_secs(60), sender, &stop), stopping);
    let exit = exit.unwrap();
    assert_eq!(exit.ending, Ending::Cancelled);
    assert!(exit.output_bytes + exit.dropped_bytes < 2 << 20, "{exit:?}");
    assert!(receiver.try_recv().is_ok());
    run(&mut session, "echo again").await.says("again");
}

#[tokio::test]
async fn a_pipe_that_is_closed_early_ends_its_writer() {
    run_as_owner("yes | head -n 1; echo ${PIPESTATUS[0]}").await.says("y\n141");
}

#[tokio::test]
async fn the_environment_holds_nothing_of_the_parents() {
    let ran = run_as_owner("env | cut -d= -f1 | sort | xargs").await;
    ran.says("HOME LANG LOGNAME PATH PWD SHELL SHLVL TERM TMPDIR USER _");
}

#[tokio::test]
async fn only_three_descriptors_are_open_and_no_terminal() {
    let ran = run_as_owner(
        "ls /proc/self/fd | xargs; cat; [ -t 0 ] || echo none; (: < /dev/tty) 2>&1 | grep -c 'such device'",
    )
    .await;
    // The fourth is ls' own.
    ran.says("0 1 2 3\nnone\n1");
}

#[tokio::test]
async fn usual_programs_work() {
    let ran = run_as_owner(
        "set -e; python3 -c 'import json, ssl, sqlite3, subprocess, random; print(json.dumps([1]), subprocess.check_output([\"echo\", \"sub\"]).decode().strip())'
         cat <(echo substitution); cat <<< here; chmod +x /dev/null 2>/dev/null || true
         printf '#!/bin/sh\\necho script\\n' > s && chmod +x s && ./s
         mkfifo f; (echo fifo > f &) ; cat f; mv s t; ln t u; ln -s t v; cat v | tail -n 1; truncate -s 10 t; stat -c %s t; df . > /dev/null; nproc > /dev/null; date > /dev/null; sort --version > /dev/null; wait",
    )
    .await;
    ran.says("[1] sub\nsubstitution\nhere\nscript\nfifo\necho script\n10");
}

/// Programs that not every machine has.
#[tokio::test]
async fn programs_that_are_installed_work() {
    let workspace = Workspace::new();
    // A visitor's shell is the narrower one: it sees no processes and changes no modes.
    for root in [Root::Owner, CHAT] {
        let session = &mut workspace.open(root).await;
        for (program, command, expected) in [
            (
                "git",
                "git init -q r && cd r && git -c user.name=a -c user.email=b commit -q --allow-empty -m m && git log --format=%s",
                "m",
            ),
            ("gcc", "echo 'int main(){return 0;}' > a.c && gcc a.c -o a && ./a && echo built", "built"),
            ("node", "node -e 'console.log(require(\"child_process\").execSync(\"echo n\").toString().trim())'", "n"),
            ("sqlite3", "sqlite3 d.db 'create table t(a); insert into t values(5); select a from t'", "5"),
            ("perl", "perl -e 'print \"p\\n\"'", "p"),
            ("curl", "curl -sS -o /dev/null http://127.0.0.1:1 2>&1 | grep -c 'connect'", "1"),
        ] {
            let there = run(session, &format!("command -v {program}")).await;
            // These two change modes by path, which a visitor's commands may not.
            let stopped = root == CHAT && ["git", "gcc"].contains(&program);
            if there.code() == 0 && !stopped {
                run(session, command).await.says(expected);
            }
        }
    }
}

#[tokio::test]
async fn a_visitor_that_may_run_commands_has_the_same_shell() {
    let workspace = Workspace::new();
    let mut session = workspace.open(CHAT).await;
    let ran = run(&mut session, "echo hi > f; cat f; python3 -c 'print(1)'; echo $(nproc) > /dev/null").await;
    ran.says("hi\n1");
}

#[tokio::test]
async fn what_is_no_command_is_told() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let (sender, _receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let long = session.bash(&"#".repeat(200_000), Duration::from_secs(1), sender.clone(), &stop).await;
    assert!(matches!(failure(long), Failure::TooLarge(_)));
    let nul = session.bash("echo \0", Duration::from_secs(1), sender, &stop).await;
    assert!(matches!(failure(nul), Failure::Invalid(_)));
    run(&mut session, "echo still").await.says("still");
}
