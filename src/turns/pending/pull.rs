//! Listening to one agent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use baal_protocol::{PendingMessage, PendingMessages, REMEMBERS};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};
use uuid::Uuid;

use super::store::{self, Agent, Asked, Key, Recipient, Said};
use super::{Crowd, say};
use crate::agents::model::speaks;
use crate::app::App;
use crate::replica::Replica;
use crate::slots::bounded;
use crate::telegram::text::Place;
use crate::together::{Sharing, Together};
use crate::trace;
use crate::turns::agent_client::{AgentClient, AgentError};
use crate::wake::Queue;

/// How long an agent holds the question open while it has nothing to say.
const WAIT: Duration = Duration::from_secs(30);
/// How soon an agent is asked again where there are too many to listen to all.
const CROWDED: Duration = Duration::from_secs(120);
/// How soon one that forgets what it tells is asked again.
const SWEEP: Duration = Duration::from_secs(300);
/// How soon one that did not answer is asked again.
const TROUBLE: Duration = Duration::from_secs(15);
/// How soon one that has more to say than its chats have room for is asked again.
const FULL: Duration = Duration::from_secs(10);
/// Messages that are taken from one answer.
const AT_ONCE: usize = 100;
/// Calls to Telegram that are made of one answer, but for what the last message has more. There is a second for each before
/// the agent is asked again.
const MOST_CALLS: usize = 20;
/// The same of one that forgets what it tells: what is beyond is lost.
const MOST_AT_A_SWEEP: usize = 300;

/// What comes after a round.
enum Next {
    /// Another one, after this.
    Again(Duration),
    /// The claim is given back, for another one after this.
    Later(Duration),
    /// The claim is lost.
    Lost,
}

/// What all who listen share.
#[derive(Clone)]
pub(super) struct Puller {
    pub(super) app: App,
    pub(super) replica: Replica,
    pub(super) stop: CancellationToken,
    pub(super) crowd: Crowd,
    pub(super) statements: Statements,
}

/// Statements that are shared: where there are more agents than can be listened to at once, hundreds want the same at once.
#[derive(Clone)]
pub(super) struct Statements {
    recipients: Together<Asked, HashMap<i64, Recipient>>,
    taking_in: Together<Said, bool>,
    releases: Together<(Key, Duration), ()>,
}

impl Statements {
    pub(super) fn start(db: &PgPool, replica: i64) -> Self {
        let (reader, writer, releaser) = (db.clone(), db.clone(), db.clone());
        Self {
            recipients: Together::start(Sharing::Gathering, move |asked: Arc<[Asked]>| {
                let db = reader.clone();
                async move { bounded(store::recipients(&db, &asked)).await }
            }),
            taking_in: Together::start(Sharing::Gathering, move |said: Arc<[Said]>| {
                let db = writer.clone();
                async move { bounded(store::take_in(&db, replica, &said)).await }
            }),
            releases: Together::start(Sharing::Gathering, move |keys: Arc<[(Key, Duration)]>| {
                let db = releaser.clone();
                async move {
                    bounded(store::release(&db, replica, &keys)).await?;
                    Ok(vec![(); keys.len()])
                }
            }),
        }
    }
}

impl Puller {
    /// Listens to an agent, that has just been claimed, until it is others' turn or something fails.
    pub(super) async fn session(self, key: Key, agent: Agent) {
        let span = info_span!("pull", agent.id = key.id);
        async {
            let wait = tokio::select! {
                biased;
                () = self.replica.lost().cancelled() => None,
                wait = self.rounds(key, agent) => wait,
            };
            let Some(wait) = wait else { return };
            if let Err(error) = self.statements.releases.run((key, wait)).await {
                // silent-ok: what is claimed and not in hand is given back by the worker
                debug!(%error, "an agent could not be given back");
            }
        }
        .instrument(span)
        .await;
    }

    async fn rounds(&self, key: Key, agent: Agent) -> Option<Duration> {
        let mut claimed = Some(agent);
        loop {
            let next = self.round(key, claimed.take()).await;
            match next.unwrap_or_else(|error| {
                warn!(%error, "what an agent says unasked could not be taken in; trying again");
                Next::Later(TROUBLE)
            }) {
                Next::Again(pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.stop.cancelled() => return Some(Duration::ZERO),
                },
                Next::Later(wait) => return Some(wait.mul_f64(rand::random_range(0.8..1.2))),
                Next::Lost => return None,
            }
        }
    }

    /// Asks once and sees to the answer. `claimed`: the agent, where it has only just been claimed.
    async fn round(&self, key: Key, claimed: Option<Agent>) -> sqlx::Result<Next> {
        let Self { app, replica, stop, crowd, .. } = self;
        let first = claimed.is_some();
        let agent = match claimed {
            Some(agent) => agent,
            // Anew each time: the agent may have moved, and what listens at its old address is not to get its secret.
            None => match bounded(store::current(&app.db, replica.id(), key)).await? {
                Some(agent) => agent,
                None => return Ok(Next::Later(TROUBLE)),
            },
        };
        let Ok(secret) = app.config.vault.decrypt_text(&agent.secret) else {
            warn!("the agent's secret cannot be decrypted with this BOT_ENCRYPTION_KEY");
            return Ok(Next::Later(SWEEP));
        };
        let client = AgentClient::new(app.agents_http.of(agent.external), &agent.url, secret);
        let remembers = speaks(agent.protocol, REMEMBERS);
        // The mark of one that forgot what it told until it was updated is no id.
        if remembers && first && agent.after > 0 && agent.database.is_some() {
            // Whoever listened before may have died before it said so.
            if let Err(error) = client.acknowledge(agent.after, agent.database).await {
                return Ok(trouble(&error));
            }
        }
        if !replica.may_send() {
            return Ok(Next::Again(Duration::from_secs(1)));
        }
        let (after, wait) = match remembers {
            // One that has another database by now would keep a question open that is for ids of the old one.
            true if first || crowd.is_there() => (Some(agent.after), Duration::ZERO),
            true => (Some(agent.after), WAIT),
            false => (None, Duration::ZERO),
        };
        let asked = tokio::select! {
            biased;
            // What is forgotten once it is told is not asked for and then dropped.
            () = stop.cancelled(), if remembers => return Ok(Next::Later(Duration::ZERO)),
            asked = client.pending(after, wait) => asked,
        };
        let agent = Arc::new(agent);
        match asked {
            Err(error) => Ok(trouble(&error)),
            Ok(answer) if remembers => self.take(key, agent, &client, answer).await,
            Ok(answer) => Ok(self.keep(key, agent, answer.messages).await),
        }
    }

    /// Takes in what an agent says that keeps it until it is told that we have it.
    async fn take(
        &self,
        key: Key,
        agent: Arc<Agent>,
        client: &AgentClient,
        answer: PendingMessages,
    ) -> sqlx::Result<Next> {
        if answer.database_id != agent.database && agent.after > 0 {
            info!("the agent has another database; what it says begins anew");
            let (earlier, database) = (agent.after, answer.database_id);
            let anew =
                Said { key, earlier, after: 0, database, dropped: 0, calls: Vec::new(), trace_context: trace::here() };
            let anew = self.statements.taking_in.run(anew).await?;
            return Ok(if anew { Next::Again(Duration::from_secs(1)) } else { Next::Lost });
        }
        let mut messages = answer.messages;
        // Of a full page nobody knows whether more is behind it.
        let newest = messages.iter().map(|message| message.id).max().filter(|_| messages.len() < AT_ONCE);
        messages.retain(|message| message.id > agent.after);
        messages.sort_by_key(|message| message.id);
        messages.truncate(AT_ONCE);
        if messages.is_empty() {
            // An agent that answers at once though it was asked to wait must not be asked in circles.
            let pause = Duration::from_millis(100);
            return Ok(if self.crowd.is_there() { Next::Later(CROWDED) } else { Next::Again(pause) });
        }
        let batch = Batch { messages, most: MOST_CALLS, database: answer.database_id, kept: true };
        let (calls, up_to) = match self.commit(key, &agent, &batch).await? {
            Taken::Queued { calls, up_to } => (calls, up_to),
            Taken::Full => return Ok(Next::Later(FULL)),
            Taken::Lost => return Ok(Next::Lost),
        };
        self.app.wake.wake(Queue::Outbox);
        // One a second in the long run, whatever the agent makes of that.
        let pause = Duration::from_secs(calls.max(1) as u64);
        if let Err(error) = client.acknowledge(up_to, answer.database_id).await {
            // Whoever listens next says it again.
            debug!(%error, "the agent could not be told that its messages are known");
            return Ok(Next::Later(pause));
        }
        Ok(match self.crowd.is_there() {
            // Others wait for the place.
            true if newest == Some(up_to) => Next::Later(CROWDED.max(pause)),
            true => Next::Later(pause),
            false => Next::Again(pause),
        })
    }

    /// Keeps what an agent has told and forgotten: in memory, until the database takes it or the claim is lost.
    async fn keep(&self, key: Key, agent: Arc<Agent>, messages: Vec<PendingMessage>) -> Next {
        if messages.is_empty() {
            return Next::Later(SWEEP);
        }
        let told = messages.len();
        let batch = Batch { messages, most: MOST_AT_A_SWEEP, database: agent.database, kept: false };
        let mut unsure = false;
        loop {
            match self.commit(key, &agent, &batch).await {
                Ok(Taken::Queued { calls, .. }) => {
                    self.app.wake.wake(Queue::Outbox);
                    return Next::Later(SWEEP.max(Duration::from_secs(calls as u64)));
                }
                // A commit whose answer was lost has raised the mark.
                Ok(_) if unsure => match bounded(store::current(&self.app.db, self.replica.id(), key)).await {
                    Ok(Some(now)) if now.after != agent.after => {
                        self.app.wake.wake(Queue::Outbox);
                        return Next::Later(SWEEP);
                    }
                    Ok(_) => return lost(told),
                    Err(error) => {
                        warn!(%error, "it is not known whether what an agent has told is stored; asking again")
                    }
                },
                Ok(_) => return lost(told),
                Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code.starts_with("22")) => {
                    // Data that Postgres cannot hold is no better the next time.
                    error!(%error, messages = told, "what an agent has told cannot be stored and is lost");
                    return Next::Later(SWEEP);
                }
                Err(error) => {
                    warn!(%error, "what an agent has told could not be stored; trying again");
                    unsure = true;
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Puts messages into the outbox and raises the mark, in one statement, which does nothing where the claim is lost or the mark has
    /// moved. Whoever was shut out since the recipients were read may be written to this once.
    async fn commit(&self, key: Key, agent: &Arc<Agent>, batch: &Batch) -> sqlx::Result<Taken> {
        let Batch { ref messages, most, database, kept } = *batch;
        let chats: Vec<i64> = messages.iter().filter_map(|message| message.chat_id.parse().ok()).collect();
        let asked = Asked { agent: agent.clone(), chats };
        // An agent that forgets tells all at once, however much that is: whoever shared a statement with it would wait for that.
        let recipients = match kept {
            true => self.statements.recipients.run(asked).await?,
            false => bounded(store::recipients(&self.app.db, &[asked])).await?.pop().unwrap_or_default(),
        };
        // An agent that forgets has no ids; its mark counts how often something of it was taken in.
        let (mut dropped, mut calls, mut up_to) = (0, Vec::new(), agent.after + i64::from(!kept));
        for message in messages {
            let chat = message.chat_id.parse::<i64>().ok();
            let recipient = chat.and_then(|chat| recipients.get(&chat).map(|found| (chat, found)));
            if kept && (calls.len() >= most || recipient.is_some_and(|(_, recipient)| recipient.full)) {
                break;
            }
            up_to = up_to.max(if kept { message.id } else { 0 });
            let Some((chat_id, recipient)) = recipient.filter(|_| calls.len() < most) else {
                dropped += 1;
                continue;
            };
            if recipient.unreachable {
                continue;
            }
            let place = Place { bot_id: recipient.bot_id, chat_id, thread_id: None };
            calls.extend(say::calls(place, agent.id, recipient.elsewhere.then_some(agent.name.as_str()), message));
        }
        if up_to == agent.after {
            return Ok(Taken::Full);
        }
        let count = calls.len();
        let (earlier, after, trace_context) = (agent.after, up_to, trace::here());
        let said = Said { key, earlier, after, database, dropped, calls, trace_context };
        let taken = match kept {
            true => self.statements.taking_in.run(said).await?,
            false => bounded(store::take_in(&self.app.db, self.replica.id(), &[said])).await? == [true],
        };
        if !taken {
            return Ok(Taken::Lost);
        }
        if dropped > 0 {
            warn!(
                messages = dropped,
                "an agent wrote to chats that have nothing to do with it, or too much; nobody gets that"
            );
        }
        info!(messages = messages.len(), calls = count, "what an agent says unasked is on its way");
        Ok(Taken::Queued { calls: count, up_to })
    }
}

/// What an agent says, to be taken in.
struct Batch {
    /// In order of their ids.
    messages: Vec<PendingMessage>,
    /// Calls behind which the rest is left.
    most: usize,
    /// Whose the ids are.
    database: Option<Uuid>,
    /// Whether the agent keeps what it said, so that what is left can be had later.
    kept: bool,
}

/// What became of a batch.
enum Taken {
    /// The claim is lost, and nothing was done.
    Lost,
    /// A chat has so much before it that nothing was done.
    Full,
    /// All up to this id makes so many calls, or goes to nobody.
    Queued { calls: usize, up_to: i64 },
}

fn trouble(error: &AgentError) -> Next {
    match error {
        AgentError::Refused(_) | AgentError::Barred(_) => {
            info!(%error, "the agent does not tell what it says unasked");
            Next::Later(SWEEP)
        }
        error => {
            debug!(%error, "the agent could not be asked what it says unasked");
            Next::Later(TROUBLE)
        }
    }
}

fn lost(messages: usize) -> Next {
    warn!(messages, "what an agent has told is lost with the claim on it");
    Next::Lost
}
