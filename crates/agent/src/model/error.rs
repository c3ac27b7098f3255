//! What can go wrong with the model, in words for the person in the chat: no address, no key, and what to do next.

use std::time::Duration;

/// Why there is no answer, or no whole one. `Display` is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No byte came for so long.
    #[error("The AI service sent nothing for {} seconds. Please try again.", .0.as_secs())]
    Silent(Duration),
    /// Bytes come, but no end.
    #[error("The AI service did not finish its answer in time. Please try again.")]
    Endless,
    /// No connection.
    #[error("The AI service cannot be reached. Please try again in a few minutes.")]
    Unreachable,
    /// The connection broke in the answer.
    #[error("The connection to the AI service broke. Please try again.")]
    Broken,
    /// 401, 403.
    #[error("The AI service does not accept this agent's key. Its owner needs to set a valid one.")]
    Key,
    /// 402.
    #[error("The account at the AI service has no credits left. Its owner needs to add some.")]
    NoCredits,
    /// 429.
    #[error("The AI service has too many requests at the moment. Please try again in a minute.")]
    Busy {
        /// When the service wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("The AI service has a problem of its own (error {status}). Please try again in a few minutes.")]
    Failing {
        /// HTTP status.
        status: u16,
        /// When the service wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("The AI service refused the request (error {status}). A shorter message or a new conversation may help.")]
    Refused {
        /// HTTP status.
        status: u16,
    },
    /// An error told inside the stream.
    #[error("The AI service stopped with an error of its own. Please try again.")]
    Reported,
    /// Not the protocol.
    #[error("The AI service answered something unreadable. Please try again.")]
    Unreadable,
    /// No text at all.
    #[error("The AI service gave an empty answer. Please try again, perhaps in other words.")]
    Empty,
    /// Larger than is kept.
    #[error("The answer was cut because it got too long.")]
    TooLong,
}
