//! Against small servers of this process that answer, hang, lie or break.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::*;

const HASH: &str = "b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717";
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// A request as a server saw it.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Value,
}

/// A server on a random port; it ends when it is dropped.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server answers; `None` hangs for ever.
type Reply = Option<(u16, String)>;

impl Server {
    async fn new(answer: impl Fn(&Seen) -> Reply + Clone + Send + Sync + 'static) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let request = Seen { method, uri, headers, body };
            log.lock().unwrap().push(request.clone());
            let reply = answer(&request);
            async move {
                match reply {
                    Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
                    None => std::future::pending().await,
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { url, seen, task: serving.abort_handle() }
    }

    async fn saying(status: u16, body: Value) -> Self {
        Self::new(move |_| Some((status, body.to_string()))).await
    }

    async fn hanging() -> Self {
        Self::new(|_| None).await
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn crn(&self) -> Crn {
        Crn { hash: "ab".repeat(32), url: self.url.clone(), name: "node".into() }
    }
}

fn reply(body: Value) -> Reply {
    Some((200, body.to_string()))
}

/// Everything at these core channel nodes; lists and gateway at the first one.
fn aleph(ccns: &[&Server]) -> Aleph {
    Aleph::new(&config(ccns), "ssh-ed25519 AAAA".into()).unwrap()
}

fn config(ccns: &[&Server]) -> Config {
    drop(rustls::crypto::ring::default_provider().install_default());
    let urls: Vec<_> = ccns.iter().map(|ccn| ccn.url.clone()).collect();
    let first = urls.first().cloned().unwrap_or_else(|| "http://127.0.0.1:1".into());
    let values = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("TELEGRAM_MODE", "polling"),
        ("DATABASE_URL", "postgres://127.0.0.1:1/none"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "key"),
        ("ALEPH_PRIVATE_KEY", KEY),
        ("ALEPH_SSH_PUBKEY", "ssh-ed25519 AAAA"),
        ("ALEPH_API_URL", &if urls.is_empty() { first.clone() } else { urls.join(",") }),
        ("ALEPH_CRN_LIST_URL", &first),
        ("ALEPH_GATEWAY_URL", &first),
        ("ALEPH_GATEWAY_DOMAIN", "vm.localhost:18443"),
        ("AGENT_ALLOW_PRIVATE", "true"),
    ];
    let values: BTreeMap<_, _> = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Config::from_values(values, vec![]).unwrap()
}

/// The same, for tests with a server that hangs.
fn hasty(ccns: &[&Server]) -> Aleph {
    let short = Duration::from_secs(1);
    Aleph { deadlines: Deadlines { read: short, post: short, operate: short }, ..aleph(ccns) }
}

async fn instance(aleph: &Aleph, crn: Crn) -> Instance {
    aleph.compose(&crn, Uuid::from_u128(1), Uuid::from_u128(2)).await.unwrap()
}

fn status(name: &str) -> Value {
    json!({ "status": name, "error_code": 6 })
}

#[tokio::test]
async fn debug_shows_the_address_and_no_secret() {
    let aleph = aleph(&[]);
    let shown = format!("{aleph:?}");
    assert!(shown.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266") && !shown.contains(&KEY[..8]), "{shown}");
}

#[tokio::test]
async fn a_message_is_posted_as_it_was_stored_again_and_again() {
    let ccn = Server::new(|seen| match seen.method {
        Method::POST => reply(json!({"publication_status": {"status": "success"}, "message_status": "processed"})),
        _ => Some((500, String::new())),
    })
    .await;
    let aleph = aleph(&[&ccn]);
    let made = instance(&aleph, ccn.crn()).await;
    let content: Value = serde_json::from_str(made.message["item_content"].as_str().unwrap()).unwrap();
    assert_eq!(content["requirements"], json!({"node": {"node_hash": ccn.crn().hash}}));
    assert_eq!(content["payment"], json!({"type": "credit"}));
    assert_eq!(content["metadata"]["baal_installation"], json!(Uuid::from_u128(1)));
    // As it comes back from the database.
    let stored: Instance = serde_json::from_value(serde_json::to_value(&made).unwrap()).unwrap();
    assert_eq!(stored, made);
    for _ in 0..2 {
        assert_eq!(aleph.post(&stored).await.unwrap(), Standing::Processed);
    }
    let posts: Vec<_> = ccn.seen().into_iter().filter(|seen| seen.method == Method::POST).collect();
    assert_eq!(posts.len(), 2);
    // Read from text like what the server saw: reading a float may change its last bit.
    let expected = json!({"sync": true, "message": made.message}).to_string();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    for post in posts {
        assert_eq!(post.uri.path(), "/api/v0/messages");
        assert_eq!(post.body, expected);
    }
}

#[tokio::test]
async fn what_a_posted_message_becomes_is_told() {
    let pending = json!({"message_status": "pending"});
    let cases = [(202, pending, Standing::Pending), (200, json!({"message_status": "processed"}), Standing::Processed)];
    for (code, body, expected) in cases {
        let ccn = Server::saying(code, body).await;
        let aleph = aleph(&[&ccn]);
        let made = instance(&aleph, ccn.crn()).await;
        assert_eq!(aleph.post(&made).await.unwrap(), expected);
    }
    let ccn = Server::new(|seen| match seen.method {
        Method::POST => Some((422, json!({"message_status": "rejected"}).to_string())),
        _ => reply(status("rejected")),
    })
    .await;
    let aleph = aleph(&[&ccn]);
    let made = instance(&aleph, ccn.crn()).await;
    let why = "the account has too few credits (error 6)";
    assert_eq!(aleph.post(&made).await.unwrap(), Standing::Rejected(why.into()));
}

#[tokio::test]
async fn a_node_that_hangs_breaks_or_talks_nonsense_is_passed_over() {
    let hangs = Server::hanging().await;
    let broken = Server::saying(502, json!("bad gateway")).await;
    let nonsense = Server::new(|_| Some((200, "<html>".into()))).await;
    let good = Server::saying(200, status("processed")).await;
    for bad in [&hangs, &broken, &nonsense] {
        assert_eq!(hasty(&[bad, &good]).standing(HASH).await.unwrap(), Standing::Processed);
        // For what destroys, one that does not answer is one too few.
        assert!(hasty(&[bad, &good]).standing_everywhere(HASH).await.is_err());
    }
    let error = hasty(&[&hangs]).standing(HASH).await.unwrap_err();
    assert!(matches!(&error, AlephError::Unreachable { cause, .. } if cause.contains("no answer within")), "{error}");
    let error = hasty(&[&nonsense]).standing(HASH).await.unwrap_err();
    assert!(matches!(error, AlephError::Garbled { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let endless = Server::new(|_| Some((200, "x".repeat(http::ANSWER + 1)))).await;
    let error = aleph(&[&endless]).standing(HASH).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn a_node_that_talks_for_long_is_cut_off_sooner() {
    let endless = Server::new(|_| Some((200, format!("{{\"x\": \"{}\"}}", "x".repeat(http::NODE_ANSWER))))).await;
    let aleph = aleph(&[]);
    let made = instance(&aleph, endless.crn()).await;
    let errors = [aleph.start(&made).await.err(), aleph.execution(&made).await.err(), aleph.erase(&made).await.err()];
    for error in errors {
        assert!(error.as_ref().is_some_and(|error| error.to_string().contains("larger than")), "{error:?}");
    }
}

#[tokio::test]
async fn a_node_whose_name_leads_into_our_own_network_is_asked_nothing() {
    let node = Server::saying(200, json!({})).await;
    let crn = Crn { url: node.url.replace("127.0.0.1", "localhost"), ..node.crn() };
    let near = aleph(&[]);
    let made = instance(&near, crn).await;
    let public = Aleph { allow_private: false, nodes_http: Http::to_strangers(false).unwrap(), ..aleph(&[]) };
    let error = public.start(&made).await.unwrap_err();
    assert!(matches!(&error, AlephError::Unreachable { cause, .. } if cause.contains("on the internet")), "{error}");
    assert!(public.execution(&made).await.is_err() && node.seen().is_empty());
    near.start(&made).await.unwrap();
}

#[tokio::test]
async fn every_standing_is_understood_and_404_means_unknown() {
    for (name, expected) in [
        ("pending", Standing::Pending),
        ("processed", Standing::Processed),
        ("removing", Standing::Removing),
        ("removed", Standing::Removed),
        ("forgotten", Standing::Forgotten),
    ] {
        let ccn = Server::saying(200, status(name)).await;
        assert_eq!(aleph(&[&ccn]).standing(HASH).await.unwrap(), expected);
    }
    let ccn = Server::saying(404, json!("not found")).await;
    assert_eq!(aleph(&[&ccn]).standing(HASH).await.unwrap(), Standing::Unknown);
    assert!(matches!(aleph(&[&ccn]).standing("../../etc").await, Err(AlephError::Own(_))));
}

#[tokio::test]
async fn forgetting_posts_a_forget_once_the_target_is_processed() {
    let forgotten = Arc::new(Mutex::new(false));
    let state = Arc::clone(&forgotten);
    let ccn = Server::new(move |seen| {
        let mut forgotten = state.lock().unwrap();
        if seen.method == Method::POST {
            *forgotten = true;
            return reply(json!({"message_status": "processed"}));
        }
        reply(status(if *forgotten { "forgotten" } else { "processed" }))
    })
    .await;
    assert_eq!(aleph(&[&ccn]).forget(HASH).await.unwrap(), Standing::Forgotten);
    let posts: Vec<_> = ccn.seen().into_iter().filter(|seen| seen.method == Method::POST).collect();
    let message = &posts[0].body["message"];
    let content: Value = serde_json::from_str(message["item_content"].as_str().unwrap()).unwrap();
    assert_eq!((&message["type"], &message["channel"]), (&json!("FORGET"), &json!("BAAL")));
    assert_eq!(content["hashes"], json!([HASH]));
}

#[tokio::test]
async fn forgetting_waits_for_what_is_pending_and_needs_no_forget_for_what_is_over() {
    for (name, expected) in [("pending", Standing::Pending), ("removed", Standing::Removed)] {
        let ccn = Server::saying(200, status(name)).await;
        assert_eq!(aleph(&[&ccn]).forget(HASH).await.unwrap(), expected);
        assert!(ccn.seen().iter().all(|seen| seen.method == Method::GET));
    }
}

#[tokio::test]
async fn an_instance_is_over_or_unknown_only_if_all_nodes_say_so() {
    let (unknown, other) = (Server::saying(404, json!(0)).await, Server::saying(404, json!(0)).await);
    assert_eq!(aleph(&[&unknown, &other]).forget(HASH).await.unwrap(), Standing::Unknown);
    let hangs = Server::hanging().await;
    assert!(hasty(&[&unknown, &hangs]).forget(HASH).await.is_err());
    // One where it holds outweighs another; one that says it ended is no proof beside one that is down.
    let (ended, holds) = (Server::saying(200, status("forgotten")).await, Server::saying(200, status("pending")).await);
    assert!(hasty(&[&hangs, &ended]).forget(HASH).await.is_err());
    assert_eq!(aleph(&[&unknown, &ended]).forget(HASH).await.unwrap(), Standing::Forgotten);
    assert_eq!(hasty(&[&hangs, &holds]).forget(HASH).await.unwrap(), Standing::Pending);
    assert_eq!(aleph(&[&ended, &holds]).forget(HASH).await.unwrap(), Standing::Pending);
}

#[tokio::test]
async fn a_forget_that_is_refused_while_the_target_lives_is_an_error() {
    let ccn = Server::new(|seen| match seen.method {
        Method::POST => Some((422, json!({"message_status": "rejected"}).to_string())),
        // It keeps nothing of the message that it refused.
        _ if !seen.uri.path().ends_with(HASH) => Some((404, "{}".into())),
        _ => reply(status("processed")),
    })
    .await;
    assert!(matches!(aleph(&[&ccn]).forget(HASH).await, Err(AlephError::Refused { status: 422, .. })));
}

/// Messages of instances as a node lists them.
async fn listed(aleph: &Aleph, count: u128) -> Vec<Value> {
    let crn = Crn { hash: "ab".repeat(32), url: String::new(), name: String::new() };
    let mut messages = Vec::new();
    for n in 0..count {
        messages.push(aleph.compose(&crn, Uuid::from_u128(1), Uuid::from_u128(n)).await.unwrap().message);
    }
    messages
}

/// A node that lists these, so many a page.
async fn lister(messages: Vec<Value>) -> Server {
    Server::new(move |seen| {
        let query: BTreeMap<_, _> = seen.uri.query()?.split('&').filter_map(|pair| pair.split_once('=')).collect();
        assert_eq!((query["msgType"], query["channels"]), ("INSTANCE", "BAAL"));
        assert!(query["msgStatuses"].contains("removing") && query["msgStatuses"].contains("pending"));
        let (page, size): (usize, usize) = (query["page"].parse().unwrap(), query["pagination"].parse().unwrap());
        let part: Vec<_> = messages.iter().skip((page - 1) * size).take(size).collect();
        reply(json!({"messages": part, "pagination_per_page": size, "pagination_total": messages.len()}))
    })
    .await
}

#[tokio::test]
async fn a_list_has_all_pages_of_all_nodes_and_leaves_out_what_cannot_be_read() {
    let mut messages = listed(&aleph(&[]), 250).await;
    let only_there = messages.split_off(249);
    messages.insert(100, json!({"item_hash": "odd"}));
    messages.insert(101, json!(7));
    let (one, other) = (lister(messages).await, lister(only_there).await);
    let found = aleph(&[&one, &other]).list().await.unwrap();
    assert_eq!(found.len(), 250);
    assert_eq!(one.seen().len(), 2);
    let vms: HashSet<_> = found.iter().filter_map(|instance| instance.vm).collect();
    assert_eq!(vms.len(), 250);
    assert!(found.iter().all(|instance| instance.installation == Some(Uuid::from_u128(1))));
}

#[tokio::test]
async fn a_list_is_nothing_unless_all_nodes_answer() {
    let (good, bad) = (lister(vec![]).await, Server::saying(500, json!(0)).await);
    assert!(aleph(&[&good, &bad]).list().await.is_err());
    let odd = Server::saying(200, json!({"messages": "none"})).await;
    assert!(matches!(aleph(&[&odd]).list().await, Err(AlephError::Garbled { .. })));
    let endless = Server::saying(200, json!({"messages": [1], "pagination_per_page": 1})).await;
    assert!(matches!(aleph(&[&endless]).list().await, Err(AlephError::Garbled { .. })));
}

#[tokio::test]
async fn starting_is_signed_and_old_nodes_are_notified() {
    let node = Server::saying(200, json!({})).await;
    let aleph = aleph(&[]);
    let made = instance(&aleph, node.crn()).await;
    aleph.start(&made).await.unwrap();
    let request = &node.seen()[0];
    assert_eq!(request.uri.path(), format!("/control/machine/{}/start", made.item_hash));
    let operation: Value = serde_json::from_slice(request.headers["X-SignedOperation"].as_bytes()).unwrap();
    let payload: Value = serde_json::from_slice(&hex::decode(operation["payload"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!((&payload["method"], &payload["domain"]), (&json!("POST"), &json!("127.0.0.1")));
    assert_eq!(payload["path"], json!(request.uri.path()));
    assert!(request.headers.contains_key("X-SignedPubKey"));

    let cases = [
        (200, true, true),
        (207, true, true),
        (207, false, false),
        (503, false, false),
        (402, true, false),
        (409, false, true),
    ];
    for (code, successful, fits) in cases {
        let old = Server::new(move |seen| match seen.uri.path() {
            "/control/allocation/notify" => {
                let body = json!({"success": successful, "successful": successful, "failing": [], "errors": {}});
                Some((code, body.to_string()))
            }
            _ => Some((404, String::new())),
        })
        .await;
        let made = instance(&aleph, old.crn()).await;
        let started = aleph.start(&made).await;
        assert_eq!(started.is_ok(), fits, "{code} {successful}");
        assert!(fits || matches!(started, Err(AlephError::Refused { .. })));
        assert_eq!(old.seen()[1].body, json!({"instance": made.item_hash}));
    }
}

#[tokio::test]
async fn a_node_that_hangs_redirects_or_breaks_costs_its_deadline_at_most() {
    let aleph = hasty(&[]);
    let hangs = Server::hanging().await;
    let made = instance(&aleph, hangs.crn()).await;
    for result in [aleph.start(&made).await, aleph.reboot(&made).await, aleph.erase(&made).await.map(drop)] {
        assert!(matches!(result, Err(AlephError::Unreachable { .. })), "{result:?}");
    }
    assert!(aleph.execution(&made).await.is_err());
    for (code, body) in [(307, "elsewhere"), (402, "pay"), (403, "no\u{1b}[2J")] {
        let node = Server::new(move |_| Some((code, body.into()))).await;
        let made = instance(&aleph, node.crn()).await;
        let error = aleph.reboot(&made).await.unwrap_err();
        assert!(matches!(error, AlephError::Refused { status, .. } if status == code), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[tokio::test]
async fn erased_is_what_the_node_does_not_run_any_more() {
    let aleph = aleph(&[]);
    let erase = async |code: u16, execution: Value| {
        let hash: Arc<Mutex<String>> = Arc::default();
        let known = Arc::clone(&hash);
        let node = Server::new(move |seen| match seen.method {
            Method::POST => Some((code, "{}".into())),
            _ => reply(json!({ known.lock().unwrap().as_str(): execution })),
        })
        .await;
        let made = instance(&aleph, node.crn()).await;
        hash.lock().unwrap().clone_from(&made.item_hash);
        aleph.erase(&made).await
    };
    assert!(erase(404, json!({"running": true})).await.unwrap());
    assert!(erase(200, json!(null)).await.unwrap());
    assert!(erase(200, json!({"state": "stopped", "running": false})).await.unwrap());
    assert!(!erase(200, json!({"running": true})).await.unwrap(), "a node that lies");
    assert!(!erase(200, json!({"state": "stopping"})).await.unwrap());
    assert!(erase(403, json!(null)).await.is_err());
}

#[tokio::test]
async fn a_node_with_only_the_older_list_is_asked_there() {
    let aleph = aleph(&[]);
    let node = Server::new(|seen| match seen.uri.path() {
        "/about/executions/list" => reply(json!({"else": {}})),
        _ => Some((404, String::new())),
    })
    .await;
    let made = instance(&aleph, node.crn()).await;
    assert_eq!(aleph.execution(&made).await.unwrap(), Execution::Absent);
    let odd = Server::saying(200, json!(["x"])).await;
    let made = instance(&aleph, odd.crn()).await;
    assert!(matches!(aleph.execution(&made).await, Err(AlephError::Garbled { .. })));
}

#[tokio::test]
async fn the_gateway_says_whether_it_routes_a_name() {
    for (code, body, expected) in [
        (200, json!({"active": true}), Some(true)),
        (200, json!({"active": false}), Some(false)),
        (200, json!({}), Some(false)),
        (404, json!(null), Some(false)),
        (500, json!(null), None),
    ] {
        let gateway = Server::saying(code, body).await;
        let aleph = aleph(&[&gateway]);
        assert_eq!(aleph.routed(HASH).await.ok(), expected);
        assert_eq!(gateway.seen()[0].uri.path(), format!("/api/hash/{HASH}"));
        assert_eq!(aleph.public_name(HASH).unwrap(), "report-wife-attitude-advice.vm.localhost:18443");
    }
}

#[tokio::test]
async fn funds_are_the_balance_and_the_listed_price() {
    let pricing = json!({"data": {"pricing": {"instance": {
        "compute_unit": {"vcpus": 1, "memory_mib": 2048, "disk_mib": 20480},
        "price": {"compute_unit": {"credit": "20000"}, "storage": {"credit": "0.1"}},
    }}}});
    let ccn = Server::new(move |seen| match seen.uri.path() {
        path if path.ends_with("/balance") => {
            reply(json!({"balance": 0.0, "locked_amount": 0.0, "credit_balance": 3_000_000, "address": "x"}))
        }
        path if path.contains("/aggregates/") => reply(pricing.clone()),
        _ => Some((404, String::new())),
    })
    .await;
    let rich = aleph(&[&ccn]);
    for _ in 0..2 {
        let funds = rich.funds().await.unwrap();
        assert_eq!(funds, Funds { address: rich.address(), credits: 3_000_000, hourly: 20_000 });
    }
    let asked = ccn.seen().iter().filter(|seen| seen.uri.path().contains("/aggregates/")).count();
    assert_eq!(asked, 1, "the price is kept");

    let bare = Server::new(|seen| match seen.uri.path().ends_with("/balance") {
        true => Some((404, String::new())),
        false => Some((500, String::new())),
    })
    .await;
    let poor = aleph(&[&bare]);
    assert_eq!(poor.funds().await.unwrap(), Funds { address: poor.address(), credits: 0, hourly: 14_250 });
    assert!(hasty(&[&Server::hanging().await]).funds().await.is_err(), "no balance is no answer");
}

#[tokio::test]
async fn a_balance_or_price_without_an_end_or_from_elsewhere_is_none() {
    let rich = Server::saying(200, json!({"credit_balance": 3_000_000})).await;
    let elsewhere = rich.url.clone();
    let redirects = Server::new(move |_| Some((307, elsewhere.clone()))).await;
    let endless =
        Server::new(|_| Some((200, format!("{{\"credit_balance\": 1, \"x\": \"{}\"}}", "x".repeat(http::ANSWER)))))
            .await;
    let nonsense = Server::saying(200, json!({"credit_balance": "many"})).await;
    for bad in [&redirects, &endless, &nonsense] {
        assert!(aleph(&[bad]).funds().await.is_err());
        assert!(aleph(&[bad]).hourly().await.is_err());
    }
    assert!(rich.seen().is_empty());
    let funds = aleph(&[&endless, &rich]).funds().await.unwrap();
    assert_eq!((funds.credits, funds.hourly), (3_000_000, 14_250));
}

#[tokio::test]
async fn the_image_is_the_networks_debian_12_or_the_known_one() {
    let other = "11".repeat(32);
    let rootfs = async |hash: &str| {
        let debian = json!({"hash": hash, "display_name": "Debian 12"});
        Server::saying(200, json!({"data": {"vm-images": {"rootfs": {"debian12": debian}}}})).await
    };
    let ccn = rootfs(&other).await;
    let image = async |aleph: &Aleph| {
        let made = instance(aleph, ccn.crn()).await;
        let content: Value = serde_json::from_str(made.message["item_content"].as_str().unwrap()).unwrap();
        content["rootfs"]["parent"]["ref"].as_str().unwrap().to_owned()
    };
    let listing = aleph(&[&ccn]);
    assert_eq!(image(&listing).await, other);
    assert_eq!(image(&listing).await, other);
    assert_eq!(ccn.seen().len(), 1, "the image is kept");
    for bad in [Server::hanging().await, Server::saying(200, json!({"data": {}})).await] {
        assert_eq!(image(&hasty(&[&bad])).await, HASH);
        assert_eq!(image(&hasty(&[&ccn, &bad])).await, HASH, "one word of two is not enough");
    }
    let (known, same) = (rootfs(HASH).await, rootfs(&other).await);
    assert_eq!(image(&aleph(&[&ccn, &known])).await, HASH);
    assert_eq!(image(&aleph(&[&ccn, &same])).await, other);
}

#[tokio::test]
async fn candidates_come_from_the_list_of_nodes() {
    let node = json!({
        "hash": "cd".repeat(32), "name": "n", "address": "http://127.0.0.1:4/", "score": 0.9, "ipv6_check": {"host": true, "vm": true},
        "qemu_support": true, "system_usage": {"cpu": {"count": 8, "load_average": {"load5": 0.1}},
        "mem": {"total_kB": 1 << 25, "available_kB": 1 << 24}, "disk": {"available_kB": 1 << 30}},
    });
    let pricing = json!({"data": {"pricing": {"instance": {
        "compute_unit": {"vcpus": 1, "memory_mib": 2048, "disk_mib": 20480},
        "price": {"compute_unit": {"credit": "20000"}, "storage": {"credit": "0.1"}},
    }}}});
    let list = Server::new(move |seen| match seen.uri.path() {
        path if path.contains("/aggregates/") => reply(pricing.clone()),
        _ => reply(json!({"crns": [node, "rubbish"]})),
    })
    .await;
    let aleph = aleph(&[&list]);
    let found = aleph.candidates(&HashSet::new()).await.unwrap();
    assert_eq!(found[0].url, "http://127.0.0.1:4");
    let none = aleph.candidates(&HashSet::from(["cd".repeat(32)])).await;
    assert!(matches!(none, Err(AlephError::NoNode { seen: 2 })));

    // The preview takes the best of them, and sends nothing.
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: preview::Options,
    }
    let cli: Cli = clap::Parser::parse_from(["preview"]);
    let shown = preview::run(&config(&[&list]), &cli.options).await.unwrap();
    assert_eq!(shown["crn"]["hash"], json!("cd".repeat(32)));
    assert_eq!(shown["price"], json!({"credits_per_hour": 20_000, "credits_per_day": 480_000, "from": "network"}));
    assert_eq!(shown["image_from"], "built in");
    assert_eq!(shown["installation_from"], "made up");
    assert!(list.seen().iter().all(|seen| seen.method == Method::GET));
}

/// Jobs run on any thread.
#[expect(dead_code, reason = "that it compiles is the test")]
fn calls_may_move_between_threads(aleph: &Aleph, instance: &Instance, crn: &Crn, avoid: &HashSet<String>) {
    fn sends(_: impl Send) {}
    sends(aleph.funds());
    sends(aleph.candidates(avoid));
    sends(aleph.compose(crn, Uuid::nil(), Uuid::nil()));
    sends(aleph.post(instance));
    sends(aleph.standing_everywhere(HASH));
    sends(aleph.forget(HASH));
    sends(aleph.start(instance));
    sends(aleph.erase(instance));
    sends(aleph.execution(instance));
    sends(aleph.list());
    sends(aleph.routed(HASH));
}
