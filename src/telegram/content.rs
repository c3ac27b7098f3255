//! What of a user's message an agent gets: words, and at most one file. Pure.

use super::texts::excerpt;
use super::update::Message;
use super::update::media::{FileInfo, Location};
use crate::turns::request::File;

/// The largest file that the Bot API gives out.
pub const MAX_DOWNLOAD: u64 = 20 * 1024 * 1024;

/// From this length on, in UTF-16 units, a text may be the first part of one that the client cut at 4,096.
const PERHAPS_CUT: usize = 4_000;

/// The longest quotation of an answered message, in characters.
const MAX_QUOTE: usize = 400;

/// The longest name of a file, in characters.
const MAX_NAME: usize = 120;

/// A message's content.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    /// What it says in words.
    pub words: String,
    /// What came with it.
    pub file: Option<File>,
    /// What of it cannot be passed on.
    pub trouble: Option<Trouble>,
    /// Whether other messages may belong to it and come at once.
    pub may_have_more: bool,
    /// Whether nobody said anything.
    pub is_service: bool,
}

/// Why something is not passed on.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// The file is larger than [`MAX_DOWNLOAD`].
    TooBig {
        /// What it is called.
        name: String,
        /// Bytes.
        size: u64,
    },
    /// It is of a kind that has no words: a poll, a game, a story.
    NoWords,
}

/// Reads a message.
pub fn read(message: &Message) -> Content {
    let media = &message.content;
    if media.is_service() {
        return Content { is_service: true, ..Content::default() };
    }
    let own = message.text.as_deref().or(message.caption.as_deref()).unwrap_or_default();
    let mut lines = Vec::new();
    lines.extend(quotation(message));
    let found = file(message);
    lines.extend(found.as_ref().and_then(|found| found.note.clone()));
    if let Some(venue) = &media.venue {
        let name = [&*venue.title, &*venue.address].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        lines.push(format!("📍 {}: {}", name.join(", "), coordinates(&venue.location)));
    } else if let Some(location) = &media.location {
        lines.push(format!("📍 Location: {}", coordinates(location)));
    }
    if let Some(contact) = &media.contact {
        let last = contact.last_name.as_deref().map(|last| format!(" {last}")).unwrap_or_default();
        lines.push(format!("👤 Contact: {}{last}, {}", contact.first_name, contact.phone_number));
    }
    lines.extend(media.sticker.as_ref().map(|sticker| sticker.emoji.clone().unwrap_or_else(|| "(a sticker)".into())));
    let said_something = !own.trim().is_empty() || found.is_some() || lines.len() > usize::from(is_answer(message));
    if !said_something {
        return Content { trouble: Some(Trouble::NoWords), ..Content::default() };
    }
    let (file, trouble) = match found.map(|found| found.file) {
        Some(File { name, size, .. }) if size > MAX_DOWNLOAD => (None, Some(Trouble::TooBig { name, size })),
        file => (file, None),
    };
    if trouble.is_some() {
        // A quotation or a note without what they belong to are not worth an answer.
        lines.clear();
    }
    if !own.is_empty() {
        lines.push(own.to_owned());
    }
    let may_have_more = message.media_group_id.is_some() || own.encode_utf16().count() >= PERHAPS_CUT;
    Content { words: lines.join("\n\n"), file, trouble, may_have_more, is_service: false }
}

fn is_answer(message: &Message) -> bool {
    quotation(message).is_some()
}

/// The beginning of the message that this one answers, as a quotation.
fn quotation(message: &Message) -> Option<String> {
    let chosen = message.quote.as_ref().map(|quote| quote.text.as_str());
    let answered = message.reply_to_message.as_deref();
    let whole = answered.and_then(|answered| answered.text.as_deref().or(answered.caption.as_deref()));
    let text = chosen.or(whole).map(str::trim).filter(|text| !text.is_empty())?;
    // Whoever answers a message that shows a key must not give it to an agent.
    if chosen.into_iter().chain(whole).any(|text| text.trim_start().to_ascii_lowercase().starts_with("/login")) {
        return None;
    }
    Some(excerpt(text, MAX_QUOTE).lines().map(|line| format!("> {line}")).collect::<Vec<_>>().join("\n"))
}

struct Found {
    file: File,
    /// What it is, where its name does not tell.
    note: Option<String>,
}

fn file(message: &Message) -> Option<Found> {
    let media = &message.content;
    let photo = media.photo.as_ref().and_then(|sizes| sizes.last());
    let named = |info: &FileInfo, kind: &str, ending: &str, mime: &str, what: Option<&str>| {
        let own = info.file_name.as_deref().map(clean_name).filter(|name| !name.is_empty());
        let length = info.duration.map(|seconds| format!(", {}", length(seconds))).unwrap_or_default();
        let tune = [&info.performer, &info.title].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
        let tune = if tune.is_empty() { String::new() } else { format!(": {}", tune.join(" – ")) };
        Found {
            file: File {
                file_id: info.file_id.clone(),
                name: own.unwrap_or_else(|| format!("{kind}-{}{ending}", message.message_id)),
                mime: info.mime_type.clone().or_else(|| (!mime.is_empty()).then(|| mime.to_owned())),
                size: info.file_size.unwrap_or(0),
            },
            note: what.map(|what| format!("({what}{tune}{length})")),
        }
    };
    None.or_else(|| Some(named(photo?, "photo", ".jpg", "image/jpeg", None)))
        .or_else(|| Some(named(media.voice.as_ref()?, "voice", ".ogg", "audio/ogg", Some("voice message"))))
        .or_else(|| Some(named(media.audio.as_ref()?, "audio", ".mp3", "audio/mpeg", Some("audio"))))
        .or_else(|| Some(named(media.video.as_ref()?, "video", ".mp4", "video/mp4", Some("video"))))
        .or_else(|| Some(named(media.video_note.as_ref()?, "video-note", ".mp4", "video/mp4", Some("video message"))))
        .or_else(|| Some(named(media.animation.as_ref()?, "animation", ".mp4", "video/mp4", Some("animation"))))
        .or_else(|| Some(named(media.document.as_ref()?, "file", "", "", None)))
}

/// One part of a path, without what means something in paths or terminals. Agents look at names again.
fn clean_name(name: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let clean: String =
        name.chars().map(|c| if c.is_control() || turns(c) || matches!(c, '/' | '\\') { '_' } else { c }).collect();
    let clean = clean.trim().trim_start_matches('.').trim_start();
    if clean.chars().count() <= MAX_NAME {
        return clean.to_owned();
    }
    // The ending tells what it is.
    let ending = clean.rsplit_once('.').map(|(_, ending)| ending).filter(|ending| ending.chars().count() <= 10);
    let ending = ending.map(|ending| format!(".{ending}")).unwrap_or_default();
    let stem: String = clean.chars().take(MAX_NAME - ending.chars().count()).collect();
    format!("{}{ending}", stem.trim_end())
}

fn coordinates(location: &Location) -> String {
    format!("{:.6}, {:.6}", location.latitude, location.longitude)
}

fn length(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02} h", seconds / 3_600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn message(fields: Value) -> Message {
        let mut message = json!({"message_id": 7, "chat": {"id": 5, "type": "private"}, "date": 1});
        let (Value::Object(all), Value::Object(more)) = (&mut message, fields) else { panic!("no object") };
        all.extend(more);
        serde_json::from_value(message).expect("a message")
    }

    fn words(fields: Value) -> String {
        read(&message(fields)).words
    }

    fn name(fields: Value) -> String {
        read(&message(fields)).file.expect("a file").name
    }

    #[test]
    fn each_kind_becomes_words_and_a_file() {
        let photo =
            read(&message(json!({"photo": [{"file_id": "s", "file_size": 1}, {"file_id": "l", "file_size": 9}],
            "caption": "look", "media_group_id": "a"})));
        let file = photo.file.expect("a file");
        assert_eq!((photo.words.as_str(), photo.may_have_more), ("look", true));
        assert_eq!(
            (&*file.file_id, &*file.name, file.mime.as_deref(), file.size),
            ("l", "photo-7.jpg", Some("image/jpeg"), 9)
        );

        assert_eq!(words(json!({"voice": {"file_id": "v", "duration": 12}})), "(voice message, 12 s)");
        let tune =
            json!({"audio": {"file_id": "v", "duration": 75, "performer": "Bach", "title": "Air"}, "caption": "nice?"});
        assert_eq!(words(tune), "(audio: Bach – Air, 1:15 min)\n\nnice?");
        assert_eq!(name(json!({"video": {"file_id": "v", "duration": 3_725}})), "video-7.mp4");
        // Telegram sends an animation as a document, too.
        let gif = json!({"animation": {"file_id": "v"}, "document": {"file_id": "v", "file_name": "a.gif"}});
        assert_eq!(words(gif), "(animation)");
        assert_eq!(words(json!({"sticker": {"file_id": "s", "emoji": "👍"}})), "👍");
        assert_eq!(words(json!({"sticker": {"file_id": "s"}})), "(a sticker)");
        assert_eq!(
            words(json!({"location": {"latitude": 52.5, "longitude": -13.25}})),
            "📍 Location: 52.500000, -13.250000"
        );
        let venue = json!({"location": {"latitude": 1, "longitude": 2}, "venue": {"title": "Bar", "address": "Here 1",
            "location": {"latitude": 1, "longitude": 2}}});
        assert_eq!(words(venue), "📍 Bar, Here 1: 1.000000, 2.000000");
        let contact = json!({"contact": {"phone_number": "+49 1", "first_name": "Ann", "last_name": "B"}});
        assert_eq!(words(contact), "👤 Contact: Ann B, +49 1");
    }

    #[test]
    fn what_it_answers_is_quoted() {
        let answered = json!({"message_id": 3, "chat": {"id": 5}, "text": "one\ntwo"});
        assert_eq!(words(json!({"text": "why?", "reply_to_message": answered})), "> one\n> two\n\nwhy?");
        let quote = json!({"text": "why?", "reply_to_message": answered, "quote": {"text": "two", "position": 4}});
        assert_eq!(words(quote), "> two\n\nwhy?");
        let nothing = read(&message(json!({"poll": {}, "reply_to_message": answered})));
        assert_eq!(nothing.trouble, Some(Trouble::NoWords));
        let long = json!({"message_id": 3, "chat": {"id": 5}, "text": "x".repeat(5_000)});
        assert!(words(json!({"text": "y", "reply_to_message": long})).len() < 500);
    }

    #[test]
    fn a_file_that_is_too_big_is_told_and_its_caption_passed_on() {
        let size = MAX_DOWNLOAD + 1;
        let big =
            json!({"document": {"file_id": "d", "file_name": "film.mkv", "file_size": size}, "caption": "what is it?"});
        let content = read(&message(big));
        assert_eq!(content.trouble, Some(Trouble::TooBig { name: "film.mkv".into(), size }));
        assert_eq!((content.words.as_str(), content.file), ("what is it?", None));
        let voice = read(&message(json!({"voice": {"file_id": "d", "duration": 5, "file_size": size}})));
        assert_eq!((voice.words.as_str(), voice.file), ("", None));
    }

    #[test]
    fn what_has_no_words_and_what_nobody_said_are_told_apart() {
        for kind in ["poll", "dice", "game", "story", "hologram"] {
            assert_eq!(read(&message(json!({kind: {}}))).trouble, Some(Trouble::NoWords), "{kind}");
        }
        assert!(read(&message(json!({"pinned_message": {"message_id": 1}}))).is_service);
        // A part of another shape is as good as absent.
        assert_eq!(words(json!({"text": "hi", "document": 5, "voice": {"duration": "?"}})), "hi");
    }

    #[test]
    fn texts_that_the_client_may_have_cut_wait() {
        let waits = |length: usize| read(&message(json!({"text": "é".repeat(length)}))).may_have_more;
        assert_eq!((waits(PERHAPS_CUT - 1), waits(PERHAPS_CUT)), (false, true));
    }

    #[test]
    fn hostile_names_are_one_short_part_of_a_path() {
        for (given, kept) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", "file-7"),
            ("a\nb\u{202e}gpj.exe", "a_b_gpj.exe"),
            ("", "file-7"),
        ] {
            assert_eq!(name(json!({"document": {"file_id": "d", "file_name": given}})), kept, "{given:?}");
        }
        let long = name(json!({"document": {"file_id": "d", "file_name": format!("{}.tar", "文".repeat(500))}}));
        assert!(long.ends_with("文.tar") && long.chars().count() == MAX_NAME, "{long}");
    }
}
