//! The launcher: the small program between an agent and what its model wants done.
//!
//! It runs as another user than the agent (`baal-tools` for the owner, `baal-guests` for visitors), serves **one**
//! connection, which is its standard input, and does for it what touches files and starts programs. One connection sees one
//! directory, its [`Root`]. The walls, from the outside in:
//!
//! 1. the other users: the agent's configuration and database belong to `baal-agent`, the owner's files to `baal-tools`;
//! 2. systemd's sandbox of the unit (on a VM), with a cgroup of its own per connection;
//! 3. the launcher's own Landlock domain and seccomp filter, entered before the first request is read: it reaches its root
//!    and what a shell needs, and nothing else of this user's;
//! 4. for every shell command a second, narrower domain and filter, a cleared environment, limits, and a cgroup that is
//!    killed with all that is in it before the result is told.
//!
//! Files are opened beneath the root with `openat2(RESOLVE_BENEATH)`, so no path, symbolic link or race leads out of it.

mod call;
mod cgroup;
#[cfg(feature = "client")]
pub mod client;
mod confine;
mod files;
mod guard;
mod paths;
mod processes;
mod root;
mod serve;
mod session;
mod space;
pub mod wire;

pub use root::{BadRoot, Root};
pub use serve::{ServeError, Settings, run_confined, serve};
