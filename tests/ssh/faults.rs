use std::time::{Duration, Instant};

use baal::ssh::{Command, SshError, host_key};
use rustix::process::Signal;

use crate::proxy::Proxy;
use crate::server::{Server, command, is_alive, number_in, run, wait_until};

#[tokio::test]
async fn a_frozen_machine_is_found_long_before_the_deadline() {
    let server = Server::start();
    let mut session = server.session().await;
    run(&mut session, "true").await.unwrap();
    let slow = Command { limit: Duration::from_secs(300), ..command("sleep 300") };
    let began = Instant::now();
    let (ended, ()) = tokio::join!(session.run(&slow), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.signal(Signal::STOP);
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, SshError::Broken(_)), "{error}");
    println!("found frozen after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(60));
    let error = host_key(&server.address).await.unwrap_err();
    assert!(matches!(error, SshError::Unreachable { .. }), "{error}");
    server.signal(Signal::CONT);
    host_key(&server.address).await.unwrap();
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_is_told_and_the_command_ends_at_its_deadline() {
    let server = Server::start();
    let proxy = Proxy::to(&server.address).await;
    let mut session = server.session_by(&proxy.address).await;
    let pid = server.path("pid");
    let script = format!("trap '' PIPE HUP; setsid -f sleep 300; echo $$ > {}; sleep 300", pid.display());
    let slow = Command { limit: Duration::from_secs(3), ..command(&script) };
    let (ended, pid) = tokio::join!(session.run(&slow), async {
        let pid = number_in(&pid).await;
        proxy.cut();
        pid
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, SshError::Broken(_)), "{error}");
    assert!(matches!(run(&mut session, "true").await, Err(SshError::Broken(_))));
    wait_until("it is ended on the machine", || !is_alive(pid)).await;
    server.is_idle().await;
}

#[tokio::test]
async fn an_upload_that_is_cut_leaves_no_half_file_under_its_name_where_its_length_is_compared() {
    let server = Server::start();
    let proxy = Proxy::to(&server.address).await;
    let mut session = server.session_by(&proxy.address).await;
    let (target, pid) = (server.path("program"), server.path("pid"));
    // The reader waits in the middle, so that most of the file is never sent.
    let script = format!(
        "echo $$ > {}; {{ head -c 1000000; sleep 2; cat; }} > {1}.part; \
         [ $(stat -c %s {1}.part) = 20000000 ] && mv {1}.part {1}",
        pid.display(),
        target.display()
    );
    let upload = Command { input: vec![7; 20_000_000], ..command(&script) };
    let (ended, pid) = tokio::join!(session.run(&upload), async {
        let pid = number_in(&pid).await;
        proxy.cut();
        pid
    });
    assert!(matches!(ended, Err(SshError::Broken(_))), "{ended:?}");
    wait_until("it is ended on the machine", || !is_alive(pid)).await;
    assert!(server.path("program.part").exists() && !target.exists());
}
