//! The real binary against the LibertAI simulator.

mod background;
mod conversation;
mod failures;
mod files;
mod memory;
mod pending;
mod process;
mod restart;
mod resuming;
mod rounds;
mod steering;
mod storage;
mod support;
mod tools;
mod turns;
mod uploads;
