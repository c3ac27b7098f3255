//! The SSH client against real OpenSSH servers, which the tests start.

mod commands;
mod connecting;
mod deadlines;
mod faults;
mod proxy;
mod server;
