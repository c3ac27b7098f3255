//! However a command ends, nothing that it started is alive when that is told.

use crate::session::{CHAT, Workspace, alive, run, run_for, until};
use baal_launcher::Root;
use baal_launcher::client::Session;
use baal_launcher::wire::{Ending, Exit};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A number of seconds to sleep that no other test and no other run sleeps, to know the process by.
fn mark() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("3{:05}.{:06}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id())
}

/// Runs a command, and stops it as soon as the sleeper is there.
async fn cancel_once_asleep(session: &mut Session, command: &str, mark: &str) -> Exit {
    let (sender, _receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let stopping = async {
        until("the sleeper is there", || alive(&format!("sleep\0{mark}"))).await;
        stop.cancel();
    };
    let (exit, ()) = tokio::join!(session.bash(command, Duration::from_secs(60), sender, &stop), stopping);
    assert!(!alive(mark), "{command}");
    exit.unwrap()
}

#[tokio::test]
async fn the_time_runs_out() {
    let (workspace, mark) = (Workspace::new(), mark());
    let mut session = workspace.open(Root::Owner).await;
    let ran = run_for(&mut session, &format!("echo begun; sleep {mark}"), Duration::from_millis(400)).await;
    assert_eq!((ran.output.as_str(), ran.exit.ending), ("begun\n", Ending::TimedOut));
    assert!(!alive(&mark));
    assert!((400..10_000).contains(&ran.exit.elapsed_ms), "{:?}", ran.exit);
    run(&mut session, "echo again").await.says("again");
}

#[tokio::test]
async fn a_cancelled_command_leaves_nothing_whatever_it_did_to_stay() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    for command in [
        "sleep MARK",
        "sleep MARK & wait",
        "setsid sleep MARK & sleep 60",
        "setsid -f sleep MARK; sleep 60",
        "nohup sleep MARK > /dev/null 2>&1 & sleep 60",
        "trap '' HUP INT TERM QUIT; sleep MARK & while :; do sleep 1; done",
        "(setsid bash -c 'setsid bash -c \"sleep MARK & disown\" & disown' & disown) ; sleep 60",
        "sleep MARK & sleep 0.3; kill -STOP $!; sleep 60",
        "python3 -c 'import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0: os.execvp(\"sleep\",[\"sleep\",\"MARK\"])\n os._exit(0)\ntime.sleep(60)'",
    ] {
        let mark = mark();
        let exit = cancel_once_asleep(&mut session, &command.replace("MARK", &mark), &mark).await;
        assert_eq!(exit.ending, Ending::Cancelled, "{command}");
    }
    run(&mut session, "echo again").await.says("again");
}

#[tokio::test]
async fn what_stays_behind_ends_with_the_shell() {
    let (workspace, mark) = (Workspace::new(), mark());
    let mut session = workspace.open(Root::Owner).await;
    let command = format!("setsid -f sleep {mark}; sleep {mark} & disown; (while :; do echo noise; done) & echo done");
    let ran = run(&mut session, &command).await;
    assert_eq!(ran.exit.ending, Ending::Code(0));
    assert!(ran.output.contains("done"));
    assert!(!alive(&mark));
}

#[tokio::test]
async fn a_fork_bomb_ends() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    // Bounded for this machine's sake, also where root runs the tests, whom no RLIMIT_NPROC stops.
    let bomb = "ulimit -u 400; b() { [ $1 -gt 0 ] && { b $(($1-1)) & b $(($1-1)) & }; exec -a baal-bomb sleep 77.77; }; b 7; sleep 60";
    let ran = run_for(&mut session, bomb, Duration::from_secs(2)).await;
    assert_eq!(ran.exit.ending, Ending::TimedOut);
    assert!(!alive("baal-bomb"));
    run(&mut session, "echo again").await.says("again");
}

#[tokio::test]
async fn processes_that_fork_as_they_are_killed_end() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let runner = "import os,time
for i in range(3):
  if os.fork()==0:
    while True:
      os.setsid() if os.getsid(0)!=os.getpid() and os.getpgrp()!=os.getpid() else None
      if os.fork()!=0: os._exit(0)
time.sleep(60)";
    let ran = run_for(&mut session, &format!("python3 -c '{runner}' baal-runner"), Duration::from_secs(1)).await;
    assert_eq!(ran.exit.ending, Ending::TimedOut);
    assert!(!alive("baal-runner"));
}

#[tokio::test]
async fn a_dropped_session_ends_what_runs() {
    let (workspace, mark) = (Workspace::new(), mark());
    let mut session = workspace.open(Root::Owner).await;
    let (sender, _receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let command = format!("setsid sleep {mark} & sleep {mark}");
    tokio::select! {
        _ = session.bash(&command, Duration::from_secs(60), sender, &stop) => panic!("it ended"),
        () = until("the sleeper is there", || alive(&format!("sleep\0{mark}"))) => {}
    }
    assert!(session.list(".").await.is_err(), "a session left in the middle is of no use");
    drop(session);
    until("nothing is left", || !alive(&mark)).await;
}

#[tokio::test]
async fn calls_side_by_side_do_not_end_each_other() {
    let workspace = Workspace::new();
    let mut slow = workspace.open(Root::Owner).await;
    let mut quick = workspace.open(Root::Owner).await;
    let began = Instant::now();
    let (slow, ()) = tokio::join!(run(&mut slow, "sleep 1; echo slow"), async {
        for _ in 0..5 {
            run(&mut quick, "sleep 30 & echo quick").await.says("quick");
        }
    });
    slow.says("slow");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn the_launcher_ends_with_its_connection_and_leaves_no_temporary_files() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    run(&mut session, "mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c").await.says("");
    let mark = workspace.base().display().to_string();
    assert!(alive(&mark));
    drop(session);
    until("the launcher is gone", || !alive(&mark)).await;
    let left: Vec<_> = std::fs::read_dir(workspace.base().join("tmp")).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| entry.path().read_dir().unwrap().next().is_none()), "{left:?}");
    drop(workspace.open(Root::Owner).await);
    until("the launcher is gone", || !alive(&mark)).await;
    assert_eq!(std::fs::read_dir(workspace.base().join("tmp")).unwrap().count(), 1, "only the last one's");
}

/// A command's cgroup and the one above belong to its user, and chmod is nothing that Landlock knows. Without a cgroup of
/// its own there is nothing to close here, and the command ends all the same.
#[tokio::test]
async fn a_command_that_closes_its_cgroup_ends_like_others() {
    let (workspace, mark) = (Workspace::new(), mark());
    let mut session = workspace.open(Root::Owner).await;
    let close =
        "for base in /sys/fs/cgroup /sys/fs/cgroup/unified; do own=$base$(grep ^0:: /proc/self/cgroup | cut -c 4-)
        case $own in */call-*) chmod 000 $own/* $own ${own%/*}/cgroup.procs ${own%/*};; esac; done 2> /dev/null";
    for _ in 0..2 {
        let ran = run(&mut session, &format!("{close}; setsid -f sleep {mark}; echo closed")).await;
        ran.says("closed");
        assert!(!alive(&mark));
    }
}

/// Python changes the mode of an open directory, which a visitor may.
#[tokio::test]
async fn a_visitor_that_closes_its_directory_gets_its_result() {
    let workspace = Workspace::new();
    let mut session = workspace.open(CHAT).await;
    let close = "python3 -c 'import os; os.fchmod(os.open(\".\", os.O_RDONLY), 0)'";
    run(&mut session, &format!("echo before; {close}; sleep 2.5; echo after")).await.says("before\nafter");
    session.write("f", b"x", None).await.unwrap();
}
