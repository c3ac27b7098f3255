//! Lists of columns, for statements that read whole rows.
//!
//! Invariant: no statement reads one of our tables with `*`. Statements are prepared once and live as long as their connection,
//! behind a pooler even longer than the program. `*` is settled when one is prepared, and once a newer version's migration
//! has added a column, Postgres refuses it for ever: "cached plan must not change result type".

/// `columns!("a.": id, name)` is the literal `"a.id, a.name"`, of which `concat!` makes a statement.
macro_rules! columns {
    ($of:literal: $first:ident $(, $more:ident)* $(,)?) => {
        concat!($of, stringify!($first) $(, ", ", $of, stringify!($more))*)
    };
}

pub(crate) use columns;
