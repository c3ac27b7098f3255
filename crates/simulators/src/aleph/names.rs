//! The gateway's names: four words for an instance.

/// The top 44 bits of an item hash as four words of BIP-39's English list, joined by `-`. None if it is no hash.
pub fn words(item_hash: &str) -> Option<String> {
    let top = u64::from_str_radix(item_hash.get(..11)?, 16).ok()?;
    let list = bip39::Language::English.word_list();
    let word = |shift: u32| list.get(usize::try_from((top >> shift) & 0x7ff).ok()?).copied();
    Some([word(33)?, word(22)?, word(11)?, word(0)?].join("-"))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn the_first_and_the_last_words_of_the_list_are_at_both_ends() {
        assert_eq!(words(&"0".repeat(64)).as_deref(), Some("abandon-abandon-abandon-abandon"));
        assert_eq!(words(&"f".repeat(64)).as_deref(), Some("zoo-zoo-zoo-zoo"));
        // 11 bits each, the highest first: 0, 1, 2, 3.
        let hash = format!("{:011x}{}", (1_u64 << 22) | (2 << 11) | 3, "0".repeat(53));
        assert_eq!(words(&hash).as_deref(), Some("abandon-ability-able-about"));
        assert_eq!(words("not hexadecimal"), None);
    }
}
