//! The one transaction of an import. Rows are locked and written in the order of [`agents::store`](crate::agents::store).

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Days, NaiveDate, Utc};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::plan::item_hash;
use super::report::Report;
use super::source::{self, Source};
use super::{Options, secrets};
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::app::App;
use crate::cloud::store as vms;
use crate::database;

/// The largest number that an agent may have: it is written into links, and others must come after it.
const LARGEST_ID: i64 = 1 << 53;
/// Days of counts that are kept: see the janitor's rules.
const COUNTED_DAYS: u64 = 7;
/// Numbers that a refusal names.
const NAMED: usize = 20;

/// An agent that is here: number and owner, when it was taken over, and when it was made.
type Known = (i64, i64, Option<DateTime<Utc>>, DateTime<Utc>);

/// An import.
pub struct Import<'a> {
    pub app: &'a App,
    pub source: &'a Source,
    /// Instances of this account that exist, where that is known.
    pub listed: Option<&'a HashSet<String>>,
    pub options: &'a Options,
}

/// What the rows said before.
pub(super) struct Before {
    /// The newest row that an earlier import was given, by the Python system's clock; none: there was no import.
    pub imported_at: Option<DateTime<Utc>>,
    /// Postgres' time.
    pub now: DateTime<Utc>,
    /// Agents that are here already.
    pub agents: HashSet<i64>,
}

impl Before {
    /// Whether an earlier import has seen a row of this time.
    pub fn has_seen(&self, created_at: Option<DateTime<Utc>>) -> bool {
        self.imported_at.is_some_and(|at| created_at.is_none_or(|created_at| created_at <= at))
    }
}

/// An owner's key, as it came out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OwnKey {
    /// `users.key_version` of the key that is connected; 0: none is.
    pub connected: i32,
    /// Whether it is the one of the Python system.
    pub theirs: bool,
    /// Whether the Python system had one, readable or not: agents may have been installed with it.
    pub had: bool,
}

impl Import<'_> {
    /// Does it all, or nothing; with `--dry-run` nothing in any case.
    pub async fn run(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut tx = database::begin(&self.app.db).await.context("the database does not answer")?;
        // Of two at once, the second sees what the first has taken.
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('baal import', 0))").execute(&mut *tx).await?;
        let before = self.before(&mut tx, report).await?;
        self.refuse_other_key(&before)?;
        let new_users = self.users(&mut tx, &before, report).await?;
        let agents: Vec<&source::Agent> =
            self.source.agents.iter().filter(|agent| self.is_wanted(agent, &before, report)).collect();
        self.owners(&mut tx, &agents, &before, report).await?;
        if !self.options.dry_run {
            // Outside of any transaction by nature: first, so that nobody who creates an agent meanwhile gets a number of these.
            raise_sequence(&mut tx, self.source.last_agent_id.min(LARGEST_ID)).await?;
        }
        self.agents(&mut tx, &agents, &before, report).await?;
        self.usage(&mut tx, &before, &new_users, report).await?;
        // Counted under the lock under which machines are made.
        let unended = vms::count_unended(&mut tx).await?;
        if unended > self.app.config.max_vms {
            report.notes.push(format!(
                "There are {unended} machines now, and MAX_VMS is {}: no other is made until it is raised.",
                self.app.config.max_vms
            ));
        }
        if report.taken.is_nothing() || self.options.dry_run {
            tx.rollback().await?;
            return Ok(());
        }
        self.remember(&mut tx, &before, report).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Refuses to mix agents up.
    async fn before(&self, conn: &mut PgConnection, report: &mut Report) -> anyhow::Result<Before> {
        let (imported_at, now) = sqlx::query_as("select imported_at, now() from installation")
            .fetch_one(&mut *conn)
            .await
            .context("the database has not the present schema; `baal migrate` brings it up to date")?;
        let ids: Vec<i64> = self.source.agents.iter().map(|agent| agent.id).collect();
        let known: Vec<Known> =
            sqlx::query_as("select id, owner_id, imported_at, created_at from agents where id = any($1) order by id")
                .bind(&ids)
                .fetch_all(conn)
                .await?;
        let theirs: HashMap<i64, &source::Agent> = self.source.agents.iter().map(|agent| (agent.id, agent)).collect();
        let is_other = |(id, owner_id, imported_at, created_at): &Known| {
            let Some(agent) = theirs.get(id) else { return false };
            imported_at.is_none()
                || agent.owner_id != *owner_id
                || agent.created_at.is_some_and(|at| at.timestamp_micros() != created_at.timestamp_micros())
        };
        let others: Vec<String> = known.iter().filter(|row| is_other(row)).map(|row| row.0.to_string()).collect();
        if !others.is_empty() {
            let named = others.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if others.len() > NAMED { format!(" and {} more", others.len() - NAMED) } else { String::new() };
            bail!(
                "these numbers belong to other agents here, made by this program or taken over from another database: {named}{more}. \
                 Links name agents by number, so nothing can be taken over beside them: import into an empty database"
            );
        }
        report.known.agents = known.len() as u64;
        Ok(Before { imported_at, now, agents: known.into_iter().map(|row| row.0).collect() })
    }

    /// Refuses what would leave everybody without their keys, and every agent failed: a BOT_ENCRYPTION_KEY that opens nothing there.
    /// Of what was taken before, the key may be gone since.
    fn refuse_other_key(&self, before: &Before) -> anyhow::Result<()> {
        let users = self.source.users.iter().filter(|user| !before.has_seen(user.created_at));
        let agents = self.source.agents.iter();
        let agents = agents.filter(|agent| !before.agents.contains(&agent.id) && !before.has_seen(agent.created_at));
        let secrets = users.filter_map(|user| user.api_key.as_deref());
        let secrets = secrets.chain(agents.filter_map(|agent| agent.auth_token.as_deref()));
        let (mut opened, mut shut) = (0, 0);
        for is_open in secrets.filter_map(|stored| secrets::opens(&self.app.config.vault, stored)) {
            *(if is_open { &mut opened } else { &mut shut }) += 1;
        }
        ensure!(
            opened > 0 || shut == 0 || self.options.key_is_lost,
            "the configured BOT_ENCRYPTION_KEY opens none of the {shut} keys and secrets in {}: it is not the one of the Python \
             system, which is in the .env of that. Set BOT_ENCRYPTION_KEY to it and restart every process; where this installation \
             has something under its own key already, to both: ITS_OWN,THEIRS. If theirs is lost, --key-is-lost takes over what there \
             is without keys and secrets",
            self.options.baal_db.display()
        );
        Ok(())
    }

    /// Whether an agent is to be taken now.
    fn is_wanted(&self, agent: &source::Agent, before: &Before, report: &mut Report) -> bool {
        if before.agents.contains(&agent.id) {
            return false;
        }
        if before.has_seen(agent.created_at) {
            report.known.agents_gone += 1;
            return false;
        }
        if !(1..=LARGEST_ID).contains(&agent.id) || agent.owner_id <= 0 {
            let hash = agent.instance_hash.as_deref().and_then(item_hash);
            let instance = hash.map_or(String::new(), |hash| format!("; its instance {hash} may still be paid for"));
            report.leave(format!("agent {}", agent.id), format!("its number or its owner's is none{instance}"));
            return false;
        }
        true
    }

    /// Takes people; the numbers of those who are new here.
    async fn users(
        &self,
        conn: &mut PgConnection,
        before: &Before,
        report: &mut Report,
    ) -> anyhow::Result<HashSet<i64>> {
        let (mut ids, mut keys, mut lines, mut times) = (vec![], vec![], vec![], vec![]);
        let mut seen = vec![];
        for user in &self.source.users {
            if user.id <= 0 {
                report.leave(format!("user {}", user.id), "that is no person's number");
                continue;
            }
            if before.has_seen(user.created_at) {
                seen.push(user.id);
                continue;
            }
            ids.push(user.id);
            keys.push(self.key(user, report).map(|key| self.app.config.vault.encrypt(key.expose_secret().as_bytes())));
            lines.push(user.show_tools);
            times.push(user.created_at.unwrap_or(before.now).min(before.now));
        }
        // Their names come with their next messages; until then it must not be empty, as that of the forgotten is.
        let new: Vec<(i64, bool)> = sqlx::query_as(
            "insert into users (id, name, libertai_key, key_version, key_connected_at, tool_lines, first_seen_at)
             select u.id, 'User ' || u.id, u.key, case when u.key is null then 0 else 1 end,
                    case when u.key is null then null else now() end, u.lines, u.at
               from unnest($1::int8[], $2::bytea[], $3::bool[], $4::timestamptz[]) u(id, key, lines, at)
             on conflict (id) do nothing returning id, libertai_key is not null",
        )
        .bind(&ids)
        .bind(&keys)
        .bind(&lines)
        .bind(&times)
        .fetch_all(&mut *conn)
        .await?;
        // Who is here already and has never connected a key here keeps that of there.
        let given: Vec<i64> = sqlx::query_scalar(
            "update users x set libertai_key = u.key, key_version = 1, key_connected_at = now()
               from unnest($1::int8[], $2::bytea[]) u(id, key)
              where x.id = u.id and u.key is not null and x.key_version = 0 and x.libertai_key is null
                and x.forgetting_since is null and x.name <> '' returning x.id",
        )
        .bind(&ids)
        .bind(&keys)
        .fetch_all(&mut *conn)
        .await?;
        let there: i64 =
            sqlx::query_scalar("select count(*) from users where id = any($1)").bind(&seen).fetch_one(conn).await?;
        report.taken.users += new.len() as u64;
        report.taken.keys += (new.iter().filter(|(_, has_key)| *has_key).count() + given.len()) as u64;
        report.known.users = (ids.len() - new.len()) as u64 + u64::try_from(there)?;
        report.known.users_gone = seen.len() as u64 - u64::try_from(there)?;
        Ok(new.into_iter().map(|(id, _)| id).collect())
    }

    /// A person's key, if it is one.
    fn key(&self, user: &source::User, report: &mut Report) -> Option<secrecy::SecretString> {
        let what = format!("user {}", user.id);
        match secrets::open(&self.app.config.vault, user.api_key.as_deref()?) {
            Ok(None) => None,
            Ok(Some(opened)) => {
                if let Some(oddity) = opened.oddity {
                    report.repair(what, format!("the key {oddity}"));
                }
                Some(opened.secret)
            }
            Err(why) => {
                report
                    .leave(what, format!("the key {why}; they are here without one, and connect it again with /login"));
                None
            }
        }
    }

    /// Makes those owners known whom the Python system had no row of.
    async fn owners(
        &self,
        conn: &mut PgConnection,
        agents: &[&source::Agent],
        before: &Before,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let ids: Vec<i64> = agents.iter().map(|agent| agent.owner_id).collect();
        let made: Vec<i64> = sqlx::query_scalar(
            "insert into users (id, name, first_seen_at) select distinct o.id, 'User ' || o.id, $2 from unnest($1::int8[]) o(id)
             on conflict (id) do nothing returning id",
        )
        .bind(&ids)
        .bind(before.now)
        .fetch_all(conn)
        .await?;
        for id in &made {
            report.repair(format!("user {id}"), "they own an agent and were not among the people; they are now");
        }
        report.taken.users += made.len() as u64;
        Ok(())
    }

    /// The keys of these people as they are now.
    pub(super) async fn own_keys(&self, conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<HashMap<i64, OwnKey>> {
        let rows: Vec<(i64, i32, bool)> = sqlx::query_as(
            "select id, case when libertai_key is null then 0 else key_version end, key_connected_at = now()
               from users where id = any($1) and libertai_key is not null",
        )
        .bind(ids)
        .fetch_all(conn)
        .await?;
        let mut keys: HashMap<i64, OwnKey> = rows
            .into_iter()
            // What this transaction connected has its time.
            .map(|(id, connected, theirs)| (id, OwnKey { connected, theirs, had: false }))
            .collect();
        let had =
            self.source.users.iter().filter(|user| user.api_key.as_deref().is_some_and(|key| !key.trim().is_empty()));
        for user in had {
            keys.entry(user.id).or_default().had = true;
        }
        Ok(keys)
    }

    /// Takes counts of messages: free messages that somebody has had today are had.
    async fn usage(
        &self,
        conn: &mut PgConnection,
        before: &Before,
        new_users: &HashSet<i64>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let today: NaiveDate = before.now.date_naive();
        let oldest = today.checked_sub_days(Days::new(COUNTED_DAYS)).unwrap_or(today);
        let mut counts: BTreeMap<(i64, NaiveDate), i64> = BTreeMap::new();
        for usage in &self.source.usage {
            let is_new = before.imported_at.is_none() || new_users.contains(&usage.user_id);
            if is_new && usage.messages > 0 && usage.day >= oldest {
                // Days there are by the clock of the server, which may be ahead of UTC.
                *counts.entry((usage.user_id, usage.day.min(today))).or_default() += usage.messages.min(1_000_000);
            }
        }
        let (mut users, mut days, mut messages) = (vec![], vec![], vec![]);
        for ((user, day), count) in counts {
            users.push(user);
            days.push(day);
            messages.push(i32::try_from(count).unwrap_or(i32::MAX));
        }
        // Added to what they have had here meanwhile: only an import that takes them does so.
        let written = sqlx::query(
            "insert into usage as x (user_id, day, messages)
             select u.id, u.day, u.messages from unnest($1::int8[], $2::date[], $3::int4[]) u(id, day, messages)
              where exists (select from users k where k.id = u.id)
             on conflict (user_id, day) do update set messages = x.messages + excluded.messages",
        )
        .bind(users)
        .bind(days)
        .bind(messages)
        .execute(conn)
        .await?;
        report.taken.usage_days = written.rows_affected();
        Ok(())
    }

    /// Writes down that it was done.
    async fn remember(&self, conn: &mut PgConnection, before: &Before, report: &Report) -> anyhow::Result<()> {
        // By their clock, and not by the present time: what was written after a copy was made is in none of it, and is taken from
        // the next one. Of rows without a time only this is known, that there was an import.
        let newest = self.source.agents.iter().map(|agent| agent.created_at);
        let newest = newest.chain(self.source.users.iter().map(|user| user.created_at)).flatten().max();
        let at = newest.unwrap_or(DateTime::UNIX_EPOCH).max(before.imported_at.unwrap_or(DateTime::UNIX_EPOCH));
        ensure!(
            sqlx::query("update installation set imported_at = $1").bind(at).execute(&mut *conn).await?.rows_affected()
                == 1,
            "the installation's row is gone"
        );
        let (id, _) = crate::cloud::reconcile::installation(&mut *conn).await?;
        let after =
            json!({"taken": report.taken, "repaired": report.repaired.len(), "left_out": report.left_out.len()});
        let change = Change {
            action: "installation.import",
            kind: "installation",
            id: id.to_string(),
            user_id: None,
            before: Value::Null,
            after,
        };
        audit::record(conn, &Caller::command_line(), change).await?;
        Ok(())
    }
}

/// Numbers of agents that are created from now on are larger than this.
async fn raise_sequence(conn: &mut PgConnection, above: i64) -> sqlx::Result<()> {
    sqlx::query("select setval('agents_id_seq', $1) from agents_id_seq where last_value < $1 or not is_called")
        .bind(above.max(1))
        .execute(conn)
        .await?;
    Ok(())
}
