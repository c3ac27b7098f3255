//! The real binary against the LibertAI simulator.

mod conversation;
mod failures;
mod memory;
mod process;
mod restart;
mod resuming;
mod rounds;
mod steering;
mod storage;
mod support;
mod tools;
mod turns;
