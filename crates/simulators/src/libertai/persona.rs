//! The canned persona: it answers from what the request holds and nothing else, so whoever forgets the history or the
//! system message is found out.

use super::request::Request;
use std::fmt::Write;

/// An answer in Markdown.
pub(super) fn answer(request: &Request) -> String {
    let (name, character) = identity(request);
    let said = request.last_user_message();
    let lower = said.to_lowercase();
    if is_hello(said) {
        return format!("👋 Hello, I am **{name}**. Write to me!");
    }
    // Being asked to say hello is no part of what people said.
    let said_so_far = request.messages.iter().filter(|m| m.role == "user" && !is_hello(&m.text));
    let users: Vec<&str> = said_so_far.map(|m| m.text.as_str()).collect();
    let mut text = String::new();
    if lower.contains("what is my name") || lower.contains("what's my name") {
        text += &match users.iter().rev().find_map(|message| told_name(message)) {
            Some(name) => format!("Your name is **{name}**."),
            None => "You have not told me your name yet.".to_owned(),
        };
    } else if let Some(name) = told_name(said) {
        text += &format!("Nice to meet you, **{name}**. I will remember it.");
    } else {
        text += &format!("You said: “{}”.", shortened(said, 200));
    }
    text += &format!("\n\nI am **{name}**");
    if !character.is_empty() {
        text += &format!(", and this is what I am like: _{}_", shortened(&character, 160).replace('_', " "));
    }
    text += &format!("\n\nThis is message {} of our conversation.", users.len());
    if lower.contains("list") {
        text += "\n\nThree things:\n\n- **one**, the first\n- *two*, the second\n- `three`, the last";
    }
    if lower.contains("code") {
        text += "\n\n```rust\nfn main() {\n    println!(\"hello, world\");\n}\n```";
    }
    if lower.contains("long") {
        text += &long_tale();
    }
    text
}

/// Whether this asks for a first word.
fn is_hello(message: &str) -> bool {
    message.to_lowercase().contains("introduce yourself")
}

/// Name and personality: the first paragraph of the system message, and the one under the heading of the instructions; without
/// such a heading the second one.
fn identity(request: &Request) -> (String, String) {
    let system = request.messages.iter().find(|m| m.role == "system").map_or("", |m| m.text.as_str());
    let mut paragraphs = system.split("\n\n").map(str::trim).filter(|p| !p.is_empty());
    let first = paragraphs.next().unwrap_or_default().lines().next().unwrap_or_default();
    match first.strip_prefix("You are ") {
        Some(name) => {
            let second = paragraphs.next().unwrap_or_default();
            let personality = match system.split_once("\n\n# Your instructions\n\n") {
                Some((_, instructions)) => instructions.split("\n\n").next().unwrap_or_default(),
                None if system.contains("\n\n# ") => "",
                None => second,
            };
            (name.trim_end_matches('.').to_owned(), personality.replace('\n', " "))
        }
        None => ("an assistant".to_owned(), first.to_owned()),
    }
}

fn told_name(message: &str) -> Option<String> {
    let at = message.to_ascii_lowercase().find("my name is ")?;
    let rest = message.get(at + "my name is ".len()..)?;
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
    (!name.is_empty()).then_some(name)
}

fn shortened(text: &str, max: usize) -> String {
    let mut short: String = text.chars().take(max).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// More than 10,000 characters, every paragraph different.
fn long_tale() -> String {
    let mut text = String::new();
    for n in 1.. {
        if text.len() > 10_500 {
            break;
        }
        // silent-ok: writing to a String cannot fail
        let _ = write!(
            text,
            "\n\n**Part {n}.** There was a machine that told a story about a machine that told a story, and in part {n} \
             it had *still* not come to the end, because `n = {n}` was followed by another number, as numbers are."
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::request::Message;
    use super::*;

    fn ask(system: &str, messages: &[(&str, &str)]) -> String {
        let mut all = vec![Message { role: "system".into(), text: system.into() }];
        all.extend(messages.iter().map(|(role, text)| Message { role: (*role).into(), text: (*text).into() }));
        answer(&Request {
            body: serde_json::Value::Null,
            stream: false,
            include_usage: false,
            model: "m".into(),
            messages: all,
        })
    }

    #[test]
    fn two_personalities_answer_differently() {
        let pirate = ask("You are Captain Ada.\n\nYou talk like a pirate.\n\nToday", &[("user", "hello")]);
        assert!(pirate.contains("**Captain Ada**") && pirate.contains("like a pirate") && pirate.contains("“hello”"));
        assert_ne!(pirate, ask("You are Bo.\n\nYou are a monk.", &[("user", "hello")]));
    }

    #[test]
    fn the_personality_is_what_stands_under_its_heading() {
        let system = "You are Ada.\n\nToday is Monday.\n\n# How you work\n- Look.\n\n# Your instructions\n\nYou are\na pirate.\n\n# Skills";
        let answer = ask(system, &[("user", "hello")]);
        assert!(answer.contains("**Ada**") && answer.contains("_You are a pirate._"), "{answer}");
        let plain = ask("You are Ada.\n\nToday is Monday.\n\n# Skills\n- x", &[("user", "hello")]);
        assert!(!plain.contains("what I am like"), "{plain}");
    }

    #[test]
    fn it_remembers_what_the_history_holds() {
        let told = [("user", "Hi, my name is Zoë!"), ("assistant", "hello"), ("user", "what is my name?")];
        assert!(ask("You are A.", &told).contains("**Zoë**"));
        assert!(ask("You are A.", &told).contains("message 2 of"));
        assert!(ask("You are A.", &told[2..]).contains("not told me"));
    }

    #[test]
    fn long_and_code_come_on_demand() {
        assert!(ask("You are A.", &[("user", "something long")]).chars().count() > 10_000);
        assert!(ask("You are A.", &[("user", "show me code")]).contains("```rust\n"));
    }
}
