//! The database: conversations, turns and their events, in SQLite.
//!
//! One thread writes, in one transaction for all that wait at the same moment; whoever asked hears of it after the commit.
//! Readers have connections of their own and see what is committed (write-ahead log).
//!
//! What holds after every commit, and so after a kill at any moment: the messages of a turn that is open are what the person
//! said, then for each round the model's message with its calls and the results in the order of the calls; only the last
//! round may lack results, the last ones. What steers a turn is added between rounds. A call is stored before it runs, so one
//! without a result may have run, and nobody runs it again. The last answer comes with the end of its turn.

mod background;
mod chats;
mod connection;
mod events;
mod messages;
mod pending;
pub mod python;
mod read;
mod rounds;
mod search;
mod summaries;
#[cfg(test)]
mod tests;
mod turns;
mod watch;
mod writer;

pub use background::Beat;
pub use chats::Deleted;
pub use messages::{Bounds, StoredMessage};
pub use read::Reader;
pub use rounds::{Results, Round, Standing, ToolResult};
pub use search::Found;
pub use summaries::Summary;
pub use turns::{Accepted, Cancelled, Finish, NewTurn, OpenTurn, Started, Stored};
pub use watch::Watch;
pub use writer::Store;

/// Why the database did not do it. The cause is logged where it happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A newer version of the agent wrote it.
    #[error(
        "a newer version of the agent wrote the database: it has seen {seen} migrations, this version knows {known}"
    )]
    TooNew {
        /// Migrations that it has seen.
        seen: usize,
        /// Migrations of this version.
        known: usize,
    },
    /// Its file could not be made.
    #[error("the database cannot be made: {0}")]
    File(#[from] std::io::Error),
    /// It could not be opened, or a statement failed.
    #[error("the database failed: {0}")]
    Sql(#[from] rusqlite::Error),
    /// A stored event is not what this version wrote.
    // The error's own words may quote the value, which is a conversation.
    #[error("a stored value cannot be read ({:?} error at column {})", .0.classify(), .0.column())]
    Content(#[from] serde_json::Error),
    /// The writing transaction failed, or the agent is about to stop.
    #[error("the database did not take the change")]
    NotWritten,
    /// A query ended badly, or the agent is about to stop.
    #[error("the database could not be read")]
    NotRead,
}
