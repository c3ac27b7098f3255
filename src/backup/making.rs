//! `baal backup`.

use std::fs::File;
use std::io::{self, IsTerminal as _, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::{SecondsFormat, Utc};
use secrecy::SecretString;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot};

use super::file::{self, Counts, FileError};
use super::keys::Keys;
use super::manifest::Manifest;
use super::verify::{Tried, verify};
use super::{Options, connect, dump, passphrase};
use crate::config::Config;
use crate::{database, private_file};

/// `baal-20261123-174500.baal-backup`, in the working directory.
#[expect(
    clippy::disallowed_methods,
    reason = "it is read by people of this host; what is in the file has Postgres' time"
)]
fn default_name() -> PathBuf {
    Utc::now().format("baal-%Y%m%d-%H%M%S.baal-backup").to_string().into()
}

/// Makes a backup.
pub async fn run(config: &Config, options: Options) -> anyhow::Result<()> {
    let target = match &options.out {
        Some(path) if path.as_os_str() == "-" => {
            ensure!(!io::stdout().is_terminal(), "standard output is a terminal: lead it into a file");
            None
        }
        Some(path) => Some(path.clone()),
        None => Some(default_name()),
    };
    if let Some(path) = target.as_ref().filter(|path| path.exists()) {
        bail!("{} is there already, and no backup is written over another: name another file", path.display());
    }
    let passphrase = passphrase::new(config)?;
    let keys = Keys::configured(config)?;
    let session = database::session(config, "baal backup")?;
    let _alone = alone(&session).await?;
    let mut conn = connect(&session).await?;
    let begun = Instant::now();
    dump::begin(&mut conn).await?;
    let manifest = dump::manifest(&mut conn, keys).await?;
    eprintln!("Saving what there is as of {}:", manifest.made_at.to_rfc3339_opts(SecondsFormat::Secs, true));
    let backup = Backup { session, passphrase, verify: !options.no_verify };
    match target {
        Some(path) => {
            let (size, tried) = backup.write_file(conn, &manifest, &path).await?;
            println!("{}", told(&manifest, size, tried, begun.elapsed()));
            println!("It is in {}.", path.display());
        }
        None => {
            let (size, tried) = backup.write_pipe(conn, &manifest).await?;
            eprintln!("{}", told(&manifest, size, tried, begun.elapsed()));
        }
    }
    Ok(())
}

fn told(manifest: &Manifest, size: u64, tried: Option<Tried>, took: Duration) -> String {
    let tried = match tried {
        Some(Tried::Restored) => "It was restored into a database made for that, and is good.",
        Some(Tried::Read) => {
            "It was read to its end and is whole; it was not restored, for this role may make no databases (`alter role … createdb`)."
        }
        None => "It was not tried; `baal restore --check` reads it, and only restoring proves it.",
    };
    let (mib, seconds) = (size as f64 / f64::from(1 << 20), took.as_secs_f64());
    format!("Saved: {}.\n{mib:.1} MiB in {seconds:.1} s. {tried}", manifest.summary)
}

/// Keeps other backups of the same database away while this lives: each would drop the database that the other is tried in. The
/// transaction holds nothing else back.
async fn alone(session: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let mut conn = connect(session).await?;
    sqlx::query("begin").execute(&mut conn).await?;
    let alone = sqlx::query_scalar::<_, bool>("select pg_try_advisory_xact_lock(hashtext('baal backup'))");
    ensure!(alone.fetch_one(&mut conn).await?, "another backup of this database is being made");
    Ok(conn)
}

struct Backup {
    session: PgConnectOptions,
    passphrase: SecretString,
    verify: bool,
}

impl Backup {
    /// Under its name there is only a backup that is whole, on the disk, and was tried: until then it has another.
    async fn write_file(
        &self,
        conn: PgConnection,
        manifest: &Manifest,
        path: &Path,
    ) -> anyhow::Result<(u64, Option<Tried>)> {
        let directory = private_file::directory_of(path);
        let name = path.file_name().context("--out names no file")?.to_string_lossy().into_owned();
        private_file::make_directory(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        // Its mode is 0600.
        let partial = tempfile::Builder::new().prefix(&format!("{name}.")).suffix(".partial").tempfile_in(directory);
        let partial = partial.with_context(|| format!("no file can be made in {}", directory.display()))?;
        let (written, counts) = self.save(conn, manifest, partial.reopen()?).await?;
        written.sync_all()?;
        let size = written.metadata()?.len();
        let mut tried = None;
        if self.verify {
            eprintln!("Trying it …");
            let input = File::open(partial.path())?;
            let saved = async { Ok(counts) };
            let verified = verify(&self.session, input, &self.passphrase, saved).await;
            tried = Some(verified.context("the backup is of no use, and was removed")?);
        }
        private_file::leave_to_owner_of(directory, partial.as_file())?;
        let kept = partial.persist_noclobber(path);
        kept.with_context(|| format!("{} cannot be written", path.display()))?;
        File::open(directory)?.sync_all()?;
        Ok((size, tried))
    }

    /// Tried while it is written: nothing of it is kept here.
    async fn write_pipe(&self, conn: PgConnection, manifest: &Manifest) -> anyhow::Result<(u64, Option<Tried>)> {
        let out = |copy| Tee { out: io::stdout(), copy, bytes: 0 };
        if !self.verify {
            return Ok((self.save(conn, manifest, out(None)).await?.0.bytes, None));
        }
        let (input, copy) = io::pipe()?;
        let (tell, saved) = oneshot::channel();
        let saving = async {
            let (tee, counts) = self.save(conn, manifest, out(Some(copy))).await?;
            // silent-ok: who does not listen any more has failed, and says so.
            let _ = tell.send(counts);
            anyhow::Ok(tee.bytes)
        };
        let saved = async { saved.await.context("the backup was not written to its end") };
        let verifying = verify(&self.session, input, &self.passphrase, saved);
        let (size, tried) = tokio::join!(saving, verifying);
        Ok((size?, Some(tried.context("what was written is no backup: it cannot be restored")?)))
    }

    /// Writes all of it; what it was written to, and the rows of each table. The snapshot ends here.
    async fn save<W: Write + Send + 'static>(
        &self,
        mut conn: PgConnection,
        manifest: &Manifest,
        out: W,
    ) -> anyhow::Result<(W, Counts)> {
        let (frames, receiver) = mpsc::channel(8);
        let passphrase = self.passphrase.clone();
        let writer = tokio::task::spawn_blocking(move || file::write(out, &passphrase, receiver));
        let read = dump::rows(&mut conn, manifest, &frames, |table, rows| eprintln!("  {table}: {rows}")).await;
        drop((frames, conn));
        match (writer.await?, read) {
            (Ok(written), Ok(())) => Ok(written),
            // Each gives up when the other fails: the one that did not knows why.
            (Err(FileError::Abandoned) | Ok(_), Err(error)) => Err(error),
            (Err(error), _) => Err(error).context("the backup cannot be written"),
        }
    }
}

/// Standard output, and a copy of it for as long as somebody reads that.
struct Tee {
    out: io::Stdout,
    copy: Option<PipeWriter>,
    bytes: u64,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        if let Some(copy) = &mut self.copy
            && copy.write_all(&bytes[..written]).is_err()
        {
            // Whoever read it has failed, and says so.
            self.copy = None;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
