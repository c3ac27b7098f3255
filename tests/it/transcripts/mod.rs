//! What people see, for every command and every button, as snapshots of all that Telegram got.
//!
//! A scene is a list of lines. After a change of words on purpose: `INSTA_UPDATE=always make test`, and look at the diff.

mod buttons;
mod commands;
mod scene;
mod sharing;
mod stories;
