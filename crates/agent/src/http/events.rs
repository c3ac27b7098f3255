//! The events of a turn as server-sent events, from any point, whether it runs or is over.
//!
//! What is committed is handed on, and whoever comes late or is slow reads the database. So nobody misses anything, and a
//! reader of a finished turn sees what a reader of a running one saw.

use super::{App, Failure};
use crate::store::{StoreError, Stored, Watch};
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use baal_protocol::{Event, EventKind, KEEPALIVE_SECONDS};
use futures_util::stream::{self, Stream};
use std::collections::VecDeque;
use std::time::Duration;
use tracing::error;
use uuid::Uuid;

/// Streams the events of a turn after `seq`.
pub(super) async fn of_turn(app: App, id: Uuid, after: i64) -> Result<Response, Failure> {
    let watch = app.store.watch(id);
    let turn = app.store.read().turn(id).await?.ok_or(Failure::NotFound("no turn with this id was ever accepted"))?;
    Ok(respond(Feed { app, id, position: turn.position, after, ready: VecDeque::new(), watch, state: State::Behind }))
}

/// Streams the events of a turn that was watched before it was taken in.
pub(super) fn of_new_turn(app: App, id: Uuid, position: i64, watch: Watch) -> Response {
    respond(Feed { app, id, position, after: 0, ready: VecDeque::new(), watch, state: State::UpToDate })
}

fn respond(feed: Feed) -> Response {
    let mut response = Sse::new(stream_of(feed)).into_response();
    // Proxies that gather answers would hold back what is meant to be seen grow.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

struct Feed {
    app: App,
    id: Uuid,
    position: i64,
    /// Sequence number of the last event that was read.
    after: i64,
    ready: VecDeque<Event>,
    watch: Watch,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// There may be more in the database.
    Behind,
    /// What comes next is handed on.
    UpToDate,
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
            match self.state {
                State::Ended => return None,
                State::Behind => {
                    if let Err(e) = self.read().await {
                        error!(turn.id = %self.id, error = %e, "the events of a turn cannot be read");
                        return None;
                    }
                }
                State::UpToDate => {
                    let silence = tokio::time::sleep(Duration::from_secs(KEEPALIVE_SECONDS));
                    tokio::select! {
                        events = self.watch.next() => match events {
                            Some(events) => self.take(events.iter().cloned()),
                            None => self.state = State::Behind,
                        },
                        () = self.app.shutdown.cancelled() => return None,
                        () = silence => return Some(Event { seq: 0, kind: EventKind::Keepalive }),
                    }
                }
            }
        }
    }

    fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            // What was read from the database may be handed on once more.
            if event.seq > self.after {
                self.after = event.seq;
                if event.kind.is_last() {
                    self.state = State::Ended;
                }
                self.ready.push_back(event);
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        // The state before the events: what is over has all its events.
        let turn = self.app.store.read().turn(self.id).await?;
        let events = self.app.store.read().events(self.position, self.after).await?;
        if !events.is_empty() {
            self.take(events);
        } else if let Some(turn) = turn.filter(Stored::is_over) {
            // The caller has the last event, or it was forgotten with the conversation.
            let pending = self.app.store.read().pending_count().await?;
            self.take_end(turn.status.last_seq, pending);
        } else {
            self.state = State::UpToDate;
        }
        Ok(())
    }

    fn take_end(&mut self, seq: i64, pending: i64) {
        self.ready.push_back(Event { seq, kind: EventKind::Done { pending: Some(pending) } });
        self.state = State::Ended;
    }
}
