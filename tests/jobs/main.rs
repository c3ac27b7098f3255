//! Agents from their creation to their end: the service, the jobs, and real agent processes on this host.

mod changes;
mod kills;
mod life;
mod world;
