//! A disk that fills up. That needs a small file system of its own, in namespaces; the decisions themselves are tested
//! with `space`.

use crate::session::{Workspace, failure, run, run_for};
use baal_launcher::Root;
use baal_launcher::wire::{Ending, Failure};
use std::time::Duration;

#[tokio::test]
async fn a_command_that_fills_the_disk_is_ended_and_one_can_tidy_up() {
    let workspace = Workspace::new();
    let Some(launcher) = workspace.on_small_disk() else {
        println!("this user may make no file system here: not tried");
        return;
    };
    let mut session = launcher.open(&Root::Owner).await.unwrap();
    session.write("before", b"x", None).await.unwrap();
    // In pieces, as one would fill a disk that is larger than what is written between two looks.
    let fill = "for i in $(seq 1000); do head -c 1M /dev/zero >> fill || exit; sleep 0.05; done";
    let ran = run_for(&mut session, fill, Duration::from_secs(30)).await;
    assert_eq!(ran.exit.ending, Ending::DiskFull, "{ran:?}");
    assert!(matches!(failure(session.write("after", b"x", None).await), Failure::NoSpace(_)));
    assert!(matches!(failure(session.append("before", b"x").await), Failure::NoSpace(_)));
    assert_eq!(session.read("before", 9).await.unwrap().bytes, b"x");
    run(&mut session, "sleep 0.5; rm fill; sleep 0.3; echo gone").await.says("gone");
    session.write("after", b"x", None).await.unwrap();
}

#[tokio::test]
async fn a_command_that_takes_all_inodes_is_ended() {
    let workspace = Workspace::new();
    let Some(launcher) = workspace.on_small_disk() else {
        println!("this user may make no file system here: not tried");
        return;
    };
    let mut session = launcher.open(&Root::Owner).await.unwrap();
    let fill = "python3 -c 'import time\nfor i in range(10**7):\n  open(str(i), \"w\").close()\n  if i % 200 == 0: time.sleep(0.05)'";
    let ran = run_for(&mut session, fill, Duration::from_secs(60)).await;
    assert_eq!(ran.exit.ending, Ending::DiskFull, "{ran:?}");
}
