//! The launcher on this machine's kernel. None of these needs to be root; all of them need Landlock and say so.

mod bash;
mod disk;
mod endings;
mod escapes;
mod files;
mod session;
mod walls;
