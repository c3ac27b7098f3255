//! The commands that machines run: fixed texts, with nothing in them but hashes, checked names and numbers.

use std::time::Duration;

use super::archive::LAST;
use super::caddyfile::SiteName;
use crate::ssh::Command;

/// The installer's status where the program must be sent first.
pub(super) const PROGRAM_WANTED: u32 = 70;
/// The installer's status where it put back what was healthy before.
pub(super) const RESTORED: u32 = 76;
/// The status of `web.sh` where no authority gave a certificate.
pub(super) const NO_CERTIFICATE: u32 = 77;

/// The first boot installs packages.
const FIRST_BOOT: Duration = Duration::from_secs(600);
/// Packages from a slow archive, another installation that is at work for five minutes, and a certificate.
const PREPARE: Duration = Duration::from_secs(1_200);
/// The new one stops, starts, and is waited for, and then perhaps the old one, after another installation.
const INSTALL: Duration = Duration::from_secs(600);
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
    Command { what: "waiting for the first boot", script, input: Vec::new(), limit: FIRST_BOOT }
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
    Command { what: "sending the agent's program", script, input: program, limit: UPLOAD }
}

/// Runs this with an archive unpacked into a directory of root's, `$dir`, which is gone afterwards. In memory (/run), because the
/// configuration holds keys.
fn with_archive(what: &'static str, archive: Vec<u8>, limit: Duration, body: &str) -> Command {
    let script = format!(
        r#"set -eu
umask 077
# What killed ones left.
find /run -maxdepth 1 -name 'baal-unpacked.*' -mmin +60 -exec rm -rf {{}} +
dir=$(mktemp -d /run/baal-unpacked.XXXXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
tar -xz --no-same-owner -C "$dir"
[ -f "$dir/{LAST}" ] || {{ echo 'the files were cut off on their way' >&2; exit 1; }}
{body}
"#
    );
    Command { what, script, input: archive, limit }
}

/// Everything but a configuration.
pub(super) fn prepare(sha256: &str, name: &SiteName, given: bool, roots: bool, archive: Vec<u8>) -> Command {
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
    with_archive("preparing the machine", archive, PREPARE, &body)
}

/// Program and configuration.
pub(super) fn install(sha256: &str, archive: Vec<u8>) -> Command {
    let body = format!(r#"bash "$dir/install.sh" --sha256 {sha256} --config "$dir/config.json""#);
    with_archive("installing the agent", archive, INSTALL, &body)
}

/// Everything of ours away.
pub(super) fn wipe(archive: Vec<u8>) -> Command {
    let body = r#"bash "$dir/web.sh" --remove
bash "$dir/uninstall.sh" --purge"#;
    with_archive("removing the agent", archive, INSTALL, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_the_same_whatever_is_installed() {
        let name = SiteName::parse("a-b.2n6.me:443").expect("a name");
        let command = prepare("ab12", &name, true, false, b"anything".to_vec());
        insta::assert_snapshot!(command.script);
        assert_eq!(command.input, b"anything");
        let address = SiteName::parse("[2001:db8::1]:443").expect("an address");
        assert!(
            prepare("ab12", &address, false, true, vec![]).script.contains(
                r#"web.sh" --ip '2001:db8::1' --caddyfile "$dir/Caddyfile" --wait 180 --roots "$dir/ca.pem""#
            )
        );
    }

    #[test]
    fn every_script_is_valid_shell() {
        let name = SiteName::parse("a.example.org").expect("a name");
        let commands = [
            first_boot(),
            stage("ab", vec![]),
            prepare("ab", &name, true, true, vec![]),
            install("ab", vec![]),
            wipe(vec![]),
        ];
        for command in commands {
            let checked = std::process::Command::new("bash").args(["-n", "-c", &command.script]).status();
            assert!(checked.expect("bash").success(), "{}", command.what);
        }
    }
}
