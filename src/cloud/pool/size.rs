//! How large the pool is to be: as an operator set it while it runs, else as the configuration says.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::Wanted;
use crate::config::Config;

/// The pool's size as an operator set it; none: the configuration's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct Size {
    /// Instead of POOL_MIN_SIZE.
    pub min_size: Option<i32>,
    /// Instead of POOL_MAX_SIZE.
    pub max_size: Option<i32>,
}

impl Size {
    /// As it is set.
    pub async fn read(conn: &mut PgConnection) -> sqlx::Result<Self> {
        sqlx::query_as("select pool_min_size as min_size, pool_max_size as max_size from installation")
            .fetch_one(conn)
            .await
    }

    /// The same, under a lock on the installation's row that lasts until the transaction ends.
    pub async fn lock(conn: &mut PgConnection) -> sqlx::Result<Self> {
        sqlx::query_as(
            "select pool_min_size as min_size, pool_max_size as max_size from installation for no key update",
        )
        .fetch_one(conn)
        .await
    }

    /// Sets it for all replicas; each goes by it from its next look at the pool on.
    pub async fn write(self, conn: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query("update installation set pool_min_size = $1, pool_max_size = $2")
            .bind(self.min_size)
            .bind(self.max_size)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// How many machines are to be ready, and how many at most are ready or in the making, if the pool is on.
    pub fn of(self, config: &Config) -> (i64, i64) {
        let max = self.max_size.map_or(config.pool_max_size, i64::from);
        // One was set when the configuration's other was another: what costs less goes.
        (self.min_size.map_or(config.pool_min_size, i64::from).min(max), max)
    }

    /// What the pool is to be; one that is switched off is one of no machines.
    pub fn wanted(self, config: &Config) -> Wanted {
        let (min, max) = if config.pool_enabled { self.of(config) } else { (0, 0) };
        Wanted { min, max, pause: config.pool_interval }
    }
}
