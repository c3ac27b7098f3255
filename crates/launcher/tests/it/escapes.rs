//! What a hostile command tries.

use crate::session::{CHAT, Workspace, run, run_as_owner};
use baal_launcher::Root;
use baal_launcher::client::Session;
use baal_launcher::wire::Ending;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A workspace with secrets around it: beside the base, in another chat's directory and in the owner's.
fn besieged() -> Workspace {
    let workspace = Workspace::new();
    let directory = workspace.outside().join("elsewhere");
    for place in [&directory, &workspace.of(Root::Owner), &workspace.of(Root::Chat([9; 16]))] {
        fs::create_dir_all(place).unwrap();
        fs::write(place.join("secret"), "SECRET").unwrap();
        fs::set_permissions(place.join("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    workspace
}

/// None of these works, and none tells a secret.
async fn all_fail(session: &mut Session, commands: &[impl AsRef<str>]) {
    let mut worked = Vec::new();
    for command in commands {
        let ran = run(session, command.as_ref()).await;
        if !matches!(ran.exit.ending, Ending::Code(1..)) || ran.output.contains("SECRET") {
            worked.push(command.as_ref());
        }
    }
    assert!(worked.is_empty(), "these worked: {worked:#?}");
}

#[tokio::test]
async fn nothing_outside_of_the_root_is_read() {
    let workspace = besieged();
    let mut session = workspace.open(CHAT).await;
    let (base, elsewhere) = (workspace.base(), workspace.outside().join("elsewhere"));
    let (base, elsewhere) = (base.display(), elsewhere.display());
    all_fail(&mut session, &[
        format!("cat {elsewhere}/secret"),
        format!("cat {base}/owner/secret"),
        "cat ../../owner/secret".into(),
        "cat ../09090909090909090909090909090909/secret".into(),
        format!("ls {base}"),
        "ls ..".into(),
        "ls /".into(),
        "ls /root".into(),
        "ls /home".into(),
        "ls /var/lib".into(),
        "ls /tmp".into(),
        "cat /etc/shadow".into(),
        "ls /etc/ssh".into(),
        "ls /etc/systemd/system".into(),
        "ls /run".into(),
        "ls /etc".into(),
        format!("ln -s {elsewhere}/secret link && cat link"),
        format!("ln {elsewhere}/secret hard && cat hard"),
        format!("cp {base}/owner/secret mine && cat mine"),
        format!("mv {base}/owner/secret mine && cat mine"),
        format!("ln -s {base}/owner owner && cat owner/secret"),
        format!("cat /proc/self/root{elsewhere}/secret"),
        "cat /proc/self/cwd/../../owner/secret".into(),
        format!("cat /proc/{}/root{elsewhere}/secret", std::process::id()),
        format!("cat /dev/fd/../root{elsewhere}/secret"),
        format!("python3 -c 'import os; os.chdir(\"{elsewhere}\"); print(open(\"secret\").read())'"),
        format!(
            "python3 -c 'import os; d=os.open(\"{elsewhere}\",os.O_PATH); print(open(os.open(\"secret\",os.O_RDONLY,dir_fd=d)).read())'"
        ),
        format!("bash -p -c 'cat {elsewhere}/secret'"),
        format!("source {elsewhere}/secret 2>&1 || exit 1"),
    ]).await;
}

#[tokio::test]
async fn nothing_outside_of_the_root_is_written() {
    let workspace = besieged();
    let mut session = workspace.open(Root::Owner).await;
    let (base, elsewhere) = (workspace.base(), workspace.outside().join("elsewhere"));
    let (base, elsewhere) = (base.display(), elsewhere.display());
    all_fail(
        &mut session,
        &[
            format!("echo x > {elsewhere}/new"),
            format!("echo x >> {elsewhere}/secret"),
            format!(": > {elsewhere}/secret"),
            format!("truncate -s 0 {elsewhere}/secret"),
            format!("python3 -c 'import os; os.truncate(\"{elsewhere}/secret\", 0)'"),
            format!("rm -f {elsewhere}/secret"),
            format!("mv -f {elsewhere}/secret {elsewhere}/other"),
            format!("mkdir {elsewhere}/d"),
            format!("mkdir {base}/chats/0"),
            format!("mkdir {base}/d"),
            format!("mkfifo {elsewhere}/f"),
            format!("echo x > f && ln f {elsewhere}/f"),
            format!("touch g && mv g {elsewhere}/g"),
            format!("touch h && cp h /tmp/baal-{}", std::process::id()),
            "echo x > /dev/shm/baal-test".into(),
            "echo '#' > /etc/cron.d/baal-test".into(),
            "echo '* * * * * true' | crontab -".into(),
            "echo '#' > /var/spool/cron/crontabs/baal-test".into(),
            "echo x > /usr/local/bin/baal-test".into(),
            ": >> /proc/sys/kernel/core_uses_pid".into(),
            "echo 900 > /proc/self/oom_score_adj".into(),
            "echo 0 > /sys/fs/cgroup/cgroup.procs".into(),
            "echo 0 > /sys/fs/cgroup/unified/cgroup.procs".into(),
            "echo x > /run/baal-test".into(),
            "mknod n c 1 3".into(),
        ],
    )
    .await;
    assert_eq!(fs::read_to_string(workspace.outside().join("elsewhere/secret")).unwrap(), "SECRET");
}

#[tokio::test]
async fn a_visitor_sees_no_processes_and_the_owner_no_more_than_their_names() {
    let workspace = Workspace::new();
    let launcher = "launcher=$(python3 -c 'import os; print(os.getppid())'); launcher=$PPID";
    let mut visitor = workspace.open(CHAT).await;
    run(&mut visitor, "ls /proc").await.fails();
    for file in ["cmdline", "environ", "status", "maps", "mem", "fd/0"] {
        run(&mut visitor, &format!("{launcher}; cat /proc/$launcher/{file}")).await.fails();
    }
    let mut owner = workspace.open(Root::Owner).await;
    run(&mut owner, "ls /proc > /dev/null").await.says("");
    let agent = std::process::id();
    for file in ["environ", "maps", "mem", "fd/0", "root/etc/passwd", "cwd/Cargo.toml"] {
        run(&mut owner, &format!("{launcher}; cat /proc/$launcher/{file}")).await.fails();
        run(&mut owner, &format!("cat /proc/{agent}/{file}")).await.fails();
    }
}

/// Makes system calls by number, where no program does; prints the error's name for each.
async fn system_calls(calls: &str) -> String {
    system_calls_in(Root::Owner, calls).await
}

async fn system_calls_in(root: Root, calls: &str) -> String {
    let script = format!(
        "import ctypes, errno, mmap\nlibc = ctypes.CDLL(None, use_errno=True)\n\
         def call(*a):\n r = libc.syscall(*[ctypes.c_long(x) for x in a])\n \
         print(errno.errorcode[ctypes.get_errno()] if r < 0 else 'DONE', end=' ')\n{calls}"
    );
    let workspace = Workspace::new();
    let mut session = workspace.open(root).await;
    session.write("calls.py", script.as_bytes(), None).await.unwrap();
    let ran = run(&mut session, "/usr/bin/python3 calls.py 2>&1").await;
    assert_eq!(ran.code(), 0, "{ran:?}");
    ran.output.trim().to_owned()
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn dangerous_system_calls_are_refused() {
    let forbidden = [
        "101, 0, 0, 0, 0",            // ptrace
        "310, 1, 0, 0, 0, 0, 0",      // process_vm_readv
        "272, 0x10000000",            // unshare
        "308, 0, 0",                  // setns
        "56, 0x10000011, 0, 0, 0, 0", // clone with a user namespace
        "56, 0x20011, 0, 0, 0, 0",    // clone with a mount namespace
        "165, 0, 0, 0, 0, 0",         // mount
        "166, 0, 0",                  // umount2
        "155, 0, 0",                  // pivot_root
        "161, 0",                     // chroot
        "321, 0, 0, 0",               // bpf
        "298, 0, 0, 0, 0, 0",         // perf_event_open
        "323, 1",                     // userfaultfd
        "250, 0, 0, 0, 0, 0",         // keyctl
        "304, 0, 0, 0",               // open_by_handle_at
        "438, 0, 0, 0",               // pidfd_getfd
        "135, 0x40000",               // personality: no address randomization
        "29, 0, 4096, 0x1b6",         // shmget
        "240, 0, 0, 0, 0",            // mq_open
        "302, 1, 0, 0, 0",            // prlimit64 of another process
        "41, 1, 1, 0",                // socket: Unix
        "41, 17, 3, 0",               // packet
        "41, 16, 3, 0",               // netlink
        "41, 2, 1, 262",              // MPTCP
        "41, 2, 5, 0",                // SCTP
        "41, 2, 3, 6",                // raw
        "41, 2 | 1 << 40, 1, 262",    // the same with bits that the kernel ignores
        "53, 1, 2, 0, 0",             // socketpair: datagrams
        "53, 40, 1, 0, 0",            // socketpair: VSOCK
        "53, 30, 5, 0, 0",            // socketpair: TIPC
        "50, 0, 1",                   // listen
        "16, 1, 0x5412, 0",           // ioctl TIOCSTI
        "72, 1, 8, 1",                // fcntl F_SETOWN
        "62, -1, 0",                  // kill: everybody
        "141, 2, 0, 15",              // setpriority: all of the user's
        "251, 3, 0, 0",               // ioprio_set: all of the user's
    ];
    let calls: String = forbidden.iter().map(|call| format!("call({call})\n")).collect();
    let expected = vec!["EPERM"; forbidden.len()].join(" ");
    assert_eq!(system_calls(&calls).await, expected);
    assert_eq!(
        system_calls("call(435, 0, 0)\ncall(425, 8, 0)\ncall(206, 8, 0)\n").await,
        "ENOSYS ENOSYS ENOSYS",
        "clone3, io_uring_setup, io_setup"
    );
    let xattr = "call(190, 0, 0, 0, 0, 0)\ncall(199, 0, 0)";
    assert_eq!(system_calls(xattr).await, "ENOTSUP ENOTSUP", "fsetxattr, fremovexattr");
    let watch = "call(253)\ncall(294, 0)\ncall(254, 0, 0, 0)";
    assert_eq!(system_calls_in(CHAT, watch).await, "ENOSYS ENOSYS ENOSYS", "inotify");
    assert_eq!(system_calls("call(41, 2, 1, 0)\ncall(41, 10, 2, 17)\ncall(135, 0xffffffff)").await, "DONE DONE DONE");
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_by_another_numbering_end_the_process() {
    // getpid as x32 has it; without the filter this kernel would say ENOSYS or do it.
    let ran = run_as_owner(
        "/usr/bin/python3 -c 'import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39); print(1)'; echo $?",
    )
    .await;
    assert_eq!(ran.output.lines().last(), Some("159"), "{ran:?}");
}

#[tokio::test]
async fn the_launcher_cannot_be_harmed() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    all_fail(&mut session, &[
        "kill -9 $PPID",
        "kill -STOP $PPID",
        "kill -9 -$PPID",
        "kill -9 -1",
        "python3 -c 'import os; os.pidfd_open(os.getppid())' \"$PPID\" && exec python3 -c \"import os; os.pidfd_open($PPID)\"",
        "exec python3 -c \"import resource; resource.prlimit($PPID, resource.RLIMIT_CPU, (0, 0))\"",
        "exec python3 -c \"import os; os.sched_setaffinity($PPID, {0})\"",
        "exec python3 -c \"import os; os.setpriority(os.PRIO_PROCESS, $PPID, 15)\"",
        "exec python3 -c \"import os; os.setpriority(os.PRIO_USER, os.getuid(), 15)\"",
        "exec python3 -c \"import os; os.setpriority(os.PRIO_PGRP, 0, 15)\"",
        "ionice -c 3 -p $PPID",
        "ionice -c 3 -u $(id -u)",
    ]).await;
    // Its own it may.
    run(&mut session, "nice -n 3 ionice -c 3 taskset 1 echo nice").await.says("nice");
    run(&mut session, "kill -0 $$ && echo alive").await.says("alive");
}

#[tokio::test]
async fn no_file_lends_an_identity() {
    run_as_owner("touch f; chmod 4755 f").await.fails();
    run_as_owner("mkdir d; chmod g+s d").await.fails();
    run_as_owner("python3 -c 'import os; os.open(\"f\", os.O_CREAT | os.O_WRONLY, 0o4755)'").await.fails();
    run_as_owner("python3 -c 'import os; os.mknod(\"f\", 0o104755)'").await.fails();
    run_as_owner("touch f; chmod 755 f; install -m 700 f g; stat -c %a f g | xargs").await.says("755 700");
}

#[tokio::test]
async fn no_port_of_the_machine_is_taken() {
    let workspace = Workspace::new();
    for (root, udp) in [(Root::Owner, "bound"), (CHAT, "PermissionError")] {
        let session = &mut workspace.open(root).await;
        for (kind, expected) in [("STREAM", "PermissionError"), ("DGRAM", udp)] {
            let bind = format!(
                "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_{kind})
try: s.bind((\"127.0.0.1\", 0)); print(\"bound\")
except OSError as e: print(type(e).__name__)"
            );
            run(session, &format!("python3 -c '{bind}'")).await.says(expected);
        }
    }
}

#[tokio::test]
async fn setuid_programs_gain_nothing_and_no_capability_is_left() {
    run_as_owner("grep -E 'NoNewPrivs|Seccomp:|CapEff|CapPrm|CapAmb' /proc/self/status | tr -d '\\t' | xargs")
        .await
        .says("CapPrm:0000000000000000 CapEff:0000000000000000 CapAmb:0000000000000000 NoNewPrivs:1 Seccomp:2");
    run_as_owner("unshare -U true").await.fails();
    run_as_owner("unshare -m true").await.fails();
    run_as_owner("mount -t tmpfs none .").await.fails();
    run_as_owner("su -c true 2>&1 < /dev/null").await.fails();
}

#[tokio::test]
async fn space_cannot_be_taken_at_one_blow() {
    run_as_owner("fallocate -l 1M f").await.fails();
    run_as_owner("touch f; python3 -c 'import os; os.setxattr(\"f\", \"user.a\", b\"1\")'").await.fails();
    // The C library writes zeros instead.
    run_as_owner(
        "python3 -c 'import os; os.posix_fallocate(os.open(\"f\", os.O_CREAT|os.O_RDWR), 0, 100000)'; stat -c %s f",
    )
    .await
    .says("100000");
}

#[tokio::test]
async fn limits_hold() {
    let ran = run_as_owner("ulimit -c; ulimit -f; ulimit -n; ulimit -H -n").await;
    ran.says("0\n1048576\n1024\n1024");
    run_as_owner("head -c 1100M /dev/zero > f").await.fails();
    run_as_owner("python3 -c 'bytearray(1 << 45)'").await.fails();
}
