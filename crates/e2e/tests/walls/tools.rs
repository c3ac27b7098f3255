//! Attacks by way of the tools that are no shell.

use crate::attack::Place;
use baal_e2e::ToolCall;
use serde_json::json;

/// Calls that must bring nothing to light.
pub struct ToolAttack {
    pub name: &'static str,
    pub calls: Vec<ToolCall>,
    /// Root's look afterwards: fails if the attack succeeded.
    pub check: &'static str,
}

fn call(name: &'static str, arguments: serde_json::Value) -> ToolCall {
    ToolCall { name, arguments }
}

/// Paths that lead out of the workspace.
fn outside(place: &Place) -> Vec<(&'static str, String)> {
    vec![
        ("the configuration", "/var/lib/baal-agent/config.json".to_owned()),
        ("the database", "/var/lib/baal-agent/agent.db".to_owned()),
        ("another chat's file", place.victim.clone()),
        ("another chat's file, by ..", format!("../../../../../..{}", place.victim)),
        ("another chat's file, by /proc", format!("/proc/self/root{}", place.victim)),
        ("the launcher's own /proc", "/proc/self/environ".to_owned()),
        ("the server's /proc", format!("/proc/{}/environ", place.server)),
        ("the password hashes", "/etc/shadow".to_owned()),
        ("the unit file", "/etc/systemd/system/baal-agent.service".to_owned()),
        ("a path with a NUL", "memory\0/../../../../var/lib/baal-agent/config.json".to_owned()),
    ]
}

/// For every speaker, with or without a shell.
pub fn attacks(place: &Place) -> Vec<ToolAttack> {
    let mut attacks = Vec::new();
    for (what, path) in outside(place) {
        attacks.push(ToolAttack {
            name: match what {
                "the configuration" => "file tools: read and send the configuration",
                "the database" => "file tools: read and send the database",
                "another chat's file" => "file tools: another chat's file, by name",
                "another chat's file, by .." => "file tools: another chat's file, by ..",
                "another chat's file, by /proc" => "file tools: another chat's file, by /proc/self/root",
                "the launcher's own /proc" => "file tools: /proc of the launcher",
                "the server's /proc" => "file tools: /proc of the server",
                "the password hashes" => "file tools: the password hashes",
                "the unit file" => "file tools: the unit file",
                _ => "file tools: a path with a NUL",
            },
            calls: vec![
                call("read_file", json!({"path": path})),
                call("list_dir", json!({"path": path})),
                call("send_file", json!({"path": path})),
                call("edit_file", json!({"path": path, "old_string": "a", "new_string": "stolen"})),
                call("write_file", json!({"path": path, "content": "stolen"})),
            ],
            check: "! grep -qs stolen {victim} /etc/shadow /etc/systemd/system/baal-agent.service /var/lib/baal-agent/config.json",
        });
    }
    attacks.push(ToolAttack {
        name: "file tools: list what is around",
        calls: ["/", "..", "../..", "/var/lib/baal-agent", "/var/lib/baal-tools/workspace", "/proc/self/fd", "/run"]
            .map(|path| call("list_dir", json!({"path": path})))
            .into(),
        check: "",
    });
    attacks.push(ToolAttack {
        name: "file tools: write a cron job, ld.so.preload, a key",
        calls: ["/etc/cron.d/x", "/etc/ld.so.preload", "/root/.ssh/authorized_keys", "../../../../etc/cron.d/x", "/usr/local/bin/x"]
            .map(|path| call("write_file", json!({"path": path, "content": "* * * * * root sleep 98761\n"})))
            .into(),
        check: "! test -e /etc/cron.d/x && ! test -e /etc/ld.so.preload && ! grep -q 98761 /root/.ssh/authorized_keys && ! test -e /usr/local/bin/x",
    });
    attacks.push(ToolAttack {
        name: "file tools: fill the disk",
        calls: vec![
            call("write_file", json!({"path": "fill", "content": "x".repeat(60_000)})),
            call("write_file", json!({"path": "fill".to_owned() + &"/deep".repeat(500), "content": "x"})),
        ],
        check: "rm -rf /var/lib/baal-tools/workspace/owner/fill /var/lib/baal-guests/workspace/chats/*/fill",
    });
    for (name, urls) in [
        ("web_fetch: the metadata service", vec!["http://169.254.169.254/"]),
        ("web_fetch: the metadata service, by redirect", vec!["http://198.51.100.1/?to=http://169.254.169.254/"]),
        ("web_fetch: the metadata service, by name", vec!["http://metadata.e2e/"]),
        (
            "web_fetch: the metadata service, IPv6-mapped",
            vec!["http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/"],
        ),
        (
            "web_fetch: the metadata service, decimal, hexadecimal, octal",
            vec!["http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/"],
        ),
        (
            "web_fetch: the server itself",
            vec![
                "http://127.0.0.1:8080/health",
                "http://[::1]:8080/health",
                "http://0.0.0.0:8080/health",
                "http://near.e2e:8080/health",
                "http://[::ffff:127.0.0.1]:8080/health",
            ],
        ),
        (
            "web_fetch: a local service at the machine's own address",
            vec!["http://127.0.0.1:9091/", "http://10.66.66.66/"],
        ),
        (
            "web_fetch: files and other schemes",
            vec![
                "file:///var/lib/baal-agent/config.json",
                "file:///etc/passwd",
                "gopher://127.0.0.1:8080/",
                "unix:///run/baal-tools.sock",
            ],
        ),
    ] {
        attacks.push(ToolAttack {
            name,
            calls: urls.into_iter().map(|url| call("web_fetch", json!({"url": url}))).collect(),
            check: "",
        });
    }
    attacks
}

/// For whoever has a shell: links and pipes are planted with it, for the server or root to follow.
pub fn planted(place: &Place) -> Vec<ToolAttack> {
    let through = |plant: &str| {
        vec![
            ToolCall::bash(&place.fill(plant), 20),
            call("read_file", json!({"path": "link"})),
            call("send_file", json!({"path": "link"})),
            call("list_dir", json!({"path": "link"})),
            call("write_file", json!({"path": "link", "content": "stolen"})),
            call("edit_file", json!({"path": "link", "old_string": "CANARY", "new_string": "stolen"})),
            ToolCall::bash("rm -rf link", 20),
        ]
    };
    let untouched = "! grep -qs stolen {victim} /var/lib/baal-agent/config.json /etc/passwd";
    vec![
        ToolAttack { name: "planted: a link to the configuration, then file tools", calls: through("ln -sfn /var/lib/baal-agent/config.json link"), check: untouched },
        ToolAttack { name: "planted: a link to another chat, then file tools", calls: through("ln -sfn {victim} link"), check: untouched },
        ToolAttack { name: "planted: a link to /proc/self/root, then file tools", calls: through("ln -sfn /proc/self/root{victim} link"), check: untouched },
        ToolAttack {
            name: "planted: a directory that is a link, then file tools",
            calls: vec![
                ToolCall::bash("ln -sfn /var/lib/baal-agent d", 20),
                call("read_file", json!({"path": "d/config.json"})),
                call("write_file", json!({"path": "d/stolen", "content": "stolen"})),
                call("list_dir", json!({"path": "d"})),
                ToolCall::bash("rm -f d", 20),
            ],
            check: "! test -e /var/lib/baal-agent/stolen",
        },
        ToolAttack {
            name: "planted: pipes where files are read",
            calls: vec![
                ToolCall::bash("rm -rf memory/MEMORY.md HEARTBEAT.md skills/x pipe; mkdir -p memory skills/x; mkfifo memory/MEMORY.md HEARTBEAT.md skills/x/SKILL.md pipe", 20),
                call("read_file", json!({"path": "pipe"})),
                call("edit_file", json!({"path": "pipe", "old_string": "a", "new_string": "b"})),
                call("send_file", json!({"path": "pipe"})),
                call("list_dir", json!({"path": "."})),
                ToolCall::bash("rm -rf memory HEARTBEAT.md skills/x pipe", 20),
            ],
            check: "",
        },
        ToolAttack {
            name: "planted: memory and skills that are links to secrets",
            calls: vec![
                ToolCall::bash(&place.fill("rm -rf memory skills; mkdir -p memory skills/x; ln -s /var/lib/baal-agent/config.json memory/MEMORY.md; ln -s {victim} skills/x/SKILL.md; ln -s {victim} HEARTBEAT.md"), 20),
                call("recall", json!({"query": "CANARY"})),
                call("list_dir", json!({"path": "."})),
            ],
            check: "rm -rf /var/lib/baal-tools/workspace/owner/{memory,skills,HEARTBEAT.md}",
        },
    ]
}
