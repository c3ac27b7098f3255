//! A Debian machine with the agent installed as on a VM, and a model that says what a test prescribes.

mod machine;
mod rig;
mod table;

pub use baal_simulators::aleph;
pub use machine::{Kind, Machine, reaper};
pub use rig::{Rig, Said, Speaker, ToolCall, Turn, agent_binary};
pub use table::{Row, Table};
