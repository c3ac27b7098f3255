//! How messages become turns: counted, and joined to the turn that waits already or queued as a new one.
//!
//! Invariant: counting and queueing are one statement, so that no two messages at once slip past a limit, and none is
//! counted that is not queued. A message starts a turn at once; those that come while it runs form the next one together.

use std::collections::HashSet;
use std::time::Duration;

use baal_protocol::Role;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use super::request::Part;
use super::store::{Claimed, claimed_columns};
use crate::database::{columns, list};
use crate::handover::Giving;
use crate::storable;
use crate::telegram::conversation::note_user;
use crate::telegram::inbox;
use crate::telegram::text::Place;
use crate::telegram::update::User;
use crate::together::lock_timeout;
use crate::trace;
use crate::vault::Vault;

/// Messages in one turn at most; each may bring a file, and agents take this many.
const MAX_MESSAGES: i32 = 20;

/// Bytes of a turn's stored request beyond which no further message joins it: agents take a body of 1 MiB.
const MAX_REQUEST: i32 = 400_000;

/// Messages to be queued.
#[derive(Debug)]
pub struct NewTurn<'a> {
    /// Where the answer goes.
    pub place: Place,
    /// The agent being talked to at this moment.
    pub agent_id: i64,
    /// Who speaks.
    pub user_id: i64,
    /// As what.
    pub role: Role,
    /// The link by which a visitor came.
    pub link_id: Option<i64>,
    /// Whether the turn has tools.
    pub tools: bool,
    /// What is said; at least one.
    pub parts: &'a [Part],
    /// The turn that brought first what was now edited; such a turn is on its own.
    pub edit_of: Option<Uuid>,
    /// The album that a part belongs to.
    pub album: Option<&'a str>,
    /// For how long to wait for further parts; zero also ends the wait of the turn that it joins.
    pub wait: Duration,
    /// Messages on the operator's key that the sender may send today; none: these do not count.
    pub free_limit: Option<i32>,
    /// Messages that a visitor's link allows each day.
    pub per_day: Option<i32>,
    /// The update that is handled by queueing these messages, and nothing else.
    pub handles: Option<Handles<'a>>,
}

/// An update that ends with the queueing of what it brought.
#[derive(Debug, Clone, Copy)]
pub struct Handles<'a> {
    /// Who has claimed it.
    pub replica: i64,
    /// The claim.
    pub update: &'a inbox::Claimed,
    /// Who wrote it, to be noted.
    pub user: &'a User,
}

/// What became of messages that were to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// They are part of this turn. Wake [`Queue::Turns`](crate::wake::Queue) after the commit.
    Queued(Uuid),
    /// The sender's free messages for today are used up.
    FreeUsedUp,
    /// What the visitor's link allows for today is used up.
    LinkUsedUp,
    /// The update that brought them is not claimed any more, or has ended: nothing was done.
    ClaimLost,
}

/// Messages as they are written down: what [`NewTurn`] says, with its words sealed.
#[derive(Debug, Clone)]
pub struct Entry {
    id: Uuid,
    place: Place,
    agent_id: i64,
    user_id: i64,
    role: &'static str,
    request: Vec<u8>,
    link_id: Option<i64>,
    tools: bool,
    edit_of: Option<Uuid>,
    album: Option<String>,
    wait: f64,
    free_limit: Option<i32>,
    per_day: Option<i32>,
    messages: i32,
    message_ids: Vec<i64>,
    trace_context: Option<String>,
    handles: Option<Handled>,
}

impl Entry {
    /// Whether whoever has claimed its update may take the turn as well.
    fn can_be_taken(&self) -> bool {
        self.handles.is_some() && self.wait == 0.0
    }
}

/// The update of an [`Entry`], and who wrote it.
#[derive(Debug, Clone)]
struct Handled {
    replica: i64,
    update_id: i64,
    attempt: i32,
    name: String,
    username: Option<String>,
    language_code: Option<String>,
}

impl NewTurn<'_> {
    /// What is written down.
    pub fn entry(&self, vault: &Vault) -> Entry {
        let tokens: Vec<Vec<u8>> = self.parts.iter().map(|part| vault.seal(part)).collect();
        Entry {
            id: Uuid::now_v7(),
            place: self.place,
            agent_id: self.agent_id,
            user_id: self.user_id,
            role: self.role.as_str(),
            request: tokens.join(&b'\n'),
            link_id: self.link_id,
            tools: self.tools,
            edit_of: self.edit_of,
            album: self.album.map(storable::text),
            wait: self.wait.as_secs_f64(),
            free_limit: self.free_limit,
            per_day: self.per_day,
            messages: i32::try_from(self.parts.len()).unwrap_or(i32::MAX),
            message_ids: self.parts.iter().filter_map(|part| part.message_id).collect(),
            trace_context: trace::here(),
            handles: self.handles.map(|handles| Handled {
                replica: handles.replica,
                update_id: handles.update.update_id,
                attempt: handles.update.attempt,
                name: storable::text(&handles.user.name()),
                username: handles.user.username.as_deref().map(storable::text),
                language_code: handles.user.language_code.as_deref().map(storable::text),
            }),
        }
    }
}

/// What became of an [`Entry`].
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    /// What whoever wrote it is told.
    pub what: Enqueued,
    /// Whether its turn is claimed already.
    pub taken: bool,
    /// Whether another update of its chat waits.
    pub awaited: bool,
}

/// [`enqueue_all`] of one, within a transaction.
pub async fn enqueue(conn: &mut PgConnection, vault: &Vault, turn: &NewTurn<'_>) -> sqlx::Result<Enqueued> {
    let queued = enqueue_all(conn, &[turn.entry(vault)], 0).await?.0.pop();
    queued.map(|queued| queued.what).ok_or(sqlx::Error::RowNotFound)
}

/// [`enqueue_all`], and hands over to the runner of this process the turns that it takes.
pub async fn enqueue_and_hand_over(
    db: &PgPool,
    entries: &[Entry],
    runner: &Giving<(Uuid, i32), Claimed>,
) -> sqlx::Result<Vec<Queued>> {
    let mut conn = db.acquire().await?;
    let prepared = runner.prepare(entries.iter().filter(|entry| entry.can_be_taken()).count());
    let (queued, taken) = enqueue_all(&mut conn, entries, prepared.places()).await?;
    prepared.settle(taken.into_iter().map(|turn| ((turn.id, turn.attempt), turn)));
    Ok(queued)
}

/// Counts messages and queues them, and ends the updates that this handles, all in one statement: the first of each user, then in
/// another the second. An update that was to end so and is not claimed any more, or whose messages are refused, is left as it was,
/// and so is all that goes with it. What became of each, in the order given, and the turns that came into being
/// claimed.
///
/// Messages join their chat's newest open turn with their agent, if nobody has ever claimed it: an agent may have seen the words of
/// one that was. A turn holds messages of one UTC day, so that what it counted can be given back.
///
/// Up to `places` turns with nothing before them come into being claimed by whoever has claimed their updates, which spares them the
/// claim.
pub async fn enqueue_all(
    conn: &mut PgConnection,
    entries: &[Entry],
    places: usize,
) -> sqlx::Result<(Vec<Queued>, Vec<Claimed>)> {
    let mut queued = vec![Queued { what: Enqueued::FreeUsedUp, taken: false, awaited: true }; entries.len()];
    let mut taken = Vec::new();
    let mut rest: Vec<usize> = (0..entries.len()).collect();
    // What somebody's first message has counted, a statement does not see of the second.
    while !rest.is_empty() {
        let (mut once, mut again, mut users) = (Vec::new(), Vec::new(), HashSet::new());
        for index in rest {
            if users.insert(entries[index].user_id) { &mut once } else { &mut again }.push(index);
        }
        let round: Vec<&Entry> = once.iter().map(|index| &entries[*index]).collect();
        let places = places - taken.len();
        for (index, (what, turn)) in once.iter().zip(enqueue_once(conn, &round, places).await?) {
            queued[*index] = what;
            taken.extend(turn);
        }
        rest = again;
    }
    Ok((queued, taken))
}

/// What an [`Entry`] is in [`enqueue_once`], by its place `n`.
macro_rules! entry_columns {
    ($of:literal) => {
        columns!($of: id, chat_id, thread_id, agent_id, user_id, role, request, link_id, tools, edit_of, album, wait, free_limit,
                      per_day, messages, message_ids, trace_context, update_id, replica, attempt, name, username,
                      language_code, take, n)
    };
}

/// [`enqueue_all`] for messages of users who all differ, through one bot.
async fn enqueue_once(
    conn: &mut PgConnection,
    entries: &[&Entry],
    mut places: usize,
) -> sqlx::Result<Vec<(Queued, Option<Claimed>)>> {
    macro_rules! column {
        ($value:expr) => {
            entries.iter().map($value).collect::<Vec<_>>()
        };
    }
    let mut takes = |entry: &&Entry| {
        let take = entry.can_be_taken() && places > 0;
        places -= usize::from(take);
        take
    };
    let rows = sqlx::query(concat!(
        "with patience as materialized (select set_config('lock_timeout', $28, true)),
         asked as materialized (
           select * from unnest(",
        list!("2": uuid, "3": int8, "4": int8, "5": int8, "6": int8, "7": text, "8": bytea, "9": int8, "10": bool, "11": uuid,
              "12": text, "13": float8, "14": int4, "15": int4, "16": int4, "17": text, "18": text, "19": int8, "20": int8,
              "21": int4, "22": text, "23": text, "24": text, "27": bool),
        ")
             with ordinality a (",
        entry_columns!(""),
        ")),
         -- Locked before anything is counted: whoever has lost the claim does nothing. Everything is locked in an order, so that two
         -- such statements never wait for each other: updates, visits, counts, users.
         held as materialized (
           -- Not `not done`: a plan that was made when few updates were open would read all that are, and all dead ones among them.
           -- `any` beside the join, here and below, so that a plan that was made when there were few rows looks for these alone.
           select a.n from patience, updates u join asked a on u.update_id = a.update_id
            where u.bot_id = $1 and u.update_id = any(array(select w.update_id from asked w)) and u.claimed_by = a.replica and u.attempt = a.attempt
              and u.done is not true
            order by u.update_id for update of u),
         live as materialized (
           select ",
        entry_columns!("a."),
        ", (now() at time zone 'utc')::date as day
             from asked a where a.update_id is null or exists (select from held h where h.n = a.n)),
         -- Locked, so that of two messages at once the second sees what the first has counted.
         visit as materialized (
           select a.n, a.per_day is null or a.messages + case when v.day = a.day then v.messages_today else 0 end <= a.per_day as open
             from live a join visitors v on v.agent_id = a.agent_id and v.user_id = a.user_id
            where a.role = 'visitor' order by v.agent_id, v.user_id for update of v),
         counted as (
           insert into usage as u (user_id, day, messages)
           select a.user_id, a.day, a.messages from live a
            where a.free_limit >= a.messages and coalesce((select v.open from visit v where v.n = a.n), true)
            order by a.user_id
           on conflict (user_id, day) do update set messages = u.messages + excluded.messages
              where u.messages + excluded.messages <= (select a.free_limit from asked a where a.user_id = excluded.user_id)
           returning u.user_id),
         granted as materialized (
           select ",
        entry_columns!("a."),
        ", a.day from live a
            where (a.free_limit is null or exists (select from counted c where c.user_id = a.user_id))
              and coalesce((select v.open from visit v where v.n = a.n), true)),
         visited as (
           update visitors v set messages = v.messages + g.messages, last_seen_at = now(), day = g.day,
                  messages_today = g.messages + case when v.day = g.day then v.messages_today else 0 end
             from granted g where g.role = 'visitor' and v.agent_id = g.agent_id and v.user_id = g.user_id),
         newest as materialized (
           select a.n, (select n.id from turns n where n.bot_id = $1 and n.chat_id = a.chat_id and n.agent_id = a.agent_id
                           and not n.done and n.kind <> 'forget' order by n.position desc limit 1) as id
             from live a where a.edit_of is null),
         -- Asked of the locked row: a claim may be taking the turn at this moment.
         waiting as materialized (
           select a.n, t.id from newest n join live a on a.n = n.n join turns t on t.id = n.id
            where t.id = any(array(select w.id from newest w where w.id is not null))
              and t.done is not true and t.claimed_by is null and t.attempt = 0 and not t.cancel_requested
              and t.kind = 'message' and t.edit_of is null
              and t.user_id = a.user_id and t.role = a.role and t.tools = a.tools and t.link_id is not distinct from a.link_id
              and t.thread_id is not distinct from a.thread_id
              and (t.created_at at time zone 'utc')::date = a.day
              and cardinality(t.message_ids) + a.messages <= $25 and octet_length(t.request) + octet_length(a.request) <= $26
              for update of t skip locked),
         joined as (
           update turns t set request = t.request || '\\x0a'::bytea || g.request, message_ids = t.message_ids || g.message_ids::int8[],
                  counted = t.counted + case when g.free_limit is null then 0 else g.messages end,
                  album = g.album, run_at = now() + make_interval(secs => g.wait)
             from waiting w join granted g on g.n = w.n where t.id = w.id returning t.id, g.n),
         fresh as materialized (
           select ",
        entry_columns!("g."),
        ", g.day, g.take and exists (select from replicas r where r.id = g.replica and r.expires_at > now())
                  -- As a claim asks; what is being queued at this moment is not before it.
                  and not exists (select from turns p where p.bot_id = $1 and p.chat_id = g.chat_id and p.agent_id = g.agent_id
                                     and not p.done and (p.kind <> 'forget' or p.claimed_by is not null or p.run_at <= now()))
                  as taken
             from granted g where not exists (select from joined j where j.n = g.n)),
         made as (
           insert into turns (id, bot_id, chat_id, thread_id, agent_id, user_id, role, request, link_id, tools, edit_of, album,
                              run_at, message_ids, counted, trace_context, claimed_by, attempt, started_at)
           select f.id, $1, f.chat_id, f.thread_id, f.agent_id, f.user_id, f.role, f.request, f.link_id, f.tools, f.edit_of, f.album,
                  now() + make_interval(secs => f.wait), f.message_ids::int8[],
                  case when f.free_limit is null then 0 else f.messages end, f.trace_context,
                  case when f.taken then f.replica end, f.taken::int, case when f.taken then now() end
             from fresh f order by f.n returning ",
        columns!("": id, position, bot_id, chat_id, thread_id, kind, user_id, role, tools, edit_of, counted, request, attempt,
                     reclaims, asked, cancel_requested, created_at, first_piece, trace_context, agent_id, claimed_by),
        "),
         noted as (",
        note_user!(
            "select g.user_id, g.name, g.username, g.language_code, date_trunc('minute', now()), 1
               from granted g where g.update_id is not null order by g.user_id"
        ),
        "),
         handled as (
           update updates u set done = true, claimed_by = null, body = '', error = null
             from granted g
            where u.bot_id = $1 and u.update_id = g.update_id
              and u.update_id = any(array(select w.update_id from granted w where w.update_id is not null)))
         select coalesce(j.id, q.id) as queued,
                k.update_id is not null and not exists (select from held h where h.n = k.n) as lost,
                coalesce(v.open, true) as link_open, a.id is not null as taken,
                exists (select from updates u where u.bot_id = $1 and u.chat_id = k.chat_id and not u.done
                                                and u.update_id <> k.update_id) as awaited, ",
        claimed_columns!(),
        " from asked k left join joined j on j.n = k.n left join made q on q.id = k.id left join visit v on v.n = k.n
               left join agents a on a.id = q.agent_id and q.claimed_by is not null
          order by k.n",
    ))
    .bind(entries.first().map(|entry| entry.place.bot_id))
    .bind(column!(|entry| entry.id))
    .bind(column!(|entry| entry.place.chat_id))
    .bind(column!(|entry| entry.place.thread_id))
    .bind(column!(|entry| entry.agent_id))
    .bind(column!(|entry| entry.user_id))
    .bind(column!(|entry| entry.role))
    .bind(column!(|entry| entry.request.as_slice()))
    .bind(column!(|entry| entry.link_id))
    .bind(column!(|entry| entry.tools))
    .bind(column!(|entry| entry.edit_of))
    .bind(column!(|entry| entry.album.as_deref()))
    .bind(column!(|entry| entry.wait))
    .bind(column!(|entry| entry.free_limit))
    .bind(column!(|entry| entry.per_day))
    .bind(column!(|entry| entry.messages))
    .bind(column!(|entry| array(&entry.message_ids)))
    .bind(column!(|entry| entry.trace_context.as_deref()))
    .bind(column!(|entry| entry.handles.as_ref().map(|handles| handles.update_id)))
    .bind(column!(|entry| entry.handles.as_ref().map(|handles| handles.replica)))
    .bind(column!(|entry| entry.handles.as_ref().map(|handles| handles.attempt)))
    .bind(column!(|entry| entry.handles.as_ref().map(|handles| handles.name.as_str())))
    .bind(column!(|entry| entry.handles.as_ref().and_then(|handles| handles.username.as_deref())))
    .bind(column!(|entry| entry.handles.as_ref().and_then(|handles| handles.language_code.as_deref())))
    .bind(MAX_MESSAGES)
    .bind(MAX_REQUEST)
    .bind(column!(&mut takes))
    .bind(lock_timeout(entries.len()))
    .fetch_all(conn)
    .await?;
    let queued = rows.iter().map(|row| {
        let what = match row.get::<Option<Uuid>, _>("queued") {
            Some(id) => Enqueued::Queued(id),
            None if row.get("lost") => Enqueued::ClaimLost,
            None if row.get("link_open") => Enqueued::FreeUsedUp,
            None => Enqueued::LinkUsedUp,
        };
        let taken = row.get("taken");
        (Queued { what, taken, awaited: row.get("awaited") }, taken.then(|| Claimed::of_row(row)))
    });
    Ok(queued.collect())
}

/// Numbers as Postgres writes an array: `unnest` makes no arrays of arrays.
fn array(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

/// Counts the messages of a claimed turn that were queued without being counted. `false`: their sender has none left.
pub async fn count_late(conn: &mut PgConnection, replica: i64, turn: &Claimed, free_limit: i32) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "with late as materialized (
           select id, user_id, greatest(cardinality(message_ids), 1) as messages,
                  (created_at at time zone 'utc')::date as day
             from turns where id = $1 and claimed_by = $2 and attempt = $3 and not done and counted = 0
              -- An earlier try whose answer was lost may be under way still.
              for update),
         counted as (
           insert into usage as u (user_id, day, messages) select user_id, day, messages from late where messages <= $4
           on conflict (user_id, day) do update set messages = u.messages + excluded.messages
                   where u.messages + excluded.messages <= $4
           returning u.messages)
         update turns t set counted = late.messages from late where t.id = late.id and exists (select from counted)",
    )
    .bind(turn.id)
    .bind(replica)
    .bind(turn.attempt)
    .bind(free_limit)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}
