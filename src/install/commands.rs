//! The commands that machines run: fixed texts, with nothing in them but hashes, checked names and numbers.

use std::time::Duration;

use uuid::Uuid;

use super::archive::LAST;
use super::caddyfile::SiteName;
use crate::ssh::Command;

/// The installer's status where the program must be sent first.
pub(super) const PROGRAM_WANTED: u32 = 70;
/// The installer's status where it put back what was healthy before.
pub(super) const RESTORED: u32 = 76;
/// The status where the machine carries another machine's mark; nothing was changed.
pub(super) const FOREIGN: u32 = 78;
/// The status of `web.sh` where no authority gave a certificate.
pub(super) const NO_CERTIFICATE: u32 = 77;

/// The first boot installs packages.
const FIRST_BOOT: Duration = Duration::from_secs(600);
/// Packages from a slow archive, another installation that is at work for five minutes, and a certificate.
const PREPARE: Duration = Duration::from_secs(1_200);
/// The new one stops, starts, and is waited for, and then perhaps the old one, after another installation.
const INSTALL: Duration = Duration::from_secs(600);
/// As well as that, the Python agent ends its turns, and its files are copied.
const TAKE_OVER: Duration = Duration::from_secs(1_200);
/// The agent ends its turns, after another installation.
const HALT: Duration = Duration::from_secs(420);
/// Ten megabytes over a slow line.
const UPLOAD: Duration = Duration::from_secs(300);
/// How long Caddy gets for a certificate: from an authority, and from a file.
const ACME_SECONDS: u32 = 180;
const GIVEN_SECONDS: u32 = 20;

/// Prints what cloud-init says in the end, nothing where there is none or all was well. Its status 2 means that it is done and
/// something was not as it should be (<https://docs.cloud-init.io/en/latest/explanation/failure_states.html>).
pub(super) fn first_boot() -> Command {
    let script = "command -v cloud-init >/dev/null || exit 0
cloud-init status --wait >/dev/null 2>&1 || cloud-init status --long || true"
        .to_owned();
    Command { what: "waiting for the first boot", script, input: Vec::new(), limit: FIRST_BOOT, secrets: Vec::new() }
}

/// Receives the program on standard input and stages it, once it is complete.
pub(super) fn stage(sha256: &str, program: Vec<u8>) -> Command {
    let script = format!(
        r#"set -eu
umask 077
mkdir -p /var/lib/baal/staged
find /var/lib/baal/staged -name 'baal-agent.*' -mmin +60 -delete
new=$(mktemp /var/lib/baal/staged/baal-agent.XXXXXXXX)
trap 'rm -f "$new"' EXIT
cat >"$new"
[ "$(sha256sum <"$new")" = '{sha256}  -' ] || {{ echo 'the program was damaged or cut off on its way' >&2; exit 1; }}
chmod 700 "$new"
sync "$new"
mv -f -T "$new" /var/lib/baal/staged/baal-agent
"#
    );
    Command { what: "sending the agent's program", script, input: program, limit: UPLOAD, secrets: Vec::new() }
}

/// Whose machine it is: the id of its row, in a file that is written before anything else is and that only root sees. A compute
/// node may name another machine's address as an instance's, and two installations may share a key: what carries another id is
/// left alone.
///
/// Of two that come at once only one makes the link, and what it leads to is whole.
const CLAIM: &str = r#"mkdir -p -m 700 /var/lib/baal
if [ ! -e /var/lib/baal/vm ]; then
  new=$(mktemp /var/lib/baal/vm.XXXXXXXX)
  echo "$vm" >"$new"
  { sync "$new" && ln -T "$new" /var/lib/baal/vm; } 2>/dev/null || [ -e /var/lib/baal/vm ]
  rm -f /var/lib/baal/vm.*
fi
"#;

/// Runs this on a machine that is nobody's but `vm`'s, with an archive unpacked into a directory of root's, `$dir`, which is gone
/// afterwards. In memory (/run), because the configuration holds keys.
///
/// Directories whose scripts were killed are removed: a lock on each, which all its processes inherit, tells who is at work.
fn with_archive(what: &'static str, vm: Uuid, claim: &str, archive: Vec<u8>, limit: Duration, body: &str) -> Command {
    let script = format!(
        r#"set -eu
umask 077
vm='{vm}'
{claim}if [ -e /var/lib/baal/vm ] && [ "$(head -c 100 /var/lib/baal/vm)" != "$vm" ]; then
  echo 'the machine carries the mark of another one' >&2
  exit {FOREIGN}
fi
exec 7>/run/baal-unpack.lock
flock -w 60 7
for left in /run/baal-unpacked.*; do
  [ -d "$left" ] || continue
  if flock -n "$left" true; then rm -rf "$left"; fi
done
dir=$(mktemp -d /run/baal-unpacked.XXXXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
exec 8<"$dir"
flock 8
exec 7>&-
tar -xz --no-same-owner -C "$dir"
[ -f "$dir/{LAST}" ] || {{ echo 'the files were cut off on their way' >&2; exit 1; }}
{body}
"#
    );
    Command { what, script, input: archive, limit, secrets: Vec::new() }
}

/// Everything but a configuration.
pub(super) fn prepare(vm: Uuid, sha256: &str, name: &SiteName, given: bool, roots: bool, archive: Vec<u8>) -> Command {
    let kind = match name {
        SiteName::Host(_) => "host",
        SiteName::Ip(_) => "ip",
    };
    let mut web = format!(r#"bash "$dir/web.sh" --{kind} '{}' --caddyfile "$dir/Caddyfile""#, name.bare());
    if given {
        web += &format!(r#" --site-pem "$dir/site.pem" --ca "$dir/ca.pem" --wait {GIVEN_SECONDS}"#);
    } else {
        web += &format!(" --wait {ACME_SECONDS}");
    }
    if roots {
        web += r#" --roots "$dir/ca.pem""#;
    }
    let body = format!("bash \"$dir/install.sh\" --sha256 {sha256} --package caddy\n{web}");
    with_archive("preparing the machine", vm, CLAIM, archive, PREPARE, &body)
}

/// Program and configuration.
pub(super) fn install(vm: Uuid, sha256: &str, archive: Vec<u8>) -> Command {
    let body = format!(r#"bash "$dir/install.sh" --sha256 {sha256} --config "$dir/config.json""#);
    with_archive("installing the agent", vm, CLAIM, archive, INSTALL, &body)
}

/// The same, where the Python system's agent may run, which becomes ours.
pub(super) fn take_over(vm: Uuid, sha256: &str, archive: Vec<u8>) -> Command {
    let body = format!(r#"bash "$dir/install.sh" --sha256 {sha256} --config "$dir/config.json" --take-over"#);
    with_archive("taking over the agent", vm, CLAIM, archive, TAKE_OVER, &body)
}

/// The Python system's agent as it was before that.
pub(super) fn give_back(vm: Uuid, archive: Vec<u8>) -> Command {
    let body = r#"bash "$dir/takeover.sh" --give-back"#;
    with_archive("giving the agent back", vm, CLAIM, archive, TAKE_OVER, body)
}

/// The agent stopped, until the next installation: it is not started by a boot either. After an installation that is at work.
pub(super) fn halt(vm: Uuid) -> Command {
    let script = format!(
        r#"set -eu
if [ -e /var/lib/baal/vm ] && [ "$(head -c 100 /var/lib/baal/vm)" != '{vm}' ]; then
  echo 'the machine carries the mark of another one' >&2
  exit {FOREIGN}
fi
exec 9>/run/baal-install.lock
flock -w 300 9 || {{ echo 'an installation has been at work for five minutes' >&2; exit 1; }}
# Where it was never installed nothing runs.
[ -e /etc/systemd/system/baal-agent.service ] || exit 0
systemctl disable --quiet --now baal-agent.service
"#
    );
    Command { what: "stopping the agent", script, input: Vec::new(), limit: HALT, secrets: Vec::new() }
}

/// Everything of ours away, the machine's mark too. An installation that still waits for its turn has nothing to install then.
pub(super) fn wipe(vm: Uuid, archive: Vec<u8>) -> Command {
    let body = r#"find /run -maxdepth 1 -name 'baal-unpacked.*' ! -path "$dir" -exec rm -rf {} +
bash "$dir/web.sh" --remove
bash "$dir/uninstall.sh" --purge"#;
    with_archive("removing the agent", vm, "", archive, INSTALL, body)
}

#[cfg(test)]
mod tests;
