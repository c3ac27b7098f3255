//! What becomes of each agent of the Python system. Pure.
//!
//! An agent goes on running if the Python system says that it runs and everything that is needed to reach it is there: its
//! machine, an address, its secret. One of which something is missing is a failed one of ours: `/repair` and deletion are
//! there for it, and its machine, if it has one, is known and not paid for in vain. A deleted one is only its number, so that
//! nobody gets that again.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use reqwest::Url;
use secrecy::SecretString;

use super::report::{PaidFor, Report};
use super::secrets;
use super::source::{Agent, Pooled};
use crate::agents::validate::{mend_name, mend_prompt, validate_name, validate_prompt};
use crate::config::Models;
use crate::vault::Vault;

/// What is decided by.
pub struct Rules<'a> {
    /// Under the key that both systems share.
    pub vault: &'a Vault,
    /// Those that are offered.
    pub models: &'a Models,
    /// For agents whose own cannot be known.
    pub default_model: &'a str,
    /// Whether agents may be at plain http.
    pub allow_private: bool,
    /// An instance's public name, where this installation knows the gateway.
    pub public_name: &'a dyn Fn(&str) -> Option<String>,
}

/// An agent as it is to be here.
#[derive(Debug)]
pub struct Planned {
    /// Its number, as it was.
    pub id: i64,
    /// Telegram's number of its owner.
    pub owner_id: i64,
    /// By our rules.
    pub name: String,
    /// By our rules.
    pub system_prompt: String,
    /// Perhaps one that is not offered, where it runs on that.
    pub model: String,
    /// When it was created.
    pub created_at: Option<DateTime<Utc>>,
    /// How it is.
    pub standing: Standing,
    /// Where it is.
    pub machine: Option<Machine>,
}

/// How an agent is to be here.
#[derive(Debug)]
pub enum Standing {
    /// It answers.
    Running {
        /// Without a slash at the end.
        url: String,
        /// Which it asks of its callers.
        secret: SecretString,
    },
    /// It does not.
    Failed {
        /// Whether it ever did.
        ran: bool,
    },
    /// It is a number.
    Deleted,
}

/// An instance of the Python system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name at Aleph Cloud.
    pub item_hash: String,
    /// Its compute node, without a slash at the end; empty where that is not known.
    pub crn_url: String,
    /// Its public name, perhaps with a port.
    pub name: Option<String>,
    /// Whether anything of an agent may have been written to it: not if it never came up on a node.
    pub touched: bool,
}

/// Whether this names an instance: 64 hexadecimal digits, in lower case.
pub fn item_hash(text: &str) -> Option<String> {
    let hash = text.trim().to_ascii_lowercase();
    (hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hash)
}

/// A compute node's address; empty where it is none.
pub fn crn_url(text: Option<&str>) -> String {
    let text = text.unwrap_or_default().trim();
    let full = if text.is_empty() || text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    match Url::parse(&full) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => {
            full.trim_end_matches('/').to_owned()
        }
        _ => String::new(),
    }
}

fn is_deleted(agent: &Agent) -> bool {
    !agent.is_active || agent.status.trim().eq_ignore_ascii_case("stopped")
}

fn says_running(agent: &Agent) -> bool {
    matches!(agent.status.trim().to_ascii_lowercase().as_str(), "running" | "deployed")
}

/// Decides about all of them. Instances that none of them has any more are noted in the report.
pub fn plan(agents: &[&Agent], pool: &[Pooled], rules: &Rules<'_>, report: &mut Report) -> Vec<Planned> {
    let has = holders(agents, pool);
    agents.iter().map(|agent| planned(agent, &has, pool, rules, report)).collect()
}

/// Which agent has which instance. The Python system gives a machine of its pool to the next when a deployment fails, and does
/// not strike it out of the first's row: who runs there has it, and among those who say so who was deployed there last.
fn holders(agents: &[&Agent], pool: &[Pooled]) -> HashMap<String, i64> {
    let mut holders: HashMap<String, (bool, bool, i64)> = HashMap::new();
    for agent in agents.iter().filter(|agent| !is_deleted(agent)) {
        let Some(hash) = agent.instance_hash.as_deref().and_then(item_hash) else { continue };
        let deployed = pool.iter().any(|pooled| {
            pooled.agent_id == Some(agent.id) && item_hash(&pooled.instance_hash).as_ref() == Some(&hash)
        });
        let rank = (says_running(agent), deployed, agent.id);
        holders.entry(hash).and_modify(|best| *best = rank.max(*best)).or_insert(rank);
    }
    holders.into_iter().map(|(hash, (_, _, id))| (hash, id)).collect()
}

fn planned(
    agent: &Agent,
    holders: &HashMap<String, i64>,
    pool: &[Pooled],
    rules: &Rules<'_>,
    report: &mut Report,
) -> Planned {
    let what = format!("agent {}", agent.id);
    let hash = agent.instance_hash.as_deref().and_then(item_hash);
    if is_deleted(agent) {
        if let Some(item_hash) = hash.filter(|hash| !holders.contains_key(hash)) {
            let whose = format!("of agent {}, which was deleted there", agent.id);
            report.still_paid_for.push(PaidFor { item_hash, whose, exists: None, retired: false });
        }
        return Planned {
            id: agent.id,
            owner_id: agent.owner_id,
            name: String::new(),
            system_prompt: String::new(),
            model: rules.default_model.to_owned(),
            created_at: agent.created_at,
            standing: Standing::Deleted,
            machine: None,
        };
    }
    let (name, system_prompt) = words(agent, &what, report);
    let taken_by = hash.as_ref().and_then(|hash| holders.get(hash)).filter(|holder| **holder != agent.id);
    if let Some(other) = taken_by {
        report.repair(
            &what,
            format!("its machine is agent {other}'s by now; it has none, and failed: /repair gives it another"),
        );
    }
    let own = hash.filter(|_| taken_by.is_none());
    let standing = standing(agent, own.is_some(), taken_by.is_some(), rules, &what, report);
    let machine = own.map(|item_hash| {
        let of_pool = pool.iter().find(|pooled| self::item_hash(&pooled.instance_hash).as_ref() == Some(&item_hash));
        let node = agent.crn_url.as_deref().or(of_pool.and_then(|pooled| pooled.crn_url.as_deref()));
        let name = match &standing {
            Standing::Running { url, .. } => url.split_once("://").map(|(_, name)| name.to_owned()),
            _ => (rules.public_name)(&item_hash),
        };
        let crn_url = crn_url(node);
        let touched = !matches!(standing, Standing::Failed { ran: false }) || !crn_url.is_empty();
        Machine { item_hash, crn_url, name, touched }
    });
    let model = model(agent, &standing, rules, &what, report);
    Planned {
        id: agent.id,
        owner_id: agent.owner_id,
        name,
        system_prompt,
        model,
        created_at: agent.created_at,
        standing,
        machine,
    }
}

fn words(agent: &Agent, what: &str, report: &mut Report) -> (String, String) {
    let name = mend_name(&agent.name, &format!("Agent {}", agent.id));
    if validate_name(&agent.name).is_err() {
        report.repair(what, "its name was empty, too long, or not one line of plain text");
    }
    let instead = format!("You are {name}, a helpful assistant.");
    let prompt = mend_prompt(&agent.system_prompt, &instead);
    if validate_prompt(&agent.system_prompt).is_err() {
        let why =
            if prompt == instead { "its personality was empty" } else { "its personality was too long; it is cut" };
        report.repair(what, why);
    }
    (name, prompt)
}

/// The model of one that runs is what it runs on; it is for its owner to choose another.
fn model(agent: &Agent, standing: &Standing, rules: &Rules<'_>, what: &str, report: &mut Report) -> String {
    let stored = agent.model.as_deref().map(str::trim).filter(|model| !model.is_empty());
    let is_id = |model: &&str| model.len() <= 200 && model.bytes().all(|byte| byte.is_ascii_graphic());
    match stored {
        Some(model) if rules.models.get(model).is_some() => model.to_owned(),
        Some(model) if is_id(&model) && matches!(standing, Standing::Running { .. }) => {
            report.repair(what, format!("it runs on the model {model}, which is not in MODELS, and goes on doing so until its owner chooses another"));
            model.to_owned()
        }
        _ => {
            report.repair(what, format!("its model is not in MODELS; it gets {}", rules.default_model));
            rules.default_model.to_owned()
        }
    }
}

fn standing(
    agent: &Agent,
    has_machine: bool,
    told: bool,
    rules: &Rules<'_>,
    what: &str,
    report: &mut Report,
) -> Standing {
    let ran = agent.vm_url.as_deref().is_some_and(|url| !url.trim().is_empty());
    let failed = |report: &mut Report, why: &str| {
        if !told {
            let hope = if has_machine {
                "it has its machine, and /repair may mend it"
            } else {
                "/repair sets it up on another machine"
            };
            report.repair(what, format!("{why}; it counts as failed: {hope}"));
        }
        Standing::Failed { ran: ran && has_machine }
    };
    if !says_running(agent) {
        let status = agent.status.trim();
        if !status.eq_ignore_ascii_case("failed") {
            let status: String = status.chars().filter(|c| !c.is_control()).take(30).collect();
            return failed(report, &format!("it was left as \"{status}\""));
        }
        return Standing::Failed { ran: ran && has_machine };
    }
    if !has_machine {
        return failed(report, "it was said to run, without an instance that it runs on");
    }
    let url = match address(agent.vm_url.as_deref(), rules.allow_private) {
        Ok(url) => url,
        Err(why) => return failed(report, why),
    };
    match agent.auth_token.as_deref().map(|token| secrets::open(rules.vault, token)) {
        None | Some(Ok(None)) => failed(report, "it was said to run, without a secret by which it knows this service"),
        Some(Err(why)) => failed(report, &format!("its secret {why}")),
        Some(Ok(Some(opened))) => {
            if let Some(oddity) = opened.oddity {
                report.repair(what, format!("its secret {oddity}"));
            }
            Standing::Running { url, secret: opened.secret }
        }
    }
}

/// The address as it is kept: scheme, name, and a port that is not the scheme's own.
fn address(url: Option<&str>, allow_private: bool) -> Result<String, &'static str> {
    let url = url.unwrap_or_default().trim();
    if url.is_empty() {
        return Err("it was said to run, without an address");
    }
    let url = Url::parse(url).map_err(|_| "its address is not one")?;
    let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")).ok_or("its address is not one")?;
    if url.scheme() != "https" && !allow_private {
        return Err("its address is not https");
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{}://{host}{port}", url.scheme()))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
