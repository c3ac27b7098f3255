//! From a bare Debian machine to a healthy agent over HTTPS, through a real SSH session, with whatever may go wrong between.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod distributions;
mod site;

use std::time::{Duration, Instant};

use baal::install::{InstallError, Kit};
use baal::ssh::SshError;
use site::{NAME, Site, VM, agent, program_that_ends};

/// Every file that is there, but for those of Debian's packages, of logs and of what the kernel shows.
const FILES: &str = "
dpkg -L $(dpkg-query -W -f '${Package} ') | sed 's#^/lib/#/usr/lib/#' | sort -u >/run/of-packages
find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/apt \
    -o -path /var/cache -o -path /var/lib/systemd -o -path '/etc/ssl/certs' \\) -prune -o -print | sort -u | comm -23 - /run/of-packages";

/// Bytes sent in an installation where nothing but the configuration is new.
const WARM_BYTES: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_machine_becomes_an_agent_and_is_mended_and_wiped() {
    let site = Site::start().await;
    let kit = site.kit();
    let before = site.machine.root(FILES).unwrap();

    let began = Instant::now();
    let mut session = site.session().await;
    kit.wait_for_first_boot(&mut session).await.unwrap();
    kit.prepare(&mut session, VM, NAME).await.unwrap();
    let prepared = began.elapsed();
    // The certificate is there, the agent is not.
    let (status, _) = site.get_trusting(site.authority(), NAME, "/health").await.unwrap();
    assert_eq!(status, 502);
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
    assert_eq!(site.agent_name(NAME).await, "Ada");
    println!(
        "bare to healthy over HTTPS: {:?}, of which preparing {prepared:?}; bytes (sent, received): {:?}",
        began.elapsed(),
        session.traffic()
    );
    session.close().await;

    nothing_new_changes_nothing(&site, &kit).await;
    what_users_write_arrives_as_it_is(&site, &kit).await;
    what_is_broken_is_mended(&site, &kit).await;
    what_the_agent_wrote_stays(&site, &kit).await;
    certificates_follow_name_and_authority(&site, &kit).await;
    what_is_not_healthy_is_taken_back(&site, &kit).await;
    it_may_be_cut_off_anywhere(&site, &kit).await;
    another_machines_is_left_alone(&site, &kit).await;
    no_error_repeats_a_secret(&site, &kit).await;
    killed_ones_leave_no_keys(&site, &kit).await;

    let mut session = site.session().await;
    kit.wipe(&mut session, VM).await.unwrap();
    kit.wipe(&mut session, VM).await.unwrap();
    let after = site.machine.root(FILES).unwrap();
    let left: Vec<&str> = after.lines().filter(|file| !before.lines().any(|there| there == *file)).collect();
    // What packages make when they are set up, and their users' entries, stay with them.
    let packages = [
        "/var/lib/caddy",
        "/etc/nftables.conf",
        "/etc/ssl",
        "/etc/passwd-",
        "/etc/group-",
        "/etc/shadow-",
        "/etc/gshadow-",
        "/etc/subuid-",
        "/etc/subgid-",
    ];
    let left: Vec<&&str> = left.iter().filter(|file| !packages.iter().any(|theirs| file.starts_with(theirs))).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let gone = "! getent passwd baal-agent baal-tools baal-guests && ! nft list table inet baal_tools 2>/dev/null && ! ss -Hltn | grep -E ':(80|443|8080) '
        ! find /var/lib/caddy -name '*.pem' -o -name '*.crt' -o -name '*.key' | grep .; ! grep -r -l secret-e9800998ecf8427e /etc /var/lib /root /run 2>/dev/null | grep .";
    site.machine.root(gone).unwrap();

    // A host is used again.
    let began = Instant::now();
    kit.prepare(&mut session, VM, &site.address.to_string()).await.unwrap();
    kit.install(&mut session, VM, &agent("Eve")).await.unwrap();
    assert_eq!(site.agent_name(&site.address.to_string()).await, "Eve");
    println!("wiped to healthy over HTTPS, packages there: {:?}", began.elapsed());
}

async fn nothing_new_changes_nothing(site: &Site, kit: &Kit) {
    let before = site.fingerprint();
    let mut session = site.session().await;
    kit.prepare(&mut session, VM, NAME).await.unwrap();
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
    assert_eq!(before, site.fingerprint());
    // And where only the configuration is new, little is sent.
    let sent = session.traffic().0;
    for name in ["Bob", "Cyd", "Dan"] {
        let began = Instant::now();
        let mut session = site.session().await;
        kit.install(&mut session, VM, &agent(name)).await.unwrap();
        println!("a new configuration, connecting included: {:?}; bytes: {:?}", began.elapsed(), session.traffic());
        assert!(session.traffic().0 < WARM_BYTES, "{} bytes were sent", session.traffic().0);
    }
    assert!(sent < 2 * WARM_BYTES, "{sent} bytes were sent");
}

async fn what_users_write_arrives_as_it_is(site: &Site, kit: &Kit) {
    let hostile = "\"; touch /root/breach; '$(touch /root/breach)`touch /root/breach`\n[Service]\nUser=root\r\n%n %%i \\x \\\\ {$HOME} 💀 \u{202e} ";
    let mut config = agent("x");
    config.agent_name = "Ada'; $(touch /root/breach) 💀".into();
    config.system_prompt = hostile.repeat(16_384 / hostile.len() + 1).chars().take(16_000).collect();
    let mut session = site.session().await;
    kit.install(&mut session, VM, &config).await.unwrap();
    let there = site.config_there();
    assert_eq!((&there.agent_name, &there.system_prompt), (&config.agent_name, &config.system_prompt));
    assert_eq!(site.agent_name(NAME).await, config.agent_name);
    site.machine.root("! test -e /root/breach").unwrap();
}

async fn what_is_broken_is_mended(site: &Site, kit: &Kit) {
    let mut session = site.session().await;
    for damage in [
        "echo 'a { broken' >/etc/caddy/Caddyfile; systemctl restart caddy",
        "rm /etc/caddy/Caddyfile; systemctl disable --now caddy; systemctl mask caddy",
        "echo x >/etc/caddy/baal/site.pem; chmod 644 /etc/caddy/baal/site.pem; systemctl stop caddy",
        "rm -rf /etc/caddy; mkdir -p /etc/caddy/Caddyfile",
        "kill -9 $(systemctl show -p MainPID --value baal-agent)",
        "systemctl disable --now baal-agent; rm /etc/systemd/system/baal-agent.service; systemctl daemon-reload",
        "systemctl disable --now baal-agent baal-tools.socket; nft flush ruleset; echo '{' >/var/lib/baal-agent/config.json",
        "systemctl stop baal-agent; rm -rf /usr/local/bin/baal-agent /var/lib/baal",
        "echo junk >/usr/local/bin/x; mv /usr/local/bin/x /usr/local/bin/baal-agent; systemctl restart baal-agent",
        "pkill -9 -u baal-agent; userdel baal-guests; systemctl stop caddy",
    ] {
        site.machine.try_root(damage).unwrap();
        kit.prepare(&mut session, VM, NAME).await.unwrap_or_else(|error| panic!("after {damage}: {error}"));
        kit.install(&mut session, VM, &agent("Ada")).await.unwrap_or_else(|error| panic!("after {damage}: {error}"));
        assert_eq!(site.agent_name(NAME).await, "Ada", "after {damage}");
        site.machine
            .root("systemctl is-enabled baal-agent baal-tools.socket caddy && systemctl is-active baal-agent caddy")
            .unwrap();
    }
}

async fn what_the_agent_wrote_stays(site: &Site, kit: &Kit) {
    let all = "cd /var/lib/baal-tools/workspace && find . -type f -exec sha256sum {} + | sort -k 2; \
               find /var/lib/baal-guests -type f -exec sha256sum {} +";
    let written = format!(
        "for home in baal-tools baal-guests; do cd /var/lib/$home/workspace; for file in owner/MEMORY.md owner/skills/mine/SKILL.md \
         skills/own/SKILL.md notes; do setpriv --reuid $home --regid $home --clear-groups bash -c \
         'mkdir -p \"$(dirname \"$1\")\" && echo \"mine: $1\" >>\"$1\"' bash $file; done; done; {all}"
    );
    let before = site.machine.root(&written).unwrap();
    assert!(before.lines().count() >= 8, "{before}");
    let mut session = site.session().await;
    kit.prepare(&mut session, VM, NAME).await.unwrap();
    for name in ["Bob", "Ada"] {
        kit.install(&mut session, VM, &agent(name)).await.unwrap();
    }
    assert_eq!(before, site.machine.root(all).unwrap());
}

async fn certificates_follow_name_and_authority(site: &Site, kit: &Kit) {
    let mut session = site.session().await;
    let other = tempfile::tempdir().unwrap();
    baal::install::authority::create(other.path()).unwrap();
    let theirs = site.kit_with_authority(other.path());
    theirs.prepare(&mut session, VM, NAME).await.unwrap();
    assert_eq!(site.get_trusting(other.path(), NAME, "/health").await.unwrap().0, 200);
    assert!(site.get_trusting(site.authority(), NAME, "/health").await.is_err());
    kit.prepare(&mut session, VM, "other.vm.test:18443").await.unwrap();
    assert_eq!(site.agent_name("other.vm.test").await, "Ada");
    kit.prepare(&mut session, VM, NAME).await.unwrap();
    assert_eq!(site.agent_name(NAME).await, "Ada");
    // One that ends within thirty days. The key of the authority is never on a machine, so this one signs itself.
    let key = site.machine.root("openssl pkey -in /etc/caddy/baal/site.pem | sha256sum").unwrap();
    site.machine
        .root("cd /tmp && openssl x509 -in /etc/caddy/baal/site.pem -signkey <(openssl pkey -in /etc/caddy/baal/site.pem) -days 20 -out c && (cat c; openssl pkey -in /etc/caddy/baal/site.pem) >s && cat s >/etc/caddy/baal/site.pem && rm c s")
        .unwrap();
    kit.prepare(&mut session, VM, NAME).await.unwrap();
    assert_eq!(site.agent_name(NAME).await, "Ada");
    assert_ne!(key, site.machine.root("openssl pkey -in /etc/caddy/baal/site.pem | sha256sum").unwrap());
    assert_eq!(site.machine.root("stat -c %U:%G:%a /etc/caddy/baal/site.pem").unwrap().trim(), "root:caddy:640");
}

async fn what_is_not_healthy_is_taken_back(site: &Site, kit: &Kit) {
    let mut session = site.session().await;
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
    let mut refused = agent("Refused");
    refused.agent_secret = String::new();
    let mut unable = agent("Unable");
    unable.db_path = "/proc/nowhere/agent.db".into();
    let refuses = site.kit_with_program(&program_that_ends(1));
    let ends = site.kit_with_program(&program_that_ends(0));
    let program = "sha256sum </usr/local/bin/baal-agent";
    let before = site.machine.root(program).unwrap();
    for (kit, config) in [(kit, &refused), (kit, &unable), (&refuses, &agent("Eve")), (&ends, &agent("Eve"))] {
        // The second try finds the state that the first one left.
        for _ in 0..2 {
            let error = kit.install(&mut session, VM, config).await.expect_err("not healthy");
            let InstallError::Restored(words) = &error else { panic!("{error}") };
            println!("taken back: {words}");
            assert!(!words.contains(&config.libertai_api_key) && words.len() <= 8_000, "{words}");
            assert_eq!(site.agent_name(NAME).await, "Ada");
            assert_eq!(site.config_there().agent_name, "Ada");
            assert_eq!(site.machine.root(program).unwrap(), before);
        }
    }
    // Nothing to go back to.
    site.machine.root("rm -rf /var/lib/baal/good").unwrap();
    let error = kit.install(&mut session, VM, &unable).await.expect_err("not healthy");
    assert!(matches!(error, InstallError::Ssh(SshError::Failed { .. })), "{error}");
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
}

async fn another_machines_is_left_alone(site: &Site, kit: &Kit) {
    let (before, name) = (site.fingerprint(), site.agent_name(NAME).await);
    let other = uuid::Uuid::from_u128(99);
    let mut session = site.session().await;
    let refusals = [
        kit.prepare(&mut session, other, NAME).await,
        kit.install(&mut session, other, &agent("Eve")).await,
        kit.wipe(&mut session, other).await,
    ];
    for refused in refusals {
        assert!(matches!(refused, Err(InstallError::Foreign)), "{refused:?}");
    }
    assert_eq!(before, site.fingerprint());
    assert_eq!(site.agent_name(NAME).await, name);
    // One that was set up before there were marks.
    site.machine.root("[ \"$(stat -c %U:%G:%a /var/lib/baal/vm)\" = root:root:600 ] && rm /var/lib/baal/vm").unwrap();
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
    assert_eq!(site.machine.root("cat /var/lib/baal/vm").unwrap().trim(), VM.to_string());
}

async fn no_error_repeats_a_secret(site: &Site, kit: &Kit) {
    let real = "$(command -v getent)";
    site.machine.root(&format!("mv {real} /root/getent")).unwrap();
    let config = agent("Eve");
    let mut session = site.session().await;
    // A machine that shows what it got, the key wherever an error's text may be cut.
    for length in (1_700..2_100).step_by(57) {
        let show = format!(
            "printf '%s\n' '#!/bin/bash' 'cat /run/baal-unpacked.*/config.json >&2; printf %0{length}d 0 >&2; exit 1' >/usr/bin/getent; chmod 755 /usr/bin/getent"
        );
        site.machine.root(&show).unwrap();
        let error = kit.install(&mut session, VM, &config).await.expect_err("it cannot");
        let told = format!("{error} {error:?}");
        assert!(told.contains("0000"), "the test's premise: {told}");
        for secret in [&config.libertai_api_key, &config.agent_secret] {
            for part in secret.as_bytes().windows(8) {
                assert!(!told.contains(std::str::from_utf8(part).unwrap()), "{told}");
            }
        }
    }
    site.machine.root("mv /root/getent /usr/bin/getent").unwrap();
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
}

async fn killed_ones_leave_no_keys(site: &Site, kit: &Kit) {
    let leave = "dir=$(mktemp -d /run/baal-unpacked.XXXXXXXX); echo secret-e9800998ecf8427e >$dir/config.json";
    site.machine.root(leave).unwrap();
    let mut session = site.session().await;
    kit.install(&mut session, VM, &agent("Ada")).await.unwrap();
    site.machine.root("! ls -d /run/baal-unpacked.* 2>/dev/null").unwrap();
    // Below, the machine is wiped and searched.
    site.machine.root(leave).unwrap();
}

async fn it_may_be_cut_off_anywhere(site: &Site, kit: &Kit) {
    for round in 0..16u64 {
        let name = format!("Round {round}");
        let config = agent(&name);
        let mut session = site.session().await;
        let pause = Duration::from_millis(15 + 45 * (round / 2));
        if round % 2 == 0 {
            // We go away. What was begun goes on there.
            // silent-ok: whether it was done in that time or not
            let _ = tokio::time::timeout(pause, kit.install(&mut session, VM, &config)).await;
            drop(session);
        } else {
            // The installer is killed.
            let kill = format!("sleep {}; pkill -9 -f '^bash /run/baal-unpacked'; true", pause.as_secs_f64());
            let kill = async { tokio::task::block_in_place(|| site.machine.root(&kill)) };
            let (_, killed) = tokio::join!(kit.install(&mut session, VM, &config), kill);
            killed.unwrap();
        }
        // What is kept to go back to is whole, always; what goes on there may exchange it while it is read.
        let whole = "for try in 1 2 3; do cd /var/lib/baal/good && sha256sum --status -c SHA256SUMS && exit 0; sleep 1; done; exit 1";
        site.machine.root(whole).unwrap();
        let mut session = site.session().await;
        kit.install(&mut session, VM, &config).await.unwrap();
        assert_eq!(site.agent_name(NAME).await, name);
        site.machine.root("! ls -d /run/baal-install.changed /var/lib/baal/staged/* 2>/dev/null").unwrap();
    }
}
