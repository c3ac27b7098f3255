//! Using up what others need. The workspace is on a small disk that the server's database shares.

use crate::attack::Attack;

/// Room is left for the server, and the leftovers go.
const ROOM_LEFT: &str = "df -B1K --output=avail,iavail /var/lib/baal-agent | tail -n 1 | { read -r space inodes; \
     rm -rf /var/lib/baal-tools/workspace/owner/fill* /var/lib/baal-guests/workspace/chats/*/fill*; \
     echo \"left: $space KiB, $inodes inodes\"; [ \"$space\" -ge 8192 ] && [ \"$inodes\" -ge 200 ]; }";
/// The server's memory stays small, in KiB.
const SERVER_SMALL: &str = "rss=$(awk '/VmRSS/ {print $2}' /proc/$(systemctl show -p MainPID --value baal-agent.service)/status); \
     echo \"server: $rss KiB\"; [ \"$rss\" -le 65536 ]";

pub const ATTACKS: &[Attack] = &[
    Attack::untried("fill the disk: many files", "for i in $(seq 5000); do head -c 1M /dev/zero > fill$i || break; done; ls fill* | wc -l").seconds(60).checked(ROOM_LEFT),
    Attack::untried("fill the disk: one file", "yes > fill").seconds(60).checked(ROOM_LEFT),
    Attack::untried("fill the disk: fallocate", "fallocate -l 2900M fill && breach; for i in $(seq 300); do fallocate -l 10M fill$i; done; ls -s fill*").checked(ROOM_LEFT),
    Attack::untried("fill the disk: sparse files, then written", "truncate -s 10T fill && breach; for i in 1 2 3 4; do truncate -s 900M fill$i; dd if=/dev/zero of=fill$i bs=1M count=900 conv=notrunc 2>&1 | tail -n 1; done")
        .seconds(60)
        .checked(ROOM_LEFT),
    Attack::untried("fill the disk: deleted but open files", "python3 -c '\nimport os\nheld = []\nwhile True:\n  f = open(\"fill\", \"wb\"); os.unlink(\"fill\"); held.append(f)\n  for _ in range(20): f.write(bytes(1 << 20)); f.flush()'")
        .seconds(60)
        .checked(ROOM_LEFT),
    Attack::untried("use up the inodes", "mkdir -p fill; python3 -c 'for i in range(1000000): open(f\"fill/{i}\", \"w\").close()' 2>&1 | tail -n 1").seconds(120).checked(ROOM_LEFT),
    Attack::untried("fill /tmp and /dev/shm", "head -c 300M /dev/zero > /dev/shm/fill; head -c 300M /dev/zero > \"${TMPDIR:-/tmp}/fill\"; head -c 300M /dev/zero > /var/tmp/fill; ls -s /dev/shm/fill")
        .seconds(60)
        .checked("df -B1M --output=avail,target /dev/shm /tmp /run | tail -n 3 | { ! grep -E '^ *[0-9] '; }"),
    Attack::untried("fork bomb", "f() { f | f & }; f; sleep 5; echo still here").seconds(8),
    Attack::untried("fork bomb in sessions of its own", "python3 -c '\nimport os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass'").seconds(5),
    Attack::untried("memory bomb", "python3 -c '\nheld = []\nwhile True: held.append(bytearray(1 << 24))' 2>&1 | tail -n 1; tail /dev/zero").seconds(60),
    Attack::untried("memory bomb of many processes", "for i in $(seq 60); do python3 -c '\nimport time\nheld = [bytearray(b\"x\") * (1 << 20) for _ in range(200)]\ntime.sleep(20)' & done; wait").seconds(25),
    Attack::untried("take the processors", "for i in $(seq 16); do while :; do :; done & done; wait").seconds(5),
    Attack::untried("use up the connections", "python3 -c '\nimport socket\nheld = []\ntry:\n  while True: held.append(socket.socket())\nexcept OSError as e: print(len(held), e)'"),
    Attack::untried("flood the output", "yes 0123456789abcdef0123456789abcdef").seconds(5).checked(SERVER_SMALL),
    Attack::untried("flood the output with one line", "head -c 300M /dev/zero").seconds(20).checked(SERVER_SMALL),
];
