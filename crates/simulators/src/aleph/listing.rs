//! `GET /api/v0/messages.json`: filters and pages.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::ledger::Entry;

type Query = HashMap<String, String>;

/// Messages on a page that is not said to be longer.
const PER_PAGE: usize = 20;
/// Most messages on a page that a cursor goes on from.
const MAX_PER_CURSOR: usize = 200;

/// Filters that are understood; others are an error here, so that a test does not believe in a filter that does nothing.
const KNOWN: [&str; 14] = [
    "msgType",
    "msgTypes",
    "msgStatuses",
    "addresses",
    "owners",
    "channels",
    "chains",
    "hashes",
    "startDate",
    "endDate",
    "sortBy",
    "sortOrder",
    "page",
    "pagination",
];

/// The messages that pass the filters. Of those that are forgotten, removed, pending or rejected nothing is listed.
pub fn select(entries: &[&Entry], query: &Query) -> Result<Vec<Value>, String> {
    if let Some(unknown) = query.keys().find(|key| *key != "cursor" && !KNOWN.contains(&key.as_str())) {
        return Err(format!("{unknown}: this filter is not simulated"));
    }
    let number = |name: &str| {
        query.get(name).map(|text| text.parse::<f64>().map_err(|_| format!("{name}: a number is required"))).transpose()
    };
    let (start, end, order) = (number("startDate")?, number("endDate")?, number("sortOrder")?.unwrap_or(-1.0));
    let among =
        |name: &str, value: &str| query.get(name).is_none_or(|list| list.split(',').any(|wanted| wanted == value));
    let mut found: Vec<&&Entry> = entries
        .iter()
        .filter(|entry| entry.status.is_alive())
        .filter(|entry| {
            let message = &entry.message;
            among("msgStatuses", entry.status.name())
                && among("msgType", message.type_name())
                && among("msgTypes", message.type_name())
                && among("addresses", &message.sender)
                && among("owners", message.owner())
                && among("channels", message.channel.as_deref().unwrap_or_default())
                && among("chains", "ETH")
                && among("hashes", &message.item_hash)
                && start.is_none_or(|start| message.time >= start)
                && end.is_none_or(|end| message.time < end)
        })
        .collect();
    if order < 0.0 {
        found.reverse();
    }
    Ok(found.into_iter().map(|entry| entry.message.json()).collect())
}

/// The page that is asked for, by `cursor` or by `page`.
pub fn page(found: Vec<Value>, query: &Query) -> Result<Value, String> {
    let number = |name: &str, or: usize| {
        query
            .get(name)
            .map_or(Ok(or), |text| text.parse::<usize>().map_err(|_| format!("{name}: a number is required")))
    };
    let total = found.len();
    let per_page = number("pagination", PER_PAGE)?;
    if let Some(cursor) = query.get("cursor") {
        let from = if cursor.is_empty() { 0 } else { number("cursor", 0)? };
        let per_page = per_page.clamp(1, MAX_PER_CURSOR);
        let messages: Vec<Value> = found.into_iter().skip(from).take(per_page).collect();
        let next = from + messages.len();
        let next = (next < total).then(|| next.to_string());
        return Ok(json!({ "messages": messages, "next_cursor": next, "pagination_per_page": per_page }));
    }
    let page = number("page", 1)?;
    if page == 0 {
        return Err("page: must be 1 or more".into());
    }
    let size = if per_page == 0 { total.max(1) } else { per_page };
    let messages: Vec<Value> = found.into_iter().skip((page - 1) * size).take(size).collect();
    Ok(json!({
        "messages": messages, "pagination_page": page, "pagination_total": total, "pagination_per_page": per_page,
        "pagination_item": "messages",
    }))
}
