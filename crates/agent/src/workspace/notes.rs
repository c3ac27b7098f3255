//! Memory as text: what of a file is shown, how a fact is written down, and what fits a search.

use super::text::one_line;
use chrono::NaiveDate;

/// Characters of one fact.
pub const MAX_FACT: usize = 2_000;
/// Lines that one file gives to a search.
const MAX_LINES: usize = 8;
/// Characters of such a line.
const MAX_LINE: usize = 300;

/// The file of lasting facts.
pub const MEMORY: &str = "memory/MEMORY.md";

/// The notes of a day.
pub fn daily(day: NaiveDate) -> String {
    day.format("memory/%Y-%m-%d.md").to_string()
}

/// The day of a file's name below `memory/`, if it is notes of a day.
pub fn day_of(name: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(name.strip_suffix(".md")?, "%Y-%m-%d").ok()
}

/// A fact as it is written down: one line, and without what would make it look like something else.
pub fn bullet(day: NaiveDate, text: &str) -> Option<String> {
    let text = one_line(text.trim().trim_start_matches(['-', '*', '#', ' ']), MAX_FACT);
    (!text.is_empty()).then(|| format!("- {}: {text}\n", day.format("%Y-%m-%d")))
}

/// Whether a file says a bullet's text already, on whatever day, in whatever case.
pub fn says(file: &str, bullet: &str) -> bool {
    let wanted = plain(bullet);
    file.lines().any(|line| plain(line) == wanted)
}

/// A line without its bullet and date, its spaces, marks and case.
fn plain(line: &str) -> String {
    let line = line.trim().trim_start_matches(['-', '*', ' ']);
    let undated = match line.split_once(':') {
        Some((date, text)) if NaiveDate::parse_from_str(date.trim(), "%Y-%m-%d").is_ok() => text,
        _ => line,
    };
    let words: Vec<String> =
        undated.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    words.join(" ")
}

/// Text of a file, with the bytes of it that are shown: the beginning, where headings are, and the end, where the newest is.
pub fn excerpt(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.len() <= max {
        return text.into_owned();
    }
    let head = text.floor_char_boundary(max / 4);
    let tail = text.ceil_char_boundary(text.len() - max * 3 / 4);
    format!(
        "{}\n[… {} bytes are not shown here; read the file, and tidy it up …]\n{}",
        &text[..head],
        tail - head,
        &text[tail..]
    )
}

/// The words that a search looks for.
pub fn words(query: &str) -> Vec<String> {
    query
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(12)
        .map(str::to_lowercase)
        .collect()
}

/// The lines of a file that hold most of the words, best first, those of equal worth in their order.
pub fn matching(file: &str, words: &[String]) -> Vec<String> {
    let mut found: Vec<(usize, &str)> = file
        .lines()
        .map(|line| {
            let lower = line.to_lowercase();
            (words.iter().filter(|word| lower.contains(word.as_str())).count(), line)
        })
        .filter(|(count, _)| *count > 0)
        .collect();
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    found.into_iter().take(MAX_LINES).map(|(_, line)| one_line(line, MAX_LINE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, 23).expect("a date")
    }

    #[test]
    fn a_fact_is_one_dated_line() {
        assert_eq!(bullet(day(), "- likes\ntea ").as_deref(), Some("- 2026-11-23: likes tea\n"));
        assert_eq!(
            bullet(day(), "# x\n\n## Your instructions").as_deref(),
            Some("- 2026-11-23: x ## Your instructions\n")
        );
        assert_eq!(bullet(day(), " \n - "), None);
        assert!(bullet(day(), &"x".repeat(100_000)).is_some_and(|line| line.len() < MAX_FACT + 30));
    }

    #[test]
    fn the_same_fact_is_known_on_another_day_and_in_other_case() {
        let file = "# Facts\n- 2026-01-02: Likes tea.\n* lives in Lyon\n";
        assert!(says(file, "- 2026-11-23: likes TEA\n") && says(file, "- 2026-11-23: Lives in Lyon.\n"));
        assert!(!says(file, "- 2026-11-23: likes coffee\n") && !says("", "- 2026-11-23: likes coffee\n"));
    }

    #[test]
    fn an_excerpt_shows_both_ends_and_says_that_it_is_one() {
        assert_eq!(excerpt(b"whole", 100), "whole");
        let text = format!("# Facts\n{}- newest", "ä\n".repeat(50_000));
        let shown = excerpt(text.as_bytes(), 1_000);
        assert!(shown.starts_with("# Facts") && shown.ends_with("- newest") && shown.len() < 1_200);
        assert!(shown.contains("not shown"));
        assert!(excerpt(&[0xff; 5_000], 1_000).contains("not shown"));
    }

    #[test]
    fn a_search_finds_lines_by_their_words() {
        let file = "- likes green tea\n- drinks coffee\n- tea at five";
        assert_eq!(matching(file, &words("GREEN tea!")), ["- likes green tea", "- tea at five"]);
        assert_eq!(matching(file, &words("\"(*")), Vec::<String>::new());
        assert_eq!(matching(&"tea\n".repeat(1_000), &words("tea")).len(), MAX_LINES);
    }

    #[test]
    fn notes_are_named_by_their_day() {
        assert_eq!(daily(day()), "memory/2026-11-23.md");
        assert_eq!(day_of("2026-11-23.md"), Some(day()));
        assert_eq!(day_of("MEMORY.md"), None);
    }
}
