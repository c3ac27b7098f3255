//! The events of a turn as server-sent events, from any point, whether it runs or is over.
//!
//! The database is what is read; the turn only says that there is something new. So a slow reader misses nothing and costs
//! nothing, and a reader of a finished turn sees what a reader of a running one saw.

use super::{App, Failure};
use crate::store::StoreError;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use baal_protocol::{Event, EventKind, KEEPALIVE_SECONDS};
use futures_util::stream::{self, Stream};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tracing::error;
use uuid::Uuid;

/// Streams the events of a turn after `seq`.
pub(super) async fn of_turn(app: App, id: Uuid, after: i64) -> Result<Response, Failure> {
    let changes = app.store.watch(id);
    let turn = app.store.read().turn(id).await?.ok_or(Failure::NotFound("no turn with this id was ever accepted"))?;
    let feed = Feed { app, id, position: turn.position, after, ready: VecDeque::new(), changes, state: State::Open };
    let mut response = Sse::new(stream_of(feed)).into_response();
    // Proxies that gather answers would hold back what is meant to be seen grow.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Feed {
    app: App,
    id: Uuid,
    position: i64,
    /// Sequence number of the last event that was read.
    after: i64,
    ready: VecDeque<Event>,
    changes: watch::Receiver<u64>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Open,
    /// The last event was read.
    Ended,
}

fn stream_of(feed: Feed) -> impl Stream<Item = Result<sse::Event, axum::Error>> {
    stream::unfold(feed, async |mut feed| {
        let event = feed.next().await?;
        Some((sse::Event::default().json_data(&event), feed))
    })
}

impl Feed {
    /// The next event; `None` ends the stream, without `done` where the caller is to come again.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.state == State::Ended {
                return None;
            }
            if let Err(e) = self.read().await {
                error!(turn.id = %self.id, error = %e, "the events of a turn cannot be read");
                return None;
            }
            if self.ready.is_empty() && self.state == State::Open {
                let silence = tokio::time::sleep(Duration::from_secs(KEEPALIVE_SECONDS));
                tokio::select! {
                    () = self.app.shutdown.cancelled() => return None,
                    () = silence => return Some(Event { seq: 0, kind: EventKind::Keepalive }),
                    // silent-ok: the sender is gone only with the store, and then the shutdown comes
                    _ = self.changes.changed() => {}
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        // The state before the events: what is over has all its events.
        let turn = self.app.store.read().turn(self.id).await?;
        let events = self.app.store.read().events(self.position, self.after).await?;
        if let Some(last) = events.last() {
            self.after = last.seq;
            if last.kind.is_last() {
                self.state = State::Ended;
            }
        } else if let Some(turn) = turn.filter(|turn| turn.is_over()) {
            // The caller has the last event, or it was forgotten with the conversation.
            let (seq, kind) = (turn.status.last_seq, EventKind::Done { pending: Some(0) });
            self.ready.push_back(Event { seq, kind });
            self.state = State::Ended;
        }
        self.ready.extend(events);
        Ok(())
    }
}
