//! Connections to Postgres, and its schema.
//!
//! Two ways lead there. The **pool** (DATABASE_URL) may go through PgBouncer in transaction mode, where each transaction can
//! meet another session: nothing that it does may outlive a transaction, but for prepared statements, which PgBouncer itself
//! keeps track of. A **session** (DATABASE_DIRECT_URL, else DATABASE_URL) is one connection to one backend, for the little
//! that needs one: migrations, which hold a lock from one transaction to the next, and `listen`.

mod columns;
mod trouble;

use std::sync::LazyLock;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};
use tracing::warn;

pub(crate) use self::columns::{columns, list};
pub use self::trouble::{may_pass, trouble};
use crate::config::Config;

/// The schema, as numbered SQL files embedded in the program. Versions that it does not know are no error: they are a newer
/// program's, and what it added does not hurt this one (docs/operations.md, "Upgrading the schema").
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.set_ignore_missing(true);
    migrations
});

/// Under which the settings of a role are compared and changed, so that two processes do not change them at once.
const ROLE_LOCK: &str = "baal role settings";

/// How long a connection may take to be had.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long other statements wait for a lock at most.
pub const LOCK_TIMEOUT: &str = "20s";

/// What every session of the pool is to have, however it comes there.
fn settings(config: &Config) -> [(&'static str, String); 4] {
    [
        // A process that was frozen in the middle of a transaction must not keep its locks from those that take its work over.
        ("idle_in_transaction_session_timeout", format!("{}ms", config.lease.as_millis() / 2)),
        ("lock_timeout", LOCK_TIMEOUT.into()),
        // Prepared statements keep plans that were made when a table was all but empty; the compiler costs more than
        // any of these statements.
        ("enable_seqscan", "off".into()),
        ("jit", "off".into()),
    ]
}

/// How the pool connects. Behind a pooler no session can be given settings at its start: PgBouncer refuses startup parameters
/// that it does not track, so there the role has them ([`migrate`]).
pub fn pooled(config: &Config) -> sqlx::Result<PgConnectOptions> {
    let options = parse(&config.database_url, config)?.application_name("baal");
    Ok(match config.database_direct_url {
        Some(_) => options.extra_float_digits(None),
        None => options.options(settings(config)),
    })
}

/// How a session of its own connects. Neither statements nor pauses are limited there: changing a large table, or reading all of
/// them, may take longer than any other statement may.
pub fn session(config: &Config, name: &str) -> sqlx::Result<PgConnectOptions> {
    let url = config.database_direct_url.as_ref().unwrap_or(&config.database_url);
    // The role may have limits of its own.
    let unlimited = [
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("jit", "off"),
    ];
    Ok(parse(url, config)?.application_name(name).options(unlimited))
}

/// The URL with DATABASE_PASSWORD, which is given only where the URL has none ([`Config`] checks that).
fn parse(url: &SecretString, config: &Config) -> sqlx::Result<PgConnectOptions> {
    let text = url.expose_secret();
    let mut options: PgConnectOptions = text.parse()?;
    if let Some(password) = &config.database_password {
        options = options.password(password.expose_secret());
    }
    // As libpq has it: whoever names an authority wants it asked. The driver alone would encrypt, and believe anybody.
    if matches!(options.get_ssl_mode(), PgSslMode::Require) && names_authority(text) {
        options = options.ssl_mode(PgSslMode::VerifyCa);
    }
    Ok(options)
}

/// Whether a URL names a file of certificate authorities.
fn names_authority(url: &str) -> bool {
    let parsed = reqwest::Url::parse(url);
    parsed.is_ok_and(|url| {
        url.query_pairs().any(|(name, _)| matches!(&*name, "sslrootcert" | "ssl-root-cert" | "ssl-ca"))
    })
}

/// A pool of connections to Postgres, opened when first needed.
pub fn connect_lazily(config: &Config) -> anyhow::Result<PgPool> {
    // The listener's session counts, unless it goes elsewhere.
    let elsewhere = config.database_direct_url.is_some();
    Ok(PgPoolOptions::new()
        .max_connections(config.database_connections - u32::from(!elsewhere))
        // Asking "are you there?" before each use costs a quarter of the throughput; a dead connection shows as an
        // error, and every caller tries again.
        .test_before_acquire(false)
        .acquire_timeout(PATIENCE)
        .connect_lazy_with(pooled(config)?))
}

/// Begins a transaction, in a way that cannot be broken off half-way.
///
/// sqlx rolls a transaction back that is dropped once it has begun. But where the future of `Pool::begin` is dropped while it
/// waits for the answer to `begin` (a time limit, a client that hangs up), the connection goes back to the pool inside a
/// transaction that nobody knows of (sqlx-postgres 0.9, `PgTransactionManager::begin`): what others then write with it
/// they believe to be committed, and it is lost. A task of its own always gets to the end, and rolls back if nobody wants
/// the transaction any more. The connection is waited for outside of it: whoever gives up leaves the queue of those who wait.
/// A test keeps `Pool::begin` out of the program.
pub async fn begin(db: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    let connection = db.acquire().await?;
    let beginning = tokio::spawn(async move { Transaction::begin(connection, None).await });
    beginning.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// A listener of its own session, which is no part of the pool: one that the network has forgotten is left to its fate, and must
/// not keep a place there meanwhile.
pub async fn listener(config: &Config) -> sqlx::Result<PgListener> {
    let own = PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).max_lifetime(None).idle_timeout(None);
    PgListener::connect_with(&own.connect_lazy_with(session(config, "baal listen")?)).await
}

/// Brings the schema up to date, in a session of its own, in which other processes that do the same wait for each other; and,
/// where there is a pooler, gives the role the settings that its sessions are to have.
pub async fn migrate(config: &Config) -> Result<(), MigrateError> {
    // A pool of one, because pools wait for a server that is just starting.
    let own = PgPoolOptions::new().max_connections(1).connect_with(session(config, "baal migrate")?).await?;
    let migrated = MIGRATIONS.run(&own).await;
    if migrated.is_ok() && config.database_direct_url.is_some() {
        let settled = async { settle_role(config, &mut *own.acquire().await?).await };
        if let Err(error) = settled.await {
            warn!(%error, "what sessions behind the pooler need could not be set for their role: see docs/operations.md, \"PgBouncer\"");
        }
    }
    own.close().await;
    migrated
}

/// Why the database cannot be used, in words for operators.
pub fn unusable(error: &sqlx::Error) -> anyhow::Error {
    anyhow::anyhow!("the database: {}", trouble(error))
}

/// Why the schema could not be brought up to date, in words for operators.
pub fn explain(error: MigrateError) -> anyhow::Error {
    match error {
        MigrateError::Execute(error) => unusable(&error),
        other => anyhow::Error::new(other),
    }
}

/// Makes [`settings`] the defaults of the pool's role in this database. They hold for sessions that begin later: those that
/// PgBouncer has open go on without them until it renews them (`server_lifetime`, an hour), or `reconnect` on its console.
async fn settle_role(config: &Config, session: &mut PgConnection) -> sqlx::Result<()> {
    let role = pooled(config)?.get_username().to_owned();
    sqlx::query("select pg_advisory_lock(hashtext($1))").bind(ROLE_LOCK).execute(&mut *session).await?;
    let found: Vec<String> = sqlx::query_scalar(
        "select unnest(s.setconfig) from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
           join pg_database d on d.oid = s.setdatabase
          where r.rolname = $1 and d.datname = current_database()",
    )
    .bind(&role)
    .fetch_all(&mut *session)
    .await?;
    for (name, value) in settings(config) {
        if found.contains(&format!("{name}={value}")) {
            continue;
        }
        let statement: String = sqlx::query_scalar(
            "select format('alter role %I in database %I set %I = %L', $1::text, current_database(), $2::text, $3::text)",
        )
        .bind(&role)
        .bind(name)
        .bind(&value)
        .fetch_one(&mut *session)
        .await?;
        // Postgres itself has quoted the names; the statement takes no parameters.
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *session).await?;
    }
    Ok(())
}

/// Which of [`settings`] do not hold for a session of the pool; empty where all do. One statement asks for them all, because
/// behind a pooler the next may meet another session.
pub async fn unsettled(config: &Config, pool: &PgPool) -> sqlx::Result<Vec<String>> {
    let (names, values): (Vec<_>, Vec<_>) =
        settings(config).into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
    // Postgres shows 10000ms as 10s, so times are compared as such.
    sqlx::query_scalar(
        "select w.name from unnest($1::text[], $2::text[]) w (name, value) join pg_settings s using (name)
          where not case when s.unit = 'ms' then s.setting::numeric = extract(epoch from w.value::interval) * 1000
                         else s.setting = w.value end",
    )
    .bind(names)
    .bind(values)
    .fetch_all(pool)
    .await
}
