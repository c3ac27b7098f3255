//! Breaks JSON in every way that its text allows. The same generator gives the same bytes.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// What begins a string that is written as it is, without quotes and escapes.
const RAW: char = '\u{f8ff}';

/// The bytes of a mutated document: none, one or several things are wrong with it.
pub fn mutated(rng: &mut StdRng, original: &Value) -> Vec<u8> {
    let mut value = original.clone();
    for _ in 0..*[0, 1, 1, 1, 2, 3].choose(rng).unwrap() {
        let at = rng.random_range(0..size(&value));
        change(rng, nth(&mut value, at));
    }
    let mut bytes = Vec::with_capacity(1024);
    write(&value, &mut bytes);
    match rng.random_range(0..24) {
        0 => bytes.truncate(rng.random_range(1..=bytes.len())),
        1 => flip(rng, &mut bytes),
        2 => duplicate_a_field(rng, &mut bytes),
        3 => bytes.extend_from_within(..),
        4 => bytes.splice(0..0, [0xef, 0xbb, 0xbf]).for_each(drop),
        _ => {}
    }
    bytes
}

/// Nodes of a document, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => fields.values().map(size).sum(),
        _ => 0,
    }
}

/// The `n`th of them, in the order of the text.
fn nth(value: &mut Value, n: usize) -> &mut Value {
    if n == 0 {
        return value;
    }
    let mut left = n - 1;
    let children: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Object(fields) => Box::new(fields.values_mut()),
        _ => unreachable!("a leaf has no nodes below it"),
    };
    for child in children {
        let below = size(child);
        if left < below {
            return nth(child, left);
        }
        left -= below;
    }
    unreachable!("n is below the size")
}

fn change(rng: &mut StdRng, node: &mut Value) {
    let fields: Vec<String> = node.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    match (&mut *node, rng.random_range(0..4)) {
        (Value::Object(object), 0 | 1) if !fields.is_empty() => {
            object.remove(fields.choose(rng).unwrap());
        }
        (Value::Object(object), 2) => {
            let field = fields.choose(rng).cloned().unwrap_or_default();
            let name =
                *["", "message_id", "text", "update_id", "\u{0}", "from", "chat", "__proto__"].choose(rng).unwrap();
            let value = object.get(&field).cloned().unwrap_or_default();
            object.insert(name.into(), value);
        }
        (Value::Array(items), 0 | 1) if !items.is_empty() => items.extend_from_within(..),
        (Value::Array(items), 2) => items.clear(),
        (Value::Number(number), 0..3) => {
            let near = number.as_i64().map_or(0, |n| n.wrapping_add(rng.random_range(-2..=2)));
            *node = match rng.random_range(0..6) {
                0 => near.into(),
                1 => near.wrapping_neg().into(),
                2 => raw(["1e400", "-1e400", "99999999999999999999999", "-0", "1.5", "1E3", "0.1e-999"]
                    .choose(rng)
                    .unwrap()),
                _ => (*[0, -1, 1, i64::MIN, i64::MAX, i64::MAX - 1, i64::from(i32::MAX) + 1, i64::from(i32::MIN) - 1]
                    .choose(rng)
                    .unwrap())
                .into(),
            };
        }
        (Value::String(text), 0..3) => *node = hostile_text(rng, text),
        _ => *node = other(rng),
    }
}

/// A text that somebody could hope to break something with.
fn hostile_text(rng: &mut StdRng, text: &str) -> Value {
    let nasty = [
        "\u{0}",
        "\u{202e}evil",
        "'; drop table users; --",
        "<script>alert(1)</script>",
        "\u{feff}",
        "%s%n",
        "{{7*7}}",
        "a\r\nX: y",
        "../../etc/passwd",
        "e\u{301}\u{301}\u{301}",
        "👩‍👩‍👧‍👦",
        "\u{1b}[2J",
        "```",
        "||",
        "\\",
        "\u{2028}",
        "/",
    ];
    let piece = *nasty.choose(rng).unwrap();
    match rng.random_range(0..8) {
        0 => "".into(),
        1 => piece.into(),
        2 => format!("{text}{piece}").into(),
        3 => format!("{piece}{text}").into(),
        // Halves of a pair, which JSON can write and text can't hold.
        4 => raw(["\"\\ud800\"", "\"\\udc00\\ud800\"", "\"a\\ud83dz\"", "\"\\u0000\""].choose(rng).unwrap()),
        5 => raw(&format!("\"{}\"", text.replace(['"', '\\'], "").replace('a', "\\u0061"))),
        6 => piece.repeat(rng.random_range(1..400)).into(),
        _ => match rng.random_range(0..200) {
            0 => "A".repeat(rng.random_range(900_000..1_100_000)).into(),
            1..20 => "é".repeat(rng.random_range(4_000..20_000)).into(),
            _ => text.repeat(3).into(),
        },
    }
}

fn other(rng: &mut StdRng) -> Value {
    match rng.random_range(0..9) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!([]),
        3 => json!({}),
        4 => json!("?"),
        5 => json!(-7),
        6 => raw(&nested(rng, '[', ']')),
        7 => {
            raw(&nested(rng, '{', '}').replace('{', "{\"reply_to_message\":").replace("{\"reply_to_message\":}", "{}"))
        }
        _ => json!([{"id": 1}, "x", null]),
    }
}

fn nested(rng: &mut StdRng, open: char, close: char) -> String {
    let depth = *[2, 60, 126, 127, 128, 129, 5_000].choose(rng).unwrap();
    std::iter::repeat_n(open, depth).chain(std::iter::repeat_n(close, depth)).collect()
}

fn raw(text: &str) -> Value {
    format!("{RAW}{text}").into()
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) if text.starts_with(RAW) => out.extend(&text.as_bytes()[RAW.len_utf8()..]),
        Value::Array(items) => sequence(out, (b'[', b']'), items.iter(), |out, item| write(item, out)),
        Value::Object(fields) => sequence(out, (b'{', b'}'), fields.iter(), |out, (name, value)| {
            out.extend(json!(name).to_string().bytes());
            out.push(b':');
            write(value, out);
        }),
        leaf => out.extend(leaf.to_string().bytes()),
    }
}

fn sequence<T>(
    out: &mut Vec<u8>,
    (open, close): (u8, u8),
    items: impl Iterator<Item = T>,
    one: impl Fn(&mut Vec<u8>, T),
) {
    out.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        one(out, item);
    }
    out.push(close);
}

fn flip(rng: &mut StdRng, bytes: &mut [u8]) {
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..bytes.len());
        bytes[at] = *[0xff, 0x00, 0xc0, 0xed, b'"', b'{', b'\\', rng.random()].choose(rng).unwrap();
    }
}

fn duplicate_a_field(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    let objects: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'{').map(|(at, _)| at).collect();
    let Some(at) = objects.choose(rng) else { return };
    let field =
        ["\"message_id\":\"x\",", "\"id\":5,\"id\":6,", "\"update_id\":1,", "\"text\":null,"].choose(rng).unwrap();
    bytes.splice(at + 1..at + 1, field.bytes()).for_each(drop);
}
