//! An AI agent: it holds conversations over HTTP, asks a model, and remembers.
//!
//! A turn is a row before anything runs, its events are rows before anyone sees them, and its answer is committed in one
//! piece: a turn belongs to the agent, not to the connection that asked for it, and survives a kill.

pub mod background;
pub mod clock;
pub mod config;
pub mod context;
pub mod files;
pub mod http;
pub mod lock;
pub mod model;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod tools;
pub mod turns;
pub mod web;
pub mod workspace;
