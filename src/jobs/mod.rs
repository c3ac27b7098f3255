//! Long work as rows with typed steps.

pub mod store;
