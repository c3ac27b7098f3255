//! Agents, their machines and their history, as rows.

use std::collections::HashSet;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::history;
use super::plan::{Machine, Planned, Rules, Standing, item_hash, plan};
use super::report::{PaidFor, Report};
use super::source::{Agent, Event};
use super::write::{Before, Import, OwnKey};
use crate::agents::{Status, service};
use crate::cloud::aleph::{Crn, Instance};
use crate::cloud::store::{self as vms, Vm, VmState};
use crate::config::Visibility;
use crate::jobs::model::Kind;

/// What agents of the Python system speak.
const BASE_PROTOCOL: i32 = 1;
/// What is written of one that was never installed, until it is.
const OUR_PROTOCOL: i32 = 2;

impl Import<'_> {
    /// Takes these agents, which are not here yet, with all that is theirs.
    pub(super) async fn agents(
        &self,
        conn: &mut PgConnection,
        agents: &[&Agent],
        before: &Before,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let config = &self.app.config;
        let public_name = |hash: &str| self.app.aleph.as_ref().and_then(|aleph| aleph.public_name(hash).ok());
        let rules = Rules {
            vault: &config.vault,
            models: &config.models,
            default_model: &config.default_model,
            allow_private: config.agent_allow_private,
            public_name: &public_name,
        };
        let planned = plan(agents, &self.source.pool, &rules, report);
        let owners: Vec<i64> = agents.iter().map(|agent| agent.owner_id).collect();
        let keys = self.own_keys(conn, &owners).await?;
        let mut known = self.known(conn).await?;
        for mut agent in planned {
            let is_known = agent.machine.as_ref().is_some_and(|machine| known.contains(&machine.item_hash));
            if let Some(machine) = agent.machine.take_if(|_| is_known) {
                let why = format!(
                    "its instance {} is another machine's here already; it has none, and failed",
                    machine.item_hash
                );
                report.repair(format!("agent {}", agent.id), why);
                agent.standing = Standing::Failed { ran: false };
            }
            let key = keys.get(&agent.owner_id).copied().unwrap_or_default();
            self.agent(conn, &agent, key, before).await?;
            if let Some(machine) = &agent.machine {
                known.insert(machine.item_hash.clone());
                self.machine(conn, &agent, machine, report).await?;
            }
            match agent.standing {
                Standing::Running { .. } => report.taken.agents_running += 1,
                Standing::Failed { .. } => report.taken.agents_failed += 1,
                Standing::Deleted => report.taken.agents_deleted += 1,
            }
            if !matches!(agent.standing, Standing::Deleted) {
                self.history(conn, agent.id, report).await?;
            }
        }
        self.pool(conn, agents, before, &mut known, report).await
    }

    /// Instances of which there are rows.
    async fn known(&self, conn: &mut PgConnection) -> sqlx::Result<HashSet<String>> {
        let theirs = self.source.agents.iter().filter_map(|agent| agent.instance_hash.as_deref());
        let theirs = theirs.chain(self.source.pool.iter().map(|pooled| pooled.instance_hash.as_str()));
        let hashes: Vec<String> = theirs.filter_map(item_hash).collect();
        let known: Vec<String> = sqlx::query_scalar("select item_hash from vms where item_hash = any($1)")
            .bind(hashes)
            .fetch_all(conn)
            .await?;
        Ok(known.into_iter().collect())
    }

    async fn agent(
        &self,
        conn: &mut PgConnection,
        agent: &Planned,
        key: OwnKey,
        before: &Before,
    ) -> anyhow::Result<()> {
        let vault = &self.app.config.vault;
        let (status, url, secret, ran) = match &agent.standing {
            Standing::Running { url, secret } => {
                (Status::Running, Some(url), vault.encrypt(secret.expose_secret().as_bytes()), true)
            }
            Standing::Failed { ran } => (Status::Failed, None, service::new_secret(vault), *ran),
            Standing::Deleted => (Status::Deleted, None, vec![], false),
        };
        let is_deleted = matches!(agent.standing, Standing::Deleted);
        // What the Python system installed was on its owner's key if they had one then. Nobody knows whether they had.
        let may_hold = key.had && agent.machine.as_ref().is_some_and(|machine| machine.touched);
        let deployed_key = if ran && key.theirs { key.connected } else { 0 };
        let protocol =
            if agent.machine.as_ref().is_some_and(|machine| machine.touched) { BASE_PROTOCOL } else { OUR_PROTOCOL };
        sqlx::query(
            "insert into agents (id, owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, url,
                    protocol, wanted_version, deployed_version, created_at, deleted_at, wanted_key, deployed_key, may_hold_key,
                    imported_at)
             overriding system value
             values ($1, $2, $3, $2, $4, $5, $6, $7, $8, $9, $10, $11, 1, $12, $13, $14, $15, $16, $17, now())",
        )
        .bind(agent.id)
        .bind(agent.owner_id)
        .bind(self.app.bot_id)
        .bind(&agent.name)
        .bind(&agent.system_prompt)
        .bind(&agent.model)
        .bind(Visibility::Public.as_str())
        .bind(status.as_str())
        .bind(secret)
        .bind(url)
        .bind(protocol)
        .bind(i32::from(ran))
        .bind(agent.created_at.unwrap_or(before.now))
        .bind(is_deleted.then_some(before.now))
        .bind(if is_deleted { 0 } else { key.connected })
        .bind(deployed_key)
        .bind(may_hold)
        .execute(&mut *conn)
        .await?;
        if is_deleted {
            return Ok(());
        }
        sqlx::query(
            "insert into agent_versions (agent_id, version, name, system_prompt, model, created_at) values ($1, 1, $2, $3, $4, $5)",
        )
        .bind(agent.id)
        .bind(&agent.name)
        .bind(&agent.system_prompt)
        .bind(&agent.model)
        .bind(agent.created_at.unwrap_or(before.now))
        .execute(&mut *conn)
        .await?;
        // Its number, by which everybody knew it. With tools, as its visitors had them: an agent of the base protocol cannot
        // keep them from anybody, so without, nobody but its owner could talk to it.
        sqlx::query("insert into links (agent_id, tools, created_at) values ($1, true, $2)")
            .bind(agent.id)
            .bind(agent.created_at.unwrap_or(before.now))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn machine(
        &self,
        conn: &mut PgConnection,
        agent: &Planned,
        machine: &Machine,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let what = format!("agent {}", agent.id);
        if self.listed.is_some_and(|listed| !listed.contains(&machine.item_hash)) {
            report.notes.push(format!(
                "Agent {}: this account has no instance {} (any more). If it does not answer, /repair gives it another.",
                agent.id, machine.item_hash
            ));
        }
        if machine.crn_url.is_empty() {
            let why = if machine.touched {
                "its compute node is not known: it runs on and can be deleted, but a repair cannot have its machine started"
            } else {
                "its instance never came up on a compute node; /repair gives it another machine"
            };
            report.repair(what, why);
        }
        let (item_hash, crn_url, name) = (machine.item_hash.clone(), machine.crn_url.clone(), machine.name.clone());
        let vm = vm(item_hash, crn_url, name, (Some(agent.id), VmState::Assigned, machine.touched));
        vms::insert_machine(conn, &vm).await?;
        report.taken.machines += 1;
        Ok(())
    }

    async fn history(&self, conn: &mut PgConnection, agent_id: i64, report: &mut Report) -> anyhow::Result<()> {
        let events: Vec<Event> =
            self.source.history.iter().filter(|event| event.agent_id == agent_id).cloned().collect();
        for run in history::runs(&events) {
            let made = sqlx::query(
                "insert into jobs (id, kind, agent_id, step, done, run_at, outcome, error, created_at, ended_at)
                 values ($1, $2, $3, $4, true, $5, $6, $7, $5, $8) on conflict (id) do nothing",
            )
            .bind(run.id)
            .bind(Kind::Provision.as_str())
            .bind(agent_id)
            .bind(run.step.as_str())
            .bind(run.began)
            .bind(run.outcome.as_str())
            .bind(&run.error)
            .bind(run.ended)
            .execute(&mut *conn)
            .await?;
            if made.rows_affected() == 0 {
                continue;
            }
            for (step, error, began, ended) in &run.steps {
                sqlx::query(
                    "insert into job_steps (job_id, step, started_at, ended_at, error) values ($1, $2, $3, $4, $5)",
                )
                .bind(run.id)
                .bind(step.as_str())
                .bind(began)
                .bind(ended)
                .bind(error)
                .execute(&mut *conn)
                .await?;
            }
            report.taken.deployments += 1;
        }
        Ok(())
    }

    /// Machines of the pool that no agent has: they are prepared for a program that is none of ours. Listed, and removed where
    /// that is wanted.
    async fn pool(
        &self,
        conn: &mut PgConnection,
        new: &[&Agent],
        before: &Before,
        known: &mut HashSet<String>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let is_here =
            |id: &i64| before.agents.contains(id) || new.iter().any(|agent| agent.is_active && agent.id == *id);
        for pooled in &self.source.pool {
            let Some(hash) = item_hash(&pooled.instance_hash) else { continue };
            // An agent's, or one that was given up by an earlier import.
            if known.contains(&hash) {
                continue;
            }
            let status: String = pooled.status.chars().filter(|c| !c.is_control()).take(30).collect();
            let whose = match pooled.agent_id {
                Some(id) if is_here(&id) => format!("{status} in the pool, for agent {id}, which has another"),
                Some(id) => format!("{status} in the pool, for agent {id}, which is not there any more"),
                None => format!("{status} in the pool"),
            };
            report.still_paid_for.retain(|one| one.item_hash != hash);
            let is_ours = self.listed.is_some_and(|listed| listed.contains(&hash));
            let retired = self.options.retire_pool && is_ours;
            if retired {
                let vm = vm(
                    hash.clone(),
                    super::plan::crn_url(pooled.crn_url.as_deref()),
                    None,
                    (None, VmState::Retiring, true),
                );
                vms::insert_machine(conn, &vm).await?;
                vms::retire(conn, vm.id).await?;
                known.insert(hash.clone());
                report.taken.machines_retired += 1;
            }
            report.still_paid_for.push(PaidFor { item_hash: hash, whose, exists: None, retired });
        }
        for one in &mut report.still_paid_for {
            one.exists = self.listed.map(|listed| listed.contains(&one.item_hash));
        }
        report.still_paid_for.sort_by(|a, b| (&a.item_hash, &a.whose).cmp(&(&b.item_hash, &b.whose)));
        report.still_paid_for.dedup_by(|a, b| a.item_hash == b.item_hash);
        Ok(())
    }
}

/// The row of an instance that the Python system made. Its message is not needed to have it started, erased or forgotten, and is
/// not pinned to a node: the hash of the node is not known.
fn vm(
    item_hash: String,
    crn_url: String,
    name: Option<String>,
    (agent_id, state, touched): (Option<i64>, VmState, bool),
) -> Vm {
    let crn = Crn { hash: String::new(), url: crn_url, name: String::new() };
    let instance = Instance { item_hash, crn, message: Value::Null };
    Vm {
        id: Uuid::now_v7(),
        agent_id,
        state,
        machine: vms::Machine::Aleph(Box::new(instance)),
        host_key: None,
        name,
        touched,
    }
}
