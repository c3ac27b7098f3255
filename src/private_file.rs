//! Files that hold secrets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tracing::warn;

/// Whether other users of this host may read it.
pub fn is_shared(path: &Path) -> bool {
    // silent-ok: whoever reads the file tells why it cannot be read
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Warns if other users of this host may read it. `what` is in it.
pub fn warn_if_shared(path: &Path, what: &str) {
    if is_shared(path) {
        warn!(path = %path.display(), "other users of this host may read {what}; `chmod 600` it");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_others_may_read_is_noticed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (mode, shared) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("its own");
            assert_eq!(is_shared(file.path()), shared, "{mode:o}");
        }
        assert!(!is_shared(Path::new("/nowhere/at/all")));
    }
}
