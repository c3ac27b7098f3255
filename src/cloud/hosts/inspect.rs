//! Whether a machine can hold an agent. What it says of itself is only read, never trusted further than that.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use crate::ssh::Command;

/// Asks the machine what it is: lines of `name=value`.
pub fn question() -> Command {
    Command {
        what: "look at the machine",
        script: "printf 'uid=%s\\n' \"$(id -u)\"\n\
                 printf 'machine=%s\\n' \"$(uname -m)\"\n\
                 . /etc/os-release 2>/dev/null\n\
                 printf 'os=%s\\n' \"${ID:-}\"\n\
                 printf 'version=%s\\n' \"${VERSION_ID:-}\"\n\
                 if [ -d /run/systemd/system ]; then echo init=systemd; fi\n\
                 if command -v apt-get >/dev/null; then echo packages=apt; fi\n"
            .into(),
        input: Vec::new(),
        limit: Duration::from_secs(20),
        secrets: Vec::new(),
    }
}

/// Judges the answer: the system's name, or all that is wrong, each with what to do.
pub fn judge(answer: &str) -> Result<String, Vec<String>> {
    let value = |name: &str| {
        answer.lines().find_map(|line| line.split_once('=').filter(|(n, _)| *n == name)).map_or("", |(_, v)| v.trim())
    };
    let mut wrong = Vec::new();
    if value("uid") != "0" {
        wrong.push("the login is not root's: put the public key into /root/.ssh/authorized_keys".to_owned());
    }
    if value("machine") != "x86_64" {
        wrong.push(format!("its processor is {}, but the agent's program is for x86_64", shown(value("machine"))));
    }
    let major: u32 = value("version").split('.').next().and_then(|v| v.parse().ok()).unwrap_or(0);
    if !matches!((value("os"), major), ("debian", 12..) | ("ubuntu", 22..)) {
        wrong.push(format!(
            "it runs {} {}: install Debian 12 or newer, or Ubuntu 22.04 or newer",
            shown(value("os")),
            shown(value("version"))
        ));
    }
    if value("init") != "systemd" {
        wrong.push("it is not run by systemd".into());
    }
    if value("packages") != "apt" {
        wrong.push("it has no apt-get, with which the web server is installed".into());
    }
    if wrong.is_empty() { Ok(format!("{} {}", value("os"), value("version"))) } else { Err(wrong) }
}

/// A far side's word, short and without anything that a terminal obeys.
fn shown(word: &str) -> String {
    let word: String = word.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    if word.is_empty() { "something unknown".into() } else { word }
}

/// The fingerprint of a host key in OpenSSH's form (`ssh-ed25519 AAAA…`), as `ssh-keygen -l` prints it.
pub fn fingerprint(host_key: &str) -> Option<String> {
    let blob = STANDARD.decode(host_key.split_whitespace().nth(1)?).ok()?;
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob))))
}

/// Whether the key is the expected one, which is given as a key or as its fingerprint.
pub fn is_expected(host_key: &str, expected: &str) -> bool {
    let body = |key: &str| key.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    if expected.starts_with("SHA256:") {
        fingerprint(host_key).is_some_and(|found| found == expected.trim_end_matches('='))
    } else {
        body(host_key) == body(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "uid=0\nmachine=x86_64\nos=debian\nversion=12\ninit=systemd\npackages=apt\n";

    #[test]
    fn debian_and_ubuntu_on_x86_64_with_systemd_are_fit() {
        assert_eq!(judge(GOOD), Ok("debian 12".into()));
        let ubuntu = GOOD.replace("debian", "ubuntu").replace("version=12", "version=24.04");
        assert_eq!(judge(&ubuntu), Ok("ubuntu 24.04".into()));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let wrong = judge("uid=1000\nmachine=aarch64\nos=alpine\nversion=3.20\n").expect_err("unfit");
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        assert!(wrong[1].contains("aarch64") && wrong[2].contains("alpine 3.20"), "{wrong:?}");
        assert_eq!(judge("").expect_err("says nothing").len(), 5);
        assert_eq!(judge(&GOOD.replace("version=12", "version=11")).expect_err("old").len(), 1);
    }

    #[test]
    fn what_a_machine_says_cannot_move_the_cursor() {
        let wrong = judge(&GOOD.replace("debian", "\u{1b}[2Jowned")).expect_err("unfit");
        assert!(wrong[0].chars().all(|c| !c.is_control()), "{wrong:?}");
    }

    // Made with ssh-keygen, which printed this fingerprint.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOrN2o4FlnNBt8PaNDQ2CAf7ORf0H9aJf6yiRJZs3kMy";
    const PRINT: &str = "SHA256:pCi2M0KewdVeLNDkogbrbmvxqcf2f5yzQz9XoGG1QGw";

    #[test]
    fn a_host_key_is_expected_by_itself_or_by_its_fingerprint() {
        assert_eq!(fingerprint(KEY).as_deref(), Some(PRINT));
        assert!(is_expected(KEY, PRINT) && is_expected(KEY, &format!("{KEY} root@vm")));
        let other = KEY.replace("AAAAI", "AAAAJ");
        assert!(!is_expected(&other, PRINT) && !is_expected(&other, KEY));
        assert_eq!(fingerprint("nonsense"), None);
    }
}
