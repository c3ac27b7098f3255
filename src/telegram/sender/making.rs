//! Making one call and seeing to its row.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::value::RawValue;
use tracing::{Instrument as _, debug, error, info, warn};

use super::{Again, Sending};
use crate::slots::bounded;
use crate::telegram::api::{self, ApiError};
use crate::telegram::files::{self, File, FileError, MAX_PHOTO, Whole};
use crate::telegram::outbox::{self, Claimed, FileSource, Kind};
use crate::telegram::reach;
use crate::telegram::texts;
use crate::telegram::verdict::{Verdict, judge, sends};
use crate::trace;
use crate::wake::Queue;

/// Lost answers after which a message is not sent again: each may be one more of the same in the chat.
const MAX_LOSSES: i32 = 5;
/// Tries to fetch a file after which the chat is told instead; its other messages wait meanwhile.
const MAX_FETCHES: i32 = 6;
/// Tries after which a file that takes too long is told of instead: each keeps a place from others' files.
const MAX_SLOW: i32 = 2;
/// How long sending a file may take.
const UPLOAD: Duration = Duration::from_secs(120);
/// What is said of one that takes longer.
const TOO_SLOW: &str = "sending the file took too long";

/// Makes a call; should that panic, nobody knows how far it came.
pub(super) async fn make_or_hand_back(sending: Sending, call: Claimed) {
    let span = trace::sending(call.id, &call.method, call.trace_context.as_deref());
    let making = AssertUnwindSafe(make(sending.clone(), call.clone())).catch_unwind().instrument(span);
    if making.await.is_err() {
        error!(outbox.id = call.id, call.method, "making a call to Telegram panicked");
        let again = Again {
            wait: Duration::from_secs(30),
            failed: true,
            uncertain: sends(&call.method) || call.edits.is_some(),
        };
        sending.hand_back(&call, "making the call panicked", again).await;
    }
}

/// Makes one call and sees to its row.
async fn make(sending: Sending, mut call: Claimed) {
    // An answer is tried: whoever asked for it is there. What nobody waits for is not.
    if call.unreachable && (call.kind == Kind::Notice || call.edits.is_some()) {
        return sending.end(&call, None, Some("nothing can be sent to this chat".into()), false).await;
    }
    let Some(mut body) = sending.complete(&mut call).await else { return };
    let file = match call.file.clone() {
        None => None,
        Some(source) => match sending.fetch(&mut call, &source).await {
            Some(file) => Some((file, source)),
            None => return,
        },
    };
    let Sending { app, replica, .. } = &sending;
    // Telegram may ask for changes to a call (another chat, no topic, a new message); each is made once.
    for _ in 0..4 {
        if !replica.may_send() {
            return sending.hand_back(&call, "this replica could not beat", Again::later(Duration::ZERO)).await;
        }
        if let Some(wait) = app.holds.wait(call.chat_id) {
            return sending.hand_back(&call, outbox::HELD, Again::later(wait)).await;
        }
        let answer = match &file {
            Some((file, _)) => sending.upload(&call.method, &body, file).await,
            None => {
                let timeout = replica.call_timeout().min(api::TIMEOUT);
                app.telegram.call_raw(&call.method, body.clone(), timeout).await
            }
        };
        match judge(&call.method, &answer) {
            Verdict::Done(message_id) => {
                if let (Some(message_id), Some(row), "sendMessage") = (message_id, call.edits, call.method.as_str()) {
                    sending.message_moved(row, message_id).await;
                }
                let message_id = message_id.or(call.target);
                app.receipts.tell(call.id, message_id);
                if call.unreachable && sends(&call.method) {
                    reach::regained(app, call.chat_id).await;
                }
                return sending.end(&call, message_id, None, false).await;
            }
            Verdict::SendAnew => {
                debug!(outbox.id = call.id, "the message to edit is gone; sending a new one");
                body = change(&body, |fields| drop(fields.remove("message_id")));
                if !sending.becomes_send(&mut call, &body).await {
                    return;
                }
            }
            Verdict::AsDocument if file.is_some() => {
                debug!(outbox.id = call.id, "no photo to Telegram; sending it as a document");
                call.method = "sendDocument".into();
            }
            Verdict::WithoutThread => body = change(&body, |fields| drop(fields.remove("message_thread_id"))),
            Verdict::Moved(chat) => {
                info!(chat.id = call.chat_id, chat.new_id = chat, "the group has moved");
                body = in_chat(&body, chat);
                if let Err(error) = bounded(reach::moved(&app.db, app.bot_id, call.chat_id, chat)).await {
                    warn!(%error, "what waits for a group that has moved could not be moved; each is when it goes out");
                }
            }
            Verdict::Moot(why) => {
                debug!(outbox.id = call.id, why, "a call to Telegram came too late");
                return sending.end(&call, call.target, None, false).await;
            }
            Verdict::Unreachable(why) => {
                info!(chat.id = call.chat_id, why, "nothing can be sent to this chat any more");
                if let Err(error) = bounded(reach::refused(app, &call, &why)).await {
                    warn!(%error, chat.id = call.chat_id, "the chat could not be marked unreachable");
                }
                return sending.end(&call, None, Some(why), false).await;
            }
            Verdict::AsDocument => {
                error!(outbox.id = call.id, "a photo's call names no file that can be read");
                return sending.end(&call, None, Some("it names no file that can be read".into()), false).await;
            }
            Verdict::Refused(why) => {
                error!(outbox.id = call.id, call.method, why, "Telegram refuses a call for good");
                return match &file {
                    Some((_, source)) => sending.say_instead(&call, source, &FileError::Refused(why)).await,
                    None => sending.end(&call, None, Some(why), false).await,
                };
            }
            Verdict::Wait(wait) => {
                debug!(chat.id = call.chat_id, ?wait, "Telegram wants this chat to wait");
                app.holds.flood(call.chat_id, wait);
                return sending.hand_back(&call, outbox::HELD, Again::later(wait)).await;
            }
            Verdict::Retry(why) | Verdict::Uncertain(why) if call.stale => {
                error!(outbox.id = call.id, why, "a call failed for a day and is given up");
                return sending.end(&call, None, Some(why), false).await;
            }
            Verdict::Uncertain(why) if call.kind == Kind::Notice || call.losses >= MAX_LOSSES => {
                warn!(outbox.id = call.id, why, "it is uncertain whether a message arrived; not sent again");
                return sending.end(&call, None, Some(why), true).await;
            }
            Verdict::Retry(why) if why == TOO_SLOW && call.failures + 1 >= MAX_SLOW => {
                let Some((_, source)) = &file else { return sending.end(&call, None, Some(why), false).await };
                warn!(outbox.id = call.id, "sending a file takes too long; its chat is told");
                return sending.say_instead(&call, source, &FileError::Slow).await;
            }
            Verdict::Retry(why) => {
                let again = Again { wait: backoff(call.failures), failed: true, uncertain: false };
                warn!(outbox.id = call.id, why, wait = ?again.wait, "a call to Telegram failed; trying again");
                return sending.hand_back(&call, &why, again).await;
            }
            Verdict::Uncertain(why) => {
                let again = Again { wait: backoff(call.failures), failed: true, uncertain: true };
                warn!(outbox.id = call.id, why, wait = ?again.wait, "Telegram's answer was lost; sending again");
                return sending.hand_back(&call, &why, again).await;
            }
        }
    }
    sending.end(&call, None, Some("Telegram asked for one change after another".into()), false).await;
}

impl Sending {
    /// The call's parameters with what only the time of sending knows; `None` if there is nothing more to do about it.
    async fn complete(&self, call: &mut Claimed) -> Option<String> {
        match (call.method.as_str(), call.edits, call.target) {
            (_, None, _) | ("sendMessage", ..) => Some(call.payload.clone()),
            (_, Some(_), Some(target)) => {
                Some(change(&call.payload, |fields| drop(fields.insert("message_id".into(), target.into()))))
            }
            ("editMessageText", Some(_), None) => {
                let body = change(&call.payload, |fields| drop(fields.remove("message_id")));
                self.becomes_send(call, &body).await.then_some(body)
            }
            _ => {
                self.end(call, None, Some("the message it was about was never sent".to_owned()), false).await;
                None
            }
        }
    }

    /// Makes an edit a new message, and notes that first: a send that a kill interrupts must be known as one.
    async fn becomes_send(&self, call: &mut Claimed, body: &str) -> bool {
        call.method = "sendMessage".into();
        match bounded(outbox::becomes_send(&self.app.db, self.replica.id(), call, body)).await {
            Ok(true) => true,
            Ok(false) => {
                self.held.let_go(&(call.id, call.attempt));
                false
            }
            Err(error) => {
                self.hand_back(
                    call,
                    &error.to_string(),
                    Again { failed: true, ..Again::later(backoff(call.failures)) },
                )
                .await;
                false
            }
        }
    }

    /// The file that a call sends, whole; `None`: its row is seen to. From here on the call is in flight.
    async fn fetch(&self, call: &mut Claimed, source: &FileSource) -> Option<File> {
        let Self { app, replica, .. } = self;
        if let Some(wait) = app.holds.wait(call.chat_id) {
            self.hand_back(call, outbox::HELD, Again::later(wait)).await;
            return None;
        }
        let fetched = tokio::select! {
            fetched = File::get(app, source) => fetched,
            () = replica.lost().cancelled() => Err(FileError::Trouble("this replica was given up".into())),
        };
        let error = match fetched {
            Ok(file) => match bounded(outbox::leaves(&app.db, replica.id(), call)).await {
                Ok(true) => {
                    if file.size > MAX_PHOTO && call.method == "sendPhoto" {
                        call.method = "sendDocument".into();
                    }
                    return Some(file);
                }
                Ok(false) => {
                    self.held.let_go(&(call.id, call.attempt));
                    return None;
                }
                Err(error) => FileError::Trouble(error.to_string()),
            },
            Err(error) => error,
        };
        match &error {
            error @ (FileError::Trouble(_) | FileError::Slow) if call.failures + 1 < most(error) && !call.stale => {
                let wait = backoff(call.failures);
                info!(outbox.id = call.id, %error, ?wait, "a file could not be fetched; trying again");
                self.hand_back(call, &error.to_string(), Again { failed: true, ..Again::later(wait) }).await;
            }
            error => {
                warn!(outbox.id = call.id, %error, "a file cannot be had; its chat is told");
                self.say_instead(call, source, error).await;
            }
        }
        None
    }

    /// Sends a file. It may take longer than other calls, for as long as this replica beats: what is not wholly sent by then
    /// never arrives.
    async fn upload(&self, method: &str, body: &str, file: &File) -> Result<Box<RawValue>, ApiError> {
        let (whole, replica) = (Whole::default(), self.replica.clone());
        let part = file.part(&whole, move || replica.may_send()).map_err(|e| ApiError::NotSent(e.to_string()))?;
        let name = if method == "sendPhoto" { "photo" } else { "document" };
        let silenced = async {
            while self.replica.may_send() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let why = tokio::select! {
            answer = self.app.telegram.call_with_file(method, body, (name, part), &whole) => return answer,
            () = silenced => "this replica could not beat",
            () = tokio::time::sleep(UPLOAD) => TOO_SLOW,
        };
        Err(if whole.is_so() { ApiError::Lost(why.into()) } else { ApiError::NotSent(why.into()) })
    }

    /// Puts words in the place of a file that cannot be sent.
    async fn say_instead(&self, call: &Claimed, source: &FileSource, error: &FileError) {
        let name = match source {
            FileSource::Agent { path, .. } => files::display_name(path),
            FileSource::Qr { .. } => "qr.png".into(),
        };
        let payload = files::words_instead(&call.payload, texts::file_not_sent(&name, error));
        let (db, replica, why) = (&self.app.db, self.replica.id(), error.to_string());
        while let Err(error) = bounded(outbox::becomes_words(db, replica, call, &payload, &why)).await {
            if self.replica.lost().is_cancelled() {
                break;
            }
            warn!(%error, outbox.id = call.id, "words in the place of a file could not be queued; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.held.let_go(&(call.id, call.attempt));
        self.app.wake.wake(Queue::Outbox);
    }

    async fn message_moved(&self, row: i64, message_id: i64) {
        if let Err(error) = bounded(outbox::moved(&self.app.db, row, message_id)).await {
            warn!(%error, outbox.id = row, "a message's new id could not be saved; its next edit is sent anew");
        }
    }
}

/// Tries to get a file that fails like this.
fn most(error: &FileError) -> i32 {
    if *error == FileError::Slow { MAX_SLOW } else { MAX_FETCHES }
}

/// A call's parameters for another chat.
pub(in crate::telegram) fn in_chat(body: &str, chat_id: i64) -> String {
    change(body, |fields| drop(fields.insert("chat_id".into(), chat_id.into())))
}

fn change(body: &str, with: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> String {
    let mut fields = serde_json::from_str(body).unwrap_or_default();
    with(&mut fields);
    serde_json::Value::Object(fields).to_string()
}

/// 0.25 s, doubling to half a minute, with a random bit so that calls that failed together do not return together.
fn backoff(failures: i32) -> Duration {
    let seconds = 0.25 * 2f64.powi(failures.clamp(0, 7));
    Duration::from_secs_f64(seconds.min(30.0) * rand::random_range(0.8..1.2))
}
