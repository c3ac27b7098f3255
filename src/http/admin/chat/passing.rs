//! An answer on its way from an agent to an administrator.
//!
//! It is read by a task of its own, since a caller who does not read is never asked for more: what it holds would be held for as
//! long as its connection stands.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse;
use baal_protocol::{Event, EventKind};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::turns::agent_client::Events;

/// How long a stream lasts at most, as long as turns of the chat.
const LASTS: Duration = Duration::from_secs(3_600);
/// How long a caller may leave unread what has come.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// Events that wait for a caller to read them.
const UNREAD: usize = 16;
/// Streams that are open at the same time in this process: each is held for as long as an agent likes.
const AT_ONCE: usize = 64;
/// Those of one token.
const AT_ONCE_BY_TOKEN: usize = 8;

/// How many streams each token has open, 0 being ADMIN_TOKEN's number.
static OPEN: LazyLock<Mutex<HashMap<i64, usize>>> = LazyLock::new(Mutex::default);

/// The right to one more stream, until it is dropped.
pub struct Permit(i64);

impl Permit {
    /// None if this token, or all of them, have enough.
    pub fn of(token_id: Option<i64>) -> Option<Self> {
        let token = token_id.unwrap_or_default();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(&token).copied().unwrap_or_default();
        if own >= AT_ONCE_BY_TOKEN || open.values().sum::<usize>() >= AT_ONCE {
            return None;
        }
        open.insert(token, own + 1);
        Some(Self(token))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.0) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.0);
            }
        }
    }
}

/// The agent's events up to the last, or to a word about why there is no more.
pub fn pass_on(events: Events, permit: Permit) -> impl Stream<Item = Result<sse::Event, Infallible>> + use<> {
    pass_on_within(READ_WITHIN, events, permit)
}

fn pass_on_within(
    patience: Duration,
    events: Events,
    permit: Permit,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + use<> {
    let (sender, receiver) = mpsc::channel(UNREAD);
    tokio::spawn(read(patience, events, sender, permit));
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|event| (Ok(event), receiver)))
}

/// Reads the agent's events for as long as somebody wants them.
async fn read(patience: Duration, mut events: Events, sender: mpsc::Sender<sse::Event>, _permit: Permit) {
    let until = Instant::now() + LASTS;
    loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = timeout_at(until, events.next()) => next,
        };
        let event = match next {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) => broke_off(&error.to_string()),
            Ok(None) => broke_off("it ended before the answer did"),
            Err(_) => broke_off("it lasted for an hour"),
        };
        let over = event.kind.is_last() || event.seq == 0 && matches!(event.kind, EventKind::Error { .. });
        // A caller who is gone, or does not read, gets no more; it may ask for the rest.
        if let Some(shown) = show(&event)
            && sender.send_timeout(shown, patience).await.is_err()
        {
            return;
        }
        if over {
            return;
        }
    }
}

fn broke_off(why: &str) -> Event {
    let content = format!(
        "The stream broke off: {why}. Send the same message with the same turn_id and with Last-Event-ID to get the rest."
    );
    Event { seq: 0, kind: EventKind::Error { content } }
}

/// None for a type that this version does not know.
fn show(event: &Event) -> Option<sse::Event> {
    // silent-ok: see above
    let shown = sse::Event::default().json_data(event).ok()?;
    Some(if event.seq == 0 { shown } else { shown.id(event.seq.to_string()) })
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use axum::response::sse::Sse;

    use super::*;
    use crate::turns::agent_client::AgentError;

    fn text(seq: i64) -> Result<Event, AgentError> {
        Ok(Event { seq, kind: EventKind::Text { content: "a\nb".into() } })
    }

    #[tokio::test]
    async fn a_stream_that_breaks_says_so_and_ends() {
        let unknown = Ok(Event { seq: 2, kind: EventKind::Unknown });
        let done = || Ok(Event { seq: 3, kind: EventKind::Done { pending: None } });
        let shown = async |events: Vec<Result<Event, AgentError>>| {
            let permit = Permit::of(Some(-1)).unwrap();
            let response = Sse::new(pass_on(Box::pin(stream::iter(events)), permit)).into_response();
            let bytes = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let whole = shown(vec![text(1), unknown, done(), text(4)]).await;
        assert_eq!(
            whole,
            "data: {\"seq\":1,\"type\":\"text\",\"content\":\"a\\nb\"}\nid: 1\n\ndata: {\"seq\":3,\"type\":\"done\"}\nid: 3\n\n"
        );
        for broken in [vec![text(1)], vec![text(1), Err(AgentError::Broken("gone".into())), done()]] {
            let told = shown(broken).await;
            assert!(told.contains("\"type\":\"error\"") && told.ends_with("to get the rest.\"}\n\n"), "{told}");
        }
    }

    #[tokio::test]
    async fn whoever_does_not_read_holds_nothing_for_long_and_keeps_nobody_else_out() {
        let endless = || -> Events { Box::pin(stream::iter((1..).map(text))) };
        let mut unread = vec![];
        while let Some(permit) = Permit::of(Some(-2)) {
            unread.push(pass_on_within(Duration::from_millis(50), endless(), permit));
        }
        assert_eq!(unread.len(), AT_ONCE_BY_TOKEN);
        assert!(Permit::of(Some(-3)).is_some(), "others have their own");
        while OPEN.lock().unwrap().contains_key(&-2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What had come before is still there to be read.
        let mut stream = std::pin::pin!(unread.remove(0));
        let mut read = 0;
        while stream.next().await.is_some() {
            read += 1;
        }
        assert_eq!(read, UNREAD);
        // Whoever is gone makes room at once.
        let silent: Events = Box::pin(stream::pending());
        let permits: Vec<_> = std::iter::from_fn(|| Permit::of(Some(-4))).take(AT_ONCE_BY_TOKEN - 1).collect();
        drop(pass_on(silent, Permit::of(Some(-4)).unwrap()));
        while Permit::of(Some(-4)).is_none() {
            tokio::task::yield_now().await;
        }
        drop(permits);
    }
}
