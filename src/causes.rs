//! What is behind an error.

use std::error::Error;
use std::iter::successors;

/// The error and its causes, the innermost last.
pub fn of<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |error| (*error).source())
}
