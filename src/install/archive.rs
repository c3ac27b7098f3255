//! What a script on a machine works with: one compressed tar archive, made in memory.

use flate2::Compression;
use flate2::write::GzEncoder;

use super::InstallError;

/// Scripts and units, as they are in the repository. They stand in one directory there.
const SCRIPTS: &[(&str, &[u8])] = &[
    ("install.sh", include_bytes!("../../crates/agent/systemd/install.sh")),
    ("takeover.sh", include_bytes!("../../crates/agent/systemd/takeover.sh")),
    ("uninstall.sh", include_bytes!("../../crates/agent/systemd/uninstall.sh")),
    ("web.sh", include_bytes!("../../crates/agent/systemd/web.sh")),
    ("caddy.conf", include_bytes!("../../crates/agent/systemd/caddy.conf")),
    ("baal-agent.service", include_bytes!("../../crates/agent/systemd/baal-agent.service")),
    ("baal-guests.slice", include_bytes!("../../crates/agent/systemd/baal-guests.slice")),
    ("baal-guests.socket", include_bytes!("../../crates/agent/systemd/baal-guests.socket")),
    ("baal-tools-firewall.service", include_bytes!("../../crates/agent/systemd/baal-tools-firewall.service")),
    ("baal-tools.nft", include_bytes!("../../crates/agent/systemd/baal-tools.nft")),
    ("baal-tools.socket", include_bytes!("../../crates/agent/systemd/baal-tools.socket")),
    ("baal-tools@.service", include_bytes!("../../crates/agent/systemd/baal-tools@.service")),
    ("baal.slice", include_bytes!("../../crates/agent/systemd/baal.slice")),
];

/// The name of the last entry: `tar` does not complain of an archive that ends between two entries.
pub(super) const LAST: &str = "complete";

/// A compressed archive of the scripts and of these files, which only root may read.
pub(super) fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>, InstallError> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let last: (&str, &[u8]) = (LAST, b"");
    let ours = SCRIPTS.iter().chain(files).chain(std::iter::once(&last));
    for (name, content) in ours {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, *content).map_err(cannot)?;
    }
    builder.into_inner().and_then(GzEncoder::finish).map_err(cannot)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn cannot(error: std::io::Error) -> InstallError {
    InstallError::Own(format!("the files for a machine cannot be packed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::Read as _;

    #[test]
    fn every_file_of_the_directory_is_sent() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/agent/systemd");
        let there: BTreeSet<String> = std::fs::read_dir(directory)
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        assert_eq!(there, SCRIPTS.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn user_text_arrives_byte_for_byte_and_the_end_is_last() {
        let text = "'\"; $(reboot) `id` \u{1f480}\r\n\0\u{7f}".repeat(800);
        let packed = archive(&[("config.json", text.as_bytes())]).expect("packs");
        let mut seen = Vec::new();
        for entry in tar::Archive::new(flate2::read::GzDecoder::new(&packed[..])).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mode().expect("a mode"), 0o600);
            let name = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("reads");
            if name == "config.json" {
                assert_eq!(content, text.as_bytes());
            }
            seen.push(name);
        }
        assert_eq!(seen.len(), SCRIPTS.len() + 2);
        assert_eq!(seen.last().map(String::as_str), Some(LAST));
    }
}
