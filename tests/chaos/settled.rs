//! What must be true once the faults have passed: every message is accounted for, and nothing is left behind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::count::words;
use crate::harness::{Message, POLL, Stack};
use crate::load::{People, Said};

/// How long everything may take to come to rest, waits that double included.
const PATIENCE: Duration = Duration::from_secs(180);

/// How much more a replica may have in memory than before the faults, in KiB: connections, caches, and pages that the allocator
/// keeps.
const MORE_MEMORY: u64 = 64 * 1024;

/// What makes a message twice excusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Its send was in flight when a replica died, or its answer was lost.
    InFlight,
    /// Its answer was lost: nobody died.
    LostAnswers,
}

/// What a kind of fault cannot but bring along.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    pub duplicates: Duplicates,
    /// How often the model may have been asked once more for an answer that its agent did not live to hear.
    pub model_repeats: i64,
}

impl Allowed {
    pub const USUAL: Self = Self { duplicates: Duplicates::InFlight, model_repeats: 0 };
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Count {
    pub messages: usize,
    pub turns: usize,
    /// Updates that ended as dead letters, each with a reason.
    pub dead_letters: usize,
    /// Turns that went on after a death.
    pub reclaimed: i64,
    /// Sends of which nobody knew whether they had arrived.
    pub uncertain: i64,
    /// Messages that are in a chat twice.
    pub duplicates: i64,
    /// Answers that the model was asked for once more.
    pub model_repeats: i64,
    /// What the replicas have in memory, before and now, in KiB.
    pub memory: Vec<(u64, u64)>,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, turns, dead_letters, reclaimed, uncertain, duplicates, model_repeats, .. } = self;
        write!(
            f,
            "{messages} messages, {turns} turns ({reclaimed} reclaimed), {dead_letters} dead letters, {uncertain} sends \
             uncertain, {duplicates} of them twice, {model_repeats} answers generated again, memory "
        )?;
        for (index, (before, now)) in self.memory.iter().enumerate() {
            let mib = |kib: u64| kib as f64 / 1024.0;
            write!(f, "{}{:.0}→{:.0} MiB", if index > 0 { ", " } else { "" }, mib(*before), mib(*now))?;
        }
        Ok(())
    }
}

/// A turn with messages of a person.
#[derive(sqlx::FromRow)]
struct Turn {
    message_ids: Vec<i64>,
    counted: i32,
    status: Option<String>,
    error: Option<String>,
}

/// Waits until nothing is under way, and counts: every message is in exactly one turn, in order, and counted once, or its
/// update is a dead letter with a reason; every turn was answered, in order, whole, and the model asked once; what is there
/// twice was uncertain; nobody holds anything any more.
pub async fn assert_settled(stack: &Stack, people: &People, allowed: Allowed) -> Count {
    come_to_rest(stack, people).await;
    let mut count = Count { messages: people.messages(), ..Count::default() };
    let dead = dead_letters(stack).await;
    let asked = questions(&stack.simulator.ask_model("/sim/requests").await);
    for (user, said) in (1..).zip(&people.said) {
        let turns: Vec<Turn> = sqlx::query_as(
            "select message_ids, counted, status, error from turns where user_id = $1 and kind = 'message' order by position",
        )
        .bind(user)
        .fetch_all(&stack.db)
        .await
        .unwrap();
        count.turns += turns.len();

        // Every message once, in order, or dead.
        let numbers: HashMap<i64, usize> = (1..).zip(said).map(|(number, said)| (said.message_id, number)).collect();
        let covered: Vec<i64> = turns.iter().flat_map(|turn| turn.message_ids.iter().copied()).collect();
        let (lost, alive): (Vec<&Said>, Vec<&Said>) = said.iter().partition(|said| dead.contains_key(&said.update_id));
        let alive: Vec<i64> = alive.into_iter().map(|said| said.message_id).collect();
        assert_eq!(covered, alive, "the messages of user {user} in their turns, and those that were said");
        count.dead_letters += lost.len();

        for turn in &turns {
            assert_eq!(turn.status.as_deref(), Some("completed"), "a turn of user {user}: {:?}", turn.error);
            assert_eq!(turn.counted as usize, turn.message_ids.len(), "what a turn of user {user} counted");
        }
        let used: i64 = sqlx::query_scalar("select coalesce(sum(messages), 0)::int8 from usage where user_id = $1")
            .bind(user)
            .fetch_one(&stack.db)
            .await
            .unwrap();
        assert_eq!(used as usize, alive.len(), "messages of user {user} that were counted");

        for message in &alive {
            let words = words(user, numbers[message]);
            let times = asked.iter().filter(|(said, _)| said.contains(&words)).map(|(_, times)| times).sum::<i64>();
            assert!(times >= 1, "the model was never asked: {words}");
            // Messages of one turn were asked together.
            if turns.iter().any(|turn| turn.message_ids.first() == Some(message)) {
                count.model_repeats += times - 1;
            }
        }

        // Every turn's answer, in order, whole.
        let messages = stack.user(user).messages().await;
        let firsts: Vec<usize> = turns.iter().map(|turn| numbers[&turn.message_ids[0]]).collect();
        let answers: Vec<(usize, &Message)> =
            messages.iter().filter(|m| m.is_reply()).filter_map(|m| Some((answered(user, m)?, m))).collect();
        let mut answered: Vec<usize> = answers.iter().map(|(number, _)| *number).collect();
        answered.dedup();
        assert_eq!(answered, firsts, "the first messages of the turns that user {user} sees answered, in order");
        let whole: HashSet<usize> = answers
            .iter()
            .filter(|(_, m)| m.text.contains(" of our conversation."))
            .map(|(number, _)| *number)
            .collect();
        assert_eq!(whole.len(), firsts.len(), "answers to user {user} that are whole");
        count.duplicates += duplicates(stack, user, &messages, allowed.duplicates).await;
    }
    assert!(
        (0..=allowed.model_repeats).contains(&count.model_repeats),
        "{} answers were generated again, and {} may be",
        count.model_repeats,
        allowed.model_repeats
    );
    count.reclaimed = stack.sql("select count(*) from turns where reclaims > 0").await;
    count.uncertain = stack.sql("select count(*) from outbox where uncertain").await;
    assert_eq!(stack.simulator.get("/sim/violations").await, json!([]), "what Telegram forbids");
    let panics: Vec<_> = stack.errors().into_iter().filter(|line| line.contains("panicked at")).collect();
    assert!(panics.is_empty(), "{panics:?}");
    count.memory = people.memory_before.iter().copied().zip(stack.memory()).collect();
    for (before, now) in &count.memory {
        assert!(*now <= before + MORE_MEMORY, "a replica had {before} KiB in memory and has {now} KiB now");
    }
    count
}

/// Waits until all is done and nobody holds anything but what the living go on with: their registrations, and the long polls
/// for what agents say unasked.
async fn come_to_rest(stack: &Stack, people: &People) {
    const LEFT: &str = "select json_build_object(
        'updates not done', (select count(*) from updates where not done),
        'turns not done', (select count(*) from turns where not done),
        'calls not done', (select count(*) from outbox where not done),
        'jobs not done', (select count(*) from jobs where not done),
        'errands not done', (select count(*) from errands where not done),
        'updates claimed', (select count(*) from updates where claimed_by is not null),
        'turns claimed', (select count(*) from turns where claimed_by is not null),
        'calls claimed', (select count(*) from outbox where claimed_by is not null),
        'jobs claimed', (select count(*) from jobs where claimed_by is not null),
        'errands claimed', (select count(*) from errands where claimed_by is not null),
        'agents pulled by the dead', (select count(*) from agents where pull_claimed_by not in (select id from replicas)),
        'leases of the dead', (select count(*) from leases where replica_id not in (select id from replicas)),
        'replicas too many or few', (select count(*) from replicas) - $1,
        'replicas expired', (select count(*) from replicas where expires_at < now()),
        'messages that never arrived',
          (select count(*) from unnest($2::int8[]) said (id) where not exists (
             select from updates u where u.update_id = said.id)))";
    let said: Vec<i64> = people.said.iter().flatten().map(|said| said.update_id).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: sqlx::Result<Value> =
            sqlx::query_scalar(LEFT).bind(stack.replicas() as i64).bind(&said).fetch_one(&stack.db).await;
        let left = match left {
            Ok(left) => {
                let left = left.as_object().unwrap().clone();
                let left: BTreeMap<String, Value> = left.into_iter().filter(|(_, count)| *count != 0).collect();
                if left.is_empty() {
                    return;
                }
                format!("{left:?}")
            }
            // The connections of the test were cut as well.
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < deadline, "this does not come to rest: {left}");
        tokio::time::sleep(POLL * 4).await;
    }
}

/// The updates that ended as dead letters, with their reasons.
async fn dead_letters(stack: &Stack) -> HashMap<i64, String> {
    let dead: Vec<(i64, String)> = sqlx::query_as("select update_id, error from updates where error is not null")
        .fetch_all(&stack.db)
        .await
        .unwrap();
    for (update, reason) in &dead {
        assert!(!reason.trim().is_empty(), "update {update} is a dead letter for no reason");
    }
    dead.into_iter().collect()
}

/// What the model was asked, message by message, and how often.
fn questions(asked: &Value) -> Vec<(HashSet<String>, i64)> {
    let questions = asked["by_message"].as_object().unwrap().iter();
    questions
        .map(|(question, times)| (question.split("\n\n").map(str::to_owned).collect(), times.as_i64().unwrap()))
        .collect()
}

/// The number of the message that an answer begins with, if it is an answer of which that much is there.
fn answered(user: i64, message: &Message) -> Option<usize> {
    let (_, rest) = message.text.split_once(&format!("You said: “user {user} says no. "))?;
    rest.split_once('.')?.0.parse().ok()
}

/// How many messages are in a chat beyond one for each send, all of which must be excusable.
async fn duplicates(stack: &Stack, user: i64, messages: &[Message], excuse: Duplicates) -> i64 {
    let shown = messages.iter().filter(|m| m.is_reply()).count() as i64;
    let (sent, in_flight, lost): (i64, i64, i64) = sqlx::query_as(
        "select count(*) filter (where message_id is not null and method like 'send%'),
                coalesce(sum(attempt - 1) filter (where uncertain), 0)::int8,
                coalesce(sum(losses) filter (where uncertain), 0)::int8
           from outbox where chat_id = $1",
    )
    .bind(user)
    .fetch_one(&stack.db)
    .await
    .unwrap();
    let excused = match excuse {
        Duplicates::InFlight => in_flight,
        Duplicates::LostAnswers => lost,
    };
    let extra = shown - sent;
    assert!(
        (0..=excused).contains(&extra),
        "user {user} sees {shown} messages of {sent} sends, {excused} may be there again"
    );
    extra
}
