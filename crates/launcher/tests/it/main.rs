//! The launcher on this machine's kernel. None of these needs to be root; all of them need Landlock and say so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod bash;
mod disk;
mod endings;
mod escapes;
mod files;
mod session;
mod walls;
