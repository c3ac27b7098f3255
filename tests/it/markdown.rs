//! What assistants write arrives in the chat whole and as it was meant, and Telegram refuses none of it.

pub(crate) mod corpus;
mod looks;

use std::time::{Duration, Instant};

use baal::telegram::markdown::{self, EntityKind, Formatted};
use baal::telegram::outbox::{self, Call};
use baal::telegram::text::{Place, send_message};
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::harness::Stack;

/// The generated texts; with those of CommonMark, the broken and the long ones they are more than 2,000.
const GENERATED: usize = 1_000;
const BROKEN: u64 = 400;
const SEED: u64 = 1815;

/// All of what is wrong, each with its text.
#[derive(Default)]
struct Wrongs(Vec<String>);

impl Wrongs {
    fn note(&mut self, markdown: &str, found: Result<(), String>) {
        if let Err(what) = found {
            let came = markdown::render(markdown);
            self.0.push(format!("{what}\n── of\n{markdown}\n── came\n{}\n{:?}", came.text, came.entities));
        }
    }
}

impl Drop for Wrongs {
    fn drop(&mut self) {
        if !self.0.is_empty() && !std::thread::panicking() {
            let shortest = self.0.iter().min_by_key(|wrong| wrong.len()).cloned().unwrap_or_default();
            let all: Vec<_> = self.0.iter().filter_map(|wrong| wrong.lines().next()).take(20).collect();
            panic!("{} are wrong:\n{}\nthe shortest: {shortest}", self.0.len(), all.join("\n"));
        }
    }
}

#[test]
fn generated_texts_look_as_they_were_meant() {
    let mut wrongs = Wrongs::default();
    for sample in corpus::samples(SEED, GENERATED) {
        wrongs.note(&sample.markdown, looks::check(&sample, &markdown::render(&sample.markdown)));
    }
}

#[test]
fn broken_texts_lose_no_word() {
    let mut wrongs = Wrongs::default();
    for n in 0..BROKEN {
        let (markdown, words) = corpus::broken(SEED + n);
        wrongs.note(&markdown, looks::check_words(&words, &markdown::render(&markdown)));
    }
}

#[test]
fn specified_texts_show_what_their_html_shows() {
    let mut wrongs = Wrongs::default();
    let examples = corpus::specified();
    assert!(examples.len() > 650, "{} examples", examples.len());
    for (markdown, html) in &examples {
        wrongs.note(markdown, looks::check_html(html, &markdown::render(markdown)));
    }
}

#[test]
fn every_message_of_the_corpus_is_within_telegrams_limits() {
    let texts = corpus::all();
    assert!(texts.len() > 2_000, "{} texts", texts.len());
    let mut wrongs = Wrongs::default();
    for markdown in &texts {
        let started = Instant::now();
        let messages = markdown::messages(markdown);
        if markdown.len() > 90_000 {
            let took = started.elapsed();
            println!("{} kB of {:?}… in {took:?}", markdown.len() / 1000, markdown.chars().take(8).collect::<String>());
        }
        for message in &messages {
            wrongs.note(markdown, looks::check_message(message));
        }
        // Cutting loses nothing but white space.
        let cut: String = messages.iter().map(|message| looks::squeezed(&message.text)).collect();
        let whole = looks::squeezed(&markdown::render(markdown).text);
        wrongs.note(markdown, if cut == whole { Ok(()) } else { Err("the messages are not the text".into()) });
    }
}

#[test]
fn a_text_grows_at_its_end_while_it_is_written() {
    let mut wrongs = Wrongs::default();
    for sample in corpus::samples(SEED * 2, 60).iter().filter(|sample| sample.markdown.len() < 1_500) {
        // A table's columns grow with its rows, and one that becomes too wide is shown otherwise.
        if sample.shown.iter().any(|shown| shown.kinds.is_none()) {
            continue;
        }
        let text = &sample.markdown;
        let last = looks::squeezed(&markdown::render(text).text);
        let spoiled: Vec<_> = sample
            .shown
            .iter()
            .filter(|s| s.kinds.as_ref().is_some_and(|k| k.contains(&EntityKind::Spoiler)))
            .collect();
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            let growing = markdown::growing(&text[..end]);
            for message in &growing {
                wrongs.note(&text[..end], looks::check_message(message));
            }
            let now: String = growing.iter().map(|message| looks::squeezed(&message.text)).collect();
            let grows = if last.starts_with(&now) { Ok(()) } else { Err(format!("{now:?} is no beginning")) };
            wrongs.note(&text[..end], grows);
            let Some(message) = growing.first() else { continue };
            for secret in &spoiled {
                let Some(at) = message.text.find(&secret.text) else { continue };
                let at = markdown::utf16_len(&message.text[..at]);
                let covered =
                    message.entities.iter().any(|e| e.kind == EntityKind::Spoiler && e.offset <= at && at < e.end());
                let hidden = if covered { Ok(()) } else { Err(format!("{:?} is to be seen", secret.text)) };
                wrongs.note(&text[..end], hidden);
            }
        }
    }
}

#[test]
fn any_beginning_of_any_text_can_be_shown() {
    let mut wrongs = Wrongs::default();
    for n in 0..30 {
        let (text, _) = corpus::broken(SEED * 3 + n);
        for end in (0..text.len()).step_by(7).filter(|&end| text.is_char_boundary(end)) {
            for message in markdown::growing(&text[..end]) {
                wrongs.note(&text[..end], looks::check_message(&message));
            }
        }
    }
    for text in corpus::giants() {
        let started = Instant::now();
        let messages = markdown::growing(&text);
        println!("{} messages while it is written in {:?}", messages.len(), started.elapsed());
    }
}

/// What Telegram makes of a text: it shows a tab as a space.
fn kept(text: &str) -> String {
    text.replace('\t', " ")
}

/// The entities that the bot gave, without those that Telegram found itself.
fn given(entities: &[Value]) -> Vec<Value> {
    let found = ["url", "bot_command", "mention", "hashtag", "cashtag", "email", "phone_number"];
    entities.iter().filter(|entity| !found.iter().any(|kind| entity["type"] == *kind)).cloned().collect()
}

/// Addresses are written out by the library that sends them: `https://a.b` as `https://a.b/`.
fn wanted(message: &Formatted) -> Vec<Value> {
    let entities = message.entities.iter().map(|entity| {
        let mut value = serde_json::to_value(entity).unwrap();
        if let Some(url) = &entity.url {
            value["url"] = json!(url.parse::<reqwest::Url>().unwrap().as_str());
        }
        value
    });
    entities.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn telegram_takes_every_text_and_shows_all_of_it() {
    const CHATS: usize = 50;
    let stack = Stack::builder().patience(Duration::from_secs(120)).start().await;
    let mut before = Vec::new();
    for user in 1..=CHATS as i64 {
        before.push(stack.user(user).asks("/start", "Hello").await.message_id);
    }
    let bot_id: i64 = stack.simulator.bot_token().split(':').next().unwrap().parse().unwrap();
    let texts = corpus::all();
    let chats: Vec<Vec<Formatted>> = (0..CHATS)
        .map(|chat| texts.iter().skip(chat).step_by(CHATS).flat_map(|text| markdown::messages(text)).collect())
        .collect();
    let mut tx = stack.db.begin().await.unwrap();
    for (index, messages) in chats.iter().enumerate() {
        let place = Place { bot_id, chat_id: index as i64 + 1, thread_id: None };
        for message in messages {
            let call = Call::reply(bot_id, place.chat_id, &send_message(place, message, vec![]));
            outbox::enqueue(&mut tx, &call).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    let limit = Duration::from_secs(300);
    stack.wait_for_sql_within(limit, "select count(*) from outbox where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where error is not null or uncertain").await, 0);
    let mut sent = 0;
    for (index, messages) in chats.iter().enumerate() {
        let arrived = stack.user(index as i64 + 1).messages().await;
        let arrived: Vec<_> = arrived.iter().filter(|message| message.message_id > before[index]).collect();
        assert_eq!(arrived.len(), messages.len());
        for (arrived, message) in arrived.iter().zip(messages) {
            assert_eq!(arrived.text, kept(&message.text));
            assert_eq!(given(&arrived.entities), wanted(message), "of {}", message.text);
        }
        sent += arrived.len();
    }
    println!("{} texts in {sent} messages", texts.len());
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telegram_takes_every_caption() {
    let stack = Stack::start().await;
    stack.user(1).asks("/start", "Hello").await;
    let url = format!("{}/bot{}/sendDocument", stack.simulator.telegram, stack.simulator.bot_token());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let texts = corpus::all();
    let captions: Vec<_> = texts.iter().filter_map(|text| markdown::caption(text)).collect();
    assert!(captions.len() > 500, "{} captions", captions.len());
    for caption in captions.iter().step_by(4) {
        let form = Form::new()
            .text("chat_id", "1")
            .text("caption", caption.text.clone())
            .text("caption_entities", serde_json::to_string(&caption.entities).unwrap())
            .part("document", reqwest::multipart::Part::bytes(vec![1, 2, 3]).file_name("a.bin"));
        let answer: Value = client.post(&url).multipart(form).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
        assert_eq!(answer["result"]["caption"].as_str().unwrap_or_default(), kept(&caption.text));
    }
    assert_eq!(stack.simulator.get("/sim/violations").await, json!([]));
}
