//! Who signed: Ethereum's personal messages and ES256. Written apart from the client's crates on purpose, so that a mistake
//! there is found here.

use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use p256::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256};
use sha3::Keccak256;

/// SHA-256 in hexadecimal: an item hash.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The address, `0x` and 40 lower-case digits, that signed `message` as a personal message
/// (<https://eips.ethereum.org/EIPS/eip-191>, version 0x45). None if `signature` (65 bytes in hexadecimal) is none.
pub fn eip191_signer(message: &[u8], signature: &str) -> Option<String> {
    let bytes = hex::decode(signature.strip_prefix("0x").unwrap_or(signature)).ok()?;
    let (&v, rs) = bytes.split_last()?;
    if rs.len() != 64 {
        return None;
    }
    let recovery = RecoveryId::from_byte(if v >= 27 { v - 27 } else { v })?;
    let mut hash = Keccak256::new();
    hash.update(format!("\x19Ethereum Signed Message:\n{}", message.len()));
    hash.update(message);
    let key = VerifyingKey::recover_from_prehash(&hash.finalize(), &Signature::from_slice(rs).ok()?, recovery).ok()?;
    let point = key.to_encoded_point(false);
    let address = Keccak256::digest(point.as_bytes().get(1..)?);
    Some(format!("0x{}", hex::encode(address.get(12..)?)))
}

/// Whether two addresses are the same; capitals are only a checksum (EIP-55).
pub fn same_address(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Whether `signature` (64 bytes) is ES256 of `message` by the key with these 32-byte coordinates.
pub fn es256_holds(x: &[u8], y: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let mut point = vec![4];
    point.extend_from_slice(x);
    point.extend_from_slice(y);
    let Ok(key) = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point) else { return false };
    let Ok(signature) = p256::ecdsa::Signature::from_slice(signature) else { return false };
    key.verify(message, &signature).is_ok()
}
