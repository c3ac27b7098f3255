//! A private Postgres server from the installed programs.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::orphan::stop_orphan;
use super::supervised::{Spec, Supervised, tail};

/// The database superuser.
const ROLE: &str = "baal";

/// The longest path of a Unix socket, in bytes (`sun_path` of unix(7), less its final NUL).
const MAX_SOCKET_PATH: usize = 107;

/// What Postgres adds to the socket's directory; the lock file is the longer one.
const SOCKET_LOCK: &str = "/.s.PGSQL.5432.lock";

/// Crash recovery may come before the first connection.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a fast shutdown may take.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// How often the lock is tried, and how long it takes a child to become another program.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Whether the lock is ours. One that was just let go may be held for a moment longer: a child of this process has a copy of
/// every open file until it becomes another program.
async fn locked(lock: &File) -> bool {
    for _ in 1..LOCK_TRIES {
        if lock.try_lock().is_ok() {
            return true;
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    lock.try_lock().is_ok()
}

/// A running server that listens only on a Unix socket in a directory of its own, where nobody but its user and root
/// comes in. It stops when this is dropped and when this process dies, however it dies.
pub struct Postgres {
    server: Option<Supervised>,
    socket_dir: PathBuf,
    /// The socket's directory, if the data's path is too long for one.
    temporary: Option<PathBuf>,
    /// Held while the server runs, so that a server without it is an orphan.
    _lock: File,
}

impl Postgres {
    /// Starts the server whose data is below `dir`, made at first. `durable: false` makes commits survive a killed
    /// process but not a power cut, for tests.
    pub async fn start(dir: &Path, durable: bool) -> anyhow::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| format!("can't create {dir:?}"))?;
        let dir = &dir.canonicalize()?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        if !locked(&lock).await {
            bail!("the Postgres in {} is in use by another process", dir.display());
        }
        let data = dir.join("data");
        let bin = programs(&data)?;
        let account = Account::for_server()?;
        stop_orphan(&data, STOP_GRACE).await?;
        let log = dir.join("postgres.log");
        if !data.join("PG_VERSION").exists() {
            account.initdb(&bin, dir, &data, &log).await?;
        }
        let (socket_dir, temporary) = socket_dir(dir)?;
        account.own(&socket_dir)?;

        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", quoted_list_item(&socket_dir)?),
            "unix_socket_permissions=0700".to_owned(),
            "port=5432".to_owned(),
            "max_connections=300".to_owned(),
            "cluster_name=baal".to_owned(),
            "logging_collector=off".to_owned(),
        ];
        if !durable {
            settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
        }
        let server = bin.join("postgres");
        let mut args: Vec<&OsStr> = vec![OsStr::new("-D"), data.as_os_str()];
        for setting in &settings {
            args.extend([OsStr::new("-c"), OsStr::new(setting)]);
        }
        let command = account.command(&server, &args);
        let server = Supervised::spawn(&Spec {
            name: "Postgres",
            program: command[0],
            args: &command[1..],
            env: &[],
            log: &log,
            speaks: false,
            // Fast shutdown: sessions are ended, a checkpoint is written.
            signal: "INT",
            grace: STOP_GRACE,
        })
        .context("can't start Postgres")?;
        let mut postgres = Self { server: Some(server), socket_dir, temporary, _lock: lock };
        postgres.wait_until_ready().await?;
        Ok(postgres)
    }

    /// The URL of a database of this server. It holds no secret: the socket's directory is what keeps others out.
    pub fn url(&self, database: &str) -> String {
        let host: String = self
            .socket_dir
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .map(|&byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        format!("postgres:///{database}?host={host}&user={ROLE}")
    }

    /// Creates an empty database unless there is one of that name; letters, digits and `_` only.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        ensure!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{name:?} is no name for a database"
        );
        let mut connection = self.connect().await?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        if !exists {
            // The name was checked above; a statement that creates a database takes no parameters.
            sqlx::query(AssertSqlSafe(format!("create database \"{name}\""))).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// The server's process, to see whether it ended by itself.
    pub fn server(&mut self) -> Option<&mut Supervised> {
        self.server.as_mut()
    }

    /// Shuts the server down and waits for it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(server) = self.server.take() {
            server.stop().await?;
        }
        Ok(())
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass().socket(&self.socket_dir).port(5432).username(ROLE);
        PgConnection::connect_with(&options.database("postgres")).await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let refused = match self.connect().await {
                Ok(connection) => return Ok(connection.close().await?),
                Err(error) => error,
            };
            let Some(server) = &mut self.server else { bail!("Postgres was stopped while it started") };
            if let Some(status) = server.ended()? {
                bail!("Postgres ended while it started ({status}); its last words:\n{}", tail(server.log(), 15));
            }
            if Instant::now() > deadline {
                let words = tail(server.log(), 15);
                return Err(refused).context(format!("Postgres doesn't answer; its last words:\n{words}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The server first: it removes its socket.
        self.server.take();
        if let Some(directory) = &self.temporary {
            let _ = fs::remove_dir_all(directory); // silent-ok: an empty directory below /tmp does no harm
        }
    }
}

/// The user under which the server runs; Postgres refuses to run as root.
struct Account {
    /// User and group id of `postgres`, if this process is root.
    postgres: Option<(u32, u32)>,
}

impl Account {
    fn for_server() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { postgres: None });
        }
        let users = fs::read_to_string("/etc/passwd").context("can't read /etc/passwd")?;
        let ids = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (name == "postgres").then_some((uid.parse().ok()?, gid.parse().ok()?))
        });
        match ids {
            Some(ids) => Ok(Self { postgres: Some(ids) }),
            None => bail!("Postgres doesn't run as root and there is no user `postgres`: run `scripts/bootstrap`"),
        }
    }

    /// Makes the directory the server's own.
    fn own(&self, directory: &Path) -> io::Result<()> {
        match self.postgres {
            Some((uid, gid)) => chown(directory, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// The command line for a program under this account.
    fn command<'a>(&self, program: &'a Path, args: &[&'a OsStr]) -> Vec<&'a OsStr> {
        let mut command: Vec<&OsStr> = Vec::new();
        if self.postgres.is_some() {
            // The capability lets the server pass through directories that only root may enter, such as a clone in
            // root's home.
            command.extend(
                [
                    "setpriv",
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--init-groups",
                    "--inh-caps=+dac_override",
                    "--ambient-caps=+dac_override",
                    "--",
                ]
                .map(OsStr::new),
            );
        }
        command.push(program.as_os_str());
        command.extend(args);
        command
    }

    async fn initdb(&self, bin: &Path, dir: &Path, data: &Path, log: &Path) -> anyhow::Result<()> {
        // Under another name first: what an interrupted initdb leaves must not pass for a database.
        let new = dir.join("data.new");
        if new.exists() {
            fs::remove_dir_all(&new).with_context(|| format!("can't remove {new:?}"))?;
        }
        DirBuilder::new().mode(0o700).create(&new)?;
        self.own(&new)?;
        let initdb = bin.join("initdb");
        let mut args = vec![OsStr::new("-D"), new.as_os_str()];
        let role = format!("--username={ROLE}");
        let options =
            [&role, "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"];
        args.extend(options.map(OsStr::new));
        let command = self.command(&initdb, &args);
        let output = File::options().create(true).append(true).open(log)?;
        let mut initdb = Command::new(command[0]);
        initdb.args(&command[1..]).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        initdb.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).current_dir("/");
        let status = tokio::task::spawn_blocking(move || initdb.status()).await?.context("can't run initdb")?;
        ensure!(status.success(), "initdb failed ({status}); its last words:\n{}", tail(log, 15));
        fs::rename(&new, data)?;
        Ok(())
    }
}

/// The directory of Postgres' programs: of the version that made `data`, or else the newest installed.
fn programs(data: &Path) -> anyhow::Result<PathBuf> {
    let mut installed: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .chain(pg_config())
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    installed.sort();
    match fs::read_to_string(data.join("PG_VERSION")) {
        Ok(made_by) => {
            let wanted = made_by.trim();
            let found = installed.into_iter().find(|(version, _)| version.to_string() == wanted);
            found.map(|(_, bin)| bin).with_context(|| {
                format!(
                    "{} was made by PostgreSQL {wanted}, which is not installed: run `apt-get install \
                     postgresql-{wanted}`, or remove the directory to start anew",
                    data.display()
                )
            })
        }
        Err(_) => installed.pop().map(|(_, bin)| bin).context(
            "PostgreSQL's server programs are not installed: run `scripts/bootstrap` or `apt-get install postgresql`, \
             or set DATABASE_URL to a server of your own",
        ),
    }
}

/// The version and programs that `pg_config` names, on systems that keep them elsewhere than Debian.
fn pg_config() -> Option<(u32, PathBuf)> {
    let ask = |what| {
        let output = Command::new("pg_config").arg(what).stderr(Stdio::null()).output().ok()?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let version = ask("--version")?;
    let major = version.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok()?;
    Some((major, ask("--bindir")?.into()))
}

/// A directory for the socket, and whether it is a temporary one because the path below `dir` would be too long.
fn socket_dir(dir: &Path) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let near = dir.join("socket");
    if near.as_os_str().len() + SOCKET_LOCK.len() <= MAX_SOCKET_PATH {
        DirBuilder::new().recursive(true).mode(0o700).create(&near)?;
        fs::set_permissions(&near, fs::Permissions::from_mode(0o700))?;
        return Ok((near, None));
    }
    let far = PathBuf::from(format!("/tmp/baal-{:016x}", rand::random::<u64>()));
    // Fails if somebody else has made it.
    DirBuilder::new().mode(0o700).create(&far)?;
    Ok((far.clone(), Some(far)))
}

/// A path as an item of a list setting, in which commas and quotes mean something.
fn quoted_list_item(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| format!("{path:?} is not UTF-8, which Postgres' settings must be"))?;
    Ok(format!("\"{}\"", text.replace('"', "\"\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_keeps_its_data_and_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a directory, \"quoted\"");
        let postgres = Postgres::start(&place, false).await.unwrap();
        postgres.create_database("one").await.unwrap();
        postgres.create_database("one").await.unwrap();
        let mut connection = PgConnection::connect(&postgres.url("one")).await.unwrap();
        sqlx::query("create table kept ()").execute(&mut connection).await.unwrap();
        let second = Postgres::start(&place, false).await.err().unwrap();
        assert!(second.to_string().contains("in use by another process"), "{second:#}");
        postgres.stop().await.unwrap();

        let postgres = Postgres::start(&place, true).await.unwrap();
        let mut connection = PgConnection::connect(&postgres.url("one")).await.unwrap();
        sqlx::query("select from kept").execute(&mut connection).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_whose_guard_was_killed_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut postgres = Postgres::start(dir.path(), false).await.unwrap();
        // Kill the wrapper: the server is now an orphan that nobody stops.
        postgres.server.as_mut().unwrap().kill_wrapper();
        drop(postgres);
        let postgres = Postgres::start(dir.path(), false).await.unwrap();
        postgres.create_database("again").await.unwrap();
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("x".repeat(120));
        let postgres = Postgres::start(&place, false).await.unwrap();
        postgres.create_database("far").await.unwrap();
        let socket_dir = postgres.socket_dir.clone();
        assert!(PgConnection::connect(&postgres.url("far")).await.is_ok());
        drop(postgres);
        assert!(!socket_dir.exists());
    }
}
