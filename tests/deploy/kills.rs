//! The worker killed before and after every saved step of every kind of job.
//!
//! In the short form one job suffers all deaths, one after another; with `E2E_LONG=1` each death has an agent of its own.

use std::collections::BTreeSet;

use baal::agents::service::{self, Change, NewAgent};
use baal::agents::{Status, store};
use baal::app::App;
use baal::config::Visibility;
use baal_protocol::Health;

use crate::field::Field;
use crate::gate::{Death, Gate, Moment};
use crate::machines::Host;

const OWNER: i64 = 7;

/// Steps of each kind of job on a cloud of machines.
const PROVISION: [&str; 7] = ["place", "create", "reach", "prepare", "install", "health", "finish"];
const REDEPLOY: [&str; 3] = ["install", "health", "finish"];
const PREPARE: [&str; 5] = ["place", "create", "reach", "prepare", "store"];
const REMOVE: [&str; 3] = ["stop", "remove", "end"];

fn around(steps: &[&str]) -> BTreeSet<Death> {
    steps.iter().flat_map(|step| [Moment::Before, Moment::After].map(|moment| ((*step).to_owned(), moment))).collect()
}

/// With `E2E_LONG=1` every death for itself; else all together.
fn runs(steps: &[&str]) -> Vec<BTreeSet<Death>> {
    let all = around(steps);
    if std::env::var_os("E2E_LONG").is_some() {
        all.into_iter().map(|death| BTreeSet::from([death])).collect()
    } else {
        vec![all]
    }
}

/// What the kills are about: an installation whose second program is the worker that dies.
struct Victim {
    field: Field,
    app: App,
}

impl Victim {
    async fn start(hosts: u32, env: &[(&str, &str)]) -> Self {
        let field = Field::build(hosts, |mut builder| {
            for (name, value) in env {
                builder = builder.env(name, value);
            }
            builder.http_apart()
        });
        let field = field.await;
        // Whom the bot may write to.
        field.stack.user(OWNER).says("/help").await;
        sqlx::query("insert into users (id, name) values ($1, 'Ann')")
            .bind(OWNER)
            .execute(&field.stack.db)
            .await
            .unwrap();
        Self { app: field.app(), field }
    }

    /// The job, worked at by workers that die these deaths.
    async fn suffers(&self, kind: &'static str, deaths: &BTreeSet<Death>) {
        let config = self.field.config();
        let worker = self.field.stack.baal(1);
        worker.kill9();
        let gate = Gate::close(kind, &self.field.stack.db, &config, worker).await;
        let died = gate.pass(|death| deaths.contains(death)).await;
        assert_eq!(&died, deaths, "deaths at {kind}");
    }

    async fn create(&self) -> i64 {
        let mut tx = self.app.db.begin().await.unwrap();
        let new = NewAgent {
            owner_id: OWNER,
            bot_id: self.app.config.bot_id(),
            chat_id: OWNER,
            name: "Ada 🤖 <b>".into(),
            system_prompt: "be kind".into(),
            model: "qwen3-coder-next".into(),
            visibility: Visibility::Public,
        };
        let agent = service::create(&mut tx, &self.app, new).await.unwrap();
        tx.commit().await.unwrap();
        agent.id
    }

    async fn change(&self, id: i64, prompt: &str) {
        let mut tx = self.app.db.begin().await.unwrap();
        let change = Change { system_prompt: Some(prompt.into()), ..Change::default() };
        service::change(&mut tx, &self.app, OWNER, id, change).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn repair(&self, id: i64) {
        let mut tx = self.app.db.begin().await.unwrap();
        service::repair(&mut tx, &self.app, OWNER, id).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn delete(&self, id: i64) {
        let mut tx = self.app.db.begin().await.unwrap();
        service::delete(&mut tx, OWNER, id).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// What is in the pool becomes too old to be kept, while nobody works.
    async fn ages(&self) {
        self.field.stack.baal(1).kill9();
        let age = "update vms set warm_since = now() - interval '2 days' where state = 'warm' and ended_at is null";
        sqlx::query(age).execute(&self.app.db).await.unwrap();
    }

    /// The agent runs as it is wanted, on one machine, and the cloud agrees.
    async fn is_well(&self, id: i64) {
        self.field.rests().await;
        let mut conn = self.app.db.acquire().await.unwrap();
        let agent = store::get(&mut conn, id).await.unwrap().unwrap();
        assert_eq!((agent.status, agent.deployed_version), (Status::Running, agent.wanted_version), "{agent:?}");
        let url = format!("{}/health", agent.url.unwrap());
        let health: Health =
            self.app.agents_http.of(false).get(&url).unwrap().send().await.unwrap().json().await.unwrap();
        assert_eq!(health.agent_name, agent.name);
    }

    async fn is_gone(&self) {
        self.field.rests().await;
        assert!(self.field.paid().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_workers_die_around_every_step_lives_changes_is_mended_and_goes() {
    let victim = Victim::start(2, &[]).await;
    let (provisions, redeploys) = (runs(&PROVISION), runs(&REDEPLOY));
    let (repairs, removals) = (runs(&PROVISION), runs(&REMOVE));
    for run in 0..provisions.len() {
        let id = victim.create().await;
        victim.suffers("provision", &provisions[run]).await;
        victim.is_well(id).await;
        if let Some(deaths) = redeploys.get(run) {
            victim.change(id, &format!("be kind, {run}")).await;
            victim.suffers("redeploy", deaths).await;
            victim.is_well(id).await;
        }
        victim.field.hosts.iter().for_each(break_agent);
        victim.repair(id).await;
        victim.suffers("repair", &repairs[run]).await;
        victim.is_well(id).await;
        victim.delete(id).await;
        if let Some(deaths) = removals.get(run) {
            victim.suffers("deprovision", deaths).await;
        }
        victim.is_gone().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_workers_die_around_every_step_has_its_machines_once() {
    let pool = [("POOL_ENABLED", "true"), ("POOL_MIN_SIZE", "1"), ("POOL_MAX_SIZE", "1")];
    let victim = Victim::start(2, &pool).await;
    for (run, deaths) in runs(&PREPARE).iter().enumerate() {
        if run > 0 {
            victim.ages().await;
        }
        victim.suffers("prepare", deaths).await;
        victim.field.rests().await;
    }
    for deaths in runs(&REMOVE) {
        victim.ages().await;
        victim.suffers("retire", &deaths).await;
        victim.field.rests().await;
    }
}

/// As somebody would who knows the machine too well.
fn break_agent(host: &Host) {
    let (_, said) = host
        .machine()
        .try_root("systemctl disable --quiet baal-agent.service; systemctl kill --signal=KILL baal-agent.service; systemctl stop baal-agent.service")
        .unwrap();
    drop(said);
}
