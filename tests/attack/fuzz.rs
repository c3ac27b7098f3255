//! Everything that reads what people type, on any input: it never panics, and what it promises holds.
//!
//! proptest rather than a coverage-guided fuzzer: it shrinks, and it runs on the stable compiler in every test run.

use std::time::{Duration, Instant};

use baal::agents::opening::Payload;
use baal::telegram::callback::Press;
use baal::telegram::content;
use baal::telegram::markdown::{self, CAPTION_LIMIT, ENTITY_LIMIT, Formatted, MESSAGE_LIMIT, utf16_len};
use baal::telegram::update;
use baal::turns::request::{self, Part, Request};
use proptest::prelude::*;
use proptest::test_runner::Config;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::{corpus, counted, mutate, scaled};

fn config(cases: usize) -> Config {
    Config { cases: scaled(cases) as u32, failure_persistence: None, ..Config::default() }
}

/// What presses, payloads and Markdown are made of, with anything in between.
fn words(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    let piece =
        prop_oneof![4 => prop::sample::select(pieces).prop_map(str::to_owned), 1 => ".{0,6}", 1 => "[0-9-]{1,20}"];
    prop::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

const PRESSES: &[&str] = &[
    ":",
    "create",
    "list",
    "help",
    "chat",
    "manage",
    "delete",
    "delete!",
    "keep",
    "retry",
    "repair",
    "repair!",
    "anew",
    "anew!",
    "update",
    "again",
    "stop",
    "new!",
    "keepchat",
    "soul",
    "show",
    "edit",
    "undo",
    "s",
    "open",
    "for",
    "public",
    "private",
    "unlisted",
    "new",
    "link",
    "tools",
    "day",
    "end",
    "name",
    "qr",
    "revoke",
    "revoke!",
    "all",
    "who",
    "in",
    "no",
    "block",
    "unblock",
    "me",
    "login",
    "logout?",
    "logout",
    "redeploy",
    "forget?",
    "forget",
    "cancel",
    "o",
    "dashboard",
    "pool",
    "d",
    "9223372036854775807",
    "-9223372036854775808",
    "ffffffffffffffffffffffffffffffff",
    "+1",
    "\0",
];

const MARKS: &[&str] = &[
    "*",
    "**",
    "_",
    "__",
    "***",
    "~~",
    "||",
    "`",
    "```",
    "```rust\n",
    "\n",
    "\n\n",
    "> ",
    ">>",
    "- ",
    "1. ",
    "# ",
    "[",
    "](",
    ")",
    "![",
    "](x)",
    "[x]: y\n",
    "| a | b |\n|---|---|\n",
    "|",
    "\\",
    "&amp;",
    "&#0;",
    "&#xd800;",
    "<b>",
    "<!--",
    "-->",
    "http://a",
    "👩‍👩‍👧",
    "𝕏",
    "e\u{301}",
    "\u{200b}",
    "\u{202e}",
    "\u{0}",
    "\r",
    "\t",
    " ",
    "    ",
    "a",
    "word ",
    "- [ ] ",
    "---\n",
    "$$",
    "🇩🇪",
    "\u{e0001}",
    "\u{fffc}",
];

/// What Telegram would refuse, or show differently.
fn is_sound(parts: &[Formatted], limit: usize) -> Result<(), TestCaseError> {
    for Formatted { text, entities } in parts {
        let units: Vec<u16> = text.encode_utf16().collect();
        prop_assert!(!text.is_empty() && units.len() <= limit && text.trim() == text, "{text:?}");
        prop_assert!(!text.contains('\0'));
        prop_assert!(entities.len() <= ENTITY_LIMIT, "{} entities", entities.len());
        for entity in entities {
            prop_assert!(entity.length > 0 && entity.end() <= units.len(), "{entity:?} of {}", units.len());
            let whole = String::from_utf16(&units[entity.offset..entity.end()]);
            prop_assert!(whole.is_ok(), "{entity:?} cuts a surrogate pair of {text:?}");
        }
        prop_assert!(entities.is_sorted_by_key(|entity| entity.offset));
    }
    Ok(())
}

#[test]
fn markdown_becomes_messages_that_telegram_takes_whatever_it_is() {
    proptest!(config(300), |(markdown in words(MARKS, 120), times in 1usize..40)| {
        let markdown = markdown.repeat(if markdown.len() < 300 { times } else { 1 });
        is_sound(&markdown::messages(&markdown), MESSAGE_LIMIT)?;
        is_sound(&markdown::growing(&markdown), MESSAGE_LIMIT)?;
        if let Some(caption) = markdown::caption(&markdown) {
            prop_assert!(utf16_len(&caption.text) <= CAPTION_LIMIT);
        }
        // Smaller messages are cut more often: every cut is between characters.
        let rendered = markdown::render(&markdown);
        for limit in [2, 3, 7, 64] {
            is_sound(&markdown::split(rendered.clone(), limit), limit)?;
        }
    });
    counted("Markdown", format!("{} texts", scaled(300)), "messages that Telegram takes");
}

#[test]
fn markdown_that_is_nested_without_end_takes_no_longer_than_other() {
    let openings = [
        "[", "![", "*a ", "_", "**", "> ", "- ", "`", "```\n", "||", "<", "&", "\\", "[a](", "|a", "# ", "~~x", "<!--",
        "1) ",
    ];
    for opening in openings {
        for markdown in [opening.repeat(6_000), format!("{}x{}", opening.repeat(2_500), "](b)*_**".repeat(2_500))] {
            let began = Instant::now();
            is_sound(&markdown::messages(&markdown), MESSAGE_LIMIT).unwrap();
            is_sound(&markdown::growing(&markdown), MESSAGE_LIMIT).unwrap();
            // Tenths of a second; what is quadratic takes minutes.
            assert!(began.elapsed() < Duration::from_secs(30), "{opening:?} takes {:?}", began.elapsed());
        }
    }
}

#[test]
fn callback_data_is_refused_or_says_the_same_again_within_64_bytes() {
    proptest!(config(20_000), |(data in words(PRESSES, 9))| {
        let Ok(press) = data.parse::<Press>() else { return Ok(()) };
        let button = serde_json::to_value(press.button("x")).unwrap();
        let again = button["callback_data"].as_str().unwrap();
        prop_assert_eq!(again.parse::<Press>(), Ok(press), "{}", again);
        // Telegram lets nobody send more, so no more comes back.
        prop_assert!(data.len() > 64 || again.len() <= 64, "{:?} became {:?}", data, again);
    });
    counted("buttons' data", format!("{} words", scaled(20_000)), "refused, or the same again within 64 bytes");
}

#[test]
fn payloads_of_deep_links_name_something_or_nothing() {
    let payload =
        words(&["agent_", "a_", "i_", "_", "-", "0", "1", "99999999999999999999", "start=", " ", "\0", "\u{661}"], 6);
    proptest!(config(10_000), |(payload in payload)| {
        match Payload::parse(&payload) {
            Some(Payload::Number(number)) => {
                prop_assert!(number >= 0);
                let digits = payload.strip_prefix("agent_").unwrap_or(&payload);
                let number = number.to_string();
                prop_assert_eq!(digits.trim_start_matches('0'), number.trim_start_matches('0'));
            }
            Some(Payload::Token(token)) => prop_assert_eq!(format!("a_{token}"), payload),
            Some(Payload::Invitation(code)) => prop_assert_eq!(format!("i_{code}"), payload),
            None => {}
        }
    });
    counted("payloads of deep links", format!("{} words", scaled(10_000)), "one meaning or none");
}

#[test]
fn any_body_has_one_place_in_the_inbox_and_what_can_be_read_can_be_told_to_an_agent() {
    let corpus = corpus::of(5);
    let cases = scaled(20_000);
    let mut read = 0;
    for seed in 0..cases as u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut update = corpus.choose(&mut rng).unwrap().clone();
        update["update_id"] = seed.into();
        let body = mutate::mutated(&mut rng, &update);
        let place = update::place(&body);
        assert_eq!(place, update::place(&body), "seed {seed}");
        let Ok(update) = update::parse(&body) else {
            assert_eq!(update::chat_of(place.1), None, "seed {seed}");
            continue;
        };
        read += 1;
        assert_eq!(place, (update.update_id, update.chat_id().unwrap_or(place.1)), "seed {seed}");
        let Some(message) = update.message.or(update.edited_message) else { continue };
        let told = content::read(&message);
        if let Some(file) = &told.file {
            let odd = |c: char| c == '/' || c == '\\' || c.is_control();
            assert!(
                !file.name.contains(odd) && !["", ".", ".."].contains(&&*file.name),
                "seed {seed}: {:?}",
                file.name
            );
        }
        let words = Request { message: told.words, name: "M".into(), language_code: None };
        // As the next one's rest, if the client may have cut it.
        let cut = baal::telegram::cut::cut(&message, message.text.as_deref().unwrap_or_default());
        let part = |sent_at| Part {
            request: words.clone(),
            message_id: Some(message.message_id),
            sent_at,
            cut,
            file: told.file.clone(),
        };
        assert!(request::join(vec![part(message.date), part(0), part(i64::MIN), part(i64::MAX)]).is_some());
    }
    assert!(read > cases / 4, "only {read} of {cases} were read: the mutations are too coarse");
    counted("mutated bodies", format!("{cases}, {read} readable"), "one place in the inbox each");
}
