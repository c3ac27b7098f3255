//! Messages of a node's list as instances of ours.

use aleph_types::item_hash::{AlephItemHash, ItemHash};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tracing::debug;
use uuid::Uuid;

use super::instances::{INSTALLATION_KEY, VM_KEY};
use super::{Aleph, Listed};

/// Reads one message; none where it cannot be read or is not of this account and channel. What it says of itself is believed
/// only if its hash covers it: a node that lies must not point us at somebody else's instance.
pub(super) fn read(message: &Value, address: &str) -> Option<Listed> {
    let read = try_read(message, address);
    if read.is_none() {
        debug!("a listed message is not readable as an instance of this account; it is left alone");
    }
    read
}

fn try_read(message: &Value, address: &str) -> Option<Listed> {
    let text = |name| message.get(name).and_then(Value::as_str);
    let Ok(ItemHash::Native(hash)) = ItemHash::try_from(text("item_hash")?) else { return None };
    let ours = text("sender")?.eq_ignore_ascii_case(address) && text("channel")? == Aleph::CHANNEL;
    let instance = text("type").is_none_or(|kind| kind == "INSTANCE");
    if !ours || !instance {
        return None;
    }
    // Ours always have their content inline. Of another one nothing is believed: no hash here covers what is shown of it.
    let Some(content) = text("item_content") else {
        let time = time(message.pointer("/content/time").or_else(|| message.get("time"))?)?;
        return Some(Listed { item_hash: hash.to_string(), installation: None, vm: None, crn_hash: None, time });
    };
    if AlephItemHash::from_bytes(content.as_bytes()) != hash {
        return None;
    }
    let content: Value = serde_json::from_str(content).ok()?;
    let mark = |key| content.pointer("/metadata")?.get(key)?.as_str().and_then(|id| Uuid::parse_str(id).ok());
    let crn_hash = content.pointer("/requirements/node/node_hash").and_then(Value::as_str).map(str::to_owned);
    Some(Listed {
        item_hash: hash.to_string(),
        installation: mark(INSTALLATION_KEY),
        vm: mark(VM_KEY),
        crn_hash,
        time: time(content.get("time")?)?,
    })
}

/// Seconds since 1970 or RFC 3339.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    match value {
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()),
        other => DateTime::from_timestamp_micros((other.as_f64()? * 1e6) as i64),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ADDRESS: &str = "0xB68B9D4f3771c246233823ed1D3Add451055F9Ef";

    fn message(content: &Value) -> Value {
        let content = content.to_string();
        json!({
            "sender": ADDRESS, "channel": "BAAL", "type": "INSTANCE", "time": 1.0,
            "item_hash": AlephItemHash::from_bytes(content.as_bytes()).to_string(), "item_content": content,
        })
    }

    #[test]
    fn an_instance_of_ours_says_who_made_it_and_for_what() {
        let (installation, vm) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let made = message(&json!({
            "time": 1_700_000_000.5, "metadata": {"baal_installation": installation, "baal_vm": vm},
            "requirements": {"node": {"node_hash": "ab"}},
        }));
        let read = read(&made, &ADDRESS.to_lowercase()).unwrap();
        assert_eq!((read.installation, read.vm, read.crn_hash.as_deref()), (Some(installation), Some(vm), Some("ab")));
        assert_eq!(read.time.timestamp_millis(), 1_700_000_000_500);
    }

    #[test]
    fn an_instance_without_our_mark_is_nobodys_of_ours() {
        for metadata in [json!(null), json!([]), json!({"baal_installation": 7}), json!({"baal_installation": "x"})] {
            let read = read(&message(&json!({"time": 1, "metadata": metadata})), ADDRESS).unwrap();
            assert_eq!((read.installation, read.vm), (None, None));
        }
    }

    #[test]
    fn what_no_hash_covers_is_nobodys_of_ours_whatever_mark_it_shows() {
        let content = json!({
            "time": 1_700_000_000, "metadata": {"baal_installation": Uuid::from_u128(1), "baal_vm": Uuid::from_u128(2)},
            "requirements": {"node": {"node_hash": "ab"}},
        });
        let made = message(&content);
        for item_content in [json!(null), json!(7), content.clone()] {
            let mut shown = made.clone();
            shown["content"] = content.clone();
            shown["item_content"] = item_content;
            let read = read(&shown, ADDRESS).unwrap();
            assert_eq!((read.installation, read.vm, read.crn_hash), (None, None, None));
            assert_eq!(read.item_hash, made["item_hash"].as_str().unwrap());
            assert_eq!(read.time.timestamp(), 1_700_000_000);
        }
    }

    #[test]
    fn what_is_not_ours_or_not_what_its_hash_says_is_skipped() {
        let good = message(&json!({"time": 1}));
        assert!(read(&good, ADDRESS).is_some());
        for (key, value) in [
            ("sender", json!("0x0")),
            ("channel", json!("OTHER")),
            ("type", json!("PROGRAM")),
            ("item_content", json!("{\"time\": 2}")),
            ("item_hash", json!("../..")),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert_eq!(read(&bad, ADDRESS), None, "{key}");
        }
        assert_eq!(read(&message(&json!({"time": 1e300})), ADDRESS), None);
        assert_eq!(read(&json!(null), ADDRESS), None);
    }
}
