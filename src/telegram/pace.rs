//! How fast the bot may send: as fast as it likes, until Telegram says otherwise.
//!
//! A 429 holds up its own chat. Two of different chats within a second mean a limit of the whole bot: then all replicas
//! pause for as long as Telegram said and go on at half the rate (kept in `bots`), which grows back. Messages that nobody
//! asked for are spread at no more than 25 a second over all replicas.

use std::time::{Duration, Instant};

use sqlx::{PgPool, Row};

/// Unasked messages a second over all replicas: Telegram's limit for bulk notifications is about 30.
const NOTICES_PER_SECOND: f64 = 25.0;

/// The rate at which a limited bot counts as free again.
const FREE_RATE: f64 = 100.0;

const REFRESH: Duration = Duration::from_secs(1);

/// A bucket that fills at a rate and may be overdrawn by one batch.
#[derive(Debug)]
struct Bucket {
    level: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { level: 1.0, filled: now }
    }

    fn fill(&mut self, now: Instant, per_second: f64) {
        let gained = now.duration_since(self.filled).as_secs_f64() * per_second;
        self.level = (self.level + gained).min(per_second.max(1.0));
        self.filled = now;
    }
}

/// One replica's view of its bot's pace.
#[derive(Debug)]
pub struct Pace {
    paused_until: Instant,
    /// Over all replicas; none while Telegram complains of nothing.
    rate: Option<f64>,
    refreshed: Option<Instant>,
    calls: Bucket,
    notices: Bucket,
    last_flood: Option<(i64, Instant)>,
    /// Calls since `counting_since`, for the rate that was too much.
    sent: u32,
    counting_since: Instant,
    last_rate: f64,
}

/// What may be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Calls.
    pub calls: usize,
    /// Whether notices may be among them.
    pub notices: bool,
}

impl Pace {
    /// Unlimited.
    pub fn new(now: Instant) -> Self {
        Self {
            paused_until: now,
            rate: None,
            refreshed: None,
            calls: Bucket::new(now),
            notices: Bucket::new(now),
            last_flood: None,
            sent: 0,
            counting_since: now,
            last_rate: 0.0,
        }
    }

    /// How many of `free` slots may be used, with this many replicas at work.
    pub fn allowance(&mut self, now: Instant, free: usize, workers: i64) -> Allowance {
        let share = 1.0 / workers.max(1) as f64;
        self.notices.fill(now, NOTICES_PER_SECOND * share);
        let calls = match self.rate {
            _ if now < self.paused_until => 0,
            None => {
                // A limit that comes begins with a fresh bucket, whatever was sent before.
                self.calls = Bucket::new(now);
                free
            }
            Some(rate) => {
                self.calls.fill(now, rate * share);
                free.min(self.calls.level.max(0.0) as usize)
            }
        };
        Allowance { calls, notices: self.notices.level >= 1.0 }
    }

    /// Notes what was claimed.
    pub fn took(&mut self, now: Instant, calls: usize, notices: usize) {
        if self.rate.is_some() {
            self.calls.level -= calls as f64;
        }
        self.notices.level -= notices as f64;
        let window = now.duration_since(self.counting_since);
        if window > Duration::from_secs(2) {
            self.last_rate = f64::from(self.sent) / window.as_secs_f64();
            (self.sent, self.counting_since) = (0, now);
        }
        self.sent += calls as u32;
    }

    /// Calls a second of this replica: of the window under way or the one before, whichever is more.
    fn measured(&self, now: Instant) -> f64 {
        let window = now.duration_since(self.counting_since).as_secs_f64().max(0.5);
        self.last_rate.max(f64::from(self.sent) / window)
    }

    /// Until when nothing goes out at all.
    pub fn paused_until(&self) -> Instant {
        self.paused_until
    }

    /// Whether the bot's rate is limited.
    pub fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// Whether a 429 in this chat, with the last one elsewhere, means the whole bot.
    pub fn flooded(&mut self, now: Instant, chat_id: i64) -> bool {
        let last = self.last_flood.replace((chat_id, now));
        last.is_some_and(|(chat, at)| chat != chat_id && now.duration_since(at) < Duration::from_secs(1))
    }

    /// Pauses the whole bot on every replica and halves its rate.
    pub async fn slow_down(&mut self, db: &PgPool, bot_id: i64, wait: Duration, workers: i64) -> sqlx::Result<()> {
        let measured = self.measured(Instant::now()) * workers.max(1) as f64;
        sqlx::query(
            "insert into bots (bot_id, paused_until, send_rate, rate_changed_at)
             values ($1, now() + make_interval(secs => $2), greatest($3 / 2, 1), now())
             on conflict (bot_id) do update set
               paused_until = greatest(bots.paused_until, excluded.paused_until),
               send_rate = case when bots.rate_changed_at > now() - interval '1 s' then bots.send_rate
                                else greatest(coalesce(bots.send_rate, $3) / 2, 1) end,
               rate_changed_at = now()",
        )
        .bind(bot_id)
        .bind(wait.as_secs_f64())
        .bind(measured)
        .execute(db)
        .await?;
        self.refreshed = None;
        Ok(())
    }

    /// Reads what other replicas learnt, at most once a second; a limited rate grows by a tenth a second.
    pub async fn refresh(&mut self, db: &PgPool, bot_id: i64) -> sqlx::Result<()> {
        let now = Instant::now();
        if self.refreshed.is_some_and(|at| now.duration_since(at) < REFRESH) {
            return Ok(());
        }
        self.refreshed = Some(now);
        if self.rate.is_some() {
            // One replica a second, whoever comes first: the row's own time is the guard.
            sqlx::query(
                "update bots set send_rate = nullif(least(send_rate * 1.1, $2), $2), rate_changed_at = now()
                  where bot_id = $1 and send_rate is not null and rate_changed_at < now() - interval '1 s'
                    and paused_until < now()",
            )
            .bind(bot_id)
            .bind(FREE_RATE)
            .execute(db)
            .await?;
        }
        let row = sqlx::query(
            "select send_rate, extract(epoch from greatest(paused_until, now()) - now())::float8 as pause
               from bots where bot_id = $1",
        )
        .bind(bot_id)
        .fetch_optional(db)
        .await?;
        if let Some(row) = row {
            self.rate = row.get("send_rate");
            self.paused_until = now + Duration::from_secs_f64(row.get::<f64, _>("pause").max(0.0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_of_two_chats_within_a_second_mean_the_whole_bot() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(!pace.flooded(start, 1));
        assert!(!pace.flooded(start + Duration::from_millis(100), 1));
        assert!(pace.flooded(start + Duration::from_millis(900), 2));
        assert!(!pace.flooded(start + Duration::from_secs(9), 1));
    }

    #[test]
    fn replies_are_free_and_notices_spread() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.allowance(start, 64, 1), Allowance { calls: 64, notices: true });
        pace.took(start, 64, 64);
        assert_eq!(pace.allowance(start, 64, 1), Allowance { calls: 64, notices: false });
        // 63 too many at 25 a second.
        assert!(pace.allowance(start + Duration::from_secs(3), 64, 1).notices);
        assert!(!pace.allowance(start, 64, 2).notices || pace.notices.level >= 1.0);
    }

    #[test]
    fn a_limited_rate_is_shared_by_the_replicas() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.rate = Some(10.0);
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.allowance(later, 64, 2).calls, 5);
        pace.took(later, 5, 0);
        assert_eq!(pace.allowance(later, 64, 2).calls, 0);
    }

    #[test]
    fn what_went_out_before_a_limit_is_not_counted_against_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.allowance(start, 64, 1);
        pace.took(start, 3_000, 0);
        pace.rate = Some(25.0);
        assert!(pace.allowance(start + Duration::from_secs(1), 64, 1).calls > 0);
    }
}
