use std::time::{Duration, Instant};

use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use super::EntityKind::*;
use super::*;

fn entity(kind: EntityKind, offset: usize, length: usize) -> Entity {
    Entity { kind, offset, length, url: None, language: None }
}

fn link(offset: usize, length: usize, url: &str) -> Entity {
    Entity { url: Some(url.into()), ..entity(TextLink, offset, length) }
}

fn pre(offset: usize, length: usize, language: &str) -> Entity {
    Entity { language: Some(language.into()), ..entity(Pre, offset, length) }
}

fn formatted(text: &str, entities: &[Entity]) -> Formatted {
    Formatted { text: text.into(), entities: entities.into() }
}

#[track_caller]
fn check(markdown: &str, text: &str, entities: &[Entity]) {
    assert_eq!(render(markdown), formatted(text, entities), "of {markdown:?}");
}

#[test]
fn inline_formatting_becomes_entities() {
    check("plain", "plain", &[]);
    check(
        "*i* **b** ~~s~~ `c`",
        "i b s c",
        &[entity(Italic, 0, 1), entity(Bold, 2, 1), entity(Strikethrough, 4, 1), entity(Code, 6, 1)],
    );
    check("***both***", "both", &[entity(Bold, 0, 4), entity(Italic, 0, 4)]);
    check("**a *b* c**", "a b c", &[entity(Bold, 0, 5), entity(Italic, 2, 1)]);
    check("**a __b__ c**", "a b c", &[entity(Bold, 0, 5)]);
    check("**open", "**open", &[]);
    check("a\nb  \nc", "a\nb\nc", &[]);
    check("&lt;b&gt; &#1;&#0;", "<b> \u{fffd}", &[]);
}

#[test]
fn offsets_count_utf16_units() {
    check("👍 **ß👩‍👩‍👧** `x`", "👍 ß👩‍👩‍👧 x", &[entity(Bold, 3, 9), entity(Code, 13, 1)]);
}

#[test]
fn code_ends_the_entities_around_it() {
    check("**use `x` now**", "use x now", &[entity(Bold, 0, 4), entity(Code, 4, 1), entity(Bold, 5, 4)]);
    check("[`x` y](https://a.b)", "x y", &[link(0, 3, "https://a.b")]);
    check("||a `x`||", "a x", &[entity(Spoiler, 0, 3)]);
    check("> a `x`", "a x", &[entity(Blockquote, 0, 3)]);
    check(
        "> a\n> ```\n> x\n> ```\n> b",
        "a\n\nx\n\nb",
        &[entity(Blockquote, 0, 1), entity(Pre, 3, 1), entity(Blockquote, 6, 1)],
    );
}

#[test]
fn code_blocks_keep_their_text_and_language() {
    check("```rust\nfn f() {\n    x\n}\n```\nend", "fn f() {\n    x\n}\n\nend", &[pre(0, 16, "rust")]);
    check("```python title=\"a\"\nx\n```", "x", &[pre(0, 1, "python")]);
    check("``` <script>\nx\n```", "<script>\n\nx", &[entity(Pre, 10, 1)]);
    check("```python app.py\nx\n```", "app.py\n\nx", &[pre(8, 1, "python")]);
    check("```{.rs}\nx\n```", "x", &[entity(Pre, 0, 1)]);
    check("a\n\n    x\n    y", "a\n\nx\ny", &[entity(Pre, 3, 3)]);
    check("```\n**x** <b>\n```", "**x** <b>", &[entity(Pre, 0, 9)]);
}

#[test]
fn an_unfinished_stream_renders_as_far_as_it_goes() {
    check("```rust\nfn main", "fn main", &[pre(0, 7, "rust")]);
    check("so `x", "so `x", &[]);
    check("a [b](http", "a [b](http", &[]);
    check("```", "```", &[]);
    check("#", "#", &[]);
    check("", "", &[]);
}

#[test]
fn a_growing_text_shows_no_half_marks() {
    let cases = [
        ("a **bo", "a bo", vec![entity(Bold, 2, 2)]),
        ("a **bo*", "a bo", vec![entity(Bold, 2, 2)]),
        ("a **", "a", vec![]),
        ("**a *b", "a b", vec![entity(Bold, 0, 3), entity(Italic, 2, 1)]),
        ("so `x", "so x", vec![entity(Code, 3, 1)]),
        ("a ||b", "a b", vec![entity(Spoiler, 2, 1)]),
        ("a [b](https://x", "a b", vec![]),
        ("a ![b", "a b", vec![]),
        ("2 * 3, 5*3, ~5", "2 * 3, 5*3, ~5", vec![]),
        ("a\n-", "a", vec![]),
        ("a\n\n|b|c|\n|-", "a", vec![]),
        ("|b|\n|-|\n|1|\n|2", "b\n─\n1", vec![entity(Pre, 0, 5)]),
        ("```rust\n", "", vec![]),
        ("```rust\nx\n``", "x", vec![pre(0, 1, "rust")]),
        ("- a\n- [", "• a", vec![]),
        ("a &am", "a", vec![]),
    ];
    for (markdown, text, entities) in cases {
        let wanted: Vec<_> =
            Some(formatted(text, &entities)).filter(|wanted| !wanted.text.is_empty()).into_iter().collect();
        assert_eq!(growing(markdown), wanted, "of {markdown:?}");
    }
}

#[test]
fn headings_are_bold_and_rules_are_lines() {
    check(
        "# A *b*\ntext\n\n---\nmore",
        "A b\n\ntext\n\n──────────\n\nmore",
        &[entity(Bold, 0, 3), entity(Italic, 2, 1)],
    );
}

#[test]
fn lists_keep_their_numbers_and_indentation() {
    check("- a\n- b\n  - c\n    d\n- e", "• a\n• b\n  • c\n    d\n• e", &[]);
    check("x\n\n9. a\n10. **b**\n\n    c", "x\n\n9. a\n\n10. b\n\n    c", &[entity(Bold, 13, 1)]);
    check("- [x] a\n- [ ] b", "☑ a\n☐ b", &[]);
    check("7. [x] a", "7. ☑ a", &[]);
    check("-\n- a", "• \n• a", &[]);
    check("- ```\n  x\n  ```\n- y", "• \nx\n\n• y", &[entity(Pre, 3, 1)]);
    check("- a\n\n  ```\n  x\n  ```", "• a\n\nx", &[entity(Pre, 5, 1)]);
}

#[test]
fn quotes_are_flat() {
    check("> a\n> > b\n\nc", "a\n\nb\n\nc", &[entity(Blockquote, 0, 4)]);
    check("> **a** b", "a b", &[entity(Blockquote, 0, 3), entity(Bold, 0, 1)]);
    check("- > a\n- b", "• \n  a\n\n• b", &[entity(Blockquote, 5, 1)]);
}

#[test]
fn links_lead_to_safe_places_only() {
    check("[a](https://x.y/?q=1#f)", "a", &[link(0, 1, "https://x.y/?q=1#f")]);
    check("[a](tg://user?id=1) <m@x.y>", "a m@x.y", &[link(0, 1, "tg://user?id=1"), link(2, 5, "mailto:m@x.y")]);
    check("[a](javascript:alert(1))", "a (javascript:alert(1))", &[]);
    check("[a](out/b.pdf) [out/c](out/c)", "a (out/b.pdf) out/c", &[]);
    check("[](https://x.y)", "https://x.y", &[link(0, 11, "https://x.y")]);
    check("[a](http://)", "a (http://)", &[]);
    check("![alt](https://x.y/i.png)", "alt", &[link(0, 3, "https://x.y/i.png")]);
    check("![](https://x.y/i.png)", "image", &[link(0, 5, "https://x.y/i.png")]);
    check("[![alt](https://i)](https://x)", "alt", &[link(0, 3, "https://x")]);
}

#[test]
fn link_definitions_are_never_lost() {
    check("see [1]\n\n[1]: https://x.y", "see 1", &[link(4, 1, "https://x.y")]);
    check("see\n\n[1]: https://x.y\n[2]: https://z", "see\n\n[1]: https://x.y\n[2]: https://z", &[]);
}

#[test]
fn tables_are_aligned_monospaced_text() {
    check(
        "|Name|Size|\n|:--|--:|\n|`a`|1|\n|日本 [l](https://x)|22|\n|c|",
        "Name                Size\n──────────────────  ────\na                      1\n日本 l (https://x)    22\nc",
        &[entity(Pre, 0, 99)],
    );
}

#[test]
fn wide_tables_are_records() {
    check(
        "|Name|Known for|\n|-|-|\n|Ada|notes on the **analytical** engine and a `program`|\n||nothing|\n|Bob|",
        "• Name: Ada\n  Known for: notes on the analytical engine and a program\n• Known for: nothing\n• Name: Bob",
        &[entity(Bold, 8, 3), entity(Bold, 38, 10), entity(Code, 62, 7), entity(Bold, 99, 3)],
    );
}

#[test]
fn what_a_table_has_no_place_for_is_kept() {
    check("|a|b|\n|-|-|\n|1|2|3|*4*|", "a  b\n─  ─\n1  2  3|*4*", &[entity(Pre, 0, 21)]);
    check("|a|b|\n|-|-|\n|1<br>2|3|", "a    b\n───  ─\n1 2  3", &[entity(Pre, 0, 20)]);
}

#[test]
fn html_is_shown() {
    check("a <b>c</b> <!-- d -->", "a <b>c</b> <!-- d -->", &[]);
    check("<div>\n<p>x</p>\n</div>\n\ny", "<div>\n<p>x</p>\n</div>\n\ny", &[]);
}

#[test]
fn spoilers_pair_up_inside_one_element() {
    check("a ||b *c*|| d", "a b c d", &[entity(Spoiler, 2, 3), entity(Italic, 4, 1)]);
    check("a || b || c, x||y||z", "a || b || c, x||y||z", &[]);
    check("*a ||b* c||", "a ||b c||", &[entity(Italic, 0, 5)]);
    check("\\||a|| `||b||`", "||a|| ||b||", &[entity(Code, 6, 5)]);
    check("||a\n\nb||", "||a\n\nb||", &[]);
    check("||a|| ||b||", "a b", &[entity(Spoiler, 0, 1), entity(Spoiler, 2, 1)]);
}

#[test]
fn control_characters_are_removed() {
    check("a\0b\u{1b}[1m\u{85}c\r\nd\re\tf", "ab[1mc\nd\ne\tf", &[]);
}

#[test]
fn entities_serialise_as_the_bot_api_has_them() {
    let rendered = render("[a](https://x) `b`\n```rs\nc\n```");
    assert_eq!(
        serde_json::to_value(&rendered.entities).unwrap(),
        serde_json::json!([
            {"type": "text_link", "offset": 0, "length": 1, "url": "https://x"},
            {"type": "code", "offset": 2, "length": 1},
            {"type": "pre", "offset": 5, "length": 1, "language": "rs"},
        ])
    );
}

#[test]
fn a_cut_prefers_paragraphs_then_lines_then_words() {
    let texts = |text: &str, limit| split(formatted(text, &[]), limit).into_iter().map(|p| p.text).collect::<Vec<_>>();
    assert_eq!(texts("aaa bbb\n\nccc\nddd eee", 13), ["aaa bbb", "ccc\nddd eee"]);
    assert_eq!(texts("aaa bbb\nccc ddd", 14), ["aaa bbb", "ccc ddd"]);
    assert_eq!(texts("aaa bbb ccc", 10), ["aaa bbb", "ccc"]);
    assert_eq!(texts("aaa bbb ccc", 7), ["aaa bbb", "ccc"]);
    assert_eq!(texts("abcdef", 4), ["abcd", "ef"]);
    assert_eq!(texts("a👍👍", 4), ["a👍", "👍"]);
    assert_eq!(texts("ab👩‍👩‍👧c", 9), ["ab", "👩‍👩‍👧c"]);
    assert_eq!(texts(" \n ", 4), [""; 0]);
    assert_eq!(texts("\u{200b}\u{2800}", 4), [""; 0]);
}

#[test]
fn an_entity_goes_on_in_the_next_part() {
    assert_eq!(
        split(render("```rs\naaa\nbbb\nccc\n```"), 8),
        [formatted("aaa\nbbb", &[pre(0, 7, "rs")]), formatted("ccc", &[pre(0, 3, "rs")]),]
    );
    assert_eq!(
        split(render("**aaa bbb *ccc***"), 8),
        [formatted("aaa bbb", &[entity(Bold, 0, 7)]), formatted("ccc", &[entity(Bold, 0, 3), entity(Italic, 0, 3)]),]
    );
}

#[test]
fn more_than_a_hundred_entities_go_into_several_messages() {
    let parts = messages(&"`a` ".repeat(250));
    assert!(parts.iter().all(|part| part.entities.len() <= ENTITY_LIMIT));
    assert_eq!(parts.iter().map(|part| part.entities.len()).sum::<usize>(), 250);
}

#[test]
fn a_caption_fits_or_is_a_message_of_its_own() {
    assert_eq!(caption("a *plan*"), Some(formatted("a plan", &[entity(Italic, 2, 4)])));
    assert_eq!(caption(" \n"), Some(Formatted::default()));
    assert_eq!(caption(&"👍".repeat(512)).map(|c| utf16_len(&c.text)), Some(CAPTION_LIMIT));
    assert_eq!(caption(&"👍".repeat(513)), None);
    assert_eq!(caption(&"`a` ".repeat(101)), None);
}

#[test]
fn hostile_inputs_take_linear_time() {
    let cases = [
        "x".repeat(300_000),
        "\u{301}".repeat(100_000),
        "👩‍👩‍👧".repeat(10_000),
        ">".repeat(100_000),
        format!("{}a\nb\nc", "> ".repeat(10_000)),
        "*".repeat(100_000),
        "*a ".repeat(50_000),
        "a**b".repeat(30_000),
        "_a __b ".repeat(20_000),
        "[".repeat(100_000),
        "![".repeat(50_000),
        "[a](".repeat(30_000),
        "`".repeat(100_000),
        (1..400).map(|n| format!("{} ", "`".repeat(n))).collect(),
        "- ".repeat(10_000) + "a",
        (0..300).map(|n| format!("{}- a\n", "  ".repeat(n))).collect(),
        "||a|| ".repeat(30_000),
        "||a ".repeat(30_000),
        "<a ".repeat(50_000),
        "<!--".repeat(30_000),
        "&".repeat(100_000),
        "~~a".repeat(30_000),
        format!("{}\n{}\n{}", "|a".repeat(5_000), "|-".repeat(5_000), "|b\n".repeat(1_000)),
        "[a]: https://x\n".repeat(10_000),
        (0..20_000).map(|n| format!("[{n}]: https://x/{n}\n")).collect(),
        "`a` ".repeat(50_000),
        "a\n\n".repeat(50_000),
    ];
    for case in cases {
        let start = Instant::now();
        let parts = messages(&case);
        // Quadratic time would be many minutes here; the bound leaves room for a slow, busy machine.
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}… took {:?}", &case[..8], start.elapsed());
        check_parts(&parts);
        let start = Instant::now();
        check_parts(&growing(&case));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}… took {:?}", &case[..8], start.elapsed());
    }
}

#[track_caller]
fn check_parts(parts: &[Formatted]) {
    for part in parts {
        check_formatted(part);
        assert!(utf16_len(&part.text) <= MESSAGE_LIMIT && !part.text.is_empty());
        assert!(part.entities.len() <= ENTITY_LIMIT);
    }
}

#[track_caller]
fn check_formatted(formatted: &Formatted) {
    assert_eq!(formatted.text, formatted.text.trim());
    assert!(formatted.text.chars().all(is_allowed));
    let mut boundaries = vec![0];
    for c in formatted.text.chars() {
        boundaries.push(boundaries[boundaries.len() - 1] + c.len_utf16());
    }
    let mut open: Vec<&Entity> = Vec::new();
    for entity in &formatted.entities {
        assert!(entity.length > 0);
        assert!(boundaries.binary_search(&entity.offset).is_ok() && boundaries.binary_search(&entity.end()).is_ok());
        while open.last().is_some_and(|outer| outer.end() <= entity.offset) {
            open.pop();
        }
        for outer in &open {
            assert!(entity.end() <= outer.end(), "{outer:?} and {entity:?} cross");
            assert!(entity.kind != outer.kind, "{outer:?} holds {entity:?}");
            assert!(![outer.kind, entity.kind].iter().any(|k| matches!(k, Pre | Code)), "{outer:?} holds {entity:?}");
        }
        open.push(entity);
    }
}

fn without_space(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Pieces that mean something to the parser, mixed with any characters.
fn markup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "*",
            "**",
            "_",
            "__",
            "~~",
            "||",
            "`",
            "```",
            "```rs\n",
            "\n",
            "\n\n",
            "> ",
            "- ",
            "1. ",
            "  ",
            "    ",
            "# ",
            "[",
            "](https://x)",
            "](y)",
            "![",
            "<b>",
            "<https://x>",
            "|a|b|\n|-|-|\n|c|d|\n",
            "---\n",
            "- [ ] ",
            "\\",
            "&amp;",
            "[a]: https://y\n",
            "\t",
            "👍",
            "👩‍👩‍👧",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4} ?",
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn text_without_markup_survives(words in proptest::collection::vec("[a-zA-Zéß日👍]{1,9}[,.!?]?", 1..40)) {
        let text = words.join(" ");
        prop_assert_eq!(render(&text), formatted(&text, &[]));
    }

    #[test]
    fn any_input_renders_to_valid_entities(markdown in markup()) {
        check_formatted(&render(&markdown));
        check_parts(&messages(&markdown));
        check_parts(&growing(&markdown));
    }

    #[test]
    fn parts_keep_the_limit_and_every_character(markdown in markup(), limit in 2usize..60) {
        let whole = render(&markdown);
        let parts = split(whole.clone(), limit);
        for part in &parts {
            check_formatted(part);
            prop_assert!(utf16_len(&part.text) <= limit);
        }
        let joined: String = parts.iter().map(|part| part.text.as_str()).collect();
        // A part without ink is no message; the whole is compared where there is none.
        if !whole.text.contains(|c: char| !c.is_alphanumeric() && !c.is_ascii()) {
            prop_assert_eq!(without_space(&joined), without_space(&whole.text));
        }
    }

    #[test]
    fn clusters_stay_whole(count in 1usize..40, limit in 11usize..40) {
        let whole = "👩‍👩‍👧".repeat(count);
        for part in split(formatted(&whole, &[]), limit) {
            prop_assert!(part.text.graphemes(true).all(|cluster| cluster == "👩‍👩‍👧"));
        }
    }
}
