//! Which compute node is to run an instance: read from a list that an aggregator scrapes from the nodes themselves, so every
//! word in it is a stranger's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::http::{clean, garbled, host, send};
use super::instances::Size;
use super::{Aleph, AlephError, Crn};
use crate::addresses::{is_public, literal};

/// Memory that a node must have left beside the instance, in MiB.
const MEMORY_RESERVE: u64 = 1024;
/// Disk that a node must have left beside the instance, in MiB.
const DISK_RESERVE: u64 = 5 << 10;
/// Share of the processors' load in a node's rank; memory in use has the rest.
const CPU_SHARE: f64 = 0.6;
/// Nodes whose load differs by less than this count as alike, and their score decides: loads change faster than the list.
const BAND: f64 = 0.05;
/// The band from which on a node is full.
const FULL: u64 = 20;
/// A node of a lower score is not fit. Scores are from 0 to 1 and given by the network's own measurements, not by the node;
/// below this one it pays an operator no rewards (aleph-docs, `nodes/reliability/rewards.md`).
const LOWEST_SCORE: f64 = 0.2;
/// Among so many of the best it is drawn: the load is what a node says of itself, and whoever says 0 must not get everything.
const DRAWN_FROM: usize = 5;
/// What is kept of a node's name, in characters.
const NAME: usize = 64;

/// A node as the list has it; only what is asked for here. What is missing counts against the node.
#[derive(Debug, Deserialize)]
struct Entry {
    hash: String,
    #[serde(default)]
    name: Option<String>,
    address: String,
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    ipv6_check: Option<BTreeMap<String, Option<bool>>>,
    #[serde(default)]
    qemu_support: Option<bool>,
    #[serde(default)]
    terms_and_conditions: Option<Value>,
    #[serde(default)]
    system_usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(default)]
    active: Option<bool>,
    cpu: Cpu,
    mem: Memory,
    disk: Disk,
}

#[derive(Debug, Deserialize)]
struct Cpu {
    count: u32,
    load_average: Load,
}

#[derive(Debug, Deserialize)]
struct Load {
    /// Processes that ran or waited, on average of five minutes.
    load5: f64,
}

#[derive(Debug, Deserialize)]
struct Memory {
    #[serde(rename = "total_kB")]
    total_kb: u64,
    #[serde(rename = "available_kB")]
    available_kb: u64,
}

#[derive(Debug, Deserialize)]
struct Disk {
    #[serde(rename = "available_kB")]
    available_kb: u64,
}

impl Aleph {
    /// Compute nodes that are fit for an instance, best first, without those whose hashes are in `avoid`.
    pub async fn candidates(&self, avoid: &HashSet<String>) -> Result<Vec<Crn>, AlephError> {
        let entries = self.nodes().await?;
        let fit = choose(&entries, self.size, self.allow_private, avoid);
        if fit.is_empty() {
            return Err(AlephError::NoNode { seen: entries.len() });
        }
        Ok(fit.into_iter().map(|(_, crn)| crn).collect())
    }

    /// The node for the next instance: drawn among the best of those that are fit and not in `avoid`, of which those come first
    /// that have the fewest machines of ours. `ours` has their number by node hash; `random` is any number.
    pub async fn draw(
        &self,
        avoid: &HashSet<String>,
        ours: &HashMap<String, i64>,
        random: u64,
    ) -> Result<Crn, AlephError> {
        let entries = self.nodes().await?;
        let fit = choose(&entries, self.size, self.allow_private, avoid);
        draw(fit, ours, random).ok_or(AlephError::NoNode { seen: entries.len() })
    }

    /// The node of this hash, fit or not; none if it is not in the list, or at an address where we would not go.
    pub async fn node(&self, hash: &str) -> Result<Option<Crn>, AlephError> {
        Ok(find(&self.nodes().await?, hash, self.allow_private))
    }

    async fn nodes(&self) -> Result<Vec<Value>, AlephError> {
        let what = format!("the list of compute nodes at {}", host(&self.crn_list_url));
        let mut list = send(self.http.get(&self.crn_list_url), &what, self.deadlines.read).await?.ok(&what)?;
        match list.get_mut("crns").map(Value::take) {
            Some(Value::Array(entries)) => Ok(entries),
            _ => Err(garbled(&what, "it has no `crns`")),
        }
    }
}

/// The node of this hash. Of an entry that says nothing else that can be understood, hash and address are enough.
fn find(entries: &[Value], hash: &str, allow_private: bool) -> Option<Crn> {
    let text = |entry: &Value, key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    entries.iter().filter(|entry| text(entry, "hash").as_deref() == Some(hash)).find_map(|entry| {
        let url = base(&text(entry, "address")?, allow_private)?;
        let name = clean(&text(entry, "name").unwrap_or_default(), NAME);
        Some(Crn { hash: hash.to_owned(), url, name })
    })
}

/// The nodes that are fit, best first. Entries that cannot be read are passed over.
fn choose(entries: &[Value], size: Size, allow_private: bool, avoid: &HashSet<String>) -> Vec<(Rank, Crn)> {
    let mut fit: Vec<_> = entries
        .iter()
        .filter_map(|entry| Entry::deserialize(entry).ok())
        .filter(|entry| !avoid.contains(&entry.hash))
        .filter_map(|entry| entry.rank(size, allow_private))
        .collect();
    fit.sort_by(|a, b| a.0.cmp(&b.0));
    let mut seen = HashSet::new();
    fit.retain(|(_, crn)| seen.insert(crn.hash.clone()));
    fit
}

/// One of the first few that are not full, with the fewest machines of ours; which of several is up to `random`. Where all are
/// full, the first. `fit` is sorted.
fn draw(fit: Vec<(Rank, Crn)>, ours: &HashMap<String, i64>, random: u64) -> Option<Crn> {
    let free = fit.iter().take_while(|((band, ..), _)| *band < FULL).count();
    let mut few: Vec<Crn> = fit.into_iter().map(|(_, crn)| crn).take(free.clamp(1, DRAWN_FROM)).collect();
    let of_ours = |crn: &Crn| ours.get(&crn.hash).copied().unwrap_or(0);
    let fewest = few.iter().map(of_ours).min()?;
    few.retain(|crn| of_ours(crn) == fewest);
    let nth = random % u64::try_from(few.len()).ok()?;
    Some(few.swap_remove(usize::try_from(nth).ok()?))
}

/// What nodes are sorted by: the band of the load, then the score (in ten-thousandths, the highest first), then the hash, so
/// that the order is the same whatever the list's.
type Rank = (u64, Reverse<u64>, String);

impl Entry {
    /// The node and its rank; none where it is not fit.
    fn rank(&self, size: Size, allow_private: bool) -> Option<(Rank, Crn)> {
        let known = self.hash.len() == 64 && self.hash.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        let reachable =
            self.ipv6_check.as_ref().is_some_and(|c| !c.is_empty() && c.values().all(|ok| *ok == Some(true)));
        let terms = match &self.terms_and_conditions {
            None | Some(Value::Null) => false,
            Some(Value::String(hash)) => !hash.is_empty(),
            Some(_) => true,
        };
        let usage = self.system_usage.as_ref().filter(|usage| usage.active != Some(false))?;
        if !known || !reachable || terms || self.qemu_support != Some(true) || !usage.has_room(size) {
            return None;
        }
        let url = base(&self.address, allow_private)?;
        let score = self.score.filter(|score| *score >= LOWEST_SCORE)?.min(1.0);
        let name = clean(self.name.as_deref().unwrap_or_default(), NAME);
        let rank = (whole(usage.load()? / BAND), Reverse(whole(score * 1e4)), self.hash.clone());
        Some((rank, Crn { hash: self.hash.clone(), url, name }))
    }
}

impl Usage {
    fn has_room(&self, size: Size) -> bool {
        self.cpu.count >= size.vcpus
            && self.mem.available_kb >> 10 >= size.memory_mib + MEMORY_RESERVE
            && self.disk.available_kb >> 10 >= size.disk_mib + DISK_RESERVE
    }

    /// Load of processors and memory together: 0 is idle, 1 is full, more is overloaded. None where a number makes no sense.
    fn load(&self) -> Option<f64> {
        let sensible = self.cpu.count > 0
            && self.cpu.load_average.load5.is_finite()
            && self.cpu.load_average.load5 >= 0.0
            && self.mem.total_kb >= self.mem.available_kb
            && self.mem.total_kb > 0;
        let processors = self.cpu.load_average.load5 / f64::from(self.cpu.count);
        let memory = 1.0 - self.mem.available_kb as f64 / self.mem.total_kb as f64;
        sensible.then(|| CPU_SHARE.mul_add(processors, (1.0 - CPU_SHARE) * memory))
    }
}

fn whole(number: f64) -> u64 {
    number as u64
}

/// A node's base URL; none where we would not go there.
fn base(address: &str, allow_private: bool) -> Option<String> {
    let mut url = reqwest::Url::parse(address.trim()).ok()?;
    // A dot at the end means the same name, and would hide `localhost`.
    if let Some(name) = url.host_str()?.strip_suffix('.').map(str::to_owned) {
        url.set_host(Some(&name)).ok()?;
    }
    let name = url.host_str()?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.path() == "/";
    let public = match literal(&url) {
        Some(ip) => is_public(ip),
        None => {
            name.contains('.') && !name.ends_with('.') && !name.ends_with(".localhost") && !name.ends_with(".local")
        }
    };
    let fit = match url.scheme() {
        "https" => public || allow_private,
        "http" => allow_private,
        _ => false,
    };
    (bare && fit).then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZE: Size = Size { vcpus: 1, memory_mib: 2048, disk_mib: 20 << 10 };

    /// A node that is fit, four processors, half of its memory in use.
    fn node(n: u8, load5: f64, score: f64) -> Value {
        json!({
            "hash": format!("{n:02x}").repeat(32), "name": format!("node {n}"), "address": format!("https://crn{n}.example.org/"),
            "score": score, "ipv6_check": {"host": true, "vm": true}, "qemu_support": true, "terms_and_conditions": null,
            "system_usage": {
                "active": true, "cpu": {"count": 4, "load_average": {"load1": 9.0, "load5": load5, "load15": 9.0}},
                "mem": {"total_kB": 64 << 20, "available_kB": 32 << 20}, "disk": {"available_kB": 1 << 30, "total_kB": 1 << 31},
            },
            "future": {"field": []},
        })
    }

    fn chosen(entries: &[Value]) -> Vec<String> {
        choose(entries, SIZE, false, &HashSet::new()).into_iter().map(|(_, crn)| crn.name).collect()
    }

    #[test]
    fn a_node_is_found_by_its_hash_whatever_its_state() {
        let mut overloaded = node(2, 99.0, 0.0);
        overloaded["system_usage"] = json!("nonsense");
        let entries = [node(1, 0.1, 0.9), overloaded, json!({"hash": "33"}), json!(7)];
        let found = find(&entries, &"02".repeat(32), false).expect("listed");
        assert_eq!((found.url.as_str(), found.name.as_str()), ("https://crn2.example.org", "node 2"));
        assert_eq!(find(&entries, "33", false), None);
        assert_eq!(find(&entries, &"04".repeat(32), false), None);
    }

    #[test]
    fn the_least_loaded_comes_first_and_score_decides_between_those_alike() {
        let nodes = [node(1, 3.0, 0.99), node(2, 0.1, 0.8), node(3, 0.2, 0.9), node(4, 1.0, 1.0)];
        assert_eq!(chosen(&nodes), ["node 3", "node 2", "node 4", "node 1"]);
        let reversed: Vec<_> = nodes.into_iter().rev().collect();
        assert_eq!(chosen(&reversed), ["node 3", "node 2", "node 4", "node 1"]);
    }

    #[test]
    fn memory_in_use_counts_less_than_the_processors() {
        // 0.6 × 1 + 0.4 × 0.5 = 0.8 against 0.6 × 0.1 + 0.4 × 0.9 = 0.42.
        let (busy, mut full) = (node(1, 4.0, 0.9), node(2, 0.4, 0.9));
        full["system_usage"]["mem"] = json!({"total_kB": 640 << 20, "available_kB": 64 << 20});
        assert_eq!(chosen(&[busy, full]), ["node 2", "node 1"]);
    }

    #[test]
    fn a_node_that_fails_any_check_is_not_chosen() {
        let spoilt = |path: &str, value: Value| {
            let mut entry = node(7, 0.1, 0.9);
            *entry.pointer_mut(path).unwrap() = value;
            entry
        };
        let fit_mib = |mib: u64| json!(mib << 10);
        for (path, value) in [
            ("/hash", json!("XYZ")),
            ("/address", json!("http://crn.example.org")),
            ("/address", json!("ftp://crn.example.org")),
            ("/address", json!("https://user:word@crn.example.org")),
            ("/address", json!("https://crn.example.org/path?query")),
            ("/address", json!("https://127.0.0.1")),
            ("/address", json!("https://[::1]:8443")),
            ("/address", json!("https://localhost")),
            ("/address", json!("https://localhost.")),
            ("/address", json!("https://crn.localhost.")),
            ("/address", json!("https://crn.local./")),
            ("/address", json!("https://127.0.0.1.")),
            ("/address", json!("https://168.63.129.16")),
            ("/address", json!("https://[2002:7f00:1::]")),
            ("/address", json!("https://192.168.1.1/")),
            ("/address", json!("")),
            ("/ipv6_check", json!({"host": true, "vm": false})),
            ("/ipv6_check", json!({})),
            ("/ipv6_check", json!(null)),
            ("/qemu_support", json!(false)),
            ("/qemu_support", json!(null)),
            ("/terms_and_conditions", json!("ab".repeat(32))),
            ("/score", json!(0.19)),
            ("/score", json!(-1.0)),
            ("/score", json!(null)),
            ("/system_usage", json!(null)),
            ("/system_usage/active", json!(false)),
            ("/system_usage/cpu/count", json!(0)),
            ("/system_usage/cpu/load_average/load5", json!(-1.0)),
            ("/system_usage/mem/available_kB", fit_mib(2048 + MEMORY_RESERVE - 1)),
            ("/system_usage/mem/total_kB", json!(1)),
            ("/system_usage/disk/available_kB", fit_mib((20 << 10) + DISK_RESERVE - 1)),
        ] {
            assert!(chosen(&[spoilt(path, value.clone())]).is_empty(), "{path} {value}");
        }
        assert_eq!(chosen(&[spoilt("/terms_and_conditions", json!(""))]), ["node 7"]);
        assert_eq!(chosen(&[spoilt("/system_usage/active", json!(null))]), ["node 7"]);
        assert_eq!(chosen(&[spoilt("/system_usage/mem/available_kB", fit_mib(2048 + MEMORY_RESERVE))]), ["node 7"]);
    }

    /// Nodes of these loads, and which of them are drawn, by all random numbers together.
    fn drawn(loads: &[f64], ours: &[(u8, i64)]) -> Vec<String> {
        let nodes: Vec<_> = (1..).zip(loads).map(|(n, load5)| node(n, *load5, 0.9)).collect();
        let ours = ours.iter().map(|(n, count)| (format!("{n:02x}").repeat(32), *count)).collect();
        let fit = choose(&nodes, SIZE, false, &HashSet::new());
        let mut names: Vec<_> =
            (0..60).filter_map(|random| draw(fit.clone(), &ours, random)).map(|crn| crn.name).collect();
        assert!(draw(fit, &ours, u64::MAX).is_none_or(|crn| names.contains(&crn.name)));
        names.sort();
        names.dedup();
        names
    }

    #[test]
    fn a_node_that_says_it_is_idle_is_one_of_the_few_that_it_is_drawn_from() {
        let loads = [0.0, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0];
        assert_eq!(drawn(&loads, &[]), ["node 1", "node 2", "node 3", "node 4", "node 5"]);
        assert_eq!(drawn(&[], &[]), [""; 0]);
    }

    #[test]
    fn of_the_few_those_with_the_fewest_machines_of_ours_come_first() {
        let loads = [0.0, 2.0, 2.2, 2.4, 2.6, 2.8];
        assert_eq!(drawn(&loads, &[(1, 1)]), ["node 2", "node 3", "node 4", "node 5"]);
        assert_eq!(drawn(&loads, &[(1, 3), (2, 1), (3, 2), (4, 1), (5, 7)]), ["node 2", "node 4"]);
    }

    #[test]
    fn a_full_node_is_not_drawn_while_another_is_not_full() {
        // 0.6 × 6 / 4 + 0.4 × 0.5 = 1.1.
        assert_eq!(drawn(&[0.1, 6.0, 0.2, 6.0], &[(1, 9), (3, 9)]), ["node 1", "node 3"]);
        assert_eq!(drawn(&[7.0, 6.0], &[(2, 9)]), ["node 2"]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let odd = [json!(null), json!("x"), json!({"hash": 1}), json!({"hash": "a", "address": [], "score": "high"})];
        let mut entries = odd.to_vec();
        entries.push(node(1, 0.1, 0.9));
        assert_eq!(chosen(&entries), ["node 1"]);
    }

    #[test]
    fn avoided_nodes_and_repeated_ones_are_left_out() {
        let nodes = [node(1, 0.1, 0.9), node(2, 0.1, 0.8), node(2, 0.1, 0.8)];
        let avoid = HashSet::from(["01".repeat(32)]);
        let left = choose(&nodes, SIZE, false, &avoid);
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].1.name.as_str(), left[0].1.url.as_str()), ("node 2", "https://crn2.example.org"));
    }

    #[test]
    fn a_dot_behind_a_nodes_name_is_cut_off() {
        assert_eq!(base("https://crn.example.org.:8443/", false).as_deref(), Some("https://crn.example.org:8443"));
        assert_eq!(base("https://crn.example.org../", false).as_deref(), None);
    }

    #[test]
    fn in_a_closed_network_plain_and_private_addresses_are_taken() {
        let mut near = node(1, 0.1, 0.9);
        near["address"] = json!("http://127.0.0.1:4020/");
        let chosen = choose(&[near], SIZE, true, &HashSet::new());
        assert_eq!(chosen[0].1.url, "http://127.0.0.1:4020");
    }

    #[test]
    fn a_name_is_one_short_line_whatever_it_holds() {
        let mut entry = node(1, 0.1, 0.9);
        entry["name"] = json!(format!("\u{1b}[2J\n<b>\u{202e}{}", "x".repeat(500)));
        let name = &chosen(&[entry])[0];
        assert!(name.chars().count() <= NAME && !name.chars().any(char::is_control) && !name.contains('\u{202e}'));
    }
}
