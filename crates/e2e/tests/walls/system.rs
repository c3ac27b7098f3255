//! Reaching the machine's services, changing the machine, killing, and staying after the end.

use crate::attack::Attack;

/// Root leaves nothing of these behind.
pub const ATTACKS: &[Attack] = &[
    Attack::new("ask systemd", "systemctl show -p MainPID baal-agent.service 2>/dev/null | grep '=[1-9]' && breach"),
    Attack::untried("stop the server by systemctl", "systemctl stop baal-agent.service && breach; systemctl restart ssh && breach"),
    Attack::new("start a unit of the system", "systemd-run --quiet --wait true && breach"),
    Attack::untried("start a unit of the user", "XDG_RUNTIME_DIR=/run/user/$(id -u) systemd-run --user --quiet sleep 98761 && breach; loginctl enable-linger && breach")
        .checked("! test -e /var/lib/systemd/linger/baal-tools"),
    Attack::new(
        "connect to the sockets in /run",
        r#"python3 - <<'P'
import os, socket
paths = ["/run/systemd/private", "/run/systemd/journal/stdout", "/run/systemd/journal/socket", "/run/dbus/system_bus_socket",
    "/run/systemd/notify", "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock"]
paths += [os.path.join(d, f) for d, _, files in os.walk("/run") for f in files]
for path in paths:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try:
            socket.socket(socket.AF_UNIX, kind).connect(path)
            print("BRE" "ACH", path)
        except OSError as e: error = e
print(error)
P"#,
    ),
    Attack::new(
        "ask the launcher for another chat's files",
        "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/baal-tools.sock\"); print(\"BRE\" \"ACH\")'",
    ),
    Attack::new(
        "connect to an abstract socket",
        "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"\\0baal-e2e\"); print(\"BRE\" \"ACH\")'",
    )
    .prepared(
        "systemctl is-active -q e2e-abstract || systemd-run -q --unit=e2e-abstract python3 -c \
         'import socket, time; s = socket.socket(socket.AF_UNIX); s.bind(\"\\0baal-e2e\"); s.listen(); time.sleep(100000)'; sleep 0.3",
    ),
    Attack::untried("ask D-Bus", "busctl --no-pager list && breach; dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames && breach"),
    Attack::untried("write a cron job", "echo '* * * * * sleep 98761' | crontab - && breach; for f in /etc/cron.d/x /var/spool/cron/crontabs/baal-tools /etc/crontab /etc/cron.daily/x; do echo '* * * * * root sleep 98761' >> $f && breach $f; done")
        .checked("! crontab -u baal-tools -l && ! test -e /etc/cron.d/x && ! grep -q 98761 /etc/crontab"),
    Attack::untried("write an at job", "echo sleep 98761 | at now && breach; echo sleep 98761 | batch && breach").checked("test -z \"$(atq)\""),
    Attack::untried(
        "write where root looks",
        "for f in /etc/ld.so.preload /etc/passwd /etc/sudoers.d/x /etc/profile.d/x.sh /root/.ssh/authorized_keys /root/.bashrc \
         /usr/local/bin/baal-agent /usr/local/lib/baal/baal-tools.nft /etc/systemd/system/x.service /etc/tmpfiles.d/x.conf \
         /boot/x /opt/x /srv/x /var/lib/baal-agent/x /var/lib/baal-tools/x /usr/bin/x /var/spool/x /etc/hosts /run/x; do echo x >> $f && breach $f; done",
    ),
    Attack::untried("change the kernel's settings", "for f in /proc/sys/kernel/core_pattern /proc/sys/vm/overcommit_memory /proc/sysrq-trigger /sys/power/state; do echo 1 > $f && breach $f; done; dmesg | grep . && breach; sysctl -w kernel.hostname=x && breach"),
    Attack::untried("leave the cgroup", "for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name tasks -o -name memory.max -o -name pids.max -o -name memory.limit_in_bytes); do echo $$ > $f && breach $f; done; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/unified/x && breach"),
    Attack::untried(
        "kernel machinery with a history",
        r#"python3 - <<'P'
import ctypes
c = ctypes.CDLL(None, use_errno=True)
calls = {"io_uring_setup": 425, "bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "keyctl": 250, "add_key": 248,
    "kcmp": 312, "open_by_handle_at": 304, "mount": 165, "unshare": 272, "setns": 308, "init_module": 175, "kexec_load": 246,
    "clone3": 435, "fsopen": 430, "move_mount": 429, "swapon": 167, "acct": 163, "reboot": 169, "iopl": 172}
for name, number in calls.items():
    result = c.syscall(number, 0, 0, 0, 0, 0, 0)
    if result >= 0 or ctypes.get_errno() not in (1, 13, 38): print("BRE" "ACH", name, ctypes.get_errno())
P"#,
    ),
    Attack::untried("log in by a planted SSH key", "mkdir -p .ssh && chmod 700 . .ssh && rm -f .ssh/id && ssh-keygen -q -t ed25519 -N '' -f .ssh/id; python3 -c 'open(\".ssh/authorized_keys\", \"w\").write(open(\".ssh/id.pub\").read())'")
        .checked("key=$(ls /var/lib/baal-tools/workspace/owner/.ssh/id /var/lib/baal-guests/workspace/chats/*/.ssh/id 2>/dev/null | head -n 1); ! timeout 10 ssh -o BatchMode=yes -o StrictHostKeyChecking=no -i \"$key\" baal-tools@127.0.0.1 true"),
    Attack::untried("kill the server", "kill -9 {server}; kill -STOP {server}; python3 -c 'import os; os.kill({server}, 9)'; pkill -9 baal-agent"),
    Attack::untried("kill everything", "kill -9 -1; python3 -c 'import os; os.kill(-1, 9)'"),
    Attack::untried("kill the launcher", "setsid sleep 98761 & kill -9 $PPID; kill -9 -$PPID; python3 -c 'import os, signal; [os.kill(os.getppid(), s) for s in (19, 9)]'"),
    Attack::untried("kill by guessing every process", "python3 -c 'import os\nfor pid in range(1, 100000):\n  try: os.kill(pid, 9) if pid not in (os.getpid(), os.getppid()) else None\n  except OSError: pass'"),
    Attack::untried("outlive the turn: setsid, nohup", "setsid nohup sleep 98761 >/dev/null 2>&1 & (nohup sleep 98761 &) ; disown -a; true"),
    Attack::untried(
        "outlive the turn: a daemon",
        r#"python3 - <<'P'
import os, signal
for s in range(1, 32):
    try: signal.signal(s, signal.SIG_IGN)
    except OSError: pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        os.closerange(0, 1024)
        os.execvp("sleep", ["init", "98761"])
    os._exit(0)
P"#,
    ),
    Attack::untried("outlive the turn: a stopped process", "(sleep 98761 & kill -STOP $!); bash -c 'kill -STOP $$' & sleep 0.2"),
    Attack::untried("escape the process group", "set -m; sleep 98761 & bash -c 'trap \"\" TERM HUP INT; sleep 98761' & python3 -c 'import os; os.setpgid(0, 0); os.fork() or os.execvp(\"sleep\", [\"sleep\", \"98761\"])' & sleep 0.3"),
    Attack::untried("outlive the time limit", "trap '' TERM HUP INT; setsid sleep 98761 & while :; do sleep 1; done").seconds(2),
    Attack::untried("planted shell start-up files, first half", "for f in .bashrc .bash_profile .profile .bash_login .bash_logout; do echo 'printf \"%s%s\\n\" BRE ACH; touch ran' > $f; done"),
    Attack::untried("planted shell start-up files, second half", "[ -e ran ] && breach; rm -f .bashrc .bash_profile .profile .bash_login .bash_logout ran"),
];
