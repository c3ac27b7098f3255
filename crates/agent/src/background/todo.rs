//! Whether a HEARTBEAT.md holds anything to do.

/// Whether there is more than headings, comments, blank lines, and checkboxes that are empty or ticked.
pub fn has_something_to_do(text: &str) -> bool {
    without_comments(text).lines().any(is_something)
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some((before, comment)) = rest.split_once("<!--") {
        kept += before;
        // One that is never closed goes to the end, as in HTML.
        rest = comment.split_once("-->").map_or("", |(_, after)| after);
    }
    kept + rest
}

fn is_something(line: &str) -> bool {
    let line = line.trim();
    if line.starts_with('#') || line.chars().all(|c| "-=*_`~ ".contains(c)) {
        return false;
    }
    let item = line.strip_prefix(['-', '*', '+']).map_or(line, str::trim_start);
    match item.split_once(']') {
        Some(("[x" | "[X", _)) => false,
        Some(("[ " | "[", task)) => !task.trim().is_empty(),
        _ => !item.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_headings_comments_and_empty_boxes_holds_nothing() {
        for text in [
            "",
            "\n \n",
            "# Heartbeat\n\n## Every day\n",
            "<!-- write tasks\nhere -->\n# Tasks\n- [ ]\n* [ ] \n-\n---\n",
            "# A\n<!-- never closed\n- water the plants",
            "- [x] done\n- [X] done too",
            "```\n```",
        ] {
            assert!(!has_something_to_do(text), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_something_to_do() {
        for text in [
            "water the plants",
            "# Tasks\n- [ ] water the plants",
            "- look at the news",
            "<!-- a --> water <!-- b -->",
            "- [x] done\n- [ ] not done",
            "[a link](https://example.org)",
            "1. one",
        ] {
            assert!(has_something_to_do(text), "{text:?}");
        }
    }
}
