//! What is signed for Aleph Cloud, checked by code that is not ours: PyPI's aleph-message, eth-account and cryptography.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use crate::harness::{database, python};

/// A well-known test key and its address.
const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFOFcjc8Tl6Ze1LwZtDYQ2R2kMBZHGSIsnFQJkIWFmPp baal";
const NODE: &str = "5330dcefe1857bcd97b7b7f24d1420a7d46232d53f27be280c8a7071d88bd84e";
const CRN: &str = "https://crn.example.org";

/// Runs `baal aleph preview` where nothing of the network answers.
fn preview(arguments: &[&str], changes: &[(&str, &str)]) -> Output {
    let nowhere = tempfile::tempdir().unwrap();
    let mut environment = HashMap::from([
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("TELEGRAM_WEBHOOK_SECRET", "s3cret"),
        ("DATABASE_URL", "postgres://127.0.0.1:1/none"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "key"),
        ("ALEPH_PRIVATE_KEY", KEY),
        ("ALEPH_SSH_PUBKEY", SSH_KEY),
        ("ALEPH_API_URL", "http://127.0.0.1:1"),
        ("ALEPH_CRN_LIST_URL", "http://127.0.0.1:1/crns.json"),
    ]);
    environment.extend(changes.iter().copied());
    Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(["aleph", "preview", "--no-env-file"])
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(nowhere.path())
        .output()
        .unwrap()
}

fn printed(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains(KEY.trim_start_matches("0x")), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the independent check finds, or why it refuses.
fn check(input: &Value, arguments: &[&str]) -> Result<Value, String> {
    let mut child = Command::new(python("tests/it/aleph_requirements.txt"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/aleph_check.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    assert!(errors.starts_with("refused: "), "the check itself is broken: {errors}");
    Err(errors)
}

fn headers() -> Value {
    let path = format!("/control/machine/{NODE}/stop");
    printed(&preview(&["--crn", CRN, "--method", "POST", "--path", &path], &[]))
}

fn check_headers(headers: &Value) -> Result<Value, String> {
    check(headers, &["headers", ADDRESS, "POST", &format!("/control/machine/{NODE}/stop"), "crn.example.org"])
}

/// Changes one digit of a string that ends in hexadecimal digits.
fn flip(text: &str, from_end: usize) -> String {
    let at = text.len() - 1 - from_end;
    let other = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

#[test]
fn an_instance_message_is_accepted_by_the_networks_own_schema_hash_and_signature() {
    let output = preview(&["--node", NODE], &[("VM_VCPUS", "2"), ("VM_MEMORY_MIB", "4096"), ("VM_DISK_GIB", "40")]);
    let shown = printed(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("root image") && told.contains("price"), "what is not from the network is said: {told}");
    assert_eq!(shown["price"]["credits_per_hour"], 28_500);
    assert_eq!((&shown["price"]["from"], &shown["image_from"]), (&json!("built in"), &json!("built in")));
    assert!(told.contains("no installation will remove") && told.contains("can post it"), "{told}");
    assert_eq!(shown["installation_from"], "made up");
    assert_eq!(
        check(&shown, &["message", ADDRESS]).unwrap(),
        json!({
            "channel": "BAAL",
            "hypervisor": "qemu",
            "image": "b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717",
            "disk_mib": 40 << 10,
            "memory_mib": 4096,
            "vcpus": 2,
            "payment": "credit",
            "node": NODE,
            "ssh_keys": [SSH_KEY],
            "metadata": ["baal_installation", "baal_vm", "name"],
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_carries_this_installations_id_where_the_database_answers() {
    let url = database().await;
    let db = PgPool::connect(&url).await.unwrap();
    baal::database::MIGRATIONS.run(&db).await.unwrap();
    let id: String = sqlx::query_scalar("select id::text from installation").fetch_one(&db).await.unwrap();
    let output = preview(&["--node", NODE], &[("DATABASE_URL", url.as_str())]);
    let shown = printed(&output);
    let content: Value = serde_json::from_str(shown["message"]["item_content"].as_str().unwrap()).unwrap();
    assert_eq!(content["metadata"]["baal_installation"], json!(id));
    assert_eq!(shown["installation_from"], "database");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("can post it") && !told.contains("no installation will"), "{told}");
}

#[test]
fn a_message_of_which_a_byte_is_changed_is_refused() {
    let shown = printed(&preview(&["--node", NODE], &[]));
    let change = |key: &str, value: String| {
        let mut changed = shown.clone();
        changed["message"][key] = json!(value);
        check(&changed, &["message", ADDRESS]).expect_err(key)
    };
    let text = |key: &str| shown["message"][key].as_str().unwrap().to_owned();
    let other_disk = text("item_content").replace("20480", "20481");
    assert!(change("item_content", other_disk.clone()).contains("the hash is not that of the content"));
    assert!(change("item_hash", flip(&text("item_hash"), 3)).contains("the hash is not that of the content"));
    change("signature", flip(&text("signature"), 40));
    assert!(change("sender", flip(ADDRESS, 0)).contains("not from the account"));
    change("type", "PROGRAM".into());

    // Whoever makes the hash fit has no signature for it.
    let mut forged = shown.clone();
    forged["message"]["item_hash"] = json!(hex::encode(Sha256::digest(&other_disk)));
    forged["message"]["item_content"] = json!(other_disk);
    let refused = check(&forged, &["message", ADDRESS]).unwrap_err();
    assert!(refused.contains("the signature is not the account's"), "{refused}");
}

#[test]
fn headers_for_a_compute_node_are_accepted_and_each_is_new() {
    let (first, second) = (headers(), headers());
    check_headers(&first).unwrap();
    check_headers(&second).unwrap();
    assert_ne!(first["X-SignedPubKey"], second["X-SignedPubKey"]);
}

#[test]
fn headers_of_which_a_byte_is_changed_are_refused() {
    let good = headers();
    for (header, part) in [
        ("X-SignedPubKey", "payload"),
        ("X-SignedPubKey", "signature"),
        ("X-SignedOperation", "payload"),
        ("X-SignedOperation", "signature"),
    ] {
        let mut inner: Value = serde_json::from_str(good[header].as_str().unwrap()).unwrap();
        inner[part] = json!(flip(inner[part].as_str().unwrap(), 40));
        let mut changed = good.clone();
        changed[header] = json!(inner.to_string());
        assert!(check_headers(&changed).is_err(), "{header} {part}");
    }
    let mut mixed = good.clone();
    mixed["X-SignedOperation"] = headers()["X-SignedOperation"].clone();
    assert!(check_headers(&mixed).unwrap_err().contains("not signed by the ephemeral key"));
    let elsewhere = ["headers", ADDRESS, "POST", "/control/machine/other/stop", "crn.example.org"];
    assert!(check(&good, &elsewhere).unwrap_err().contains("another operation"));
}

#[test]
fn without_a_network_a_node_must_be_given() {
    let output = preview(&[], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("--node") && told.contains("127.0.0.1:1"), "{told}");
    for (arguments, part) in [
        (["--node", "../x"].as_slice(), "64 hexadecimal"),
        (&["--crn", CRN], "--path"),
        (&["--crn", CRN, "--path", "/x?y"], "no query"),
        (&["--crn", "nonsense", "--path", "/x"], "names no host"),
    ] {
        let output = preview(arguments, &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(part), "{arguments:?}: {told}");
    }
}
