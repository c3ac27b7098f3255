//! A response's body: read up to a limit of bytes, decompressed up to the same limit, and made text by its charset.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use flate2::write::MultiGzDecoder;
use reqwest::{Response, header};
use std::io::{self, Write};

/// Where a page's charset is looked for in its own text, in bytes: the HTML standard's prescan.
const PRESCAN: usize = 1024;

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Compressed in a way that was not asked for.
    #[error("the answer is compressed as {0:?}, which was not asked for")]
    Encoding(String),
    /// Not what its `Content-Encoding` says.
    #[error("the answer says that it is compressed with gzip, but it is not")]
    NotGzip,
    /// The connection broke before its end and nothing had come.
    #[error("the connection broke before the answer came")]
    Broken,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// The decompressed bytes.
    pub bytes: Vec<u8>,
    /// Whether more came, or would have.
    pub cut: bool,
}

/// Reads at most `limit` bytes, before decompression and after.
///
/// # Errors
/// Nothing could be made of it.
pub async fn read(mut response: Response, limit: usize) -> Result<Body, BodyError> {
    let mut body = Decoder::new(content_encoding(&response).as_str(), limit)?;
    let mut received = 0;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                received += chunk.len();
                if !body.take(&chunk)? || received >= limit {
                    return Ok(body.finish(true));
                }
            }
            Ok(None) => return Ok(body.finish(false)),
            Err(_) if received == 0 => return Err(BodyError::Broken),
            // silent-ok: what came before is told as cut
            Err(_) => return Ok(body.finish(true)),
        }
    }
}

fn content_encoding(response: &Response) -> String {
    let value = response.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

enum Decoder {
    Plain(Bounded),
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

impl Decoder {
    fn new(encoding: &str, limit: usize) -> Result<Self, BodyError> {
        let bounded = Bounded { bytes: Vec::new(), limit, full: false };
        match encoding {
            "" | "identity" => Ok(Self::Plain(bounded)),
            "gzip" | "x-gzip" => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(bounded)))),
            other => Err(BodyError::Encoding(other.chars().take(40).collect())),
        }
    }

    /// Whether there is room for more.
    fn take(&mut self, chunk: &[u8]) -> Result<bool, BodyError> {
        match self {
            // silent-ok: the only error is that it is full
            Self::Plain(bounded) => Ok(bounded.write_all(chunk).is_ok()),
            Self::Gzip(gzip) => match gzip.write_all(chunk) {
                Ok(()) => Ok(true),
                Err(_) if gzip.get_ref().full => Ok(false),
                // Rubbish behind the last member is common and harmless.
                Err(_) if !gzip.get_ref().bytes.is_empty() => Ok(false),
                Err(_) => Err(BodyError::NotGzip),
            },
        }
    }

    fn finish(self, cut: bool) -> Body {
        match self {
            Self::Plain(bounded) => Body { cut: cut || bounded.full, bytes: bounded.bytes },
            Self::Gzip(mut gzip) => {
                let whole = gzip.try_finish().is_ok();
                let bounded = std::mem::take(gzip.get_mut());
                Body { cut: cut || bounded.full || !whole, bytes: bounded.bytes }
            }
        }
    }
}

/// Bytes up to a limit; one more is an error, so that a decompressor stops there.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.limit - self.bytes.len();
        if room == 0 && !bytes.is_empty() {
            self.full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes as text, by the first of these that says how: a byte order mark, the `Content-Type`, for HTML the page itself,
/// that they are UTF-8; else windows-1252 as browsers do. Never fails: what fits nothing becomes U+FFFD.
pub fn decode(bytes: &[u8], charset: Option<&str>, is_html: bool) -> String {
    let declared = charset.and_then(|label| Encoding::for_label(label.as_bytes()));
    let encoding = declared.or_else(|| if is_html { prescan(bytes) } else { None }).unwrap_or_else(|| {
        // A cut in the middle of a character does not make it another charset.
        let is_utf8 = match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(e) => e.error_len().is_none() && !bytes[..e.valid_up_to()].is_ascii(),
        };
        if is_utf8 { UTF_8 } else { WINDOWS_1252 }
    });
    encoding.decode(bytes).0.into_owned()
}

/// The charset that a page declares in `<meta charset=…>` or `<meta … content="…; charset=…">`.
fn prescan(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(PRESCAN)]).to_ascii_lowercase();
    let meta = &head[head.find("<meta")?..];
    let value = meta[meta.find("charset")? + "charset".len()..].trim_start().strip_prefix('=')?;
    let value = value.trim_start().trim_start_matches(['"', '\'']);
    let label = value.split(|c: char| c.is_whitespace() || "\"'/>;".contains(c)).next()?;
    // A page that could say so in UTF-16 would not be readable as this.
    Encoding::for_label(label.as_bytes()).map(|found| if found.is_ascii_compatible() { found } else { UTF_8 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_by_whoever_knows_its_charset() {
        let cyrillic = [0xcf, 0xf0, 0xe8];
        assert_eq!(decode(&cyrillic, Some("windows-1251"), false), "При");
        assert_eq!(decode("При".as_bytes(), None, true), "При");
        assert_eq!(decode(&"При".as_bytes()[..5], None, true), "Пр\u{fffd}");
        assert_eq!(decode(b"caf\xe9", None, false), "café");
        assert_eq!(decode(b"\xef\xbb\xbfx", Some("windows-1251"), false), "x");
        assert_eq!(decode(b"\xff\xfeh\0i\0", None, false), "hi");
        assert_eq!(decode(b"<meta charset='koi8-r'>\xf0", None, true), "<meta charset='koi8-r'>П");
        let old = b"<META http-equiv=Content-Type content=\"text/html; charset=Shift_JIS\">\x82\xa0";
        assert!(decode(old, None, true).ends_with('あ'));
        assert_eq!(decode(b"<meta charset=utf-16>x", None, true), "<meta charset=utf-16>x");
        assert_eq!(decode(b"caf\xe9", Some("no-such-charset"), false), "café");
    }
}
