//! SQLite databases that others wrote, read whatever type they kept in a column.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, NaiveDateTime, Utc};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::held;

/// How every SQLite database begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Opens a database to read it as it is at this moment, its write-ahead log included.
pub fn open(path: &Path) -> anyhow::Result<Connection> {
    let mut head = [0; MAGIC.len()];
    let mut file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    ensure!(file.metadata()?.is_file(), "{} is not a file", path.display());
    if file.read_exact(&mut head).is_err() || head != MAGIC {
        bail!("{} is not a SQLite database", path.display());
    }
    drop(file);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let opened = Connection::open_with_flags(path, flags & !OpenFlags::SQLITE_OPEN_URI).and_then(begin);
    let conn = match opened {
        // In a directory that cannot be written, there is no place for what readers of a write-ahead log share.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
            let log = std::fs::metadata(held::beside(path, "-wal")).map_or(0, |log| log.len());
            ensure!(
                log == 0,
                "{} has a write-ahead log, and its directory cannot be written: copy it together with the files beside it \
                 (-wal, -shm) to a directory of your own, and import that",
                path.display()
            );
            Connection::open_with_flags(unchanging(path)?, flags).and_then(begin)
        }
        opened => opened,
    };
    conn.with_context(|| format!("{} cannot be read as a SQLite database", path.display()))
}

/// One moment for all that is read.
fn begin(conn: Connection) -> rusqlite::Result<Connection> {
    conn.busy_timeout(std::time::Duration::from_secs(10))?;
    conn.execute_batch("begin")?;
    conn.query_row("select count(*) from sqlite_master", [], |_| Ok(()))?;
    Ok(conn)
}

/// The file as SQLite's URI of one that nobody changes.
fn unchanging(path: &Path) -> anyhow::Result<String> {
    let path = path.canonicalize()?;
    let path = path.to_str().context("the path of the database is not UTF-8")?;
    let mut uri = "file:".to_owned();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    Ok(uri)
}

/// The table's columns; none where there is no such table.
pub fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("select name from pragma_table_info(?1)")?.query_map([table], |row| row.get(0))?.collect()
}

/// Reads every row of the table, if there is such a one, and counts those that `make` makes nothing of.
pub fn rows<T>(
    conn: &Connection,
    table: &'static str,
    into: &mut Vec<T>,
    unreadable: &mut Vec<(&'static str, u64)>,
    make: impl Fn(&Row<'_, '_>) -> Option<T>,
) -> rusqlite::Result<()> {
    if columns(conn, table)?.is_empty() {
        return Ok(());
    }
    // One of the names above.
    let mut statement = conn.prepare(&format!("select * from {table}"))?;
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let (mut rows, mut odd) = (statement.query([])?, 0);
    while let Some(row) = rows.next()? {
        match make(&Row { names: &names, row }) {
            Some(made) => into.push(made),
            None => odd += 1,
        }
    }
    if odd > 0 {
        unreadable.push((table, odd));
    }
    Ok(())
}

/// A row, by the names of its columns. What is not there, or cannot be read as what is asked for, is none.
pub struct Row<'a, 'b> {
    names: &'a [String],
    row: &'a rusqlite::Row<'b>,
}

impl Row<'_, '_> {
    fn value(&self, name: &str) -> ValueRef<'_> {
        let index = self.names.iter().position(|known| known == name);
        // silent-ok: a column that is not there has no value
        index.and_then(|index| self.row.get_ref(index).ok()).unwrap_or(ValueRef::Null)
    }

    /// As text, whatever it is.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(number.to_string()),
            ValueRef::Real(number) => Some(number.to_string()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    /// As a whole number, also one written as text.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            ValueRef::Integer(number) => Some(number),
            ValueRef::Real(number) => Some(number as i64),
            _ => self.text(name)?.trim().parse().ok(),
        }
    }

    /// As yes or no: a number other than 0, or `true`.
    pub fn truth(&self, name: &str) -> Option<bool> {
        match self.integer(name) {
            Some(number) => Some(number != 0),
            None => Some(self.text(name)?.trim().eq_ignore_ascii_case("true")),
        }
    }

    /// As a time: see [`time`].
    pub fn time(&self, name: &str) -> Option<DateTime<Utc>> {
        time(&self.text(name)?)
    }
}

/// As Python's `isoformat` writes it, or SQLite's `datetime('now')`: without a zone it is UTC.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    naive.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok()).map(|time| time.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_kinds_are_read() {
        let wanted = "2026-11-20T08:09:10Z".parse::<DateTime<Utc>>().expect("a time");
        for text in
            ["2026-11-20T08:09:10+00:00", "2026-11-20 08:09:10", "2026-11-20T09:09:10+01:00", " 2026-11-20T08:09:10 "]
        {
            assert_eq!(time(text), Some(wanted), "{text}");
        }
        assert!(time("2026-11-20T08:09:10.123456+00:00").expect("a time") > wanted);
        assert_eq!((time(""), time("yesterday"), time("0")), (None, None, None));
    }
}
