//! The file requests.

use crate::session::{CHAT, Workspace, failure, run};
use baal_launcher::Root;
use baal_launcher::wire::{EntryKind, Failure, MAX_ENTRIES, MAX_FILE};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[tokio::test]
async fn a_file_comes_back_as_it_was_written() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    session.write("memory/2026/note.md", &content, None).await.unwrap();
    let read = session.read("memory/2026/note.md", MAX_FILE).await.unwrap();
    assert_eq!((read.size, read.truncated, read.bytes == content), (300_000, false, true));
    let start = session.read("/workspace/memory/2026/note.md", 10).await.unwrap();
    assert_eq!((start.size, start.truncated, start.bytes.len()), (300_000, true, 10));
    let mode = fs::metadata(workspace.of(Root::Owner).join("memory/2026/note.md")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    session.write("memory/2026/note.md", b"", None).await.unwrap();
    assert_eq!(session.read("memory/2026/note.md", MAX_FILE).await.unwrap().size, 0);
}

#[tokio::test]
async fn a_script_stays_one_that_can_be_run() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    run(&mut session, "printf '#!/bin/sh\\necho 1\\n' > s; chmod 755 s").await.says("");
    session.write("s", b"#!/bin/sh\necho 2\n", None).await.unwrap();
    run(&mut session, "./s").await.says("2");
}

#[tokio::test]
async fn appending_makes_and_grows() {
    let workspace = Workspace::new();
    let mut session = workspace.open(CHAT).await;
    session.append("notes/day.md", b"one\n").await.unwrap();
    session.append("notes/day.md", b"two\n").await.unwrap();
    assert_eq!(session.read("notes/day.md", 100).await.unwrap().bytes, b"one\ntwo\n");
}

#[tokio::test]
async fn a_change_by_somebody_else_is_not_overwritten() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    session.write("f", b"first", None).await.unwrap();
    let seen = session.read("f", 100).await.unwrap().sha256();
    session.write("f", b"second", seen).await.unwrap();
    assert!(matches!(failure(session.write("f", b"third", seen).await), Failure::Conflict(_)));
    assert!(matches!(failure(session.write("new", b"x", seen).await), Failure::Conflict(_)));
    assert_eq!(session.read("f", 100).await.unwrap().bytes, b"second");
}

#[tokio::test]
async fn of_many_that_change_at_once_each_counts() {
    let workspace = Workspace::new();
    workspace.open(Root::Owner).await.write("count", b"0", None).await.unwrap();
    let add = async || {
        let mut session = workspace.open(Root::Owner).await;
        for _ in 0..10 {
            loop {
                let seen = session.read("count", 100).await.unwrap();
                let next = String::from_utf8_lossy(&seen.bytes).parse::<u32>().unwrap() + 1;
                match session.write("count", next.to_string().as_bytes(), seen.sha256()).await {
                    Ok(()) => break,
                    other => assert!(matches!(failure(other), Failure::Conflict(_))),
                }
            }
        }
    };
    tokio::join!(add(), add(), add());
    assert_eq!(workspace.open(Root::Owner).await.read("count", 9).await.unwrap().bytes, b"30");
}

#[tokio::test]
async fn a_listing_is_sorted_and_bounded() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    session.write("b.txt", b"12345", None).await.unwrap();
    session.write("a/x", b"", None).await.unwrap();
    symlink("/etc/passwd", workspace.of(Root::Owner).join("c")).unwrap();
    let entries = session.list(".").await.unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(told, [("a", EntryKind::Directory), ("b.txt", EntryKind::File), ("c", EntryKind::Symlink)]);
    assert_eq!(entries[1].size, 5);
    assert!(entries[1].modified > 1_700_000_000);
    for number in 0..1100 {
        fs::write(workspace.of(Root::Owner).join(format!("a/{number:04}")), "").unwrap();
    }
    let many = session.list("a").await.unwrap();
    assert_eq!((many.len(), many[0].name.as_str(), many[999].name.as_str()), (MAX_ENTRIES, "0000", "0999"));
}

#[tokio::test]
async fn what_is_not_there_or_not_a_file_is_told_plainly() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    session.write("d/f", b"x", None).await.unwrap();
    assert_eq!(failure(session.read("none", 9).await), Failure::NotFound("none does not exist".into()));
    assert!(matches!(failure(session.read("d/f/g", 9).await), Failure::NotFound(_)));
    assert!(matches!(failure(session.read("d", 9).await), Failure::Invalid(_)));
    assert!(matches!(failure(session.write("d", b"", None).await), Failure::Invalid(_)));
    assert!(matches!(failure(session.write("", b"", None).await), Failure::Invalid(_)));
    assert!(matches!(failure(session.list("d/f").await), Failure::NotFound(_)));
    for path in ["a\0b", "a\nb", &"n".repeat(256), &"d/".repeat(5000), &format!("{}f", "d/".repeat(100))] {
        assert!(matches!(failure(session.write(path, b"", None).await), Failure::Invalid(_)), "{path:?}");
        assert!(matches!(failure(session.read(path, 9).await), Failure::Invalid(_)), "{path:?}");
    }
}

#[tokio::test]
async fn no_path_and_no_link_leads_out() {
    let workspace = Workspace::new();
    let mut session = workspace.open(CHAT).await;
    let (root, outside) = (workspace.of(CHAT), workspace.outside().to_owned());
    fs::write(outside.join("secret"), "SECRET").unwrap();
    fs::create_dir(outside.join("dir")).unwrap();
    symlink(outside.join("secret"), root.join("absolute")).unwrap();
    symlink("../../../secret", root.join("relative")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let outside_name = outside.join("secret").display().to_string();
    for path in [
        "absolute",
        "relative",
        "out/secret",
        "magic/etc/passwd",
        "loop",
        "../../../secret",
        "a/../../../../secret",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/root/etc/passwd",
        outside_name.as_str(),
    ] {
        assert!(matches!(failure(session.read(path, 99).await), Failure::Denied(_)), "{path}");
        assert!(matches!(failure(session.append(path, b"x").await), Failure::Denied(_)), "{path}");
        assert!(matches!(failure(session.list(path).await), Failure::Denied(_)), "{path}");
    }
    for path in ["out/new", "out/dir/new", "magic/tmp/new", "../new", "relative/new"] {
        assert!(matches!(failure(session.write(path, b"x", None).await), Failure::Denied(_)), "{path}");
    }
    // Writing replaces the link and leaves alone what it led to.
    session.write("absolute", b"mine", None).await.unwrap();
    assert_eq!(session.read("absolute", 99).await.unwrap().bytes, b"mine");
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "SECRET");
}

#[tokio::test]
async fn links_that_stay_inside_can_be_read() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    session.write("real/f", b"x", None).await.unwrap();
    symlink("real", workspace.of(Root::Owner).join("alias")).unwrap();
    assert_eq!(session.read("alias/f", 9).await.unwrap().bytes, b"x");
    session.write("alias/g", b"y", None).await.unwrap();
    assert_eq!(session.read("real/g", 9).await.unwrap().bytes, b"y");
}

#[tokio::test]
async fn pipes_and_devices_are_refused_at_once() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    run(&mut session, "mkfifo pipe").await.says("");
    assert!(matches!(failure(session.read("pipe", 9).await), Failure::Denied(_)));
    assert!(matches!(failure(session.append("pipe", b"x").await), Failure::Denied(_)));
}

#[tokio::test]
async fn files_have_a_largest_size() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    let most = vec![b'x'; MAX_FILE as usize];
    session.write("big", &most, None).await.unwrap();
    assert!(matches!(failure(session.append("big", b"x").await), Failure::TooLarge(_)));
    let more = vec![b'x'; MAX_FILE as usize + 1];
    assert!(matches!(failure(session.write("bigger", &more, None).await), Failure::TooLarge(_)));
    assert_eq!(session.read("big", u64::MAX).await.unwrap().bytes.len() as u64, MAX_FILE);
}

#[tokio::test]
async fn a_visitor_has_a_quota_and_the_owner_none() {
    let workspace = Workspace::new();
    let mut visitor = workspace.open(CHAT).await;
    let big = vec![b'x'; MAX_FILE as usize];
    visitor.write("1", &big, None).await.unwrap();
    visitor.write("2", &big, None).await.unwrap();
    assert!(matches!(failure(visitor.write("3", b"x", None).await), Failure::NoSpace(_)));
    assert!(matches!(failure(visitor.append("1", b"x").await), Failure::TooLarge(_) | Failure::NoSpace(_)));
    let mut owner = workspace.open(Root::Owner).await;
    for name in ["1", "2", "3"] {
        owner.write(name, &big, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_name_makes_no_line_of_its_own() {
    let workspace = Workspace::new();
    let mut session = workspace.open(Root::Owner).await;
    std::fs::write(workspace.of(Root::Owner).join("a\nb\u{1b}[1m\u{202e}c ä"), "").unwrap();
    assert_eq!(session.list(".").await.unwrap()[0].name, "a\\nb\\u{1b}[1m\\u{202e}c ä");
}
