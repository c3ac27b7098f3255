//! Reading what belongs to the server or to another chat, and becoming somebody else.

use crate::attack::Attack;

pub const ATTACKS: &[Attack] = &[
    Attack::new("read the configuration with the key", "cat /var/lib/baal-agent/config.json"),
    Attack::new("read the database", "grep -aoh 'CANARY-[a-z0-9]*' /var/lib/baal-agent/agent.db*"),
    Attack::new("list the server's directory", "ls -A /var/lib/baal-agent | grep . && breach"),
    Attack::new(
        "search the disk for keys",
        "timeout 25 grep -rIhos -m 1 'key-[0-9a-f]\\{32\\}' /etc /home /opt /root /run /srv /tmp /var",
    ),
    Attack::new("/proc of the server: environ", "tr '\\0' '\\n' < /proc/{server}/environ | grep . && breach"),
    Attack::new("/proc of the server: maps", "grep . /proc/{server}/maps && breach"),
    Attack::new(
        "/proc of the server: mem",
        r#"python3 - <<'P'
import re
maps = [line.split()[:2] for line in open("/proc/{server}/maps")]
memory = open("/proc/{server}/mem", "rb")
for span, mode in maps:
    if mode.startswith("rw"):
        low, high = (int(n, 16) for n in span.split("-"))
        memory.seek(low)
        for found in re.findall(rb"key-[0-9a-f]{32}", memory.read(min(high - low, 1 << 24)))[:1]:
            print(found.decode())
P"#,
    ),
    Attack::new("/proc of the server: fd", "ls -l /proc/{server}/fd | grep . && breach"),
    Attack::new("/proc of the server: root and cwd", "cat /proc/{server}/root/var/lib/baal-agent/config.json"),
    Attack::new("/proc of every process: environ", "cat /proc/1/environ && breach; cat /proc/$PPID/environ && breach"),
    Attack::new(
        "ptrace the server",
        "python3 -c 'import ctypes; c = ctypes.CDLL(None, use_errno=True); print(\"BRE\" \"ACH\" if c.ptrace(16902, {server}, 0, 0) == 0 else ctypes.get_errno())'",
    ),
    Attack::new(
        "process_vm_readv of the server",
        r#"python3 - <<'P'
import ctypes
c = ctypes.CDLL(None, use_errno=True)
class V(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
try: start = int(open("/proc/{server}/maps").readline().split("-")[0], 16)
except OSError: start = 0x400000
mine = ctypes.create_string_buffer(16)
n = c.process_vm_readv({server}, ctypes.byref(V(ctypes.addressof(mine), 16)), 1, ctypes.byref(V(start, 16)), 1, 0)
print("BRE" "ACH" if n > 0 else ctypes.get_errno())
P"#,
    ),
    Attack::new(
        "pidfd_getfd of the server",
        r#"python3 - <<'P'
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
handle = c.syscall(434, {server}, 0)
print("BRE" "ACH" if any(c.syscall(438, handle, fd, 0) >= 0 for fd in range(20)) else ctypes.get_errno())
P"#,
    ),
    Attack::new("another chat's file, by name", "cat {victim}"),
    Attack::new(
        "another chat's file, by ..",
        "cd .. && cat */private.txt */*/private.txt ../*/private.txt ../*/*/private.txt",
    ),
    Attack::new("the names of other chats", "ls .. | grep . && breach"),
    Attack::new("another chat's file, by symbolic link", "ln -sf {victim} link; cat link; rm -f link"),
    // The owner's and the visitors' directories are different mounts here, so root would fail as well.
    Attack::untried("another chat's file, by hard link", "ln {victim} hard; cat hard; rm -f hard"),
    Attack::new("another chat's file, by /proc/self/root", "cat /proc/self/root{victim}"),
    Attack::new(
        "another chat's file, by /proc/self/cwd",
        "cat /proc/self/cwd/../../*/private.txt /proc/self/cwd/../*/*/private.txt /proc/self/cwd/../*/private.txt",
    ),
    Attack::untried(
        "another chat's file, by an open descriptor",
        "for fd in /proc/self/fd/*; do [ -d \"$fd/\" ] && ls \"$fd/\" \"$fd/..\" && breach \"$fd\"; done; ls /proc/self/fd/ | grep -vx '[0-3]' && breach",
    ),
    Attack::untried(
        "another chat's file, by bind mount",
        "mkdir -p m && mount --bind \"$(dirname {victim})\" m && cat m/private.txt; rmdir m",
    ),
    Attack::untried(
        "another chat's file, from a user namespace",
        "unshare -Urm cat {victim}; unshare -Ur cat {victim} && breach; unshare -Upf true && breach",
    ),
    Attack::untried(
        "another chat's file, by chroot",
        "chroot \"$(dirname {victim})\" true && breach; cd \"$(dirname {victim})\" && cat private.txt",
    ),
    Attack::new("another chat's file, by moving it", "mv {victim} mine && cat mine; mv mine {victim}")
        .checked("test -e {victim}"),
    Attack::new(
        "another chat's file, by handle",
        r#"python3 - <<'P'
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
class H(ctypes.Structure): _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_char * 128)]
handle, mount = H(128, 0), ctypes.c_int()
if c.name_to_handle_at(-100, b"{victim}", ctypes.byref(handle), ctypes.byref(mount), 0) == 0: print("BRE" "ACH")
print(ctypes.get_errno())
P"#,
    ),
    Attack::untried("write into another chat's file", "echo stolen >> {victim} && breach")
        .checked("! grep -q stolen {victim}"),
    Attack::untried("delete another chat's file", "rm -rf \"$(dirname {victim})\"; rm -f {victim}")
        .checked("test -e {victim}"),
    // As another user: the directory above stays closed, whatever the modes below.
    Attack::untried(
        "open the workspaces to all",
        "chmod 777 . .. ../.. \"$(dirname {victim})\" {victim} /var/lib/baal-tools",
    )
    .checked("r=0; setpriv --reuid nobody --regid nogroup --clear-groups cat {victim} && r=1; chmod 600 {victim}; chmod 700 \"$(dirname {victim})\" /var/lib/baal-{tools,guests}/workspace; [ $r = 0 ]"),
    Attack::untried(
        "spoil another chat's file by its mode, owner or time",
        "chmod 000 {victim} && breach; chmod 000 \"$(dirname {victim})\" && breach; touch -d 2001-01-01 {victim} && breach; \
         chown :$(id -g) {victim} && breach; setfattr -n user.x -v x {victim} 2>/dev/null && breach; true",
    )
    .checked("[ \"$(stat -c %a {victim} \"$(dirname {victim})\" | paste -sd ' ')\" = '600 700' ]")
    .visitors_only(),
    Attack::untried(
        "notes of another chat in /tmp and /dev/shm",
        "for d in /tmp /var/tmp /dev/shm; do echo note > $d/note-of-$$; ls -A $d | grep note-of | grep -v note-of-$$ && breach $d; done; true",
    ),
    Attack::new("become root: sudo", "[ \"$(sudo -n id -u)\" = 0 ] && breach"),
    Attack::new("become root: su", "[ \"$(su -c 'id -u' </dev/null)\" = 0 ] && breach"),
    Attack::new(
        "become root: newgrp, sg, passwd",
        "[ \"$(sg root -c 'id -g' </dev/null)\" = 0 ] && breach; printf 'x\\nx\\n' | passwd 2>&1 | grep -i updated && breach",
    ),
    Attack::new(
        "become root: setuid(2) and capabilities",
        "python3 -c 'import os; os.setuid(0)' && breach; grep -E '^Cap(Eff|Prm): +0*[1-9a-f]' /proc/self/status && breach; grep 'NoNewPrivs:.0' /proc/self/status && breach",
    ),
    Attack::untried(
        "leave a setuid program for others",
        "cp /bin/sh s && chmod 6755 s && chmod 755 . .. ../..; ls -l s",
    )
    .checked(
        "for s in /var/lib/baal-tools/workspace/owner/s /var/lib/baal-guests/workspace/chats/*/s; do [ ! -e $s ] || ! setpriv --reuid nobody \
         --regid nogroup --clear-groups sh -c '\"$0\" -c id' $s || exit 1; rm -f $s; done; chmod 700 /var/lib/baal-{tools,guests}/workspace",
    ),
    Attack::untried("make a device node", "mknod disk b 8 0 && breach; mknod zero c 1 5 && breach; rm -f disk zero"),
    Attack::new("read the password hashes", "grep -q . /etc/shadow && breach"),
    Attack::new(
        "read the unit files",
        "cat /etc/systemd/system/baal-agent.service /etc/systemd/system/baal-tools@.service && breach",
    ),
    Attack::new("read the host's SSH keys", "cat /etc/ssh/ssh_host_*_key && breach"),
    Attack::new(
        "read the journal",
        "journalctl -n 5 --no-pager 2>/dev/null | grep baal && breach; ls /var/log/journal /run/log/journal && breach",
    ),
    Attack::untried(
        "find secrets in the environment",
        "env | grep -iE 'key|secret|token|password|credential' && breach; true",
    ),
];
