//! Compute nodes: bringing instances up and down and asking what became of them. Anybody may run a node, and it may say
//! anything.

use std::net::IpAddr;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tracing::info;

use super::http::{Answer, NODE_ANSWER, clean, excerpt, host, send_for};
use super::signing::{KEY_HEADER, OPERATION_HEADER};
use super::{Aleph, AlephError, Crn, Execution, Instance, gateway};
use crate::addresses::is_public;
use crate::ssh;

/// What is kept of a node's words, in characters.
const WORDS: usize = 300;
/// SSH's port inside an instance.
const SSH_PORT: u16 = 22;

/// An instance in a node's list.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Absent,
    /// There, and neither running nor on its way up.
    Stopped,
    /// On its way up or down.
    Moving,
    Failed(String),
    Running(Option<ssh::Address>),
}

impl Aleph {
    /// Asks the node to bring the instance up; asking again changes nothing.
    ///
    /// Nodes before aleph-vm 2.1 have no signed start, and newer ones do not know an instance yet that was just posted: both
    /// answer 404 and are notified of it instead.
    pub async fn start(&self, instance: &Instance) -> Result<(), AlephError> {
        let answer = self.operate(instance, "start").await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => self.notify(instance).await,
            _ => Err(refusal(&answer, &name(&instance.crn))),
        }
    }

    /// Asks the node to boot the instance anew.
    pub async fn reboot(&self, instance: &Instance) -> Result<(), AlephError> {
        let answer = self.operate(instance, "reboot").await?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(refusal(&answer, &name(&instance.crn))) }
    }

    /// What the node says of the instance.
    pub async fn execution(&self, instance: &Instance) -> Result<Execution, AlephError> {
        if !instance.crn.is_known() {
            return Ok(Execution::Absent);
        }
        Ok(match self.seen(instance).await? {
            Seen::Absent => Execution::Absent,
            Seen::Stopped | Seen::Moving => Execution::Booting,
            Seen::Failed(why) => Execution::Failed(why),
            Seen::Running(ssh) => Execution::Running { ssh },
        })
    }

    /// Asks the node to stop the instance and to erase its disk. True if the node has nothing of it (any more).
    pub async fn erase(&self, instance: &Instance) -> Result<bool, AlephError> {
        if !instance.crn.is_known() {
            return Ok(true);
        }
        let answer = self.operate(instance, "erase").await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(true),
            // Some say that it is done and go on running it.
            status if status.is_success() => {
                Ok(matches!(self.seen(instance).await?, Seen::Absent | Seen::Stopped | Seen::Failed(_)))
            }
            _ => Err(refusal(&answer, &name(&instance.crn))),
        }
    }

    /// Sends a signed request about the instance.
    async fn operate(&self, instance: &Instance, operation: &str) -> Result<Answer, AlephError> {
        let hash = hex::encode(gateway::native(&instance.item_hash)?);
        let path = format!("/control/machine/{hash}/{operation}");
        let signed = self.sign(&instance.crn.url, "POST", &path)?;
        let request = self.nodes_http.post(&format!("{}{path}", instance.crn.url));
        let request = request.header(KEY_HEADER, signed.key).header(OPERATION_HEADER, signed.operation);
        send_for(request, &name(&instance.crn), self.deadlines.operate, NODE_ANSWER).await
    }

    async fn notify(&self, instance: &Instance) -> Result<(), AlephError> {
        let what = name(&instance.crn);
        let request = self.nodes_http.post(&format!("{}/control/allocation/notify", instance.crn.url));
        let request = request.json(&json!({ "instance": instance.item_hash }));
        let answer = send_for(request, &what, self.deadlines.operate, NODE_ANSWER).await?;
        let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let successful = said.as_ref().and_then(|said| said.get("successful")).and_then(Value::as_bool);
        match (answer.status.as_u16(), successful) {
            (200 | 207, Some(true)) => Ok(()),
            (status @ (200 | 207), _) => Err(AlephError::Refused { what, status, body: excerpt(&answer.body) }),
            // Some nodes take instances from the scheduler alone, which finds the message by itself.
            (409, _) => {
                info!(vm.hash = %instance.item_hash, "the node waits for the scheduler to give it the instance");
                Ok(())
            }
            _ => Err(refusal(&answer, &what)),
        }
    }

    async fn seen(&self, instance: &Instance) -> Result<Seen, AlephError> {
        let what = name(&instance.crn);
        let list = |path| {
            let request = self.nodes_http.get(&format!("{}{path}", instance.crn.url));
            send_for(request, &what, self.deadlines.read, NODE_ANSWER)
        };
        let answer = list("/v2/about/executions/list").await?;
        // The older list has only what runs, and no ports: enough to know that something is gone.
        let old = answer.status == StatusCode::NOT_FOUND;
        let answer = if old { list("/about/executions/list").await? } else { answer };
        let execution = answer.only(&instance.item_hash, &what)?;
        Ok(match &execution {
            Value::Null => Seen::Absent,
            _ if old => Seen::Running(None),
            execution => seen(execution, self.allow_private),
        })
    }
}

/// As errors name it: by its address, because its name is its operator's to choose.
fn name(crn: &Crn) -> String {
    format!("the compute node {}", host(&crn.url))
}

/// A refusal, told from a broken server: a node without room answers 503 with a reason in JSON, and will do so again.
fn refusal(answer: &Answer, what: &str) -> AlephError {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let reasoned = said.is_some_and(|said| ["error", "errors", "failing"].iter().any(|key| said.get(key).is_some()));
    if answer.status == StatusCode::SERVICE_UNAVAILABLE && reasoned {
        let body = excerpt(&answer.body);
        return AlephError::Refused { what: what.to_owned(), status: answer.status.as_u16(), body };
    }
    answer.refusal(what)
}

/// One entry of `/v2/about/executions/list`. `state` and `allocation` came with aleph-vm 2.1; before, there are only `running`
/// and the times in `status`.
fn seen(execution: &Value, allow_private: bool) -> Seen {
    let text = |path| execution.pointer(path).and_then(Value::as_str);
    let running = execution.get("running").and_then(Value::as_bool);
    match text("/state") {
        Some("running") => return Seen::Running(ssh_address(execution, allow_private)),
        Some("failed") => return Seen::Failed(why(execution)),
        Some("stopped") => return Seen::Stopped,
        _ => {}
    }
    // An allocation that failed is tried again only where a time for that is named.
    let retried = execution.pointer("/allocation/next_retry_at").is_some_and(|at| !at.is_null());
    if text("/allocation/state") == Some("failed") && !retried && running != Some(true) {
        return Seen::Failed(why(execution));
    }
    let had = |path| execution.pointer(path).is_some_and(|at| !at.is_null());
    match (text("/state"), running) {
        (None, Some(true)) => Seen::Running(ssh_address(execution, allow_private)),
        // Before the state, an instance without `running` was listed only while it ran.
        (None, None) if had("/networking") && !had("/status/stopping_at") => {
            Seen::Running(ssh_address(execution, allow_private))
        }
        (None, _) if had("/status/stopped_at") => Seen::Stopped,
        _ => Seen::Moving,
    }
}

fn why(execution: &Value) -> String {
    let text = |path| execution.pointer(path).and_then(Value::as_str);
    let words = text("/allocation/error/message").or(text("/allocation/error/code")).or(text("/error"));
    clean(words.unwrap_or("no reason given"), WORDS)
}

/// Where the instance's SSH is reached: through the port that the node forwards, else directly over IPv6.
fn ssh_address(execution: &Value, allow_private: bool) -> Option<ssh::Address> {
    let networking = execution.get("networking")?;
    let ip = |name| {
        let ip: IpAddr = networking.get(name)?.as_str()?.parse().ok()?;
        // A node that names an address of our own network would have us knock there.
        (allow_private || is_public(ip)).then(|| ip.to_string())
    };
    let port = networking.pointer("/mapped_ports/22/host").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    match (ip("host_ipv4"), port) {
        (Some(host), Some(port)) => Some(ssh::Address { host, port }),
        _ => ip("ipv6_ip").map(|host| ssh::Address { host, port: SSH_PORT }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networking() -> Value {
        json!({"host_ipv4": "37.27.143.174", "ipv6_ip": "2a01:4f8::5671", "ipv4_ip": "172.16.7.2",
               "mapped_ports": {"22": {"host": 24001, "tcp": true, "udp": false}}})
    }

    fn at(host: &str, port: u16) -> Seen {
        Seen::Running(Some(ssh::Address { host: host.into(), port }))
    }

    #[test]
    fn a_running_instance_is_reached_through_the_forwarded_port_or_over_ipv6() {
        let mut running = json!({"networking": networking(), "running": true, "state": "running"});
        assert_eq!(seen(&running, false), at("37.27.143.174", 24001));
        running["networking"]["mapped_ports"] = json!({});
        assert_eq!(seen(&running, false), at("2a01:4f8::5671", 22));
        running["networking"] = json!(null);
        assert_eq!(seen(&running, false), Seen::Running(None));
    }

    #[test]
    fn older_nodes_say_less() {
        assert_eq!(seen(&json!({"networking": networking(), "running": true}), false), at("37.27.143.174", 24001));
        assert_eq!(seen(&json!({"networking": networking()}), false), at("37.27.143.174", 24001));
        let stopped = json!({"networking": networking(), "running": false, "status": {"stopped_at": "2026-11-23"}});
        assert_eq!(seen(&stopped, false), Seen::Stopped);
        assert_eq!(seen(&json!({"running": false, "status": {"started_at": null}}), false), Seen::Moving);
    }

    #[test]
    fn newer_nodes_name_the_state() {
        for (state, expected) in [
            ("defined", Seen::Moving),
            ("booting", Seen::Moving),
            ("stopping", Seen::Moving),
            ("stopped", Seen::Stopped),
            ("levitating", Seen::Moving),
        ] {
            assert_eq!(seen(&json!({"state": state, "running": false}), false), expected, "{state}");
        }
        let error = json!({"code": "no_space", "message": "disk\u{1b}[31m full"});
        let failed = json!({"state": "failed", "allocation": {"state": "failed", "error": error}});
        assert_eq!(seen(&failed, false), Seen::Failed("disk [31m full".into()));
        let mut again = json!({"state": "defined", "allocation": {"state": "failed", "error": error}});
        assert_eq!(seen(&again, false), Seen::Failed("disk [31m full".into()));
        again["allocation"]["next_retry_at"] = json!("2026-11-23T05:00:00Z");
        assert_eq!(seen(&again, false), Seen::Moving);
    }

    #[test]
    fn a_node_cannot_send_us_into_our_own_network() {
        for host in ["127.0.0.1", "169.254.169.254", "10.0.0.1", "example.org", "37.27.143.174; reboot"] {
            let networking = json!({"host_ipv4": host, "mapped_ports": {"22": {"host": 22}}});
            let running = json!({"running": true, "networking": networking});
            assert_eq!(seen(&running, false), Seen::Running(None), "{host}");
        }
        let near =
            json!({"running": true, "networking": {"host_ipv4": "127.0.0.1", "mapped_ports": {"22": {"host": 22}}}});
        assert_eq!(seen(&near, true), at("127.0.0.1", 22));
    }

    #[test]
    fn garbage_in_an_entry_is_no_address() {
        for odd in [json!({"mapped_ports": {"22": {"host": 99999}}, "host_ipv4": "1.1.1.1"}), json!([]), json!("x")] {
            assert_eq!(seen(&json!({"running": true, "networking": odd}), false), Seen::Running(None));
        }
    }
}
