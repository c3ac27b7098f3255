//! The far sides as HTTP servers: they speak their protocols and can be told to misbehave. Used by the demo and the tests,
//! never linked into the control plane.

pub mod aleph;
pub mod brave;
pub mod libertai;
pub mod telegram;
