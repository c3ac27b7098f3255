//! What a turn asks, as it is stored: the messages that it is made of, each a Fernet token of its own, one a line. So a
//! message joins a waiting turn by being appended, within the statement that counts it.

use serde::{Deserialize, Serialize};

use crate::telegram::cut::Cut;
use crate::vault::{Undecryptable, Vault};

/// What the agent is asked, stored encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The user's words.
    pub message: String,
    /// Their name.
    pub name: String,
    /// Their client's language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_code: Option<String>,
}

/// One message of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its words.
    #[serde(flatten)]
    pub request: Request,
    /// Telegram's id of it; none where no message began the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<i64>,
    /// When it was sent (Unix time); 0 where nothing says so.
    #[serde(default)]
    pub sent_at: i64,
    /// Where its sender's client may have cut it: the next message is its rest if it came at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// What came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
}

/// A file that lies at Telegram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// By which Telegram gives it out.
    pub file_id: String,
    /// As its sender named it, or named after what it is. One part of a path, without control characters.
    pub name: String,
    /// Media type, such as `image/jpeg`; as Telegram says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    /// Bytes, as Telegram says; 0 where it says nothing.
    #[serde(default)]
    pub size: u64,
}

/// A turn's messages as one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// All words.
    pub message: String,
    /// Who asks.
    pub name: String,
    /// Their client's language.
    pub language_code: Option<String>,
    /// What came with it; their names differ.
    pub files: Vec<File>,
}

impl Asked {
    /// For an agent that takes no files: they become words, so that it can say so.
    pub fn files_in_words(&mut self) {
        for file in std::mem::take(&mut self.files) {
            if !self.message.is_empty() {
                self.message.push_str("\n\n");
            }
            self.message.push_str(&format!("(A file came with this that you can't be given: {})", file.name));
        }
    }
}

/// A stored request that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Encrypted under another key, or damaged.
    #[error(transparent)]
    Undecryptable(#[from] Undecryptable),
    /// Another version wrote it.
    #[error("the stored request cannot be read")]
    Malformed,
}

/// The messages of a stored request, in the order in which they were written: Telegram's ids grow.
pub fn open(vault: &Vault, stored: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let tokens = stored.split(|byte| *byte == b'\n').filter(|token| !token.is_empty());
    let parts = tokens.map(|token| serde_json::from_slice(&vault.decrypt(token)?).map_err(|_| Unreadable::Malformed));
    let mut parts: Vec<Part> = parts.collect::<Result<_, _>>()?;
    parts.sort_by_key(|part| part.message_id);
    Ok(parts)
}

/// The stored request with the message of the same id replaced. `None`: it holds none.
pub fn replace(vault: &Vault, stored: &[u8], part: &Part) -> Result<Option<Vec<u8>>, Unreadable> {
    let mut parts = open(vault, stored)?;
    let Some(old) = parts.iter_mut().find(|old| old.message_id == part.message_id) else { return Ok(None) };
    *old = part.clone();
    Ok(Some(parts.iter().map(|part| vault.seal(part)).collect::<Vec<_>>().join(&b'\n')))
}

/// Several messages as one question; none if there is no message.
pub fn join(parts: Vec<Part>) -> Option<Asked> {
    let last = parts.last()?.request.clone();
    let mut asked =
        Asked { message: String::new(), name: last.name, language_code: last.language_code, files: Vec::new() };
    let mut before = None::<Cut>;
    for Part { request, message_id, sent_at, cut, file } in parts {
        let words = request.message;
        if !words.trim().is_empty() {
            let between = match before.filter(|before| before.is_followed(sent_at)) {
                Some(before) => before.left_out(),
                None if asked.message.is_empty() => "",
                None => "\n\n",
            };
            asked.message.extend([between, &words]);
            before = cut;
        }
        if let Some(mut file) = file {
            // A file takes the place of another of its name.
            if asked.files.iter().any(|other| other.name == file.name) {
                file.name = format!("{}-{}", message_id.unwrap_or_default(), file.name);
            }
            asked.files.push(file);
        }
    }
    Some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::new(&Vault::generate_key()).expect("a key")
    }

    fn part(id: i64, words: &str, file: Option<&str>) -> Part {
        Part {
            request: Request { message: words.into(), name: "Ann".into(), language_code: None },
            message_id: Some(id),
            sent_at: 100 + id,
            cut: None,
            file: file.map(|name| File { file_id: format!("f{id}"), name: name.into(), mime: None, size: 1 }),
        }
    }

    fn stored(vault: &Vault, parts: &[Part]) -> Vec<u8> {
        parts.iter().map(|part| vault.seal(part)).collect::<Vec<_>>().join(&b'\n')
    }

    #[test]
    fn messages_are_joined_in_the_order_in_which_they_were_written() {
        let vault = vault();
        let stored =
            stored(&vault, &[part(9, "two", None), part(8, "one", Some("a.pdf")), part(10, " ", Some("a.pdf"))]);
        let asked = join(open(&vault, &stored).expect("readable")).expect("a question");
        assert_eq!(asked.message, "one\n\ntwo");
        assert_eq!(asked.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a.pdf", "10-a.pdf"]);
    }

    #[test]
    fn what_a_client_cut_is_whole_again_and_what_came_later_stands_on_its_own() {
        let word = "x".repeat(4_096);
        let cut = |id: i64, within_word| Part { cut: Some(Cut { at: 100 + id, within_word }), ..part(id, &word, None) };
        let asked = join(vec![
            part(1, "so", None),
            cut(2, true),
            cut(3, true),
            part(4, "yz", None),
            part(5, "more", None),
            cut(6, false),
            part(7, "a line", None),
            cut(8, true),
            part(60, "an hour later", None),
        ])
        .expect("a question");
        assert_eq!(asked.message, format!("so\n\n{word}{word}yz\n\nmore\n\n{word}\na line\n\n{word}\n\nan hour later"));
    }

    #[test]
    fn an_edit_replaces_its_message_alone() {
        let vault = vault();
        let before = stored(&vault, &[part(8, "one", None), part(9, "two", Some("x"))]);
        let after = replace(&vault, &before, &part(9, "2", None)).expect("readable").expect("found");
        assert_eq!(open(&vault, &after).expect("readable"), [part(8, "one", None), part(9, "2", None)]);
        assert_eq!(replace(&vault, &before, &part(7, "0", None)).expect("readable"), None);
    }

    #[test]
    fn requests_without_a_message_are_read_too_and_damaged_ones_refused() {
        let vault = vault();
        let request = Request { message: "hi".into(), name: "Ann".into(), language_code: Some("de".into()) };
        let asked = join(open(&vault, &vault.seal(&request)).expect("readable")).expect("a question");
        assert_eq!((asked.message, asked.language_code), (request.message, request.language_code));
        assert!(join(open(&vault, b"").expect("nothing")).is_none());
        assert!(matches!(open(&vault, b"nonsense"), Err(Unreadable::Undecryptable(_))));
        assert!(matches!(open(&vault, &vault.encrypt(b"[]")), Err(Unreadable::Malformed)));
    }
}
