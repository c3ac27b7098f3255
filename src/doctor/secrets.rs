//! Whether BOT_ENCRYPTION_KEY opens what is stored.

use super::Line;
use crate::app::App;
use crate::rotation::{self, COLUMNS};

/// Rows of each column that are looked at from either end.
const SOME: usize = 200;

/// A look at some of what is stored.
pub(super) async fn check(app: &App) -> Line {
    let (mut opened, mut outdated) = (0, 0);
    let mut unreadable = Vec::new();
    for column in COLUMNS {
        let Ok(standing) = rotation::sample(&app.db, &app.config.vault, column, SOME).await else {
            // silent-ok: what is wrong with the database or its schema is said by the checks of these.
            return Line::new("encryption key", Err("unknown, as what is stored cannot be read.".into()));
        };
        opened += standing.under.values().sum::<u64>();
        outdated += standing.outdated();
        unreadable.extend(
            standing.unreadable.first().map(|key| {
                format!("{} of {}.{} (such as {key})", standing.unreadable.len(), column.table, column.name)
            }),
        );
    }
    if !unreadable.is_empty() {
        return Line::new(
            "encryption key",
            Err(format!(
                "BOT_ENCRYPTION_KEY does not open what is stored: {}. Put the key that it was stored under behind the others; \
                 `baal rotate-keys --check` looks at everything.",
                unreadable.join(", ")
            )),
        );
    }
    let advice = match outdated {
        0 => vec![],
        n => vec![format!(
            "{n} of these are under another key than the first. Run `baal rotate-keys`, and take the others out then."
        )],
    };
    Line::new("encryption key", Ok(format!("{opened} stored values looked at, all can be read"))).with_advice(advice)
}
