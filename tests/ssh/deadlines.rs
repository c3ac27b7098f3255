use std::time::{Duration, Instant};

use baal::ssh::{Command, SshError};

use crate::server::{Server, command, is_alive, number_in, run, wait_until};

#[tokio::test]
async fn at_the_deadline_the_command_ends_on_the_machine_with_all_its_children() {
    let server = Server::start();
    let mut session = server.session().await;
    let files = ["script", "child", "detached", "grandchild"].map(|name| server.path(name));
    let [script, child, detached, grandchild] = files.each_ref().map(|file| file.display().to_string());
    // Nobody here listens to SIGTERM; two made sessions of their own, of which one is an orphan.
    let slow = Command {
        limit: Duration::from_secs(2),
        ..command(&format!(
            "trap '' TERM; echo $$ > {script}; (trap '' TERM; sleep 300) & echo $! > {child}; \
             setsid bash -c 'trap \"\" TERM HUP; echo $$ > {detached}; sleep 300' & \
             (setsid bash -c 'trap \"\" TERM HUP; echo $$ > {grandchild}; sleep 300' &) ; wait; wait; wait"
        ))
    };
    let began = Instant::now();
    let error = session.run(&slow).await.unwrap_err();
    assert!(matches!(error, SshError::TimedOut { what: "a test", limit } if limit == slow.limit), "{error}");
    assert!(began.elapsed() >= slow.limit);
    for file in files {
        let pid = number_in(&file).await;
        wait_until("it is ended", || !is_alive(pid)).await;
    }
    // The machine ended it by itself, so its session slot is free and the connection is good.
    for _ in 0..12 {
        run(&mut session, "true").await.unwrap();
    }
}

#[tokio::test]
async fn more_time_outs_than_session_slots_leave_the_session_usable() {
    let server = Server::start();
    let mut session = server.session().await;
    for _ in 0..12 {
        let error =
            session.run(&Command { limit: Duration::from_millis(50), ..command("sleep 300") }).await.unwrap_err();
        assert!(matches!(error, SshError::TimedOut { .. }), "{error}");
    }
    assert_eq!(run(&mut session, "echo well").await.unwrap().stdout, "well\n");
    session.close().await;
    server.is_idle().await;
}

#[tokio::test]
async fn a_machine_that_does_not_keep_the_deadline_is_left_and_the_session_is_of_no_more_use() {
    let server = Server::start();
    let mut session = server.session().await;
    // It ends what would have ended it, and all that holds the deadline there.
    let pid = server.path("pid");
    let stubborn = Command {
        limit: Duration::from_secs(1),
        ..command(&format!("echo $$ > {}; kill -STOP $PPID $(ps -o ppid= -p $PPID); exec sleep 300", pid.display()))
    };
    let began = Instant::now();
    let error = session.run(&stubborn).await.unwrap_err();
    assert!(matches!(error, SshError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let error = run(&mut session, "true").await.unwrap_err();
    assert!(matches!(error, SshError::Broken(_)), "{error}");
    assert!(is_alive(number_in(&pid).await), "the test's premise");
    // The server's end kills them, stopped or not: they are of its family still.
}

#[tokio::test]
async fn a_command_that_was_given_up_in_the_middle_spoils_the_session() {
    let server = Server::start();
    let mut session = server.session().await;
    let given_up = tokio::time::timeout(Duration::from_millis(300), run(&mut session, "sleep 2; echo late")).await;
    assert!(given_up.is_err());
    let error = run(&mut session, "echo mine").await.unwrap_err();
    assert!(matches!(error, SshError::Broken(_)), "{error}");
    drop(session);
    server.is_idle().await;
}
