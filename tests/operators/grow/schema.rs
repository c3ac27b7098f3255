//! Programs of two versions on one database, and migrations at once.

use std::path::Path;
use std::process::{Command, Stdio};

use baal::database::MIGRATIONS;
use regex_lite::Regex;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::{baal, said, settings};
use crate::harness::{Message, Stack, database};

/// The newest version of the first release; files after it must let its programs run on.
const FIRST_RELEASE: i64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn an_old_program_starts_migrates_and_works_beside_a_newer_schema() {
    let url = database().await;
    let db = PgPool::connect(&url).await.unwrap();
    MIGRATIONS.run(&db).await.unwrap();
    // As a newer program would leave it.
    for statement in [
        "create table later (id bigint primary key)",
        "alter table users add column later text",
        "alter table turns add column later int not null default 7",
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'later', true, '\\x00', 1)",
    ] {
        sqlx::raw_sql(statement).execute(&db).await.unwrap();
    }
    let stack = Stack::builder().database(&url).start().await;
    let alice = stack.user(1);
    let ada = alice.creates_agent("Ada", "You are a pirate.").await;
    alice.says(&format!("/start agent_{ada}")).await;
    alice.wait_for(|m| m.text.contains("You are talking to Ada")).await;
    alice.says("What is one and one?").await;
    alice.wait_for(|m| m.text.contains("message 1 of our conversation")).await;
    stack.baal(0).restart().await;
    let migrated = baal(&["migrate"], &[("DATABASE_URL", &url)]);
    assert!(migrated.status.success(), "{}", said(&migrated));
    let doctor = said(&baal(&["doctor"], &[("DATABASE_URL", &url)]));
    assert!(doctor.contains("✔ schema"), "{doctor}");
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_works_on_while_a_newer_one_adds_columns() {
    // Few connections, so that each has prepared most of the statements by then.
    let stack = Stack::builder().env("DATABASE_CONNECTIONS", 5).start().await;
    let (alice, bob) = (stack.user(1), stack.user(2));
    let ada = alice.creates_agent("Ada", "You are a pirate.").await;
    bob.asks(&format!("/start agent_{ada}"), "Ada").await;
    let works = async |round: usize| {
        for number in 1..=5 {
            alice.asks(&format!("round {round}, {number}"), &format!("message {} of our", 5 * round + number)).await;
        }
        bob.asks(&format!("round {round}"), &format!("message {} of our", round + 1)).await;
        alice.asks("/list", "Ada").await;
        // An errand: its key is refused.
        alice.says("/login bad-key-123456789").await;
        let refused = |message: &&Message| message.text.contains("LibertAI doesn't know this key");
        alice.wait_until(|messages| (messages.iter().filter(refused).count() > round).then_some(())).await;
        // A job with all its steps.
        stack.user(10 + round as i64).creates_agent("Grace", "You compile.").await;
    };
    works(0).await;
    for table in [
        "agents",
        "jobs",
        "vms",
        "errands",
        "users",
        "turns",
        "updates",
        "outbox",
        "links",
        "visitors",
        "conversations",
    ] {
        let statement = AssertSqlSafe(format!("alter table {table} add column later text"));
        sqlx::raw_sql(statement).execute(&stack.db).await.unwrap();
    }
    works(1).await;
    for unfinished in [
        "select count(*) from updates where not done",
        "select count(*) from turns where not done",
        "select count(*) from jobs where not done",
        "select count(*) from errands where not done",
        "select count(*) from outbox where not done",
    ] {
        stack.wait_for_sql(unfinished, 0_i64).await;
    }
    let failed = "select (select count(*) from updates where failures > 0 or error is not null)
                       + (select count(*) from turns where status is distinct from 'completed')
                       + (select count(*) from jobs where outcome is distinct from 'succeeded')
                       + (select count(*) from errands where failures > 0)
                       + (select count(*) from outbox where failures > 0 or error is not null)";
    assert_eq!(stack.sql::<i64>(failed).await, 0);
    let logs = stack.logs().into_iter().map(|log| std::fs::read_to_string(log).unwrap());
    let refused: Vec<_> = logs
        .flat_map(|log| log.lines().filter(|l| l.contains("cached plan")).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(refused, Vec::<String>::new());
    assert_eq!(stack.errors(), Vec::<String>::new());
}

/// Parts of a source that read whole rows of a table with `*`: once a migration adds a column, such a statement is refused where it
/// was prepared before ("cached plan must not change result type").
fn stars(source: &str) -> Vec<String> {
    let code: Vec<_> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let star = Regex::new(
        r#"(?i)\b(select|returning|distinct)\s+\*(\s+from\s+unnest\()?|[\s(,"][a-z_]+\.\*[\s,)"]|,\s*\*\s+from\b|, \*"|\btable\s+\*"#,
    );
    // The rows that a function gives do not grow.
    let found = star.unwrap();
    let found = found.captures_iter(&code).filter(|found| found.get(2).is_none());
    let found = found.filter_map(|found| Some(found.get(0)?.as_str().trim().to_owned()));
    // The inbox calls a subquery so, which names its columns.
    found.filter(|found| found != "known.*").collect()
}

#[test]
fn no_statement_reads_what_a_later_migration_adds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut directories, mut sources) = (vec![root.clone()], 0);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // Another program's tables, read once by a connection of their own.
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path != root.join("python/sqlite.rs")
            {
                let found = stars(&std::fs::read_to_string(&path).unwrap());
                assert_eq!(
                    found,
                    Vec::<String>::new(),
                    "{}: name the columns (src/database/columns.rs)",
                    path.display()
                );
                sources += 1;
            }
        }
    }
    assert!(sources > 100, "{sources}");
}

#[test]
fn a_star_is_seen() {
    for bad in [
        "\"select * from agents\"",
        "\"select\n   * from agents\"",
        "\"update vms set state = 'warm' returning *\"",
        "\"returning j.*\"",
        "\"select v.id, a.*, b.id from\"",
        "concat!(\"select a.*, \", standing!())",
        "\"select id, * from agents\"",
        "\"left join lateral (select * from jobs j)\"",
        "\"select distinct * from agents\"",
    ] {
        assert_eq!(stars(bad).len(), 1, "{bad}");
    }
    for fine in [
        "\"select count(*) from agents\"",
        "\"select exists (select from agents), count(*) filter (where done)\"",
        "\"insert into strays select * from unnest($1::text[])\"",
        "// select * from agents",
        "f(a, *from)",
        "\"rm -f /run/vm.* /var/baal-agent.*\"",
    ] {
        assert_eq!(stars(fine), Vec::<String>::new(), "{fine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_migrate_at_once_wait_for_each_other() {
    let url = database().await;
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
        command.args(["migrate", "--no-env-file"]).env_clear().envs(settings(&[("DATABASE_URL", &url)]));
        command.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let started: Vec<_> = (0..4).map(|_| start()).collect();
    for process in started {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let applied: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations where success")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(applied as usize, MIGRATIONS.iter().count());
}

/// Statements that a program of the version before does not survive, in lower case.
const CONTRACTING: [&str; 9] = [
    "drop table",
    "drop column",
    "rename ",
    "set not null",
    " type ",
    "drop default",
    "add constraint",
    "create unique index",
    "drop constraint",
];

/// Lines of a migration that take something from a program of the version before and do not say since when nothing uses it:
/// `-- contract: 0.3.0`.
fn contracting(sql: &str) -> Vec<String> {
    let lines = sql.lines().filter(|line| {
        let (statement, remark) = line.split_once("--").unwrap_or((line, ""));
        let statement = format!(" {} ", statement.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "));
        let since = remark.trim().strip_prefix("contract:").map(str::trim);
        let takes = CONTRACTING.iter().any(|words| statement.contains(words));
        let demands =
            statement.contains("add column") && statement.contains(" not null") && !statement.contains(" default ");
        (takes || demands) && since.is_none_or(|version| !version.starts_with(|c: char| c.is_ascii_digit()))
    });
    lines.map(str::to_owned).collect()
}

#[test]
fn migrations_take_nothing_from_programs_that_still_run() {
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > FIRST_RELEASE) {
        let found = contracting(migration.sql.as_str());
        assert!(
            found.is_empty(),
            "{} {}: programs of the version before still run while it is applied (docs/operations.md, \"Upgrading the schema\"). \
             Leave it to a later version, and then write `-- contract: VERSION` behind it, the first that does without:\n{}",
            migration.version,
            migration.description,
            found.join("\n")
        );
    }
}

#[test]
fn what_takes_something_away_is_seen() {
    for bad in [
        "alter table users drop column name;",
        "ALTER TABLE users\n  ALTER COLUMN name SET NOT NULL;",
        "alter table users alter column id type text;",
        "alter table users rename column name to title;",
        "alter table users add column age int not null;",
        "drop table invites; -- contract: soon",
    ] {
        assert_eq!(contracting(bad).len(), 1, "{bad}");
    }
    for fine in [
        "create table later (id bigint primary key, kind text not null);",
        "alter table users add column age int not null default 0;",
        "alter table users drop column name; -- contract: 0.3.0",
        "-- we never rename a column",
    ] {
        assert_eq!(contracting(fine), Vec::<String>::new(), "{fine}");
    }
}
