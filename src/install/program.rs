//! The agent's program: where it is, whether machines can run it, and its hash.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::InstallError;
use crate::cloud::local;
use crate::config::Config;

/// The largest program that is sent to machines, in bytes.
const LIMIT: u64 = 256 << 20;

/// The agent's program: BAAL_AGENT_BINARY, or `baal-agent` beside this program.
pub fn program(config: &Config) -> Result<PathBuf, InstallError> {
    local::program(config).map_err(|error| InstallError::Own(error.to_string()))
}

/// A program that machines can run, and its SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub path: PathBuf,
    pub sha256: String,
}

impl Program {
    pub(super) fn load(path: PathBuf) -> Result<Self, InstallError> {
        let cannot = |error: io::Error| InstallError::Own(format!("{} cannot be read: {error}", path.display()));
        let mut file = File::open(&path).map_err(cannot)?;
        if let Err(problem) = fits(&mut file) {
            return Err(InstallError::Own(refusal(&path, &problem)));
        }
        file.rewind().map_err(cannot)?;
        let mut hasher = Sha256::new();
        if io::copy(&mut (&mut file).take(LIMIT + 1), &mut hasher).map_err(cannot)? > LIMIT {
            return Err(InstallError::Own(format!("{} is too large for a program of the agent's", path.display())));
        }
        let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path, sha256 })
    }
}

fn refusal(path: &Path, problem: &str) -> String {
    let mut text = format!(
        "{} {problem}; machines need a static program: build it with `make agent` and set BAAL_AGENT_BINARY to the file",
        path.display()
    );
    // Beside a `baal` that cargo built (target/debug), `make agent` leaves its own in target/TRIPLE/agent.
    let built =
        path.parent().and_then(Path::parent).map(|target| target.join("x86_64-unknown-linux-gnu/agent/baal-agent"));
    if let Some(built) =
        built.filter(|built| built != path && File::open(built).is_ok_and(|mut file| fits(&mut file).is_ok()))
    {
        text += &format!(" (there is one: BAAL_AGENT_BINARY={})", built.display());
    }
    text
}

/// Whether a file is a program that starts on any Linux of our machines' kind: ELF, 64 bits, x86-64, executable, without an
/// interpreter, so that no libc of the machine's is needed. What is wrong otherwise, to follow the file's name.
///
/// Offsets are those of `Elf64_Ehdr` and `Elf64_Phdr` in elf(5).
fn fits(file: &mut (impl Read + Seek)) -> Result<(), String> {
    const HEADER: usize = 64;
    const ENTRY: u64 = 56;
    let mut header = [0u8; HEADER];
    let short = |_| "is not a complete program".to_owned();
    match file.read_exact(&mut header) {
        Ok(()) if header.starts_with(b"\x7fELF") => {}
        _ => return Err("is not a program for Linux (ELF)".into()),
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    // 2: 64 bits, 1: little endian, 62: EM_X86_64.
    if (header[4], header[5]) != (2, 1) || half(18) != 62 {
        return Err("is not a program for x86_64".into());
    }
    // 2: ET_EXEC, 3: ET_DYN, which a static-pie program is too.
    if !matches!(half(16), 2 | 3) {
        return Err("is no program but a part of one".into());
    }
    let table = u64::from_le_bytes(header[32..40].try_into().map_err(|_| "is not a complete program".to_owned())?);
    let (size, count) = (half(54), half(56));
    if u64::from(size) != ENTRY || count == 0 || count == u16::MAX {
        return Err("is no program but a part of one".into());
    }
    let end = file.seek(SeekFrom::End(0)).map_err(short)?;
    let mut loads = false;
    for index in 0..u64::from(count) {
        let mut entry = [0u8; ENTRY as usize];
        let at = table.checked_add(index * ENTRY).filter(|at| *at < end).ok_or("is not a complete program")?;
        file.seek(SeekFrom::Start(at)).map_err(short)?;
        file.read_exact(&mut entry).map_err(short)?;
        let long = |at: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        match u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) {
            // PT_LOAD: what is loaded must be there.
            1 => {
                loads = true;
                if long(8).checked_add(long(32)).is_none_or(|last| last > end) {
                    return Err("is not a complete program".into());
                }
            }
            // PT_INTERP
            3 => return Err("needs libraries of the machine it runs on (it is dynamically linked)".into()),
            _ => {}
        }
    }
    if loads { Ok(()) } else { Err("is no program but a part of one".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// The head of a program with these segments: kind, offset, size.
    fn elf(segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16] = 3;
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        for (kind, offset, size) in segments {
            let mut entry = [0u8; 56];
            entry[..4].copy_from_slice(&kind.to_le_bytes());
            entry[8..16].copy_from_slice(&offset.to_le_bytes());
            entry[32..40].copy_from_slice(&size.to_le_bytes());
            file.extend(entry);
        }
        file
    }

    fn judge(bytes: Vec<u8>) -> Result<(), String> {
        fits(&mut Cursor::new(bytes))
    }

    #[test]
    fn a_static_program_fits() {
        assert_eq!(judge(elf(&[(6, 0, 0), (1, 0, 100), (2, 0, 0)])), Ok(()));
    }

    #[test]
    fn a_program_that_needs_libraries_is_refused() {
        let refused = judge(elf(&[(1, 0, 100), (3, 0, 28)])).expect_err("dynamic");
        assert!(refused.contains("dynamically linked"), "{refused}");
        // This test itself is one.
        let own = std::env::current_exe().expect("a path");
        let error = Program::load(own).expect_err("dynamic").to_string();
        assert!(error.contains("dynamically linked") && error.contains("make agent"), "{error}");
    }

    #[test]
    fn other_machines_other_files_and_pieces_are_refused() {
        let whole = elf(&[(1, 0, 100)]);
        for (at, value, complaint) in [
            (4, 1, "x86_64"),
            (5, 2, "x86_64"),
            (18, 183, "x86_64"),
            (16, 1, "part of one"),
            (56, 0, "part of one"),
            (0, 0, "ELF"),
        ] {
            let mut file = whole.clone();
            file[at] = value;
            let refused = judge(file).expect_err("refused");
            assert!(refused.contains(complaint), "{at}: {refused}");
        }
        for length in 0..whole.len() {
            assert!(judge(whole[..length].to_vec()).is_err(), "{length} bytes");
        }
        assert!(judge(elf(&[(1, 0, 5_000)])).expect_err("cut off").contains("complete"));
        assert!(judge(elf(&[(1, u64::MAX, 2)])).expect_err("nonsense").contains("complete"));
        assert!(judge(b"#!/bin/sh\n".to_vec()).is_err());
        let mut far = whole;
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(judge(far).is_err());
    }

    #[test]
    fn the_hash_is_that_of_the_file_and_a_static_one_nearby_is_named() {
        let target = tempfile::tempdir().expect("a directory");
        let built = target.path().join("x86_64-unknown-linux-gnu/agent/baal-agent");
        std::fs::create_dir_all(built.parent().expect("has one")).expect("makes");
        std::fs::write(&built, elf(&[(1, 0, 100)])).expect("writes");
        let program = Program::load(built.clone()).expect("fits");
        let hash: String = Sha256::digest(elf(&[(1, 0, 100)])).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(program, Program { path: built.clone(), sha256: hash });

        let beside = target.path().join("debug/baal-agent");
        std::fs::create_dir_all(beside.parent().expect("has one")).expect("makes");
        std::fs::write(&beside, elf(&[(1, 0, 100), (3, 0, 1)])).expect("writes");
        let error = Program::load(beside).expect_err("dynamic").to_string();
        assert!(error.contains(&format!("BAAL_AGENT_BINARY={}", built.display())), "{error}");
    }
}
