//! A turn's files on their way from Telegram to the agent: brought before the question that names them.
//!
//! Telegram's own addresses of files hold the bot's token, so they never leave the control plane: the bytes pass through,
//! and are never whole in memory. Bringing a file again replaces it by itself, so a kill in between costs only time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use baal_protocol::Attachment;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tracing::{debug, info};
use uuid::Uuid;

use super::agent_client::{AgentClient, AgentError};
use super::request::File;
use crate::app::App;
use crate::telegram::api::{self, ApiError};
use crate::telegram::content::MAX_DOWNLOAD;

/// How often Telegram is asked for a file that it does not give out at the moment.
const TRIES: u32 = 5;

/// The wait before Telegram is asked again, which grows with each try.
const WAIT: Duration = Duration::from_secs(1);

/// The longest wait that Telegram may ask for: who wrote waits for the answer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long Telegram may be silent while it sends a file.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a file does not reach the agent. The texts hold no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileTrouble {
    /// Telegram gives bots files of up to 20 MB.
    #[error("it is larger than 20 MB")]
    TooBig,
    /// Telegram does not have it any more, or never gave it to this bot.
    #[error("Telegram doesn't give it out: {0}")]
    Gone(String),
    /// Telegram was asked for long enough.
    #[error("Telegram couldn't be asked for it: {0}")]
    NotNow(String),
}

/// The files of a turn.
pub struct Uploads {
    app: App,
    turn: Uuid,
    files: Vec<File>,
    /// Whether the agent may have the turn already: somebody has run it before.
    perhaps_known: bool,
}

/// `getFile`'s result.
#[derive(Deserialize)]
struct Found {
    file_path: Option<String>,
    file_size: Option<u64>,
}

impl Uploads {
    /// The files of this turn. `again`: somebody has run it before.
    pub fn new(app: App, turn: Uuid, files: Vec<File>, again: bool) -> Self {
        Self { app, turn, files, perhaps_known: again }
    }

    /// As the question names them. The same for each try, because an agent recognises a repeated question by its body; it
    /// looks at names and sizes by itself.
    pub fn attachments(turn: Uuid, files: &[File]) -> Vec<Attachment> {
        let attachment = |file: &File| Attachment {
            path: format!("uploads/{turn}/{}", file.name),
            name: file.name.clone(),
            mime: file.mime.clone(),
            size: file.size,
        };
        files.iter().map(attachment).collect()
    }

    /// Brings all files to the agent.
    pub async fn bring(&mut self, agent: &AgentClient) -> Result<(), AgentError> {
        if self.files.is_empty() {
            return Ok(());
        }
        // Whoever attaches to a turn needs none, and Telegram may not have them any more.
        if self.perhaps_known && agent.knows(self.turn).await? {
            return Ok(());
        }
        for file in &self.files {
            self.bring_one(agent, file).await?;
        }
        info!(files = self.files.len(), "the turn's files were brought to its agent");
        Ok(())
    }

    async fn bring_one(&self, agent: &AgentClient, file: &File) -> Result<(), AgentError> {
        let mut tries = 0;
        loop {
            let trouble = match self.fetch(file).await {
                Ok(body) => {
                    let broken = Broken::default();
                    match agent.upload(self.turn, &file.name, broken.note(body)).await {
                        Ok(()) => return Ok(()),
                        // Whose fault it was that the file did not come whole.
                        Err(error) => broken.taken().ok_or(error)?,
                    }
                }
                Err(trouble) => trouble,
            };
            tries += 1;
            let wait = match trouble {
                Trouble::Again { wait, .. } if tries < TRIES && wait <= LONGEST_WAIT => wait.max(WAIT * tries),
                Trouble::Again { why, .. } => return Err(file_error(file, FileTrouble::NotNow(why))),
                Trouble::Never(why) => return Err(file_error(file, why)),
            };
            debug!(?wait, tries, "asking Telegram for a file again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks Telegram for a file's bytes.
    async fn fetch(&self, file: &File) -> Result<impl Stream<Item = Result<Bytes, Trouble>> + Send + 'static, Trouble> {
        let telegram = &self.app.telegram;
        let body = serde_json::json!({"file_id": file.file_id}).to_string();
        let found = telegram.call_raw("getFile", body, api::TIMEOUT).await.map_err(Trouble::of)?;
        let Ok(Found { file_path: Some(path), file_size }) = serde_json::from_str(found.get()) else {
            return Err(Trouble::again("an answer without a path"));
        };
        if file_size.is_some_and(|size| size > MAX_DOWNLOAD) {
            return Err(Trouble::Never(FileTrouble::TooBig));
        }
        let response = telegram.download(&path).await.map_err(Trouble::of)?;
        let mut taken = 0;
        let bytes = tokio_stream::StreamExt::timeout(response.bytes_stream(), SILENCE);
        Ok(bytes.map(move |piece| {
            let piece = match piece {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Err(Trouble::again(error.without_url())),
                Err(_) => return Err(Trouble::again("it fell silent")),
            };
            taken += piece.len() as u64;
            if taken > MAX_DOWNLOAD { Err(Trouble::Never(FileTrouble::TooBig)) } else { Ok(piece) }
        }))
    }
}

fn file_error(file: &File, why: FileTrouble) -> AgentError {
    AgentError::File { name: file.name.clone(), why }
}

/// What went wrong at Telegram.
#[derive(Debug)]
enum Trouble {
    /// It may go better another time.
    Again { why: String, wait: Duration },
    /// It will not.
    Never(FileTrouble),
}

impl Trouble {
    fn again(why: impl ToString) -> Self {
        Self::Again { why: why.to_string(), wait: Duration::ZERO }
    }

    fn of(error: ApiError) -> Self {
        match &error {
            ApiError::Refused { retry_after: Some(wait), .. } => Self::Again { why: error.to_string(), wait: *wait },
            ApiError::Refused { description, .. } if description.contains("file is too big") => {
                Self::Never(FileTrouble::TooBig)
            }
            // For the time being, in Telegram's words.
            ApiError::Refused { description, .. } if description.contains("temporarily") => Self::again(error),
            ApiError::Refused { .. } => Self::Never(FileTrouble::Gone(error.to_string())),
            ApiError::NotSent(_) | ApiError::Lost(_) => Self::again(error),
        }
    }
}

/// Keeps what broke a stream for whoever gave the stream away.
#[derive(Default, Clone)]
struct Broken(Arc<Mutex<Option<Trouble>>>);

/// The stream broke; what broke it is kept elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("the file did not come whole")]
struct NotWhole;

impl Broken {
    fn note(
        &self,
        body: impl Stream<Item = Result<Bytes, Trouble>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, NotWhole>> + Send + 'static {
        let kept = self.clone();
        body.map(move |piece| {
            piece.map_err(|trouble| {
                *kept.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
                NotWhole
            })
        })
    }

    fn taken(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(description: &str, retry_after: Option<Duration>) -> Trouble {
        Trouble::of(ApiError::Refused { code: 400, description: description.into(), retry_after, migrate_to: None })
    }

    #[test]
    fn what_telegram_says_decides_whether_it_is_asked_again() {
        assert!(matches!(refused("Bad Request: file is too big", None), Trouble::Never(FileTrouble::TooBig)));
        assert!(matches!(refused("Bad Request: wrong file_id", None), Trouble::Never(FileTrouble::Gone(_))));
        let temporary = "Bad Request: wrong file_id or the file is temporarily unavailable";
        assert!(matches!(refused(temporary, None), Trouble::Again { .. }));
        let wait = Duration::from_secs(3);
        assert!(
            matches!(refused("Too Many Requests", Some(wait)), Trouble::Again { wait: given, .. } if given == wait)
        );
        assert!(matches!(Trouble::of(ApiError::Lost("x".into())), Trouble::Again { .. }));
    }

    #[test]
    fn attachments_are_the_same_for_each_try() {
        let file = File { file_id: "f".into(), name: "a b.pdf".into(), mime: None, size: 7 };
        let turn = Uuid::nil();
        let [attachment] = &Uploads::attachments(turn, &[file])[..] else { panic!("one") };
        assert_eq!((&*attachment.path, attachment.size), ("uploads/00000000-0000-0000-0000-000000000000/a b.pdf", 7));
    }

    #[tokio::test]
    async fn whoever_gave_a_stream_away_learns_what_broke_it() {
        let broken = Broken::default();
        let pieces = [Ok(Bytes::from_static(b"a")), Err(Trouble::Never(FileTrouble::TooBig))];
        let seen: Vec<_> = broken.note(futures_util::stream::iter(pieces)).collect().await;
        assert!(seen[0].is_ok() && seen[1].is_err());
        assert!(matches!(broken.taken(), Some(Trouble::Never(FileTrouble::TooBig))));
        assert!(broken.taken().is_none());
    }
}
