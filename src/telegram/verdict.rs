//! What Telegram's answer to a call means: there is no error code that tells, only words.

use std::time::Duration;

use serde_json::value::RawValue;

use super::api::ApiError;

/// What is to be done about a call's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Telegram did it; the id of the message that it sent or edited.
    Done(Option<i64>),
    /// There is nothing left to do, for this reason.
    Moot(String),
    /// The message to edit is gone: send the text as a new one.
    SendAnew,
    /// It is no photo to Telegram: send it as a document.
    AsDocument,
    /// The topic is gone: send to the chat.
    WithoutThread,
    /// The group has become the supergroup of this id.
    Moved(i64),
    /// Nothing can be sent to this chat any more.
    Unreachable(String),
    /// Telegram wants to be left alone for this long.
    Wait(Duration),
    /// It did not happen; try again later.
    Retry(String),
    /// Nobody knows whether it happened.
    Uncertain(String),
    /// Telegram will never do it: our mistake.
    Refused(String),
}

/// Reads Telegram's answer.
pub fn judge(method: &str, answer: &Result<Box<RawValue>, ApiError>) -> Verdict {
    #[derive(serde::Deserialize)]
    struct Sent {
        message_id: i64,
    }
    let (code, description) = match answer {
        Ok(result) => {
            return Verdict::Done(serde_json::from_str::<Sent>(result.get()).ok().map(|sent| sent.message_id));
        }
        Err(ApiError::NotSent(why)) => return Verdict::Retry(why.clone()),
        Err(ApiError::Lost(why)) if sends(method) => return Verdict::Uncertain(why.clone()),
        Err(ApiError::Lost(why)) => return Verdict::Retry(why.clone()),
        Err(ApiError::Refused { migrate_to: Some(chat), .. }) => return Verdict::Moved(*chat),
        Err(ApiError::Refused { retry_after: Some(wait), .. }) => return Verdict::Wait(*wait),
        Err(ApiError::Refused { code, description, .. }) => (*code, description.as_str()),
    };
    let says = |words: &str| description.to_ascii_lowercase().contains(words);
    let reason = || description.to_owned();
    match code {
        _ if says("message is not modified") => Verdict::Done(None),
        _ if says("message to edit not found") || says("message can't be edited") => match method {
            "editMessageText" => Verdict::SendAnew,
            _ => Verdict::Moot(reason()),
        },
        _ if says("query is too old") || says("query id is invalid") => Verdict::Moot(reason()),
        _ if says("message to delete not found") || says("message can't be deleted") => Verdict::Moot(reason()),
        _ if says("message thread not found") => Verdict::WithoutThread,
        403 => Verdict::Unreachable(reason()),
        _ if says("chat not found") || says("user is deactivated") || says("user not found") => {
            Verdict::Unreachable(reason())
        }
        // The token is wrong or revoked: every call fails alike until an operator has mended it; none may be lost.
        401 | 404 => Verdict::Retry(format!("{description}: is TELEGRAM_BOT_TOKEN right?")),
        // Too large, too wide, damaged: there are many words for it.
        400 | 413 if method == "sendPhoto" => Verdict::AsDocument,
        _ => Verdict::Refused(reason()),
    }
}

/// Whether a method, made twice, shows a message twice.
pub fn sends(method: &str) -> bool {
    method.starts_with("send") && method != "sendChatAction"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, description: &str) -> Result<Box<RawValue>, ApiError> {
        Err(ApiError::Refused { code, description: description.into(), retry_after: None, migrate_to: None })
    }

    #[test]
    fn telegrams_words_are_understood() {
        let cases = [
            (
                "editMessageText",
                400,
                "Bad Request: message is not modified: specified new message content",
                Verdict::Done(None),
            ),
            ("editMessageText", 400, "Bad Request: message to edit not found", Verdict::SendAnew),
            ("editMessageText", 400, "Bad Request: message can't be edited", Verdict::SendAnew),
            ("sendMessage", 400, "Bad Request: message thread not found", Verdict::WithoutThread),
            ("sendPhoto", 400, "Bad Request: PHOTO_INVALID_DIMENSIONS", Verdict::AsDocument),
            ("sendPhoto", 413, "Request Entity Too Large", Verdict::AsDocument),
        ];
        for (method, code, words, verdict) in cases {
            assert_eq!(judge(method, &refused(code, words)), verdict, "{words}");
        }
        for words in ["Forbidden: bot was blocked by the user", "Forbidden: user is deactivated"] {
            assert!(matches!(judge("sendMessage", &refused(403, words)), Verdict::Unreachable(_)), "{words}");
        }
        assert!(matches!(judge("sendMessage", &refused(400, "Bad Request: chat not found")), Verdict::Unreachable(_)));
        let old = "Bad Request: query is too old and response timeout expired or query ID is invalid";
        assert!(matches!(judge("answerCallbackQuery", &refused(400, old)), Verdict::Moot(_)));
        assert!(matches!(judge("sendMessage", &refused(401, "Unauthorized")), Verdict::Retry(_)));
        assert!(matches!(judge("sendMessage", &refused(400, "Bad Request: message is too long")), Verdict::Refused(_)));
    }

    #[test]
    fn a_lost_answer_is_uncertain_only_where_a_repetition_shows() {
        let lost = || Err(ApiError::Lost("reset".into()));
        assert!(matches!(judge("sendMessage", &lost()), Verdict::Uncertain(_)));
        assert!(matches!(judge("editMessageText", &lost()), Verdict::Retry(_)));
    }

    #[test]
    fn a_sent_messages_id_is_read() {
        let sent = serde_json::from_str(r#"{"message_id":12,"chat":{"id":1}}"#).expect("json");
        assert_eq!(judge("sendMessage", &Ok(sent)), Verdict::Done(Some(12)));
        let answered = serde_json::from_str("true").expect("json");
        assert_eq!(judge("answerCallbackQuery", &Ok(answered)), Verdict::Done(None));
    }
}
