//! What a message may be beside text. Field names and meanings are the Bot API's; a part of another shape than expected
//! counts as absent, because it must not make the whole update unreadable.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

/// The kinds of content; of those that are not text a message has one, but for an animation, which is a document too, and a
/// venue, which is a location too.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Media {
    /// The same picture in several sizes, the largest last.
    #[serde(deserialize_with = "lenient")]
    pub photo: Option<Vec<FileInfo>>,
    /// Any file.
    #[serde(deserialize_with = "lenient")]
    pub document: Option<FileInfo>,
    /// Music.
    #[serde(deserialize_with = "lenient")]
    pub audio: Option<FileInfo>,
    /// A voice message.
    #[serde(deserialize_with = "lenient")]
    pub voice: Option<FileInfo>,
    /// A video.
    #[serde(deserialize_with = "lenient")]
    pub video: Option<FileInfo>,
    /// A round video message.
    #[serde(deserialize_with = "lenient")]
    pub video_note: Option<FileInfo>,
    /// A GIF, or a video without sound.
    #[serde(deserialize_with = "lenient")]
    pub animation: Option<FileInfo>,
    /// A sticker.
    #[serde(deserialize_with = "lenient")]
    pub sticker: Option<Sticker>,
    /// A point on the map.
    #[serde(deserialize_with = "lenient")]
    pub location: Option<Location>,
    /// A place with a name.
    #[serde(deserialize_with = "lenient")]
    pub venue: Option<Venue>,
    /// Somebody's address.
    #[serde(deserialize_with = "lenient")]
    pub contact: Option<Contact>,
    /// Service messages, which say nothing to anybody: something was pinned, …
    pub pinned_message: Option<IgnoredAny>,
    /// … messages are to vanish after a time, …
    pub message_auto_delete_timer_changed: Option<IgnoredAny>,
    /// … the user lets the bot write to them, …
    pub write_access_allowed: Option<IgnoredAny>,
    /// … another background was chosen, …
    pub chat_background_set: Option<IgnoredAny>,
    /// … a topic was made, …
    pub forum_topic_created: Option<IgnoredAny>,
    /// … renamed, …
    pub forum_topic_edited: Option<IgnoredAny>,
    /// … closed, …
    pub forum_topic_closed: Option<IgnoredAny>,
    /// … or opened again.
    pub forum_topic_reopened: Option<IgnoredAny>,
}

impl Media {
    /// Whether the message says nothing by itself.
    pub fn is_service(&self) -> bool {
        let kinds = [
            &self.pinned_message,
            &self.message_auto_delete_timer_changed,
            &self.write_access_allowed,
            &self.chat_background_set,
            &self.forum_topic_created,
            &self.forum_topic_edited,
            &self.forum_topic_closed,
            &self.forum_topic_reopened,
        ];
        kinds.into_iter().any(Option::is_some)
    }
}

/// A file that lies at Telegram: what its several kinds say alike.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FileInfo {
    /// By which `getFile` finds it.
    pub file_id: String,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient")]
    pub file_size: Option<u64>,
    /// As its sender named it.
    #[serde(default, deserialize_with = "lenient")]
    pub file_name: Option<String>,
    /// Media type, as its sender says.
    #[serde(default, deserialize_with = "lenient")]
    pub mime_type: Option<String>,
    /// Seconds, of what has a length in time.
    #[serde(default, deserialize_with = "lenient")]
    pub duration: Option<u64>,
    /// Of music.
    #[serde(default, deserialize_with = "lenient")]
    pub performer: Option<String>,
    /// Of music.
    #[serde(default, deserialize_with = "lenient")]
    pub title: Option<String>,
}

/// A sticker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Sticker {
    /// What it stands for.
    pub emoji: Option<String>,
}

/// A point on the map, in degrees.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Location {
    /// North of the equator.
    pub latitude: f64,
    /// East of Greenwich.
    pub longitude: f64,
    /// Seconds for which it is kept up to date.
    #[serde(default, deserialize_with = "lenient")]
    pub live_period: Option<u64>,
}

/// A place with a name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Venue {
    /// Where it is.
    pub location: Location,
    /// What it is called.
    #[serde(default)]
    pub title: String,
    /// Its address.
    #[serde(default)]
    pub address: String,
}

/// Somebody's address.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Contact {
    /// As its sender has it.
    pub phone_number: String,
    /// Given name.
    #[serde(default)]
    pub first_name: String,
    /// Family name.
    pub last_name: Option<String>,
}

/// A part of an answered message.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Quote {
    /// Its words.
    #[serde(default)]
    pub text: String,
}

fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok()) // silent-ok: see above
}
