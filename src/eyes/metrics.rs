//! What happens in this process, counted; and the recorder that all figures go through.
//!
//! Labels are words of our own, few of each: no ids, nothing that a stranger chooses. Handles are made once where the labels
//! are known before.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::names::{self as n, COUNTERS, GAUGES, HISTOGRAMS};
use crate::telegram::api::ApiError;
use crate::turns::outcome::Status;
use crate::turns::store::Kind;
use crate::wake::Queue;

/// How often samples are put into their buckets; the next scrape does it as well.
const UPKEEP: Duration = Duration::from_secs(5);

/// Methods that calls are counted by; all others together are `other`.
const METHODS: [&str; 18] = [
    "answerCallbackQuery",
    "deleteMessage",
    "deleteMyCommands",
    "deleteWebhook",
    "editMessageText",
    "getFile",
    "getMe",
    "getUpdates",
    "getWebhookInfo",
    "sendChatAction",
    "sendDocument",
    "sendMessage",
    "sendMessageDraft",
    "sendPhoto",
    "setMyCommands",
    "setMyDescription",
    "setMyShortDescription",
    "setWebhook",
];

/// Statuses of a webhook's answers, and all others.
const ANSWERS: [(u16, &str); 7] =
    [(200, "200"), (400, "400"), (401, "401"), (413, "413"), (429, "429"), (503, "503"), (0, "other")];
const KINDS: [(Kind, &str); 4] =
    [(Kind::Message, "message"), (Kind::Hello, "hello"), (Kind::Reset, "reset"), (Kind::Forget, "forget")];
const STATUSES: [Status; 4] = [Status::Completed, Status::Failed, Status::Cancelled, Status::Unknown];
const TAKEN: [(Queue, &str); 6] = [
    (Queue::Updates, "updates"),
    (Queue::Outbox, "outbox"),
    (Queue::Turns, "turns"),
    (Queue::Pending, "pending"),
    (Queue::Jobs, "jobs"),
    (Queue::Errands, "errands"),
];

/// What became of an update in one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// It is done.
    Handled,
    /// It will be tried again.
    Failed,
    /// It is a dead letter.
    Dead,
}

struct Handles {
    prometheus: PrometheusHandle,
    webhook: [Histogram; ANSWERS.len()],
    turns: [[Counter; STATUSES.len()]; KINDS.len()],
    turn_duration: [Histogram; STATUSES.len()],
    first_token: Histogram,
    updates: [Counter; 3],
    leases_lost: Counter,
    given_up: Counter,
    taken_back: [Counter; TAKEN.len()],
}

/// None in commands that end at once: nothing is recorded there.
static HANDLES: OnceLock<Handles> = OnceLock::new();

/// Begins to record; later calls change nothing.
pub fn start() {
    HANDLES.get_or_init(|| {
        let prometheus = recorder();
        gauge!(n::BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Handles {
            prometheus,
            webhook: ANSWERS.map(|(_, status)| histogram!(n::WEBHOOK, "status" => status)),
            turns: KINDS.map(|(_, kind)| {
                STATUSES.map(|status| counter!(n::TURNS, "kind" => kind, "outcome" => status.as_str()))
            }),
            turn_duration: STATUSES.map(|status| histogram!(n::TURN_DURATION, "outcome" => status.as_str())),
            first_token: histogram!(n::FIRST_TOKEN),
            updates: ["handled", "failed", "dead"].map(|outcome| counter!(n::UPDATES, "outcome" => outcome)),
            leases_lost: counter!(n::LEASES_LOST),
            given_up: counter!(n::GIVEN_UP),
            taken_back: TAKEN.map(|(_, queue)| counter!(n::TAKEN_BACK, "queue" => queue)),
        }
    });
}

fn handles() -> Option<&'static Handles> {
    HANDLES.get()
}

/// Installs the recorder of this process. It is the process' only one; nothing is scraped from one of somebody else's.
fn recorder() -> PrometheusHandle {
    let builder = HISTOGRAMS.iter().fold(PrometheusBuilder::new(), |builder, (name, buckets, _)| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets).expect("there are buckets")
    });
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::error!("figures are recorded elsewhere; /metrics shows none");
    }
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, _, help) in HISTOGRAMS {
        describe_histogram!(*name, *help);
    }
    handle
}

/// Keeps what is recorded small until `stop`, also where nobody scrapes.
pub async fn keep_up(stop: &CancellationToken) {
    start();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
        if let Some(handles) = handles() {
            handles.prometheus.run_upkeep();
        }
    }
}

/// Everything in Prometheus' text format.
pub(super) fn render() -> String {
    handles().map(|handles| handles.prometheus.render()).unwrap_or_default()
}

/// An update's request was answered.
pub fn webhook_answered(status: u16, took: Duration) {
    let Some(handles) = handles() else { return };
    let place = ANSWERS.iter().position(|(known, _)| *known == status).unwrap_or(ANSWERS.len() - 1);
    handles.webhook[place].record(took);
}

/// An update was handled, or was not.
pub fn update_handled(handling: Handling) {
    if let Some(handles) = handles() {
        handles.updates[handling as usize].increment(1);
    }
}

/// Its place in [`KINDS`]; one that is new must be given one.
fn place_of_kind(kind: Kind) -> usize {
    match kind {
        Kind::Message => 0,
        Kind::Hello => 1,
        Kind::Reset => 2,
        Kind::Forget => 3,
    }
}

/// Its place in [`STATUSES`]; one that is new must be given one.
fn place_of_status(status: Status) -> usize {
    match status {
        Status::Completed => 0,
        Status::Failed => 1,
        Status::Cancelled => 2,
        Status::Unknown => 3,
    }
}

/// A turn ended, so long after it was queued.
pub fn turn_ended(kind: Kind, status: Status, took: Duration) {
    let Some(handles) = handles() else { return };
    let place = place_of_status(status);
    handles.turns[place_of_kind(kind)][place].increment(1);
    // What else there is waits for agents that are away, without anybody who waits for it.
    if kind == Kind::Message {
        handles.turn_duration[place].record(took);
    }
}

/// An agent said its first word, so long after its turn was taken up.
pub fn first_token(took: Duration) {
    if let Some(handles) = handles() {
        handles.first_token.record(took);
    }
}

/// Telegram was called.
pub fn telegram_called<T>(method: &str, answer: &Result<T, ApiError>, took: Duration) {
    if handles().is_none() {
        return;
    }
    let method = METHODS.binary_search(&method).map_or("other", |place| METHODS[place]);
    let status = match answer {
        Ok(_) => "200",
        Err(ApiError::NotSent(_)) => "not_sent",
        Err(ApiError::Lost(_)) => "lost",
        Err(ApiError::Refused { code, .. }) => match code {
            400 => "400",
            401 => "401",
            403 => "403",
            404 => "404",
            409 => "409",
            413 => "413",
            429 => "429",
            402..500 => "4xx",
            500.. => "5xx",
            _ => "other",
        },
    };
    counter!(n::CALLS, "method" => method, "status" => status).increment(1);
    if method != "getUpdates" {
        histogram!(n::CALL_DURATION, "method" => method).record(took);
    }
}

/// This process was given up for dead.
pub fn lease_lost() {
    if let Some(handles) = handles() {
        handles.leases_lost.increment(1);
    }
}

/// This process gave up others.
pub fn replicas_given_up(count: u64) {
    if let Some(handles) = handles() {
        handles.given_up.increment(count);
    }
}

/// This process freed what dead ones had claimed.
pub fn taken_back(queue: Queue, count: u64) {
    let Some(handles) = handles() else { return };
    if let Some(place) = TAKEN.iter().position(|(known, _)| *known == queue) {
        handles.taken_back[place].increment(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_can_be_found() {
        assert!(METHODS.is_sorted(), "they are searched by halves");
    }

    #[test]
    fn turns_are_counted_at_their_own_places() {
        for (place, (kind, _)) in KINDS.into_iter().enumerate() {
            assert_eq!(place_of_kind(kind), place);
        }
        for (place, status) in STATUSES.into_iter().enumerate() {
            assert_eq!(place_of_status(status), place);
        }
    }
}
