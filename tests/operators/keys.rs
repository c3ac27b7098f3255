//! Changing BOT_ENCRYPTION_KEY.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use baal::agents::links::{self, Terms};
use baal::rotation::{self, COLUMNS};
use baal::vault::Vault;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool, Row as _};

use crate::harness::{Stack, User};
use crate::rows;

/// Columns of type bytea that BOT_ENCRYPTION_KEY has nothing to do with, and why.
const HASHES: [(&str, &str); 4] = [
    ("api_tokens", "hash"),     // SHA-256 of a token of the API
    ("idempotency", "request"), // SHA-256 of what was asked
    ("invites", "code_hash"),   // SHA-256 of an invitation's code
    ("links", "token_hash"),    // SHA-256 of a link's token
];

fn key() -> String {
    Vault::generate_key().expose_secret().to_owned()
}

fn vault(keys: &str) -> Vault {
    Vault::new(&keys.to_owned().into()).unwrap()
}

fn command(arguments: &[&str], environment: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(arguments).arg("--no-env-file").env_clear().envs(environment).stdin(Stdio::null());
    command
}

async fn baal(arguments: &[&str], environment: &BTreeMap<String, String>) -> (bool, String) {
    let mut command = command(arguments, environment);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

/// How all columns together stand to these keys: under which how many are, and how many no key opens.
async fn standing(db: &PgPool, keys: &str) -> (BTreeMap<usize, u64>, usize) {
    let (mut under, mut unreadable) = (BTreeMap::new(), 0);
    for column in COLUMNS {
        let standing = rotation::standing(db, &vault(keys), column).await.unwrap();
        for (key, count) in standing.under {
            *under.entry(key).or_default() += count;
        }
        unreadable += standing.unreadable.len();
    }
    (under, unreadable)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_bytes_is_rotated_or_a_hash() {
    let app = rows::app(&[]).await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text from information_schema.columns
          where table_schema = 'public' and data_type = 'bytea' and table_name <> '_sqlx_migrations'",
    )
    .fetch_all(&app.db)
    .await
    .unwrap();
    let known = COLUMNS.iter().map(|column| (column.table, column.name)).chain(HASHES);
    let known: BTreeSet<(String, String)> = known.map(|(table, name)| (table.into(), name.into())).collect();
    assert_eq!(columns.into_iter().collect::<BTreeSet<_>>(), known);
    for column in COLUMNS {
        assert_eq!(
            rotation::standing(&app.db, &app.config.vault, column).await.unwrap(),
            rotation::Standing::default()
        );
    }
}

/// Chats until told to stop, and on to the end of what was begun; counts what was answered.
async fn chats(user: User<'_>, answered: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let asked = answered.load(Ordering::Relaxed) + 1;
        user.asks(&format!("question {asked}"), &format!("message {asked} of our conversation")).await;
        answered.store(asked, Ordering::Relaxed);
    }
}

/// Puts keys into the file that all programs read, restarts them one after the other, and lets each of the people ask on
/// these keys and be answered.
async fn configures(stack: &Stack, file: &Path, keys: &[&str], answered: [&AtomicU64; 2]) {
    std::fs::write(file, keys.join("\n")).unwrap();
    for index in 0..2 {
        stack.baal(index).restart().await;
    }
    for count in answered {
        // Two: the first may have been asked before.
        let enough = count.load(Ordering::Relaxed) + 2;
        let deadline = Instant::now() + Duration::from_secs(60);
        while count.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < deadline, "nobody is answered with these keys");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_step_by_step_while_people_chat() {
    let (old, new) = (key(), key());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{old}\n")).unwrap();
    let stack = Stack::builder()
        .replicas(2)
        .env("BOT_ENCRYPTION_KEY", "")
        .env("BOT_ENCRYPTION_KEY_FILE", file.path().display())
        .patience(Duration::from_secs(60))
        .start()
        .await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada", "You listen.").await;
    bob.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    let mut conn = stack.db.acquire().await.unwrap();
    let terms = Terms { label: "friends".into(), tools: false, per_day: None, expires_at: None };
    let link = links::insert(&mut conn, &vault(&old), ada, &terms).await.unwrap();
    let link = links::get(&mut conn, link).await.unwrap().unwrap();
    let url = link.url(&vault(&old), "bot").unwrap();
    drop(conn);

    let stop = AtomicBool::new(false);
    let (anns, bobs) = (AtomicU64::new(0), AtomicU64::new(0));
    let answered = [&anns, &bobs];
    let change = async {
        let environment = stack.baal(0).env();
        configures(&stack, file.path(), &[&old, &new], answered).await;
        configures(&stack, file.path(), &[&new, &old], answered).await;
        // The secret of the agent, and the link.
        assert!(standing(&stack.db, &format!("{new},{old}")).await.0[&1] >= 2);
        let (well, said) = baal(&["rotate-keys", "--check"], &environment).await;
        assert!(well && said.contains("agents.secret: 0 under key 1, 1 under key 2"), "{said}");
        let (well, said) = baal(&["rotate-keys"], &environment).await;
        assert!(well && said.contains("Everything is under the first key."), "{said}");
        assert!(said.contains("agents.secret: 1 encrypted anew, 1 under the first key"), "{said}");
        let (well, said) = baal(&["rotate-keys", "--check"], &environment).await;
        assert!(well && said.contains("Nothing is under another key than the first"), "{said}");
        assert!(!said.contains(&old) && !said.contains(&new), "{said}");
        configures(&stack, file.path(), &[&new], answered).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(chats(ann, &anns, &stop), chats(bob, &bobs, &stop), change);
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status <> 'completed'").await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from updates where error is not null").await, 0);
    for log in stack.logs() {
        assert!(!String::from_utf8_lossy(&std::fs::read(&log).unwrap()).contains("cannot be decrypted"), "{log:?}");
    }

    let (under, unreadable) = standing(&stack.db, &new).await;
    assert!(under[&0] >= 2 && unreadable == 0, "{under:?}");
    let mut conn = stack.db.acquire().await.unwrap();
    let link = links::get(&mut conn, link.id).await.unwrap().unwrap();
    assert_eq!(link.url(&vault(&new), "bot").unwrap(), url);
    drop(conn);
    let recorded = "select after ->> 'encrypted_anew' from audit where action = 'keys.rotate'";
    assert!(stack.sql::<String>(recorded).await.contains("agents.secret"));
    assert_no_tokens_elsewhere(&stack.db).await;
}

/// Nothing that is no column of bytes holds a Fernet token: rotation would not find it.
async fn assert_no_tokens_elsewhere(db: &PgPool) {
    let columns = sqlx::query(
        "select table_name::text as t, column_name::text as c from information_schema.columns
          where table_schema = 'public' and data_type in ('text', 'json', 'jsonb', 'character varying', 'ARRAY')",
    );
    for column in columns.fetch_all(db).await.unwrap() {
        let (table, name): (String, String) = (column.get("t"), column.get("c"));
        let statement = format!("select count(*) from \"{table}\" where \"{name}\"::text like '%gAAAAA%'");
        let found: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(db).await.unwrap();
        assert_eq!(found, 0, "{table}.{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_in_the_middle_is_run_again() {
    const PEOPLE: i64 = 20_000;
    let (old, new) = (key(), key());
    let app = rows::app(&[]).await;
    let url = app.config.database_url.expose_secret();
    let both = format!("{new},{old}");
    let environment = rows::environment(url, &[("BOT_ENCRYPTION_KEY", &both)]);
    let token = vault(&old).encrypt(b"sk-1");
    sqlx::query("insert into users (id, name, libertai_key) select n, 'Ann', $1 from generate_series(1, $2) n")
        .bind(&token)
        .bind(PEOPLE)
        .execute(&app.db)
        .await
        .unwrap();
    let changed = async || -> i64 {
        let query = sqlx::query_scalar("select count(*) from users where libertai_key <> $1").bind(&token);
        query.fetch_one(&app.db).await.unwrap()
    };
    let mut rotating = command(&["rotate-keys"], &environment).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while changed().await == 0 {
        assert!(Instant::now() < deadline, "nothing is rotated");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rotating.kill().unwrap();
    rotating.wait().unwrap();
    let before = changed().await;
    assert!(before > 0 && before < PEOPLE, "{before}");
    let (under, unreadable) = standing(&app.db, &both).await;
    assert_eq!((under[&0] as i64, under[&1] as i64, unreadable), (before, PEOPLE - before, 0));

    let (well, said) = baal(&["rotate-keys", "--check"], &environment).await;
    assert!(well && said.contains(&format!("{} values are under another key", PEOPLE - before)), "{said}");
    assert_eq!(changed().await, before, "a check changes nothing");
    let (well, said) = baal(&["rotate-keys"], &environment).await;
    let expected = format!("users.libertai_key: {} encrypted anew, {PEOPLE} under the first key", PEOPLE - before);
    assert!(well && said.contains(&expected), "{said}");
    assert_eq!(standing(&app.db, &new).await, (BTreeMap::from([(0, PEOPLE as u64)]), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_writers_and_what_no_key_opens_are_left_as_they_are() {
    let (old, new, lost) = (key(), key(), key());
    let app = rows::app(&[]).await;
    let url = app.config.database_url.expose_secret();
    let both = format!("{new}\n{old}\n");
    let environment = rows::environment(url, &[("BOT_ENCRYPTION_KEY", &both)]);
    let [ours, gone] = [&old, &lost].map(|key| vault(key).encrypt(b"words"));
    let two = [vault(&old).encrypt(b"one"), vault(&new).encrypt(b"two")].join(&b'\n');
    let run = async |sql: &'static str, value: &[u8]| {
        sqlx::query(sql).bind(value.to_vec()).execute(&app.db).await.unwrap();
    };
    run("insert into users (id, name, libertai_key) values (7, 'Ann', $1)", &gone).await;
    run(
        "insert into agents (id, owner_id, bot_id, chat_id, name, system_prompt, model, visibility, secret)
         overriding system value values (1, 7, 42, 7, 'Ada', '', 'm', 'public', $1)",
        &ours,
    )
    .await;
    run(
        "insert into updates (bot_id, update_id, chat_id, body, claimed_by, attempt) values (42, 1, 7, $1, 5, 3)",
        &ours,
    )
    .await;
    run("insert into updates (bot_id, update_id, chat_id, body) values (42, 2, 7, $1)", &ours).await;
    run(
        "insert into updates (bot_id, update_id, chat_id, body, done) values (42, -3, 7, substr($1, 1, 0), true)",
        &ours,
    )
    .await;
    run(
        "insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, claimed_by, attempt)
         values (gen_random_uuid(), 42, 7, 1, 7, 'owner', $1, 5, 2)",
        &two,
    )
    .await;
    run(
        "insert into idempotency (token_id, key, request, status, body)
         values (0, E'odd\\x1b[31m', '', 201, $1), (3, 'even', '', 201, $1)",
        &gone,
    )
    .await;

    // Somebody has this update in hand while it is rotated, and ends it.
    let mut handler = app.db.begin().await.unwrap();
    sqlx::query("select from updates where update_id = 2 for update").execute(&mut *handler).await.unwrap();
    let ending = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sqlx::query("update updates set done = true, body = '' where update_id = 2")
            .execute(&mut *handler)
            .await
            .unwrap();
        handler.commit().await.unwrap();
    };
    let ((well, said), ()) = tokio::join!(baal(&["rotate-keys"], &environment), ending);
    assert!(!well && said.contains("no key opens 3 stored values"), "{said}");
    assert!(said.contains("users.libertai_key of 7: no key opens it"), "{said}");
    assert!(said.contains(r"idempotency.body of (0, odd\u{1b}[31m): no key opens it"), "{said}");
    assert!(said.contains("turns.request: 1 encrypted anew"), "{said}");

    let fences: Vec<(i64, Option<i64>, i32, bool)> =
        sqlx::query_as("select update_id, claimed_by, attempt, body = '' from updates order by 1")
            .fetch_all(&app.db)
            .await
            .unwrap();
    assert_eq!(fences, [(-3, None, 0, true), (1, Some(5), 3, false), (2, None, 0, true)]);
    let (request, attempt): (Vec<u8>, i32) =
        sqlx::query_as("select request, attempt from turns").fetch_one(&app.db).await.unwrap();
    let words: Vec<_> = request.split(|b| *b == b'\n').map(|token| vault(&new).decrypt(token).unwrap()).collect();
    assert_eq!((words, attempt), (vec![b"one".to_vec(), b"two".to_vec()], 2));
    // The agent, an update, a turn; what another key is for is as it was.
    assert_eq!(standing(&app.db, &new).await, (BTreeMap::from([(0, 3)]), 3));
    let kept: Vec<u8> = sqlx::query_scalar("select libertai_key from users").fetch_one(&app.db).await.unwrap();
    assert_eq!(kept, gone);

    let (_, said) = baal(&["doctor"], &environment).await;
    assert!(said.contains("✘ encryption key: BOT_ENCRYPTION_KEY does not open what is stored: 1 of users.libertai_key (such as 7), 2 of idempotency.body"), "{said}");
    let all = format!("{new},{old},{lost}");
    let environment = rows::environment(url, &[("BOT_ENCRYPTION_KEY", &all)]);
    let (_, said) = baal(&["doctor"], &environment).await;
    assert!(
        said.contains("✔ encryption key: 6 stored values looked at") && said.contains("! 3 of these are under"),
        "{said}"
    );
    let (well, said) = baal(&["rotate-keys"], &environment).await;
    assert!(well, "{said}");
    assert_eq!(standing(&app.db, &new).await, (BTreeMap::from([(0, 6)]), 0));
}
