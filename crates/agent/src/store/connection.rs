//! How the database is opened, and how its schema comes to be what this version works with.

use super::StoreError;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In order; how many of them a database has seen is its `user_version`.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/0001_turns.sql"),
    include_str!("../../migrations/0002_tools.sql"),
    include_str!("../../migrations/0003_background.sql"),
];

/// Prepared statements that a connection keeps: more than there are.
const STATEMENTS: usize = 128;

/// `cache_size` is in KiB: the default of 2 MiB a connection buys nothing at this size.
const SETTINGS: &str = "pragma foreign_keys = on; pragma cache_size = -256;";
/// `full`: what was acknowledged survives a power cut, and with group commit costs little.
const SETTINGS_OF_THE_WRITER: &str = "pragma journal_mode = wal; pragma synchronous = full;";

/// A connection to a database that is there, to write.
pub(super) fn open_to_write(path: &Path) -> Result<Connection, StoreError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute_batch(SETTINGS_OF_THE_WRITER)?;
    Ok(connection)
}

/// A connection to write with the schema of this version; the file is made if missing.
pub(super) fn open_up_to_date(path: &Path) -> Result<Connection, StoreError> {
    if !path.try_exists()? {
        create(path)?;
    }
    let mut connection = open_to_write(path)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Makes a database beside its place and moves it there whole. Made in place it takes seven waits for the disk, which is most
/// of an agent's first start; so it is two.
fn create(path: &Path) -> Result<(), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // A kill may have left one, and SQLite's files beside it.
    for suffix in ["", "-wal", "-shm"] {
        let mut name = new.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    let mut connection = open(&new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.execute_batch("pragma synchronous = off; pragma journal_mode = off;")?;
    migrate(&mut connection)?;
    connection.execute_batch("pragma journal_mode = wal;")?;
    connection.close().map_err(|(_, e)| e)?;
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(directory)?.sync_all()?)
}

/// A connection that sees what is committed.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    // A connection is never used by two threads at once.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(SETTINGS)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Brings the schema up to date, in one transaction.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let seen = version(connection)?;
    if seen == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seen = if seen == 0 { take_over(&transaction)? } else { seen };
    let Some(unseen) = MIGRATIONS.get(seen..) else {
        return Err(StoreError::TooNew { seen, known: MIGRATIONS.len() });
    };
    for migration in unseen {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    Ok(transaction.commit()?)
}

/// Migrations that a database has seen by the book of earlier versions of the agent, which ends here.
fn take_over(db: &Connection) -> Result<usize, StoreError> {
    if !db.table_exists(None, "_sqlx_migrations")? {
        return Ok(0);
    }
    let seen = db.query_row("select count(*) from _sqlx_migrations where success", [], |row| row.get(0))?;
    db.execute_batch("drop table _sqlx_migrations")?;
    Ok(seen)
}

fn version(db: &Connection) -> Result<usize, StoreError> {
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Makes sure that the database can be written to, by a page that stays as it is.
pub(super) fn try_to_write(db: &Connection) -> Result<(), StoreError> {
    Ok(db.pragma_update(None, "user_version", version(db)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(db: &Connection) -> Vec<String> {
        let mut tables = db.prepare("select name from sqlite_schema where type = 'table' order by name").expect("sql");
        let names = tables.query_map([], |row| row.get(0)).expect("tables");
        names.collect::<Result<_, _>>().expect("names")
    }

    fn migrated() -> Connection {
        let mut db = Connection::open_in_memory().expect("a database");
        migrate(&mut db).expect("migrated");
        db
    }

    #[test]
    fn a_new_database_gets_all_migrations_once() {
        let mut db = migrated();
        assert!(tables(&db).contains(&"turns".to_owned()));
        assert_eq!(version(&db).expect("a version"), MIGRATIONS.len());
        migrate(&mut db).expect("nothing to do");
    }

    #[test]
    fn a_database_is_made_whole_also_where_a_kill_left_half_of_one() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("agent.db");
        std::fs::write(directory.path().join("agent.db.new"), "half").expect("written");
        let db = open_up_to_date(&path).expect("made");
        assert_eq!(version(&db).expect("a version"), MIGRATIONS.len());
        let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("a mode");
        assert_eq!(mode, "wal");
        drop(db);
        open_up_to_date(&path).expect("opened again");
        let names = std::fs::read_dir(directory.path()).expect("a directory");
        assert_eq!(names.map(|name| name.expect("a name").file_name()).collect::<Vec<_>>(), ["agent.db"]);
    }

    #[test]
    fn a_database_of_an_earlier_version_is_taken_over_where_it_stands() {
        let mut db = Connection::open_in_memory().expect("a database");
        db.execute_batch(MIGRATIONS[0]).expect("as it was");
        // As sqlx 0.9 keeps its book.
        db.execute_batch(
            "create table _sqlx_migrations (version bigint primary key, description text not null, \
             installed_on timestamp not null default current_timestamp, success boolean not null, \
             checksum blob not null, execution_time bigint not null); \
             insert into _sqlx_migrations values (1, 'turns', current_timestamp, true, x'00', 1); \
             insert into messages (chat_id, role, content) values ('1', 'user', 'kept')",
        )
        .expect("as it was");
        migrate(&mut db).expect("migrated");
        assert_eq!(tables(&db), tables(&migrated()));
        let kept: String = db.query_row("select content from messages", [], |row| row.get(0)).expect("a message");
        assert_eq!(kept, "kept");
    }

    #[test]
    fn a_database_of_a_newer_version_is_left_alone() {
        let mut db = migrated();
        db.pragma_update(None, "user_version", 1000).expect("newer");
        assert!(matches!(migrate(&mut db), Err(StoreError::TooNew { seen: 1000, .. })));
    }
}
