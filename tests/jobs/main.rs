//! Agents from their creation to their end: the service, the jobs, and real agent processes on this host.

mod changes;
mod kills;
mod leftovers;
mod life;
mod world;
