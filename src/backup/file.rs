//! The file of a backup: frames, compressed by gzip, encrypted by [age](https://age-encryption.org/v1) under a passphrase.
//!
//! A frame is a byte that says what it is, the length of its content (32 bits, big-endian), and the content: the manifest
//! (`M`, JSON), then for each table its name (`T`) and its rows (`R`, as Postgres' COPY writes text), and at the end (`E`,
//! JSON) how many rows of each there are. age authenticates every 64 KiB and the last of them as the last, so a file that
//! was altered or cut anywhere is refused; **nothing that was read counts before [`read`] has returned**.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::iter;

use age::scrypt;
use age::{DecryptError, Decryptor, Encryptor};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use secrecy::SecretString;
use tokio::sync::mpsc;

use super::manifest::{FORMAT, Manifest};

/// scrypt's N is 2 to the power of this: 64 MiB of memory and a fraction of a second. A container that also serves has to have
/// the memory.
const WORK: u8 = 16;
/// What is accepted, so that a stranger's file does not ask for all memory there is: 1 GiB.
const MAX_WORK: u8 = 20;
/// The longest content of a frame, in bytes.
const MAX_FRAME: usize = 16 << 20;
/// The longest content that is written, but for the manifest.
const FRAME: usize = 256 << 10;

/// Rows of each table.
pub type Counts = BTreeMap<String, u64>;

/// What a file consists of, in this order.
#[derive(Debug)]
pub enum Frame {
    /// What there is, first and once.
    Manifest(Box<Manifest>),
    /// The rows of this table follow.
    Table(String),
    /// Some of them, not cut at their ends.
    Rows(Vec<u8>),
    /// That was all.
    End,
}

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not the passphrase that it was made with.
    #[error("the passphrase is not the one that this backup was made with")]
    WrongPassphrase,
    /// Something else, or its first bytes are damaged.
    #[error("this is not a backup of Baal, or its beginning is damaged")]
    NotABackup,
    /// It ends early, or is not as it was written.
    #[error("the backup is damaged: it was cut or altered ({0})")]
    Damaged(String),
    /// A later program's.
    #[error("the backup was made by a newer Baal ({0}): restore it with that version or a later one")]
    Newer(String),
    /// The disk or the pipe.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Whoever makes or takes the frames has given up, and says why.
    #[error("it was given up")]
    Abandoned,
}

/// Counts rows as they go by: in COPY's text each ends with the only newline in it.
#[derive(Debug, Default)]
struct Tally {
    rows: Counts,
    table: Option<String>,
}

impl Tally {
    fn table(&mut self, name: &str) {
        self.rows.insert(name.to_owned(), 0);
        self.table = Some(name.to_owned());
    }

    fn rows(&mut self, bytes: &[u8]) -> Option<()> {
        let count = self.rows.get_mut(self.table.as_ref()?)?;
        *count += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Some(())
    }
}

/// Writes frames until [`Frame::End`]; gives what it wrote to and the rows of each table. Blocks.
pub fn write<W: Write>(
    out: W,
    passphrase: &SecretString,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<(W, Counts), FileError> {
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(WORK);
    let encryptor = Encryptor::with_recipients(iter::once(&recipient as &dyn age::Recipient))
        .map_err(|error| io::Error::other(error.to_string()))?;
    let mut zip = GzEncoder::new(encryptor.wrap_output(out)?, Compression::default());
    let mut tally = Tally::default();
    loop {
        match frames.blocking_recv().ok_or(FileError::Abandoned)? {
            Frame::Manifest(manifest) => put(&mut zip, b'M', &serde_json::to_vec(&manifest).map_err(io::Error::from)?)?,
            Frame::Table(name) => {
                tally.table(&name);
                put(&mut zip, b'T', name.as_bytes())?;
            }
            Frame::Rows(bytes) => {
                tally.rows(&bytes).ok_or(FileError::Abandoned)?;
                for piece in bytes.chunks(FRAME) {
                    put(&mut zip, b'R', piece)?;
                }
            }
            Frame::End => break,
        }
    }
    put(&mut zip, b'E', &serde_json::to_vec(&tally.rows).map_err(io::Error::from)?)?;
    let mut out = zip.finish()?.finish()?;
    out.flush()?;
    Ok((out, tally.rows))
}

fn put(out: &mut impl Write, kind: u8, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).ok().filter(|length| *length as usize <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::other("the manifest is too long"))?;
    out.write_all(&[kind])?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(content)
}

/// Reads a file to its end and hands each frame on; gives the rows of each table. [`Frame::End`] is handed on only when the whole
/// file is known to be as it was written. Blocks.
pub fn read(
    input: impl Read,
    passphrase: &SecretString,
    mut each: impl FnMut(Frame) -> Result<(), FileError>,
) -> Result<Counts, FileError> {
    let mut identity = scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(MAX_WORK);
    let decryptor = Decryptor::new_buffered(BufReader::new(input)).map_err(unreadable)?;
    let plain = decryptor.decrypt(iter::once(&identity as &dyn age::Identity)).map_err(unreadable)?;
    let mut zip = GzDecoder::new(BufReader::with_capacity(64 << 10, plain));
    let mut tally = Tally::default();
    let mut has_manifest = false;
    loop {
        let (kind, content) = take(&mut zip)?;
        match kind {
            b'M' if !has_manifest => {
                has_manifest = true;
                each(Frame::Manifest(Box::new(manifest(&content)?)))?;
            }
            b'T' if has_manifest => {
                let name = String::from_utf8(content).map_err(|_| odd("a table without a name"))?;
                tally.table(&name);
                each(Frame::Table(name))?;
            }
            b'R' => {
                tally.rows(&content).ok_or_else(|| odd("rows of no table"))?;
                each(Frame::Rows(content))?;
            }
            b'E' if has_manifest => {
                let counted: Counts = serde_json::from_slice(&content).map_err(|_| odd("no counts at its end"))?;
                if counted != tally.rows {
                    return Err(odd("rows are missing"));
                }
                break;
            }
            _ => return Err(odd("an unknown part")),
        }
    }
    // The sums of both layers stand behind what they are of.
    let nothing_left = |left: usize| if left == 0 { Ok(()) } else { Err(odd("something follows its end")) };
    nothing_left(zip.read(&mut [0]).map_err(damage)?)?;
    nothing_left(zip.into_inner().fill_buf().map_err(damage)?.len())?;
    each(Frame::End)?;
    Ok(tally.rows)
}

fn take(input: &mut impl Read) -> Result<(u8, Vec<u8>), FileError> {
    let mut head = [0; 5];
    input.read_exact(&mut head).map_err(damage)?;
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(odd("a part that is too long"));
    }
    let mut content = vec![0; length];
    input.read_exact(&mut content).map_err(damage)?;
    Ok((kind, content))
}

fn manifest(content: &[u8]) -> Result<Manifest, FileError> {
    let value: serde_json::Value = serde_json::from_slice(content).map_err(|_| odd("no manifest"))?;
    if value["format"].as_u64() != Some(FORMAT.into()) {
        return Err(FileError::Newer(value["program"].as_str().unwrap_or("of an unknown version").to_owned()));
    }
    serde_json::from_value(value).map_err(|_| odd("a manifest that cannot be read"))
}

fn odd(what: &str) -> FileError {
    FileError::Damaged(what.to_owned())
}

fn damage(error: io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            FileError::Damaged(error.to_string())
        }
        _ => FileError::Io(error),
    }
}

fn unreadable(error: DecryptError) -> FileError {
    match error {
        // Of a key under a passphrase, nothing else can be told from its refusal.
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => FileError::WrongPassphrase,
        DecryptError::Io(error) => match damage(error) {
            FileError::Damaged(_) => FileError::NotABackup,
            other => other,
        },
        DecryptError::InvalidMac => FileError::Damaged("its head does not fit".into()),
        _ => FileError::NotABackup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::manifest;

    fn passphrase(text: &str) -> SecretString {
        text.to_owned().into()
    }

    fn written() -> Vec<u8> {
        let (frames, receiver) = mpsc::channel(100);
        // Nothing that can be compressed, so that the file has several of age's chunks; and no newline.
        let noise: Vec<u8> = (0..400_000).map(|_| rand::random::<u8>() | 0x80).collect();
        let all = [
            Frame::Manifest(Box::new(manifest())),
            Frame::Table("users".into()),
            Frame::Rows(b"1\tAnn\n2\tB".to_vec()),
            Frame::Rows(b"ob\n".to_vec()),
            Frame::Table("updates".into()),
            Frame::Rows(noise),
            Frame::Rows(b"\n".to_vec()),
            Frame::Table("links".into()),
            Frame::End,
        ];
        for frame in all {
            frames.try_send(frame).expect("room");
        }
        let (bytes, counts) = write(vec![], &passphrase("correct horse"), receiver).expect("writes");
        assert_eq!(counts, Counts::from([("users".into(), 2), ("updates".into(), 1), ("links".into(), 0)]));
        bytes
    }

    fn read_all(bytes: &[u8], words: &str) -> Result<(Counts, bool), FileError> {
        let mut ended = false;
        let counts = read(bytes, &passphrase(words), |frame| {
            ended = matches!(frame, Frame::End);
            Ok(())
        });
        counts.map(|counts| (counts, ended))
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_shows_nothing_of_what_is_in_it() {
        let bytes = written();
        let (counts, ended) = read_all(&bytes, "correct horse").expect("reads");
        assert!(ended && counts["users"] == 2, "{counts:?}");
        for secret in [&b"Ann"[..], b"correct horse", b"users", b"cw_0x689"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }

    #[test]
    fn another_passphrase_and_other_files_are_refused() {
        assert!(matches!(read_all(&written(), "correct horsf"), Err(FileError::WrongPassphrase)));
        assert!(matches!(read_all(b"PGDMP", "correct horse"), Err(FileError::NotABackup)));
        assert!(matches!(read_all(b"", "correct horse"), Err(FileError::NotABackup)));
    }

    #[test]
    fn a_file_that_was_cut_or_altered_anywhere_is_refused() {
        let bytes = written();
        let body = 300;
        // Also between two of age's chunks of 64 KiB and a tag each, and just before the end.
        let chunk = 65_536 + 16;
        let head = bytes.len() % chunk;
        assert!(bytes.len() > head + 2 * chunk);
        for cut in [body, bytes.len() / 2, head, head + chunk, head + 2 * chunk, bytes.len() - 17, bytes.len() - 1] {
            let read = read_all(&bytes[..cut], "correct horse");
            assert!(matches!(read, Err(FileError::Damaged(_))), "cut at {cut}: {read:?}");
        }
        for at in [body, bytes.len() / 2, bytes.len() - 1] {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let read = read_all(&altered, "correct horse");
            assert!(matches!(read, Err(FileError::Damaged(_))), "altered at {at}: {read:?}");
        }
        let longer = [bytes, b"x".to_vec()].concat();
        assert!(matches!(read_all(&longer, "correct horse"), Err(FileError::Damaged(_))));
    }

    #[test]
    fn a_writer_that_is_given_up_leaves_no_whole_file() {
        let (frames, receiver) = mpsc::channel(10);
        frames.try_send(Frame::Manifest(Box::new(manifest()))).expect("room");
        drop(frames);
        assert!(matches!(write(vec![], &passphrase("x"), receiver), Err(FileError::Abandoned)));
    }
}
