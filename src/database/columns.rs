//! Pieces of statements: lists of columns, for those that read whole rows, and lists of values, for those that do many things at once.
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

/// `list!("2": int8, "3": text)` are the parameters `$2` and `$3`, lists, for `unnest`, so that the planner does not learn how long they
/// are. If it did, it would find a plan for the one row of this time cheaper than the one for any number that is prepared, and plan
/// the statement anew each time, which takes longer than the statement.
macro_rules! list {
    ($first:literal: $type:ident $(, $more:literal: $types:ident)* $(,)?) => {
        concat!(
            "(select $", $first, "::", stringify!($type), "[])"
            $(, ", (select $", $more, "::", stringify!($types), "[])")*
        )
    };
}

pub(crate) use {columns, list};
