//! Other people's code in Python, which judges ours.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The interpreter of the environment that `scripts/bootstrap test` made from these requirements as they are now.
pub fn python(requirements: &str) -> PathBuf {
    let requirements = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements)).unwrap();
    let name = format!("venv-{}", &hex::encode(Sha256::digest(&requirements))[..12]);
    let cache = PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/baal").join(name);
    assert!(cache.join(".complete").exists(), "{} is missing: run `scripts/bootstrap test`", cache.display());
    cache.join("bin/python")
}
