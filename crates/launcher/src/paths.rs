//! Which paths a model may name.

use crate::wire::Failure;
use std::path::Path;

/// As Linux has it (`NAME_MAX`), in bytes.
const NAME: usize = 255;
/// The longest path, in bytes.
const PATH: usize = 2048;
/// The deepest path, in names.
const DEPTH: usize = 32;

/// The names that lead from the root to what is meant; empty for the root itself.
///
/// The root's own real path and `/workspace` may stand before it, since that is what models have seen. This is for good
/// messages; that nothing leads out of the root is the kernel's doing, when the file is opened.
pub fn names<'a>(root: &Path, path: &'a str) -> Result<Vec<&'a str>, Failure> {
    if path.len() > PATH {
        return Err(Failure::Invalid(format!("a path may have {PATH} bytes")));
    }
    if path.chars().any(char::is_control) {
        return Err(Failure::Invalid("a path may not hold control characters".into()));
    }
    let relative = if path.starts_with('/') {
        let below = |base: &str| {
            path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(str::to_owned)
        };
        let inside = root.to_str().and_then(below).or_else(|| below("/workspace"));
        let Some(inside) = inside else {
            return Err(Failure::Denied(format!("{path}: only the workspace is open; name files relative to it")));
        };
        &path[path.len() - inside.len()..]
    } else {
        path
    };
    let names: Vec<&str> = relative.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(Failure::Denied(format!("{path}: `..` may not be in a path")));
    }
    if names.iter().any(|name| name.len() > NAME) {
        return Err(Failure::Invalid(format!("a name may have {NAME} bytes")));
    }
    if names.len() > DEPTH {
        return Err(Failure::Invalid(format!("a path may have {DEPTH} parts")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<Vec<&str>, Failure> {
        names(Path::new("/base/owner"), path)
    }

    #[test]
    fn one_file_has_many_spellings() {
        for path in ["a/b", "./a/b", "a//b/", "a/./b", "/workspace/a/b", "/base/owner/a/b", "/base/owner//a/b"] {
            assert_eq!(of(path).unwrap(), ["a", "b"], "{path}");
        }
        for path in ["", ".", "/workspace", "/base/owner/"] {
            assert_eq!(of(path).unwrap(), Vec::<&str>::new(), "{path}");
        }
    }

    #[test]
    fn what_lies_outside_is_denied() {
        for path in ["/etc/passwd", "//etc/passwd", "..", "a/../../b", "/workspace/../x", "/base/ownership", "/"] {
            assert!(matches!(of(path), Err(Failure::Denied(_))), "{path}");
        }
    }

    #[test]
    fn hostile_names_get_a_plain_answer() {
        let deep = "d/".repeat(40);
        for path in ["a\0b", "a\nb", &"n".repeat(256), &"n".repeat(5000), &deep] {
            assert!(matches!(of(path), Err(Failure::Invalid(_))), "{path}");
        }
    }
}
