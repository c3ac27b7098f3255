//! A disk that fills up. That needs a small file system of its own, in namespaces; the decisions themselves are tested
//! with `space`.

use crate::session::{CHAT, Workspace, failure, run, run_for};
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

#[tokio::test]
async fn a_visitor_cannot_hide_what_fills_its_directory() {
    let workspace = Workspace::new();
    let mut session = workspace.open(CHAT).await;
    let hide = "mkdir -m 300 d; for i in 1 2 3; do head -c 50M /dev/zero > d/$i; done; sleep 10";
    assert_eq!(run(&mut session, hide).await.exit.ending, Ending::QuotaFull);
    assert!(matches!(failure(session.write("after", b"x", None).await), Failure::NoSpace(_)));
    // Above the quota nothing more is written, wherever it is, but one may tidy up.
    run(&mut session, "head -c 1M /dev/zero > z").await.fails_by_size();
    run(&mut session, "[ ! -s z ] && rm -r z d && sleep 1.5 && echo gone").await.says("gone");
    session.write("after", b"x", None).await.unwrap();
    run(&mut session, "head -c 1M /dev/zero > z && echo written").await.says("written");
}

#[tokio::test]
async fn a_visitor_above_its_number_of_files_makes_no_more() {
    let workspace = Workspace::new();
    let mut session = workspace.open(CHAT).await;
    let fill =
        "python3 -c 'import time\nfor i in range(30000): open(f\"{time.time_ns()}\", \"w\").close()\ntime.sleep(30)'";
    for _ in 0..2 {
        assert_eq!(run_for(&mut session, fill, Duration::from_secs(60)).await.exit.ending, Ending::QuotaFull);
    }
}
