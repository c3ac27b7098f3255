//! What is deleted when, and what never.

use std::collections::BTreeSet;

use baal::agents::store;
use baal::app::App;
use baal::janitor::{self, BATCH, RULES};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;

use crate::rows;

/// Others than the defaults, so that it shows which rule goes by which.
const SETTINGS: [(&str, &str); 6] = [
    ("RETENTION_UPDATES_DAYS", "2"),
    ("RETENTION_TEXTS_DAYS", "10"),
    ("RETENTION_OUTBOX_DAYS", "5"),
    ("RETENTION_TURNS_DAYS", "100"),
    ("RETENTION_JOBS_DAYS", "50"),
    ("RETENTION_AUDIT_DAYS", "60"),
];

async fn run(app: &App, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&app.db).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

async fn tidy(app: &App) {
    janitor::tidy_all(app, &CancellationToken::new()).await;
}

/// The values of one column, in order.
async fn left(app: &App, sql: &'static str) -> Vec<String> {
    let query = AssertSqlSafe(format!("select s.v::text from ({sql}) s (v) order by 1"));
    sqlx::query_scalar(query).fetch_all(&app.db).await.unwrap_or_else(|error| panic!("{error}: {sql}"))
}

/// With Ann (7), and agents: 1 runs, 2 is being deleted for years, 3 was deleted lately, 4 long ago.
async fn world() -> App {
    let app = rows::app(&SETTINGS).await;
    run(
        &app,
        "create function ago(days float8) returns timestamptz language sql as 'select now() - days * interval ''1 day''';
         insert into bots (bot_id) values (42);
         insert into users (id, name) values (7, 'Ann'), (8, 'Bob');
         insert into agents (id, owner_id, bot_id, chat_id, name, system_prompt, model, visibility, secret, status, created_at,
                             deleted_at)
         overriding system value
         select a, 7, 42, 7, 'Ada', 'be kind', 'm', 'public', '', s, ago(900), d
           from (values (1, 'running', null::timestamptz), (2, 'deleting', null), (3, 'deleted', ago(9.9)),
                        (4, 'deleted', ago(10.1))) x (a, s, d);",
    )
    .await;
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_calls_go_when_they_are_done_and_old_and_no_open_row_ever() {
    let app = world().await;
    run(
        &app,
        "insert into updates (bot_id, update_id, chat_id, body, received_at, done, error, claimed_by, failures) values
           (42, 1, 7, '', ago(1.9), true, null, null, 0), (42, 2, 7, '', ago(2.1), true, null, null, 0),
           (42, 3, 7, 'x', ago(900), false, null, null, 0), (42, 4, 7, 'x', ago(9.9), true, 'e', null, 5),
           (42, 5, 7, 'x', ago(10.1), true, 'e', null, 5), (42, 6, 7, 'x', ago(900), false, 'e', 1, 4);
         insert into outbox (id, bot_id, chat_id, method, payload, kind, created_at, ended_at, done, error, edits)
         overriding system value values
           (1, 42, 7, 'sendMessage', 'null', 'reply', ago(4.9), ago(4.9), true, null, null),
           (2, 42, 7, 'sendMessage', 'null', 'reply', ago(5.1), ago(5.1), true, null, null),
           (3, 42, 7, 'editMessageText', '{}', 'reply', ago(900), null, false, 'e', 5),
           (4, 42, 7, 'sendMessage', 'null', 'reply', ago(900), ago(1), true, null, null),
           (5, 42, 7, 'sendMessage', 'null', 'reply', ago(900), ago(900), true, null, null),
           (6, 42, 7, 'sendMessage', 'null', 'reply', ago(900), ago(900), true, null, null),
           (7, 42, 7, 'sendMessage', 'null', 'notice', ago(5.1), ago(5.1), true, 'given up', null),
           (8, 42, 7, 'sendMessage', 'null', 'reply', ago(900), ago(900), true, null, null),
           (9, 42, 7, 'sendMessage', 'null', 'reply', ago(900), ago(900), true, null, null),
           (10, 42, 7, 'sendMessage', 'null', 'reply', ago(900), ago(900), true, null, null);
         insert into conversations (bot_id, chat_id, question, dialogue, dialogue_at) values
           (42, 7, 6, '{}', ago(9.9)), (42, 8, null, '{}', ago(10.1));
         insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, first_piece, created_at)
         values (gen_random_uuid(), 42, 7, 1, 7, 'owner', 'x', 8, ago(900));
         insert into jobs (id, kind, agent_id, step, progress, created_at)
         values (gen_random_uuid(), 'repair', 1, 'place', 9, ago(900));
         insert into errands (id, kind, bot_id, chat_id, user_id, request, progress, done, created_at) values
           (gen_random_uuid(), 'balance', 42, 7, 7, 'x', 10, false, ago(900)),
           (gen_random_uuid(), 'login', 42, 7, 7, '', null, true, ago(6.9)),
           (gen_random_uuid(), 'forget', 42, 7, 7, '', null, true, ago(7.1));",
    )
    .await;
    tidy(&app).await;
    assert_eq!(left(&app, "select update_id from updates").await, ["1", "3", "4", "6"]);
    assert_eq!(left(&app, "select id from outbox").await, ["1", "10", "3", "4", "5", "6", "8", "9"]);
    assert_eq!(left(&app, "select chat_id from conversations where dialogue is not null").await, ["7"]);
    assert_eq!(left(&app, "select kind from errands").await, ["balance", "login"]);
    assert_eq!(left(&app, "select request from turns").await, [r"\x78"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_jobs_and_machines_go_when_nobody_needs_them() {
    let app = world().await;
    run(
        &app,
        "insert into turns (id, bot_id, chat_id, thread_id, agent_id, user_id, role, kind, request, created_at, ended_at, done,
                            status)
         select gen_random_uuid(), 42, 7, n, 1, 7, 'owner', k, r::bytea, ago(c), ago(e), e is not null, s
           from (values (1, 'message', '', 99.9, 99.9, 'completed'), (2, 'message', '', 100.1, 100.1, 'completed'),
                        (3, 'message', 'x', 900, null, null), (4, 'message', '', 900, 1, 'completed'),
                        (5, 'message', 'x', 2, 0.9, 'failed'), (6, 'message', 'x', 2, 1.1, 'failed'),
                        (7, 'forget', '', 7, 6.9, 'completed'), (8, 'forget', '', 8, 7.1, 'completed'),
                        (9, 'forget', 'x', 900, null, null), (10, 'reset', '', 101, 101, 'cancelled'))
                x (n, k, r, c, e, s);
         insert into vms (id, cloud, data, state, ended_at) select ('0000000000000000000000000000000' || n)::uuid, c, '{}', 'retiring', ago(e)
           from (values (1, 'aleph', 49.9), (2, 'aleph', 50.1), (3, 'hosts', 900), (4, 'local', 900), (5, 'aleph', null), (6, 'aleph', 900))
                x (n, c, e);
         insert into jobs (id, kind, agent_id, vm_id, step, state, created_at, ended_at, done, outcome)
         select gen_random_uuid(), k, a, ('0000000000000000000000000000000' || v)::uuid, 'end', jsonb_build_object('n', n), ago(c),
                ago(e), e is not null, case when e is not null then 'succeeded' end
           from (values (1, 'repair', 1, null::int, 800, 800), (2, 'repair', 1, null, 700, 700), (3, 'repair', 2, null, 900, null),
                        (4, 'prepare', null, null, 50, 49.9), (5, 'prepare', null, null, 51, 50.1),
                        (6, 'retire', null, 6, 900, 49.9), (7, 'deprovision', 4, null, 60, 51), (8, 'deprovision', 3, null, 900, 800))
                x (n, k, a, v, c, e);
         insert into job_steps (job_id, step, started_at) select id, 'place', created_at from jobs;
         update agents set deleted_at = ago(51) where id = 4;",
    )
    .await;
    tidy(&app).await;
    assert_eq!(left(&app, "select thread_id from turns").await, ["1", "3", "4", "5", "6", "7", "9"]);
    assert_eq!(left(&app, "select thread_id from turns where request <> ''").await, ["3", "5", "9"]);
    // 2 and 8 are the last of agents that are there, or were until lately; 3 is under way.
    assert_eq!(left(&app, "select state ->> 'n' from jobs").await, ["2", "3", "4", "6", "8"]);
    assert_eq!(left(&app, "select count(*) from job_steps").await, ["5"]);
    assert_eq!(left(&app, "select right(id::text, 1) from vms").await, ["1", "4", "5", "6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_agents_that_are_gone_goes_and_to_others_stays() {
    let app = world().await;
    run(
        &app,
        "insert into agent_versions (agent_id, version, name, system_prompt, model, created_at)
         select a, v, 'Ada', 'be kind', 'm', ago(900) from generate_series(1, 4) a, generate_series(1, 3) v;
         insert into links (id, agent_id, token_hash, token, label, revoked_at, created_at) overriding system value values
           (1, 1, null, null, '', ago(900), ago(900)), (2, 1, '2', '', '', null, ago(900)), (3, 1, '3', '', '', ago(10.1), ago(900)),
           (4, 1, '4', '', '', ago(9.9), ago(900)), (5, 1, '5', '', '', ago(900), ago(900)), (6, 4, null, null, '', null, ago(900)),
           (7, 4, '7', '', '', null, ago(900)), (8, 3, '8', '', '', null, ago(900));
         insert into visitors (agent_id, user_id, link_id, bot_id, blocked_at) values
           (1, 8, 5, 42, null), (2, 8, null, 42, ago(900)), (3, 8, 8, 42, null), (4, 8, 7, 42, ago(900));
         insert into audit (actor, action, subject_kind, subject_id, at)
         select 'x', 'x', 'x', d::text, ago(d) from unnest(array[59, 61]) d;
         insert into api_tokens (label, hash, scope, created_by, created_at, expires_at, revoked_at) values
           ('good', '1', 'read', 'x', ago(900), null, null), ('fresh', '2', 'read', 'x', ago(900), ago(-1), null),
           ('lately revoked', '3', 'read', 'x', ago(900), null, ago(59)), ('revoked', '4', 'read', 'x', ago(900), null, ago(61)),
           ('expired', '5', 'read', 'x', ago(900), ago(61), null), ('both', '6', 'read', 'x', ago(900), ago(-1), ago(61));
         insert into invites (code_hash, created_by, expires_at, used_at) values
           ('1', 9, ago(-1), null), ('2', 9, ago(59), ago(70)), ('3', 9, ago(61), ago(70)), ('4', 9, ago(61), null);
         insert into usage (user_id, day, messages) select 7, (now() at time zone 'utc')::date - d, 1 from unnest(array[0, 7, 8]) d;
         insert into idempotency (token_id, key, request, status, body, created_at) values
           (0, 'new', '', 201, '', ago(0.9)), (0, 'old', '', 201, '', ago(1.1));",
    )
    .await;
    tidy(&app).await;
    assert_eq!(left(&app, "select id from agents where system_prompt <> ''").await, ["1", "2", "3"]);
    assert_eq!(left(&app, "select distinct agent_id from agent_versions").await, ["1", "2", "3"]);
    assert_eq!(left(&app, "select agent_id from visitors").await, ["1", "2", "3"]);
    assert_eq!(left(&app, "select id from links").await, ["1", "2", "4", "5", "8"]);
    assert_eq!(left(&app, "select subject_id from audit").await, ["59"]);
    assert_eq!(left(&app, "select label from api_tokens").await, ["fresh", "good", "lately revoked"]);
    assert_eq!(left(&app, "select encode(code_hash, 'escape') from invites").await, ["1", "2"]);
    assert_eq!(left(&app, "select count(*) from usage").await, ["2"]);
    assert_eq!(left(&app, "select key from idempotency").await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_agents_versions_the_last_ones_stay_and_those_it_may_go_back_to() {
    let app = world().await;
    run(
        &app,
        "insert into agent_versions (agent_id, version, name, system_prompt, model) values (1, 1, 'Ada', '', 'm')",
    )
    .await;
    let mut conn = app.db.acquire().await.unwrap();
    let want = async |conn: &mut sqlx::PgConnection| drop(store::want(conn, 1, "Ada", "be kind", "m").await.unwrap());
    for _ in 0..60 {
        want(&mut conn).await;
    }
    // None of them was ever deployed.
    assert_eq!(left(&app, "select count(*) from agent_versions").await, ["61"]);
    run(&app, "update agents set deployed_version = 58 where id = 1").await;
    want(&mut conn).await;
    assert_eq!(left(&app, "select min(version) from agent_versions").await, [(58 - store::VERSIONS).to_string()]);
    assert_eq!(left(&app, "select max(version) from agent_versions").await, ["62"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_is_deleted_in_batches_and_a_stop_ends_it_between_two() {
    let app = world().await;
    run(
        &app,
        "insert into updates (bot_id, update_id, chat_id, body, received_at, done)
         select 42, n, 7, '', ago(3), true from generate_series(1, 12345) n;
         insert into updates (bot_id, update_id, chat_id, body, received_at) values (42, 0, 7, 'x', ago(900));
         create table batches (n bigint);
         create function note() returns trigger language plpgsql as
           'begin insert into batches select count(*) from gone; return null; end';
         create trigger note after delete on updates referencing old table as gone for each statement execute function note();",
    )
    .await;
    let stop = CancellationToken::new();
    stop.cancel();
    janitor::tidy_all(&app, &stop).await;
    assert_eq!(left(&app, "select count(*) from updates").await, ["12346"]);
    tidy(&app).await;
    assert_eq!(left(&app, "select update_id from updates").await, ["0"]);
    let batches = left(&app, "select n from batches where n > 0").await;
    assert_eq!(batches, [(12345 - 2 * BATCH).to_string(), BATCH.to_string(), BATCH.to_string()]);
}

/// The names of tables that a plan reads from beginning to end, by the table or by a whole index.
fn read_whole(plan: &Value, found: &mut BTreeSet<String>) {
    let relation = plan["Relation Name"].as_str().unwrap_or_default();
    if plan["Node Type"] == "Seq Scan" {
        found.insert(relation.to_owned());
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        read_whole(child, found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_what_is_due_reads_little_where_nothing_is() {
    let app = world().await;
    // As it is in the midst of life: everything is recent, and much of it was updated.
    run(
        &app,
        "insert into updates (bot_id, update_id, chat_id, body, received_at, done)
         select 42, n, n, '', ago(n / 20000.0), true from generate_series(1, 20000) n;
         insert into outbox (bot_id, chat_id, method, payload, kind, created_at, ended_at, done)
         select 42, n, 'sendMessage', 'null', 'reply', ago(n / 20000.0), ago(n / 20000.0), true from generate_series(1, 20000) n;
         insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, created_at, ended_at, done, status)
         select gen_random_uuid(), 42, n, 1, 7, 'owner', '', ago(n / 20000.0), ago(n / 20000.0), true, 'completed'
           from generate_series(1, 20000) n;
         insert into users (id, name) select n, 'Ann' from generate_series(100, 20000) n;
         insert into conversations (bot_id, chat_id, agent_id) select 42, n, 1 from generate_series(100, 20000) n;
         insert into visitors (agent_id, user_id, bot_id) select 1, n, 42 from generate_series(100, 20000) n;
         insert into usage (user_id, day, messages)
         select n, (now() at time zone 'utc')::date, 1 from generate_series(100, 20000) n;
         insert into audit (actor, action, subject_kind, subject_id) select 'x', 'x', 'x', '' from generate_series(1, 20000);
         insert into vms (id, cloud, state, agent_id, ended_at)
         select gen_random_uuid(), 'aleph', 'assigned', 1, now() from generate_series(1, 20000);
         insert into agent_versions (agent_id, version, name, system_prompt, model)
         select 1, n, 'Ada', '', 'm' from generate_series(1, 20000) n;
         insert into jobs (id, kind, step, ended_at, done) select gen_random_uuid(), 'prepare', 'end', now(), true from generate_series(1, 20000);
         insert into errands (id, kind, bot_id, chat_id, user_id, request, done)
         select gen_random_uuid(), 'balance', 42, 7, 7, '', true from generate_series(1, 20000);
         analyze;",
    )
    .await;
    for rule in &RULES {
        let mut tx = app.db.begin().await.unwrap();
        let explain = AssertSqlSafe(format!("explain (analyze, buffers, format json) {}", rule.sql));
        let query = sqlx::query_scalar(explain).bind(BATCH);
        let query = match rule.days {
            Some(days) => query.bind(days(&app.config)),
            None => query,
        };
        let explained: Value = query.fetch_one(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        let plan = &explained[0]["Plan"];
        let blocks = ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| plan[name].as_i64().unwrap());
        // Each of the large tables, and each of their indexes, has more.
        assert!(blocks.iter().sum::<i64>() < 50, "{}: {explained:#}", rule.what);
        let mut whole = BTreeSet::new();
        read_whole(plan, &mut whole);
        // It has a few rows, and no index for this.
        whole.remove("api_tokens");
        assert!(whole.is_empty(), "{} reads all of {whole:?}: {explained:#}", rule.what);
    }
}
