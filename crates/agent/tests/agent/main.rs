//! The real binary against the LibertAI simulator.

mod conversation;
mod failures;
mod process;
mod restart;
mod storage;
mod support;
mod tools;
mod turns;
