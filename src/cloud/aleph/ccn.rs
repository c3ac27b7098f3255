//! Core channel nodes: posting messages, how they stand, which there are. Several are configured: any that answers is believed
//! in what only makes or reads; what destroys asks all of them, because they disagree at times.

use aleph_sdk::client::{MessageFilter, PaginationParams, SortBy, SortOrder};
use aleph_types::account::Account as _;
use aleph_types::chain::Address;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::{MessageStatus, MessageType};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tracing::warn;

use super::http::{self, Answer, clean, garbled, send};
use super::{Aleph, AlephError, Ccn, Instance, Listed, Standing, gateway, listed};

/// Messages a page; CCNs give no more.
const PAGE: u32 = 200;
/// Where a list without an end is given up.
const PAGES: u32 = 500;

impl Aleph {
    /// Posts the message; posting it again changes nothing. Says how it stands then.
    pub async fn post(&self, instance: &Instance) -> Result<Standing, AlephError> {
        self.first(|ccn| self.post_to(ccn, &instance.message)).await
    }

    /// How the message stands at the first core channel node that answers.
    pub async fn standing(&self, item_hash: &str) -> Result<Standing, AlephError> {
        gateway::native(item_hash)?;
        self.first(|ccn| self.standing_at(ccn, item_hash)).await
    }

    /// How it stands at every core channel node; an error unless all answer. For decisions that destroy.
    pub async fn standing_everywhere(&self, item_hash: &str) -> Result<Vec<Standing>, AlephError> {
        gateway::native(item_hash)?;
        join_all(self.ccns.iter().map(|ccn| self.standing_at(ccn, item_hash))).await.into_iter().collect()
    }

    /// Posts a FORGET for the instance's message and says how that stands now; to be repeated until it [is
    /// over](Standing::is_over).
    ///
    /// It holds wherever any node says that it holds. It is over only if all nodes answer and none of them holds it, and
    /// [unknown](Standing::Unknown) only if all say so: whether a post may still be on its way is for the caller to know.
    pub async fn forget(&self, item_hash: &str) -> Result<Standing, AlephError> {
        let hash = ItemHash::from(gateway::native(item_hash)?);
        let now = self.worst_standing(item_hash).await?;
        // A FORGET for a pending message is refused: its turn comes when the message is processed.
        if !matches!(now, Standing::Processed | Standing::Removing) {
            return Ok(now);
        }
        let message = self.compose_forget(hash)?;
        let forget = self.first(|ccn| self.post_to(ccn, &message)).await?;
        let now = self.worst_standing(item_hash).await?;
        match forget {
            Standing::Rejected(why) if !now.is_over() => Err(AlephError::Refused {
                what: "the network (asked to forget an instance)".into(),
                status: StatusCode::UNPROCESSABLE_ENTITY.as_u16(),
                body: why,
            }),
            _ => Ok(now),
        }
    }

    /// Instances of this account and channel that exist, by all core channel nodes together: one that any of them lists is
    /// listed. An error unless all answer.
    pub async fn list(&self) -> Result<Vec<Listed>, AlephError> {
        let lists = join_all(self.ccns.iter().map(|ccn| self.list_at(ccn))).await;
        let mut all: Vec<Listed> = Vec::new();
        for list in lists {
            for instance in list? {
                if all.iter().all(|known| known.item_hash != instance.item_hash) {
                    all.push(instance);
                }
            }
        }
        Ok(all)
    }

    /// The answer of the first node that has one. What a node refuses is refused: others would do the same.
    pub(super) async fn first<'a, T, F>(&'a self, ask: impl Fn(&'a Ccn) -> F) -> Result<T, AlephError>
    where
        F: Future<Output = Result<T, AlephError>>,
    {
        let mut failed = None;
        for ccn in &self.ccns {
            match ask(ccn).await {
                Err(error @ (AlephError::Unreachable { .. } | AlephError::Garbled { .. })) => {
                    warn!(%error, "a core channel node is of no use at the moment");
                    failed.get_or_insert(error);
                }
                done => return done,
            }
        }
        Err(failed.unwrap_or_else(|| AlephError::Own("ALEPH_API_URL names no core channel node".into())))
    }

    async fn post_to(&self, ccn: &Ccn, message: &Value) -> Result<Standing, AlephError> {
        let request = self.http.post(&format!("{}/api/v0/messages", ccn.url));
        let request = request.json(&json!({ "sync": true, "message": message }));
        let answer = send(request, &ccn.name(), self.deadlines.post).await?;
        let verdict = verdict(&answer, &ccn.name())?;
        // The answer to a post does not say why; what the node keeps of the message does, and counts for more.
        let hash = message.get("item_hash").and_then(Value::as_str).unwrap_or_default();
        if matches!(verdict, Standing::Rejected(_)) && gateway::native(hash).is_ok() {
            return Ok(match self.standing_at(ccn, hash).await {
                Ok(kept) if kept != Standing::Unknown => kept,
                _ => verdict,
            });
        }
        Ok(verdict)
    }

    async fn standing_at(&self, ccn: &Ccn, item_hash: &str) -> Result<Standing, AlephError> {
        let request = self.http.get(&format!("{}/api/v0/messages/{item_hash}", ccn.url));
        let answer = send(request, &ccn.name(), self.deadlines.read).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Standing::Unknown);
        }
        standing(&answer.ok(&ccn.name())?).ok_or_else(|| garbled(&ccn.name(), "a message in an unknown state"))
    }

    /// What an address keeps under a key, as an object with that key: `GET /api/v0/aggregates/{address}.json?keys={key}`.
    pub(super) async fn aggregate_at(&self, ccn: &Ccn, address: &Address, key: &str) -> Result<Value, AlephError> {
        let request = self.http.get(&format!("{}/api/v0/aggregates/{address}.json", ccn.url)).query(&[("keys", key)]);
        let mut answer = send(request, &ccn.name(), self.deadlines.read).await?.ok(&ccn.name())?;
        let data = answer.get_mut("data").map(Value::take);
        data.ok_or_else(|| garbled(&ccn.name(), "an aggregate without data"))
    }

    /// Of what the nodes that answer say, what leaves most to be done.
    async fn worst_standing(&self, item_hash: &str) -> Result<Standing, AlephError> {
        let answers = join_all(self.ccns.iter().map(|ccn| self.standing_at(ccn, item_hash))).await;
        let (mut said, mut failed) = (Vec::new(), None);
        for answer in answers {
            match answer {
                Ok(standing) => said.push(standing),
                Err(error) => failed = Some(error),
            }
        }
        match (worst(said), failed) {
            // That it is over at one node, or not known there, is no proof while it may run by another, and be paid for.
            (None | Some(Standing::Unknown), Some(error)) => Err(error),
            (Some(standing), Some(error)) if standing.is_over() => Err(error),
            (standing, _) => Ok(standing.unwrap_or(Standing::Unknown)),
        }
    }

    async fn list_at(&self, ccn: &Ccn) -> Result<Vec<Listed>, AlephError> {
        let what = ccn.name();
        let filter = MessageFilter {
            message_type: Some(MessageType::Instance),
            owners: Some(vec![self.account.address().clone()]),
            channels: Some(vec![Self::CHANNEL.to_owned()]),
            message_statuses: Some(vec![MessageStatus::Processed, MessageStatus::Pending, MessageStatus::Removing]),
            // What comes meanwhile is added behind the last page and moves nothing from one page to another.
            sort_by: Some(SortBy::Time),
            sort_order: Some(SortOrder::Asc),
            ..MessageFilter::default()
        };
        let mut all: Vec<Listed> = Vec::new();
        let mut seen = 0;
        for page in 1..=PAGES {
            let place = PaginationParams { pagination: Some(PAGE), page: Some(page) };
            let request = self.http.get(&format!("{}/api/v0/messages.json", ccn.url)).query(&filter).query(&place);
            let answer = send(request, &what, self.deadlines.read).await?.ok(&what)?;
            let messages = answer.get("messages").and_then(Value::as_array);
            let messages = messages.ok_or_else(|| garbled(&what, "a list without messages"))?;
            all.extend(messages.iter().filter_map(|message| listed::read(message, self.account.address().as_str())));
            seen += messages.len() as u64;
            let number = |name| answer.get(name).and_then(Value::as_u64);
            let full = number("pagination_per_page").unwrap_or(PAGE.into()).clamp(1, PAGE.into());
            let more = number("pagination_total").is_none_or(|total| seen < total);
            if (messages.len() as u64) < full || !more {
                return Ok(all);
            }
        }
        Err(garbled(&what, "a list without an end"))
    }
}

/// What a node answers to a posted message.
fn verdict(answer: &Answer, what: &str) -> Result<Standing, AlephError> {
    match answer.status {
        StatusCode::OK | StatusCode::ACCEPTED => {
            let body = answer.json(what)?;
            let status = body.get("message_status").and_then(Value::as_str);
            let standing = status.and_then(|status| by_name(status, &body));
            standing.ok_or_else(|| garbled(what, "a posted message in an unknown state"))
        }
        // Without a status it is the message's form that is not accepted, and the body is not always JSON.
        StatusCode::UNPROCESSABLE_ENTITY => {
            let body = answer.json(what).ok().filter(|body| body.get("error_code").is_some());
            Ok(Standing::Rejected(body.map_or_else(|| http::excerpt(&answer.body), |body| reason(&body))))
        }
        _ => Err(answer.refusal(what)),
    }
}

/// How a message stands, from `GET /api/v0/messages/{hash}`.
fn standing(answer: &Value) -> Option<Standing> {
    by_name(answer.get("status")?.as_str()?, answer)
}

fn by_name(status: &str, answer: &Value) -> Option<Standing> {
    Some(match status {
        "pending" => Standing::Pending,
        "processed" => Standing::Processed,
        "removing" => Standing::Removing,
        "removed" => Standing::Removed,
        "forgotten" => Standing::Forgotten,
        "rejected" => Standing::Rejected(reason(answer)),
        _ => return None,
    })
}

/// Why a message is rejected, by its `error_code` (pyaleph, `types/message_status.py`).
fn reason(answer: &Value) -> String {
    let code = answer.get("error_code").and_then(Value::as_i64);
    let known = match code {
        Some(0) => "it has the wrong form",
        Some(1) => "its signature is not accepted",
        Some(2) => "the account may not do this",
        Some(5) => "the account has too few tokens",
        Some(6) => "the account has too few credits",
        Some(202) => "this way of paying is not accepted",
        Some(300..=304) => "its image or a volume is not accepted",
        Some(500..=503) => "what it wants forgotten cannot be forgotten",
        _ => "no known reason",
    };
    let details = answer.get("details").filter(|details| !details.is_null()).map(Value::to_string).unwrap_or_default();
    match code {
        Some(code) => clean(&format!("{known} (error {code}) {details}"), 300),
        None => clean(&format!("{known} {details}"), 300),
    }
}

/// Which leaves most to be done; a node that does not know the message says nothing beside one that does.
fn worst(said: Vec<Standing>) -> Option<Standing> {
    said.into_iter().max_by_key(|standing| match standing {
        Standing::Unknown => 0,
        Standing::Forgotten => 1,
        Standing::Removed => 2,
        Standing::Rejected(_) => 3,
        Standing::Removing => 4,
        Standing::Pending => 5,
        Standing::Processed => 6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_most_to_be_done_counts() {
        use Standing::*;
        assert_eq!(worst(vec![Forgotten, Processed]), Some(Processed));
        assert_eq!(worst(vec![Unknown, Forgotten]), Some(Forgotten));
        assert_eq!(worst(vec![Removing, Removed]), Some(Removing));
        assert_eq!(worst(vec![Unknown, Unknown]), Some(Unknown));
        assert_eq!(worst(vec![]), None);
    }

    #[test]
    fn a_rejection_says_why() {
        let answer = json!({"status": "rejected", "error_code": 6, "details": {"errors": ["3 < 5"]}});
        assert_eq!(
            standing(&answer),
            Some(Standing::Rejected("the account has too few credits (error 6) {\"errors\":[\"3 < 5\"]}".into()))
        );
        assert_eq!(standing(&json!({"status": "resurrected"})), None);
    }
}
