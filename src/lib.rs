//! Baal's control plane: the library behind the `baal` program.

pub mod agents;
pub mod app;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod errands;
mod http;
pub mod install;
pub mod janitor;
pub mod jobs;
pub mod libertai;
pub mod private_file;
pub mod replica;
pub mod serve;
mod slots;
pub mod ssh;
mod storable;
mod take_back;
pub mod telegram;
pub mod telemetry;
pub mod turns;
pub mod vault;
pub mod wake;
