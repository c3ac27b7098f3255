//! Files on their way out: fetched from an agent or made here, when their call is due.
//!
//! A file is whole before its call leaves, so that an agent that fails half-way costs the chat nothing. It waits on the disk
//! under no name, which a kill leaves nothing of.

mod body;
mod fetch;
mod instead;
mod qr;

use reqwest::multipart::Part;
use serde_json::json;
use std::io;

use super::markdown::{self, CAPTION_LIMIT, ENTITY_LIMIT, Formatted, MESSAGE_LIMIT};
use super::outbox::{Call, FileSource, Kind};
use super::text::{Buttons, Place, entities, send_message};
use super::texts::turns_around;
use crate::app::App;

pub use body::Whole;
pub use instead::words_instead;

/// The largest photo in bytes (Bot API); a larger one goes as a document.
pub const MAX_PHOTO: u64 = 10 * 1024 * 1024;
/// The longest name that is kept, in characters.
const MAX_NAME: usize = 120;

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The agent does not have it, or does not give it out.
    #[error("the agent does not have it")]
    Gone,
    /// It is larger than Telegram takes.
    #[error("it is larger than 50 MB")]
    TooLarge,
    /// The agent is no more.
    #[error("the agent is gone")]
    AgentGone,
    /// Telegram does not take it.
    #[error("Telegram refused it: {0}")]
    Refused(String),
    /// It takes too long to come, or to be sent.
    #[error("it takes too long")]
    Slow,
    /// It may go better another time.
    #[error("{0}")]
    Trouble(String),
}

/// A file that is whole and can be sent.
pub struct File {
    /// What the receiver sees it called.
    pub name: String,
    /// Bytes.
    pub size: u64,
    content: Content,
}

enum Content {
    Bytes(axum::body::Bytes),
    Disk(std::fs::File),
}

impl File {
    /// Gets a file from where it comes from.
    pub async fn get(app: &App, source: &FileSource) -> Result<Self, FileError> {
        match source {
            FileSource::Agent { agent_id, path } => fetch::from_agent(app, *agent_id, path).await,
            FileSource::Qr { text } => {
                let bytes = qr::png(text).map_err(FileError::Refused)?;
                let (name, size) = ("qr.png".to_owned(), bytes.len() as u64);
                Ok(Self { name, size, content: Content::Bytes(bytes.into()) })
            }
        }
    }

    /// A part of a form, from the file's beginning. What is read of it is noted in `whole`, and nothing more is once `may_go`
    /// says no.
    pub fn part(&self, whole: &Whole, may_go: impl Fn() -> bool + Send + 'static) -> io::Result<Part> {
        let body = match &self.content {
            Content::Bytes(bytes) => body::of_bytes(bytes.clone(), whole, may_go),
            Content::Disk(file) => body::of_file(file, self.size, whole, may_go)?,
        };
        let mime = mime_guess::from_path(&self.name).first_or_octet_stream();
        let part = Part::stream_with_length(body, self.size).file_name(self.name.clone());
        part.mime_str(mime.essence_str()).map_err(io::Error::other)
    }
}

/// How a file is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// `sendPhoto`; the sender makes it a document where Telegram does not take it for a photo.
    Photo,
    /// `sendDocument`.
    Document,
}

impl Shown {
    /// By the name's ending: Telegram shows these as photos.
    pub fn of_name(path: &str) -> Self {
        let (_, ending) = path.rsplit_once('.').unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "png" | "jpg" | "jpeg" | "webp" => Self::Photo,
            _ => Self::Document,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Photo => "sendPhoto",
            Self::Document => "sendDocument",
        }
    }
}

/// The call that sends a file that answers a user. The caption has to be within [`CAPTION_LIMIT`].
pub fn send(place: Place, shown: Shown, source: FileSource, caption: &Formatted, buttons: Buttons) -> Call {
    let mut payload = json!({"chat_id": place.chat_id});
    if let Some(thread) = place.thread_id {
        payload["message_thread_id"] = thread.into();
    }
    if !caption.text.is_empty() {
        payload["caption"] = caption.text.clone().into();
        payload["caption_entities"] = json!(entities(caption));
    }
    if !buttons.is_empty() {
        payload["reply_markup"] = json!({"inline_keyboard": buttons});
    }
    Call {
        bot_id: place.bot_id,
        chat_id: place.chat_id,
        method: shown.method().into(),
        payload: payload.to_string(),
        edits: None,
        kind: Kind::Reply,
        ordered: true,
        file: Some(source),
    }
}

/// The calls that bring a file which an agent offers, with a caption in Markdown: one too long for a caption follows as
/// messages of its own. A photo or a document, by its name.
pub fn send_agents(place: Place, agent_id: i64, path: &str, caption: &Formatted) -> Vec<Call> {
    let source = FileSource::Agent { agent_id, path: path.to_owned() };
    let fits = markdown::utf16_len(&caption.text) <= CAPTION_LIMIT && caption.entities.len() <= ENTITY_LIMIT;
    let beneath = if fits { caption.clone() } else { Formatted::default() };
    let mut calls = vec![send(place, Shown::of_name(path), source, &beneath, vec![])];
    if !fits {
        let parts = markdown::split(caption.clone(), MESSAGE_LIMIT);
        calls.extend(parts.iter().map(|p| Call::reply(place.bot_id, place.chat_id, &send_message(place, p, vec![]))));
    }
    calls
}

/// The last part of a path as a file's name: what a name cannot hold everywhere is replaced.
pub fn display_name(path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    let kept = |c: char| if c.is_control() || "\"\\<>:|?*".contains(c) { '_' } else { c };
    // `fdp.exe` behind a mark that turns it around reads as `exe.pdf`.
    let name: String = last.trim().chars().filter(|c| !turns_around(*c)).map(kept).collect();
    let length = name.chars().count();
    let name = match name.rsplit_once('.') {
        // The ending says what it is.
        Some((stem, ending)) if length > MAX_NAME && ending.chars().count() <= 10 => {
            let room = MAX_NAME - ending.chars().count() - 1;
            format!("{}.{ending}", stem.chars().take(room).collect::<String>())
        }
        _ => name.chars().take(MAX_NAME).collect(),
    };
    if name.is_empty() { "file".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_harmless_and_keep_their_ending() {
        assert_eq!(display_name("out/0b1c/Jahresbericht 2026 — größer.pdf"), "Jahresbericht 2026 — größer.pdf");
        assert_eq!(display_name("a\"b\\c\r\nd.txt"), "a_b_c__d.txt");
        assert_eq!(display_name("out/"), "file");
        assert_eq!(display_name("out/invoice\u{202e}fdp.exe"), "invoicefdp.exe");
        let long = display_name(&format!("{}.tar.gz", "x".repeat(500)));
        assert_eq!((long.chars().count(), long.ends_with(".gz")), (MAX_NAME, true));
    }

    #[test]
    fn pictures_are_photos_and_long_captions_messages_of_their_own() {
        let place = Place { bot_id: 1, chat_id: 2, thread_id: None };
        let calls = send_agents(place, 3, "out/x/Cat.PNG", &markdown::render("a *cat*"));
        let [call] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!(call.method, "sendPhoto");
        let payload: serde_json::Value = serde_json::from_str(&call.payload).expect("json");
        assert_eq!(payload["caption"], "a cat");
        assert_eq!(payload["caption_entities"][0]["type"], "italic");
        let calls = send_agents(place, 3, "out/x/cat.svg", &markdown::render(&"word ".repeat(1_000)));
        let methods: Vec<&str> = calls.iter().map(|call| call.method.as_str()).collect();
        assert_eq!(methods, ["sendDocument", "sendMessage", "sendMessage"]);
        assert!(!calls[0].payload.contains("caption"));
    }
}
