//! This machine's clock. The network's servers have one of their own each, as these here have.

use std::time::SystemTime;

use chrono::{DateTime, Utc};

pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}
